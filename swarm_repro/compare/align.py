"""Which call of one cassette stands where which call of another does."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from swarm_repro.cassette.entries import Entries, Entry
from swarm_repro.cassette.records import At
from swarm_repro.packed import Packed

#: In place of the number of a call that is missing.
_NONE = -1


class Pair(NamedTuple):
    """Two calls at one place; one of them may be missing.

    Attributes:
        number: Its place among all pairs, from 0.
        a: The call of the first cassette.
        b: The call of the second.
    """

    number: int
    a: Entry | None
    b: Entry | None

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds of the runs that the calls belong to."""
        seeds = (self.a or self.entry).seeds
        return seeds if self.b is None or self.b.seeds == seeds else seeds | self.b.seeds

    @property
    def entry(self) -> Entry:
        """The first cassette's call, or the second's where the first has none."""
        entry = self.a or self.b
        if entry is None:
            raise ValueError("a pair of nothing")
        return entry


class Pairs(Packed[Pair]):
    """Pairs of the calls of two cassettes, each made when it is asked for."""

    def __init__(self, a: Entries, b: Entries) -> None:
        """Begin with none.

        Args:
            a: Calls of one cassette.
            b: Calls of the other.
        """
        self._a = a
        self._b = b
        self._numbers = (array("q"), array("q"))

    def append(self, a: int | None, b: int | None) -> None:
        """Add a pair of the calls with these numbers."""
        for numbers, number in zip(self._numbers, (a, b), strict=True):
            numbers.append(_NONE if number is None else number)

    def __len__(self) -> int:
        return len(self._numbers[0])

    def _item(self, number: int) -> Pair:
        a, b = (numbers[number] for numbers in self._numbers)
        return Pair(number, None if a == _NONE else self._a[a], None if b == _NONE else self._b[b])

    def sort_by_step(self) -> None:
        """Order pairs by epoch and step, those without first; of one step they keep their order."""
        at = self._at()
        order = sorted(range(len(self)), key=lambda number: _step_order(at[number]))
        one, other = self._numbers
        self._numbers = (
            array("q", map(one.__getitem__, order)),
            array("q", map(other.__getitem__, order)),
        )

    def steps(self) -> Iterator[range]:
        """The numbers of the pairs of each step, where they are in order."""
        at, start = self._at(), 0
        for stop in range(1, len(at) + 1):
            if stop == len(at) or at[stop] != at[start]:
                yield range(start, stop)
                start = stop

    def _at(self) -> list[At | None]:
        a, b = list(self._a.column("at")), list(self._b.column("at"))
        return [
            b[other] if one == _NONE else a[one] for one, other in zip(*self._numbers, strict=True)
        ]


def align(a: Entries, b: Entries) -> Pairs:
    """Align calls by identity: scope and ordinal, then key; never by text or place in the file.

    Where several calls of a file share a scope and an ordinal, as those of several runs do, equal
    sent keys belong together, then calls of the same run, then equal asked keys, then what is left
    in order. A run that both files hold is compared with itself only.

    Args:
        a: Calls of one cassette.
        b: Calls of the other.

    Returns:
        Every call once, in causal order as far as it is known: by (at, scope, i). Within one step
        of a simulation agents are ordered by name.
    """
    pairs = Pairs(a, b)
    seeds = list(a.column("seeds")), list(b.column("seeds"))
    common = frozenset().union(*set(seeds[0])) & frozenset().union(*set(seeds[1]))
    calls = heapq.merge(_by_place(a, 0), _by_place(b, 1))
    for _, found in groupby(calls, key=itemgetter(0, 1)):
        sides: tuple[list[int], list[int]] = ([], [])
        for _, _, side, number in found:
            sides[side].append(number)
        left, right = sides
        if len(left) == len(right) == 1 and (not common or seeds[0][left[0]] == seeds[1][right[0]]):
            pairs.append(left[0], right[0])
            continue
        matched = _match([a[number] for number in left], [b[number] for number in right], common)
        for one, other in sorted(matched, key=_key_order):
            pairs.append(
                None if one is None else one.number, None if other is None else other.number
            )
    pairs.sort_by_step()
    return pairs


def _by_place(entries: Entries, side: int) -> Iterator[tuple[str, int, int, int]]:
    """Scope, ordinal, side and number of calls, in this order."""
    scopes, ordinals = list(entries.column("scope")), array("Q", entries.column("i"))
    numbers = sorted(range(len(entries)), key=ordinals.__getitem__)
    numbers.sort(key=scopes.__getitem__)
    return ((scopes[number], ordinals[number], side, number) for number in numbers)


def _step_order(at: At | None) -> tuple[bool, At]:
    return at is not None, at or (0, 0)


def _key_order(pair: _Both) -> tuple[bytes, int]:
    one = pair[0] or pair[1]
    return (b"", 0) if one is None else (one.asked, one.n)


def precedes(one: Pair, other: Pair) -> bool:
    """Whether a pair's calls can have come before another's, in the same run.

    The order of different agents' calls within one step is not recorded.
    """
    if one.seeds and other.seeds and one.seeds.isdisjoint(other.seeds):
        return False
    mine, its = one.entry, other.entry
    if mine.scope == its.scope:
        return mine.i < its.i
    if mine.at is None or its.at is None:
        return True
    return mine.at <= its.at


_Both: TypeAlias = "tuple[Entry | None, Entry | None]"


def _match(a: Sequence[Entry], b: Sequence[Entry], common: frozenset[int]) -> list[_Both]:
    pairs, left, right = _equal(a, b, lambda entry: (entry.sent, entry.n))
    for seeds in dict.fromkeys(entry.seeds & common for entry in (*left, *right)):
        equal, rest, others = _equal(
            [entry for entry in left if entry.seeds & common == seeds],
            [entry for entry in right if entry.seeds & common == seeds],
            lambda entry: (entry.asked, entry.n),
        )
        pairs += [*equal, *zip_longest(rest, others)]
    return pairs


def _equal(
    a: Iterable[Entry], b: Iterable[Entry], identity: Callable[[Entry], object]
) -> tuple[list[_Both], list[Entry], list[Entry]]:
    """Pairs of one identity, and what is left of both sides."""
    pairs: list[_Both] = []
    rest: list[Entry] = []
    waiting: dict[object, list[Entry]] = {}
    for entry in b:
        waiting.setdefault(identity(entry), []).append(entry)
    for entry in a:
        others = waiting.get(identity(entry))
        if others:
            pairs.append((entry, others.pop(0)))
        else:
            rest.append(entry)
    return pairs, rest, [entry for others in waiting.values() for entry in others]
