"""Tokens one by one: equality, display, and malformed answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from swarm_repro.compare.tokens import Token, Written, comparable, read_tokens
from swarm_repro.completion import Completion


def answer(document: object) -> Completion:
    return Completion(200, "application/json", json.dumps(document).encode())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Token("a", id=1), Token("a", id=1), True),
        (Token("a", id=1), Token("a", id=2), False),
        (Token("a", id=1), Token("b", id=1), False),
        (Token("a", id=1), Token("a"), True),
        (Token("a"), Token("a", id=1), True),
        (Token("a"), Token("b", id=1), False),
        (Token("a", id=1), Token("b"), False),
        (Token("", b"\xf0"), Token("", b"\xf0"), True),
        (Token("", b"\xf0"), Token("", b"\xf1"), False),
        (Token("a", b"a"), Token("a"), True),
        (Token("a"), Token("a", b"b"), True),
        (Token("a", b"a"), Token("b"), False),
        (Token("a"), Token("b", b"a"), False),
        (Token(None, id=1), Token(None, id=1), True),
        (Token(None, id=1), Token(None, id=2), False),
        (Token(None, id=1), Token("a", id=1), True),
        (Token("a", id=1), Token(None, id=1), True),
        (Token(None, id=1), Token("a"), False),
        (Token("a"), Token(None, id=1), False),
        (Token(None), Token(None), False),
    ],
)
def test_two_tokens_are_equal_by_all_that_is_known_of_both(
    one: Token, other: Token, same: bool
) -> None:
    assert one.is_same(other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Token("", b"\x8d", id=7), Token("🌍", "🌍".encode(), id=7), True),
        (Token("a", id=7), Token("a", id=8), False),
        (Token("a", id=7), Token("a"), True),
        (Token("a"), Token("a", id=7), True),
        (Token("a", id=7), Token("b"), False),
        (Token("a"), Token("b", id=7), False),
    ],
)
def test_a_listed_token_is_known_by_its_id_whatever_bytes_came_with_it(
    one: Token, other: Token, same: bool
) -> None:
    assert one.is_listed_as(other) is same


@pytest.mark.parametrize(
    ("token", "swallowed"),
    [
        (Token("a"), b""),
        (Token("a", b"a"), b""),
        (Token("é", "é".encode()), None),
        (Token("é", "é".encode(), id=1, top=(Token("", b"\xa9", id=1),)), b"\xc3"),
        (Token("é", "é".encode(), id=1, top=(Token("é", "é".encode(), id=1),)), b""),
        (Token("é", "é".encode(), id=1, top=(Token("", b"\xa8", id=1),)), None),
        (Token("é", "é".encode(), id=1, top=(Token("", id=1),)), None),
        (Token("é", "é".encode(), id=1, top=(Token("x", b"\xa9", id=2),)), None),
    ],
)
def test_a_token_may_swallow_bytes_of_earlier_tokens(token: Token, swallowed: bytes | None) -> None:
    assert token.swallowed == swallowed


@pytest.mark.parametrize(
    ("token", "shown", "hidden", "encoded"),
    [
        (Token("a", b"b"), "b", False, b"b"),
        (Token("", b"\xf0\x9f"), r"\xf0\x9f", False, b"\xf0\x9f"),
        (Token("é"), "é", False, "é".encode()),
        (Token("\ud83d"), "\ud83d", False, b"\xed\xa0\xbd"),
        (Token(None, id=57), "<id 57>", False, None),
        (Token("", id=57), "", False, None),
        (Token(""), "", True, None),
        (Token("", b""), "", False, b""),
        (Token(None), "<id None>", True, None),
    ],
)
def test_how_a_token_is_shown(
    token: Token, shown: str, hidden: bool, encoded: bytes | None
) -> None:
    assert (token.shown, token.is_hidden, token.encoded) == (shown, hidden, encoded)


def test_tokens_can_be_told_apart_where_all_have_an_id_or_all_a_text() -> None:
    number, text, both = Token(None, id=1), Token("a"), Token("a", id=1)
    assert comparable([number, both], [both])
    assert comparable([text, both], [both])
    assert not comparable([number], [text])
    assert not comparable([number, both], [text])
    assert comparable([], [])


# --- A text within its tokens.


def written(text: str, *parts: str) -> Written | None:
    return Written.make(text, [Token(part) for part in parts])


def test_a_text_is_found_where_its_tokens_say_it() -> None:
    found = written("cat", "<", "é>", "ca", "t", "!")
    assert found is not None
    assert (found.starts, found.lead) == ((0, 1, 4, 6, 7), 4)
    assert found.data == "<é>cat!".encode()
    assert [token.text for token in found.tokens] == ["<", "é>", "ca", "t", "!"]


def test_a_text_that_its_tokens_do_not_say_has_no_place() -> None:
    assert written("dog", "cat") is None
    assert written("") is None
    assert Written.make("", []) is None
    assert Written.make("a", [Token("a"), Token(None, id=3)]) is None, "bytes that are not shown"


@pytest.mark.parametrize(
    ("before", "index"),
    [(b"", 1), (b"c", 1), (b"ca", 2), (b"cat", 3), (b"cat!", None), (b"d", None), (b"cats", None)],
)
def test_the_token_that_goes_on_past_a_beginning(before: bytes, index: int | None) -> None:
    found = written("cat", "<", "ca", "t", "!")
    assert found is not None
    assert found.token_after(before) == index


def test_an_empty_last_token_ends_the_text() -> None:
    found = Written.make("cat", [Token("cat", b"cat"), Token("", b"")])
    assert found is not None
    assert found.token_after(b"cat") == 1
    assert found.token_after(b"ca") == 0


def test_a_token_begins_at_or_in_a_character_of_the_text() -> None:
    found = Written.make("é!", [Token("<"), Token("", b"\xc3"), Token("", b"\xa9"), Token("!")])
    assert found is not None
    assert [found.character(index) for index in range(6)] == [0, 0, 0, 1, 2, 2]


# --- Forms that real backends do not write, or not always.


def legacy(**logprobs: Any) -> tuple[Token, ...] | None:
    return read_tokens(answer({"choices": [{"text": "x", "logprobs": logprobs}]}))


def test_lists_that_are_shorter_than_their_tokens_leave_the_rest_unknown() -> None:
    tokens = legacy(
        tokens=["a", "b", "c"], token_logprobs=[-1.0, -2.0], top_logprobs=[{"a": -1.0, "z": -0.5}]
    )
    assert tokens == (
        Token("a", logprob=-1.0, top=(Token("z", logprob=-0.5), Token("a", logprob=-1.0))),
        Token("b", logprob=-2.0),
        Token("c"),
    )


def test_tokens_alone_have_no_logprobs() -> None:
    assert legacy(tokens=["a", 5]) == (Token("a"), Token("5"))
    assert legacy(tokens=["a"], token_logprobs=None, top_logprobs=None) == (Token("a"),)
    assert legacy(tokens="ab") is None


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"token": "a"}, Token("a")),
        ({}, Token("")),
        ("no object", Token("")),
        ({"token": "a", "bytes": "no list"}, Token("a")),
        ({"token": "a", "bytes": [98], "id": "x"}, Token("a", b"b")),
        ({"token": "a", "logprob": True}, Token("a")),
        ({"token": "a", "logprob": "-1"}, Token("a")),
        ({"token": "a", "logprob": 0}, Token("a", logprob=0.0)),
        ({"token": "a", "logprob": -1e30}, Token("a")),
        ({"token": "a", "logprob": -1e29}, Token("a", logprob=-1e29)),
        ({"token": "a", "prob": 0.5, "logprob": -9}, Token("a", logprob=math.log(0.5))),
        ({"token": "a", "prob": 1}, Token("a", logprob=0.0)),
        ({"token": "a", "prob": 1.5}, Token("a")),
        ({"token": "a", "prob": 0}, Token("a")),
        ({"token": "a", "prob": "0.5"}, Token("a")),
        (
            {"token": "a", "top_logprobs": [{"token": "b", "logprob": -2}, {"token": "c"}]},
            Token("a", top=(Token("b", logprob=-2.0),)),
        ),
        (
            {"token": "a", "top_probs": [{"token": "b", "prob": 0.1}, {"token": "c", "prob": 1}]},
            Token("a", top=(Token("c", logprob=0.0), Token("b", logprob=math.log(0.1)))),
        ),
    ],
)
def test_invalid_members_of_a_token_are_left_out(item: object, expected: Token) -> None:
    document = {"choices": [{"logprobs": {"content": [item]}}]}
    assert read_tokens(answer(document)) == (expected,)


def test_the_form_with_logprobs_is_read() -> None:
    ids = {"tokens": [1, 2, "x"]}
    probable = {"completion_probabilities": [{"token": "a", "id": 3}]}
    listed = {"choices": [{"logprobs": {"content": [{"token": "b"}]}}]}
    assert read_tokens(answer({**ids, **probable, **listed})) == (Token("b"),)
    assert read_tokens(answer({**ids, **probable})) == (Token("a", id=3),)
    assert read_tokens(answer(ids)) == (Token(None, id=1), Token(None, id=2))
    assert read_tokens(answer({"__verbose": {**ids, **probable}})) == (Token("a", id=3),)
    assert read_tokens(answer({**ids, "__verbose": probable})) == (Token("a", id=3),)


def test_invalid_documents_and_choices_have_no_tokens() -> None:
    good = {"logprobs": {"content": [{"token": "b"}]}}
    assert read_tokens(answer({"choices": ["x", None, {"logprobs": 3}, good]})) == (Token("b"),)
    assert read_tokens(answer("text")) is None
    assert read_tokens(answer({"tokens": {"a": 1}, "__verbose": "x"})) is None
