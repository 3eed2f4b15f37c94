"""What is recommended, what it costs, and what is said of the rest."""

from __future__ import annotations

import pytest

from swarm_repro.audit.judge import (
    in_order_of_price,
    missing_from,
    notes_on,
    price_list,
    recommend,
    verdict,
)
from tests.audit.making import cell, experiments, measured

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
