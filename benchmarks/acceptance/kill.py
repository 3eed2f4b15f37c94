"""kill -9 at random moments of a recording by several threads."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.acceptance.calls import CALLS, THREADS, Answered, record_all, require_kept
from swarm_repro.cassette.part import part_path


def kill(count: int) -> dict[str, object]:
    """Kill this many recordings, every other one of a cassette that was there before.

    Raises:
        Lost: An answered call was lost.
    """
    kept: Counter[str] = Counter()
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.jsonl"
            if number % 2:
                record_all(path, lambda _answered: None, wording="old")
            before = path.read_bytes() if number % 2 else None
            answered, ended = _killed(path, random.Random(f"kill {number}"))
            if not ended and before is not None and part_path(path).exists():
                ended = path.read_bytes() != before
            kept["answered calls"] += require_kept(path, answered)
            kept["killed after the end" if ended else "killed before the end"] += 1
    return {"recordings killed": count, "threads": THREADS, **kept}


def _killed(path: Path, chance: random.Random) -> tuple[list[Answered], bool]:
    """Record in a child, and kill it at a random moment.

    Returns:
        What it had acknowledged, and whether it had come to its end.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _record_and_wait(path, ours, theirs)
    os.close(theirs)
    # A moment is a number of acknowledged calls, and up to 3 ms more.
    wanted, later_s = chance.randint(0, THREADS * CALLS), chance.random() * 0.003
    told = b""
    while told.count(b"\n") < wanted and (piece := os.read(ours, 65536)):
        told += piece
    until = time.perf_counter() + later_s
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(ours, 65536):
        told += piece
    os.close(ours)
    lines = told.decode().splitlines()
    fields = [line.split("\t") for line in lines if line != "end"]
    return [(who, int(number), text) for who, number, text in fields], "end" in lines


def _record_and_wait(path: Path, ours: int, theirs: int) -> None:
    try:
        os.close(ours)
        record_all(path, lambda one: _tell(theirs, "\t".join(map(str, one))))
        _tell(theirs, "end")
        signal.pause()
    finally:
        os._exit(1)


def _tell(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{line}\n".encode())
