"""Where two values part."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.difference import Difference, differences, distance, first_difference
from tests.support.tiny_model import LONG, json_values, texts


def same_json(one: object, other: object) -> bool:
    """Equality as JSON has it: member order counts, true is no 1, 1 is 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same_json(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return (
        bool(one == other) and type(one) in (int, float)
        if isinstance(one, (int, float))
        else type(one) is type(other) and one == other
    )


NEAR = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, "", "a", "ab", "b"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(st.tuples(st.sampled_from("ab"), inner), max_size=2).map(dict)
    ),
    max_leaves=4,
)


@given(NEAR, NEAR)
@settings(max_examples=200, deadline=None)
def test_there_is_no_difference_exactly_between_equal_values(one: object, other: object) -> None:
    assert (differences(one, other) == []) == same_json(one, other)


@given(json_values())
@settings(max_examples=60, deadline=None)
def test_a_value_and_its_copy_do_not_differ(value: object) -> None:
    assert differences(value, json.loads(json.dumps(value))) == []
    assert distance(differences(value, value)) == 0


@given(json_values(), json_values())
@settings(max_examples=100, deadline=None)
def test_differences_are_found_in_both_directions(one: object, other: object) -> None:
    forth, back = differences(one, other), differences(other, one)
    assert {d.field for d in forth} == {d.field for d in back}
    assert {d.character for d in forth} == {d.character for d in back}


@given(texts(), texts())
@settings(max_examples=150, deadline=None)
def test_first_difference_is_where_a_scan_finds_it(one: str, other: str) -> None:
    scan = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    assert first_difference(one, other) == scan


@given(texts(), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_first_difference_of_a_text_and_a_change_of_it(text: str, at: int) -> None:
    text += LONG
    other = chr(ord(text[at]) ^ 1)  # never the character that is there
    assert first_difference(text, text[:at] + other + text[at + 1 :]) == at
    assert first_difference(text, text[:at]) == at
    assert first_difference(text, text) == len(text)


RECORDED = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
    "temperature": 0.8,
    "stop": ["a"],
}


def only(found: list[Difference]) -> Difference:
    assert len(found) == 1
    return found[0]


def test_a_difference_names_message_and_character() -> None:
    messages = [RECORDED["messages"][0], {"role": "user", "content": "help"}]  # type: ignore[index]
    found = only(differences(RECORDED, {**RECORDED, "messages": messages}))
    assert (found.field, found.character) == ("messages[1].content", 3)
    assert str(found) == "messages[1].content, character 3: recorded 'hello', asked 'help'"


def test_a_difference_shows_both_values() -> None:
    found = only(differences(RECORDED, {**RECORDED, "temperature": 0.9}))
    assert str(found) == "temperature: recorded 0.8, asked 0.9"


def test_what_is_only_on_one_side_is_absent_on_the_other() -> None:
    without = {k: v for k, v in RECORDED.items() if k != "stop"}
    assert str(only(differences(RECORDED, without))) == "stop: recorded ['a'], asked (absent)"
    assert str(only(differences(without, RECORDED))) == "stop: recorded (absent), asked ['a']"
    longer = {**RECORDED, "stop": ["a", "b"]}
    assert str(only(differences(RECORDED, longer))) == "stop[1]: recorded (absent), asked 'b'"
    assert str(only(differences(longer, RECORDED))) == "stop[1]: recorded 'b', asked (absent)"


def test_another_member_order_is_a_difference_of_its_own() -> None:
    found = only(differences({"p": {"a": 1, "b": 2}}, {"p": {"b": 2, "a": 1}}))
    assert str(found) == "order of p: recorded ['a', 'b'], asked ['b', 'a']"


def test_true_is_not_one() -> None:
    assert differences({"a": True}, {"a": 1})
    assert not differences({"a": 1}, {"a": 1.0})


def test_long_texts_are_shown_around_the_difference() -> None:
    other = LONG[:200] + "#" + LONG[201:]
    shown = str(only(differences(LONG, other, field="prompt")))
    assert "character 200" in shown
    assert "#" in shown
    assert len(shown) < 200
    assert shown.count("…") == 4


def test_long_values_are_shortened() -> None:
    assert len(str(only(differences({"a": list(range(500))}, {})))) < 140


def test_a_text_that_parts_later_is_nearer() -> None:
    early, late = LONG[:10] + "#" + LONG[11:], LONG[:300] + "#" + LONG[301:]
    near, far = (distance(differences(LONG, other)) for other in (late, early))
    assert 0 < near < far <= 1
    assert distance(differences({"a": 1, "b": 2}, {"a": 2, "b": 3})) == 2
