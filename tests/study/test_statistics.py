"""What a study says, computed a second time from its tables."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from swarm_repro.errors import UsageError
from swarm_repro.study.file import Run, Study, StudyBackend
from swarm_repro.study.statistics import mean_interval, summarise
from swarm_repro.study.tables import run_rows

TAXES, HEATS = (0.0, 0.1, 0.2), (0.2, 0.8)


@dataclass
class Results:
    """A study's folder in memory."""

    found: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def any_result(self, run: Run) -> dict[str, Any] | None:
        return self.found.get(run.name)

    def failure(self, run: Run) -> dict[str, Any] | None:
        return self.failures.get(run.name)

    def times(self, run: Run) -> dict[str, Any]:
        return {"model_s": 2.0 + run.seed}


def result(value: float, **members: object) -> dict[str, Any]:
    epochs = [{"epoch": epoch, "welfare": value + epoch, "net": None} for epoch in range(3)]
    return {
        "mode": "record", "criteria": "passed", "calls": 4, "prompt_tokens": 10,
        "completion_tokens": 5, "environments": ["e"], "models": ["m"],
        "artifacts": {"events.jsonl": "0"}, "metrics": epochs, **members,
    }  # fmt: skip


def planted(seeds: int, *, repeats: int = 1, noise: float = 0.0) -> tuple[Study, Results]:
    """A study in which a tax of t lowers welfare by 10 t, and seeds differ by far more."""
    draw = np.random.default_rng(1)
    luck = draw.normal(50, 20, seeds)
    runs: list[Run] = []
    found: dict[str, dict[str, Any]] = {}
    for tax in TAXES:
        for heat in HEATS:
            for seed in range(seeds):
                for repeat in range(repeats):
                    settings = {"governance.transaction_tax_rate": tax, "temperature": heat}
                    name = f"{tax} {heat} {seed} {repeat}"
                    group = f"{tax} {heat}"
                    runs.append(
                        Run(len(runs), name, group, "s", Path("s"), "", settings, seed, repeat)
                    )
                    value = luck[seed] - 10 * tax + heat + draw.normal(0, noise)
                    found[name] = result(float(value))
    paths = ("governance.transaction_tax_rate", "temperature")
    study = Study(
        Path("f"), "s", "0", tuple(runs), paths, None, None, StudyBackend(), Path("c"), Path("o")
    )  # fmt: skip
    return study, Results(found)


def said(study: Study, results: Results, **options: Any) -> Any:
    return summarise(study, results, **options)  # type: ignore[arg-type]


def test_means_and_intervals_are_those_of_the_table() -> None:
    study, results = planted(7, noise=1)
    (metric,) = said(study, results, metrics=["welfare"], confidence=0.9).metrics
    rows = run_rows(study, [(run, results.found[run.name]) for run in study.runs])
    for cell in metric.cells:
        values = [
            row["welfare"]
            for row in rows
            if all(row[path] == value for path, value in cell.settings.items())
        ]
        known = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert cell.seeds == 7
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.interval == pytest.approx((known.low, known.high))


def test_differences_are_by_seed_and_pairing_pays() -> None:
    study, results = planted(7, noise=0.5)
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    taxes = [one for one in metric.differences if one.setting.startswith("governance")]
    assert [(one.base, one.value) for one in taxes] == [(0.0, 0.1), (0.0, 0.2)]
    rows = run_rows(study, [(run, results.found[run.name]) for run in study.runs])
    for one in taxes:
        sides = [
            [
                np.mean([row["welfare"] for row in rows
                         if row["seed"] == seed and row[one.setting] == value])
                for seed in range(7)
            ]
            for value in (one.base, one.value)
        ]  # fmt: skip
        paired = stats.ttest_rel(sides[1], sides[0]).confidence_interval()
        unpaired = stats.ttest_ind(sides[1], sides[0], equal_var=False).confidence_interval()
        changes = np.subtract(sides[1], sides[0])
        assert one.seeds == 7
        assert one.mean == pytest.approx(changes.mean())
        assert one.paired == pytest.approx((paired.low, paired.high))
        assert one.unpaired == pytest.approx((unpaired.low, unpaired.high))
        assert one.effect == pytest.approx(changes.mean() / changes.std(ddof=1))
        assert one.paired[0] < -10 * one.value < one.paired[1], "the planted effect"
        assert one.paired[1] - one.paired[0] < (one.unpaired[1] - one.unpaired[0]) / 5


def test_only_seeds_that_have_both_sides_are_compared() -> None:
    study, results = planted(4)
    for name in [name for name in results.found if name.startswith("0.1") and " 2 " in name]:
        del results.found[name]
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    first, second, _ = metric.differences
    assert (first.value, first.seeds) == (0.1, 3)
    assert (second.value, second.seeds) == (0.2, 4)
    assert first.mean == pytest.approx(-1)


def test_repeats_count_as_one_seed() -> None:
    study, results = planted(3, repeats=4, noise=1)
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    assert {cell.seeds for cell in metric.cells} == {3}
    assert {one.seeds for one in metric.differences} == {3}


def test_a_difference_that_is_always_the_same_has_an_interval_of_no_width() -> None:
    study, results = planted(2)
    for run in study.runs:
        results.found[run.name] = result(float(run.seed))
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    assert {(one.mean, one.paired, one.effect) for one in metric.differences} == {
        (0.0, (0.0, 0.0), None)
    }


def test_one_seed_has_no_interval() -> None:
    study, results = planted(1)
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    assert {cell.interval for cell in metric.cells} == {None}
    assert {one.paired for one in metric.differences} == {None}


def test_trajectories_are_means_by_epoch() -> None:
    study, results = planted(5)
    (metric,) = said(study, results, metrics=["welfare"]).metrics
    first = [point for point in metric.trajectories if point.settings == study.runs[0].settings]
    start = np.mean([results.found[run.name]["metrics"][0]["welfare"] for run in study.runs[:5]])
    assert [point.epoch for point in first] == [0, 1, 2]
    assert [point.mean for point in first] == pytest.approx([start, start + 1, start + 2])


def test_costs_are_means_over_runs() -> None:
    study, results = planted(3)
    costs = said(study, results).costs
    assert len(costs) == len(TAXES) * len(HEATS)
    assert {(cost.runs, cost.calls, cost.model_s) for cost in costs} == {(3, 4.0, 3.0)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "not checked"),
        ({"mode": "replay"}, "yes"),
        ({"artifacts": {"events.jsonl": "1"}}, "no"),
    ],
    ids=str,
)
def test_a_combination_whose_runs_were_not_reproducible_is_marked(
    change: Mapping[str, object], expected: str
) -> None:
    study, results = planted(2, repeats=2 if "artifacts" in change else 1)
    for run in study.runs[: 2 if "artifacts" not in change else 1]:
        results.found[run.name].update(change)
    assert said(study, results).costs[0].reproduced == expected


def test_equal_repeats_are_reproduced_and_a_failed_run_is_not() -> None:
    study, results = planted(2, repeats=2)
    assert {cost.reproduced for cost in said(study, results).costs} == {"yes"}
    gone = study.runs[0].name
    del results.found[gone]
    results.failures[gone] = {"messages": ["events.jsonl is not what was recorded"]}
    assert said(study, results).costs[0].reproduced == "no"


def test_an_unknown_metric_and_an_empty_study_are_refused() -> None:
    study, results = planted(1)
    with pytest.raises(UsageError, match="no metric 'wealth'; there are welfare"):
        said(study, results, metrics=["wealth"])
    with pytest.raises(UsageError, match="no run of s is finished"):
        said(study, Results({}))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.sampled_from([0.5, 0.9, 0.99]))
def test_an_interval_is_students(values: list[float], confidence: float) -> None:
    found = mean_interval(values, confidence)
    assert found is not None
    low, high = found
    # From the definition, with the quantile alone from scipy.
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * spread / math.sqrt(len(values))
    assert low == pytest.approx(mean - half, abs=1e-6, rel=1e-9)
    assert high == pytest.approx(mean + half, abs=1e-6, rel=1e-9)


def test_tables_hold_what_the_results_say(tmp_path: Path) -> None:
    import pyarrow.parquet

    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.tables import write_tables

    study, results = planted(2)
    folder = StudyFolder(study, tmp_path / "out")
    folder.open()
    results.path = folder.path  # type: ignore[attr-defined]
    write_tables(study, results)  # type: ignore[arg-type]
    with (folder.path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(folder.path / "runs.parquet").to_pylist()
    assert [row["run"] for row in rows] == [run.name for run in study.runs]
    for row, stored, run in zip(rows, table, study.runs, strict=True):
        epochs = results.found[run.name]["metrics"]
        assert float(row["welfare"]) == stored["welfare"] == epochs[1]["welfare"]
        assert float(row["welfare.last"]) == epochs[2]["welfare"]
        assert float(row["temperature"]) == run.settings["temperature"]
        assert stored["sha256.events.jsonl"] == "0"
        assert "net" not in row, "SWARM gave no number"
    epochs = pyarrow.parquet.read_table(folder.path / "epochs.parquet").to_pylist()
    assert len(epochs) == 3 * len(study.runs)
    assert json.dumps(epochs[1]["welfare"]) == json.dumps(
        results.found[study.runs[0].name]["metrics"][1]["welfare"]
    )
