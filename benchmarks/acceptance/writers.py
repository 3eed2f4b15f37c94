"""Processes that record into one cassette at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.acceptance.calls import Lost
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.errors import CassetteAccessError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import HEADER, TinyModel, ask, chat, replaying

PROCESSES = 8
#: A look reads all of the recording, and takes a core from those who write it: a tenth of the time.
_SHARE_OF_LOOKING = 0.1


def writers(count: int, *, rounds: int = 1) -> dict[str, object]:
    """Record this many calls a round, shared among the processes, into a cassette of the round.

    Raises:
        Lost: A call is missing, is there twice, or is another one.
    """
    each = count // PROCESSES // rounds
    with tempfile.TemporaryDirectory() as folder:
        _record(Path(folder) / "c.jsonl", "nobody", 1)  # whose imports the children inherit
    seen: Counter[str] = Counter()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.jsonl"
            children = [_recording(path, f"worker_{number}", each) for number in range(PROCESSES)]
            while children:
                done, status = os.waitpid(-1, os.WNOHANG)
                if done:
                    children.remove(done)
                    if status:
                        raise Lost("a recording ended in an error")
                started = time.monotonic()
                seen["looks at running recordings"] += _look(part_path(path))
                took_s = time.monotonic() - started
                time.sleep(max(0.01, took_s * (1 / _SHARE_OF_LOOKING - 1)))
            seen["calls"] += _require_all(path, each)
    return {"processes": PROCESSES, "rounds": rounds, **seen}


def _look(part: Path) -> bool:
    """Whether a recording could be looked at while it ran: it shows whole records only."""
    try:
        return read_part(part) is not None
    except CassetteAccessError:
        return False  # it has not begun, or has ended


def _recording(path: Path, who: str, each: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _record(path, who, each)
        status = 0
    finally:
        os._exit(status)


def _record(path: Path, who: str, each: int) -> None:
    store = open_for_recording(path, HEADER, keep=True, shared=True)
    session = Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=7)
    model = TinyModel()
    for number in range(each):
        ask(session, model, f"question {number}", who=who)
    store.finish(used=session.ledger.used, run=None, keep=True)


def _require_all(path: Path, each: int) -> int:
    if [one.name for one in path.parent.iterdir()] != [path.name]:
        raise Lost(f"something is left beside the cassette: {sorted(path.parent.iterdir())}")
    calls = read_cassette(path).calls  # which refuses a call that is there twice
    if len(calls) != PROCESSES * each:
        raise Lost(f"{len(calls)} calls of {PROCESSES * each}")
    replay, model = replaying(path), TinyModel()
    bodies = {(call.scope, call.i): call.body for call in calls.values()}
    for number in range(PROCESSES):
        who = f"worker_{number}"
        for question in range(each):
            prompt = f"question {question}"
            asked = chat(prompt, seed=bodies[who, question]["seed"])
            if ask(replay, model, prompt, who=who).text != model.says(asked):
                raise Lost(f"{prompt} of {who} is replayed as another one")
    return len(calls)
