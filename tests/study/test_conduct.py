"""Handing runs out, with an engine in this process that loses workers on demand."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.errors import BackendError, CassetteAccessError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.study import conduct as conducting
from swarm_repro.study.canary import Canary
from swarm_repro.study.conduct import Conducted, Orders, conduct
from swarm_repro.study.file import Study, load_study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.worker import Report, Task, versions
from tests.support.studies import write_scenario, write_study

#: What becomes of a run: its report, an error, or None where it is under way until others are lost.
Fate = Callable[[Task, int], Report | Exception | None]


def fine(task: Task, _time: int) -> Report:
    """Finish a run, and leave behind what a worker leaves."""
    folder = StudyFolder(task.study, task.out)
    with folder.begun(task.run) as place:
        folder.keep(task.run, place, mode=task.mode, result={}, times={})
    return Report(task.run.name, 0, (), 0.5)


@dataclass
class InProcess:
    """An engine that makes runs when they are submitted, and notes what it was asked."""

    fate: Fate = fine
    workers: int = 2
    submitted: list[Task] = field(default_factory=list)
    renewed: int = 0
    asked: list[Task] = field(default_factory=list)
    canary: Canary | None = None
    opened: dict[str, object] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)

    def submit(self, task: Task) -> Future[Report]:
        self.submitted.append(task)
        name = task.run.name
        outcome = self.fate(task, self._times[name])
        self._times[name] += 1
        future: Future[Report] = Future()
        if isinstance(outcome, Report):
            future.set_result(outcome)
        elif outcome is not None:
            future.set_exception(outcome)
        return future

    def renew(self) -> None:
        self.renewed += 1

    def canaries(self, task: Task) -> list[Canary]:
        self.asked.append(task)
        here = {**versions(), "hash_seed": True}
        return [self.canary or Canary("here", here, {})]

    def close(self, *, abandon: bool) -> None:
        """Nothing is open."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    made = InProcess()

    @contextlib.contextmanager
    def opened(name: str, **options: object) -> Iterator[InProcess]:
        made.opened = {"name": name, **options}
        yield made

    monkeypatch.setattr(conducting, "open_engine", opened)
    return made


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Six runs."""
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    return load_study(write_study(tmp_path, seeds={"count": 6}))


def names(*numbers: int) -> list[str]:
    return [f"small.seed{number}" for number in numbers]


def finished(study: Study) -> list[str]:
    folder = StudyFolder(study)
    return [run.name for run in study.runs if folder.any_result(run) is not None]


RECORD = Orders(mode=Mode.RECORD)


def test_all_runs_are_made_in_order_and_told(engine: InProcess, study: Study) -> None:
    begun: list[tuple[int, int]] = []
    reports: list[Report] = []
    done = conduct(
        study, RECORD, on_begin=lambda *counts: begun.append(counts), on_report=reports.append
    )
    assert begun == [(6, 0)]
    assert [task.run.name for task in engine.submitted] == names(*range(6))
    assert sorted(report.run for report in reports) == names(*range(6))
    assert sorted(done.finished) == names(*range(6))
    assert replace(done, finished=[]) == Conducted(Mode.RECORD, 0, [], [], 0, 0, 3.0)
    assert done.exit_code == 0
    assert finished(study) == names(*range(6))
    assert engine.renewed == 0


def test_a_worker_gets_all_that_it_needs(engine: InProcess, study: Study, tmp_path: Path) -> None:
    orders = replace(RECORD, engine="dask", workers=7, scheduler="tcp://x", redact="rules:hide")
    conduct(study, orders, out=tmp_path / "elsewhere")
    assert engine.opened == {"name": "dask", "workers": 7, "scheduler": "tcp://x"}
    (asked,) = engine.asked
    assert asked == engine.submitted[0]
    for task, run in zip(engine.submitted, study.runs, strict=True):
        assert task.run == run
        assert task.study.runs == ()
        assert task.study.cassettes == tmp_path / "cassettes" / "small"
        assert (task.mode, task.out) == (Mode.RECORD, tmp_path / "elsewhere")
        assert (task.workers, task.redact) == (engine.workers, "rules:hide")


def test_finished_runs_are_not_repeated(engine: InProcess, study: Study) -> None:
    folder = StudyFolder(study)
    folder.open()
    for number in (0, 3):
        fine(Task(study, study.runs[number], Mode.RECORD, study.out, 1), 0)
    begun: list[tuple[int, int]] = []
    done = conduct(study, RECORD, on_begin=lambda *counts: begun.append(counts))
    assert begun == [(6, 2)]
    assert (done.before, sorted(done.finished)) == (2, names(1, 2, 4, 5))
    engine.asked.clear()
    again = conduct(study, RECORD)
    assert (again.before, again.finished) == (6, [])
    assert engine.asked == [], "nobody is asked where nothing is left to do"


@pytest.mark.parametrize(("shard", "numbers"), [((1, 4), (0, 4)), ((2, 4), (1, 5)), ((4, 4), (3,))])
def test_a_shard_is_every_nth_run(
    shard: tuple[int, int], numbers: tuple[int, ...], engine: InProcess, study: Study
) -> None:
    left = study.out / "runs" / ".begun.elsewhere"
    left.mkdir(parents=True)
    (study.out / "study.json").write_text('{"name": "small"}')
    begun: list[tuple[int, int]] = []
    done = conduct(
        study, replace(RECORD, shard=shard), on_begin=lambda *counts: begun.append(counts)
    )
    assert sorted(done.finished) == names(*numbers)
    assert begun == [(len(numbers), 0)]
    assert left.exists(), "another shard may be at it now"
    conduct(study, RECORD)
    assert not left.exists()


def test_interrupted_runs_are_cleared_before_anything_begins(
    engine: InProcess, study: Study
) -> None:
    StudyFolder(study).open()
    left = study.out / "runs" / ".small.seed0.x"
    left.mkdir()
    seen: list[bool] = []

    def looking(task: Task, time: int) -> Report:
        seen.append(left.exists())
        left.mkdir(exist_ok=True)
        return fine(task, time)

    engine.fate = looking
    conduct(study, RECORD)
    assert seen[0] is False
    assert not left.exists(), "and at the end once more"


def test_two_at_once_are_refused(engine: InProcess, study: Study) -> None:
    folder = StudyFolder(study)
    folder.open()
    with folder.held((1, 2)):
        with pytest.raises(UsageError, match="is being run into"):
            conduct(study, RECORD)
        with pytest.raises(UsageError, match="is being run into"):
            conduct(study, replace(RECORD, shard=(1, 2)))
        done = conduct(study, replace(RECORD, shard=(2, 2)))
    assert sorted(done.finished) == names(1, 3, 5)


# --- What is done with calls.


def test_a_study_is_not_made_live(engine: InProcess, study: Study) -> None:
    with pytest.raises(UsageError, match="--live keeps nothing of it"):
        conduct(study, Orders(mode=Mode.LIVE))
    assert not study.out.exists()


def test_without_a_mode_cassettes_are_replayed_if_there_are_any(
    engine: InProcess, study: Study
) -> None:
    with pytest.raises(CassetteAccessError) as raised:
        conduct(study, Orders())
    assert str(raised.value) == (
        "there are no cassettes in cassettes/small; record them with: swarm-repro study run "
        f"{study.path} --record"
    )
    study.cassettes.mkdir(parents=True)
    study.cassette_of(study.runs[5]).write_text("")
    with pytest.raises(CassetteAccessError) as raised:
        conduct(study, Orders())
    assert str(raised.value) == (
        "5 runs have no cassette, the first cassettes/small/small.seed0.jsonl; record them with: "
        f"swarm-repro study run {study.path} --record"
    )
    assert engine.asked == []
    for run in study.runs:
        study.cassette_of(run).write_text("")
    assert conduct(study, Orders()).mode is Mode.REPLAY
    assert {task.mode for task in engine.submitted} == {Mode.REPLAY}


def test_workers_that_differ_make_nothing(engine: InProcess, study: Study) -> None:
    engine.canary = Canary("odd", {**versions(), "hash_seed": True, "python": "2.7"}, {})
    with pytest.raises(UsageError, match=r"worker odd has python 2\.7"):
        conduct(study, RECORD)
    assert engine.submitted == []


# --- What goes wrong.


def failing(*numbers: int, code: int = 4) -> Fate:
    def fate(task: Task, time: int) -> Report:
        if task.run.number in numbers:
            return Report(task.run.name, code + task.run.number, ("why",), 9.0)
        return fine(task, time)

    return fate


def test_a_failed_run_leaves_the_others(engine: InProcess, study: Study) -> None:
    engine.fate = failing(4, 1, code=0)
    done = conduct(study, RECORD)
    assert sorted(done.finished) == names(0, 2, 3, 5)
    assert [report.run for report in done.failed] == names(1, 4)
    assert (done.exit_code, done.cpu_s, done.left) == (1, 2.0, 0)


def test_failures_are_in_the_order_of_the_study(engine: InProcess, study: Study) -> None:
    def fate(task: Task, time: int) -> Report | Exception:
        if task.run.number == 0 and time == 0:
            return BrokenProcessPool()  # it comes again, after the others
        return Report(task.run.name, task.run.number + 1, ("why",))

    engine.fate = fate
    done = conduct(study, RECORD)
    assert [report.exit_code for report in done.failed] == [1, 2, 3, 4, 5, 6]


def test_fail_fast_begins_nothing_more(engine: InProcess, study: Study) -> None:
    engine.workers = 1
    engine.fate = failing(0)
    done = conduct(study, replace(RECORD, fail_fast=True))
    assert [task.run.name for task in engine.submitted] == names(0, 1, 2, 3)
    assert done.left == 2
    assert [report.run for report in done.failed] == names(0)
    assert sorted(done.finished) == names(1, 2, 3), "what was begun comes to its end"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BackendError("no server"), "no server"),
        (CancelledError(), "cancelled"),
        (ValueError("first\nsecond"), "ValueError: first"),
    ],
    ids=str,
)
def test_an_error_that_a_run_raises_is_its_failure(
    error: Exception, said: str, engine: InProcess, study: Study
) -> None:
    engine.fate = lambda task, time: error if task.run.number == 2 else fine(task, time)
    done = conduct(study, RECORD)
    assert done.failed == [Report("small.seed2", 4, (said,))]
    assert sorted(done.finished) == names(0, 1, 3, 4, 5)


def test_the_runs_of_a_lost_worker_are_done_by_another(engine: InProcess, study: Study) -> None:
    def fate(task: Task, time: int) -> Report | Exception | None:
        if time:
            return fine(task, time)
        return {1: BrokenProcessPool(), 2: None, 3: None}.get(task.run.number, fine(task, time))

    engine.fate = fate
    reports: list[Report] = []
    done = conduct(study, RECORD, on_report=reports.append)
    assert (done.lost, engine.renewed) == (1, 1)
    assert sorted(done.finished) == names(*range(6))
    assert len(reports) == 6
    again = [task.run.name for task in engine.submitted][6:]
    assert sorted(again) == names(1, 2, 3), "a pool that has lost one has lost all under way"
    assert done.failed == []
    assert (done.exit_code, done.left) == (0, 0)


def test_a_run_that_ends_its_workers_is_given_up_and_takes_no_other_with_it(
    engine: InProcess, study: Study
) -> None:
    engine.workers = 1

    def fate(task: Task, time: int) -> Report | Exception | None:
        if task.run.number == 0:
            return BrokenProcessPool()
        return None if time == 0 and task.run.number < 4 else fine(task, time)

    engine.fate = fate
    done = conduct(study, RECORD)
    order = [task.run.number for task in engine.submitted]
    # After its second loss it goes alone: nothing is handed out between its last two times.
    assert order[:4] == [0, 1, 2, 3]
    assert order.count(0) == 4
    third = [place for place, number in enumerate(order) if number == 0][2]
    assert order[third : third + 2] == [0, 0]
    assert done.failed == [Report("small.seed0", 4, ("its worker was lost 4 times",))]
    failure = StudyFolder(study).failure(study.runs[0])
    assert failure is not None
    assert (failure["exit_code"], failure["messages"]) == (4, ["its worker was lost 4 times"])
    assert sorted(done.finished) == names(1, 2, 3, 4, 5)
    assert done.lost == engine.renewed == 4


def test_as_many_are_under_way_as_keep_workers_busy(engine: InProcess, study: Study) -> None:
    engine.workers = 1

    def fate(task: Task, time: int) -> Report | Exception | None:
        if time or task.run.number > 3:
            return fine(task, time)
        return BrokenProcessPool() if task.run.number == 3 else None

    engine.fate = fate
    done = conduct(study, RECORD)
    # Four a worker: the fourth is lost with the three before it, which come first again.
    assert [task.run.number for task in engine.submitted][:8] == [0, 1, 2, 3, 3, 0, 1, 2]
    assert sorted(done.finished) == names(*range(6))


def test_servers_that_workers_left_are_ended_whatever_happens(
    engine: InProcess, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[list[int]] = []
    monkeypatch.setattr(conducting, "end_servers", ended.append)
    host = socket.gethostname()

    def fate(task: Task, time: int) -> Any:
        servers = StudyFolder(study).path / "servers"
        servers.mkdir(exist_ok=True)
        (servers / "one.json").write_text(f'{{"host": "{host}", "port": 81}}')
        (servers / "two.json").write_text('{"host": "another", "port": 82}')
        raise KeyboardInterrupt

    engine.fate = fate
    with pytest.raises(KeyboardInterrupt):
        conduct(study, RECORD)
    assert ended == [[81]]
    with StudyFolder(study).held(None):
        pass  # nobody holds the folder any more
