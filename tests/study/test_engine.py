"""The engines: one process of our own, and a Dask cluster that lives in this process."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.study import engine as engines
from swarm_repro.study.canary import Canary
from swarm_repro.study.engine import (
    PATH_VARIABLE,
    DaskEngine,
    LocalEngine,
    open_engine,
    start_method,
)
from swarm_repro.study.file import load_study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.worker import Report, Task, versions
from tests.support.stub_server import running_stub
from tests.support.studies import write_scenario, write_study


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A replay without a recording."""
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    study = load_study(write_study(tmp_path, seeds=[3]))
    StudyFolder(study).open()
    return Task(replace(study, runs=()), study.runs[0], Mode.REPLAY, study.out, 1)


# --- Which engine.


class Noted:
    """An engine that notes how it was made and how it ends."""

    made: list[object] = []  # noqa: RUF012 - the same list for both engines
    workers = 1

    def __init__(self, *arguments: object) -> None:
        self.made.append((type(self).__name__, arguments))

    def close(self, *, abandon: bool) -> None:
        self.made.append("abandoned" if abandon else "closed")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    Noted.made = []
    monkeypatch.setattr(engines, "LocalEngine", type("Local", (Noted,), {}))
    monkeypatch.setattr(engines, "DaskEngine", type("Dask", (Noted,), {}))
    return Noted.made


@pytest.mark.parametrize(
    ("name", "workers", "scheduler", "cores", "expected"),
    [
        ("local", 3, None, 8, ("Local", (3,))),
        ("local", None, None, 8, ("Local", (4,))),
        ("local", None, None, 7, ("Local", (3,))),
        ("local", None, None, 1, ("Local", (1,))),
        ("local", None, None, None, ("Local", (1,))),
        ("dask", 2, None, 8, ("Dask", (None, 2))),
        ("dask", None, "tcp://x", 8, ("Dask", ("tcp://x", 4))),
        # An address alone asks for Dask.
        ("local", 1, "tcp://x", 8, ("Dask", ("tcp://x", 1))),
    ],
)
def test_the_engine_that_is_asked_for(
    name: str,
    workers: int | None,
    scheduler: str | None,
    cores: int | None,
    expected: object,
    noted: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with open_engine(name, workers=workers, scheduler=scheduler):
        assert noted == [expected]
    assert noted == [expected, "closed"]


def test_an_engine_gives_up_its_work_when_the_block_raises(noted: list[object]) -> None:
    with pytest.raises(KeyboardInterrupt), open_engine("local", workers=1, scheduler=None):
        raise KeyboardInterrupt
    assert noted == [("Local", (1,)), "abandoned"]


# --- Processes of this machine.


def test_a_process_answers_makes_runs_and_is_replaced(task: Task) -> None:
    engine = LocalEngine(1)
    try:
        (canary,) = engine.canaries(task)
        assert canary.failed is None
        assert canary.versions == versions()
        assert canary.worker.rpartition(":")[2] != str(os.getpid())
        report = engine.submit(task).result()
        assert (report.run, report.exit_code) == ("small.seed3", 2)
        assert "there is no cassette" in report.messages[0]
        before = engine._pool
        engine.renew()
        assert engine._pool is not before
        with pytest.raises(RuntimeError):
            before.submit(print)
    finally:
        engine.close(abandon=False)
    with pytest.raises(RuntimeError):
        engine.submit(task)


def test_a_process_gives_up_its_work_at_once(task: Task, tmp_path: Path) -> None:
    found: list[BaseException] = []

    def asking(engine: LocalEngine, asked: Task) -> None:
        try:
            engine.canaries(asked)
        except BrokenExecutor as error:
            found.append(error)

    with running_stub(fault=lambda _number: "held") as stub:
        write_scenario(tmp_path, stub.base_url)
        run = load_study(write_study(tmp_path, seeds=[3])).runs[0]
        engine = LocalEngine(1)
        asked = replace(task, run=run, mode=Mode.RECORD)
        thread = threading.Thread(target=asking, args=(engine, asked))
        thread.start()
        until = time.monotonic() + 60
        while not stub.chats and time.monotonic() < until:
            time.sleep(0.01)
        engine.close(abandon=True)
        thread.join(60)
        assert not thread.is_alive()
    assert stub.chats, "it was asked, and had not answered"
    assert len(found) == 1


# --- Dask.


WORKERS = 6


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler with more workers than Dask lists by itself, all threads of this process."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",  # any port: another cluster may run on this machine
        protocol="tcp",
        host="127.0.0.1",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def engine(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaskEngine]:
    monkeypatch.setattr(engines, "_LOOK_S", 0.01)
    made = DaskEngine(address, 17)
    yield made
    made.close(abandon=False)


def singing(task: Task) -> Canary:
    """A canary that takes no child."""
    where = importlib.import_module("distributed").get_worker().address
    return Canary(where, {"run": task.run.name}, {})


def test_a_clusters_workers_are_all_asked(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.workers == WORKERS, "those that are there, whatever was asked for"
    monkeypatch.setattr(engines, "sing_in_child", singing)
    addresses = engine._addresses()
    assert engine.canaries(task) == [
        Canary(address, {"run": "small.seed3"}, {}) for address in addresses
    ]
    assert len(set(addresses)) == WORKERS


made: list[str] = []


def performing(task: Task) -> Report:
    made.append(task.run.name)
    return Report(task.run.name, 0, ("made",))


def test_a_cluster_makes_runs_and_the_same_one_again(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "perform_in_child", performing)
    made.clear()
    futures: list[Future[Report]] = [engine.submit(task), engine.submit(task)]
    assert [future.result() for future in futures] == [Report("small.seed3", 0, ("made",))] * 2
    engine.renew()
    assert engine.submit(task).result().messages == ("made",)
    assert made == ["small.seed3"] * 3


def raising(_task: Task) -> Canary:
    raise ModuleNotFoundError("no swarm_repro")


def test_a_worker_that_cannot_answer_is_named(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "sing_in_child", raising)
    first = engine._addresses()[0]
    with pytest.raises(UsageError) as raised:
        engine.canaries(task)
    assert str(raised.value) == (
        f"worker {first} cannot take part (ModuleNotFoundError: no swarm_repro): install the same "
        "swarm-repro and distributed on all workers as here"
    )


def losing(engine: DaskEngine, times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the engine see its workers go when they are asked, a number of times."""
    asked: list[str] = []
    ask = engine._ask

    def asking(address: str, function: Any, *arguments: object) -> object:
        if function is not singing:
            return ask(address, function, *arguments)
        asked.append(address)
        if len(asked) <= times:
            raise engines._WorkerLostError(f"worker {address} was lost")
        return ask(address, function, *arguments)

    monkeypatch.setattr(engines, "sing_in_child", singing)
    monkeypatch.setattr(engine, "_ask", asking)
    return asked


def test_workers_may_be_lost_three_times_over_a_question(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = losing(engine, 3, monkeypatch)
    assert len(engine.canaries(task)) == WORKERS
    assert len(asked) == WORKERS + 3


def test_a_fourth_loss_is_one_too_many(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = losing(engine, 4, monkeypatch)
    with pytest.raises(UsageError, match="was lost"):
        engine.canaries(task)
    assert len(asked) == 4


def test_the_last_worker_that_is_lost_leaves_nobody(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = losing(engine, 1, monkeypatch)
    addresses = engine._addresses()

    def there() -> list[str]:
        return [] if asked else addresses

    def waiting(_count: int, timeout: float) -> None:
        assert timeout == 30
        raise TimeoutError

    monkeypatch.setattr(engine, "_addresses", there)
    monkeypatch.setattr(engine._client, "wait_for_workers", waiting)
    with pytest.raises(UsageError, match="was lost"):
        engine.canaries(task)


def test_a_worker_that_goes_while_it_is_asked_is_seen(
    engine: DaskEngine, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, *_ = engine._addresses()
    monkeypatch.setattr(engine, "_addresses", list)
    with pytest.raises(engines._WorkerLostError) as raised:
        engine._ask(address, time.sleep, 1)
    assert str(raised.value) == (
        f"worker {address} was lost when it was asked: install the same swarm-repro and "
        "distributed on all workers as here"
    )


def test_an_unreachable_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_SCHEDULER_LIMIT", "0.5s")
    with pytest.raises(BackendUnreachableError) as raised:
        DaskEngine("tcp://127.0.0.1:9", 1)
    said = str(raised.value)
    assert said.startswith("no Dask scheduler answers at tcp://127.0.0.1:9 (")
    assert said.endswith("); start one with: dask scheduler")


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def importing(name: str) -> Any:
        if name == "distributed":
            raise ImportError("No module named 'distributed'")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", importing)
    with pytest.raises(UsageError) as raised:
        DaskEngine(None, 1)
    assert str(raised.value) == (
        "Dask is not installed (No module named 'distributed'); run: pip install "
        "'swarm-repro[dask]'"
    )


def of(version: str) -> dict[str, Any]:
    return {"packages": {"distributed": version}}


@pytest.mark.parametrize(
    ("scheduler", "worker", "said"),
    [
        ("1", "1", None),
        ("2", "1", "the scheduler at tcp://x has distributed 2, and 1 is here"),
        ("1", "3", "worker tcp://w has distributed 3, and 1 is here"),
    ],
)
def test_another_dask_is_refused(scheduler: str, worker: str, said: str | None) -> None:
    found = {"client": of("1"), "scheduler": of(scheduler), "workers": {"tcp://v": of("1"),
             "tcp://w": of(worker)}}  # fmt: skip
    if said is None:
        engines._require_same_dask(found, "tcp://x")
        return
    with pytest.raises(UsageError) as raised:
        engines._require_same_dask(found, "tcp://x")
    assert str(raised.value) == f"{said}: install the same on all"


def what_is_imported() -> set[str]:
    return {
        name for name in ("swarm.core.orchestrator", "pandas", "matplotlib") if name in sys.modules
    }


def variable(name: str) -> str | None:
    return os.environ.get(name)


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 11), reason="workers are started anew"
)
def test_a_worker_begins_with_swarm_imported_wherever_the_study_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a folder with modules of those names, which a study's own process would not import either.
    for name in ("swarm", "pandas", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the wrong folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forkserver, "_forkserver", forkserver.ForkServer())
    monkeypatch.setattr(forkserver, "ensure_running", forkserver._forkserver.ensure_running)
    with ProcessPoolExecutor(1, mp_context=start_method()) as pool:
        assert pool.submit(what_is_imported).result(60) == {"swarm.core.orchestrator", "pandas"}
        assert pool.submit(variable, PATH_VARIABLE).result(60) is None
    assert PATH_VARIABLE not in os.environ


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 11), reason="workers are started anew"
)
def test_what_the_fork_server_needs_in_its_environment_is_not_in_that_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    engine = LocalEngine(1)
    try:
        assert engine._pool.submit(variable, "PYTHONSAFEPATH").result(60) is None
    finally:
        engine.close(abandon=True)


def test_each_pool_has_the_environment_of_when_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("OF_THE_TEST", value)
        engine = LocalEngine(1)
        try:
            assert engine._pool.submit(variable, "OF_THE_TEST").result(60) == value
        finally:
            engine.close(abandon=True)


@pytest.mark.parametrize(
    ("platform", "version", "method"),
    [("darwin", (3, 12), "spawn"), ("linux", (3, 10), "spawn"), ("linux", (3, 11), "forkserver")],
)
def test_workers_are_forked_only_where_that_is_safe(
    platform: str, version: tuple[int, int], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "version_info", version)
    assert start_method().get_start_method() == method
