"""The recordings of a study, joined by setting: smaller, fewer, and replayed to the same tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm_repro.cassette.check import check_cassette
from swarm_repro.study.file import load_study
from swarm_repro.study.recordings import recording_of
from tests.support.command import ROOT
from tests.support.stub_server import StubServer, running_stub
from tests.support.studies import (
    recorded_runs,
    rows_of,
    study,
    tables_of,
    write_scenario,
    write_study,
)


@pytest.fixture
def tax(tmp_path: Path) -> Path:
    """The committed study, in a folder of its own."""
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    shutil.copytree(ROOT / "cassettes" / "tax", tmp_path / "cassettes" / "tax")
    return tmp_path / "scenarios" / "tax.study.yaml"


def cassettes_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("cassettes/*/*.jsonl*")}


@pytest.mark.parametrize("options", [("--archive", "--remove"), ("--remove",)])
def test_the_joined_study_is_replayed_to_the_same_table(
    options: tuple[str, ...], tax: Path, tmp_path: Path
) -> None:
    before = cassettes_of(tmp_path)
    done = study("merge", tax, *options, cwd=tmp_path)
    assert done.stdout.count("3 runs, ") == 2, "demo's seeds say nothing in two ways"
    assert done.stdout.count("3 runs stay apart") == 2, "council's first questions are the same"
    after = cassettes_of(tmp_path)
    ending = ".jsonl.zst" if "--archive" in options else ".jsonl"
    assert {name for name in after if name.startswith("demo")} == {
        f"demo.transaction_tax_rate=0.0{ending}",
        f"demo.transaction_tax_rate=0.2{ending}",
    }
    council = {name for name in before if name.startswith("council")}
    assert {name for name in after if name.startswith("council")} == {
        name.replace(".jsonl", ending) for name in council
    }
    for name in after:
        assert check_cassette(tmp_path / "cassettes" / "tax" / name).is_whole
    study("run", tax, "--workers", 2, "--out", "out", cwd=tmp_path)
    assert rows_of((tmp_path / "out" / "runs.csv").read_bytes()) == recorded_runs()


def test_nothing_is_removed_that_was_not_to_be(tax: Path, tmp_path: Path) -> None:
    before = cassettes_of(tmp_path)
    done = json.loads(study("merge", tax, "--json", cwd=tmp_path).stdout)
    assert before < cassettes_of(tmp_path)
    assert [(one["joined"], one["runs"]) for one in done] == [
        (True, 3), (True, 3), (False, 3), (False, 3),
    ]  # fmt: skip
    assert "sent with seed" in done[2]["conflicts"][0]["why"]


def test_a_study_that_is_not_recorded_whole_is_not_joined(tax: Path, tmp_path: Path) -> None:
    (tmp_path / "cassettes" / "tax" / "council.transaction_tax_rate=0.2.seed3.jsonl").unlink()
    before = cassettes_of(tmp_path)
    done = study("merge", tax, "--remove", cwd=tmp_path, code=2)
    assert "1 runs have no cassette" in done.stderr
    assert cassettes_of(tmp_path) == before


# --- Recorded from a stub.


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path, stub.base_url)
    path = write_study(tmp_path)
    study("run", path, "--record", cwd=tmp_path)
    study("merge", path, "--remove", cwd=tmp_path)
    assert cassettes_of(tmp_path) == {"small.jsonl"}
    return path


def of_runs(stub: StubServer) -> list[bytes]:
    """What was asked but the canary's question."""
    return [chat for chat in stub.chats if b"Name three animals" not in chat]


def test_a_seed_that_is_added_is_recorded_by_itself(
    small: Path, tmp_path: Path, stub: StubServer
) -> None:
    asked = len(of_runs(stub))
    write_study(tmp_path, seeds=[1, 2, 3])
    study("run", small, "--record", "--out", "more", cwd=tmp_path)
    assert cassettes_of(tmp_path) == {"small.jsonl", "small.seed3.jsonl"}
    assert len(of_runs(stub)) == asked + 4, "two agents in two epochs, of the new seed alone"
    study("run", small, "--replay", "--out", "again", cwd=tmp_path)
    assert tables_of(tmp_path / "again") == tables_of(tmp_path / "more")
    study("merge", small, "--remove", cwd=tmp_path)
    assert cassettes_of(tmp_path) == {"small.jsonl"}
    study("run", small, "--out", "joined", cwd=tmp_path)
    assert tables_of(tmp_path / "joined") == tables_of(tmp_path / "more")


def test_a_run_is_replayed_from_its_own_cassette_if_it_has_one(small: Path, tmp_path: Path) -> None:
    made = load_study(small)
    first, second = made.runs
    folder = tmp_path / "cassettes" / "small"
    assert [recording_of(made, run) for run in made.runs] == [
        Path("cassettes/small/small.jsonl")
    ] * 2
    shutil.copy(folder / "small.jsonl", folder / "small.seed1.jsonl")
    assert recording_of(made, first) == Path("cassettes/small/small.seed1.jsonl")
    assert recording_of(made, second) == Path("cassettes/small/small.jsonl")


def test_a_repeat_that_was_answered_otherwise_stays_apart(tmp_path: Path, stub: StubServer) -> None:
    write_scenario(tmp_path, stub.base_url)
    path = write_study(tmp_path, seeds=[1], repeats=2)
    study("run", path, "--record", "--workers", 1, cwd=tmp_path)
    before = cassettes_of(tmp_path)
    assert len(before) == 2
    (tmp_path / "cassettes" / "small" / "small.seed1.repeat1.jsonl").unlink()
    shutil.rmtree(tmp_path / "studies")
    stub.reply = lambda _body: '{"action_type": "NOOP", "reasoning": "another answer"}'
    study("run", path, "--record", "--workers", 1, cwd=tmp_path)
    done = study("merge", path, "--remove", cwd=tmp_path)
    assert "2 runs stay apart" in done.stdout
    assert cassettes_of(tmp_path) == before
