"""Where a study's runs are made: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, NoReturn, Protocol, cast

from swarm_repro.canonical import encode_json
from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.study.canary import Canary, sing
from swarm_repro.study.child import perform_in_child, sing_in_child
from swarm_repro.study.worker import Report, Task, end_own, perform

#: For the fork server: this process's ``sys.path``, as JSON.
PATH_VARIABLE = "SWARM_REPRO_FORK_SERVER_PATH"
#: Seconds that a scheduler has to answer.
_SCHEDULER_LIMIT = "10s"
#: Seconds between two looks whether a worker that was asked is still there.
_LOOK_S = 0.2
#: Workers that may be lost over the canary's question, and seconds until one is there again.
_MOST_LOST = 3
_RESTART_S = 30
#: What Dask does beside the work takes several percent of a core in each of its processes.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.heartbeat-interval": "2s",
    # Fifty looks a second at each of five event loops are most of what an idle cluster costs.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.cycle": "5s",
    "distributed.worker.memory.monitor-interval": "10s",
}


class _WorkerLostError(UsageError):
    """A worker is gone that was asked something."""


class Engine(Protocol):
    """Makes runs.

    Attributes:
        workers: How many runs it makes at once, as far as is known.
    """

    workers: int

    def submit(self, task: Task) -> Future[Report]:
        """Let a worker make a run."""

    def renew(self) -> None:
        """Go on after workers were lost."""

    def canaries(self, task: Task) -> list[Canary]:
        """Ask every worker the canary's question, before anything is spent.

        Raises:
            UsageError: A worker cannot be asked.
        """

    def close(self, *, abandon: bool) -> None:
        """End; ``abandon`` gives up what is being done."""


class LocalEngine:
    """Processes of this machine, from the standard library's pool."""

    def __init__(self, workers: int) -> None:
        """Make no process yet.

        Args:
            workers: How many.
        """
        self.workers = workers
        self._pool = self._fresh()

    def _fresh(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.workers,
            mp_context=start_method(),
            initializer=_begin_process,
            # The fork server has the environment of when it was started.
            initargs=(dict(os.environ),),
        )

    def submit(self, task: Task) -> Future[Report]:
        """See ``Engine``."""
        return self._pool.submit(perform, task)

    def renew(self) -> None:
        """See ``Engine``."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._fresh()

    def canaries(self, task: Task) -> list[Canary]:
        """See ``Engine``; its processes are alike, so that one is asked."""
        return [self._pool.submit(sing, task).result()]

    def close(self, *, abandon: bool) -> None:
        """See ``Engine``."""
        if abandon:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def start_method() -> BaseContext:
    """How processes of the pool begin.

    Workers are not forked from this process: its threads would be missing in them, and locks that
    they hold would stay locked. On Linux a fork server imports SWARM and pandas once, which takes
    2 s of CPU. Frameworks of macOS may abort in a forked process, and before Python 3.11 the
    server would import from the current folder first.
    """
    if sys.platform != "linux" or sys.version_info < (3, 11):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["swarm_repro.study.preload"])
    added = {"PYTHONSAFEPATH": "1", PATH_VARIABLE: encode_json(sys.path).decode()}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _begin_process(environment: Mapping[str, str]) -> None:
    """A process of the pool ends with its model when it is told to, or when the study is gone."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's: the study itself decides
    signal.signal(signal.SIGTERM, lambda *_: _end_process())
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end_process()


def _end_process() -> NoReturn:
    # What is under way stays as a crash would leave it, which the next run goes on from.
    end_own(limit_s=0.0)
    os._exit(1)


class DaskEngine:
    """A Dask cluster: one that is there, or one of this machine."""

    def __init__(self, scheduler: str | None, workers: int) -> None:
        """Connect, or make a cluster of processes.

        Args:
            scheduler: Its address; None makes a cluster.
            workers: How many processes to make.

        Raises:
            UsageError: Dask is not installed.
            BackendUnreachableError: No scheduler answers, or it has no workers.
        """
        try:
            distributed = importlib.import_module("distributed")
            dask = importlib.import_module("dask")
        except ImportError as error:
            raise UsageError(
                f"Dask is not installed ({error}); run: pip install 'swarm-repro[dask]'"
            ) from error
        with contextlib.ExitStack() as stack:
            if scheduler is None:
                stack.enter_context(dask.config.set(_QUIET))
                cluster = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        # With None, Dask still binds port 8787, which another study may hold.
                        dashboard_address="127.0.0.1:0",
                        scheduler_kwargs={"dashboard": False},
                        host="127.0.0.1",
                    )
                )
                self._client: Any = stack.enter_context(distributed.Client(cluster))
                self._client.wait_for_workers(workers)
            else:
                self._client = stack.enter_context(_connected(distributed, scheduler))
            if not self._addresses():
                raise BackendUnreachableError(
                    f"the scheduler {scheduler} has no workers: start one with: dask worker "
                    f"{scheduler} --nthreads 1"
                )
            self._stack = stack.pop_all()
        self.workers = len(self._addresses())
        self._executor: Executor = self._client.get_executor(pure=False)

    def _addresses(self) -> list[str]:
        return sorted(self._client.scheduler_info(n_workers=-1)["workers"])

    def submit(self, task: Task) -> Future[Report]:
        """See ``Engine``; what a lost worker was doing, Dask gives to another."""
        return self._executor.submit(perform_in_child, task)

    def renew(self) -> None:
        """See ``Engine``."""

    def canaries(self, task: Task) -> list[Canary]:
        """See ``Engine``."""
        for address in self._addresses():
            # Asked with the standard library alone: some workers end over what they cannot import.
            self._ask(address, importlib.metadata.version, "swarm-repro")
        sung: dict[str, Canary] = {}
        may_be_lost = _MOST_LOST
        while waiting := [address for address in self._addresses() if address not in sung]:
            canary = self._canary_of(waiting[0], task, may_be_lost=may_be_lost > 0)
            if canary is None:
                may_be_lost -= 1
            else:
                sung[waiting[0]] = canary
        return list(sung.values())

    def _canary_of(self, address: str, task: Task, *, may_be_lost: bool) -> Canary | None:
        """What a worker answers; None where it was lost, and what it would do others can do.

        Raises:
            UsageError: It cannot answer, or was lost and must not be.
        """
        try:
            return cast("Canary", self._ask(address, sing_in_child, task))
        except _WorkerLostError:
            if not may_be_lost or not self._has_workers():
                raise
            return None

    def _has_workers(self) -> bool:
        """Whether there are workers, or soon are again."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            self._client.wait_for_workers(1, timeout=_RESTART_S)
        return bool(self._addresses())

    def _ask(self, address: str, function: Callable[..., object], *arguments: object) -> object:
        """Let one worker do something.

        Raises:
            UsageError: It cannot, or is gone (``_WorkerLostError``).
        """
        asked = self._client.submit(function, *arguments, workers=[address], pure=False)
        advice = "install the same swarm-repro and distributed on all workers as here"
        while not asked.done():
            if address not in self._addresses():
                raise _WorkerLostError(f"worker {address} was lost when it was asked: {advice}")
            time.sleep(_LOOK_S)
        try:
            return cast("object", asked.result())
        except Exception as error:  # whatever the worker raised
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"worker {address} cannot take part ({why}): {advice}") from error

    def close(self, *, abandon: bool) -> None:
        """See ``Engine``."""
        if abandon:
            self._client.cancel(list(self._client.futures.values()), force=True)
        self._executor.shutdown(wait=not abandon)
        self._stack.close()


def _connected(distributed: Any, scheduler: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other versions, which are said below in one line
        try:
            client = distributed.Client(scheduler, timeout=_SCHEDULER_LIMIT)
        except (OSError, TimeoutError, ValueError) as error:
            raise BackendUnreachableError(
                f"no Dask scheduler answers at {scheduler} ({error}); start one with: dask "
                "scheduler"
            ) from error
        except Exception as error:  # what one version of Dask makes of another
            raise UsageError(
                f"the scheduler at {scheduler} does not understand distributed "
                f"{distributed.__version__}, which is here ({type(error).__name__}: {error}): "
                "install the same on all"
            ) from error
    try:
        _require_same_dask(client.get_versions(), scheduler)
    except BaseException:
        client.close()
        raise
    return client


def _require_same_dask(versions: Mapping[str, Any], scheduler: str) -> None:
    """Refuse a scheduler and workers with another Dask: what they do with one is not known.

    Raises:
        UsageError: One has.
    """
    here = versions["client"]["packages"]["distributed"]
    others = {f"the scheduler at {scheduler}": versions["scheduler"]}
    others.update({f"worker {name}": one for name, one in versions["workers"].items()})
    for name, one in others.items():
        if one["packages"]["distributed"] != here:
            raise UsageError(
                f"{name} has distributed {one['packages']['distributed']}, and {here} is here: "
                "install the same on all"
            )


@contextlib.contextmanager
def open_engine(name: str, *, workers: int | None, scheduler: str | None) -> Iterator[Engine]:
    """An engine for the length of a block; what it is doing is given up where the block raises.

    Args:
        name: ``local`` or ``dask``.
        workers: How many processes; None: half of the cores.
        scheduler: Address of a Dask scheduler.

    Raises:
        UsageError: Dask is not installed.
        BackendUnreachableError: No scheduler answers.
    """
    count = workers or max(1, (os.cpu_count() or 2) // 2)
    is_local = name == "local" and scheduler is None
    engine: Engine = LocalEngine(count) if is_local else DaskEngine(scheduler, count)
    try:
        yield engine
    except BaseException:
        engine.close(abandon=True)
        raise
    engine.close(abandon=False)
