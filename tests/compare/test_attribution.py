"""What a difference is laid to where runs, seeds and ordinals are mixed up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from swarm_repro.cassette.header import SeedPolicy
from swarm_repro.compare import judge
from swarm_repro.compare.align import Pair, precedes
from swarm_repro.compare.judge import Comparison
from swarm_repro.compare.judged import Class
from tests.support.recordings import Call, record
from tests.support.society import comparing

WORD = "these words are said by ada in her last step"


def causes(comparison: Comparison) -> list[tuple[str, str, str] | None]:
    return [None if origin.cause is None else origin.cause[:3] for origin in comparison.origins]


def run_of(seed: int, *, root: bool = False, word: str = "calm") -> list[Call]:
    """Two agents, four steps; with a root ada says something else in step 1, and both hear it."""
    calls = []
    for step in range(4):
        for who in ("ada", "ben"):
            heard = f"\nada: {WORD}" if root and step > 1 else ""
            late = word if step > 1 else "calm"
            said = WORD if root and (who, step) == ("ada", 1) else f"{who} {step} {seed}"
            prompt = f"run {seed}, step {step}, {who}: the market is {late}{heard}"
            calls.append(Call(prompt, said, who, (0, step)))
    return calls


def test_what_differs_in_one_run_follows_from_nothing_in_another(tmp_path: Path) -> None:
    for name, changed in (("a.jsonl", False), ("b.jsonl", True)):
        record(tmp_path / name, run_of(42, root=changed), seed=42)
        record(tmp_path / name, run_of(43, word="wild" if changed else "calm"), seed=43)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert all(
            one.pair.a and one.pair.b and one.pair.a.seeds == one.pair.b.seeds
            for one in found.judged
        ), "each run is compared with itself"
        root, cause = found.origins
        assert (root.cause, root.pair.seeds) == (None, frozenset({42}))
        assert (root.proven, root.assumed) == (4, 0)
        assert cause.cause is not None
        assert ("calm" in cause.cause.a, "wild" in cause.cause.b) == (True, True)
        of_43 = [one for one in found.judged if one.pair.seeds == {43}]
        assert {origin for one in of_43 for origin in one.origins} == {cause.id}


def test_runs_of_one_seed_and_two_lengths_lose_no_call(tmp_path: Path) -> None:
    for name, word in (("a.jsonl", "calm"), ("b.jsonl", "wild")):
        for steps in (2, 3):
            calls = [Call(f"step {step} of {steps}: {word}", at=(0, step)) for step in range(steps)]
            record(tmp_path / name, calls, seed=42, steps=steps)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert len(found.judged) == 5
        assert all(one.pair.a and one.pair.b for one in found.judged)


def test_a_run_that_one_recording_has_more_is_one_cause(tmp_path: Path) -> None:
    for name, seeds in (("a.jsonl", (42,)), ("b.jsonl", (42, 43))):
        for seed in seeds:
            record(tmp_path / name, run_of(seed), seed=seed)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [("run", "(absent)", "seed 43")]
        assert Counter(one.cls for one in found.judged) == {Class.IDENTICAL: 8, Class.ONLY_B: 8}
        assert found.origins[0].calls == 8


def test_steps_that_the_other_run_never_had_do_not_follow_from_a_root(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", run_of(42)[:4], seed=42, steps=2)
    record(tmp_path / "b.jsonl", run_of(42, root=True), seed=42, steps=4)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [None, ("steps", "2", "4")]
        alone = [one.origins for one in found.judged if one.cls is Class.ONLY_B]
        assert alone == [(1,)] * 4


def test_an_empty_recording_has_no_length_to_differ_in(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", [], run=False)
    record(tmp_path / "b.jsonl", run_of(42), seed=42)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [("call", "(absent)", "call 0 of ada")]


@pytest.mark.parametrize("policy", ["event", "content", "as-is"])
@pytest.mark.parametrize("given", [None, 5])
def test_ids_made_from_the_runs_seed_are_no_cause_beside_it(
    tmp_path: Path, policy: SeedPolicy, given: int | None
) -> None:
    fields = {} if given is None else {"seed": given}
    for name, seed in (("a.jsonl", 1), ("b.jsonl", 2)):
        calls = [
            Call(f"simulation {seed}{seed}, step {step}", at=(0, step), fields=fields)
            for step in range(3)
        ]
        record(tmp_path / name, calls, seed=seed, policy=policy)

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found)[0] == ("run seed", "1", "2")
        assert len(found.origins) == 1


def test_a_persona_beside_another_run_seed_is_told_apart(tmp_path: Path) -> None:
    for name, seed, persona in (("a.jsonl", 1, "kind"), ("b.jsonl", 2, "cruel")):
        record(
            tmp_path / name,
            [Call(f"id {seed}", system=f"You are {persona}."), Call(f"id {seed}", who="ben")],
            seed=seed,
        )

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        fields = [origin.cause.field for origin in found.origins if origin.cause]
        assert fields == ["run seed", "system prompt, messages[0].content"]


def test_seeds_derived_from_content_name_the_runs_seed(tmp_path: Path) -> None:
    for name, seed in (("a.jsonl", 1), ("b.jsonl", 2)):
        record(tmp_path / name, [Call("the same")], seed=seed, policy="content")

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [("run seed", "1", "2")]


def test_seeds_derived_from_another_prompt_are_no_cause(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        record(tmp_path / name, [Call(f"word of {name}")], policy="content")

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert [cause[0] for cause in causes(found) if cause] == ["messages[0].content"]


def test_a_call_more_is_one_cause_and_its_text_no_second_one(tmp_path: Path) -> None:
    calls = [Call(f"act in step {step}", at=(0, step)) for step in range(4)]
    more = Call("do you accept?", at=(0, 1), kind="accept", system="You are asked.")
    record(tmp_path / "a.jsonl", calls)
    record(tmp_path / "b.jsonl", [calls[0], more, *calls[1:]])

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [("kind of call", "act", "accept")]


def test_the_system_prompt_of_another_kind_of_call_is_no_persona(tmp_path: Path) -> None:
    first = Call("who begins?", "ada begins", who="ada")
    act = Call("act", who="ben", at=(0, 1), system="You act.")
    asked = Call("accept?", who="ben", at=(0, 1), kind="accept", system="You judge offers.")
    record(tmp_path / "a.jsonl", [first, act])
    record(tmp_path / "b.jsonl", [Call("who begins?", "cleo begins", who="ada"), asked])

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert causes(found) == [None]
        assert [one.cls for one in found.judged] == [Class.ROOT, Class.FALLOUT]


def test_words_that_were_said_later_prove_nothing(tmp_path: Path) -> None:
    """Without epoch and step all calls stand in one step, but an agent's own have an order."""
    for name, first, quote, last in (
        ("a.jsonl", "yes", "nothing", "no"),
        ("b.jsonl", "si", WORD, WORD),
    ):
        calls = [Call("1", first), Call(f"2\nheard: {quote}", "fine"), Call("3", last)]
        record(tmp_path / name, [Call(c.prompt, c.answer, at=None) for c in calls])

    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert [one.cls for one in found.judged] == [Class.ROOT, Class.FALLOUT, Class.ROOT]
        assert found.judged[1].origins == (0,)
        assert found.judged[1].proven is False


def test_the_work_for_a_call_does_not_grow_with_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = 60
    for name in ("a.jsonl", "b.jsonl"):
        prompts = [f"{number} of {name}" for number in range(half)]
        calls = [Call(prompt, at=None) for prompt in prompts]
        calls += [Call(f"{number}", name, at=None) for number in range(half)]
        record(tmp_path / name, calls)
    asked = Counter[str]()

    def counting(*pairs: Pair) -> bool:
        asked["precedes"] += 1
        return precedes(*pairs)

    monkeypatch.setattr(judge, "precedes", counting)
    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        roots = [one for one in found.judged if one.cls is Class.ROOT]
    assert len(roots) == half
    assert asked["precedes"] <= 10 * 2 * half
