"""The tables of a study: every column, with runs that lack some of them, and cells of any type."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from swarm_repro.mode import Mode
from swarm_repro.study.file import Run, Study, StudyBackend
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.tables import epoch_rows, run_rows, write_tables


def result(*epochs: dict[str, Any], **members: object) -> dict[str, Any]:
    return {
        "mode": "record", "criteria": "passed", "calls": 4, "prompt_tokens": 10,
        "completion_tokens": 5, "environments": ["e", "f"], "models": ["m", "n"],
        "artifacts": {"events.jsonl": "0"}, "metrics": list(epochs), **members,
    }  # fmt: skip


def study_of(**values: list[object]) -> Study:
    """One run for each value of the settings, whose lists have one length."""
    count = len(next(iter(values.values())))
    runs = tuple(
        Run(place, f"run{place}", "g", "s", Path("s"), "",
            {path: listed[place] for path, listed in values.items()}, 10 + place, place % 2)
        for place in range(count)
    )  # fmt: skip
    return Study(
        Path("f"), "s", "0", runs, tuple(values), None, None, StudyBackend(), Path("c"), Path("o")
    )  # fmt: skip


def test_a_row_says_what_was_set_what_came_out_and_with_what() -> None:
    study = study_of(tax=[0.5])
    found = result(
        {"epoch": 0, "welfare": 1, "net": None, "is_over": True},
        {"epoch": 1, "welfare": 4, "gini": 0.25},
        artifacts={"events.jsonl": "0", "s_epochs.csv": "1"},
    )
    (row,) = run_rows(study, [(study.runs[0], found)])
    assert list(row.items()) == [
        ("run", "run0"), ("scenario", "s"), ("tax", 0.5), ("seed", 10), ("repeat", 0),
        ("criteria", "passed"),
        ("welfare", 2.5), ("welfare.last", 4.0), ("gini", 0.25), ("gini.last", 0.25),
        ("calls", 4), ("prompt_tokens", 10), ("completion_tokens", 5),
        ("models", "m n"), ("environments", "e f"),
        ("sha256.events.jsonl", "0"), ("sha256.epochs.csv", "1"),
    ]  # fmt: skip
    assert type(row["welfare.last"]) is float
    assert epoch_rows(study, [(study.runs[0], found)]) == [
        {"run": "run0", "scenario": "s", "tax": 0.5, "seed": 10, "repeat": 0, "epoch": 0,
         "welfare": 1.0, "gini": None},
        {"run": "run0", "scenario": "s", "tax": 0.5, "seed": 10, "repeat": 0, "epoch": 1,
         "welfare": 4.0, "gini": 0.25},
    ]  # fmt: skip


def test_the_last_epoch_of_a_metric_is_its_last_number() -> None:
    study = study_of(tax=[0])
    found = result({"epoch": 0, "a": 1.0}, {"epoch": 1, "a": 3.0}, {"epoch": 2, "a": "nan"})
    (row,) = run_rows(study, [(study.runs[0], found)])
    assert (row["a"], row["a.last"]) == (2.0, 3.0)
    assert [one["a"] for one in epoch_rows(study, [(study.runs[0], found)])] == [1.0, 3.0, None]


def test_a_run_without_a_metric_has_none_of_it() -> None:
    study = study_of(tax=[0, 1])
    pairs = list(zip(study.runs, [result({"epoch": 0, "a": 1.0}), result()], strict=True))
    rows = run_rows(study, pairs)
    assert [(row["a"], row["a.last"]) for row in rows] == [(1.0, 1.0), (None, None)]


# --- On disk.


def written(folder: Path, study: Study, results: list[dict[str, Any]]) -> StudyFolder:
    made = StudyFolder(study, folder / "out")
    made.open()
    for run, found in zip(study.runs, results, strict=True):
        if found:
            with made.begun(run) as place:
                times = {"cpu_s": run.seed + 0.5}
                made.keep(run, place, mode=Mode.RECORD, result=found, times=times)
    return made


def table(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, str]]:
    """The rows as Parquet has them, and as CSV has them, and the types."""
    stored = pyarrow.parquet.read_table(path.with_suffix(".parquet"))
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return stored.to_pylist(), rows, {one.name: str(one.type) for one in stored.schema}


def test_tables_are_written_as_csv_and_parquet_of_what_is_finished(tmp_path: Path) -> None:
    study = study_of(tax=[0.0, 0.5, 1.0])
    done = result({"epoch": 0, "a": 1.0})
    folder = written(tmp_path, study, [done, {}, done])
    paths = write_tables(study, folder)
    assert [path.relative_to(folder.path).as_posix() for path in paths] == [
        "runs.csv", "runs.parquet", "epochs.csv", "epochs.parquet", "times.csv",
    ]  # fmt: skip
    stored, rows, _ = table(folder.path / "runs")
    assert [row["run"] for row in stored] == [row["run"] for row in rows] == ["run0", "run2"]
    stored, _, _ = table(folder.path / "epochs")
    assert [(row["run"], row["epoch"], row["a"]) for row in stored] == [
        ("run0", 0, 1.0), ("run2", 0, 1.0),
    ]  # fmt: skip
    assert (folder.path / "times.csv").read_text() == '"run","cpu_s"\n"run0",10.5\n"run2",12.5\n'
    column = pyarrow.parquet.ParquetFile(paths[1]).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    before = {path: path.read_bytes() for path in paths}
    write_tables(study, folder)
    assert {path: path.read_bytes() for path in paths} == before


COLUMNS: list[tuple[list[object], list[object], str]] = [
    ([0.5, 1.5], [0.5, 1.5], "double"),
    ([1, 2], [1, 2], "int64"),
    ([1, 0.5], [1.0, 0.5], "double"),
    ([None, 1, 0.5], [None, 1.0, 0.5], "double"),
    ([None, 3], [None, 3], "int64"),
    ([None, None], [None, None], "null"),
    (["a", None], ["a", None], "string"),
    ([True, False], [True, False], "bool"),
    (["a", 1], ["a", "1"], "string"),
    (["a", None, 0.5], ["a", None, "0.5"], "string"),
    ([True, 1], ["true", "1"], "string"),
    ([1, 0.5, "x"], ["1", "0.5", "x"], "string"),
    ([[1, 2], [3]], ["[1,2]", "[3]"], "string"),
    ([{"a": 1}, "x"], ['{"a":1}', "x"], "string"),
]


@pytest.mark.parametrize(("values", "expected", "kind"), COLUMNS, ids=str)
def test_a_setting_of_any_type_is_a_column_of_one(
    values: list[object], expected: list[object], kind: str, tmp_path: Path
) -> None:
    study = study_of(setting=values)
    folder = written(tmp_path, study, [result({"epoch": 0, "a": 1.0})] * len(values))
    write_tables(study, folder)
    stored, rows, types = table(folder.path / "runs")
    assert [row["setting"] for row in stored] == expected
    assert types["setting"] == kind
    shown = [str(one).lower() if isinstance(one, bool) else one for one in expected]
    for row, value in zip(rows, shown, strict=True):
        if isinstance(value, (int, float)):
            assert float(row["setting"]) == value
        else:
            assert row["setting"] == (value or "")


def test_a_metric_that_one_run_lacks_is_a_hole_in_the_table(tmp_path: Path) -> None:
    study = study_of(tax=[0.0, 0.5])
    folder = written(
        tmp_path, study,
        [result({"epoch": 0, "a": 1.0}, artifacts={"x": "1"}), result({"epoch": 0, "b": 2})],
    )  # fmt: skip
    write_tables(study, folder)
    stored, _, types = table(folder.path / "runs")
    assert [(row["a"], row["b"], row["sha256.x"]) for row in stored] == [
        (1.0, None, "1"), (None, 2.0, None),
    ]  # fmt: skip
    assert types["a"] == types["b"] == "double"
