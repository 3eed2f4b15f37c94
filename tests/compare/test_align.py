"""Calls are aligned by identity, and none is lost or used twice."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.entries import Entries, Entry
from swarm_repro.compare.align import Pair, Pairs, align, precedes


def entry(scope: str, i: int, key: int, n: int = 0, seeds: frozenset[int] = frozenset()) -> Entry:
    sent = bytes([key]) * 32
    return Entry(0, 0, 0, scope, i, n, (0, i), None, sent, sent, bytes(32), b"", "env", seeds)


SEEDS = [frozenset(seeds) for seeds in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3))]


def decoded(number: int) -> Entry:
    """A call by one number: drawing its members one by one takes several times as long."""
    rest, seeds = divmod(number, len(SEEDS))
    rest, n = divmod(rest, 2)
    rest, key = divmod(rest, 4)
    return entry("ab"[rest // 4], rest % 4, key, n, SEEDS[seeds])


entries = st.lists(
    st.integers(0, 2 * 4 * 4 * 2 * len(SEEDS) - 1),
    max_size=12,
    unique_by=lambda number: number // len(SEEDS),
).map(lambda numbers: Entries(map(decoded, numbers)))


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


@settings(max_examples=40)
@given(a=entries, b=entries)
def test_a_pair_belongs_to_the_runs_of_both_its_calls(a: Entries, b: Entries) -> None:
    for number, pair in enumerate(align(a, b)):
        seeds = [one.seeds for one in (pair.a, pair.b) if one is not None]
        assert pair.seeds == frozenset().union(*seeds)
        assert pair.entry == (pair.a or pair.b)
        assert pair.number == number


@settings(max_examples=40)
@given(a=entries, b=entries)
def test_a_run_of_both_files_is_compared_with_itself_alone(a: Entries, b: Entries) -> None:
    common = frozenset().union(*a.column("seeds")) & frozenset().union(*b.column("seeds"))
    for pair in align(a, b):
        if pair.a and pair.b and (pair.a.sent, pair.a.n) != (pair.b.sent, pair.b.n):
            assert pair.a.seeds & common == pair.b.seeds & common


@settings(max_examples=40)
@given(a=entries, b=entries)
def test_a_call_stays_alone_only_where_nothing_is_left_for_it(a: Entries, b: Entries) -> None:
    common = frozenset().union(*a.column("seeds")) & frozenset().union(*b.column("seeds"))
    alone = [pair for pair in align(a, b) if pair.a is None or pair.b is None]
    left, right = (
        {(one.scope, one.i, one.seeds & common) for one in side if one is not None}
        for side in ((pair.a for pair in alone), (pair.b for pair in alone))
    )
    assert not left & right


@settings(max_examples=40)
@given(a=entries, b=entries)
def test_steps_are_the_pairs_of_one_epoch_and_step(a: Entries, b: Entries) -> None:
    pairs = align(a, b)
    steps = list(pairs.steps())
    assert [number for step in steps for number in step] == list(range(len(pairs)))
    places = [{pairs[number].entry.at for number in step} for step in steps]
    assert all(len(one) == 1 for one in places)
    assert len({place for one in places for place in one}) == len(steps)


def call(
    sent: int,
    *,
    scope: str = "a",
    i: int = 0,
    asked: int | None = None,
    n: int = 0,
    seeds: tuple[int, ...] = (),
    at: tuple[int, int] | None = (0, 0),
) -> Entry:
    key = bytes([sent if asked is None else asked]) * 32
    sent_key = bytes([sent]) * 32
    return Entry(0, 0, 0, scope, i, n, at, None, key, sent_key, b"", b"", "env", frozenset(seeds))


def numbers(a: list[Entry], b: list[Entry]) -> list[tuple[int | None, int | None]]:
    return [
        (pair.a and pair.a.number, pair.b and pair.b.number)
        for pair in align(Entries(a), Entries(b))
    ]


@pytest.mark.parametrize(
    ("a", "b", "paired"),
    [
        pytest.param([call(1)], [call(2)], [(0, 0)], id="one each belongs together"),
        pytest.param(
            [call(1), call(2)], [call(2), call(1)], [(0, 1), (1, 0)], id="equal sent keys first"
        ),
        pytest.param(
            [call(1, n=0), call(1, n=1)],
            [call(1, n=1), call(1, n=0)],
            [(0, 1), (1, 0)],
            id="equal repeats",
        ),
        pytest.param(
            [call(1, asked=8), call(2, asked=9)],
            [call(3, asked=9), call(4, asked=8)],
            [(0, 1), (1, 0)],
            id="then equal asked keys",
        ),
        pytest.param(
            [call(1, asked=9, n=0), call(2, asked=9, n=1)],
            [call(3, asked=9, n=1), call(4, asked=9, n=0)],
            [(0, 1), (1, 0)],
            id="then equal asked keys and repeats",
        ),
        pytest.param([call(1), call(2)], [call(3), call(4)], [(0, 0), (1, 1)], id="then in order"),
        pytest.param(
            [call(1), call(2), call(3)],
            [call(4)],
            [(0, 0), (1, None), (2, None)],
            id="what is left of the first",
        ),
        pytest.param(
            [call(1)], [call(4), call(5)], [(0, 0), (None, 1)], id="what is left of the second"
        ),
        pytest.param(
            [call(1, seeds=(1,)), call(2, seeds=(2,))],
            [call(3, seeds=(2,)), call(4, seeds=(1,))],
            [(0, 1), (1, 0)],
            id="runs before order",
        ),
        pytest.param(
            [call(1, seeds=(1,), asked=8), call(2, seeds=(2,), asked=9)],
            [call(3, seeds=(1,), asked=9), call(4, seeds=(2,), asked=8)],
            [(0, 0), (1, 1)],
            id="runs before asked keys",
        ),
        pytest.param(
            [call(1, seeds=(1,)), call(2, seeds=(2,))],
            [call(1, seeds=(2,)), call(2, seeds=(1,))],
            [(0, 0), (1, 1)],
            id="sent keys before runs",
        ),
        pytest.param(
            [call(1, seeds=(1,), i=0), call(2, seeds=(2,), i=1)],
            [call(3, seeds=(2,), i=0), call(4, seeds=(1,), i=1)],
            [(0, None), (None, 0), (1, None), (None, 1)],
            id="a run of both is not compared with another",
        ),
        pytest.param(
            [call(1, seeds=(1,))], [call(3, seeds=(2,))], [(0, 0)], id="runs of two seeds are"
        ),
        pytest.param(
            [call(5, scope="b"), call(1, scope="a")],
            [call(2, scope="a"), call(6, scope="b")],
            [(1, 0), (0, 1)],
            id="agents by name",
        ),
        pytest.param(
            [call(5, i=10), call(1, i=9)], [call(6, i=9)], [(1, 0), (0, None)], id="by ordinal"
        ),
        pytest.param(
            [call(1, at=(1, 0)), call(2, i=1, at=(0, 3)), call(3, i=2, at=None)],
            [call(4, i=3, at=(0, 0)), call(5, scope="0", at=(0, 9))],
            [(2, None), (None, 0), (1, None), (None, 1), (0, None)],
            id="by epoch and step, those without first",
        ),
        pytest.param(
            [call(9, n=1), call(9, n=0), call(3)],
            [call(3), call(9, n=0), call(9, n=1)],
            [(2, 0), (1, 1), (0, 2)],
            id="of one place by asked key and repeat",
        ),
        pytest.param([], [], [], id="nothing"),
    ],
)
def test_what_belongs_together_at_one_place(
    a: list[Entry], b: list[Entry], paired: list[tuple[int | None, int | None]]
) -> None:
    assert numbers(a, b) == paired


def test_the_second_cassettes_step_counts_only_where_the_first_has_none() -> None:
    a = [call(1, at=(0, 5)), call(2, i=1, at=(0, 2))]
    b = [call(1, at=(0, 0)), call(2, i=1, at=(0, 9))]
    assert numbers(a, b) == [(1, 1), (0, 0)]


def test_a_pair_of_nothing_has_no_call() -> None:
    with pytest.raises(ValueError, match="a pair of nothing"):
        _ = Pair(0, None, None).entry


def test_pairs_without_any_have_no_step() -> None:
    assert list(Pairs(Entries(), Entries()).steps()) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (call(1, i=0), call(1, i=1), True),
        (call(1, i=1), call(1, i=0), False),
        (call(1, i=1), call(1, i=1), False),
        (call(1, i=0, at=(0, 9)), call(1, i=1, at=(0, 0)), True),
        (call(1, scope="b", at=(0, 1)), call(1, at=(0, 1)), True),
        (call(1, scope="b", at=(0, 1)), call(1, at=(0, 2)), True),
        (call(1, scope="b", at=(0, 2)), call(1, at=(0, 1)), False),
        (call(1, scope="b", at=(1, 0)), call(1, at=(0, 1)), False),
        (call(1, scope="b", at=None), call(1, at=(0, 1)), True),
        (call(1, scope="b", at=(0, 1)), call(1, at=None), True),
        (call(1, seeds=(1,)), call(1, i=1, seeds=(2,)), False),
        (call(1, seeds=(1, 3)), call(1, i=1, seeds=(2, 3)), True),
        (call(1, seeds=(1,)), call(1, i=1), True),
        (call(1), call(1, i=1, seeds=(1,)), True),
    ],
)
def test_what_can_have_come_before(one: Entry, other: Entry, expected: bool) -> None:
    assert precedes(Pair(0, one, None), Pair(1, None, other)) is expected


def test_a_pair_of_two_runs_comes_before_calls_of_either() -> None:
    both = Pair(0, call(1, seeds=(1,)), call(2, seeds=(2,)))
    for seed in (1, 2):
        assert precedes(both, Pair(1, call(1, i=1, seeds=(seed,)), None))
    assert not precedes(both, Pair(1, call(1, i=1, seeds=(3,)), None))
