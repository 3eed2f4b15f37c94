"""Making a study's runs: on any engine, in shards, after a stop; and what is refused."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.study.estimate import estimate
from swarm_repro.study.file import load_study
from tests.support.command import ROOT
from tests.support.stub_server import StubServer, running_stub
from tests.support.studies import (
    TAX,
    command,
    environment,
    recorded_estimate,
    recorded_runs,
    rows_of,
    study,
    tables_of,
    write_scenario,
    write_study,
)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The committed study's tables, replayed by one process."""
    out = tmp_path_factory.mktemp("tax") / "out"
    study("run", TAX, "--replay", "--workers", 1, "--out", out, cwd=ROOT)
    return tables_of(out)


def test_the_committed_study_is_replayed_to_the_table_that_was_recorded(
    replayed: dict[str, bytes],
) -> None:
    assert rows_of(replayed["runs.csv"]) == recorded_runs()
    rows = list(csv.DictReader(replayed["runs.csv"].decode().splitlines()))
    assert len(rows) == 12
    assert {row["criteria"] for row in rows} == {"passed"}


def test_dask_gives_the_same_bytes(replayed: dict[str, bytes], tmp_path: Path) -> None:
    study("run", TAX, "--engine", "dask", "--workers", 2, "--out", tmp_path / "out", cwd=ROOT)
    assert tables_of(tmp_path / "out") == replayed


def test_two_shards_on_machines_of_their_own_give_the_same_bytes(
    replayed: dict[str, bytes], tmp_path: Path
) -> None:
    for number in (2, 1):
        shard = f"{number}/2"
        study("run", TAX, "--shard", shard, "--workers", 2, "--out", tmp_path / shard[0], cwd=ROOT)
    done = study(
        "collect", TAX, tmp_path / "1", tmp_path / "2", "--out", tmp_path / "all", cwd=ROOT
    )
    assert "took 12 runs; 12 of 12" in done.stdout
    assert tables_of(tmp_path / "all") == replayed


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    study("run", TAX, "--shard", "1/4", "--out", out, cwd=ROOT)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    assert len(before) == 3
    done = study("run", TAX, "--shard", "1/2", "--out", out, "--json", cwd=ROOT)
    report = json.loads(done.stdout)
    assert (report["before"], len(report["finished"])) == (3, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- Recorded from a stub, which can be made to fail.


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, stub: StubServer) -> Path:
    """A study of four runs."""
    write_scenario(tmp_path, stub.base_url)
    settings = {"governance.transaction_tax_rate": [0.0, 0.5]}
    return write_study(tmp_path, settings=settings)


def test_a_run_that_fails_is_reported_and_does_not_stop_the_others(
    small: Path, stub: StubServer
) -> None:
    stub.fault = lambda number: 400 if number == 4 else None  # 0 to 2 ask which model it is
    done = study("run", small, "--record", "--workers", 1, cwd=small.parent, code=4)
    assert "3 runs finished, 1 failed" in done.stdout
    assert "HTTP 400" in done.stdout
    status = json.loads(study("status", small, "--json", cwd=small.parent).stdout)
    assert status["finished"] == 3
    (failed,) = status["failed"]
    assert failed["run"] == "small.transaction_tax_rate=0.0.seed1"
    stub.fault = lambda _number: None
    again = study("run", small, "--record", "--json", cwd=small.parent)
    report = json.loads(again.stdout)
    assert (report["before"], report["finished"]) == (3, [failed["run"]])
    assert json.loads(study("status", small, "--json", cwd=small.parent).stdout)["failed"] == []


def test_fail_fast_begins_no_further_run(small: Path, stub: StubServer) -> None:
    stub.fault = lambda _number: 400
    arguments = ("run", small, "--record", "--workers", 1, "--fail-fast", "--json")
    report = json.loads(study(*arguments, cwd=small.parent, code=4).stdout)
    assert report["failed"]
    assert report["finished"] == []
    assert report["left"] + len(report["failed"]) == 4


def test_a_replay_that_misses_fails_that_run_alone(small: Path) -> None:
    study("run", small, "--record", cwd=small.parent)
    cassettes = sorted((small.parent / "cassettes" / "small").iterdir())
    shutil.copy(cassettes[0], cassettes[1])
    done = study("run", small, "--replay", "--out", "other", cwd=small.parent, code=3)
    assert "3 runs finished, 1 failed" in done.stdout


def start(small: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("run", small, "--record", "--workers", 2),
        cwd=small.parent,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_two_at_once_are_refused(small: Path, stub: StubServer) -> None:
    stub.fault = lambda number: "held" if number >= 1 else None
    with start(small) as running:
        lock = small.parent / "studies" / "small" / "lock"
        until = time.monotonic() + 60
        while not lock.exists() and time.monotonic() < until:
            time.sleep(0.01)
        done = study("run", small, "--record", cwd=small.parent, code=2)
        shard = study("run", small, "--record", "--shard", "1/2", cwd=small.parent, code=2)
        os.killpg(running.pid, signal.SIGKILL)
    assert "is being run into" in done.stderr
    assert "is being run into" in shard.stderr


BAD: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "there are no cassettes in cassettes/small"),
    (("--replay",), 2, "4 runs have no cassette"),
    (("--record", "--scheduler", "tcp://127.0.0.1:9"), 4, "no Dask scheduler answers at"),
    (("--record", "--shard", "3/2"), 2, "--shard '3/2' is none"),
    (("--record", "--out", "."), 2, "holds something else than a study"),
    (("--record",), 4, "no connection to"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD, ids=lambda value: str(value))
def test_what_is_wrong_is_said_before_anything_is_spent(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    write_scenario(tmp_path)
    path = write_study(tmp_path, settings={"governance.transaction_tax_rate": [0.0, 0.5]})
    done = study("run", path, *arguments, cwd=tmp_path, code=code)
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_study_is_refused(small: Path, tmp_path: Path) -> None:
    study("run", TAX, "--shard", "1/12", "--out", tmp_path / "taken", cwd=ROOT)
    done = study("run", small, "--record", "--out", "taken", cwd=tmp_path, code=2)
    assert "holds the study 'tax', not 'small'" in done.stderr
    report = study("report", small, cwd=tmp_path, code=2)
    assert "no results of a study yet" in report.stderr


def test_how_long_it_takes_is_told_from_what_was_recorded() -> None:
    done = study("run", TAX, "--dry-run", cwd=ROOT)
    assert "12 runs, about" in done.stderr
    assert "as recorded" in done.stderr


def test_how_long_it_takes_follows_from_each_scenarios_steps(
    small: Path, stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study("run", small, "--record", "--shard", "1/4", "--workers", 1, cwd=tmp_path)
    recorded = estimate(load_study(small), probe=False)
    assert recorded is not None
    (path,) = tmp_path.glob("cassettes/small/*.jsonl")
    took = sum(call.duration_s for call in read_cassette(path).calls.values())
    assert recorded == recorded_estimate(4 * took)
    # Twice as many steps, of which nothing more is known.
    write_study(tmp_path, settings={"simulation.n_epochs": [4]})
    shutil.move(path, tmp_path / "cassettes" / "small.seed1.jsonl")
    longer = estimate(load_study(small), probe=False)
    assert longer == recorded_estimate(2 * 2 * took)


def test_a_step_is_tried_where_nothing_was_recorded(
    small: Path, stub: StubServer, tmp_path: Path
) -> None:
    said = study("run", small, "--dry-run", cwd=tmp_path).stderr
    assert "4 runs; how long they take is told once one is recorded, or by --probe" in said
    assert not stub.chats
    stub.delay_s = 1.0
    said = study("run", small, "--dry-run", "--probe", cwd=tmp_path).stderr
    # Two calls of a second in a step, two steps in each of four runs.
    seconds = re.search(r"4 runs, about 0 minutes of a model to record \((\d) s each, as a", said)
    assert seconds is not None, said
    assert 4 <= int(seconds[1]) < 8
    assert not list(tmp_path.rglob("*.jsonl"))
    stub.fault = lambda _number: 400
    assert "HTTP 400" in study("run", small, "--dry-run", "--probe", cwd=tmp_path, code=4).stderr
    assert "--dry-run" in study("run", small, "--probe", cwd=tmp_path, code=2).stderr
