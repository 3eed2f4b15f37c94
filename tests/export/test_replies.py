"""The text of a completion, choice by choice; needs no inspect-ai."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from swarm_repro.completion import IN_PROCESS, Completion
from swarm_repro.export.replies import Reply, RequestedTool, TokenLogprob, replies


def of(*documents: object, kind: str = "application/json") -> list[Reply]:
    """The choices of one document, or of a stream of several."""
    if len(documents) == 1:
        return replies(Completion(200, kind, json.dumps(documents[0]).encode(), 0.1))
    body = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return replies(Completion(200, "text/event-stream", (body + "data: [DONE]\n\n").encode(), 0.1))


def delta(index: int | None = 0, **members: Any) -> dict[str, Any]:
    """An event of a stream, of one choice."""
    beside = ("finish_reason", "logprobs")
    choice: dict[str, Any] = {name: members.pop(name) for name in beside if name in members}
    if index is not None:
        choice["index"] = index
    return {"choices": [{**choice, "delta": members}]}


CHOICES: list[tuple[object, list[Reply]]] = [
    ({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]},
     [Reply("hi", finish="stop")]),
    ({"choices": [{"text": "hi", "finish_reason": None}]}, [Reply("hi")]),
    ({"choices": [{"message": {"content": None, "reasoning_content": "why"}}]},
     [Reply("", reasoning="why")]),
    ({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]},
     [Reply("a"), Reply("b")]),
    ({"choices": [{"text": "a"}, {"text": "b"}]}, [Reply("ab")]),
    # llama-server's own form.
    ({"content": " Paris", "stop_type": "limit"}, [Reply(" Paris", finish="limit")]),
    ({"content": " Paris", "stop_type": "none"}, [Reply(" Paris")]),
    ({"content": " Paris", "stop_type": ""}, [Reply(" Paris")]),
    ({"content": " Paris", "stop_type": 3, "index": 2}, [Reply(" Paris")]),
    ({"content": ["no text"]}, []),
    # What is no completion of any kind.
    ({}, []),
    ([1, 2], []),
    ("text", []),
    ({"choices": "x"}, []),
    ({"choices": [1, None]}, []),
    ({"choices": [{}]}, [Reply()]),
    ({"choices": [{"message": "x", "text": 3, "finish_reason": 1, "logprobs": []}]}, [Reply()]),
    ({"choices": [{"message": {"content": 1, "reasoning_content": [], "tool_calls": {}}}]},
     [Reply()]),
]  # fmt: skip


@pytest.mark.parametrize(("document", "expected"), CHOICES, ids=lambda value: str(value)[:50])
def test_a_completion_of_any_form_is_its_choices(document: object, expected: list[Reply]) -> None:
    assert of(document) == expected
    assert of(document, kind=IN_PROCESS) == expected


def test_pieces_of_a_stream_are_joined_by_their_choice() -> None:
    found = of(
        delta(1, content="B"),
        delta(0, content="a", reasoning_content="w"),
        delta(0, content="b", reasoning_content="hy"),
        delta(None, content="c"),
        delta(1, content="!", finish_reason="length"),
        delta(0, finish_reason="stop"),
        {"choices": [], "usage": {}},
    )
    assert found == [Reply("abc", reasoning="why", finish="stop"), Reply("B!", finish="length")]


def test_events_of_llama_servers_own_form_are_joined() -> None:
    found = of(
        {"content": "a", "stop_type": "none"},
        {"content": "b", "stop_type": "eos"},
        {"content": "", "stop_type": "none"},
    )
    assert found == [Reply("ab", finish="eos")]


@pytest.mark.parametrize("index", [-1, 1024, "1", 1.0, None])
def test_a_number_that_no_choice_has_counts_as_the_first(index: object) -> None:
    assert of({"choices": [{"index": index, "text": "a"}]}) == [Reply("a")]
    assert of({"choices": [{"index": 1023, "text": "a"}, {"text": "b"}]}) == [
        Reply("b"), Reply("a"),
    ]  # fmt: skip


def test_invalid_json_is_refused() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        replies(Completion(200, "application/json", b"{", 0.1))


# --- Tools.


def tools(*calls: object, **members: Any) -> list[RequestedTool]:
    (reply,) = of({"choices": [{"message": {"tool_calls": list(calls), **members}}]})
    return reply.tool_calls


def function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def test_tool_calls_are_in_their_places() -> None:
    assert tools(
        {"id": "x", "function": function("f", "{}")}, {"id": "y", "function": function("g", "[]")}
    ) == [RequestedTool("x", "f", "{}"), RequestedTool("y", "g", "[]")]
    assert tools({"index": 1, "id": "x", "function": function("f", "{}")}) == [
        RequestedTool(), RequestedTool("x", "f", "{}"),
    ]  # fmt: skip


def test_a_call_that_says_little_is_kept() -> None:
    assert tools({"id": 1, "function": "f"}, 7, {"function": {"name": 1}}) == [
        RequestedTool(), RequestedTool(),
    ]  # fmt: skip
    assert tools({"index": 5000, "id": "x"}) == [RequestedTool("x")]


def test_the_one_function_call_of_the_old_form() -> None:
    (reply,) = of({"choices": [{"message": {"function_call": function("f", "{}")}}]})
    assert reply.tool_calls == [RequestedTool("", "f", "{}")]
    (reply,) = of({"choices": [{"message": {"function_call": "f"}}]})
    assert reply.tool_calls == []


def test_pieces_of_tool_calls_are_joined_by_their_place() -> None:
    (reply,) = of(
        delta(tool_calls=[{"index": 0, "id": "x", "function": function("f", "")}]),
        delta(tool_calls=[{"index": 1, "id": "y", "function": function("g", "{")}]),
        delta(tool_calls=[{"index": 0, "id": "other", "function": {"arguments": '{"a":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        delta(tool_calls=[{"index": 1, "function": {"name": "h", "arguments": "}"}}]),
    )
    assert reply.tool_calls == [
        RequestedTool("x", "f", '{"a":1}'), RequestedTool("y", "gh", "{}"),
    ]  # fmt: skip


# --- Logprobs.


def logprobs(value: object) -> list[TokenLogprob]:
    (reply,) = of({"choices": [{"text": "", "logprobs": value}]})
    return reply.logprobs


def test_logprobs_of_chat_completions() -> None:
    assert logprobs(
        {
            "content": [
                {
                    "token": "He",
                    "logprob": -0.5,
                    "top_logprobs": [
                        {"token": "He", "logprob": -0.5},
                        {"token": "Ho", "logprob": -1},
                        {"token": "none"},
                        {"token": 3, "logprob": -2.0},
                        "no object",
                    ],
                },
                {"token": "y", "logprob": 0},
                {"token": "no number", "logprob": True},
                {"token": "no number", "logprob": "-1"},
                {"token": 7, "logprob": -1.0},
                "no object",
            ]
        }
    ) == [
        TokenLogprob("He", -0.5, (("He", -0.5), ("Ho", -1.0), ("", -2.0))),
        TokenLogprob("y", 0.0, ()),
    ]


def test_logprobs_of_text_completions() -> None:
    assert logprobs(
        {
            "tokens": ["a", "b", "c", 4, "d"],
            "token_logprobs": [-0.5, None, -1, -2.0, -3.0, -4.0],
            "top_logprobs": [{"a": -0.5, "x": -2, "no": None, "yes": True}, None, "no object"],
        }
    ) == [
        TokenLogprob("a", -0.5, (("a", -0.5), ("x", -2.0))),
        TokenLogprob("c", -1.0, ()),
        TokenLogprob("d", -3.0, ()),
    ]


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"content": []}, {"tokens": "ab", "token_logprobs": [-1.0]},
     {"tokens": ["a"]}, {"content": "x"}],
    ids=str,
)  # fmt: skip
def test_invalid_logprobs_are_left_out(value: object) -> None:
    assert logprobs(value) == []


def test_logprobs_of_llama_servers_own_form_and_of_a_stream() -> None:
    one = {"token": "a", "logprob": -0.5, "top_logprobs": []}
    two = {"token": "b", "logprob": -1.5}
    (reply,) = of({"content": "a", "completion_probabilities": [one]})
    assert reply.logprobs == [TokenLogprob("a", -0.5)]
    (reply,) = of(
        delta(content="a", logprobs={"content": [one]}),
        delta(content="b", logprobs={"content": [two]}),
    )
    assert reply.logprobs == [TokenLogprob("a", -0.5), TokenLogprob("b", -1.5)]
