"""How answers become a cell."""

from __future__ import annotations

import json

import pytest

from swarm_repro.audit.counting import count, said
from swarm_repro.completion import Completion
from tests.support.audit_reports import answer, calling, streamed


def test_equal_answers_are_one_and_part_nowhere() -> None:
    found = count({"act": [answer("yes", " I", " do")] * 4})
    assert (found.distinct, found.of, found.worst_prompt) == (1, 4, "act")
    assert found.parting is None
    assert found.drift is None


def test_the_prompt_with_most_answers_stands_for_all() -> None:
    found = count(
        {
            "act": [answer("a"), answer("a"), answer("b")],
            "vote": [answer("a"), answer("b"), answer("c")],
            "accept": [answer("a")] * 3,
        }
    )
    assert (found.distinct, found.of, found.worst_prompt) == (3, 3, "vote")


def test_the_first_answer_and_the_first_other_one_are_compared() -> None:
    one = answer("I", " sell", " grain", logprobs=(-0.1, -0.7, -0.2))
    same = answer("I", " sell", " grain", logprobs=(-0.1, -0.7, -0.2))
    other = answer("I", " buy", " grain", logprobs=(-0.1, -0.7, -0.2))
    parting = count({"act": [one, same, other]}).parting
    assert parting is not None
    assert (parting.unit, parting.index) == ("token", 1)
    assert (parting.a, parting.b) == (" sell grain", " buy grain")


def test_drift_is_the_largest_difference_of_a_logprob_where_texts_agree() -> None:
    one = answer("I", " sell", logprobs=(-0.10, -0.70))
    near = answer("I", " sell", logprobs=(-0.11, -0.70))
    far = answer("I", " sell", logprobs=(-0.10, -0.75))
    parted = answer("I", " buy", logprobs=(-0.10, -9.0))
    found = count({"act": [one, near, far, parted]})
    assert found.drift == pytest.approx(0.05)


def test_of_prompts_with_one_answer_the_one_that_drifts_most_is_named() -> None:
    still = answer("a", logprobs=(-0.5,))
    moved = answer("a", logprobs=(-0.6,))
    found = count({"act": [still, still], "vote": [still, moved]})
    assert (found.distinct, found.worst_prompt) == (1, "vote")


def test_a_stream_says_what_its_pieces_say() -> None:
    assert count({"act": [answer("I sell"), streamed("I", " se", "ll")]}).distinct == 1


def test_answers_that_call_tools_differ_by_name_and_arguments_and_not_by_id() -> None:
    assert said(calling("sell", '{"n":1}')) == said(calling("sell", '{"n":1}'))
    different = [calling("sell", '{"n":1}'), calling("sell", '{"n":2}'), calling("buy", '{"n":1}')]
    assert count({"act": different}).distinct == 3


def test_answers_without_logprobs_have_no_drift_and_do_not_hide_that_of_others() -> None:
    still, moved = answer("a", logprobs=(-0.5,)), answer("a", logprobs=(-0.6,))
    assert count({"act": [answer("a")] * 2}).drift is None
    assert count({"act": [answer("a")] * 2, "vote": [still, still]}).drift == 0.0
    found = count({"act": [still, answer("a"), moved], "vote": [answer("a")] * 2})
    assert found.drift == pytest.approx(0.1)
    assert found.worst_prompt == "act"


def test_one_answer_is_compared_with_nothing() -> None:
    found = count({"act": [answer("a", logprobs=(-0.5,))]})
    assert (found.distinct, found.of, found.parting, found.drift) == (1, 1, None, None)


def test_more_answers_weigh_more_than_any_drift() -> None:
    still, moved = answer("a", logprobs=(-0.5,)), answer("a", logprobs=(-9.0,))
    found = count({"act": [still, moved], "vote": [answer("a"), answer("b")]})
    assert (found.worst_prompt, found.distinct) == ("vote", 2)
    assert found.drift == pytest.approx(8.5), "the largest of all prompts"


def test_what_is_said_is_the_text_and_the_calls_one_after_another() -> None:
    assert said(answer("I", " do")) == "I do"
    assert said(calling("sell", '{"n":1}')) == 'sell{"n":1}'
    message = {
        "content": "now: ",
        "tool_calls": [
            {"function": {"name": "sell", "arguments": {"n": 1, "a": 2}}},
            {"function": {"name": "buy"}},
            {"function": None},
            {"function": {"arguments": "{}"}},
        ],
    }
    body = json.dumps({"choices": [{"message": message}, {"message": None}, {}]}).encode()
    assert said(Completion(200, "application/json", body)) == 'now: sell{"a":2,"n":1}buy{}'


def test_a_call_that_is_streamed_is_said_as_a_whole_one() -> None:
    pieces = [{"name": "sell", "arguments": ""}, {"arguments": '{"n"'}, {"arguments": ":1}"}]
    events = [
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": piece}]}}]}
        for piece in pieces
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in [*events, {"choices": None}])
    assert said(Completion(200, "text/event-stream", body.encode())) == 'sell{"n":1}'
