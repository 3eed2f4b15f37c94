"""Planted differences are found where they were planted, and nothing else is called a root."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm_repro.compare.judge import Comparison
from swarm_repro.compare.judged import Class
from swarm_repro.compare.verdict import describe
from tests.support.society import AGENTS, Society, comparing
from tests.support.tiny_model import TinyModel, ask, make_binding, make_environment, recording


def classes(comparison: Comparison) -> dict[tuple[str, int], Class]:
    return {(one.pair.entry.scope, one.pair.entry.i): one.cls for one in comparison.judged}


def two(tmp_path: Path, a: Society, b: Society) -> Comparison:
    with comparing(a.record(tmp_path / "a.jsonl"), b.record(tmp_path / "b.jsonl")) as found:
        return found


def verdict(tmp_path: Path, a: Society, b: Society) -> str:
    with comparing(a.record(tmp_path / "a.jsonl"), b.record(tmp_path / "b.jsonl")) as found:
        return describe(found)


def test_two_recordings_of_one_society_are_identical_but_for_volatile_fields(
    tmp_path: Path,
) -> None:
    model = TinyModel()
    comparison = two(tmp_path, Society(model), Society(model))
    assert (tmp_path / "a.jsonl").read_bytes() != (tmp_path / "b.jsonl").read_bytes()
    assert comparison.origins == []
    assert set(classes(comparison).values()) == {Class.IDENTICAL}
    assert verdict(tmp_path, Society(model), Society(model)).startswith("identical: 12 calls")


def test_one_altered_completion_is_one_root_and_all_that_follows_is_its_fallout(
    tmp_path: Path,
) -> None:
    comparison = two(tmp_path, Society(), Society(altered=[("ben", 1)]))
    (origin,) = comparison.origins
    assert (origin.pair.entry.scope, origin.pair.entry.i, origin.cause) == ("ben", 1, None)
    found = classes(comparison)
    assert found.pop(("ben", 1)) is Class.ROOT
    for (_, step), cls in found.items():
        assert cls is (Class.FALLOUT if step > 1 else Class.IDENTICAL)
    assert (origin.proven, origin.assumed) == (3, 3), "its words are heard for one step"


def test_two_independent_roots_are_told_apart(tmp_path: Path) -> None:
    comparison = two(
        tmp_path,
        Society(deaf=["cleo"]),
        Society(deaf=["cleo"], altered=[("ada", 1), ("cleo", 2)]),
    )
    roots = [(origin.pair.entry.scope, origin.pair.entry.i) for origin in comparison.origins]
    assert roots == [("ada", 1), ("cleo", 2)]
    first, second = comparison.origins
    by_place = {(one.pair.entry.scope, one.pair.entry.i): one for one in comparison.judged}
    assert by_place["ben", 2].origins == (first.id,), "at step 2 only ada's words had changed"
    assert set(by_place["ben", 3].origins) == {first.id, second.id}
    assert by_place["cleo", 3].cls is Class.IDENTICAL, "cleo hears nobody"


def test_a_changed_persona_beside_a_root_is_told_apart(tmp_path: Path) -> None:
    comparison = two(
        tmp_path,
        Society(deaf=["cleo"]),
        Society(
            deaf=["cleo"],
            personas={"cleo": "You are cleo, a criminal."},
            altered=[("ada", 0)],
        ),
    )
    root, persona = comparison.origins
    assert (root.cause, root.pair.entry.scope) == (None, "ada")
    assert persona.cause is not None
    assert persona.cause.field == "system prompt, messages[0].content"
    assert "citizen" in persona.cause.a
    assert "criminal" in persona.cause.b
    assert (persona.calls, persona.scopes) == (4, {"cleo"})
    found = classes(comparison)
    assert {found["cleo", step] for step in range(4)} == {Class.CHANGED}
    assert {found["ben", step] for step in (1, 2, 3)} == {Class.FALLOUT}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    altered=st.sets(st.tuples(st.sampled_from(AGENTS), st.integers(0, 3)), max_size=4),
    deaf=st.sets(st.sampled_from(AGENTS)),
)
def test_roots_are_exactly_the_altered_calls_that_nothing_had_reached_before(
    tmp_path: Path, altered: set[tuple[str, int]], deaf: set[str]
) -> None:
    comparison = two(tmp_path, Society(deaf=deaf), Society(deaf=deaf, altered=altered))
    first = min((step for _, step in altered), default=99)
    expected = {(agent, step) for agent, step in altered if agent in deaf or step == first}
    roots = {
        (origin.pair.entry.scope, origin.pair.entry.i)
        for origin in comparison.origins
        if origin.cause is None
    }
    assert roots == expected
    assert all(origin.cause is None for origin in comparison.origins), "nothing else was changed"
    for one in comparison.judged:
        if one.cls is Class.FALLOUT:
            assert one.pair.entry.scope not in deaf
            assert one.pair.entry.i > first
            heard = {
                (origin.pair.entry.scope, origin.pair.entry.i) for origin in comparison.origins
            }
            before = {(agent, one.pair.entry.i - 1) for agent in AGENTS}
            assert one.proven is bool(heard & before), "proven are the words of a root itself"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(altered=st.sets(st.tuples(st.sampled_from(AGENTS), st.integers(0, 3)), min_size=1))
def test_the_comparison_is_the_same_from_both_sides(
    tmp_path: Path, altered: set[tuple[str, int]]
) -> None:
    a = Society().record(tmp_path / "a.jsonl")
    b = Society(altered=altered).record(tmp_path / "b.jsonl")
    with comparing(a, b) as one, comparing(b, a) as other:
        assert classes(one) == classes(other)
        assert [found.proven for found in one.origins] == [found.proven for found in other.origins]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"fields": {"temperature": 0.2}}, "cause: temperature: 0.8 in A, 0.2 in B"),
        ({"fields": {"seed": 5}}, "cause: seed: (absent) in A, 5 in B"),
        ({"run_seed": 8}, "cause: run seed: 7 in A, 8 in B"),
        (
            {"model": TinyModel(binding=make_binding(weights="c" * 64))},
            "cause: model: gguf aaaaaaaaaaaa… in A, gguf cccccccccccc… in B",
        ),
        (
            {"model": TinyModel(binding=make_binding(template={"sha256": "f" * 64}))},
            "cause: chat template: bbbbbbbbbbbb in A, ffffffffffff in B",
        ),
        (
            {"fields": {"response_format": {"type": "json_object"}}},
            "cause: response_format: (absent) in A, {'type': 'json_object'} in B",
        ),
        (
            {"personas": {"ada": "You are ada, a thief."}},
            "cause: system prompt, messages[0].content: character 15: ",
        ),
    ],
)
def test_the_first_line_names_the_cause(
    tmp_path: Path, change: dict[str, object], shown: str
) -> None:
    assert verdict(tmp_path, Society(), Society(**change)).startswith(shown)  # type: ignore[arg-type]


def test_another_environment_is_named_where_the_same_requests_were_answered_otherwise(
    tmp_path: Path,
) -> None:
    other = TinyModel(wording="so so", environment=make_environment("another CPU"))
    assert verdict(tmp_path, Society(), Society(other)).startswith(
        "cause: another CPU: cpu: a CPU in A, another CPU in B; 3 of 3 same requests"
    )


def test_without_another_cause_the_report_says_so(tmp_path: Path) -> None:
    shown = verdict(tmp_path, Society(), Society(TinyModel(wording="so so")))
    assert shown.startswith("cause: not in what was recorded: same environment, same settings")


def test_within_an_agent_what_came_first_is_named_first(tmp_path: Path) -> None:
    for name, first, last in (("a", "hello", "fine"), ("b", "good day", "so so")):
        model = TinyModel()
        with recording(tmp_path / f"{name}.jsonl") as session:
            ask(session, model, first)
            ask(session, model, "second")
            model.wording = last
            ask(session, model, "third")
    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        assert [origin.pair.entry.i for origin in found.origins] == [0, 2]
        assert describe(found).startswith("cause: messages[0].content: character 0")


def test_a_longer_run_has_calls_that_follow_from_nothing(tmp_path: Path) -> None:
    comparison = two(tmp_path, Society(), Society(steps=6))
    counts = Counter(classes(comparison).values())
    assert counts == {Class.IDENTICAL: 12, Class.ONLY_B: 6}
    assert "call 4 of ada" in verdict(tmp_path, Society(), Society(steps=6))
