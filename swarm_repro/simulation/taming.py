"""Giving the modules of named packages stand-ins for the sources of their entropy.

How: modules of those packages that are loaded while the block runs get builtins of their own, whose
``__import__`` hands them the stand-ins. Replacing attributes after the import would be too late, as
dataclasses and pydantic models bind ``datetime.now`` when their class is made; replacing
``builtins.__import__`` would tax the imports of all other packages, and some make hundreds a call.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
import time as _time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Final

from swarm_repro.errors import UsageError
from swarm_repro.simulation.entropy import Entropy, activate, active
from swarm_repro.simulation.stand_ins import REPLACEMENTS, stand_in

_ROOTS: Final = frozenset(name.partition(".")[0] for name in REPLACEMENTS)
_given: dict[str, ModuleType] = {}
_tamed_modules: weakref.WeakSet[ModuleType] = weakref.WeakSet()


@contextmanager
def tamed(
    packages: Sequence[str],
    entropy: Entropy,
    *,
    modules: Mapping[str, ModuleType] = MappingProxyType({}),
) -> Iterator[None]:
    """Give the modules of some packages seeded ids, clocks and random numbers while a block runs.

    They see stand-ins for `uuid`, `datetime`, `time`, `random`, `secrets`, `numpy.random` and
    `concurrent.futures` (whose thread pool runs in place where `in_place_event_loop` is in force)
    by whatever import statement, `importlib.import_module` excepted. For the whole process the
    time zone is UTC meanwhile, as the methods of a naive datetime ask the C library for it.

    Args:
        packages: Import names; their submodules are meant too.
        entropy: What the stand-ins draw from.
        modules: Further stand-ins by top-level import name, installed or not, for these packages
            only.

    Raises:
        UsageError: The block is nested or in two threads; a module of the packages was imported
            outside such a block before, so it holds the real clock; a name in `modules` has a
            dot; the system cannot set a time zone.
    """
    if active() is not None:
        raise UsageError("entropy is already tamed; end that run before starting another")
    if dotted := [name for name in modules if "." in name]:
        raise UsageError(f"stand-ins go by top-level name: not {dotted[0]!r}")
    for name, module in _imported(packages):
        if module not in _tamed_modules:
            raise UsageError(
                f"{name} was imported before its ids and clock could be fixed; "
                f"start the run in a fresh process, before anything imports {packages[0]}"
            )
    finder = _Finder(packages)
    with _utc():
        activate(entropy)
        _given.update(modules)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            _given.clear()
            activate(None)
            _tamed_modules.update(module for _, module in _imported(packages))


def _imported(packages: Sequence[str]) -> list[tuple[str, ModuleType]]:
    inside = tuple(f"{package}." for package in packages)
    modules: dict[str, object] = dict(sys.modules)  # an entry can be None
    return [
        (name, module)
        for name, module in modules.items()
        if (name in packages or name.startswith(inside)) and isinstance(module, ModuleType)
    ]


class _Finder(MetaPathFinder):
    """Finds modules of tamed packages as usual, and has them loaded with builtins of their own."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)
        self._inside = tuple(f"{package}." for package in packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._packages and not fullname.startswith(self._inside):
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Runs a module's code with `TAMED_BUILTINS`, and is the real loader in all other respects.

    A function takes its builtins, `__import__` among them, from the module it is defined in: so
    import statements of other packages cost what they always did.
    """

    def __init__(self, real: Loader) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = TAMED_BUILTINS
        self._real.exec_module(module)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` of tamed modules."""
    root = name.partition(".")[0]
    if active() is None or level or (root not in _ROOTS and root not in _given):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if root in _given:
        part = _part_of(_given[root], name)
        return part if fromlist else _given[root]
    module = builtins.__import__(name, globals, locals, fromlist or (), level)
    wanted = name if fromlist else root
    return stand_in(wanted) if wanted in REPLACEMENTS else module


def _part_of(module: ModuleType, name: str) -> ModuleType:
    """The module ``a.b.c`` where one is given for ``a``."""
    try:
        return functools.reduce(getattr, name.split(".")[1:], module)
    except AttributeError as error:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name) from error


@contextmanager
def _utc() -> Iterator[None]:
    if not hasattr(_time, "tzset"):
        raise UsageError("this system cannot set a process's time zone; use macOS or Linux")
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    _time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        _time.tzset()


#: Builtins of tamed code, whose ``__import__`` hands it the stand-ins.
TAMED_BUILTINS: Final[dict[str, object]] = {**vars(builtins), "__import__": _import}
