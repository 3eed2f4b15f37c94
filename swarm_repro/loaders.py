"""Acting on modules when they are imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """Finds some modules as usual, and has them loaded by a loader of its own.

    It is in force while it stands in ``sys.meta_path`` before the finders that find them.
    """

    def __init__(
        self, wanted: Callable[[str], bool], load: Callable[[Loader, ModuleType], None]
    ) -> None:
        """Say what to act on, and how.

        Args:
            wanted: Takes a module's full name; whether it is meant.
            load: Takes the real loader and a module that was made but has not run; runs it, with
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
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._load)
                return spec
        return None


class _Loader(Loader):
    """The real loader in all respects but how a module's code is run."""

    def __init__(self, real: Loader, load: Callable[[Loader, ModuleType], None]) -> None:
        self._real = real
        self._load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._load(self._real, module)
