"""Power lost at every write of a recording by several threads."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.acceptance.calls import THREADS, Answered, record_all, require_kept
from benchmarks.acceptance.simulated_disk import Moment, SimulatedDisk


def power_loss(count: int) -> dict[str, object]:
    """Lose the power this often, at the operations of recordings in turn.

    Raises:
        Lost: An answered call was lost.
    """
    chance = random.Random("power loss")
    seen: Counter[str] = Counter()
    while seen["losses of power"] < count:
        moments, answered = _record(old=bool(seen["recordings"] % 2))
        seen["recordings"] += 1
        seen["operations of the disk"] += len(moments)
        # Some hundred of them are in a recording; few losses are spread over one.
        step = max(1, len(moments) // (count - seen["losses of power"]))
        for moment in moments[::step]:
            with tempfile.TemporaryDirectory() as folder:
                moment.after_power_loss(Path(folder), chance)
                kept = require_kept(Path(folder) / "c.jsonl", answered[: moment.noted])
            seen["answered calls"] += kept
            seen["losses of power"] += 1
    return {"threads": THREADS, **seen}


def _record(*, old: bool) -> tuple[list[Moment], list[Answered]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        if old:
            record_all(path, lambda _answered: None, wording="old")
        disk = SimulatedDisk(Path(folder))
        answered: list[Answered] = []

        def acknowledge(one: Answered) -> None:
            with disk.lock:
                answered.append(one)
                disk.note()

        with disk.watching():
            record_all(path, acknowledge)
        return disk.moments, answered
