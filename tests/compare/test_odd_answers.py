"""Answers that are no single message of text: what is said of them, and that nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.compare.carriers import differing_texts
from swarm_repro.compare.diff import DiffReport
from swarm_repro.completion import Completion
from tests.support.recordings import Call, record
from tests.support.society import comparing
from tests.support.tiny_model import completion_of


def tool_call(arguments: str) -> Completion:
    function = {"name": "trade", "arguments": arguments}
    calls = [{"id": f"call-{arguments}", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return completion_of("", choices=[{"index": 0, "message": message}])


def embedding(*values: float) -> Completion:
    document = {"data": [{"embedding": values, "index": 0}], "usage": {"prompt_tokens": 3}}
    return Completion(200, "application/json", json.dumps(document).encode())


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        (
            Call("buy?", tool_call('{"price":1}')),
            Call("buy?", tool_call('{"price":2}')),
            """the text is the same; choices[0].message.tool_calls[0].function.arguments: \
A '{"price":1}', B '{"price":2}'""",
        ),
        (
            Call("x", embedding(0.5, 0.25), endpoint="embedding", path="/v1/embeddings"),
            Call("x", embedding(0.5, 0.75), endpoint="embedding", path="/v1/embeddings"),
            "the text is the same; data[0].embedding[1]: A 0.25, B 0.75",
        ),
        (
            Call("x", completion_of("x", service_tier="\x1b[2J")),
            Call("x", completion_of("x", service_tier="fast")),
            "the text is the same; service_tier: A '\\x1b[2J', B 'fast'",
        ),
    ],
)
def test_a_root_beside_the_text_says_what_differs(
    tmp_path: Path, a: Call, b: Call, shown: str
) -> None:
    with comparing(record(tmp_path / "a.jsonl", [a]), record(tmp_path / "b.jsonl", [b])) as found:
        report: dict[str, Any] = DiffReport(found).to_json()
    (origin,) = report["origins"]
    assert origin["parting"] is None
    assert origin["evidence"] == [shown]


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (
            [{"message": {"content": [{"type": "text", "text": "in"}, {"text": " parts"}]}}],
            "in parts",
        ),
        ([{"message": {"content": [{"type": "image"}, "no part"]}}], ""),
        ([{"message": "no object"}], ""),
        ([{"text": 5}], ""),
        ([None, "no object"], ""),
        ("no list", ""),
        ({"0": {"text": "no list"}}, ""),
    ],
)
def test_answers_of_any_form_have_a_text_and_are_compared(
    tmp_path: Path, choices: object, text: str
) -> None:
    odd = completion_of("", choices=choices)
    assert odd.text == text
    a = record(tmp_path / "a.jsonl", [Call("x", odd)])
    b = record(tmp_path / "b.jsonl", [Call("x", "plain")])
    with comparing(a, b) as found:
        report: dict[str, Any] = DiffReport(found).to_json()
    assert report["counts"]["root"] == 1


def test_a_thousand_brackets_are_only_a_text() -> None:
    deep = "[" * 1020, "]" * 1020
    found = differing_texts(f'{deep[0]}"one"{deep[1]}', f'{deep[0]}"two"{deep[1]}')
    assert list(found) == [("one", "two")]


def test_strings_that_differ_come_in_the_order_of_their_members() -> None:
    a = {"first": "a", "second": {"x": ["b", "same"]}, "third": 1, "fourth": None}
    b = {"first": "c", "second": {"x": ["d", "same", "e"]}, "third": "f", "fifth": ["g"]}
    assert list(differing_texts(json.dumps(a), json.dumps(b))) == [
        ("a", "c"),
        ("b", "d"),
        ("", "e"),
        ("", "f"),
        ("", "g"),
    ]
