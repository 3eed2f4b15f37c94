"""Which call of one cassette stands where which call of another does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from swarm_repro.cassette.index import Entry


class Pair(NamedTuple):
    """Two calls at one place; one of them may be missing.

    Attributes:
        a: The call of the first cassette.
        b: The call of the second.
    """

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


def align(a: Iterable[Entry], b: Iterable[Entry]) -> list[Pair]:
    """Align calls by identity: scope and ordinal, then key; never by text or place in the file.

    Where several calls of a file share a scope and an ordinal, as those of several runs do, equal
    sent keys belong together, then calls of the same run, then equal asked keys, then what is left
    in order. A run that both files hold is compared with itself only.

    Args:
        a: Calls of one cassette.
        b: Calls of the other.

    Returns:
        Every call once, in causal order as far as it is known: by (at, scope, i).
    """
    left, right = _by_place(a), _by_place(b)
    common = _seeds(left) & _seeds(right)
    pairs: list[Pair] = []
    for place in dict.fromkeys((*left, *right)):
        one, other = left.pop(place, ()), right.pop(place, ())
        if (
            isinstance(one, Entry)
            and isinstance(other, Entry)
            and (not common or one.seeds == other.seeds)
        ):
            pairs.append(Pair(one, other))
        else:
            pairs.extend(_match(_as_list(one), _as_list(other), common))
    pairs.sort(key=causal_order)
    return pairs


#: One call, or several at one place; one is the rule, and a list for each would cost memory.
_Place: TypeAlias = "Entry | list[Entry]"


def _by_place(entries: Iterable[Entry]) -> dict[tuple[str, int], _Place]:
    places: dict[tuple[str, int], _Place] = {}
    for entry in entries:
        place = (entry.scope, entry.i)
        known = places.get(place)
        places[place] = entry if known is None else [*_as_list(known), entry]
    return places


def _seeds(places: Mapping[tuple[str, int], _Place]) -> frozenset[int]:
    known = {entry.seeds for place in places.values() for entry in _as_list(place)}
    return frozenset().union(*known)


def _as_list(place: Entry | Sequence[Entry]) -> list[Entry]:
    return [place] if isinstance(place, Entry) else list(place)


def causal_order(pair: Pair) -> tuple[object, ...]:
    """Where a pair stands. Within one step of a simulation agents are ordered by name."""
    entry = pair.entry
    return (entry.at is not None, entry.at or (0, 0), entry.scope, entry.i, entry.asked, entry.n)


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


def _match(a: Sequence[Entry], b: Sequence[Entry], common: frozenset[int]) -> list[Pair]:
    pairs, left, right = _equal(a, b, lambda entry: (entry.sent, entry.n))
    for seeds in dict.fromkeys(entry.seeds & common for entry in (*left, *right)):
        equal, rest, others = _equal(
            [entry for entry in left if entry.seeds & common == seeds],
            [entry for entry in right if entry.seeds & common == seeds],
            lambda entry: (entry.asked, entry.n),
        )
        pairs += [*equal, *(Pair(*both) for both in zip_longest(rest, others))]
    return pairs


def _equal(
    a: Iterable[Entry], b: Iterable[Entry], identity: Callable[[Entry], object]
) -> tuple[list[Pair], list[Entry], list[Entry]]:
    """Pairs of one identity, and what is left of both sides."""
    pairs: list[Pair] = []
    rest: list[Entry] = []
    waiting: dict[object, list[Entry]] = {}
    for entry in b:
        waiting.setdefault(identity(entry), []).append(entry)
    for entry in a:
        others = waiting.get(identity(entry))
        if others:
            pairs.append(Pair(entry, others.pop(0)))
        else:
            rest.append(entry)
    return pairs, rest, [entry for others in waiting.values() for entry in others]
