"""Means and differences where runs, seeds or metrics are missing, by numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from swarm_repro.study.file import Run, Study, StudyBackend
from swarm_repro.study.statistics import Cell, Point, Summary, mean_interval, summarise
from tests.study.test_statistics import Results, planted, result


def study_of(*runs: tuple[str, Mapping[str, object], int, int]) -> Study:
    """A study of runs as (scenario, settings, seed, repeat)."""
    made = tuple(
        Run(place, f"run{place}", scenario, scenario, Path("s"), "", settings, seed, repeat)
        for place, (scenario, settings, seed, repeat) in enumerate(runs)
    )
    paths = tuple(dict.fromkeys(path for run in made for path in run.settings))
    return Study(
        Path("f.yaml"), "s", "0", made, paths, None, None, StudyBackend(), Path("c"), Path("o")
    )  # fmt: skip


def said(study: Study, found: dict[str, dict[str, Any]], **options: Any) -> Summary:
    return summarise(study, Results(found), **options)  # type: ignore[arg-type]


def of(value: float | None, **members: object) -> dict[str, Any]:
    return result(0.0, metrics=[{"epoch": 0, "welfare": value, "net": 1.0}], **members)


def test_a_run_whose_metric_is_no_number_is_left_out_of_its_mean() -> None:
    study = study_of(
        ("s", {"tax": 0}, 1, 0), ("s", {"tax": 0}, 1, 1), ("s", {"tax": 0}, 2, 0),
        ("s", {"tax": 0}, 3, 0), ("s", {"tax": 1}, 1, 0),
    )  # fmt: skip
    values = [2.0, 4.0, 7.0, None, None]
    summary = said(study, {f"run{i}": of(value) for i, value in enumerate(values)})
    assert (summary.study, summary.runs, summary.finished, summary.confidence) == ("s", 5, 5, 0.95)
    welfare = next(metric for metric in summary.metrics if metric.name == "welfare")
    # Seed 1 is the mean of its repeats, 3; with seed 2, 5 in all.
    assert welfare.cells == (
        Cell("s", {"tax": 0}, 2, 5.0, mean_interval([3.0, 7.0], 0.95)),
        Cell("s", {"tax": 1}, 0, None, None),
    )
    assert welfare.differences == ()
    assert welfare.trajectories == (
        Point("s", {"tax": 0}, 0, 5.0, mean_interval([3.0, 7.0], 0.95)),
    )


def test_a_seed_is_compared_only_where_both_sides_have_a_number() -> None:
    study = study_of(*[("s", {"tax": tax}, seed, 0) for tax in (0, 1) for seed in (1, 2, 3)])
    values = [1.0, 2.0, None, 4.0, 9.0, 100.0]
    summary = said(study, {f"run{i}": of(value) for i, value in enumerate(values)},
                   metrics=["welfare"])  # fmt: skip
    ((difference,),) = [metric.differences for metric in summary.metrics]
    assert (difference.scenario, difference.setting) == ("s", "tax")
    assert (difference.base, difference.value) == (0, 1)
    assert (difference.seeds, difference.mean) == (2, 5.0)
    # Differences 3 and 7: their standard deviation is the root of 8.
    assert difference.effect == pytest.approx(5 / 8**0.5)
    # Student's quantile for one degree of freedom, from tables.
    assert difference.paired == pytest.approx((5 - 12.7062047 * 2, 5 + 12.7062047 * 2))
    # Welch's, of 1, 2 and 4, 9: variances of 1/2 and 25/2, and so 6.5**2 / (1/16 + 625/16) degrees.
    half = stats.t.ppf(0.975, 6.5**2 / (626 / 16)) * 6.5**0.5
    assert difference.unpaired == pytest.approx((5 - half, 5 + half))


def test_other_settings_are_alike_on_both_sides_of_a_difference() -> None:
    settings = [{"tax": tax, "heat": heat} for tax in (0, 1) for heat in (0, 1)]
    study = study_of(*[("s", one, seed, 0) for one in settings for seed in (1, 2)])
    # tax 1, heat 1 was not finished: heat 1 has no partner at tax 1.
    values = {0: 1.0, 1: 2.0, 2: 50.0, 3: 60.0, 4: 4.0, 5: 6.0}
    summary = said(study, {f"run{i}": of(value) for i, value in values.items()},
                   metrics=["welfare"])  # fmt: skip
    (metric,) = summary.metrics
    assert [(one.setting, one.seeds, one.mean) for one in metric.differences] == [
        ("tax", 2, 3.5), ("heat", 2, 53.5),
    ]  # fmt: skip


def test_a_metric_of_one_scenario_leaves_the_others_cells_empty() -> None:
    study = study_of(("s", {}, 1, 0), ("s", {}, 2, 0), ("t", {}, 1, 0))
    found = {"run0": of(1.0), "run1": of(2.0), "run2": of(None)}
    (metric,) = said(study, found, metrics=["welfare"]).metrics
    assert [(cell.scenario, cell.seeds, cell.mean) for cell in metric.cells] == [
        ("s", 2, 1.5), ("t", 0, None),
    ]  # fmt: skip
    assert metric.differences == ()


def test_scenarios_are_compared_each_with_itself() -> None:
    study = study_of(
        *[(name, {"tax": tax}, seed, 0)
          for name in ("s", "t") for tax in (0, 1) for seed in (1, 2)]
    )  # fmt: skip
    values = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 40.0, 50.0]
    found = {f"run{i}": of(value) for i, value in enumerate(values)}
    (metric,) = said(study, found, metrics=["welfare"]).metrics
    assert [(one.scenario, one.mean, one.effect) for one in metric.differences] == [
        ("s", 2.0, None), ("t", 30.0, None),
    ]  # fmt: skip
    assert metric.differences[0].paired == (2.0, 2.0)
    assert [(cell.scenario, cell.mean) for cell in metric.cells] == [
        ("s", 1.5), ("s", 3.5), ("t", 15.0), ("t", 45.0),
    ]  # fmt: skip


def test_one_seed_has_a_difference_and_no_interval_or_effect() -> None:
    study = study_of(("s", {"tax": 0}, 1, 0), ("s", {"tax": 1}, 1, 0))
    (metric,) = said(study, {"run0": of(1.0), "run1": of(4.0)}, metrics=["welfare"]).metrics
    (one,) = metric.differences
    assert (one.seeds, one.mean, one.paired, one.unpaired, one.effect) == (1, 3.0, None, None, None)


def test_sides_that_do_not_vary_have_an_unpaired_interval_of_no_width() -> None:
    study = study_of(*[("s", {"tax": tax}, seed, 0) for tax in (0, 1) for seed in (1, 2)])
    values = [1.0, 1.0, 4.0, 4.0]
    found = {f"run{i}": of(value) for i, value in enumerate(values)}
    (metric,) = said(study, found, metrics=["welfare"]).metrics
    assert metric.differences[0].unpaired == (3.0, 3.0)
    # One side alone: Welch's with the other's spread.
    found["run3"] = of(6.0)
    (metric,) = said(study, found, metrics=["welfare"]).metrics
    low, high = metric.differences[0].unpaired or (0, 0)
    assert (low, high) == pytest.approx((4 - 12.7062047, 4 + 12.7062047))


def test_epochs_of_which_some_runs_have_none() -> None:
    study = study_of(("s", {}, 1, 0), ("s", {}, 2, 0))
    epochs = [{"epoch": epoch, "welfare": float(epoch)} for epoch in range(3)]
    found = {
        "run0": result(0, metrics=epochs),
        "run1": result(0, metrics=[{"epoch": 2, "welfare": 4.0}, {"epoch": 1, "welfare": None}]),
    }
    (metric,) = said(study, found, metrics=["welfare"]).metrics
    assert [(point.epoch, point.mean, point.interval) for point in metric.trajectories] == [
        (0, 0.0, None), (1, 1.0, None), (2, 3.0, mean_interval([2.0, 4.0], 0.95)),
    ]  # fmt: skip


def test_means_are_those_of_pandas() -> None:
    study, results = planted(5, repeats=2, noise=2)
    summary = said(study, results.found, metrics=["welfare", "calls"], confidence=0.8)
    table = pd.DataFrame(
        {"group": run.group, "seed": run.seed,
         "welfare": results.found[run.name]["metrics"][1]["welfare"]}
        for run in study.runs
    )  # fmt: skip
    by_seed = table.groupby(["group", "seed"]).welfare.mean()
    by_group = by_seed.groupby("group").agg(["mean", "std", "count"])
    welfare, calls = summary.metrics
    for cell in welfare.cells:
        row = by_group.loc[" ".join(str(value) for value in cell.settings.values())]
        half = 1.5332062737 * row["std"] / 5**0.5  # Student's quantile at 0.9 for 4 degrees
        assert cell.mean == pytest.approx(row["mean"])
        assert cell.interval == pytest.approx((row["mean"] - half, row["mean"] + half))
        assert cell.seeds == row["count"] == 5
    assert {cell.mean for cell in calls.cells} == {4.0}
    assert calls.trajectories == (), "what a run costs is not counted by epoch"
    assert summary.confidence == 0.8


def test_all_metrics_are_listed_in_the_order_of_the_table() -> None:
    study = study_of(("s", {}, 1, 0))
    summary = said(study, {"run0": of(1.0)})
    assert [metric.name for metric in summary.metrics] == [
        "welfare", "net", "calls", "prompt_tokens", "completion_tokens",
    ]  # fmt: skip
    document = summary.to_json()
    assert list(document) == [
        "report", "version", "study", "runs", "finished", "confidence", "metrics", "costs",
    ]  # fmt: skip
    assert (document["report"], document["version"]) == ("study", 1)
    assert document["metrics"][0]["cells"][0]["mean"] == 1.0
    some = said(study, {"run0": of(1.0)}, metrics=["net"])
    assert [metric.name for metric in some.metrics] == ["net"]


def test_costs_are_of_the_runs_that_are_finished() -> None:
    study = study_of(("s", {"tax": 0}, 1, 0), ("s", {"tax": 0}, 2, 0), ("s", {"tax": 1}, 1, 0))
    found = {
        "run0": of(1.0, calls=2, prompt_tokens=10, completion_tokens=1, environments=["e", "f"]),
        "run1": of(1.0, calls=6, prompt_tokens=30, completion_tokens=2, environments=["f"]),
    }
    (cost,) = said(study, found).costs
    assert (cost.scenario, cost.settings, cost.runs) == ("s", {"tax": 0}, 2)
    assert (cost.calls, cost.prompt_tokens, cost.completion_tokens) == (4.0, 20.0, 1.5)
    assert (cost.environments, cost.model_s) == (2, 3.5)
    assert cost.reproduced == "not checked"


def test_seconds_of_the_model_are_of_the_runs_that_say_so() -> None:
    class Timed(Results):
        def times(self, run: Run) -> dict[str, Any]:
            return {"model_s": 0.0} if run.seed == 1 else {}

    study = study_of(("s", {"tax": 0}, 1, 0), ("s", {"tax": 0}, 2, 0), ("s", {"tax": 1}, 2, 0))
    found = {f"run{i}": of(1.0) for i in range(3)}
    costs = summarise(study, Timed(found)).costs  # type: ignore[arg-type]
    assert [cost.model_s for cost in costs] == [0.0, None]


def test_a_failed_run_marks_its_own_combination_alone() -> None:
    study = study_of(
        ("s", {"tax": 0}, 1, 0), ("s", {"tax": 0}, 2, 0), ("s", {"tax": 1}, 1, 0),
        ("t", {"tax": 0}, 1, 0),
    )  # fmt: skip
    found = {f"run{i}": of(1.0, mode="replay") for i in (0, 2, 3)}
    results = Results(found, {"run1": {"messages": ["x"]}})
    costs = summarise(study, results).costs  # type: ignore[arg-type]
    assert [cost.reproduced for cost in costs] == ["no", "yes", "yes"]


def test_only_repeats_of_every_seed_show_that_it_is_reproduced() -> None:
    study = study_of(("s", {}, 1, 0), ("s", {}, 1, 1), ("s", {}, 2, 0))
    found = {f"run{i}": of(1.0) for i in range(3)}
    (cost,) = said(study, found).costs
    assert cost.reproduced == "not checked"
    found["run2"]["artifacts"] = {"events.jsonl": "another seed, another result"}
    (cost,) = said(study, found).costs
    assert cost.reproduced == "not checked"
    found["run1"]["artifacts"] = {"events.jsonl": "another repeat, another result"}
    (cost,) = said(study, found).costs
    assert cost.reproduced == "no"
