"""What is recommended, what it costs, and what is said of the rest."""

from __future__ import annotations

import pytest

from swarm_repro.audit.experiments import EXPERIMENTS
from swarm_repro.audit.judge import (
    in_order_of_price,
    missing_from,
    notes_on,
    price_list,
    recommend,
    verdict,
)
from swarm_repro.audit.report import Cell
from tests.support.audit_reports import cell, experiments, measured

WITHIN = experiments("repeat", "load")
BOTH = experiments("repeat", "load", "batch", "seed-none")


def test_prices_are_relative_to_the_default_and_the_cheapest_is_first() -> None:
    prices = price_list({"strict": 20.0, "default": 10.0, "one-slot": 15.0})
    assert [price.setting for price in prices] == ["default", "one-slot", "strict"]
    assert [price.relative for price in prices] == [1.0, 1.5, 2.0]


def test_without_the_default_there_are_seconds_and_no_relative_price() -> None:
    assert [price.relative for price in price_list({"strict": 20.0})] == [None]


def test_settings_stand_in_the_order_of_their_price_and_those_without_one_last() -> None:
    settings = [measured("failed"), measured("strict"), measured("default")]
    ordered = in_order_of_price(settings, price_list({"strict": 2.0, "default": 1.0}))
    assert [setting.name for setting in ordered] == ["default", "strict", "failed"]


def test_the_cheapest_setting_with_one_answer_in_every_experiment_is_recommended() -> None:
    cells = [
        *(cell("default", "repeat", 3), cell("default", "load", 1)),
        *(cell("cheap", "repeat"), cell("cheap", "load")),
        *(cell("dear", "repeat"), cell("dear", "load")),
    ]
    prices = price_list({"default": 10.0, "cheap": 12.0, "dear": 20.0})
    settings = [measured("default"), measured("cheap"), measured("dear")]
    found = recommend(settings, WITHIN, cells, prices)
    assert found is not None
    assert (found.setting.name, found.relative_price, found.is_exact) == ("cheap", 1.2, True)


def test_a_setting_whose_experiment_failed_is_not_recommended_but_a_skipped_one_is_no_bar() -> None:
    cells = [
        *(cell("a", "repeat"), cell("a", "load", None, status="failed", why="died")),
        *(cell("b", "repeat"), cell("b", "load", None, status="skipped", why="one prompt")),
    ]
    found = recommend([measured("a"), measured("b")], WITHIN, cells, ())
    assert found is not None
    assert found.setting.name == "b"
    assert recommend([measured("a")], WITHIN, cells, ()) is None


def test_what_is_compared_across_settings_and_odd_seeds_do_not_count_against_one() -> None:
    cells = [
        *(cell("a", "repeat"), cell("a", "load")),
        *(cell("a", "batch", 2), cell("a", "seed-none", 5)),
    ]
    assert recommend([measured("a")], BOTH, cells, ()) is not None


def test_equal_texts_with_drifting_logprobs_come_after_equal_bits_however_cheap() -> None:
    cells = [
        *(cell("cheap", "repeat", logprob_drift=0.01), cell("cheap", "load", logprob_drift=0.0)),
        *(cell("dear", "repeat", logprob_drift=0.0), cell("dear", "load")),
    ]
    settings = [measured("cheap"), measured("dear")]
    found = recommend(settings, WITHIN, cells, ())
    assert found is not None
    assert (found.setting.name, found.is_exact) == ("dear", True)
    alone = recommend(settings[:1], WITHIN, cells, ())
    assert alone is not None
    assert (alone.setting.name, alone.is_exact) == ("cheap", False)
    assert "luck" in verdict(alone, WITHIN, cells)
    assert notes_on(WITHIN, cells) == (
        "cheap: one text in repeat, but logprobs drifted, so that another prompt may part there",
    )


def test_a_model_in_process_has_no_flags_to_copy_and_is_passed_over() -> None:
    cells = [cell("in-process", "repeat"), cell("strict", "repeat")]
    settings = [measured("in-process", in_process=True), measured("strict")]
    found = recommend(settings, experiments("repeat"), cells, ())
    assert found is not None
    assert found.setting.name == "strict"


def test_without_an_experiment_that_decides_nothing_is_recommended() -> None:
    tried = experiments("batch")
    cells = [cell("a", "batch")]
    assert recommend([measured("a")], tried, cells, ()) is None
    assert verdict(None, tried, cells).startswith("nothing recommended")


def test_the_verdict_names_the_price_and_the_default_at_its_worst() -> None:
    cells = [
        *(cell("default", "repeat", 2), cell("default", "load", 4)),
        *(cell("strict", "repeat"), cell("strict", "load")),
    ]
    prices = price_list({"default": 10.0, "strict": 17.0})
    found = recommend([measured("default"), measured("strict")], WITHIN, cells, prices)
    assert verdict(found, WITHIN, cells) == (
        "strict gave one answer in the 2 tried of 7 experiments, at 1.70 times the default's time;"
        " the default gave 4 different answers in 5 (load)"
    )
    assert verdict(None, WITHIN, cells) == (
        "no setting gave one answer in every experiment within it"
    )


@pytest.mark.parametrize(
    ("distinct", "said"),
    [(5, "5 different answers in 5: it is drawn anew for each request"), (1, "one answer in 5")],
)
def test_what_odd_seeds_did_is_noted(distinct: int, said: str) -> None:
    notes = notes_on(experiments("seed-none"), [cell("strict", "seed-none", distinct)])
    assert len(notes) == 1
    assert notes[0].startswith(f"seed-none, strict: {said}")


def test_what_is_missing_says_what_and_why_and_says_the_same_once() -> None:
    skipped = {"status": "skipped", "why": "llama.cpp sees no GPU here"}
    cells = [
        *(cell("a", "device", None, **skipped), cell("b", "device", None, **skipped)),
        cell("a", "load", None, status="failed", why="llama-server (process 7) ended"),
        *(cell("b", "load"), cell("b", "stream", None, status="skipped", why="not here")),
        cell("in-process", "stream", None, status="skipped", why="asked of llama-server only"),
        *(cell("b", "seed-0"), cell("a", "seed-0", None, status="skipped", why="tried with b")),
    ]
    settings = [measured("a"), measured("b"), measured("in-process", in_process=True)]
    tried = experiments("device", "load", "stream", "seed-0")
    assert missing_from(settings, tried, cells, ["in-process: not installed"] * 2) == (
        "a, load: llama-server (process 7) ended",
        "device: llama.cpp sees no GPU here",
        "stream (b): not here",
        "in-process: not installed",
    )


@pytest.mark.parametrize(
    ("cells", "prices", "expected"),
    [
        # Recommended: the default itself, for which there is nothing to compare with.
        (
            [cell("default", "repeat"), cell("default", "load")],
            {"default": 2.0},
            (
                "default gave one answer in the 2 tried of 7 experiments, at 1.00 times the"
                " default's time"
            ),
        ),
        # The default was not measured, so there is no price relative to it either.
        (
            [cell("strict", "repeat"), cell("strict", "load")],
            {"strict": 2.0},
            "strict gave one answer in the 2 tried of 7 experiments",
        ),
        # The default gave one answer at least where it was asked; a failure says nothing.
        (
            [
                cell("default", "repeat"),
                cell("default", "load", None, status="failed", why="it died"),
                *(cell("strict", "repeat"), cell("strict", "load")),
            ],
            {"strict": 2.0},
            (
                "strict gave one answer in the 2 tried of 7 experiments; the default gave one"
                " answer in 5 (repeat)"
            ),
        ),
        (
            [
                cell("default", "repeat", None, status="failed", why="it died"),
                cell("default", "load", None, status="failed", why="it died"),
                *(cell("strict", "repeat"), cell("strict", "load")),
            ],
            {},
            "strict gave one answer in the 2 tried of 7 experiments",
        ),
        # What was skipped is not counted as tried.
        (
            [
                cell("strict", "repeat"),
                cell("strict", "load", None, status="skipped", why="one prompt"),
            ],
            {},
            "strict gave one answer in the 1 tried of 7 experiments",
        ),
        # Neither experiments across settings nor odd seeds are among those within.
        (
            [
                *(cell("default", "repeat"), cell("default", "load", None, status="failed")),
                *(cell("default", "batch", 9), cell("strict", "batch"), cell("strict", "repeat")),
                *(cell("strict", "load", logprob_drift=0.5), cell("strict", "seed-none", 5)),
            ],
            {"default": 4.0, "strict": 5.0},
            (
                "strict gave one answer in the 2 tried of 7 experiments (texts agreed, logprobs did"
                " not: luck may end), at 1.25 times the default's time; the default gave one"
                " answer in 5 (repeat)"
            ),
        ),
    ],
)
def test_the_whole_verdict(cells: list[Cell], prices: dict[str, float], expected: str) -> None:
    settings = [measured(name) for name in dict.fromkeys(cell.setting for cell in cells)]
    found = recommend(settings, BOTH, cells, price_list(prices))
    assert verdict(found, BOTH, cells) == expected


def test_a_setting_that_passed_all_there_are_is_said_to_have() -> None:
    within = [one for one in EXPERIMENTS if one.kind == "within"]
    cells = [cell("strict", one.name) for one in within]
    found = recommend([measured("strict")], EXPERIMENTS, cells, ())
    assert verdict(found, EXPERIMENTS, cells) == "strict gave one answer in all 7 experiments"


def test_a_setting_of_which_all_was_skipped_is_not_recommended() -> None:
    cells = [cell("a", "repeat", None, status="skipped", why="so"), cell("b", "repeat", 2)]
    assert recommend([measured("a"), measured("b")], WITHIN, cells, ()) is None


def test_settings_without_a_price_keep_their_order() -> None:
    settings = [measured("b"), measured("a"), measured("default")]
    ordered = in_order_of_price(settings, price_list({"default": 3.0}))
    assert [setting.name for setting in ordered] == ["default", "b", "a"]


def test_nothing_is_relative_to_a_default_that_took_no_time() -> None:
    assert [price.relative for price in price_list({"default": 0.0, "a": 1.0})] == [None, None]


def test_notes_are_of_odd_seeds_that_were_tried_and_of_drift_within_a_setting() -> None:
    tried = experiments("repeat", "load", "batch", "seed-none", "seed-0")
    cells = [
        cell("a", "repeat", logprob_drift=0.1),
        cell("a", "load", logprob_drift=0.2),
        cell("a", "batch", logprob_drift=0.3),
        cell("a", "seed-none", None, status="failed", why="it died"),
        cell("a", "seed-0", None, status="skipped", why="tried with b"),
        cell("b", "repeat", 2, logprob_drift=0.1),
        cell("b", "load", logprob_drift=0.0),
        cell("b", "seed-none", 3),
        cell("b", "seed-0", logprob_drift=0.5),
        cell("c", "load", logprob_drift=0.1),
    ]
    drifted = "but logprobs drifted, so that another prompt may part there"
    assert notes_on(tried, cells) == (
        "seed-none, b: 3 different answers in 5: it is drawn anew for each request",
        "seed-0, b: one answer in 5: it is a seed like others",
        f"a: one text in repeat, load, {drifted}",
        f"c: one text in load, {drifted}",
    )


def test_what_was_skipped_with_some_settings_only_names_them() -> None:
    skipped = {"status": "skipped", "why": "so"}
    cells = [
        *(cell("a", "device", None, **skipped), cell("a", "stream", None, **skipped)),
        *(cell("b", "device", None, **skipped), cell("b", "stream", None, **skipped)),
        *(cell("c", "device", None, status="skipped", why="thus"), cell("c", "stream")),
    ]
    tried = experiments("device", "stream", "seed-0")
    settings = [measured(name) for name in "abc"]
    assert missing_from(settings, tried, cells, ()) == (
        "device (a, b): so",
        "stream (a, b): so",
        "device (c): thus",
    )


def test_nothing_missing_is_an_empty_list() -> None:
    assert missing_from([measured("a")], WITHIN, [cell("a", "repeat")], ()) == ()
