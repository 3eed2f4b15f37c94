"""What is asked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from swarm_repro.audit.prompts import Prompt, built_in_prompts, prompts_of
from swarm_repro.canonical import encode_canonical
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, UsageError
from swarm_repro.request import Request, normalise_seed
from tests.support.command import ROOT
from tests.support.tiny_model import NAME, TinyModel, completion_of, recording

DEMO = ROOT / "cassettes" / "demo.seed42.jsonl"


def text_of(prompt: Prompt) -> str:
    messages = prompt.body["messages"]
    assert isinstance(messages, list)
    return "\n".join(message["content"] for message in messages)


def test_the_longest_built_in_prompt_comes_first_and_two_share_their_beginning() -> None:
    act, accept, vote = built_in_prompts()
    # The largest vocabularies take four to four and a half characters of English a token.
    assert len(text_of(act)) > 4.4 * 1000
    assert act.weight > accept.weight > vote.weight
    shared = text_of(act)[:1000]
    assert text_of(accept).startswith(shared)
    assert not text_of(vote).startswith(shared[:40])


def test_every_built_in_request_has_a_seed_of_its_own_and_all_sampling_fields() -> None:
    seeds = [normalise_seed(prompt.body["seed"]) for prompt in built_in_prompts()]
    assert len(set(seeds)) == 3
    assert not {None, 0} & set(seeds)
    for prompt in built_in_prompts():
        assert prompt.body["temperature"] == 0.8
        assert {"top_k", "top_p", "min_p", "repeat_penalty", "max_tokens"} <= set(prompt.body)


def test_a_request_that_shares_the_prefix_is_the_same_until_the_last_message_breaks_off() -> None:
    act = built_in_prompts()[0]
    half = act.sharing_its_prefix()
    assert text_of(act).startswith(text_of(half))
    assert 0.5 < len(text_of(half)) / len(text_of(act)) < 0.9
    assert {**half.body, "messages": 0} == {**act.body, "messages": 0}


def test_another_turn_changes_the_last_message_from_its_beginning() -> None:
    act = built_in_prompts()[0]
    turns = [text_of(act.of_another_turn(number)) for number in (1, 2)]
    assert len({text_of(act), *turns}) == 3
    messages = act.of_another_turn(2).body["messages"]
    assert isinstance(messages, list)
    assert messages[-1]["content"].startswith("Turn 2.\n")


def test_a_text_prompt_has_a_half_and_other_turns_too() -> None:
    prompt = Prompt(name="p", source="s", endpoint="completion", body={"prompt": "abcdef"})
    assert prompt.sharing_its_prefix().body["prompt"] == "abc"
    assert prompt.of_another_turn(3).body["prompt"] == "Turn 3.\nabcdef"


def test_prompts_of_a_cassette_are_its_recorded_bodies_the_longest_first() -> None:
    prompts = prompts_of(DEMO, limit=4)
    calls = list(read_cassette(DEMO).calls.values())
    assert len(prompts) == 4
    counts = [prompt.tokens or 0 for prompt in prompts]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == max(call.tokens["prompt"] or 0 for call in calls)
    for prompt in prompts:
        number = int(prompt.name.removeprefix("call "))
        recorded = calls[number].body
        assert prompt.source == f"demo.seed42.jsonl call {number}"
        assert prompt.body["messages"] == recorded["messages"]
        assert prompt.body["seed"] == recorded["seed"]
        assert "cache_prompt" not in prompt.body
        assert "model" not in prompt.body


def test_a_cassette_that_is_missing_or_damaged_or_a_limit_of_none_is_an_error(
    tmp_path: Path,
) -> None:
    with pytest.raises(CassetteAccessError):
        prompts_of(tmp_path / "none.jsonl", limit=3)
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(DEMO.read_bytes().replace(b"max_tokens", b"max_takens", 1))
    with pytest.raises(CassetteDamagedError):
        prompts_of(damaged, limit=3)
    with pytest.raises(UsageError, match="at least 1"):
        prompts_of(DEMO, limit=0)


def counting(tokens: int) -> Completion:
    counts = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    return completion_of("yes", usage=counts)


def answering(tokens: int, _request: Request) -> Completion:
    return counting(tokens)


def recorded(path: Path, *calls: tuple[dict[str, object], int]) -> Path:
    """A cassette of plain completions or chats, each with the tokens of its prompt."""
    with recording(path) as session:
        binding = session.bind(NAME, TinyModel()).binding
        for body, tokens in calls:
            chat = "messages" in body
            request = Request(
                endpoint="chat" if chat else "completion",
                binding=binding,
                path="/v1/chat/completions" if chat else "/v1/completions",
                body=body,
            )
            session.perform(request, partial(answering, tokens))
    return path


def test_what_is_asked_of_recorded_calls_and_in_which_order(tmp_path: Path) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    path = recorded(
        tmp_path / "c.jsonl",
        ({"prompt": "short", "seed": 5, "top_k": 2}, 3),
        ({"prompt": "long", "seed": 5, "cache_prompt": False, "n_probs": 2, "model": "m"}, 9),
        ({"messages": hello, "seed": 6, "logprobs": True, "top_logprobs": 2}, 4),
        ({"messages": hello, "seed": 6}, 4),  # the same but for what an experiment sets
        ({"prompt": "longer", "seed": 5}, 3),  # as many tokens, and less to send
        ({"prompt": [1, 2, 3], "seed": 5}, 50),  # token ids cannot be cut in half
    )
    prompts = prompts_of(path, limit=9)
    assert [(one.name, one.tokens, one.endpoint, dict(one.body)) for one in prompts] == [
        ("call 1", 9, "completion", {"prompt": "long", "seed": 5}),
        ("call 2", 4, "chat", {"messages": hello, "seed": 6}),
        ("call 0", 3, "completion", {"prompt": "short", "seed": 5, "top_k": 2}),
        ("call 4", 3, "completion", {"prompt": "longer", "seed": 5}),
    ]
    assert {one.source.partition(" ")[0] for one in prompts} == {"c.jsonl"}
    assert [one.name for one in prompts_of(path, limit=2)] == ["call 1", "call 2"]
    assert [one.name for one in prompts_of(path, limit=1)] == ["call 1"]


@pytest.mark.parametrize(("seed", "asked"), [(None, 42), (-1, 42), (7, 7), (0, 0)])
def test_a_recorded_call_without_a_usable_seed_gets_one(
    seed: int | None, asked: int, tmp_path: Path
) -> None:
    header = Header(recorder="0.1.0", seed_policy="as-is")
    with recording(tmp_path / "c.jsonl", header=header) as session:
        binding = session.bind(NAME, TinyModel()).binding
        body = {"prompt": "a", **({} if seed is None else {"seed": seed})}
        request = Request("completion", binding, "/v1/completions", body)
        session.perform(request, lambda _request: counting(1))
    assert [one.body["seed"] for one in prompts_of(tmp_path / "c.jsonl", limit=3)] == [asked]


def test_a_cassette_without_a_completion_is_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "c.jsonl", ({"prompt": [1, 2], "seed": 5}, 2))
    with pytest.raises(UsageError) as raised:
        prompts_of(path, limit=3)
    assert str(raised.value) == (
        f"{path} holds no chat or text completion to ask again; give another cassette, or leave"
        " --prompts out"
    )


@pytest.mark.parametrize(
    ("max_tokens", "answer"), [(10, 10), (1, 1), (0, 48), (-1, 48), (None, 48), ("9", 48)]
)
def test_a_prompt_weighs_its_request_and_twenty_a_token_of_its_answer(
    max_tokens: object, answer: int
) -> None:
    body = {"prompt": "abc", "max_tokens": max_tokens}
    one = Prompt(name="p", source="s", endpoint="completion", body=body)
    assert one.weight == len(encode_canonical(body)) + 20 * answer


PICTURE = [{"type": "image_url", "image_url": {"url": "data:"}}]


@pytest.mark.parametrize(
    ("messages", "half", "turn"),
    [
        (
            [{"role": "system", "content": "Be"}, {"role": "user", "content": "abcd"}],
            [{"role": "system", "content": "Be"}, {"role": "user", "content": "ab"}],
            [{"role": "system", "content": "Be"}, {"role": "user", "content": "Turn 2.\nabcd"}],
        ),
        # One character, and what is no text, leave nothing to ask with.
        (
            [{"role": "user", "name": "Bo", "content": "a"}],
            [{"role": "user", "name": "Bo", "content": "."}],
            [{"role": "user", "name": "Bo", "content": "Turn 2.\na"}],
        ),
        (
            [{"role": "user", "content": PICTURE}],
            [{"role": "user", "content": "."}],
            [{"role": "user", "content": "Turn 2.\n"}],
        ),
        (
            [],
            [{"role": "user", "content": "."}],
            [{"role": "user", "content": "Turn 2.\n"}],
        ),
    ],
)
def test_the_last_message_is_halved_and_preceded(
    messages: object, half: object, turn: object
) -> None:
    body = {"messages": messages, "seed": 3}
    one = Prompt(name="p", source="s", endpoint="chat", body=body, tokens=7)
    assert one.sharing_its_prefix() == replace(
        one, name="half of p", body={"messages": half, "seed": 3}
    )
    assert one.of_another_turn(2) == replace(
        one, name="p, turn 2", body={"messages": turn, "seed": 3}
    )


def test_the_built_in_requests_have_all_fields_that_both_libraries_share() -> None:
    first, second, third = built_in_prompts()
    sampling = {
        "max_tokens": 48,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
    }
    for number, one in enumerate((first, second, third)):
        messages = one.body["messages"]
        assert isinstance(messages, list)
        assert [message["role"] for message in messages] == ["system", "user"]
        assert dict(one.body) == {"messages": messages, **sampling, "seed": 42 + number}
        assert (one.source, one.endpoint, one.tokens) == ("built in", "chat", None)
    assert [one.name for one in (first, second, third)] == ["act", "accept", "vote"]
