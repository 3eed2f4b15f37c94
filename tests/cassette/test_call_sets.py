"""Sets and mappings of calls are the same for a large file as for one in memory."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.call_sets import all_of, digests_of, joined, those_in, those_that
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.scan import call_digest
from tests.support.tiny_model import TinyModel, ask, recording

COUNT = 12
STRANGER: CallId = ("nobody", "sr1:" + "0" * 64, 0)

Calls = Mapping[CallId, CallRecord]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls") / "c.jsonl"
    with recording(path) as session:
        for number in range(COUNT):
            ask(session, TinyModel(), f"{number}", who=f"agent_{number // 5}")
    return path


@pytest.fixture(scope="module")
def memory(path: Path) -> Cassette:
    return read_cassette(path)


@pytest.fixture(scope="module")
def large(path: Path) -> Cassette:
    return open_mapped(path)


def picked(calls: Calls, numbers: set[int]) -> Set[CallId]:
    """Calls by their places; a place beyond the last gives a call of no cassette."""
    ids = [*calls, STRANGER]
    return frozenset(ids[number] for number in numbers)


places = st.sets(st.integers(0, COUNT))


@settings(max_examples=40)
@given(one=places, two=places)
def test_sets_of_calls_agree(
    one: set[int], two: set[int], memory: Cassette, large: Cassette
) -> None:
    first, second = picked(memory.calls, one), picked(memory.calls, two)
    expected = those_in(memory.calls, first, second)
    found = those_in(large.calls, first, second)
    assert expected == (first | second) - {STRANGER}
    assert set(found) == expected
    assert list(found) == [call_id for call_id in memory.calls if call_id in expected]
    assert len(found) == len(expected)
    assert sorted(digests_of(found)) == sorted(digests_of(expected))
    for call_id in (*memory.calls, STRANGER):
        assert (call_id in found) == (call_id in expected)
    # Of sets that were made so, others.
    only_first = those_in(large.calls, first)
    assert set(those_in(large.calls, only_first, second)) == expected
    for subtracted in (second, those_in(large.calls, second)):
        left = found - subtracted
        assert set(left) == expected - second
        assert len(left) == len(expected - second)
        assert list(left) == [call_id for call_id in memory.calls if call_id in expected - second]
        # Of one set what is only in another, wherever in the file that is.
        assert set(only_first - subtracted) == first - second - {STRANGER}
    assert found & second == expected & second
    assert found | second == expected | second
    assert (found == second) == (expected == second)
    assert (found <= second) == (expected <= second)


@settings(max_examples=40)
@given(kept=places, others=places)
def test_joined_calls_agree(
    kept: set[int], others: set[int], memory: Cassette, large: Cassette
) -> None:
    added = {
        call_id: replace(memory.calls[call_id], duration_s=9.0)
        for call_id in picked(memory.calls, others) - {STRANGER}
    }
    ids = those_in(memory.calls, picked(memory.calls, kept)) - added.keys()
    expected = joined(memory.calls, ids, added)
    found = joined(large.calls, those_in(large.calls, ids), added)
    in_order = sorted(expected.values(), key=lambda call: call.order)
    assert list(found.values()) == in_order
    assert list(found) == [call.id for call in in_order]
    assert len(found) == len(expected)
    for call_id in (*memory.calls, STRANGER):
        assert (call_id in found) == (call_id in expected)
        assert found.get(call_id) == expected.get(call_id)
        if call_id not in expected:
            with pytest.raises(KeyError):
                found[call_id]


def test_all_calls_and_those_that_match_a_condition(memory: Cassette, large: Cassette) -> None:
    for cassette in (memory, large):
        assert set(all_of(cassette.calls)) == set(memory.calls)
        assert len(all_of(cassette.calls)) == COUNT
        assert those_that(cassette.calls, lambda call_id: call_id[0] == "agent_1") == {
            call_id for call_id in memory.calls if call_id[0] == "agent_1"
        }
        assert len(those_that(cassette.calls, lambda _: False)) == 0
        assert those_that(cassette.calls, lambda _: True) == set(memory.calls)
        assert those_in(cassette.calls) == set()
        assert list(digests_of(all_of(cassette.calls))) == list(map(call_digest, memory.calls))


def test_the_calls_of_a_large_file_are_a_mapping(memory: Cassette, large: Cassette) -> None:
    assert len(large.calls) == COUNT
    assert list(large.calls) == list(memory.calls)
    assert list(large.calls.items()) == list(memory.calls.items())
    assert large.calls == memory.calls
    for call_id, call in memory.calls.items():
        assert large.calls[call_id] == large.calls.get(call_id) == call
        assert call_id in large.calls
        assert call in large.calls.values()
    with pytest.raises(KeyError) as caught:
        large.calls[STRANGER]
    assert caught.value.args == (STRANGER,)
    assert STRANGER not in large.calls
    assert large.calls.get(STRANGER) is None
    default = next(iter(memory.calls.values()))
    assert large.calls.get(STRANGER, default) is default


def test_the_calls_of_a_large_file_can_be_iterated_repeatedly(large: Cassette) -> None:
    values = large.calls.values()
    assert list(values) == list(values)
    assert len(values) == COUNT


def test_a_set_of_calls_can_be_a_member_of_another(large: Cassette) -> None:
    calls = all_of(large.calls)
    assert len({calls, calls, all_of(large.calls)}) == 2


def test_a_table_finds_a_call_by_scope_key_and_repeat(memory: Cassette) -> None:
    scope, asked, n = next(iter(memory.calls))
    known = call_digest((scope, asked, n))
    changed = f"{asked[:4]}{int(asked[4], 16) ^ 1:x}{asked[5:]}"
    for other in ((scope, asked, n + 1), (scope + "x", asked, n), (scope, changed, n)):
        assert call_digest(other) != known
    assert len(known) == 16
    assert len({call_digest((scope, asked, n)) for n in range(1000)}) == 1000
    assert call_digest(("\ud800", asked, n)) != known, "whatever a scope is called"
