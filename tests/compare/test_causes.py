"""Causes of a difference between two requests: texts and settings, as they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.causes import Cause, Edit, around, settings_causes, text_edits
from tests.support.recordings import Call, record
from tests.support.tiny_model import make_binding


def call_with(path: Path, fields: Mapping[str, object]) -> CallRecord:
    """A recorded call whose request has these members."""
    (call,) = read_cassette(record(path, [Call("", fields=fields)])).calls.values()
    return call


def edits_of(folder: Path, a: Mapping[str, object], b: Mapping[str, object]) -> list[Edit]:
    """The texts in which two requests with these members differ."""
    return text_edits(call_with(folder / "a.jsonl", a), call_with(folder / "b.jsonl", b))


def said(role: str, content: object, **members: object) -> dict[str, object]:
    return {"role": role, "content": content, **members}


def test_equal_texts_are_no_edit(tmp_path: Path) -> None:
    messages = {"messages": [said("user", "hello")]}
    assert edits_of(tmp_path, messages, {**messages, "top_k": 3}) == []


def test_an_edit_holds_both_texts_and_the_lines_that_only_one_has(tmp_path: Path) -> None:
    a = {"messages": [said("user", "one\ntwo\nsame\ntwo"), said("user", "x")]}
    b = {"messages": [said("user", "same\nthree"), said("user", "x")]}
    assert edits_of(tmp_path, a, b) == [
        Edit(
            "messages[0].content",
            "user",
            "one\ntwo\nsame\ntwo",
            "same\nthree",
            ("one", "two", "two"),
            ("three",),
        )
    ]


def test_the_edit_of_a_message_says_whose_it_is(tmp_path: Path) -> None:
    a = {"messages": [said("system", "kind"), said("user", "1"), said("assistant", "x")]}
    b = {"messages": [said("system", "cruel"), said("user", "2"), said("assistant", "y")]}
    found = edits_of(tmp_path, a, b)
    assert [(edit.field, edit.role) for edit in found] == [
        ("system prompt, messages[0].content", "system"),
        ("messages[1].content", "user"),
        ("messages[2].content", "assistant"),
    ]


def test_a_message_that_only_one_side_has_is_absent_in_the_other(tmp_path: Path) -> None:
    short = {"messages": [said("user", "1")]}
    long = {"messages": [said("user", "1"), said("tool", "2")]}
    more = repr({"role": "tool", "content": "2"})
    assert edits_of(tmp_path, short, long) == [
        Edit("messages[1]", "tool", "(absent)", more, ("(absent)",), (more,))
    ]
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").unlink()
    assert edits_of(tmp_path, long, short) == [
        Edit("messages[1]", "tool", more, "(absent)", (more,), ("(absent)",))
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (said("user", "1"), said("system", "1")),
        (said("user", "1"), said("user", "2", name="ada")),
        (said("user", "1"), said("user", [{"type": "text", "text": "1"}])),
        (said("user", None), said("user", "1")),
        ("no object", said("user", "1")),
        (said("user", "1"), "no object"),
    ],
)
def test_messages_that_differ_in_more_than_their_text_are_shown_whole(
    tmp_path: Path, a: object, b: object
) -> None:
    (edit,) = edits_of(tmp_path, {"messages": [a]}, {"messages": [b]})
    assert (edit.field, edit.role) == ("messages[0]", "user")
    shown = [one if isinstance(one, str) else repr(one) for one in (a, b)]
    assert [edit.a, edit.b] == shown


def test_messages_without_roles_or_objects_have_none(tmp_path: Path) -> None:
    (edit,) = edits_of(tmp_path, {"messages": ["1"]}, {"messages": ["2"]})
    assert (edit.field, edit.role, edit.a, edit.b) == ("messages[0]", "", "1", "2")


def test_other_texts_are_compared_by_member(tmp_path: Path) -> None:
    a = {"prompt": "1", "input": ["x"], "messages": "not a list"}
    b = {"prompt": "2", "input": ["y"], "messages": [said("user", "1")]}
    found = edits_of(tmp_path, a, b)
    assert [(edit.field, edit.role) for edit in found] == [
        ("input", ""), ("messages", ""), ("prompt", ""),
    ]  # fmt: skip
    assert (found[0].a, found[0].b) == ("['x']", "['y']")
    assert (found[1].a, found[2].b) == ("not a list", "2")


def test_a_text_that_one_side_lacks_is_absent(tmp_path: Path) -> None:
    (edit,) = edits_of(tmp_path, {}, {"prompt": "1"})
    assert (edit.field, edit.a, edit.b) == ("prompt", "(absent)", "1")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"temperature": 1}, {"temperature": 0.9}, Cause("temperature", "1", "0.9")),
        ({"stop": "x"}, {"stop": ["y"]}, Cause("stop", "x", "['y']")),
        ({"n_predict": 3}, {"max_completion_tokens": 4}, Cause("max_tokens", "3", "4")),
        ({}, {"min_keep": 3}, Cause("min_keep", "(no effect)", "3")),
    ],
)
def test_a_sampling_value_is_shown_as_the_caller_wrote_it(
    a: dict[str, object], b: dict[str, object], expected: Cause, tmp_path: Path
) -> None:
    one, other = (call_with(tmp_path / "a.jsonl", a), call_with(tmp_path / "b.jsonl", b))
    assert settings_causes(one, other, (make_binding(), make_binding())) == [expected]


def test_an_edit_is_a_cause_at_the_character_where_its_texts_part() -> None:
    a, b = "x" * 40 + "cat" + "y" * 80, "x" * 40 + "cow"
    cause = Edit("prompt", "", a, b, (a,), (b,)).cause
    assert cause == ("prompt", f"…'{'x' * 29}cat{'y' * 58}'…", f"…'{'x' * 29}cow'", 41)


@pytest.mark.parametrize(
    ("text", "at", "shown"),
    [
        ("hello", 2, "'hello'"),
        ("x" * 30 + "y", 30, f"'{'x' * 30}y'"),
        ("x" * 31 + "y", 31, f"…'{'x' * 30}y'"),
        ("x" * 60, 0, f"'{'x' * 60}'"),
        ("x" * 61, 0, f"'{'x' * 60}'…"),
        ("a\nb", 0, r"'a\nb'"),
    ],
)
def test_sixty_characters_after_a_place_and_thirty_before_are_shown(
    text: str, at: int, shown: str
) -> None:
    assert around(text, at) == shown
