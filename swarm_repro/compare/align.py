"""Which call of one cassette stands where which call of another does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    left, right = _by_place(a), _by_place(b)
    pairs: list[Pair] = []
    for place in dict.fromkeys((*left, *right)):
        one, other = left.pop(place, ()), right.pop(place, ())
        if isinstance(one, Entry) and isinstance(other, Entry):
            pairs.append(Pair(one, other))
        else:
            pairs.extend(_match(_as_list(one), _as_list(other)))
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


def _as_list(place: Entry | Sequence[Entry]) -> list[Entry]:
    return [place] if isinstance(place, Entry) else list(place)


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
