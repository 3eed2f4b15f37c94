"""Import hooks: code that runs when a module is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """Finds some modules as usual, and has their code run by a function.

    It is in force while it stands in ``sys.meta_path`` before the finders that find them.
    """

    def __init__(
        self, wanted: Callable[[str], bool], load: Callable[[Loader, ModuleType], None]
    ) -> None:
        """Make a hook.

        Args:
            wanted: Takes a module's full name; whether to act on it.
            load: Takes the real loader and a module that has not run yet; runs it, with
                ``Loader.exec_module``.
        """
        self._wanted = wanted
        self._load = load

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module by the finders that come after this one."""
        if not self._wanted(fullname):
            return None
        for finder in self._others():
            # Finders of old libraries lack the method; Python passes over them, too.
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self._load)
                return spec
        return None

    def _others(self) -> Iterator[Any]:
        finders: list[Any] = list(sys.meta_path)
        if self in finders:
            # Those before it have been asked. Two hooks would ask each other for ever.
            yield from finders[finders.index(self) + 1 :]
        else:  # another tool wraps it, or it is being taken away
            yield from (finder for finder in finders if not isinstance(finder, ImportHook))


class _Loader(Loader):
    """The real loader, but for how a module's code is run."""

    def __init__(self, real: Loader, load: Callable[[Loader, ModuleType], None]) -> None:
        self._real = real
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Afterwards the module looks as if there had been no hook.
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._load(self._real, module)
