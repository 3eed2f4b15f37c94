"""What is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_repro.audit.prompts import Prompt, built_in_prompts, prompts_of
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, UsageError
from swarm_repro.request import normalise_seed
from tests.support.command import ROOT

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
