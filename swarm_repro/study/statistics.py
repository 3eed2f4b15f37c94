"""What a study says: means with confidence intervals, and differences between settings by seed.

Runs with the same seed share their randomness wherever they ask alike (seed policy ``event``), so
settings are compared seed by seed: what a seed adds to both sides falls out of the difference.
Intervals are Student's, from scipy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import fmean, stdev, variance
from typing import Any

from scipy import stats

from swarm_repro.canonical import encode_canonical
from swarm_repro.errors import UsageError
from swarm_repro.study.file import Run, Study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.tables import epoch_rows, run_rows

#: Columns of the table of runs that are no metrics.
_COSTS = ("calls", "prompt_tokens", "completion_tokens")

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """A metric at one combination of settings.

    Attributes:
        scenario: Id of the scenario.
        settings: What was set, by dotted path.
        seeds: How many seeds there are.
        mean: Over seeds, each the mean of its repeats; None where SWARM gives no number.
        interval: Of the mean, or None for fewer than two seeds.
    """

    scenario: str
    settings: Mapping[str, object]
    seeds: int
    mean: float | None
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """What another value of one setting changes, with all other settings alike.

    Attributes:
        scenario: Id of the scenario.
        setting: Dotted path.
        base: The first value of the study file.
        value: The other one.
        seeds: Seeds that have both.
        mean: Mean difference over seeds, ``value`` minus ``base``.
        paired: Interval of the mean of the differences seed by seed.
        unpaired: Welch's interval, of the same runs taken as if their seeds had nothing in common.
        effect: Cohen's d of paired samples (d_z): the mean difference over the standard deviation
            of the differences; None where all are the same.
    """

    scenario: str
    setting: str
    base: object
    value: object
    seeds: int
    mean: float
    paired: Interval
    unpaired: Interval
    effect: float | None


@dataclass(frozen=True)
class Point:
    """A metric in one epoch at one combination of settings; as ``Cell``."""

    scenario: str
    settings: Mapping[str, object]
    epoch: int
    mean: float
    interval: Interval


@dataclass(frozen=True)
class Metric:
    """All that is said of a metric.

    Attributes:
        name: As SWARM calls it.
        cells: By scenario and settings.
        differences: By scenario and setting.
        trajectories: By scenario, settings and epoch.
    """

    name: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    trajectories: tuple[Point, ...]


@dataclass(frozen=True)
class Cost:
    """What a run takes at one combination of settings, on average.

    Attributes:
        scenario: Id of the scenario.
        settings: What was set.
        runs: How many runs there are.
        reproduced: ``yes``: replays or repeats gave the same artifacts; ``no``: one did not;
            ``not checked``.
        environments: In how many environments the calls were answered.
        calls: Calls a run.
        prompt_tokens: Prompt tokens a run.
        completion_tokens: Completion tokens a run.
        model_s: Seconds a run that the model took when it was recorded.
    """

    scenario: str
    settings: Mapping[str, object]
    runs: int
    reproduced: str
    environments: int
    calls: float
    prompt_tokens: float
    completion_tokens: float
    model_s: float | None


@dataclass(frozen=True)
class Summary:
    """What a study says.

    Attributes:
        study: Its name.
        runs: How many runs it has.
        finished: How many of them are finished.
        confidence: Of all intervals.
        metrics: Metric by metric.
        costs: By scenario and settings.
    """

    study: str
    runs: int
    finished: int
    confidence: float
    metrics: tuple[Metric, ...]
    costs: tuple[Cost, ...]

    def to_json(self) -> dict[str, Any]:
        """For a script: as above, ``report`` and ``version`` first."""
        return {"report": "study", "version": 1, **asdict(self)}


def summarise(
    study: Study, folder: StudyFolder, *, metrics: Sequence[str] = (), confidence: float = 0.95
) -> Summary:
    """Read a study's results, and say what they say.

    Args:
        study: The study.
        folder: Its results.
        metrics: Names; all of them if none is given.
        confidence: Of all intervals, such as 0.95.

    Raises:
        UsageError: Nothing is finished, or a metric that there is not.
    """
    results = [(run, found) for run in study.runs if (found := folder.any_result(run)) is not None]
    if not results:
        raise UsageError(
            f"no run of {study.name} is finished: make them with swarm-repro study run {study.path}"
        )
    rows, epochs = run_rows(study, results), epoch_rows(study, results)
    known = [name for name in rows[0] if f"{name}.last" in rows[0] or name in _COSTS]
    for name in metrics:
        if name not in known:
            raise UsageError(f"there is no metric {name!r}; there are {', '.join(known)}")
    runs = [run for run, _ in results]
    return Summary(
        study=study.name,
        runs=len(study.runs),
        finished=len(results),
        confidence=confidence,
        metrics=tuple(
            Metric(
                name,
                tuple(_cells(runs, rows, name, confidence)),
                tuple(_differences(study, runs, rows, name, confidence)),
                tuple(_trajectories(runs, epochs, name, confidence)),
            )
            for name in (metrics or known)
        ),
        costs=tuple(_costs(study, folder, results)),
    )


def _by_settings(runs: Sequence[Run]) -> list[tuple[str, Mapping[str, object], list[int]]]:
    """Runs of one combination of settings, by their places; they stand together in a study."""
    found = []
    for _, group in groupby(range(len(runs)), key=lambda place: _place_of(runs[place])):
        places = list(group)
        found.append((runs[places[0]].scenario, runs[places[0]].settings, places))
    return found


def _place_of(run: Run) -> tuple[str, bytes]:
    return run.scenario, encode_canonical(dict(run.settings))


def _by_seed(
    runs: Sequence[Run], values: Mapping[int, float | None], places: Iterable[int]
) -> dict[int, float]:
    """A value for each seed: the mean of its repeats."""
    found: dict[int, list[float]] = {}
    for place in places:
        value = values[place]
        if value is not None:
            found.setdefault(runs[place].seed, []).append(float(value))
    return {seed: fmean(repeats) for seed, repeats in found.items()}


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Student's interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    spread = stdev(values) / len(values) ** 0.5
    centre = fmean(values)
    if spread == 0:
        return (centre, centre)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=centre, scale=spread)
    return (float(low), float(high))


def _cells(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], name: str, confidence: float
) -> Iterable[Cell]:
    values = {place: row[name] for place, row in enumerate(rows)}
    for scenario, settings, places in _by_settings(runs):
        found = list(_by_seed(runs, values, places).values())
        mean = fmean(found) if found else None
        yield Cell(scenario, settings, len(found), mean, mean_interval(found, confidence))


def _trajectories(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], name: str, confidence: float
) -> Iterable[Point]:
    if name in _COSTS:
        return
    by_run: dict[str, dict[int, float | None]] = {}
    for row in rows:
        by_run.setdefault(row["run"], {})[row["epoch"]] = row[name]
    for scenario, settings, places in _by_settings(runs):
        epochs = sorted({epoch for place in places for epoch in by_run.get(runs[place].name, {})})
        for epoch in epochs:
            values = {place: by_run.get(runs[place].name, {}).get(epoch) for place in places}
            found = list(_by_seed(runs, values, places).values())
            if found:
                interval = mean_interval(found, confidence)
                yield Point(scenario, settings, epoch, fmean(found), interval)


def _differences(
    study: Study,
    runs: Sequence[Run],
    rows: Sequence[Mapping[str, Any]],
    name: str,
    confidence: float,
) -> Iterable[Difference]:
    """Each setting's values against its first, seed by seed, over all other settings alike."""
    values = {place: row[name] for place, row in enumerate(rows)}
    by_scenario: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        by_scenario.setdefault(run.scenario, []).append(place)
    for places in by_scenario.values():
        for setting in study.settings:
            sides: dict[bytes, list[int]] = {}
            for place in places:
                sides.setdefault(encode_canonical(runs[place].settings[setting]), []).append(place)
            base, *others = sides.values()
            for other in others:
                found = _difference(runs, values, base, other, setting, confidence)
                if found is not None:
                    yield found


def _difference(
    runs: Sequence[Run],
    values: Mapping[int, float | None],
    base: Sequence[int],
    other: Sequence[int],
    setting: str,
    confidence: float,
) -> Difference | None:
    a = _by_rest(runs, values, base, setting)
    b = _by_rest(runs, values, other, setting)
    # Where a seed lacks a partner at some combination, that combination is left out for it.
    pairs: dict[int, list[tuple[float, float]]] = {}
    for key in a.keys() & b.keys():
        pairs.setdefault(key[0], []).append((a[key], b[key]))
    if not pairs:
        return None
    lower = [fmean(one for one, _ in both) for _, both in sorted(pairs.items())]
    upper = [fmean(two for _, two in both) for _, both in sorted(pairs.items())]
    changes = [two - one for one, two in zip(lower, upper, strict=True)]
    spread = stdev(changes) if len(changes) > 1 else 0.0
    return Difference(
        scenario=runs[base[0]].scenario,
        setting=setting,
        base=runs[base[0]].settings[setting],
        value=runs[other[0]].settings[setting],
        seeds=len(changes),
        mean=fmean(changes),
        paired=mean_interval(changes, confidence),
        unpaired=_unpaired(lower, upper, confidence),
        effect=fmean(changes) / spread if spread else None,
    )


def _by_rest(
    runs: Sequence[Run],
    values: Mapping[int, float | None],
    places: Iterable[int],
    setting: str,
) -> dict[tuple[int, bytes], float]:
    """Means of repeats, by seed and by what the other settings are."""
    found: dict[tuple[int, bytes], list[float]] = {}
    for place in places:
        rest = {path: value for path, value in runs[place].settings.items() if path != setting}
        value = values[place]
        if value is not None:
            key = (runs[place].seed, encode_canonical(rest))
            found.setdefault(key, []).append(float(value))
    return {key: fmean(repeats) for key, repeats in found.items()}


def _unpaired(a: Sequence[float], b: Sequence[float], confidence: float) -> Interval:
    if len(a) < 2:
        return None
    if stdev(a) == stdev(b) == 0:
        return (b[0] - a[0], b[0] - a[0])
    # By Welch's formula: scipy's own test warns of a side whose values are all the same.
    parts = [variance(side) / len(side) for side in (a, b)]
    scale = sum(parts)
    freedom = scale**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)
    )
    low, high = stats.t.interval(confidence, freedom, loc=fmean(b) - fmean(a), scale=scale**0.5)
    return (float(low), float(high))


def _costs(
    study: Study, folder: StudyFolder, results: Sequence[tuple[Run, Mapping[str, Any]]]
) -> Iterable[Cost]:
    runs = [run for run, _ in results]
    for scenario, settings, places in _by_settings(runs):
        here = [results[place][1] for place in places]
        took = [folder.times(runs[place]).get("model_s") for place in places]
        known = [float(one) for one in took if one is not None]
        yield Cost(
            scenario=scenario,
            settings=settings,
            runs=len(places),
            reproduced=_reproduced(study, folder, [results[place] for place in places]),
            environments=len({env for result in here for env in result["environments"]}),
            calls=fmean(result["calls"] for result in here),
            prompt_tokens=fmean(result["prompt_tokens"] for result in here),
            completion_tokens=fmean(result["completion_tokens"] for result in here),
            model_s=fmean(known) if known else None,
        )


def _reproduced(
    study: Study, folder: StudyFolder, here: Sequence[tuple[Run, Mapping[str, Any]]]
) -> str:
    """Whether what is there twice, as repeats or as recording and replay, is the same."""
    by_seed: dict[int, set[bytes]] = {}
    for run, result in here:
        by_seed.setdefault(run.seed, set()).add(encode_canonical(result["artifacts"]))
    settings = here[0][0].settings
    failed = [
        run
        for run in study.runs
        if run.scenario == here[0][0].scenario
        and run.settings == settings
        and folder.failure(run) is not None
    ]
    if failed or any(len(found) > 1 for found in by_seed.values()):
        return "no"
    is_repeated = all(sum(run.seed == seed for run, _ in here) > 1 for seed in by_seed)
    is_replayed = all(result["mode"] == "replay" for _, result in here)
    return "yes" if is_repeated or is_replayed else "not checked"
