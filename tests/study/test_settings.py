"""Settings by dotted path: their places, and the refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from swarm_repro.errors import UsageError
from swarm_repro.study.settings import apply, require_setting

SCENARIO: dict[str, Any] = {
    "scenario_id": "small",
    "simulation": {"n_epochs": 2, "seed": 1},
    "agents": [{"type": "llm", "llm": {"temperature": 0.5, "model": "m", "stop": None}}],
    "governance": {"transaction_tax_rate": 0.0, "audit_enabled": True},
    "success_criteria": {},
    "tags": [],
}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("governance.transaction_tax_rate", 0.5, ("governance", "transaction_tax_rate")),
        ("governance.new", 1, ("governance", "new")),
        ("agents.0.llm.temperature", 1, ("agents", 0, "llm", "temperature")),
        ("payoff.w_rep", 2.0, ("payoff", "w_rep")),
        ("motto", "x", ("motto",)),
    ],
)
def test_a_setting_lands_at_its_path_and_the_document_stays(
    path: str, value: object, expected: tuple[Any, ...]
) -> None:
    before = copy.deepcopy(SCENARIO)
    place: Any = apply(SCENARIO, {path: value})
    for name in expected:
        place = place[name]
    assert place == value
    assert before == SCENARIO


def test_an_item_of_a_list_is_replaced() -> None:
    changed = apply({"caps": [1, 2, 3], "deep": [{"caps": [4]}]}, {"caps.1": 9, "deep.0.caps.0": 5})
    assert changed == {"caps": [1, 9, 3], "deep": [{"caps": [5]}]}


GOOD: list[tuple[str, object]] = [
    ("simulation.n_epochs", 3),
    ("agents.0.type", "honest"),
    ("agents.0.llm.temperature", 1),
    ("agents.0.llm.temperature", 0.25),
    ("simulation.n_epochs", 2.5),
    ("governance.audit_enabled", False),
    # What is null in the scenario may become anything.
    ("agents.0.llm.stop", "x"),
    ("agents.0.llm.stop", ["x"]),
    ("agents.0.llm.stop", True),
    # SWARM's own, which the scenario leaves out.
    ("governance.audit_probability", 0.5),
    ("payoff.w_rep", 2.0),
    ("rate_limits.posts_per_epoch", 3),
    # An empty list or mapping is a value of its own.
    ("tags", ["a"]),
    ("success_criteria", {"a": 1}),
]


@pytest.mark.parametrize(("path", "value"), GOOD, ids=str)
def test_values_like_the_known_one_are_taken(path: str, value: object) -> None:
    require_setting(SCENARIO, path, [value], where="s.yaml")


BAD: list[tuple[str, object, str]] = [
    (
        "simulation.n_epochs",
        "two",
        "simulation.n_epochs: 'two' is no value for it: s.yaml has 2 (int)",
    ),
    ("governance.audit_enabled", 1, "1 is no value for it: s.yaml has True (bool)"),
    ("governance.audit_enabled", "yes", "'yes' is no value for it"),
    ("governance.transaction_tax_rate", False, "False is no value for it"),
    ("governance.transaction_tax_rate", [0.1], "[0.1] is no value for it"),
    ("agents.0.llm.model", 7, "7 is no value for it: s.yaml has 'm' (str)"),
    ("tags", "a", "'a' is no value for it: s.yaml has [] (list)"),
    ("tags", {"a": 1}, "{'a': 1} is no value for it"),
    (
        "agents.1.type",
        "llm",
        "agents.1.type: agents of s.yaml is a list of 1: use 0 to 0, not '1'",
    ),
    ("agents.-1.type", "llm", "is a list of 1: use 0 to 0, not '-1'"),
    ("agents.x.type", "llm", "not 'x'"),
    ("agents", [], "agents of s.yaml holds several values: name one of them"),
    ("governance", {}, "governance of s.yaml holds several values: name one of them"),
    (
        "agents.0.llm.temprature",
        1,
        "does not exist in s.yaml, and SWARM has no default for it; near it are agents.0.llm.temp",
    ),
    ("governance.transaction_tax_rate.x", 1, "governance.transaction_tax_rate.x does not exist"),
    ("simulatoin", 1, "SWARM has no default for it; near it are simulation"),
    ("governance.audit_probabilty", 1, "near it are governance.audit_probability"),
]


@pytest.mark.parametrize(("path", "value", "said"), BAD, ids=str)
def test_settings_unknown_to_the_scenario_are_refused(path: str, value: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        require_setting(SCENARIO, path, [value], where="s.yaml")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("scenario_id", "it names the scenario"),
        ("simulation.seed", "seeds are listed under 'seeds'"),
        ("repro.cassette", "a study names its cassettes itself"),
    ],
)
def test_what_a_study_sets_in_another_way_is_refused_with_that_way(path: str, why: str) -> None:
    with pytest.raises(UsageError) as raised:
        require_setting(SCENARIO, path, ["x"], where="s.yaml")
    assert str(raised.value) == f"{path} is no setting of a study: {why}"


def test_every_value_is_looked_at() -> None:
    with pytest.raises(UsageError, match="'high' is no value"):
        require_setting(SCENARIO, "simulation.n_epochs", [1, 2, "high"], where="s.yaml")


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(UsageError) as raised:
        require_setting(SCENARIO, "zzz.qqq", [1], where="s.yaml")
    assert str(raised.value) == "zzz.qqq does not exist in s.yaml, and SWARM has no default for it"
