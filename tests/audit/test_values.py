"""The values of an audit are made by name, and frozen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from swarm_repro.audit.counting import Count
from swarm_repro.audit.experiments import Experiment
from swarm_repro.audit.plan import AuditOptions, Plan
from swarm_repro.audit.prompts import Prompt
from swarm_repro.audit.report import AuditReport, Cell, MeasuredSetting, Price, Recommendation
from swarm_repro.audit.settings import Setting, Variant


@pytest.mark.parametrize(
    "kind",
    [
        *(AuditOptions, AuditReport, Cell, Count, Experiment, MeasuredSetting, Plan, Price),
        *(Prompt, Recommendation, Setting, Variant),
    ],
)
def test_a_value_is_made_by_name_and_cannot_change(kind: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(1)
    with pytest.raises(FrozenInstanceError):
        object.__new__(kind).anything = 1


def test_a_prompt_is_shown_without_its_text() -> None:
    prompt = Prompt(name="act", source="built in", endpoint="chat", body={"messages": ["long"]})
    assert repr(prompt) == ("Prompt(name='act', source='built in', endpoint='chat', tokens=None)")


def test_seconds_and_prices_are_rounded_to_thousandths_in_json() -> None:
    assert Price(setting="a", seconds=1.23456, relative=0.98765).to_json() == {
        "setting": "a",
        "seconds": 1.235,
        "relative": 0.988,
    }
    assert Price(setting="a", seconds=1.0, relative=None).to_json()["relative"] is None
    cell = Cell(setting="a", experiment="b", status="done", seconds=1.23456)
    assert cell.to_json()["seconds"] == 1.235
    setting = MeasuredSetting(name="a", what="", flags=(), request={}, command="")
    for price, shown in ((1.23456, 1.235), (None, None)):
        found = Recommendation(setting=setting, relative_price=price, is_exact=False).to_json()
        assert (found["relative_price"], found["exact"]) == (shown, False)


@pytest.mark.parametrize(
    ("status", "distinct", "drift", "one_answer", "exact"),
    [
        ("done", 1, None, True, True),
        ("done", 1, 0.0, True, True),
        ("done", 1, 0.1, True, False),
        ("done", 2, None, False, False),
        ("failed", 1, None, False, False),
        ("skipped", None, None, False, False),
    ],
)
def test_one_answer_is_exact_where_logprobs_did_not_drift(
    status: Any, distinct: int | None, drift: float | None, one_answer: bool, exact: bool
) -> None:
    cell = Cell(setting="a", experiment="b", status=status, distinct=distinct, logprob_drift=drift)
    assert (cell.is_one_answer, cell.is_exact) == (one_answer, exact)
