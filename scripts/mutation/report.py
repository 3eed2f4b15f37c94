"""What a run of mutants says, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import orjson

from .trying import Outcome

_Z = 1.959963984540054  # of the standard normal distribution, for 95 %


def wilson(killed: int, tried: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not tried:
        return 0.0, 1.0
    share = killed / tried
    scale = 1 + _Z**2 / tried
    middle = (share + _Z**2 / (2 * tried)) / scale
    half = _Z * math.sqrt(share * (1 - share) / tried + _Z**2 / (4 * tried**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def progress(outcome: Outcome) -> str:
    """One line about a mutant that has just been tried."""
    mutant = outcome.mutant
    by = f" by {outcome.test}" if outcome.test else ""
    if outcome.is_killed and not by:
        by = ": its tests cannot be read, or end the process"
    return f"{mutant.file}:{mutant.line} {mutant.operator}: {outcome.status}{by}"


def report(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines of the table, and of each survivor."""
    yield from table(outcomes)
    for outcome in outcomes:
        if outcome.status in ("survived", "untouched"):
            yield ""
            yield from survivor(outcome)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines of a table with a row a room, and one for all."""
    yield "room                 drawn killed (timeout) survived (untouched) equivalent  share  95 %"
    rooms = sorted({outcome.room for outcome in outcomes})
    for room in rooms:
        yield _row(room, [outcome for outcome in outcomes if outcome.room == room])
    if len(rooms) != 1:
        yield _row("all", outcomes)


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("killed", "timeout", "survived", "untouched", "equivalent")
    }
    killed = counts["killed"] + counts["timeout"]
    tried = len(outcomes) - counts["equivalent"]
    low, high = wilson(killed, tried)
    share = f"{killed / tried:6.0%}" if tried else "     -"
    return (
        f"{name:20} {len(outcomes):5} {killed:6} {counts['timeout']:9} "
        f"{tried - killed:8} {counts['untouched']:11} {counts['equivalent']:10} "
        f"{share}  {low:.0%} to {high:.0%}"
    )


def survivor(outcome: Outcome) -> Iterator[str]:
    """Lines that show one survivor."""
    mutant = outcome.mutant
    tests = "no test touches it" if outcome.status == "untouched" else f"{outcome.tests} tests"
    left_out = f", {outcome.left_out} of them too slow to run" if outcome.left_out else ""
    yield f"{mutant.file}:{mutant.line}  {mutant.function or '(module)'}  [{mutant.operator}]"
    yield f"    - {mutant.before}"
    yield f"    + {mutant.after}"
    yield f"    {tests}{left_out}"


def as_json(outcomes: Sequence[Outcome]) -> bytes:
    """Every outcome, with all that is known of it."""
    return orjson.dumps(list(outcomes), option=orjson.OPT_INDENT_2)
