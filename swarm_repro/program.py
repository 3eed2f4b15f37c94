"""Running any Python program in this process under a cassette, as ``coverage run`` does."""

from __future__ import annotations

import builtins
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.thread import _threads_queues
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from swarm_repro.errors import SwarmReproError, UsageError
from swarm_repro.intercept.network import refuse_network
from swarm_repro.session import Session
from swarm_repro.simulation.entropy import Entropy
from swarm_repro.simulation.event_loop import in_place_event_loop
from swarm_repro.simulation.taming import TAMED_BUILTINS, tamed
from swarm_repro.use import use_cassette

#: The program itself, among the packages whose entropy is seeded.
MAIN = "__main__"


@dataclass(frozen=True)
class Program:
    """A program that can be run.

    Attributes:
        code: Its main code.
        names: What its ``__main__`` module holds before it runs (``__file__``, ``__spec__``, …).
        argv: What it finds in ``sys.argv``.
        folder: What it finds first in ``sys.path``.
        package: Top-level package it belongs to; empty for a script.
    """

    code: CodeType
    names: Mapping[str, object]
    argv: tuple[str, ...]
    folder: str
    package: str


def find_module(name: str, arguments: Sequence[str]) -> Program:
    """Find a module as ``python -m`` does.

    Args:
        name: Its import name; of a package its ``__main__``.
        arguments: The program's arguments.

    Raises:
        UsageError: There is no such module, or it cannot be run.
    """
    folder = str(Path.cwd())
    with _first_in_path(folder):
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{name}.__main__")
        except (ImportError, ValueError) as error:
            raise UsageError(f"the module {name} cannot be found: {error}") from error
    if spec is None or spec.origin is None:
        raise UsageError(f"there is no module {name} that can be run: see python -m {name}")
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code is not None else None
    if code is None:
        raise UsageError(f"the module {name} is not Python code")
    names = {
        "__file__": spec.origin,
        "__package__": spec.parent,
        "__spec__": spec,
        "__loader__": spec.loader,
    }
    package = spec.name.partition(".")[0]
    return Program(code, names, (spec.origin, *arguments), folder, package)


def find_script(path: Path, arguments: Sequence[str]) -> Program:
    """Read a script as ``python FILE`` does.

    Args:
        path: The file.
        arguments: The program's arguments.

    Raises:
        UsageError: It is missing, unreadable, or not Python.
    """
    try:
        # dont_inherit: this module's own __future__ imports are not the program's.
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is not a Python program: {error}") from error
    names = {"__file__": str(path), "__package__": None, "__spec__": None}
    return Program(code, names, (str(path), *arguments), str(path.resolve().parent), "")


def run_program(
    find: Callable[[], Program], use: use_cassette, *, tame: Sequence[str], seed: int
) -> Session:
    """Run a program whose model calls belong to a cassette.

    Args:
        find: Finds the program: ``find_module`` imports its parent packages, so their entropy has
            to be under control by then.
        use: The cassette.
        tame: Packages that see seeded ids, clocks and random numbers; ``__main__`` is the program.
        seed: Seed of these.

    Returns:
        The session, after a program that ended well.

    Raises:
        SystemExit: The program ended itself with another code than 0, or by an exception, which
            was shown.
        SwarmReproError: As ``use_cassette`` says.
        SessionTripped: A miss.
        UsageError: A package that is to be tamed was imported before.
    """
    packages = [name for name in tame if name != MAIN]
    with ExitStack() as stack:
        session = stack.enter_context(use)
        if not session.mode.calls_model:
            stack.enter_context(refuse_network(session))
        if tame:
            stack.enter_context(tamed(packages, Entropy(seed)))
            stack.enter_context(in_place_event_loop())
        program = find()
        main_is_tamed = MAIN in tame or program.package in packages
        stack.enter_context(_first_in_path(program.folder))
        stack.enter_context(_as_main(program))
        try:
            _run(program, TAMED_BUILTINS if main_is_tamed else vars(builtins))
        except BaseException as error:
            if session.tripped is not None:
                raise session.tripped from None  # whatever the program made of it
            if session.cause is not None:
                raise session.cause from None  # likewise
            if isinstance(error, SystemExit):
                if error.code not in (None, 0):
                    raise
            elif isinstance(error, Exception) and not isinstance(error, SwarmReproError):
                _show(error)
                raise SystemExit(1) from None
            else:
                raise
    return session


def _run(program: Program, names: Mapping[str, Any]) -> None:
    main = sys.modules[MAIN]
    main.__dict__["__builtins__"] = names
    others = set(threading.enumerate())
    try:
        exec(program.code, main.__dict__)  # noqa: S102 - running a program is what was asked for
    finally:
        _join(others)


def _join(others: set[threading.Thread]) -> None:
    """Wait for the program's threads, as the interpreter does; those of pools wait for work."""
    while threads := [
        thread
        for thread in threading.enumerate()
        if not (thread.daemon or thread in others or thread in _threads_queues)
    ]:
        threads[0].join()


def _show(error: Exception) -> None:
    """Show what ended the program as the interpreter does, without the frames that ran it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


@contextmanager
def _first_in_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _as_main(program: Program) -> Iterator[None]:
    """The program's own ``__main__`` and ``sys.argv``."""
    main = ModuleType(MAIN)
    main.__dict__.update(program.names)
    kept = sys.modules[MAIN], sys.argv
    sys.modules[MAIN], sys.argv = main, list(program.argv)
    try:
        yield
    finally:
        sys.modules[MAIN], sys.argv = kept
