"""Which call of one cassette stands where which call of another does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

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
    def entry(self) -> Entry:
        """The first cassette's call, or the second's where the first has none."""
        entry = self.a or self.b
        if entry is None:
            raise ValueError("a pair of nothing")
        return entry


def align(a: Iterable[Entry], b: Iterable[Entry]) -> list[Pair]:
    """Align calls by identity: scope and ordinal, then key; never by text or place in the file.

    Where several calls of a file share a scope and an ordinal, as those of several runs do, equal
    sent keys belong together, then equal asked keys, then what is left in order.

    Args:
        a: Calls of one cassette.
        b: Calls of the other.

    Returns:
        Every call once, in causal order as far as it is known: by (at, scope, i).
    """
    places: dict[tuple[str, int], tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
    for side, entries in enumerate((a, b)):
        for entry in entries:
            places[entry.scope, entry.i][side].append(entry)
    pairs: list[Pair] = []
    for ones, others in places.values():
        if len(ones) == len(others) == 1:
            pairs.append(Pair(ones[0], others[0]))
        else:
            pairs.extend(_match(ones, others))
    pairs.sort(key=causal_order)
    return pairs


def causal_order(pair: Pair) -> tuple[object, ...]:
    """Where a pair stands. Within one step of a simulation agents are ordered by name."""
    entry = pair.entry
    return (entry.at is not None, entry.at or (0, 0), entry.scope, entry.i, entry.asked, entry.n)


def _match(a: Sequence[Entry], b: Sequence[Entry]) -> list[Pair]:
    pairs: list[Pair] = []
    left, right = list(a), list(b)
    identities: tuple[Callable[[Entry], object], ...] = (
        lambda entry: (entry.sent, entry.n),
        lambda entry: (entry.asked, entry.n),
    )
    for identity in identities:
        waiting = {identity(entry): entry for entry in right}
        rest: list[Entry] = []
        for entry in left:
            other = waiting.pop(identity(entry), None)
            if other is None:
                rest.append(entry)
            else:
                pairs.append(Pair(entry, other))
                right.remove(other)
        left = rest
    shared = min(len(left), len(right))
    pairs += [Pair(*both) for both in zip(left[:shared], right[:shared], strict=True)]
    pairs += [Pair(entry, None) for entry in left[shared:]]
    pairs += [Pair(None, entry) for entry in right[shared:]]
    return pairs
