"""Where two completions part, on the answers' real forms and on generated ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.compare.parting import (
    NOISE_CEILING,
    NOISE_FLOOR,
    Candidate,
    Parting,
    is_near_tie,
    logprob_drift,
    part,
    part_beside,
)
from swarm_repro.compare.tokens import read_tokens
from swarm_repro.completion import IN_PROCESS, Completion

JSON = "application/json; charset=utf-8"


def answer(document: object, content_type: str = JSON) -> Completion:
    return Completion(200, content_type, json.dumps(document).encode())


def stream(*documents: object) -> Completion:
    events = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return Completion(200, "text/event-stream", f"{events}data: [DONE]\n\n".encode())


def item(
    token: str | bytes,
    logprob: float | None = None,
    *,
    top: Sequence[tuple[str | bytes, float]] = (),
    number: int | None = None,
) -> dict[str, Any]:
    """A token as llama-server writes it: a part of a character has bytes but no text."""
    data = token if isinstance(token, bytes) else token.encode()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    known: dict[str, Any] = {"token": text, "bytes": list(data), "logprob": logprob}
    if number is not None:
        known["id"] = number
    if top:
        known["top_logprobs"] = [item(name, value) for name, value in top]
    return known


def said(*items: dict[str, Any], text: str | None = None) -> Completion:
    """A chat answer with the logprobs of its tokens."""
    whole = b"".join(bytes(one["bytes"]) for one in items).decode("utf-8", "ignore")
    message = {"role": "assistant", "content": whole if text is None else text}
    logprobs = {"content": list(items)}
    return answer({"choices": [{"index": 0, "message": message, "logprobs": logprobs}]})


def plain(text: str) -> Completion:
    return answer({"choices": [{"message": {"role": "assistant", "content": text}}]})


def found(parting: Parting | None) -> Parting:
    assert parting is not None
    return parting


# --- The forms in which backends show tokens, as the real ones wrote them.

SERVER_ITEMS = [
    {
        "id": 57, "token": "I", "bytes": [73], "logprob": -3.215651035308838,
        "top_logprobs": [
            {"id": 10813, "token": "", "bytes": [240, 159], "logprob": -0.571384847164154},
            {"id": 49, "token": "A", "bytes": [65], "logprob": -3.0734753608703613},
        ],
    },
    {
        "id": 6737, "token": "'d", "bytes": [39, 100], "logprob": -2.8932135105133057,
        "top_logprobs": [
            {"id": 5248, "token": "'m", "bytes": [39, 109], "logprob": -0.5502151846885681},
            {"id": 744, "token": " am", "bytes": [32, 97, 109], "logprob": -2.5799508094787598},
        ],
    },
]  # fmt: skip
CHAT = answer(
    {
        "choices": [
            {
                "finish_reason": "length", "index": 0,
                "message": {"role": "assistant", "content": "I'd"},
                "logprobs": {"content": SERVER_ITEMS},
            }
        ],
        "object": "chat.completion",
    }
)  # fmt: skip
CHAT_STREAM = stream(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
    {
        "choices": [
            {"index": 0, "delta": {"content": "I"}, "logprobs": {"content": SERVER_ITEMS[:1]}}
        ]
    },
    {
        "choices": [
            {"index": 0, "delta": {"content": "'d"}, "logprobs": {"content": SERVER_ITEMS[1:]}}
        ]
    },
    {"choices": [{"finish_reason": "length", "index": 0, "delta": {}}]},
)
COMPLETION = answer({"choices": [{"text": "I'd", "logprobs": {"content": SERVER_ITEMS}}]})
COMPLETION_STREAM = stream(
    {"choices": [{"text": "I", "index": 0, "logprobs": {"content": SERVER_ITEMS[:1]}}]},
    {"choices": [{"text": "'d", "index": 0, "logprobs": {"content": SERVER_ITEMS[1:]}}]},
    {"choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}]},
)
NATIVE = answer(
    {"content": "I'd", "tokens": [57, 6737], "completion_probabilities": SERVER_ITEMS, "stop": True}
)
NATIVE_STREAM = stream(
    {"content": "I", "tokens": [57], "completion_probabilities": SERVER_ITEMS[:1]},
    {"content": "'d", "tokens": [6737], "completion_probabilities": SERVER_ITEMS[1:]},
    {"content": "", "tokens": [], "stop": True, "tokens_predicted": 2},
)


@pytest.mark.parametrize(
    "completion", [CHAT, CHAT_STREAM, COMPLETION, COMPLETION_STREAM, NATIVE, NATIVE_STREAM]
)
def test_llama_servers_tokens_are_read_in_every_form_it_has(completion: Completion) -> None:
    tokens = read_tokens(completion)
    assert tokens is not None
    assert [(token.text, token.data, token.id) for token in tokens] == [
        ("I", b"I", 57),
        ("'d", b"'d", 6737),
    ]
    assert tokens[1].logprob == pytest.approx(-2.893213)
    assert [(top.id, top.shown) for top in tokens[0].top] == [(10813, "\\xf0\\x9f"), (49, "A")]


@pytest.mark.parametrize(
    "document",
    [
        {"content": "I'd", "tokens": [57, 6737], "tokens_predicted": 2},
        {
            "choices": [{"message": {"content": "I'd"}}],
            "__verbose": {"content": "I'd", "tokens": [57, 6737]},
        },
    ],
)
def test_bare_token_ids_are_tokens_too(document: dict[str, Any]) -> None:
    tokens = read_tokens(answer(document))
    assert tokens is not None
    assert [(token.text, token.id, token.shown) for token in tokens] == [
        (None, 57, "<id 57>"),
        (None, 6737, "<id 6737>"),
    ]


def test_llama_cpp_pythons_completion_is_read_in_its_own_form() -> None:
    document = {
        "choices": [
            {
                "text": " is no longer",
                "index": 0,
                "logprobs": {
                    "tokens": [" is", " no", " longer"],
                    "text_offset": [4, 7, 10],
                    "token_logprobs": [-3.7129, -4.3256, -0.9494],
                    "top_logprobs": [
                        {"-": -0.7482, ",": -2.666, " is": -3.7129},
                        {" a": -1.5827, " the": -2.3812, " no": -4.3256},
                        {" longer": -0.9494, " more": -3.1044},
                    ],
                },
            }
        ]
    }
    tokens = read_tokens(answer(document, IN_PROCESS))
    assert tokens is not None
    assert [token.shown for token in tokens] == [" is", " no", " longer"]
    assert [token.logprob for token in tokens] == [-3.7129, -4.3256, -0.9494]
    assert [top.shown for top in tokens[0].top] == ["-", ",", " is"]


def test_llama_cpp_pythons_chat_shows_tokens_without_bytes() -> None:
    document = {
        "choices": [
            {
                "message": {"role": "assistant", "content": "🦙"},
                "logprobs": {
                    "content": [
                        {
                            "token": "",
                            "bytes": None,
                            "logprob": -0.38,
                            "top_logprobs": [{"token": "I", "logprob": -3.4, "bytes": None}],
                        }
                    ]
                    * 3,
                    "refusal": None,
                },
            }
        ]
    }
    tokens = read_tokens(answer(document, IN_PROCESS))
    assert tokens is not None
    assert [(token.text, token.data, token.is_hidden) for token in tokens] == [("", None, True)] * 3


def test_probabilities_after_sampling_are_read_as_logprobs() -> None:
    probable = {"token": " is", "bytes": [32, 105, 115], "id": 314, "prob": 0.25}
    improbable = {"token": ",", "bytes": [44], "id": 28, "prob": 0.0}
    tokens = read_tokens(
        answer(
            {
                "content": " is",
                "completion_probabilities": [{**probable, "top_probs": [improbable, probable]}],
            }
        )
    )
    assert tokens is not None
    assert tokens[0].logprob == pytest.approx(math.log(0.25))
    assert [top.id for top in tokens[0].top] == [314], "log 0 is no number a report can hold"


def test_the_lowest_float_stands_for_minus_infinity_and_is_no_logprob() -> None:
    lowest = -3.4028234663852886e38
    tokens = read_tokens(said(item("a", lowest, top=[("b", -0.1), ("a", lowest)])))
    assert tokens is not None
    assert tokens[0].logprob is None
    assert [top.shown for top in tokens[0].top] == ["b"]


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"message": {"content": "hello"}, "logprobs": None}]},
        {"choices": [{"message": {"content": "hello"}, "logprobs": {"content": None}}]},
        {"choices": [{"text": "hello"}]},
        {"choices": None, "content": "hello", "tokens": []},
        {"data": [{"embedding": [0.5]}]},
        [],
    ],
)
def test_an_answer_without_tokens_shows_none(document: object) -> None:
    assert read_tokens(answer(document)) is None


# --- Parting.


def test_texts_without_tokens_part_by_character() -> None:
    parting = found(part(plain("The cat sat."), plain("The cow sat.")))
    assert (parting.unit, parting.index, parting.character) == ("character", 5, 5)
    assert (parting.a_before, parting.a, parting.b) == ("The c", "at sat.", "ow sat.")
    assert (parting.margin, parting.drift, parting.near_tie) == (None, None, None)
    assert parting.a_candidates == parting.b_candidates == ()


def test_with_tokens_the_place_is_the_token_that_differs() -> None:
    a = said(item("The"), item(" cat"), item(" sat"))
    b = said(item("The"), item(" cow"), item(" sat"))
    parting = found(part(a, b))
    assert (parting.unit, parting.index, parting.character) == ("token", 1, 3)
    assert (parting.a_before, parting.a, parting.b) == ("The", " cat sat", " cow sat")
    assert parting.near_tie is None, "without logprobs nothing is said"


def test_one_text_in_other_tokens_parts_too() -> None:
    parting = found(part(said(item("no"), item("pe")), said(item("n"), item("ope"))))
    assert (parting.unit, parting.index, parting.character) == ("token", 0, 0)
    assert parting.a == parting.b == "nope"


def test_tokens_of_one_side_alone_are_not_used() -> None:
    parting = found(part(said(item("The"), item(" cat")), plain("The cow")))
    assert (parting.unit, parting.index) == ("character", 5)
    assert part(said(item("The"), item(" cat")), plain("The cat")) is None


def test_a_tokenizer_stands_in_for_tokens_that_were_not_recorded() -> None:
    parting = found(
        part(plain("a bc d"), plain("a bd d"), tokenize=lambda text: text.split(" ", -1))
    )
    assert (parting.unit, parting.index) == ("token", 1)
    assert part(plain("a b"), plain("a b"), tokenize=str.split) is None
    assert found(part(plain("a"), plain("a "), tokenize=str.split)).unit == "character"


def test_a_place_inside_a_character_begins_with_the_character() -> None:
    a = said(item("ok "), item(b"\xf0\x9f"), item(b"\xa6\x99"))
    b = said(item("ok "), item(b"\xf0\x9f"), item(b"\xa6\x8a"))
    parting = found(part(a, b))
    assert (parting.unit, parting.index, parting.character) == ("token", 2, 3)
    assert (parting.a_before, parting.a, parting.b) == ("ok ", "🦙", "🦊")


def emoji(
    shown: str, piece: bytes, number: int, logprob: float, *, top: list[dict[str, Any]]
) -> dict[str, Any]:
    """A character of several tokens as llama-server shows it: whole, beside its last token."""
    assert shown.encode().endswith(piece)
    known = {"id": number, "token": shown, "bytes": list(shown.encode()), "logprob": logprob}
    return {**known, "top_logprobs": top}


def test_characters_of_several_tokens_part_by_the_last_one_if_the_others_are_shared() -> None:
    top = [item(b"\x8d", -1.94, number=231), item(b"\xbb", -2.0, number=136)]
    a = said(item("Hi ", -0.1, number=1), emoji("🌍", b"\x8d", 231, -1.94, top=top))
    b = said(item("Hi ", -0.1, number=1), emoji("🌻", b"\xbb", 136, -2.0, top=top))
    parting = found(part(a, b))
    assert (parting.index, parting.character, parting.a, parting.b) == (1, 3, "🌍", "🌻")
    assert parting.margin == pytest.approx(0.06)
    assert [one.token for one in parting.a_candidates] == ["\\x8d", "\\xbb"]


def test_characters_that_part_before_the_token_that_is_shown_have_no_margin() -> None:
    same_last = [item(b"\x99", -0.1, number=9), item(b"\x8d", -2.0, number=231)]
    a = said(emoji("🦙", b"\x99", 9, -0.1, top=same_last))
    b = said(emoji("🌙", b"\x99", 9, -0.1, top=same_last))
    parting = found(part(a, b))
    assert (parting.unit, parting.index) == ("token", 0)
    assert (parting.margin, parting.near_tie) == (None, None)


def test_tokens_whose_bytes_are_hidden_are_not_taken_for_equal() -> None:
    def in_process(text: str, *, rest: str) -> Completion:
        beside: dict[str, object] = {"bytes": None, "logprob": -0.4, "top_logprobs": []}
        hidden, last = {"token": "", **beside}, {"token": rest, **beside}
        return answer(
            {
                "choices": [
                    {"message": {"content": text}, "logprobs": {"content": [hidden] * 3 + [last]}}
                ]
            },
            IN_PROCESS,
        )

    parting = found(part(in_process("🦙 a", rest=" a"), in_process("🦊 b", rest=" b")))
    assert (parting.unit, parting.character) == ("character", 0)
    assert part(in_process("🦙 a", rest=" a"), in_process("🦙 a", rest=" a")) is None


def test_equal_ids_of_two_vocabularies_do_not_hide_other_texts() -> None:
    parting = found(part(said(item("cat", number=7)), said(item("cow", number=7))))
    assert (parting.unit, parting.index) == ("token", 0)


def test_where_the_text_leaves_tokens_out_the_character_is_the_texts_own() -> None:
    a = said(item("<think>"), item("x"), item("cat"), text="a cat")
    b = said(item("<think>"), item("x"), item("cow"), text="a cow")
    parting = found(part(a, b))
    assert (parting.unit, parting.index, parting.character) == ("token", 2, 3)
    assert (parting.a_before, parting.a, parting.b) == ("a c", "at", "ow")


# --- Candidates, margin, drift, near ties.


def tied(
    chosen: str, *, margin: float, first: float = -0.5, drifted: float = 0.0, pick: str = "cat"
) -> Completion:
    """Two tokens, the second of which has a rival ``margin`` nats away."""
    top = [("cat", -0.6), ("cow", -0.6 - margin)]
    value = dict(top)[chosen]
    return said(item("The ", first + drifted), item(chosen, value, top=top))


def test_the_candidates_and_their_margin_are_shown() -> None:
    parting = found(part(tied("cat", margin=0.25), tied("cow", margin=0.5)))
    assert parting.a_candidates == (Candidate("cat", -0.6), Candidate("cow", -0.85))
    assert parting.margin == pytest.approx(0.5), "the larger of what both sides show"
    assert parting.drift == 0.0
    assert parting.near_tie is False


def test_a_chosen_token_that_is_not_among_the_likeliest_is_shown_beside_them() -> None:
    a = said(item("owl", -4.0, top=[("cat", -0.5), ("cow", -1.0)]))
    b = said(item("cow", -1.0, top=[("cat", -0.5), ("cow", -1.0)]))
    parting = found(part(a, b))
    assert [one.token for one in parting.a_candidates] == ["cat", "cow", "owl"]
    assert [one.token for one in parting.b_candidates] == ["cat", "cow"]
    assert parting.margin == pytest.approx(3.0)


def test_a_tie_within_the_noise_is_near_and_one_beyond_is_not() -> None:
    close, far = NOISE_FLOOR * 0.9, NOISE_FLOOR * 1.1
    assert found(part(tied("cat", margin=close), tied("cow", margin=close))).near_tie is True
    assert found(part(tied("cat", margin=far), tied("cow", margin=far))).near_tie is False


def test_drift_seen_before_the_place_widens_what_counts_as_near() -> None:
    margin = NOISE_FLOOR * 1.5
    b = tied("cow", margin=margin, drifted=NOISE_FLOOR)
    parting = found(part(tied("cat", margin=margin), b))
    assert parting.drift == pytest.approx(NOISE_FLOOR)
    assert parting.near_tie is True


def test_margins_seen_to_move_before_the_place_widen_what_counts_as_near() -> None:
    def sure(moved: float, chosen: str) -> Completion:
        """A first token that is certain, whose rivals moved; then a wide tie."""
        first = item("The", -0.01, top=[("The", -0.01), ("A", -5.0 - moved)])
        top = [(" cat", -0.6), (" cow", -0.9)]
        return said(first, item(chosen, dict(top)[chosen], top=top))

    still = found(part(sure(0.0, " cat"), sure(0.0, " cow")))
    assert (still.drift, still.near_tie) == (0.0, False)
    moved = found(part(sure(0.0, " cat"), sure(0.35, " cow")))
    assert (moved.drift, moved.near_tie) == (0.0, True)


def test_logprobs_that_differ_by_more_than_noise_excuse_nothing() -> None:
    b = tied("cow", margin=NOISE_CEILING * 2, drifted=3.0)
    assert found(part(tied("cat", margin=NOISE_CEILING * 2), b)).near_tie is False


def test_a_rival_below_the_recorded_list_is_no_near_tie_where_the_list_shows_the_gap() -> None:
    a = said(item("cat", -0.1, top=[("cat", -0.1), ("dog", -3.0)]))
    parting = found(part(a, said(item("cow", None))))
    assert parting.margin is None
    assert parting.near_tie is False
    a = said(item("cat", -3.5, top=[("dog", -0.1), ("emu", -3.4)]))
    assert found(part(a, said(item("cow", None)))).near_tie is None


def test_a_text_that_ends_where_the_other_goes_on_parts_there() -> None:
    end = item("", -0.1, top=[("", -0.1), (" but", -0.11)])
    go_on = item(" but", -0.11, top=[("", -0.1), (" but", -0.11)])
    parting = found(part(said(item("No"), end), said(item("No"), go_on, item(" I"))))
    assert (parting.index, parting.a, parting.b) == (1, "", " but I")
    assert parting.margin == pytest.approx(0.01)
    cut = found(part(said(item("No")), said(item("No"), go_on)))
    assert (cut.index, cut.margin, cut.near_tie) == (1, None, None)


def test_drift_is_the_largest_difference_over_the_shared_tokens_only() -> None:
    a = said(item("a", -0.5), item("b", -0.25), item("c", -9.0))
    b = said(item("a", -0.5), item("b", -0.75), item("d", -1.0))
    assert logprob_drift(a, b) == pytest.approx(0.5)
    assert found(part(a, b)).drift == pytest.approx(0.5)
    assert logprob_drift(a, a) == 0.0
    assert logprob_drift(plain("a"), plain("a")) is None
    assert logprob_drift(a, said(item("x", -1.0))) is None


def test_a_parting_is_plain_json() -> None:
    parting = found(part(tied("cat", margin=0.25), tied("cow", margin=0.5)))
    document = json.loads(json.dumps(parting.to_json(), allow_nan=False))
    assert list(document) == [
        "unit", "index", "character", "a_before", "a", "b", "a_candidates", "b_candidates",
        "margin", "drift", "near_tie",
    ]  # fmt: skip
    assert document["a_candidates"][0] == {"token": "cat", "logprob": -0.6}


# --- A third answer's logprobs.


def test_a_third_answer_lends_its_logprobs_to_two_that_have_none() -> None:
    third = said(item("The"), item(" cat", -0.700, top=[(" cat", -0.700), (" cow", -0.701)]))
    parting = found(part_beside(plain("The cow."), plain("The cat."), third))
    assert (parting.unit, parting.index, parting.character) == ("token", 1, 3)
    assert (parting.a, parting.b) == (" cow.", " cat.")
    assert parting.margin == pytest.approx(0.001)
    assert parting.near_tie is True
    assert parting.a_candidates == ()
    assert [one.token for one in parting.b_candidates] == [" cat", " cow"]


def test_a_third_answer_lends_logprobs_inside_a_character_only_of_the_token_it_shows() -> None:
    top = [item(b"\x8d", -1.94, number=231), item(b"\xbb", -2.0, number=136)]
    third = said(emoji("🌍", b"\x8d", 231, -1.94, top=top))
    parting = found(part_beside(plain("🌻"), plain("🌍"), third))
    assert (parting.unit, parting.character, parting.a) == ("token", 0, "🌻")
    assert parting.margin == pytest.approx(0.06)
    # "🦙" parts from "🌍" one token before, and goes on there with bytes that are listed later.
    listed = [*top, item(b"\xa6", -2.1, number=9), item(b"\x8c", -2.2, number=8)]
    third = said(emoji("🌍", b"\x8d", 231, -1.94, top=listed))
    elsewhere = found(part_beside(plain("🦙"), plain("🌍"), third))
    assert (elsewhere.unit, elsewhere.margin) == ("token", None)


def test_a_third_answer_that_goes_another_way_lends_nothing() -> None:
    top = [(" cat", -0.7), (" cow", -0.71)]
    other_way = said(item("Tho"), item(" cat", -0.7, top=top))
    for third in (other_way, said(item("A"), item(" cat")), said(item("The")), plain("The cat.")):
        parting = found(part_beside(plain("The cow."), plain("The cat."), third))
        assert (parting.unit, parting.near_tie) == ("character", None)


def test_a_third_answer_without_the_recorded_token_leaves_the_tie_open() -> None:
    third = said(item("The"), item(" cat", -0.7, top=[(" cat", -0.7), (" dog", -0.701)]))
    parting = found(part_beside(plain("The cow."), plain("The cat."), third))
    assert (parting.unit, parting.margin, parting.near_tie) == ("token", None, None)


def test_a_token_that_both_texts_go_on_with_is_no_candidate() -> None:
    third = said(item("The"), item(" cat", -0.7, top=[(" c", -0.7), (" cat", -0.701)]))
    parting = found(part_beside(plain("The cow."), plain("The cat."), third))
    assert parting.margin is None


def test_a_third_answer_tells_an_end_from_going_on() -> None:
    third = said(item("No"), item("", -0.70, top=[("", -0.70), (" but", -0.71)]))
    parting = found(part_beside(plain("No but I"), plain("No"), third))
    assert parting.margin == pytest.approx(0.01)
    assert (parting.a, parting.b) == (" but I", "")


FENCE = (item("```"), item("json"), item("\n"))


def test_json_that_a_model_writes_into_a_fence_parts_in_the_text_without_the_fence() -> None:
    a = said(*FENCE, item('{"a"'), item(":1"), item("}"), item("\n```"), text='{"a":1}')
    b = said(*FENCE, item('{"a"'), item(":2"), item("}"), item("\n```"), text='{"a":2}')
    parting = found(part(a, b))
    assert (parting.unit, parting.index, parting.character) == ("token", 4, 4)
    assert (parting.a_before, parting.a, parting.b) == ('{"a"', ":1}", ":2}")


def test_a_third_answer_lends_logprobs_within_a_fence() -> None:
    top = [(":1", -0.7), (":2", -0.75)]
    third = said(*FENCE, item('{"a"'), item(":1", -0.7, top=top), item("}"), text='{"a":1}')
    parting = found(part_beside(plain('{"a":2}'), plain('{"a":1}'), third))
    assert (parting.unit, parting.index, parting.character) == ("token", 4, 4)
    assert parting.margin == pytest.approx(0.05)


def test_a_token_that_holds_the_end_of_the_fence_lends_its_logprobs_too() -> None:
    top = [("\n{", -0.7), ("\n[", -0.75)]
    third = said(item("```"), item("\n{", -0.7, top=top), item("1"), text="{1")
    parting = found(part_beside(plain("[1"), plain("{1"), third))
    assert (parting.unit, parting.index, parting.character) == ("token", 1, 0)
    assert parting.margin == pytest.approx(0.05)


# --- Properties.

words = st.sampled_from(
    ["a", "b", " the", " of", "é", "🦙", "\u202e", "", b"\xf0\x9f", b"\xa6\x99"]
)
logprobs = st.none() | st.floats(-20, 0)
tops = st.lists(st.tuples(words, st.floats(-20, 0)), max_size=3)
items = st.builds(lambda token, logprob, top: item(token, logprob, top=top), words, logprobs, tops)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """With or without tokens, whose bytes add up to the text or not."""
    chosen = draw(st.lists(items, max_size=6))
    text = b"".join(bytes(one["bytes"]) for one in chosen).decode("utf-8", "ignore")
    kind = draw(st.sampled_from(["tokens", "text", "other text"]))
    if kind == "text":
        return plain(text)
    return said(*chosen, text=text if kind == "tokens" else draw(st.text("ab é🦙", max_size=6)))


@given(completions())
def test_a_completion_does_not_part_from_itself(a: Completion) -> None:
    assert part(a, a) is None
    assert part(a, a, tokenize=list) is None


@given(completions(), completions())
def test_none_is_said_only_of_equal_texts(a: Completion, b: Completion) -> None:
    assert (part(a, b) is not None) or a.text == b.text


@given(completions(), completions(), st.sampled_from([None, list, str.split]))
def test_the_context_reassembles_both_texts(a: Completion, b: Completion, tokenize: Any) -> None:
    parting = part(a, b, tokenize=tokenize)
    if parting is None:
        return
    at = parting.character
    assert 0 <= at <= min(len(a.text), len(b.text))
    assert a.text[:at] == b.text[:at]
    assert a.text[:at].endswith(parting.a_before)
    assert a.text[at:].startswith(parting.a)
    assert b.text[at:].startswith(parting.b)
    assert len(parting.a_before) == min(at, 40)
    assert len(parting.a) == min(len(a.text) - at, 40)
    assert len(parting.b) == min(len(b.text) - at, 40)


@given(completions(), completions())
def test_the_index_is_a_place_of_at_least_one_side(a: Completion, b: Completion) -> None:
    parting = part(a, b)
    if parting is None:
        return
    if parting.unit == "character":
        assert parting.index == parting.character < max(len(a.text), len(b.text))
    else:
        lengths = [len(read_tokens(one) or ()) for one in (a, b)]
        assert 0 <= parting.index <= min(lengths)
        assert parting.index < max(lengths)


@given(completions(), completions())
def test_swapping_the_sides_swaps_the_parting(a: Completion, b: Completion) -> None:
    one, other = part(a, b), part(b, a)
    if one is None or other is None:
        assert one is other
        return
    assert (one.unit, one.index, one.character) == (other.unit, other.index, other.character)
    assert (one.a_before, one.a, one.b) == (other.a_before, other.b, other.a)
    assert one.a_candidates == other.b_candidates
    assert (one.margin, one.drift, one.near_tie) == (other.margin, other.drift, other.near_tie)
    assert logprob_drift(a, b) == logprob_drift(b, a)


@given(completions(), completions(), completions())
def test_a_third_answer_never_moves_the_texts(
    a: Completion, b: Completion, third: Completion
) -> None:
    parting = part_beside(a, b, third)
    assert (parting is None) == (part(a, b) is None)
    if parting is not None:
        at = parting.character
        assert a.text[:at] == b.text[:at]
        assert a.text[:at].endswith(parting.a_before)


@given(st.floats(0, 10), st.none() | st.floats(0, 10))
def test_a_near_tie_is_never_wider_than_the_ceiling(margin: float, drift: float | None) -> None:
    near = is_near_tie(margin, drift)
    assert near or margin > NOISE_FLOOR
    assert not near or margin <= NOISE_CEILING
