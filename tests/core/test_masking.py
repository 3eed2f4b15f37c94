"""Masking: no part of a credential is left in a body, and nothing else of it is touched."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.completion import Completion
from swarm_repro.errors import UsageError
from swarm_repro.masking import OWN_RULE, Masker
from swarm_repro.request import Request
from tests.support.tiny_model import chat, completion_of, json_values, make_binding

KEY = "sk-ant-api03-" + "aB3x" * 20
JSON = "application/json; charset=utf-8"


def stream(*texts: str, **members: object) -> Completion:
    events = [
        {"id": "x", "choices": [{"index": 0, "delta": {"content": text}, **members}]}
        for text in texts
    ]
    data = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return Completion(200, "text/event-stream", data + b"data: [DONE]\n\n")


def pieces(text: str, *cuts: int) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


@given(st.lists(st.integers(0, 200), max_size=30))
def test_a_credential_said_token_by_token_is_masked_once(cuts: list[int]) -> None:
    masked, found = Masker().completion(stream(*pieces(f"The key is {KEY}, keep it.", *cuts)))
    assert found == Counter({"Anthropic key": 1})
    assert masked.text.startswith("The key is [masked Anthropic key ")
    assert masked.text.endswith("], keep it.")
    assert masked.body.endswith(b"data: [DONE]\n\n")
    assert masked.body.count(b"\n\n") == stream(*pieces("x" * 10, *cuts)).body.count(b"\n\n")


def test_what_spells_a_masked_text_otherwise_is_taken_out() -> None:
    spelled = {"content": [{"token": piece, "logprob": -0.1} for piece in pieces(KEY, 9, 20, 40)]}
    masked, _ = Masker().completion(stream(f"It is {KEY}", logprobs=spelled))
    assert b"aB3x" not in masked.body
    assert b'"logprobs":null' in masked.body


@pytest.mark.parametrize("member", ["completion_probabilities", "probs", "tokens", "token_ids"])
def test_what_spells_a_native_answer_is_taken_out_with_what_it_spells(member: str) -> None:
    spelled = [{"token": piece, "id": 5} for piece in pieces(KEY, 9, 20, 40)]
    document = {"content": f"It is {KEY}", member: spelled}
    body = json.dumps(document).encode()
    masked, _ = Masker().completion(Completion(200, "application/json", body, 0.1))
    assert b"aB3x" not in masked.body
    assert json.loads(masked.body)[member] is None


def test_the_same_credential_has_the_same_mark_in_request_and_answer() -> None:
    masker = Masker()
    request, in_request = masker.request(chat(f"use {KEY}"))
    answer, in_answer = masker.completion(completion_of(f"I use {KEY}"))
    assert in_request == in_answer == Counter({"Anthropic key": 1})
    said = str(request.body["messages"][0]["content"])  # type: ignore[index]
    assert said.removeprefix("use ") == answer.text.removeprefix("I use ")
    assert KEY not in json.dumps([dict(request.body), answer.body.decode()])


def test_a_request_without_credentials_is_the_same_object() -> None:
    request = chat("hello, sk-ant and friends")
    assert Masker().request(request) == (request, Counter())
    assert Masker().request(request)[0] is request


@given(json_values())
def test_an_answer_without_credentials_keeps_every_byte(value: object) -> None:
    for body in (orjson.dumps(value), json.dumps(value, indent=1).encode(), b"data: \xff\n\n"):
        for kind in (JSON, "text/event-stream", "application/x-ndjson"):
            completion = Completion(200, kind, body)
            assert Masker().completion(completion)[0] is completion


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, f'{{"a":[1.50,"{KEY}"]}}'),
        (JSON, f"no JSON at all: {KEY}"),
        (JSON, "[" * 300 + f'"{KEY}"' + "]" * 300),
        ("application/x-ndjson", f'{{"response":"{KEY}"}}\n{{"done":true}}\n'),
        ("text/event-stream", f"event: error\ndata: {KEY}\n\n"),
        ("text/event-stream", f"data: {KEY}\r\n\r\n"),
        ("text/plain", f"{KEY}\n{KEY}"),
    ],
)
def test_every_form_of_a_body_is_masked(kind: str, body: str) -> None:
    masked, found = Masker().completion(Completion(200, kind, body.encode()))
    assert KEY[:30].encode() not in masked.body
    assert found["Anthropic key"] == body.count(KEY)
    assert masked.body.decode().count("[masked Anthropic key") == body.count(KEY)
    assert masked.body.count(b"\n") == body.count("\n")


def test_a_users_own_redaction_comes_first_and_is_counted() -> None:
    masker = Masker(lambda text: text.replace("Ada Lovelace", "[name]"))
    answer, found = masker.completion(stream("I am Ada", " Love", "lace, hello"))
    assert answer.text == "I am [name], hello"
    assert found == Counter({OWN_RULE: 1})
    request, found = masker.request(chat(f"Ada Lovelace has {KEY}"))
    assert found == Counter({OWN_RULE: 1, "Anthropic key": 1})
    assert "Ada" not in str(request.body)


def test_a_redaction_that_gives_no_text_is_an_error() -> None:
    broken: Any = lambda _text: None  # noqa: E731
    with pytest.raises(UsageError, match="gives a text"):
        Masker(broken).request(chat("hello"))


def test_the_key_in_an_address_is_masked() -> None:
    path = "POST /v1beta/models/m:generateContent?key=hunter2"
    request = Request("opaque", make_binding(), path, {"contents": []})
    masked, found = Masker().request(request)
    assert masked.path.startswith("POST /v1beta/models/m:generateContent?key=[masked URL parameter")
    assert found == Counter({"URL parameter": 1})
