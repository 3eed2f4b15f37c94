"""Calls are aligned by identity, and none is lost or used twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.cassette.entries import Entries, Entry
from swarm_repro.compare.align import align


def entry(scope: str, i: int, key: int, n: int = 0, seeds: frozenset[int] = frozenset()) -> Entry:
    sent = bytes([key]) * 32
    return Entry(0, 0, 0, scope, i, n, (0, i), None, sent, sent, bytes(32), b"", "env", seeds)


entries = st.lists(
    st.builds(
        entry,
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 1),
        st.frozensets(st.integers(1, 3), max_size=2),
    ),
    max_size=12,
    unique_by=lambda one: (one.scope, one.i, one.sent, one.n),
).map(Entries)


@given(a=entries, b=entries)
def test_every_call_is_in_one_pair_at_its_own_place(a: Entries, b: Entries) -> None:
    pairs = align(a, b)
    assert Counter(pair.a for pair in pairs if pair.a) == Counter(a)
    assert Counter(pair.b for pair in pairs if pair.b) == Counter(b)
    for pair in pairs:
        if pair.a and pair.b:
            assert (pair.a.scope, pair.a.i) == (pair.b.scope, pair.b.i)


@given(a=entries, b=entries)
def test_equal_sent_keys_at_one_place_belong_together(a: Entries, b: Entries) -> None:
    identities = [{(one.scope, one.i, one.sent, one.n) for one in side} for side in (a, b)]
    paired = {
        (pair.a.scope, pair.a.i, pair.a.sent, pair.a.n)
        for pair in align(a, b)
        if pair.a and pair.b and (pair.a.sent, pair.a.n) == (pair.b.sent, pair.b.n)
    }
    assert paired == identities[0] & identities[1]


@given(a=entries)
def test_pairs_stand_in_causal_order(a: Entries) -> None:
    places = [(pair.entry.at, pair.entry.scope) for pair in align(a, Entries())]
    assert places == sorted(places)
