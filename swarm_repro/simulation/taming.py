"""Giving the modules of named packages stand-ins for the sources of their entropy.

How: modules of those packages that are loaded while the block runs get builtins of their own, whose
``__import__`` hands them the stand-ins. Replacing attributes after the import would be too late, as
dataclasses and pydantic models bind ``datetime.now`` when their class is made; replacing
``builtins.__import__`` would tax the imports of all other packages, and some make hundreds a call.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import sys
import threading
import time as _time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from types import MappingProxyType, ModuleType
from typing import Final

from swarm_repro.errors import UsageError
from swarm_repro.loaders import ImportHook
from swarm_repro.simulation.entropy import Entropy, activate, active
from swarm_repro.simulation.reexports import defer
from swarm_repro.simulation.stand_ins import REPLACEMENTS, stand_in

_ROOTS: Final = frozenset(name.partition(".")[0] for name in REPLACEMENTS)
_given: dict[str, ModuleType] = {}
_deferred: frozenset[str] = frozenset()
#: How many deferred modules are being imported: they get stand-ins even when no block is running.
_late_imports = 0
_late_lock = threading.Lock()
_tamed_modules: weakref.WeakSet[ModuleType] = weakref.WeakSet()


@contextmanager
def tamed(
    packages: Sequence[str],
    entropy: Entropy,
    *,
    modules: Mapping[str, ModuleType] = MappingProxyType({}),
    deferred: Collection[str] = (),
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
        deferred: Submodules that a package of these only re-exports and few programs use. Each is
            imported on first use of one of its names.

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
    global _deferred
    hook = _hook(packages)
    with _utc():
        activate(entropy)
        _given.update(modules)
        _deferred = frozenset(deferred)
        sys.meta_path.insert(0, hook)
        try:
            yield
        finally:
            sys.meta_path.remove(hook)
            _given.clear()
            _deferred = frozenset()
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


def _hook(packages: Sequence[str]) -> ImportHook:
    """Have the modules of tamed packages loaded with builtins of their own."""
    inside = tuple(f"{package}." for package in packages)
    return ImportHook(
        lambda name: name in packages or name.startswith(inside),
        functools.partial(_load, packages),
    )


def _load(packages: Sequence[str], real: Loader, module: ModuleType) -> None:
    """Run a module's code with `TAMED_BUILTINS`.

    A function takes its builtins, `__import__` among them, from the module it is defined in: so
    import statements of other packages cost what they always did.
    """
    module.__dict__["__builtins__"] = TAMED_BUILTINS
    real.exec_module(module)
    _resolve_late(module, packages)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` of tamed modules."""
    if _is_deferred(name, globals, fromlist):
        return _Deferred(name)
    root = name.partition(".")[0]
    is_tamed = active() is not None or _late_imports
    if not is_tamed or level or (root not in _ROOTS and root not in _given):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if root in _given:
        part = _part_of(_given[root], name)
        return part if fromlist else _given[root]
    module = builtins.__import__(name, globals, locals, fromlist or (), level)
    wanted = name if fromlist else root
    return stand_in(wanted) if wanted in REPLACEMENTS else module


class _Deferred(ModuleType):
    """Stands for a submodule while its package is imported, and for each name that it takes."""

    def __init__(self, home: str, attribute: str = "") -> None:
        super().__init__(home)
        self.__dict__["_of"] = (home, attribute)

    def __getattr__(self, name: str) -> _Deferred:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Deferred(self.__dict__["_of"][0], name)


def _is_deferred(
    name: str, globals: Mapping[str, object] | None, fromlist: Sequence[str] | None
) -> bool:
    """Whether a package takes names from a submodule only to re-export them."""
    importer = globals.get("__name__") if globals is not None else None
    takes_names = bool(fromlist) and "*" not in (fromlist or ())
    return name in _deferred and takes_names and importer == name.rpartition(".")[0]


def _resolve_late(package: ModuleType, packages: Sequence[str]) -> None:
    """Give a package a ``__getattr__`` that imports deferred submodules on first use (PEP 562)."""
    namespace = vars(package)
    homes: dict[str, tuple[str, str]] = {
        name: vars(namespace.pop(name))["_of"]
        for name, value in list(namespace.items())
        if isinstance(value, _Deferred)
    }
    if not homes:
        return
    submodules = {home.rpartition(".")[2]: (home, "") for home, _ in homes.values()}
    defer(package, submodules | homes, lambda name: _import_tamed(name, packages))


def _import_tamed(name: str, packages: Sequence[str]) -> ModuleType:
    """Import a module of tamed packages, in a block or after it."""
    global _late_imports
    hook = _hook(packages)
    with _late_lock:
        _late_imports += 1
        sys.meta_path.insert(0, hook)
    try:
        return importlib.import_module(name)
    finally:
        with _late_lock:
            _late_imports -= 1
            sys.meta_path.remove(hook)
        _tamed_modules.update(module for _, module in _imported(packages))


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
