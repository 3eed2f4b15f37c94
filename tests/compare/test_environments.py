"""How two environments differ, member by member and flag by flag."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from swarm_repro.compare.environments import Changed, environment_changes, explanation, shown
from swarm_repro.environment import Environment


def changes(then: Mapping[str, object], now: Mapping[str, object]) -> list[tuple[str, str, str]]:
    found = environment_changes(Environment(then), Environment(now))
    return [(one.field, one.recorded, one.now) for one in found]


def test_equal_environments_have_no_changes() -> None:
    content = {"cpu": "x", "settings": {"n_ctx": 8}, "flags": ["-np", "1"]}
    assert changes(content, dict(content)) == []


def test_the_best_explanation_comes_first() -> None:
    names = [
        *("backend", "build", "binary_sha256", "devices", "cpu", "machine", "system", "flags"),
        *("settings.n_ctx", "variables.OMP_X", "moon"),
    ]
    then: dict[str, object] = {}
    now: dict[str, object] = {}
    for name in reversed(names):
        member, _, inner = name.partition(".")
        then[member], now[member] = ({inner: 1}, {inner: 2}) if inner else ("1", "2")
    assert [name for name, _, _ in changes(then, now)] == names


def test_members_that_one_side_lacks_are_unknown_there() -> None:
    assert changes({"cpu": "x"}, {"settings": {"n_ctx": 8}}) == [
        ("cpu", "x", "unknown"),
        ("settings.n_ctx", "unknown", "8"),
    ]


def test_flags_are_compared_with_their_values() -> None:
    then = {"flags": ["serve", "-np", "1", "-ngl", "-1", "-fa", "--x", "1", "2"]}
    now = {"flags": ["serve", "-np", "2", "-ngl", "-1", "-fa", "on", "--x", "1", "2"]}
    assert changes(then, now) == [("flags", "-np 1 -fa", "-np 2 -fa on")]


def test_flags_in_another_order_are_the_same() -> None:
    assert changes({"flags": ["-a", "1", "-b"]}, {"flags": ["-b", "-a", "1"]}) == []


def test_flags_that_only_one_side_knows_are_shown_whole() -> None:
    assert changes({"flags": None}, {"flags": ["-np", 1]}) == [("flags", "unknown", "-np 1")]
    assert changes({"flags": ["-np", 1]}, {"flags": []}) == [("flags", "-np 1", "none")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        ([], "none"),
        (["a", 1], "a 1"),
        (("a",), "a"),
        ({"a": 1, "b": None}, "a 1, b None"),
        ("a" * 64, "a" * 12 + "…"),
        ("a" * 63, "a" * 63),
        ("x" + "a" * 64, "x" + "a" * 64),
        ("g" * 64, "g" * 64),
        (0, "0"),
        (False, "False"),
    ],
)
def test_a_value_in_words(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_change_is_explained_by_the_member_it_is_in() -> None:
    assert explanation(Changed("settings.n_ctx", "1", "2")) == "other server settings"
    assert explanation(Changed("moon.phase", "1", "2")) == "another environment"
    assert Changed("cpu", "x", "y").to_json() == {"field": "cpu", "a": "x", "b": "y"}
