"""Answers: token usage, text, equality but for what is volatile, and what is no completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.completion import (
    IN_PROCESS,
    Completion,
    TokenUsage,
    require_completion,
    same_but_volatile,
)
from swarm_repro.errors import BackendResponseError
from tests.support.tiny_model import completion_of, texts

STREAM = "text/event-stream"


def answer(
    document: object, *, status: int = 200, content_type: str = "application/json"
) -> Completion:
    return Completion(status, content_type, json.dumps(document, separators=(",", ":")).encode())


def stream(*documents: object, done: bool = True) -> Completion:
    events = [b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents]
    return Completion(200, STREAM, b"".join(events) + (b"data: [DONE]\n\n" if done else b""))


def chunk(text: str | None, *, number: int = 0) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "created": number,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }


FULL: dict[str, Any] = {
    "id": "x",
    "created": 1,
    "model": "m",
    "object": "chat.completion",
    "system_fingerprint": "b1",
    "timings": {"predicted_ms": 1.5},
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "logprobs": {"content": [{"id": 7, "token": "a", "logprob": -0.5}]},
            "message": {
                "role": "assistant",
                "content": "hi",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
        }
    ],
    "usage": {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5},
    "__verbose": {"id_slot": 0, "timings": {"x": 1}, "prompt": "<hi>", "content": "hi"},
}


def changed(path: list[Any], value: object) -> Completion:
    document = json.loads(json.dumps(FULL))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return answer(document)


@pytest.mark.parametrize(
    "path",
    [
        ["id"],
        ["created"],
        ["model"],
        ["system_fingerprint"],
        ["timings"],
        ["__verbose", "timings"],
        ["__verbose", "id_slot"],
        ["choices", 0, "message", "tool_calls", 0, "id"],
    ],
)
def test_a_volatile_field_makes_no_difference(path: list[Any]) -> None:
    other = changed(path, "another")
    assert other.sha256 != answer(FULL).sha256
    assert same_but_volatile(answer(FULL), other)


@pytest.mark.parametrize(
    "path",
    [
        ["object"],
        ["usage", "completion_tokens"],
        ["choices", 0, "index"],
        ["choices", 0, "finish_reason"],
        ["choices", 0, "message", "content"],
        ["choices", 0, "message", "role"],
        ["choices", 0, "message", "tool_calls", 0, "type"],
        ["choices", 0, "message", "tool_calls", 0, "function", "name"],
        ["choices", 0, "logprobs", "content", 0, "logprob"],
        ["choices", 0, "logprobs", "content", 0, "id"],
        ["__verbose", "prompt"],
        ["new member"],
    ],
)
def test_any_other_field_does(path: list[Any]) -> None:
    assert not same_but_volatile(answer(FULL), changed(path, "another"))


@pytest.mark.parametrize("name", ["__verbose", "response", "item", "part", "message"])
@pytest.mark.parametrize("inside", [lambda inner: inner, lambda inner: {"output": [inner]}])
def test_inner_documents_are_compared_as_whole_answers_are(
    name: str, inside: Callable[[object], object]
) -> None:
    def one(**inner: str) -> Completion:
        return answer(inside({name: {"id": "1", "text": "same", **inner}}))

    assert same_but_volatile(one(), one(id="2"))
    assert not same_but_volatile(one(), one(text="other"))


def test_a_message_beside_choices_is_no_answer_of_its_own() -> None:
    one, other = (answer({"choices": [], "message": {"id": number}}) for number in (1, 2))
    assert not same_but_volatile(one, other)


def test_status_and_streaming_make_a_difference_and_the_duration_does_not() -> None:
    assert not same_but_volatile(answer(FULL), answer(FULL, status=201))
    assert not same_but_volatile(answer({"a": 1}), stream({"a": 1}))
    assert same_but_volatile(completion_of("x", number=1), completion_of("x", number=2))
    assert not same_but_volatile(completion_of("x"), completion_of("y"))


def test_a_stream_is_the_same_but_for_the_volatile_fields_of_its_events() -> None:
    one = stream(chunk("a"), chunk("b"))
    assert same_but_volatile(one, stream(chunk("a", number=1), chunk("b", number=2)))
    assert not same_but_volatile(one, stream(chunk("ab")))
    assert not same_but_volatile(one, stream(chunk("b"), chunk("a")))


@given(st.binary(max_size=40), st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_bodies_that_are_no_json_are_the_same_only_byte_for_byte(one: bytes, other: bytes) -> None:
    a, b = (Completion(200, "text/plain", b"\xff" + body) for body in (one, other))
    assert same_but_volatile(a, b) == (one == other)


def test_token_usage_of_each_kind_of_answer() -> None:
    assert completion_of("x").usage == TokenUsage(prompt=5, completion=3, total=8, cached=0)
    assert answer({"usage": {"prompt_tokens": 1}}).usage == TokenUsage(prompt=1)
    native = {
        "content": "x",
        "tokens_evaluated": 4,
        "tokens_predicted": 2,
        "timings": {"cache_n": 3},
    }
    assert answer(native).usage == TokenUsage(prompt=4, completion=2, total=6, cached=3)
    assert answer({"content": "x", "tokens_predicted": 2}).usage == TokenUsage(completion=2)
    assert answer({"choices": []}).usage == TokenUsage()
    assert answer([1]).usage == TokenUsage()
    last = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    assert stream(chunk("a"), last).usage == TokenUsage(prompt=1, completion=2, total=3)
    assert TokenUsage(1, 2, 3, 0).to_json() == {
        "prompt": 1, "completion": 2, "total": 3, "cached": 0,
    }  # fmt: skip


@given(st.lists(texts(), max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_text_of_a_stream_is_its_deltas_joined(parts: list[str]) -> None:
    found = stream(*map(chunk, parts), chunk(None), {"choices": []}, {"usage": {}})
    assert found.text == "".join(parts)


def test_the_text_of_each_kind_of_answer() -> None:
    assert completion_of("héllo").text == "héllo"
    assert answer({"choices": [{"text": "plain"}]}).text == "plain"
    assert answer({"content": "native"}).text == "native"
    assert answer({"choices": [{"message": {"content": None, "tool_calls": []}}]}).text == ""
    assert answer({"done": True, "response": "of Ollama"}).text == "of Ollama"
    assert answer({"response": "of another service"}).text == ""
    assert answer({"done": True, "response": {"role": "tool"}}).text == ""
    assert answer({"message": {"content": "of a chat"}}).text == "of a chat"
    assert answer({"output": [{"content": [{"type": "output_text", "text": "a piece"}]}]}).text == (
        "a piece"
    )
    assert answer({"output": ["not", {"content": "pieces"}]}).text == ""


GOOD = [
    completion_of("x"),
    stream(chunk("a")),
    Completion(200, IN_PROCESS, b'{"choices":[]}'),
    answer({"content": "error"}),
    answer({"choices": [{"message": {"content": '{"error": 1}'}}]}),
]


@pytest.mark.parametrize("good", GOOD)
def test_a_completion_is_one(good: Completion) -> None:
    require_completion(good, url="http://x")


BAD: list[tuple[str, Completion]] = [
    ("400", answer({"choices": []}, status=400)),
    ("503", answer({"choices": []}, status=503)),
    ("204", Completion(204, "application/json", b"")),
    ("302", answer({"choices": []}, status=302)),
    ("no body", Completion(200, "application/json", b"")),
    ("cut body", Completion(200, "application/json", completion_of("x").body[:-1])),
    ("html", Completion(200, "text/html", b"<html>It works!</html>")),
    ("not UTF-8", Completion(200, "application/json", b'{"content":"\xff"}')),
    ("NaN", Completion(200, "application/json", b'{"content":NaN}')),
    ("a list", answer([])),
    ("a string", answer("ok")),
    ("null", answer(None)),
    ("an error", answer({"error": {"code": 500, "message": "no"}})),
    ("an error beside choices", answer({"choices": [], "error": "no"})),
    ("stream without end", stream(chunk("a"), done=False)),
    ("empty stream", Completion(200, STREAM, b"")),
    ("stream cut in an event", Completion(200, STREAM, stream(chunk("a")).body[:-20])),
    ("error in a stream", stream(chunk("a"), {"error": {"code": 500}})),
    ("list in a stream", stream(chunk("a"), [1])),
    ("garbage in a stream", Completion(200, STREAM, b"data: {oops\n\ndata: [DONE]\n\n")),
    ("stream as JSON", Completion(200, "application/json", stream(chunk("a")).body)),
    ("error event", Completion(200, STREAM, b'error: {"code":500}\n\ndata: [DONE]\n\n')),
    ("stream of nothing", Completion(200, STREAM, b"data: [DONE]\n\n")),
    ("{}", answer({})),
    ("another service", answer({"status": "ok"})),
]


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in BAD])
def test_what_is_no_completion_is_refused(bad: Completion) -> None:
    with pytest.raises(BackendResponseError, match="http://x") as caught:
        require_completion(bad, url="http://x")
    assert caught.value.status == bad.status
    assert not caught.value.transient


@pytest.mark.parametrize("status", [200, 500])
def test_what_a_server_says_becomes_one_line_that_cannot_drive_a_terminal(status: int) -> None:
    page = Completion(status, "application/json", b'{"error":"\x1b[2J no"}\n\n \x7f')
    if status == 200:
        page = Completion(200, page.content_type, '{"error":"\x9b2J\x7f"}'.encode())
    with pytest.raises(BackendResponseError) as caught:
        require_completion(page, url="http://x")
    assert str(caught.value).isprintable()


def all_cuts(whole: Completion) -> list[Completion]:
    return [Completion(200, whole.content_type, whole.body[:end]) for end in range(len(whole.body))]


@pytest.mark.parametrize("whole", [completion_of("hé"), stream(chunk("a"), chunk("b"))])
def test_an_answer_that_breaks_off_is_refused_wherever_it_does(whole: Completion) -> None:
    trailing = len(whole.body) - len(whole.body.rstrip())
    for cut in all_cuts(whole)[: len(whole.body) - trailing]:
        with pytest.raises(BackendResponseError):
            require_completion(cut, url="http://x")


def _nested(depth: int) -> Completion:
    return Completion(200, "application/json", b'{"choices":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("look", [lambda c: c.stable_sha256])
def test_a_deeply_nested_answer_can_be_compared(look: Callable[[Completion], object]) -> None:
    assert look(_nested(300)) != look(_nested(301))
