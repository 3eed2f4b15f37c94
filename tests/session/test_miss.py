"""What a miss says: the nearest recording, the place, both values, and why a seed differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_repro.cassette.header import Header
from swarm_repro.cassette.store import open_for_replay
from swarm_repro.errors import ReplayMiss
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import LONG, TinyModel, ask, make_binding, recording, replaying

PERSONA = LONG + "You are careful. Answer in one word."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    model = TinyModel()
    with recording(path) as session:
        ask(session, model, PERSONA, temperature=0.7)
        ask(session, model, "second", temperature=0.7)
        ask(session, model, PERSONA, who="bob", temperature=0.7)
    return path


def miss(session: Session, prompt: str = PERSONA, who: str = "alice", **fields: object) -> str:
    with pytest.raises(ReplayMiss) as caught:
        ask(session, TinyModel(), prompt, who=who, **{"temperature": 0.7, **fields})
    return str(caught.value)


def test_a_miss_names_the_nearest_call_the_message_and_the_character(path: Path) -> None:
    asked = PERSONA.replace("careful", "careless")
    said = miss(replaying(path), asked)
    assert said.splitlines()[0] == f"call 0 of alice is not in {path}"
    assert "nearest recorded call: 0 of alice" in said
    at = PERSONA.index("careful") + len("care")
    assert f"messages[0].content, character {at}: recorded " in said
    assert "careful" in said
    assert "careless" in said
    assert "--record" in said.splitlines()[-1]
    assert "--auto" in said.splitlines()[-1]


def test_a_miss_names_the_sampling_field_with_both_values(path: Path) -> None:
    said = miss(replaying(path), temperature=0.9)
    assert "temperature: recorded 0.7, asked 0.9" in said
    assert "messages" not in said


def test_a_miss_names_a_field_that_is_only_on_one_side(path: Path) -> None:
    assert "top_k: recorded (absent), asked 5" in miss(replaying(path), top_k=5)


def test_a_derived_seed_is_not_named_as_a_difference(path: Path) -> None:
    assert "seed" not in miss(replaying(path), "hullo").replace(str(path), "")


def test_the_nearest_call_is_the_one_at_the_same_place(path: Path) -> None:
    session = replaying(path)
    ask(session, TinyModel(), PERSONA, temperature=0.7)
    said = miss(session, "secund")
    assert "nearest recorded call: 1 of alice" in said
    assert "character 3" in said


def test_past_the_last_place_of_a_scope_the_nearest_of_the_scope_is_named(path: Path) -> None:
    session = replaying(path)
    ask(session, TinyModel(), PERSONA, temperature=0.7)
    ask(session, TinyModel(), "second", temperature=0.7)
    assert "nearest recorded call: 1 of alice" in miss(session, "seconds")


def test_for_an_unknown_scope_the_nearest_of_the_file_is_named(path: Path) -> None:
    assert "nearest recorded call: 1 of alice" in miss(replaying(path), "second", who="carol")


def test_more_than_three_differences_are_counted(path: Path) -> None:
    said = miss(replaying(path), "x", temperature=0.1, top_k=1, top_p=0.2, min_p=0.3)
    assert "and 2 more" in said


def test_another_run_seed_is_named_as_the_cause(path: Path) -> None:
    said = miss(replaying(path, run_seed=8))
    assert "the recording's run seed is not 8" in said
    recorded = next(iter(open_for_replay(path).calls().values()))
    assert f"recorded with seed {recorded.sent_seed}" in said


def test_another_place_in_its_scope_is_named_as_the_cause(path: Path) -> None:
    said = miss(replaying(path), "second")
    assert "the same request was recorded with seed" in said
    assert "another call of its scope" in said


def test_a_call_asked_more_often_than_recorded_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    header = Header(recorder="0.1.0", scenario="test", seed_policy="content")
    with recording(path, header=header) as session:
        ask(session, TinyModel(), seed=5)
    replay = replaying(path)
    ask(replay, TinyModel(), seed=5)
    with pytest.raises(ReplayMiss, match="asked more often than it was recorded"):
        ask(replay, TinyModel(), seed=5)


@pytest.mark.parametrize(("recorded", "asked"), [(5, 6), (None, 6), (5, None)])
def test_another_seed_of_the_callers_own_is_named_with_both_values(
    recorded: int | None, asked: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), seed=recorded)
    with pytest.raises(ReplayMiss) as caught:
        ask(replaying(path), TinyModel(), seed=asked)
    said = str(caught.value)
    assert "template or its defaults differ" not in said
    assert "seed" in said
    assert all(str(seed) in said for seed in (recorded, asked) if seed is not None)


def test_an_unknown_model_is_named_with_those_that_are_known(path: Path) -> None:
    model = TinyModel(binding=make_binding(name="other"))
    with pytest.raises(ReplayMiss, match=r"knows no model 'other' \(it knows: 'tiny'\)"):
        ask(replaying(path), model)


def test_an_empty_cassette_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path):
        pass
    store = open_for_replay(path)
    session = Session(mode=Mode.REPLAY, header=store.header, store=store)
    with pytest.raises(ReplayMiss, match="knows no model"):
        ask(session, TinyModel())


def test_versions_that_differ_come_first(path: Path) -> None:
    store = open_for_replay(path)
    session = Session(
        mode=Mode.REPLAY, header=store.header, store=store, run_seed=7,
        version_notes=("swarm-safety 1.8.0, recorded with 1.9.0",),
    )  # fmt: skip
    lines = miss(session, "x").splitlines()
    assert lines[1].strip() == "swarm-safety 1.8.0, recorded with 1.9.0"


def test_the_same_request_of_another_scope_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello", who="worker-1")
    with pytest.raises(ReplayMiss, match="recorded in the scope worker-1, not in main"):
        ask(replaying(path), TinyModel(), "hello", who="main")
