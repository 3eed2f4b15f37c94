"""A process that has imported what commands need, and forks one for each that is asked for.

``swarm-repro run`` takes 2 s of CPU to import SWARM, openai and pandas, and a fraction of that for
what it does then. A forked command has a folder, an environment, streams, threads, an exit code and
an end of its own. It differs from one that was started in what is imported already, with the
environment of the first that was asked for, and in what ``sys.modules["__main__"]`` is; tests of
imports, of the start or of signals start processes.

``python -m tests.support.warm`` takes orders as JSON lines on its standard input and says on its
standard output how each ended; `run_warm` is the other end.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

ROOT = Path(__file__).resolve().parents[2]
#: A fork of a process that has loaded macOS's frameworks may abort. And where this is set, as it is
#: to measure what a test touches, each process is started by itself.
_IS_USED = sys.platform == "linux" and not os.environ.get("SWARM_REPRO_TEST_FRESH_PROCESSES")
#: What the interpreter reads when it starts, so that processes which differ in it share nothing.
_READ_AT_START = (
    "PYTHONDEVMODE",
    "PYTHONIOENCODING",
    "PYTHONNOUSERSITE",
    "PYTHONOPTIMIZE",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
)


def run_python(
    words: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    stderr: Literal["apart", "with stdout"] = "apart",
) -> subprocess.CompletedProcess[str]:
    """Run Python with nothing on its standard input, forked where the result is the same.

    Args:
        words: Its arguments: ``-m swarm_repro ...``, ``-c CODE ...``, or the path of the
            installed ``swarm-repro`` and what follows it.
        cwd: Its folder.
        environment: All of its variables.
        timeout_s: After so long it is killed.
        stderr: Whether its standard error is kept apart.

    Raises:
        subprocess.TimeoutExpired: It was killed.
    """
    if not _IS_USED or environment.get("PYTHONHASHSEED", "0") != "0":
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stderr == "apart" else subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        output = [Path(folder) / name for name in ("out", "err")]
        order = {
            "words": list(words),
            "cwd": str(cwd),
            "environment": dict(environment),
            "output": [str(output[0]), str(output[stderr == "apart"])],
            "timeout_s": timeout_s,
        }
        code = _run_warm(tuple(environment.get(name) for name in _READ_AT_START), order)
        if code is None:
            raise subprocess.TimeoutExpired([sys.executable, *words], timeout_s)
        said, complained = (
            path.read_text("utf-8", errors="replace") if path.exists() else "" for path in output
        )
    return subprocess.CompletedProcess([sys.executable, *words], code, said, complained)


#: Warm processes by what they read at their start. Each runs one at a time, so that tests which
#: want several at once have several.
_idle: dict[tuple[str | None, ...], list[_Warm]] = defaultdict(list)
_lock = threading.Lock()


def _run_warm(variables: tuple[str | None, ...], order: Mapping[str, object]) -> int | None:
    with _lock:
        warm = _idle[variables].pop() if _idle[variables] else None
    warm = warm or _start_warm(variables)
    try:
        code = warm.run(order)
    except BaseException:
        warm.kill()  # what it says next would be taken for an answer to another order
        raise
    with _lock:
        _idle[variables].append(warm)
    return code


class _Warm:
    """The process, as the tests see it."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._close)

    def run(self, order: Mapping[str, object]) -> int | None:
        """Have a process forked; its exit code, or nothing if it took too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks others has ended"
        code: int | None = json.loads(answer)["code"]
        return code

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.communicate(timeout=60)


def _start_warm(variables: tuple[str | None, ...]) -> _Warm:
    named = dict(zip(_READ_AT_START, variables, strict=True))
    kept = {name: value for name, value in os.environ.items() if name not in named}
    read = {name: value for name, value in named.items() if value is not None}
    # One order of sets, as commands that run simulations have it.
    return _Warm({**kept, **read, "PYTHONHASHSEED": "0"})


# --- The process itself.


#: What commands import when they first need it, of libraries and of the package.
_LATE = (
    "pandas.io.formats.csvs",
    "rich.progress",
    "scipy.stats",
    "zstandard",
    "swarm_repro.__main__",
    "swarm_repro.cassette.merge",
    "swarm_repro.compare.causes",
    "swarm_repro.program",
    "swarm_repro.simulation.run",
    "swarm_repro.study.conduct",
    "swarm_repro.use",
)
_COMMANDS = ("run", "demo", "exec", "study", "show", "stats", "check", "bundle", "diff", "verify")


def import_what_commands_need() -> None:
    """What most commands import; modules of SWARM as a run would have them."""
    from swarm_repro.credentials import find_credentials
    from swarm_repro.simulation.swarm import import_for_runs

    for name in _COMMANDS:
        importlib.import_module(f"swarm_repro.cli.{name}")
    import_for_runs()
    for name in _LATE:
        importlib.import_module(name)
    client_library = importlib.import_module("tests.support.client_library")
    importlib.import_module(client_library.CORE)
    find_credentials("any text: the first one has the rules read")


def serve_orders(orders: IO[str], answers: IO[str]) -> dict[str, Any] | None:
    """Fork for each order, and say how it ended.

    Returns:
        In a forked process its order; in this process nothing, when there are no more.
    """
    for line in orders:
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return order
        answers.write(json.dumps({"code": _wait(pid, order["timeout_s"])}) + "\n")
        answers.flush()
    return None


def _wait(pid: int, timeout_s: float) -> int | None:
    limit = time.monotonic() + timeout_s
    pause_s = 0.001
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
    os.killpg(pid, signal.SIGKILL)  # and what it has started
    os.waitpid(pid, 0)
    return None


def become(order: Mapping[str, Any]) -> None:
    """Turn this process into the one that was ordered, and do what it does."""
    os.setsid()
    opened = os.open(os.devnull, os.O_RDONLY)
    os.dup2(opened, 0)
    for number, path in enumerate(order["output"], start=1):
        # Both may be one file.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
    os.chdir(order["cwd"])
    os.environ.clear()
    # As a command that runs simulations has it, once it has started itself again.
    os.environ.update({**order["environment"], "PYTHONHASHSEED": "0"})
    time.tzset()
    _fork_instead_of_starting_fork_servers()
    tempfile.tempdir = None  # which follows from TMPDIR
    start, *rest = order["words"]
    sys.orig_argv = [sys.executable, start, *rest]
    own = sys.modules["__main__"]
    if start == "-c":
        code, *arguments = rest
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        exec(compile(code, "<string>", "exec"), vars(own))  # noqa: S102
        return
    command = importlib.import_module("swarm_repro.__main__")
    # What is shown as the program's name follows from these.
    if start == "-m":
        own.__package__ = "swarm_repro"
        sys.argv, sys.path[0] = [str(command.__file__), *rest[1:]], order["cwd"]
    else:
        own.__package__ = None
        sys.argv, sys.path[0] = [start, *rest], str(Path(start).parent)
    command.main()


def _fork_instead_of_starting_fork_servers() -> None:
    """Have the fork server of a study forked from the study, which has imported what it imports.

    How it is started otherwise is tested in tests/study/test_engine.py.
    """
    start = multiprocessing.util.spawnv_passfds

    def start_or_fork(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        code = str(args[-1])
        if not code.startswith("from multiprocessing.forkserver import main"):
            return start(path, args, passfds)
        pid = os.fork()
        if pid == 0:
            _close_others(passfds)
            try:
                exec(code, {"__name__": "__main__"})  # noqa: S102
            except SystemExit:
                os._exit(0)
            except BaseException:  # noqa: BLE001  # as an interpreter does
                traceback.print_exc()
            os._exit(1)
        return pid

    multiprocessing.util.spawnv_passfds = start_or_fork


def _close_others(kept: Sequence[int]) -> None:
    """Close all descriptors except the standard streams and those kept."""
    last = 2
    for number in sorted(kept):
        os.closerange(last + 1, number)
        last = number
    os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))


def end_as_python_does(code: int) -> None:
    """What an interpreter does at its end, except tearing down modules, which takes 0.3 s."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    import_what_commands_need()
    gc.collect()
    gc.freeze()
    mine = serve_orders(sys.stdin, sys.stdout)
    if mine is not None:
        try:
            become(mine)
        except SystemExit as end:
            if isinstance(end.code, str):
                raise
            end_as_python_does(end.code or 0)
        else:
            end_as_python_does(0)
