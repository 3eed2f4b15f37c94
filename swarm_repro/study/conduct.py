"""Running a study: which runs are left, who makes them, what became of each."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from swarm_repro.errors import CassetteAccessError, ExitCode, SwarmReproError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.study.canary import require_alike
from swarm_repro.study.engine import Engine, open_engine
from swarm_repro.study.file import Run, Study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.recordings import recording_of, require_recordings
from swarm_repro.study.worker import Report, Task, end_servers, versions

#: Runs that are handed out at once, for each worker: enough that none waits for the next.
_AHEAD = 4
#: How often a run is begun again after its worker was lost: it may be what ends workers.
_MOST_LOSSES = 3


@dataclass(frozen=True)
class Orders:
    """How a study is to be run.

    Attributes:
        mode: What to do with calls; None replays where there are cassettes.
        engine: ``local`` or ``dask``.
        workers: How many processes; None: half of the cores.
        scheduler: Address of a Dask scheduler.
        shard: Which part of how many, from 1; None: all of it.
        fail_fast: Begin no further run after one has failed.
        redact: Name of the user's own redaction of what is stored (``find_redaction``).
    """

    mode: Mode | None = None
    engine: str = "local"
    workers: int | None = None
    scheduler: str | None = None
    shard: tuple[int, int] | None = None
    fail_fast: bool = False
    redact: str | None = None


@dataclass
class Conducted:
    """What became of the runs that were to be made.

    Attributes:
        mode: What was done with calls.
        before: How many were finished already.
        finished: Runs that were finished now.
        failed: Reports of those that failed.
        lost: How many times a worker was lost.
        left: How many were not begun.
        cpu_s: CPU seconds of the simulations.
    """

    mode: Mode
    before: int = 0
    finished: list[str] = field(default_factory=list)
    failed: list[Report] = field(default_factory=list)
    lost: int = 0
    left: int = 0
    cpu_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """The code of the first run, in the study's order, that failed."""
        return self.failed[0].exit_code if self.failed else int(ExitCode.OK)


def conduct(
    study: Study,
    orders: Orders,
    *,
    out: Path | None = None,
    on_begin: Callable[[int, int], None] = lambda _total, _before: None,
    on_report: Callable[[Report], None] = lambda _report: None,
) -> Conducted:
    """Make the runs of a study that are not finished yet.

    Args:
        study: The study.
        orders: How.
        out: Folder of the results; None takes the study's.
        on_begin: Called with the number of runs, and of those that are finished already.
        on_report: Called after each run.

    Raises:
        SwarmReproError: Nothing was begun: no cassettes to replay, another study's folder, no
            scheduler, a worker that would answer otherwise, a study that is being run already.
    """
    mode = orders.mode or _mode_of(study)
    if mode is Mode.LIVE:
        raise UsageError("a study is recorded, replayed or verified; --live keeps nothing of it")
    folder = StudyFolder(study, out)
    folder.open()
    with folder.held(orders.shard):
        if orders.shard is None:
            folder.clear_begun()
        mine = list(_shard(study.runs, orders.shard))
        todo = [run for run in mine if folder.result(run, mode) is None]
        conducted = Conducted(mode, before=len(mine) - len(todo))
        if mode is Mode.REPLAY:
            require_recordings(study, todo)
        on_begin(len(mine), conducted.before)
        if not todo:
            return conducted
        try:
            with open_engine(
                orders.engine, workers=orders.workers, scheduler=orders.scheduler
            ) as engine:
                # A worker may have been started in another folder.
                there = replace(study, runs=(), cassettes=study.cassettes.absolute())
                task = Task(there, todo[0], mode, folder.path.absolute(), 1, orders.redact)
                tasks = [replace(task, run=run, workers=engine.workers) for run in todo]
                require_alike(engine.canaries(tasks[0]), here=versions())
                _Conductor(engine, orders, conducted, on_report).make(tasks)
        finally:
            end_servers(folder.take_servers(socket.gethostname()))
            if orders.shard is None:
                folder.clear_begun()
    numbers = {run.name: run.number for run in mine}
    conducted.failed.sort(key=lambda report: numbers[report.run])
    return conducted


def _mode_of(study: Study) -> Mode:
    """Replay, where something was recorded."""
    if any(recording_of(study, run) is not None for run in study.runs):
        return Mode.REPLAY
    raise CassetteAccessError(
        f"there are no cassettes in {study.cassettes}; record them with: swarm-repro study run "
        f"{study.path} --record"
    )


def _shard(runs: Iterable[Run], shard: tuple[int, int] | None) -> Iterable[Run]:
    """Every n-th run, so that shards have like shares of each scenario."""
    for run in runs:
        if shard is None or run.number % shard[1] == shard[0] - 1:
            yield run


class _Conductor:
    """Hands runs out, and takes their reports."""

    def __init__(
        self,
        engine: Engine,
        orders: Orders,
        conducted: Conducted,
        on_report: Callable[[Report], None],
    ) -> None:
        self._engine = engine
        self._orders = orders
        self._conducted = conducted
        self._on_report = on_report
        self._losses: Counter[str] = Counter()
        self._stops = False

    def make(self, tasks: Iterable[Task]) -> None:
        """Make all runs, or those before the first failure where that is asked for."""
        waiting = deque(tasks)
        under_way: dict[Future[Report], Task] = {}
        while waiting or under_way:
            self._hand_out(waiting, under_way)
            if not under_way:
                break
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            broken = [self._take(future, under_way.pop(future)) for future in done]
            lost = [task for task in broken if task is not None]
            if lost:
                # A pool that has lost a process has lost all it was doing.
                lost += [under_way.pop(future) for future in list(under_way)]
                self._conducted.lost += 1
                self._engine.renew()
                waiting.extendleft(reversed(self._worth_another_try(lost)))
        self._conducted.left = len(waiting)

    def _hand_out(self, waiting: deque[Task], under_way: dict[Future[Report], Task]) -> None:
        # What was lost before goes alone, so that it takes nothing with it.
        alone = bool(waiting) and self._losses[waiting[0].run.name] > 1
        most = 1 if alone else self._engine.workers * _AHEAD
        while waiting and len(under_way) < most and not self._stops:
            task = waiting.popleft()
            under_way[self._engine.submit(task)] = task

    def _take(self, future: Future[Report], task: Task) -> Task | None:
        """Take a report; the task again where its worker was lost."""
        try:
            report = future.result()
        except BrokenExecutor:
            return task
        except (SwarmReproError, CancelledError) as error:
            report = Report(task.run.name, int(ExitCode.BACKEND), (str(error) or "cancelled",))
        except Exception as error:  # noqa: BLE001 - whatever fails one run must not end the others
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            report = Report(task.run.name, int(ExitCode.BACKEND), (why,))
        self._note(report)
        return None

    def _worth_another_try(self, lost: list[Task]) -> list[Task]:
        again = []
        for task in lost:
            self._losses[task.run.name] += 1
            if self._losses[task.run.name] <= _MOST_LOSSES:
                again.append(task)
                continue
            why = f"its worker was lost {_MOST_LOSSES + 1} times"
            StudyFolder(task.study, task.out).keep_failure(
                task.run, exit_code=int(ExitCode.BACKEND), messages=[why]
            )
            self._note(Report(task.run.name, int(ExitCode.BACKEND), (why,)))
        return again

    def _note(self, report: Report) -> None:
        if report.exit_code:
            self._conducted.failed.append(report)
            self._stops = self._stops or self._orders.fail_fast
        else:
            self._conducted.finished.append(report.run)
            self._conducted.cpu_s += report.cpu_s
        self._on_report(report)
