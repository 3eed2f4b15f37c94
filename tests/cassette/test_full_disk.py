"""A full disk: one clear error, what was written before opens, the old cassette is untouched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.mode import Mode
from tests.support.tiny_model import TinyModel, ask, recording, replaying

ROOT = Path(__file__).resolve().parents[2]

#: A process may limit the size of its own files: a disk that is full for it alone.
PROGRAM = """
import resource, sys
from pathlib import Path
from swarm_repro.errors import SwarmReproError
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import HEADER, TinyModel, ask, make_run

path, when, room, trips = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "run"

def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

try:
    if when == "open":
        fill()
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7, trips=trips)
    model = TinyModel()
    for number in range(20):
        if number == 2 and when == "append":
            fill()
        ask(session, model, f"call {number}")
    fill()
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
except BaseException as error:
    print(type(error).__name__, int(error.exit_code), error)
    if when != "open":
        print(int(session.exit_code()))
"""


def run_full(path: Path, when: str, room: int, *, trips: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), when, str(room), "run" if trips else "alone"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(wording="old"), "call 0")
    return path


@pytest.mark.parametrize("room", [3500, 4000, 4096, 5003])
@pytest.mark.parametrize("trips", [True, False])
def test_a_disk_that_fills_up_while_recording(room: int, trips: bool, path: Path) -> None:
    before = path.read_bytes()
    said = run_full(path, "append", room, trips=trips)
    kind = "SessionTripped" if trips else "CassetteAccessError"
    assert said.startswith(f"{kind} 2 "), said
    assert "cannot be written" in said
    assert "--auto" in said
    assert said.count("\n") == 2
    assert path.read_bytes() == before
    data = part_path(path).read_bytes()
    assert data.endswith(b"\n"), "the torn tail was taken back"
    assert len(data) <= room
    found = read_part(part_path(path))
    assert found is not None
    kept = len(found.cassette.calls)
    assert kept >= 2
    model = TinyModel()
    with recording(path, mode=Mode.AUTO) as session:
        for number in range(20):
            ask(session, model, f"call {number}")
    assert len(model.sent) == 20 - kept
    replay = replaying(path)
    for number in range(20):
        ask(replay, TinyModel(), f"call {number}")


@pytest.mark.parametrize("trips", [True, False])
def test_a_full_disk_is_no_failure_of_the_backend(trips: bool, path: Path) -> None:
    assert run_full(path, "append", 4000, trips=trips).splitlines()[-1] == "2"


def test_a_disk_that_is_full_when_the_canonical_file_is_written(path: Path) -> None:
    before = path.read_bytes()
    said = run_full(path, "finish", 4000)
    assert said.startswith("CassetteAccessError 2 "), said
    assert "it is as it was before" in said
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path, part_path(path)], "no temporary file is left"
    found = read_part(part_path(path))
    assert found is not None
    assert len(found.cassette.calls) == 20


def test_a_disk_that_is_full_from_the_start(path: Path) -> None:
    before = path.read_bytes()
    said = run_full(path, "open", 50)
    assert said.startswith("CassetteAccessError 2 "), said
    assert path.read_bytes() == before
    with recording(path, mode=Mode.AUTO) as session:
        ask(session, TinyModel(), "call 0")
    assert len(read_cassette(path).calls) == 1
