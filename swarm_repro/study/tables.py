"""The tables of a study: one row a run, one row an epoch, and what took how long.

The same results give the same bytes, in whatever order they came. What differs by nature (times,
who made a run) is in a table of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from swarm_repro.canonical import encode_canonical
from swarm_repro.study.file import Run, Study
from swarm_repro.study.folder import StudyFolder, write_whole

Row = Mapping[str, Any]


def write_tables(study: Study, folder: StudyFolder) -> list[Path]:
    """Write the tables of what is finished, each as CSV and as Parquet.

    Args:
        study: The study.
        folder: Its results.

    Returns:
        The files.
    """
    results = [(run, found) for run in study.runs if (found := folder.any_result(run)) is not None]
    tables = {
        "runs": _table(run_rows(study, results)),
        "epochs": _table(epoch_rows(study, results)),
    }
    written = []
    for name, table in tables.items():
        for suffix, encode in (("csv", _csv), ("parquet", _parquet)):
            path = folder.path / f"{name}.{suffix}"
            write_whole(path, encode(table))
            written.append(path)
    times = _table([{"run": run.name, **folder.times(run)} for run, _ in results])
    write_whole(folder.path / "times.csv", _csv(times))
    return [*written, folder.path / "times.csv"]


def run_rows(study: Study, results: Sequence[tuple[Run, Row]]) -> list[dict[str, Any]]:
    """One row a run: what was set, what came out, what it was made with.

    A metric stands as its mean over the epochs, and as ``<name>.last``, its value in the last one.
    """
    rows = []
    metrics = _metric_names(results)
    for run, result in results:
        epochs = result["metrics"]
        found: dict[str, Any] = {}
        for name in metrics:
            values = [epoch[name] for epoch in epochs if _is_number(epoch.get(name))]
            found[name] = sum(values) / len(values) if values else None
            found[f"{name}.last"] = float(values[-1]) if values else None
        rows.append(
            {
                **_of_run(study, run),
                "criteria": result["criteria"],
                **found,
                **{name: result[name] for name in ("calls", "prompt_tokens", "completion_tokens")},
                "models": " ".join(result["models"]),
                "environments": " ".join(result["environments"]),
                **{f"sha256.{_generic(run, name)}": digest
                   for name, digest in result["artifacts"].items()},
            }
        )  # fmt: skip
    return rows


def epoch_rows(study: Study, results: Sequence[tuple[Run, Row]]) -> list[dict[str, Any]]:
    """One row an epoch of a run."""
    metrics = _metric_names(results)
    return [
        {
            **_of_run(study, run),
            "epoch": epoch.get("epoch"),
            **{
                name: float(epoch[name]) if _is_number(epoch.get(name)) else None
                for name in metrics
            },
        }
        for run, result in results
        for epoch in result["metrics"]
    ]


def _of_run(study: Study, run: Run) -> dict[str, Any]:
    settings = {path: _cell(run.settings[path]) for path in study.settings}
    return {
        "run": run.name,
        "scenario": run.scenario,
        **settings,
        "seed": run.seed,
        "repeat": run.repeat,
    }


def _cell(value: object) -> object:
    """A setting as a cell: lists and mappings as JSON."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return encode_canonical(value).decode()


def _generic(run: Run, name: str) -> str:
    """An artifact's name without the scenario's, which differs from row to row."""
    return name.removeprefix(f"{run.scenario}_")


def _metric_names(results: Iterable[tuple[Run, Row]]) -> list[str]:
    """All metrics that are numbers, in the order in which SWARM gives them."""
    names: dict[str, None] = {}
    for _, result in results:
        for epoch in result["metrics"]:
            names.update((name, None) for name, value in epoch.items() if _is_number(value))
    names.pop("epoch", None)
    return list(names)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Values of one kind; of several the numbers as floats, else all as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [
            value if value is None or isinstance(value, str) else encode_canonical(value).decode()
            for value in values
        ]
    return pa.array(values, pa.float64() if kinds == {int, float} else None)


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return buffer.getvalue()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
