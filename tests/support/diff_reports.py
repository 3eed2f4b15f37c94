"""Small recordings, compared: the report, and the parts of it that tests look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm_repro.compare.diff import DiffReport
from tests.support.recordings import Call, record
from tests.support.society import comparing

Report = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One side: its calls, and further arguments for ``record``."""

    calls: Sequence[Call]
    options: dict[str, Any] = field(default_factory=dict)


def of(*calls: Call, **options: Any) -> Recording:
    return Recording(calls, options)


def report_of(folder: Path, a: Recording, b: Recording, **options: Any) -> Report:
    paths = [
        record(folder / name, side.calls, **side.options)
        for name, side in (("a.jsonl", a), ("b.jsonl", b))
    ]
    with comparing(*paths) as found:
        return DiffReport(found).to_json(**options)


def followed(proven: int = 0, assumed: int = 0, shared: int = 0) -> Report:
    return {"proven": proven, "assumed": assumed, "shared": shared}


def calls_of(report: Report) -> list[tuple[object, ...]]:
    """Place, class, origins and proof of each listed call."""
    return [
        (f"{call['scope']} {call['i']}", call["class"], call["origins"], call["proven"])
        for call in report["calls"]
    ]


def causes_of(report: Report) -> list[tuple[object, ...]]:
    """The cause of each origin: field and both values, or that it is a root."""
    return [
        ("root",) if origin["kind"] == "root" else (origin["field"], origin["a"], origin["b"])
        for origin in report["origins"]
    ]
