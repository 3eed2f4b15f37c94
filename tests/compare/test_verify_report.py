"""The verdict on a call's live answers, and every line of the report on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swarm_repro import __version__
from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.environments import Changed
from swarm_repro.compare.parting import Candidate, Parting
from swarm_repro.compare.verify_judge import judge_call, logprob_request
from swarm_repro.compare.verify_report import CallVerdict, VerifyReport, text_lines
from swarm_repro.completion import Completion
from swarm_repro.errors import ExitCode
from swarm_repro.request import Endpoint, Request
from tests.support.tiny_model import chat, completion_of, make_binding, make_environment

# --- Judging.

REQUEST = chat("hello")
RECORD = CallRecord.make(
    request=REQUEST,
    completion=completion_of("x"),
    scope="ada",
    i=3,
    n=1,
    at=(0, 2),
    asked="sr1:" + "0" * 64,
    sent="sr1:" + "0" * 64,
    asked_seed=None,
    env=make_environment().sha256,
    prompt_sha256=None,
)
NOTHING = {"temperature": 0.0}


def no_logprobs() -> None:
    """A backend that has none."""


def judged(recorded: Completion, *answers: Completion, **options: Any) -> CallVerdict:
    given: dict[str, Any] = {
        "number": 5,
        "sampling": NOTHING,
        "prompt_differs": False,
        "failure": None,
        "ask_for_logprobs": no_logprobs,
        **options,
    }
    return judge_call(RECORD, recorded, answers, **given)


def tokens(*items: tuple[str, float], top: dict[str, float] | None = None) -> Completion:
    """A chat answer with logprobs; the last token has these rivals."""
    content: list[dict[str, Any]] = [
        {"token": token, "bytes": list(token.encode()), "logprob": value} for token, value in items
    ]
    content[-1]["top_logprobs"] = [
        {"token": token, "bytes": list(token.encode()), "logprob": value}
        for token, value in (top or {}).items()
    ]
    said = "".join(token for token, _ in items)
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}}
    return completion_of(said, choices=[choice])


def test_a_call_that_answers_alike_is_the_same() -> None:
    found = judged(completion_of("x"), completion_of("x", number=1), completion_of("x", number=2))
    assert found == CallVerdict(
        5, "ada", 3, 1, (0, 2), None, "same", 0, 2, 1, None, None, "x", None,
    )  # fmt: skip


def test_differing_and_distinct_answers_are_counted() -> None:
    answers = [completion_of(text, number=n) for n, text in enumerate("xyzy")]
    found = judged(completion_of("x"), *answers)
    assert (found.group, found.differing, found.of, found.distinct) == ("change", 3, 4, 3)
    assert (found.recorded_text, found.live_text) == ("x", "y")
    assert found.parting is not None
    assert (found.parting.a, found.parting.b) == ("x", "y")


def test_a_failed_call_reports_only_its_failure() -> None:
    found = judged(completion_of("x"), completion_of("y"), failure="gone", prompt_differs=True)
    assert (found.group, found.why, found.parting) == ("failed", "gone", None)
    assert (found.differing, found.live_text) == (1, "y")


@pytest.mark.parametrize("said", ["x", "y"])
def test_another_rendered_prompt_comes_before_another_answer(said: str) -> None:
    found = judged(completion_of("x"), completion_of(said), prompt_differs=True)
    assert (found.group, found.why) == (
        "prompt",
        "the backend renders another prompt from the same messages",
    )
    assert (found.parting is not None) is (said == "y")


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"temperature": 0.75}, "drawn at temperature 0.75"),
        ({}, "drawn at temperature 1"),
        ({"temperature": 0.8, "top_k": 2}, "drawn at temperature 0.8"),
        ({"temperature": 0.0}, None),
        ({"temperature": 0.8, "top_k": 1}, None),
        ({"temperature": "warm"}, None),
    ],
)
def test_tokens_that_were_drawn_come_with_a_caution(
    sampling: dict[str, object], told: str | None
) -> None:
    found = judged(completion_of("x"), completion_of("y"), sampling=sampling)
    expected = told and (
        f"{told}: where the draw falls on the edge between two "
        "tokens, noise can swap them at any margin"
    )
    assert found.why == expected


def test_a_close_second_is_a_near_tie_and_a_far_one_a_change() -> None:
    for gap, group in ((0.05, "near_tie"), (0.5, "change")):
        top = {" a": -0.5, " b": -0.5 - gap}
        one, other = (tokens(("x", -0.1), (word, top[word]), top=top) for word in (" a", " b"))
        assert judged(one, other).group == group


def test_the_first_answer_beyond_a_near_tie_counts() -> None:
    top = {" a": -0.5, " b": -0.52, " c": -3.0, " d": -4.0}
    recorded, near, far, farther = (tokens(("x", -0.1), (w, top[w]), top=top) for w in top)
    found = judged(recorded, near, far, farther)
    assert (found.group, found.parting and found.parting.b) == ("change", " c")
    assert found.live_text == "x b", "the first that differs"
    assert judged(recorded, near, near).group == "near_tie"


def test_a_witness_lends_its_logprobs_where_the_answers_have_none() -> None:
    asked: list[int] = []

    def ask() -> Completion:
        asked.append(1)
        return tokens(("x", -0.1), (" b", -0.52), top={" a": -0.5, " b": -0.52})

    answers = [completion_of("x b"), completion_of("x c")]
    found = judged(completion_of("x a"), *answers[:1], ask_for_logprobs=ask)
    assert (found.group, found.why) == ("near_tie", None)
    assert found.parting is not None
    assert found.parting.margin == pytest.approx(0.02)
    judged(completion_of("x a"), *answers, ask_for_logprobs=ask)
    assert len(asked) == 2, "once a call"
    judged(completion_of("x a"), completion_of("x a", number=1), ask_for_logprobs=ask)
    judged(completion_of("x a"), completion_of("x b"), failure="gone", ask_for_logprobs=ask)
    top = {" a": -0.5, " b": -0.52}
    with_logprobs = [tokens((word, top[word]), top=top) for word in top]
    judged(*with_logprobs, ask_for_logprobs=ask)
    assert len(asked) == 2, "not where nothing is to be found out"


def test_missing_logprobs_are_explained_beside_other_remarks() -> None:
    for sampling, said in (
        (NOTHING, "no logprobs"),
        ({"temperature": 0.5, "top_k": 0}, "noise can swap them at any margin; no logprobs"),
    ):
        found = judged(
            completion_of("a"),
            completion_of("b"),
            sampling=sampling,
            ask_for_logprobs=lambda: "no logprobs",
        )
        assert found.group == "change"
        assert found.why is not None
        assert found.why.endswith(said)


def test_logprobs_alone_are_noise_up_to_half_of_the_ceiling() -> None:
    for moved, group in ((0.37, "near_tie"), (0.38, "change")):
        found = judged(tokens(("x", -1.0)), tokens(("x", -1.0 - moved)))
        assert (found.group, found.parting) == (group, None)
        assert found.why == f"the same tokens; their logprobs differ by up to {moved:.4f} nats"


def test_a_member_beside_the_text_is_a_change() -> None:
    found = judged(completion_of("x", tier="a"), completion_of("x", tier="b"))
    assert (found.group, found.why) == (
        "change",
        "the text is the same; tier: recorded 'a', now 'b'",
    )


# --- Asking with logprobs.


def request(endpoint: Endpoint, path: str, **body: object) -> Request:
    return Request(endpoint=endpoint, binding=make_binding(), path=path, body=body)


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (
            request("chat", "/v1/chat/completions", stream=True, stream_options={}, seed=5),
            {"seed": 5, "logprobs": True, "top_logprobs": 20},
        ),
        (request("completion", "/v1/completions", n=1), {"n": 1, "logprobs": 20}),
        (request("completion", "/completion", logprobs=3), {"logprobs": 3, "n_probs": 20}),
        (request("embedding", "/v1/embeddings", input="x"), None),
    ],
)
def test_a_request_for_logprobs_changes_nothing_else(
    asked: Request, body: dict[str, object] | None
) -> None:
    made = logprob_request(asked)
    if body is None:
        assert made is None
        return
    assert made is not None
    assert made.body == body
    assert (made.endpoint, made.path, made.binding) == (asked.endpoint, asked.path, asked.binding)


def test_a_model_in_process_is_not_asked_for_logprobs() -> None:
    here = replace(make_binding(), backend="llama-cpp-python")
    assert logprob_request(chat("x", binding=here)) is None


# --- The report.


def verdict(number: int = 0, group: str = "same", **members: Any) -> CallVerdict:
    given: dict[str, Any] = {
        "number": number, "scope": "ada", "i": 1, "n": 0, "at": None, "kind": None,
        "group": group, "differing": 1, "of": 2, "distinct": 2, "parting": None, "why": None,
        "recorded_text": "x", "live_text": None, **members,
    }  # fmt: skip
    return CallVerdict(**given)


def report(*calls: CallVerdict, **members: Any) -> VerifyReport:
    given: dict[str, Any] = {
        "cassette": "c.jsonl", "repeat": 1, "order": "recorded", "environment": (), **members,
    }  # fmt: skip
    return VerifyReport(calls=calls, **given)


PARTING = Parting("token", 5, 17, "it is a", " cat", " dog")


def test_a_report_as_json() -> None:
    made = report(
        verdict(0, at=(1, 2), kind="act", live_text="y", parting=PARTING, group="near_tie"),
        verdict(1),
        environment=(Changed("cpu", "a", "b"),),
        repeat=3,
        order="shuffled",
        witness="e" * 64,
    )
    assert made.to_json() == {
        "report": "verify",
        "version": 1,
        "recorder": __version__,
        "verdict": "1 of 2 calls did not give the recorded answer: 1 near tie; first call 0 (ada) "
        "at token 5",
        "cassette": "c.jsonl",
        "repeat": 3,
        "order": "shuffled",
        "environment": [{"field": "cpu", "a": "a", "b": "b"}],
        "counts": {"same": 1, "prompt": 0, "near_tie": 1, "change": 0, "failed": 0},
        "calls": [
            {
                "number": 0, "scope": "ada", "i": 1, "n": 0, "at": [1, 2], "kind": "act",
                "group": "near_tie", "differing": 1, "of": 2, "distinct": 2,
                "parting": PARTING.to_json(), "why": None, "completion": {"a": "x", "b": "y"},
            },
            {
                "number": 1, "scope": "ada", "i": 1, "n": 0, "at": None, "kind": None,
                "group": "same", "differing": 1, "of": 2, "distinct": 2,
                "parting": None, "why": None, "completion": {"a": "x", "b": None},
            },
        ],
        "witness": "e" * 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "witness_failed", "code"),
    [
        ((), False, ExitCode.OK),
        (("same",), False, ExitCode.OK),
        (("same",), True, ExitCode.USAGE),
        (("same", "prompt"), False, ExitCode.DIFFERENCE),
        (("near_tie",), True, ExitCode.DIFFERENCE),
        (("change", "failed"), True, ExitCode.BACKEND),
    ],
)
def test_failures_count_more_than_differences_and_those_more_than_a_witness(
    groups: tuple[str, ...], witness_failed: bool, code: ExitCode
) -> None:
    calls = [verdict(number, group) for number, group in enumerate(groups)]
    assert report(*calls, witness_failed=witness_failed).exit_code is code


def test_the_verdict_names_repeats_and_model_when_all_is_the_same() -> None:
    assert report(verdict()).verdict == "all 1 calls gave the recorded answer"
    assert report(verdict(), repeat=3, other_model=True).verdict == (
        "all 1 calls gave the recorded answer, 3 times each; "
        "another model than the recorded one was asked"
    )


def test_the_verdict_counts_each_group_and_names_the_first_call() -> None:
    groups = ("same", "prompt", "near_tie", "near_tie", "change", "change", "failed")
    calls = [verdict(number, group, scope="a\x1b") for number, group in enumerate(groups)]
    assert report(*calls, other_model=True).verdict == (
        "6 of 7 calls did not give the recorded answer: 1 other rendered prompt, 2 near ties, "
        r"2 changes, 1 failure; first call 1 (a\x1b); "
        "another model than the recorded one was asked"
    )


def test_the_verdict_says_why_a_first_call_failed() -> None:
    assert report(verdict(0, "failed", why="gone")).verdict.endswith("first call 0 (ada): gone")
    assert report(verdict(0, "change", why="drawn")).verdict.endswith("first call 0 (ada)")
    assert report(verdict(0, "failed")).verdict.endswith("first call 0 (ada)")


def test_the_text_of_a_report_whose_calls_are_all_the_same() -> None:
    assert list(text_lines(report(verdict(), witness_note="noted\x1b"))) == [
        "all 1 calls gave the recorded answer",
        "same 1, other rendered prompts 0, near ties 0, changes 0, failures 0",
        r"noted\x1b",
    ]


def test_the_text_lists_differences_of_the_environment() -> None:
    lines = list(text_lines(report(verdict(), environment=(Changed("cpu", "a\x1b", "b"),))))
    assert lines[2:] == ["otherwise than in the recording:", r"  cpu: recorded a\x1b, now b"]


def call_lines(call: CallVerdict) -> list[str]:
    return list(text_lines(report(call)))[2:]


def test_a_differing_call_is_shown_with_place_and_reason() -> None:
    call = verdict(
        3, "change", at=(0, 2), kind="act", why="drawn\x1b", of=1, distinct=1, parting=PARTING
    )
    assert call_lines(call) == [
        "call 3: change, 1 of 1 answers differ (call 1 of ada at 0.2, act)",
        "  before    …it is a",
        "  recorded   cat",
        "  now        dog",
        "  token 5",
        r"  drawn\x1b",
    ]


def test_a_short_beginning_is_shown_without_dots() -> None:
    parting = Parting("character", 7, 7, "it is a", "\x1b", "")
    assert call_lines(verdict(3, "change", parting=parting))[1:] == [
        "  before    it is a",
        r"  recorded  \x1b",
        "  now       ",
        "  character 7",
    ]


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ((), (Candidate(" dog", -0.5),), "; now ' dog' -0.500; likeliest ' dog' -0.500"),
        (
            (Candidate(" cat", -0.25), Candidate("\x1b", None)),
            (),
            "; recorded ' cat' -0.250; likeliest ' cat' -0.250",
        ),
        ((Candidate(" cat", None),), (Candidate("\x1b", -1.0),),
         r"; recorded ' cat'; likeliest '\x1b' -1.000"),
        ((Candidate(" c", -0.1), Candidate(" ca", -0.2)), (),
         "; recorded ' c' -0.100; likeliest ' c' -0.100"),
        ((Candidate("x", -1.0),), (), "; likeliest 'x' -1.000"),
    ],
)  # fmt: skip
def test_the_tokens_that_were_chosen_and_the_likeliest_are_shown(
    a: tuple[Candidate, ...], b: tuple[Candidate, ...], told: str
) -> None:
    parting = Parting("token", 5, 17, "it is a", " cat", " dog", a_candidates=a, b_candidates=b)
    assert call_lines(verdict(3, "change", parting=parting))[4] == f"  token 5{told}"


def test_margin_and_drift_are_shown_where_they_are_known() -> None:
    parting = Parting("token", 5, 17, "a", "b", "c", margin=0.00004, drift=0.0)
    assert call_lines(verdict(3, "change", parting=parting))[4] == (
        "  token 5; margin 0.0000 nats; logprobs before it differ by up to 0.0000 nats"
    )
