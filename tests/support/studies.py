"""Studies for tests: of the stub server where something has to go wrong, else the committed one."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from swarm_repro.simulation.artifacts import round_numbers
from swarm_repro.study.estimate import Estimate
from tests.support.command import ROOT
from tests.support.warm import run_python

TAX = ROOT / "scenarios" / "tax.study.yaml"
TABLES = ("runs.csv", "runs.parquet", "epochs.csv", "epochs.parquet")


def recorded_estimate(model_s: float) -> Estimate:
    """An estimate that follows from recordings, its seconds but for what rounding adds."""
    seconds: Any = pytest.approx(model_s)
    return Estimate(seconds, tried=False)


def write_study(folder: Path, **members: object) -> Path:
    """A study file of one scripted and two model agents, which a stub serves."""
    path = folder / "study.yaml"
    written = {"name": "small", "scenarios": ["scenario.yaml"], "seeds": [1, 2], **members}
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return path


def write_scenario(
    folder: Path, base_url: str = "http://127.0.0.1:9/v1", **members: object
) -> Path:
    """A scenario with two model agents and a scripted one."""
    block = {"provider": "llama_cpp", "model": "stub", "base_url": base_url, "temperature": 0.2}
    document: Mapping[str, Any] = {
        "scenario_id": "small",
        "simulation": {"n_epochs": 2, "steps_per_epoch": 1, "seed": 1},
        "agents": [{"type": "llm", "count": 2, "llm": block}, {"type": "honest"}],
        "governance": {"transaction_tax_rate": 0.0},
        **members,
    }
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def agents_alone(base_url: str) -> list[dict[str, object]]:
    """Two model agents and nobody else: what they are asked depends on no order of sets."""
    block = {"provider": "llama_cpp", "model": "stub", "base_url": base_url, "temperature": 0.2}
    return [{"type": "llm", "count": 2, "llm": block}]


def command(*arguments: object) -> list[str]:
    """The command line of ``swarm-repro study``."""
    return [sys.executable, "-m", "swarm_repro", "study", *map(str, arguments)]


def environment() -> dict[str, str]:
    """As it is on the command line, before the command starts itself again."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}


def study(
    *arguments: object, cwd: Path, code: int = 0, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run ``swarm-repro study`` and see that it ends with a code."""
    done = run_python(
        command(*arguments)[1:], cwd=cwd, environment=environment(), timeout_s=timeout_s
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


def tables_of(folder: Path, names: Iterable[str] = TABLES) -> dict[str, bytes]:
    """The bytes of a study's tables."""
    return {name: (folder / name).read_bytes() for name in names}


def recorded_runs() -> list[str]:
    """The lines of the committed study's table, without what differs between Python versions."""
    return rows_of((ROOT / "cassettes" / "tax" / "runs.csv").read_bytes())


#: Files of a run that hold sums of floats.
_FILES_OF_SUMS = ("agents.csv", "epochs.csv", "events.jsonl", "history.json")


def rows_of(table: bytes) -> list[str]:
    """The lines of a table of runs, without what differs between Python versions.

    From Python 3.12 on sums of floats have other last digits, and files that hold them other
    digests than those that were recorded. Before, each byte counts.
    """
    lines = table.decode().splitlines(keepends=True)
    if sys.version_info < (3, 12):
        return lines
    names, *rows = csv.reader(lines)
    return [
        ",".join(names),
        *(
            ",".join(_common(name, cell) for name, cell in zip(names, row, strict=True))
            for row in rows
        ),
    ]


def _common(name: str, cell: str) -> str:
    if name.startswith("sha256.") and name.endswith(_FILES_OF_SUMS):
        return "a digest"
    return round_numbers(cell.encode()).decode()


_swarm: dict[str, ModuleType] = {}


@contextmanager
def runs_in_this_process() -> Iterator[None]:
    """Let runs be made in this process, whoever has imported SWARM in it before.

    A run fixes SWARM's clock and ids when SWARM is imported, and refuses one that was imported
    before. So the block has a SWARM of its own: imported once, kept for the next block.
    """
    others = _swarm_modules()
    _replace_swarm(_swarm)
    try:
        yield
    finally:
        _swarm.update(_swarm_modules())
        _replace_swarm(others)


def _swarm_modules() -> dict[str, ModuleType]:
    loaded = dict(sys.modules)
    return {name: loaded[name] for name in loaded if name.partition(".")[0] == "swarm"}


def _replace_swarm(modules: Mapping[str, ModuleType]) -> None:
    for name in _swarm_modules():
        del sys.modules[name]
    sys.modules.update(modules)
