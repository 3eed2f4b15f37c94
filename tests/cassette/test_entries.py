"""Packed calls are those that were packed, in little memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.cassette.entries import Entries, Entry

_NUMBER = st.integers(0, 2**64 - 1)
_DIGEST = st.binary(min_size=32, max_size=32)
_ENTRIES = st.lists(
    st.builds(
        Entry,
        number=st.just(0),
        offset=_NUMBER,
        length=_NUMBER,
        scope=st.text(max_size=3),
        i=_NUMBER,
        n=_NUMBER,
        at=st.none() | st.tuples(_NUMBER, _NUMBER),
        kind=st.none() | st.text(max_size=3),
        asked=_DIGEST,
        sent=_DIGEST,
        answer=_DIGEST,
        settings=st.binary(max_size=2),
        env=st.text(max_size=3),
        seeds=st.frozensets(st.integers(), max_size=3),
    ),
    max_size=6,
)


@given(_ENTRIES)
def test_they_are_what_was_packed_and_numbered(entries: list[Entry]) -> None:
    packed = Entries(entries)
    numbered = [entry._replace(number=number) for number, entry in enumerate(entries)]
    assert len(packed) == len(entries)
    assert list(packed) == numbered
    assert packed[1:] == numbered[1:]
    for name in Entry._fields[1:]:
        assert list(packed.column(name)) == [getattr(entry, name) for entry in entries]


@given(_ENTRIES, st.data())
def test_a_run_is_added_to_its_calls_alone(entries: list[Entry], data: st.DataObject) -> None:
    packed = Entries(entries)
    used = data.draw(st.frozensets(st.sampled_from(range(len(entries))))) if entries else ()
    for number in used:
        packed.add_seed(number, 7)
    assert list(packed) == [
        entry._replace(number=number, seeds=entry.seeds | {7} if number in used else entry.seeds)
        for number, entry in enumerate(entries)
    ]


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(IndexError):
        Entries()[0]


def test_a_call_takes_few_bytes() -> None:
    calls = 20_000
    tracemalloc.start()
    try:
        packed = Entries(
            Entry(
                number=number,
                offset=2**33 + number,
                length=1000,
                scope=f"agent {number % 10}",
                i=number // 10,
                n=0,
                at=(0, number // 10),
                kind="act",
                asked=number.to_bytes(32, "big"),
                sent=number.to_bytes(32, "little"),
                answer=number.to_bytes(32, "big"),
                settings=bytes(32),
                env="e" * 64,
                seeds=frozenset({42}),
            )
            for number in range(calls)
        )
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) == calls
    assert held < 200 * calls
