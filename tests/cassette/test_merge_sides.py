"""Merging in every direction: the side that is taken, and the text of each conflict."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.header import Header, SeedPolicy
from swarm_repro.cassette.merge import Conflict, merge_cassettes
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.completion import Completion
from swarm_repro.errors import NotComparableError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    DEFAULTS,
    HEADER,
    LONG,
    TinyModel,
    ask,
    completion_of,
    make_binding,
    make_environment,
    make_run,
    recording,
)

FIVE = TinyModel(wording="five")


def record(
    path: Path,
    *prompts: str,
    model: TinyModel | None = None,
    seed: int = 7,
    mode: Mode = Mode.RECORD,
    header: Header = HEADER,
    fixed: int | None = None,
) -> Cassette:
    with recording(path, run_seed=seed, mode=mode, header=header) as session:
        for prompt in prompts:
            fields: dict[str, Any] = {} if fixed is None else {"seed": fixed}
            ask(session, model or TinyModel(), prompt, **fields)
    return read_cassette(path)


def always(answer: Completion) -> TinyModel:
    """A model that gives this answer to all calls."""
    return TinyModel(trouble=lambda _number: answer)


def prompts_of(cassette: Cassette) -> list[str]:
    return sorted(
        str(call.body["messages"][0]["content"])  # type: ignore[index]
        for call in cassette.calls.values()
    )


def test_one_side_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    one = record(tmp_path / "one.jsonl", "a")
    merged, conflicts = merge_cassettes([one])
    assert (merged is one, conflicts) == (True, [])


def test_two_sides_are_joined_at_the_first_ones_path(tmp_path: Path) -> None:
    other = TinyModel(binding=make_binding(name="big"), environment=make_environment("B"))
    ours = record(tmp_path / "ours.jsonl", LONG + "a", seed=1)
    header = replace(HEADER, recorder="9")
    theirs = record(tmp_path / "theirs.jsonl", LONG + "b", seed=2, model=other, header=header)
    merged, conflicts = merge_cassettes([ours, theirs])
    assert conflicts == []
    assert (merged.path, merged.header) == (ours.path, ours.header)
    assert merged.models == {**ours.models, **theirs.models}
    assert merged.envs == {**ours.envs, **theirs.envs}
    assert merged.texts == {**ours.texts, **theirs.texts}
    assert len(merged.texts) == len(merged.envs) == len(merged.models) == 2
    assert merged.calls == {**ours.calls, **theirs.calls}
    assert merged.runs == [*ours.runs, *theirs.runs]
    assert merged.witnesses == {}


def test_the_first_of_equal_sides_is_taken(tmp_path: Path) -> None:
    """Different ids and dates are no disagreement."""
    sides = []
    for number in (3, 9):
        model = always(completion_of("x", number=number))
        sides.append(record(tmp_path / f"{number}.jsonl", "a", model=model))
    for order in (sides, sides[::-1]):
        merged, conflicts = merge_cassettes(order)
        assert (conflicts, merged.calls) == ([], order[0].calls)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_with_three_sides_and_an_ancestor_the_one_that_changed_wins(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    base = record(tmp_path / "base.jsonl", "a", "b")
    anew = record(tmp_path / "anew.jsonl", "a", "b", model=FIVE)
    sides = [base, anew, replace(base, path=tmp_path / "third.jsonl")]
    merged, conflicts = merge_cassettes([sides[number] for number in order], base=base)
    assert conflicts == []
    assert (merged.calls, merged.runs) == (anew.calls, anew.runs)


@pytest.mark.parametrize("place", range(4))
def test_with_four_sides_and_an_ancestor_the_one_that_changed_wins(
    place: int, tmp_path: Path
) -> None:
    base = record(tmp_path / "base.jsonl", "a")
    anew = record(tmp_path / "anew.jsonl", "a", model=FIVE)
    sides = [anew if number == place else base for number in range(4)]
    merged, conflicts = merge_cassettes(sides, base=base)
    assert (conflicts, merged.calls, merged.runs) == ([], anew.calls, anew.runs)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_with_three_sides_and_an_ancestor_what_one_dropped_goes(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    base = record(tmp_path / "base.jsonl", "a", "b")
    fewer = record(tmp_path / "fewer.jsonl", "a")
    sides = [base, fewer, replace(base, path=tmp_path / "third.jsonl")]
    merged, conflicts = merge_cassettes([sides[number] for number in order], base=base)
    assert (conflicts, prompts_of(merged)) == ([], ["a"])


def test_without_an_ancestor_nothing_counts_as_dropped(tmp_path: Path) -> None:
    sides = [record(tmp_path / f"{n}.jsonl", *"abcd"[:n], fixed=5) for n in (1, 4, 2)]
    # One run of each side, with other calls, is what they disagree on.
    merged, conflicts = merge_cassettes([replace(side, runs=[]) for side in sides])
    assert (conflicts, prompts_of(merged)) == ([], ["a", "b", "c", "d"])


def test_conflicts_of_all_sides_are_reported(tmp_path: Path) -> None:
    words = ("one", "two", "three", "that")
    sides = [
        record(tmp_path / f"{word}.jsonl", prompt, model=TinyModel(wording=word))
        for word, prompt in zip(words, "aabb", strict=True)
    ]
    _, conflicts = merge_cassettes([replace(side, runs=[]) for side in sides])
    assert [conflict.why for conflict in conflicts] == [
        "the answers part at character 0", "the answers part at character 2",
    ]  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True])
def test_a_call_that_either_side_dropped_stays_where_a_new_run_uses_it(
    swapped: bool, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("base.jsonl", "fewer.jsonl", "more.jsonl")]
    for path in paths:
        record(path, "a", seed=7, fixed=5)
        record(path, "a", "b", seed=8, mode=Mode.AUTO, fixed=5)
    record(paths[1], "a", seed=7, fixed=5)
    record(paths[2], "b", seed=9, mode=Mode.AUTO, fixed=5)
    base, fewer, more = map(read_cassette, paths)
    sides = [more, fewer] if swapped else [fewer, more]
    merged, conflicts = merge_cassettes(sides, base=base)
    assert conflicts == []
    assert prompts_of(merged) == ["a", "b"]
    assert [run.seed for run in merged.runs] == [7, 9]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_model_that_one_side_replaced_is_taken_from_it(swapped: bool, tmp_path: Path) -> None:
    base = record(tmp_path / "base.jsonl", "a")
    model = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 3}))
    anew = record(tmp_path / "anew.jsonl", "a", model=model)
    merged, conflicts = merge_cassettes([anew, base] if swapped else [base, anew], base=base)
    assert (conflicts, merged.models) == ([], anew.models)


# --- What each conflict says.


def said(*sides: Cassette, base: Cassette | None = None) -> list[Conflict]:
    return merge_cassettes(sides, base=base)[1]


def label(cassette: Cassette) -> str:
    (call,) = cassette.calls.values()
    return f"call 0 of alice (repeat 0 of {call.asked[:16]}…)"


def test_the_run_of_two_artifacts_is_named(tmp_path: Path) -> None:
    one = record(tmp_path / "one.jsonl", "a")
    run = replace(one.runs[0], metrics=({"welfare": 1},))
    assert said(one, replace(one, runs=[run])) == [
        Conflict(
            "the run of test with seed 7, 1 epochs of 2 steps", "other artifacts, calls or versions"
        )
    ]


def test_the_place_where_two_answers_part_is_named(tmp_path: Path) -> None:
    texts = (("same one", "same two", 5), ("same", "same and more", 4), ("a", "b", 0))
    for number, (a, b, place) in enumerate(texts):
        sides = [
            record(
                tmp_path / f"{number}{name}.jsonl",
                "a",
                model=always(completion_of(text)),
            )
            for name, text in (("a", a), ("b", b))
        ]
        for one, other in (sides, sides[::-1]):
            assert said(one, other) == [
                Conflict(label(sides[0]), f"the answers part at character {place}")
            ]


def test_two_answers_with_the_same_text_are_distinguished(tmp_path: Path) -> None:
    sides = [
        record(
            tmp_path / f"{reason}.jsonl",
            "a",
            model=always(completion_of("x", tier=reason)),
        )
        for reason in ("fast", "slow")
    ]
    assert said(*sides) == [
        Conflict(label(sides[0]), "the same text, with another rest of the answer or another place")
    ]


def test_two_seeds_are_named(tmp_path: Path) -> None:
    one, other = (record(tmp_path / f"{seed}.jsonl", "a", seed=seed) for seed in (1, 2))
    seeds = [call.sent_seed for side in (one, other) for call in side.calls.values()]
    assert said(one, other) == [
        Conflict(label(one), f"sent with seed {seeds[0]} and with {seeds[1]}")
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_call_changed_by_one_and_dropped_by_the_other_is_reported(
    swapped: bool, tmp_path: Path
) -> None:
    base = record(tmp_path / "base.jsonl", "a")
    anew = record(tmp_path / "anew.jsonl", "a", model=FIVE)
    none = replace(base, calls={}, runs=[])
    sides = [none, anew] if swapped else [anew, none]
    told = said(*sides, base=base)
    assert told[0] == Conflict(label(base), "one side changed it, the other has dropped it")


def test_two_models_of_one_name_are_described(tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    model = TinyModel(binding=make_binding(weights="f" * 64))
    theirs = record(tmp_path / "theirs.jsonl", "b", seed=8, model=model)
    (conflict,) = said(ours, theirs)
    assert conflict.what == "model 'tiny'"
    assert ("aaaaaaaaaaaa" in conflict.why, "ffffffffffff" in conflict.why) == (True, True)
    assert " and " in conflict.why


def test_a_model_dropped_by_one_side_is_none_in_the_conflict(tmp_path: Path) -> None:
    base = record(tmp_path / "base.jsonl", "a")
    model = TinyModel(binding=make_binding(weights="f" * 64))
    anew = record(tmp_path / "anew.jsonl", "b", model=model)
    none = replace(base, models={}, calls={}, runs=[])
    told = said(replace(anew, runs=[]), none, base=base)
    assert told[0].what == "model 'tiny'"
    assert told[0].why.endswith(" and none")


def test_different_sampling_defaults_are_named(tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    model = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 20}))
    theirs = record(tmp_path / "theirs.jsonl", "b", seed=8, model=model)
    assert said(ours, theirs) == [Conflict("model 'tiny'", "other sampling defaults")]


def test_a_call_in_a_simulation_is_named_with_its_step(tmp_path: Path) -> None:
    sides = []
    for word in ("one", "two"):
        path = tmp_path / f"{word}.jsonl"
        store = open_for_recording(path, HEADER, keep=False)
        session = Session(
            mode=Mode.RECORD, header=HEADER, store=store, run_seed=7, position=lambda: (3, 4)
        )
        ask(session, TinyModel(wording=word), "a")
        run = make_run(session.ledger.used)
        store.finish(used=session.ledger.used, run=run, keep=False)
        sides.append(read_cassette(path))
    (conflict,) = said(*sides)
    assert conflict.what.endswith("…, epoch 3, step 4)")


def test_a_recording_of_another_experiment_is_named_with_its_own(tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", header=replace(HEADER, scenario="another"))
    with pytest.raises(NotComparableError) as caught:
        merge_cassettes([ours, theirs])
    assert str(caught.value) == (
        f"{ours.path} belongs to scenario 'test', {theirs.path} to 'another': they do not merge"
    )


@pytest.mark.parametrize("policy", ["content", "as-is"])
def test_recordings_with_other_settings_are_named(policy: SeedPolicy, tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", header=replace(HEADER, seed_policy=policy))
    with pytest.raises(NotComparableError) as caught:
        merge_cassettes([ours, theirs])
    assert str(caught.value) == (
        f"{ours.path} and {theirs.path} were recorded with other seed policies, strict "
        "settings or request fields: they do not merge; record one of them anew"
    )


# --- Witnesses.


@pytest.mark.parametrize("swapped", [False, True])
def test_the_environment_of_the_kept_answer_is_its_witness(swapped: bool, tmp_path: Path) -> None:
    """One side has a witness of its own, the other was recorded elsewhere again."""
    cpus = [TinyModel(environment=make_environment(cpu)) for cpu in ("A", "B", "C")]
    record(tmp_path / "one.jsonl", "a", "b", model=cpus[0])
    one = record(tmp_path / "one.jsonl", "a", "b", model=cpus[1])
    other = record(tmp_path / "other.jsonl", "a", model=cpus[2])
    a, b, c = (model.environment.sha256 for model in cpus)
    assert one.witnesses == {b: frozenset(one.calls)}
    sides = [replace(side, runs=[]) for side in (one, other)]
    merged, conflicts = merge_cassettes(sides[::-1] if swapped else sides)
    assert conflicts == []
    first, second = sorted(one.calls, key=lambda call_id: one.calls[call_id].i)
    assert merged.witnesses == {
        b: frozenset({first, second}),
        (a if swapped else c): frozenset({first}),
    }


@pytest.mark.parametrize("swapped", [False, True])
def test_a_call_that_only_one_side_has_keeps_no_witness_from_the_later_ones(
    swapped: bool, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("one.jsonl", "other.jsonl")]
    models = [TinyModel(environment=make_environment(cpu)) for cpu in ("A", "B")]
    for path, model in zip(paths, models, strict=True):
        with recording(path) as session:
            if path == paths[0]:
                ask(session, model, "hello")
            ask(session, model, "hello", who="bob")
    sides = [replace(read_cassette(path), runs=[]) for path in paths]
    (bob,) = sides[1].calls
    merged, conflicts = merge_cassettes(sides[::-1] if swapped else sides)
    assert (conflicts, len(merged.calls)) == ([], 2)
    assert merged.witnesses == {models[not swapped].environment.sha256: frozenset({bob})}
