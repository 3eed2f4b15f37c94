"""Runs tests in a copy of the tree: one process a job, which has what is slow to import already.

This file is put beside the copy's packages and started as ``python -m mutation_forker``: it reads
a job a line from its input, and writes the result a line. What tests import from elsewhere is
imported once, here; the package under test never is, as each job has another fault in it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import orjson
import psutil
import pytest

_PRELOADED = (
    *(
        "anyio",
        "click",
        "detect_secrets",
        "diskcache",
        "distributed",
        "gguf",
        "httpx2",
        "hypothesis",
    ),
    *("jsonschema", "markdown_it", "matplotlib", "numpy", "openai", "orjson", "pandas", "pyarrow"),
    *("rich", "rocrate", "scipy.stats", "starlette.applications", "swarm", "trio", "uvicorn"),
    *("yaml", "zstandard", "_pytest.pytester", "pytest_asyncio", "xdist"),
)
_COLLECTION_LIMIT_S = 120.0


class Job(TypedDict):
    """One run of pytest.

    Attributes:
        files: Test files.
        tests: Names of the tests to run, in this order; empty for all.
        limits_s: How long each may take; `limit_s` for what sets up for several.
        stops: Whether to stop at the first failure.
        folder: Where the run puts what it writes; exists.
        coverage: Configuration of coverage.py; empty to measure nothing.
    """

    files: list[str]
    tests: list[str]
    limits_s: dict[str, float]
    limit_s: float
    stops: bool
    folder: str
    coverage: str


class Result(TypedDict):
    """How a job ended.

    Attributes:
        status: ``passed``, ``failed``, ``timeout``, or ``nothing`` where no test was found.
        test: The test that failed or hung; empty if none did, as when a file cannot be read.
        seconds: What each test took.
        failed: All that failed.
        fixtures: What a test has of what lives longer than a test.
    """

    status: str
    test: str
    seconds: dict[str, float]
    failed: list[str]
    fixtures: dict[str, list[str]]


def main() -> None:
    """Run the jobs that come."""
    if sys.argv[1:]:
        os._exit(_run_tests(orjson.loads(sys.argv[1]), int(sys.argv[2])))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what runs is ended with it
    is_preloaded = sys.platform != "darwin"  # Apple's libraries do not survive a fork
    if is_preloaded:
        for name in _PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for module in list(sys.modules.values()):
            # Else a suite within a test, whose warnings are errors, fails over pytest's plugins.
            with contextlib.suppress(AttributeError, TypeError):
                module.__doc__ = f"{module.__doc__} PYTEST_DONT_REWRITE"
        gc.freeze()  # what is never looked at again is shared with the children
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        for line in sys.stdin:
            result = _run(orjson.loads(line), is_preloaded=is_preloaded)
            sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
            sys.stdout.flush()


def _run(job: Job, *, is_preloaded: bool) -> Result:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if is_preloaded:
            os._exit(_run_tests(job, writing))
        os.set_inheritable(writing, True)
        words = ["-m", "mutation_forker", orjson.dumps(job).decode(), str(writing)]
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
    os.close(writing)
    try:
        test = _watch(pid, reading, job)
    finally:
        os.close(reading)
        _end_all(pid)
    if test is not None:
        return Result(status="timeout", test=test, seconds={}, failed=[], fixtures={})
    path = Path(job["folder"], "result.json")
    if not path.exists():  # the fault ended the process, or pytest itself
        return Result(status="failed", test="", seconds={}, failed=[], fixtures={})
    result: Result = orjson.loads(path.read_bytes())
    return result


def _watch(pid: int, reading: int, job: Job) -> str | None:
    """Wait for a run's end; the test in which it hung, if it did."""
    test, limit_s, rest = "", _COLLECTION_LIMIT_S, b""
    until = time.monotonic() + limit_s
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            return test
        if not select.select([reading], [], [], 0.01)[0]:
            continue
        *names, rest = (rest + os.read(reading, 1 << 16)).split(b"\n")
        if names:
            test = names[-1].decode()
            until = time.monotonic() + job["limits_s"].get(test, job["limit_s"])
        else:
            time.sleep(0.01)  # the pipe is closed: the end is near
    return None


def _end_all(pid: int) -> None:
    """End a run and whatever it started, also what left its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    here = os.getpid()
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith(sys.prefix) and process.pid != here:
            with contextlib.suppress(psutil.Error):
                process.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _run_tests(job: Job, writing: int) -> int:
    folder = Path(job["folder"])
    with (folder / "output").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    measured: Any = None
    if job["coverage"]:
        import coverage

        # What is forked from one process for many tests would count as one test's.
        os.environ["SWARM_REPRO_TEST_FRESH_PROCESSES"] = "1"
        measured = coverage.Coverage(config_file=job["coverage"])
        measured.start()
    plugin = _Plugin(job, writing, measured)
    words = ["-q", "--tb=line", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins, imported before
    words += [f"--basetemp={folder / 'tmp'}", *(["-x"] if job["stops"] else []), *job["files"]]
    code = int(pytest.main(words, plugins=[plugin]))
    if measured is not None:
        measured.stop()
        measured.save()
    plugin.write(code)
    sys.stdout.flush()
    return code


class _Plugin:
    """Takes the tests asked for, says which one runs, and notes how each ended."""

    def __init__(self, job: Job, writing: int, measured: Any) -> None:
        self._job = job
        self._writing = writing
        self._measured = measured
        self._context = Path(sys.prefix, "context")
        self._current = ""
        self._seconds: dict[str, float] = {}
        self._failed: list[str] = []
        self._fixtures: dict[str, list[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings

        # The smallest example is of no use here, and finding it takes minutes.
        phases = (Phase.explicit, Phase.reuse, Phase.generate)
        settings.register_profile("mutation", settings(), phases=phases)
        settings.load_profile("mutation")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if not self._job["tests"]:
            return
        places = {name: place for place, name in enumerate(self._job["tests"])}
        wanted = [item for item in items if item.nodeid in places]
        if not wanted:  # a fault in a table may give the cases other names
            bases = {name.partition("[")[0] for name in places}
            wanted = [item for item in items if item.nodeid.partition("[")[0] in bases]
        wanted.sort(key=lambda item: places.get(item.nodeid, 0))
        config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
        items[:] = wanted

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._enter(item.nodeid)
        result = yield
        self._enter("")
        if self._measured is not None:
            self._fixtures[item.nodeid] = [
                _name_of(definitions[-1])
                for definitions in getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009
                if definitions[-1].scope != "function"
            ]
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """What sets up for many tests is run in one of them; all of them touch it."""
        if fixturedef.scope == "function":
            return (yield)
        before = self._current
        self._enter(_name_of(fixturedef))
        try:
            return (yield)
        finally:
            self._enter(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        self._seconds[name] = self._seconds.get(name, 0.0) + report.duration
        if report.failed and name not in self._failed:
            self._failed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed.append("")

    def _enter(self, name: str) -> None:
        """Say what runs now, a test or what sets up for several: each has time of its own."""
        self._current = name
        os.write(self._writing, f"{name}\n".encode())
        if self._measured is not None:
            self._measured.switch_context(name)
            self._context.write_text(name)  # for the processes that a test starts

    def write(self, code: int) -> None:
        """Note how the run ended; `code` is pytest's exit code."""
        status = {0: "passed", 5: "nothing"}.get(code, "failed")
        result = Result(
            status=status,
            test=self._failed[0] if self._failed else "",
            seconds=self._seconds,
            failed=self._failed,
            fixtures=self._fixtures,
        )
        Path(self._job["folder"], "result.json").write_bytes(orjson.dumps(result))


def _name_of(definition: pytest.FixtureDef[Any]) -> str:
    return f"fixture {definition.baseid}::{definition.argname}"


if __name__ == "__main__":
    main()
