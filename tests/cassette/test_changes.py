"""Changes of a cassette by a new recording: entry by entry, and when there are none."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from swarm_repro.cassette import store as store_module
from swarm_repro.cassette.changes import Settled, same_recording, settle
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.errors import CassetteDamagedError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.cassette.test_reader import records, sealed
from tests.support.tiny_model import (
    HEADER,
    TinyModel,
    ask,
    make_environment,
    make_run,
    recording,
)

CONTENT = Header(recorder="0.1.0", scenario="test", seed_policy="content")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def record(
    path: Path,
    prompts: str,
    *,
    cpu: str = "a CPU",
    wording: str = "fine",
    who: str = "alice",
    header: Header = CONTENT,
) -> Cassette:
    """A recording of its own file: seeds are given, so that a call is the same at every place."""
    model = TinyModel(wording=wording, environment=make_environment(cpu))
    with recording(path, header=header) as session:
        for prompt in prompts:
            ask(session, model, prompt, who=who, seed=5)
    return read_cassette(path)


def by_prompt(cassette: Cassette) -> dict[str, CallId]:
    return {
        cast("Any", call.body)["messages"][0]["content"]: call.id
        for call in cassette.calls.values()
    }


def settled(base: Cassette, fresh: Cassette, *, kept: str = "", ordered: bool = False) -> Settled:
    ids = by_prompt(base)
    return settle(
        base,
        fresh.calls,
        used=frozenset(fresh.calls),
        kept=frozenset(ids[prompt] for prompt in kept),
        ordered=ordered,
    )


def prompts_of(cassette: Cassette, ids: object) -> str:
    names = {call_id: prompt for prompt, call_id in by_prompt(cassette).items()}
    return "".join(sorted(names[call_id] for call_id in cast("Any", ids)))


def test_each_call_is_unchanged_replaced_added_or_dropped(path: Path, tmp_path: Path) -> None:
    base = record(path, "abc")
    fresh = record(tmp_path / "same.jsonl", "a")
    other = record(tmp_path / "other.jsonl", "bd", wording="new")
    both = replace(fresh, calls={**fresh.calls, **other.calls})
    found = settled(base, both, ordered=False)
    changes = found.changes
    assert prompts_of(base, changes.unchanged) == "a"
    assert prompts_of(other, changes.replaced) == "b"
    assert prompts_of(other, changes.added) == "d"
    assert prompts_of(base, changes.dropped) == "c"
    ids = by_prompt(base)
    assert found.calls[ids["a"]] is base.calls[ids["a"]], "its old entry, bytes and all"
    assert found.calls[ids["b"]] is other.calls[ids["b"]]
    assert found.calls.keys() == both.calls.keys()


def test_kept_calls_stay_and_unused_calls_are_not_taken(path: Path, tmp_path: Path) -> None:
    base = record(path, "abc")
    fresh = record(tmp_path / "fresh.jsonl", "bxy", wording="new")
    ids = {**by_prompt(base), **by_prompt(fresh)}
    found = settle(
        base, fresh.calls, used=frozenset({ids["x"]}), kept=frozenset({ids["a"]}), ordered=True
    )
    assert found.calls.keys() == {ids["a"], ids["x"]}
    assert prompts_of(base, found.changes.dropped) == "bc"
    # A call that another run uses, recorded anew, has its new entry.
    found = settle(base, fresh.calls, used=frozenset(), kept=frozenset({ids["b"]}), ordered=True)
    assert list(found.calls.items()) == [(ids["b"], fresh.calls[ids["b"]])]
    assert prompts_of(base, found.changes.replaced) == "b"
    assert (found.changes.added, found.changes.unchanged) == ([], [])
    # Of what is kept, only what is there can be.
    found = settle(base, {}, used=frozenset({ids["x"]}), kept=frozenset({ids["y"]}), ordered=True)
    assert found.calls == {}
    assert found.changes.dropped == base.calls.keys()


@pytest.mark.parametrize(
    ("prompts", "ordered", "replaced"),
    [
        ("ab", False, ""),
        ("ba", False, ""),
        ("ba", True, "ab"),
        ("xab", False, "ab"),  # one came: what comes after it has moved
        ("b", False, "b"),  # one went
        ("abx", False, ""),  # one came last: nothing else has moved
        ("b", True, "b"),
        ("a", True, ""),
    ],
)
def test_the_place_in_a_scope_counts_where_the_order_does_or_calls_came_or_went(
    prompts: str, ordered: bool, replaced: str, path: Path, tmp_path: Path
) -> None:
    base = record(path, "ab")
    found = settled(base, record(tmp_path / "fresh.jsonl", prompts), ordered=ordered)
    assert prompts_of(base, found.changes.replaced) == replaced


def test_a_call_that_came_in_one_scope_moves_none_of_another(path: Path, tmp_path: Path) -> None:
    base = record(path, "ab")
    fresh = record(tmp_path / "alice.jsonl", "ba")
    bob = record(tmp_path / "bob.jsonl", "x", who="bob")
    both = replace(fresh, calls={**fresh.calls, **bob.calls})
    found = settled(base, both)
    assert (len(found.changes.unchanged), len(found.changes.added)) == (2, 1)
    assert found.changes.replaced == []


def test_recording_in_another_order_changes_no_byte_where_seeds_follow_from_requests(
    path: Path,
) -> None:
    record(path, "abc")
    before = path.read_bytes()
    record(path, "cab")
    assert path.read_bytes() == before
    record(path, "cabd")
    assert path.read_bytes() != before


# --- Who has seen the same answer.


def test_another_environment_with_the_same_answer_is_a_witness(path: Path, tmp_path: Path) -> None:
    base = record(path, "abc")
    ids = by_prompt(base)
    here, there = make_environment().sha256, make_environment("another").sha256
    again = record(tmp_path / "again.jsonl", "abc", cpu="another")
    found = settled(base, again)
    assert found.witnesses == {there: set(ids.values())}
    assert {call.env for call in found.calls.values()} == {here}
    assert len(found.changes.unchanged) == 3
    # In the environment of the recording nothing is added to what is known.
    known = replace(base, witnesses={there: frozenset({ids["a"], ids["b"]})})
    assert settled(known, record(tmp_path / "here.jsonl", "abc")).witnesses == known.witnesses
    # A witness of more calls.
    more = record(tmp_path / "more.jsonl", "c", cpu="another")
    assert settled(known, more, kept="ab").witnesses == {there: set(ids.values())}


def test_a_replaced_answer_loses_its_witness(path: Path, tmp_path: Path) -> None:
    base = record(path, "abc")
    ids = by_prompt(base)
    known = replace(base, witnesses={"w" * 64: frozenset(ids.values())})
    fresh = record(tmp_path / "fresh.jsonl", "a", cpu="another", wording="new")
    found = settled(known, fresh, kept="b")
    assert found.calls.keys() == {ids["a"], ids["b"]}
    assert found.witnesses["w" * 64] - {ids["c"]} == {ids["b"]}
    assert make_environment("another").sha256 not in found.witnesses


@pytest.mark.parametrize(
    ("members", "ordered", "is_same"),
    [
        ({}, True, True),
        ({"env": "f" * 64}, True, True),
        ({"duration_s": 99.0}, True, True),
        ({"shared": True}, True, True),
        ({"from_cache": True}, True, True),
        ({"i": 9}, True, False),
        ({"i": 9}, False, True),
        ({"n": 1}, False, False),
        ({"at": (1, 2)}, False, False),
        ({"kind": "act"}, False, False),
        ({"sent": "sr1:" + "0" * 64}, False, False),
        ({"asked_seed": None}, False, False),
        ({"sent_seed": 6}, False, False),
        ({"model": "other"}, False, False),
        ({"endpoint": "completion"}, False, False),
        ({"path": "/other"}, False, False),
        ({"stored_body": {}}, False, False),
        ({"tokens": {}}, False, False),
        ({"prompt_sha256": None}, False, False),
        ({"masked": {"request": ["a key"]}}, False, False),
    ],
    ids=str,
)
def test_two_recordings_of_a_call_are_the_same_but_for_what_is_volatile(
    members: dict[str, Any], ordered: bool, is_same: bool, path: Path
) -> None:
    (call,) = record(path, "a").calls.values()
    other: CallRecord = replace(call, **members)
    assert same_recording(call, other, ordered=ordered) == is_same
    assert same_recording(other, call, ordered=ordered) == is_same


def test_two_answers_are_the_same_but_for_their_ids_and_times(path: Path, tmp_path: Path) -> None:
    (one,) = record(path, "a").calls.values()
    later = TinyModel()
    for _ in range(3):
        next(later.numbers)
    with recording(tmp_path / "later.jsonl", header=CONTENT) as session:
        ask(session, later, "a", seed=5)
    (two,) = read_cassette(tmp_path / "later.jsonl").calls.values()
    assert one.completion.body != two.completion.body
    assert same_recording(one, two, ordered=True)
    (three,) = record(tmp_path / "new.jsonl", "a", wording="new").calls.values()
    assert not same_recording(one, three, ordered=True)


# --- Damage.


@pytest.mark.parametrize("is_large", [True, False])
def test_damage_found_while_rerecording_is_named_and_loses_nothing(
    is_large: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(store_module, "MAPPED_FROM_BYTES", 0)
    with recording(path) as session:
        for who in ("alice", "bob"):
            ask(session, TinyModel(), "a", who=who)
    found = records(path.read_bytes())
    second = [record for record in found if record["record"] == "call"][1]
    second["response"]["json"]["choices"][0]["message"]["content"] = "forged"
    path.write_bytes(sealed(found))
    before = path.read_bytes()
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
        for who in ("alice", "bob"):
            ask(session, TinyModel(), "a", who=who)
        with pytest.raises(CassetteDamagedError) as caught:
            store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    assert str(caught.value) == (
        f"{path}: call 0 of bob: the response's bytes do not have the recorded SHA-256; see what "
        f"is whole: swarm-repro check {path}"
    )
    assert caught.value.exit_code == 5
    assert path.read_bytes() == before
    assert part_path(path).exists()
    assert {one.name for one in path.parent.iterdir()} == {"c.jsonl", "c.jsonl.part"}
