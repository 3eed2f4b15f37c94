"""From cells and prices to a recommendation, a verdict, notes, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from swarm_repro.audit.experiments import EXPERIMENTS, Experiment
from swarm_repro.audit.report import Cell, MeasuredSetting, Price, Recommendation

#: The setting that others' prices are relative to.
BASE: Final = "default"


def price_list(seconds: Mapping[str, float]) -> tuple[Price, ...]:
    """Prices relative to the default, the cheapest first.

    Args:
        seconds: For the same requests, by setting.
    """
    base = seconds.get(BASE)
    return tuple(
        Price(setting=name, seconds=spent, relative=spent / base if base else None)
        for name, spent in sorted(seconds.items(), key=lambda item: item[1])
    )


def in_order_of_price(
    settings: Sequence[MeasuredSetting], prices: Sequence[Price]
) -> tuple[MeasuredSetting, ...]:
    """Settings, the cheapest first; those without a price last, in the order given."""
    rank = {price.setting: place for place, price in enumerate(prices)}
    return tuple(sorted(settings, key=lambda setting: rank.get(setting.name, len(rank))))


def recommend(
    settings: Sequence[MeasuredSetting],
    experiments: Sequence[Experiment],
    cells: Sequence[Cell],
    prices: Sequence[Price],
) -> Recommendation | None:
    """Choose the cheapest setting of a server with one answer in every experiment within it.

    A setting whose logprobs agreed to the bit, too, comes before one whose texts alone agreed:
    where logprobs drift, equal texts are luck.

    Args:
        settings: The cheapest first; those in process, which have no flags to copy, are passed
            over.
        experiments: What was tried.
        cells: The outcome.
        prices: What each setting costs.

    Returns:
        None where no setting qualifies, or no experiment within a setting was tried.
    """
    deciding = {one.name for one in experiments if one.kind == "within"}
    relative = {price.setting: price.relative for price in prices}
    for exact in (True, False):
        for setting in settings:
            mine = [c for c in cells if c.setting == setting.name and c.experiment in deciding]
            tried = [cell for cell in mine if cell.status != "skipped"]
            passed = all(cell.is_exact if exact else cell.is_one_answer for cell in tried)
            if setting.flags and tried and passed:
                return Recommendation(
                    setting=setting,
                    relative_price=relative.get(setting.name),
                    is_exact=exact,
                )
    return None


def verdict(
    recommended: Recommendation | None,
    experiments: Sequence[Experiment],
    cells: Sequence[Cell],
) -> str:
    """The outcome in one line."""
    deciding = [one.name for one in experiments if one.kind == "within"]
    if not deciding:
        return "nothing recommended: no experiment within a setting was tried"
    if recommended is None:
        return "no setting gave one answer in every experiment within it"
    name = recommended.setting.name
    done = [c for c in cells if c.setting == name and c.experiment in deciding and c.of]
    total = sum(one.kind == "within" for one in EXPERIMENTS)
    tried = f"all {total}" if len(done) == total else f"the {len(done)} tried of {total}"
    price = recommended.relative_price
    at = "" if price is None else f", at {price:.2f} times the default's time"
    bits = "" if recommended.is_exact else " (texts agreed, logprobs did not: luck may end)"
    worst = max(
        (cell for cell in cells if cell.setting == BASE and cell.experiment in deciding),
        key=lambda cell: cell.distinct or 0,
        default=None,
    )
    if name == BASE or worst is None or worst.distinct is None:
        before = ""
    else:
        answers = "one answer" if worst.distinct == 1 else f"{worst.distinct} different answers"
        before = f"; the default gave {answers} in {worst.of} ({worst.experiment})"
    return f"{name} gave one answer in {tried} experiments{bits}{at}{before}"


def notes_on(experiments: Sequence[Experiment], cells: Sequence[Cell]) -> tuple[str, ...]:
    """What odd seeds did, and which settings agreed in text only."""
    seeds = {one.name for one in experiments if one.kind == "seed"}
    notes = [
        f"{cell.experiment}, {cell.setting}: {_what_a_seed_did(cell)}"
        for cell in cells
        if cell.experiment in seeds and cell.status == "done"
    ]
    deciding = {one.name for one in experiments if one.kind == "within"}
    for name, mine in groupby(cells, key=lambda cell: cell.setting):
        drifted = [
            cell.experiment
            for cell in mine
            if cell.experiment in deciding and cell.is_one_answer and not cell.is_exact
        ]
        if drifted:
            notes.append(
                f"{name}: one text in {', '.join(drifted)}, but logprobs drifted, so that another"
                " prompt may part there"
            )
    return tuple(notes)


def _what_a_seed_did(cell: Cell) -> str:
    if cell.distinct == 1:
        return f"one answer in {cell.of}: it is a seed like others"
    return f"{cell.distinct} different answers in {cell.of}: it is drawn anew for each request"


def missing_from(
    settings: Sequence[MeasuredSetting],
    experiments: Sequence[Experiment],
    cells: Sequence[Cell],
    untried: Sequence[str],
) -> tuple[str, ...]:
    """What did not finish or was not tried.

    Args:
        settings: The settings. In process some experiments mean nothing: that is no lack.
        experiments: What was tried.
        cells: The outcome. Odd seeds are tried with one setting for all.
        untried: Lines on what was left out altogether.
    """
    lines = [
        f"{cell.setting}, {cell.experiment}: {cell.why}"
        for cell in cells
        if cell.status == "failed"
    ]
    skipped: dict[tuple[str, str], list[str]] = {}
    by_nature = {setting.name for setting in settings if not setting.flags}
    everywhere = {cell.setting for cell in cells} - by_nature
    seeds = {one.name for one in experiments if one.kind == "seed"}
    for cell in cells:
        if cell.status == "skipped" and not (cell.experiment in seeds or cell.setting in by_nature):
            skipped.setdefault((cell.experiment, cell.why or ""), []).append(cell.setting)
    for (experiment, why), names in skipped.items():
        where = "" if set(names) == everywhere else f" ({', '.join(names)})"
        lines.append(f"{experiment}{where}: {why}")
    return tuple(dict.fromkeys((*lines, *untried)))
