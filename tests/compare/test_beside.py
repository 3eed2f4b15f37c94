"""Differences between two answers with the same text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm_repro.compare.beside import beside_text, describe_beside
from swarm_repro.completion import Completion
from swarm_repro.difference import Difference

SIDES = ("recorded", "now")


def answer(*values: float | None, **members: Any) -> Completion:
    """A chat answer of tokens with these logprobs, and more members of its choice."""
    content = [{"token": "x", "logprob": value} for value in values]
    choice = {"message": {"content": "x" * len(values)}, **members}
    if values:
        choice["logprobs"] = {"content": content}
    return Completion(200, "application/json", json.dumps({"choices": [choice]}).encode())


def native(*values: float, **members: Any) -> Completion:
    """An answer of llama-server's own form."""
    content = [{"token": "x", "logprob": value} for value in values]
    document = {"content": "x", "completion_probabilities": content, **members}
    return Completion(200, "application/json", json.dumps(document).encode())


def stream(*documents: dict[str, Any]) -> Completion:
    events = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return Completion(200, "text/event-stream", f"{events}data: [DONE]\n\n".encode())


def test_logprobs_alone_are_reported_by_their_largest_difference() -> None:
    assert beside_text(answer(-1.0, -2.0), answer(-1.25, -2.5)) == 0.5
    assert beside_text(native(-1.0), native(-1.25)) == 0.25


def test_another_differing_member_is_reported_before_the_logprobs() -> None:
    found = beside_text(answer(-1.0, finish_reason="stop"), answer(-1.5, finish_reason="length"))
    assert isinstance(found, Difference)
    assert found.field == "choices[0].finish_reason"
    found = beside_text(native(-1.0, stop=True), native(-1.0, stop=False))
    assert found == Difference("stop", "True", "False")


def test_the_first_differing_member_is_reported() -> None:
    found = beside_text(answer(tool_calls=[{"a": 1}], end=1), answer(tool_calls=[{"a": 2}], end=2))
    assert found == Difference("choices[0].tool_calls[0].a", "1", "2")


def test_an_object_beside_logprobs_is_looked_into() -> None:
    one, other = (answer(-1.0, message={"content": "x", "tool": {"name": n}}) for n in "ab")
    found = beside_text(one, other)
    assert isinstance(found, Difference)
    assert found.field == "choices[0].message.tool.name"


def test_events_of_two_streams_are_compared_one_by_one() -> None:
    one = stream({"choices": [{"delta": {"content": "x"}, "end": 1}]}, {"more": 1})
    other = stream({"choices": [{"delta": {"content": "x"}, "end": 2}]}, {"more": 1})
    found = beside_text(one, other)
    assert found == Difference("event[0].choices[0].end", "1", "2")
    longer = stream({"choices": [{"delta": {"content": "x"}, "end": 1}]})
    assert beside_text(one, longer) == Difference("event[1]", "{'more': 1}", "(absent)")


def test_a_difference_in_form_alone_is_no_differing_member() -> None:
    one = Completion(200, "application/json", b'{"content": "x"}')
    other = Completion(200, "application/json", b'{ "content" : "x" }')
    assert beside_text(one, other) is None
    assert beside_text(answer(-1.0), answer(-1.0)) == 0.0


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (0.12345, "the same tokens; their logprobs differ by up to 0.1235 nats"),
        (None, "the text is the same, other members differ"),
        (Difference("a.b", "1", "2"), "the text is the same; a.b: recorded 1, now 2"),
    ],
)
def test_one_line_says_what_was_found(found: float | Difference | None, told: str) -> None:
    assert describe_beside(found, sides=SIDES) == told
