"""Many calls of a cassette, as sets and mappings that hold none of those of a large file.

The calls of a file that is in memory are a plain ``dict``, and sets of them ``frozenset``. Those of
a large file (``MappedFile``) are places in it. The functions here take both.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Set, ValuesView
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.scan import call_digest

if TYPE_CHECKING:
    from swarm_repro.cassette.mapped import MappedFile

in_canonical_order = attrgetter("order")


def all_of(calls: Mapping[CallId, CallRecord]) -> Set[CallId]:
    """The ids of all calls."""
    return calls.numbered() if isinstance(calls, MappedCalls) else calls.keys()


def those_in(calls: Mapping[CallId, CallRecord], *sets: Set[CallId]) -> Set[CallId]:
    """The ids of calls that are in one of several sets."""
    if isinstance(calls, MappedCalls):
        return calls.those_in(sets)
    return frozenset(calls.keys() & frozenset().union(*sets))


def those_that(
    calls: Mapping[CallId, CallRecord], is_meant: Callable[[CallId], bool]
) -> Set[CallId]:
    """The ids of calls of which something is true."""
    if isinstance(calls, MappedCalls):
        return calls.those_that(is_meant)
    return frozenset(filter(is_meant, calls))


def joined(
    calls: Mapping[CallId, CallRecord],
    kept: Set[CallId],
    others: Mapping[CallId, CallRecord],
) -> Mapping[CallId, CallRecord]:
    """Some calls of a mapping, and others.

    Args:
        calls: The mapping.
        kept: Ids of it, none of which the others have.
        others: The others.
    """
    if isinstance(kept, NumberedCalls):
        return JoinedCalls(calls, kept, others)
    return {**{call_id: calls[call_id] for call_id in kept}, **others}


def digests_of(ids: Set[CallId]) -> Iterator[bytes]:
    """What calls are found by in a table (``call_digest``), in no order."""
    return ids.digests() if isinstance(ids, NumberedCalls) else (call_digest(one) for one in ids)


class MappedCalls(Mapping[CallId, CallRecord]):
    """The calls of a file by id, in file order."""

    def __init__(self, mapped: MappedFile) -> None:
        """Make a mapping; ``find`` is ``get`` in one step less."""
        self._mapped = mapped
        self.find = mapped.finder()

    def __getitem__(self, call_id: CallId) -> CallRecord:
        found = self.find(call_id)
        if found is None:
            raise KeyError(call_id)
        return found

    def get(self, call_id: CallId, default: Any = None) -> Any:
        """The call of an id, or else the default."""
        found = self.find(call_id)
        return default if found is None else found

    def __contains__(self, call_id: object) -> bool:
        return self._mapped.number_of(cast("CallId", call_id)) is not None

    def __len__(self) -> int:
        return self._mapped.count()

    def __iter__(self) -> Iterator[CallId]:
        return (call.id for call in self.values())

    def values(self) -> ValuesView[CallRecord]:
        """The calls, in file order, each read when it is its turn."""
        return _InOrder(self)

    def in_order(self) -> Iterator[CallRecord]:
        """The calls, in file order."""
        return map(self._mapped.call, range(self._mapped.count()))

    def numbered(self) -> NumberedCalls:
        """All ids, as a set that holds none of them."""
        return NumberedCalls(self._mapped, [range(self._mapped.count())])

    def those_in(self, sets: Iterable[Set[CallId]]) -> NumberedCalls:
        """As the function of this name."""
        marks = bytearray(self._mapped.count())
        for ids in sets:
            if isinstance(ids, NumberedCalls):
                ids.mark(marks, 1)
            else:
                for number in self._mapped.numbers_of(ids):
                    marks[number] = 1
        return NumberedCalls(self._mapped, _spans(marks))

    def those_that(self, is_meant: Callable[[CallId], bool]) -> NumberedCalls:
        """As the function of this name."""
        return NumberedCalls(self._mapped, _spans(bytes(map(is_meant, self))))


class JoinedCalls(Mapping[CallId, CallRecord]):
    """Some calls of a large file and others, by canonical order."""

    def __init__(
        self,
        calls: Mapping[CallId, CallRecord],
        kept: NumberedCalls,
        others: Mapping[CallId, CallRecord],
    ) -> None:
        self._calls = calls
        self._kept = kept
        self._others = others

    def __getitem__(self, call_id: CallId) -> CallRecord:
        if call_id in self._others:
            return self._others[call_id]
        if call_id not in self._kept:
            raise KeyError(call_id)
        return self._calls[call_id]

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)

    def __iter__(self) -> Iterator[CallId]:
        return (call.id for call in self.values())

    def values(self) -> ValuesView[CallRecord]:
        """The calls in order, those of the file read when it is their turn."""
        return _InOrder(self)

    def in_order(self) -> Iterator[CallRecord]:
        """The calls, in canonical order where those of the file are."""
        others = sorted(self._others.values(), key=in_canonical_order)
        return heapq.merge(self._kept.in_order(), others, key=in_canonical_order)


class _InOrder(ValuesView[CallRecord]):
    """Calls that are read again each time they are gone through."""

    _mapping: MappedCalls | JoinedCalls

    def __iter__(self) -> Iterator[CallRecord]:
        return self._mapping.in_order()


class NumberedCalls(Set[CallId]):
    """Calls given by their places in the file."""

    def __init__(self, mapped: MappedFile, spans: Iterable[range]) -> None:
        """Make a set.

        Args:
            mapped: The file.
            spans: The places, in ascending order, none twice and none empty.
        """
        self._mapped = mapped
        self._spans = list(spans)
        self._starts = [span.start for span in self._spans]

    def __contains__(self, call_id: object) -> bool:
        number = self._mapped.number_of(cast("CallId", call_id))
        if number is None:
            return False
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number in self._spans[place]

    def __len__(self) -> int:
        return sum(map(len, self._spans))

    def __iter__(self) -> Iterator[CallId]:
        return (call.id for call in self.in_order())

    def __hash__(self) -> int:
        return id(self)

    def in_order(self) -> Iterator[CallRecord]:
        """The calls, in file order."""
        return map(self._mapped.call, self.numbers())

    def digests(self) -> Iterator[bytes]:
        """What they are found by, in file order."""
        return map(self._mapped.digest, self.numbers())

    def numbers(self) -> Iterator[int]:
        """Their places."""
        return (number for span in self._spans for number in span)

    def mark(self, marks: bytearray, value: int) -> None:
        """Set what is at their places.

        Args:
            marks: One a call of the file; they may end before it does.
            value: What to set, 0 to 255.
        """
        for span in self._spans:
            start, stop = span.start, min(span.stop, len(marks))
            marks[start:stop] = bytes([value]) * (stop - start)

    def __sub__(self, other: Iterable[object]) -> NumberedCalls:
        # No longer than it must be: a file is not read on for this.
        marks = bytearray(self._spans[-1].stop if self._spans else 0)
        self.mark(marks, 1)
        if isinstance(other, NumberedCalls):
            other.mark(marks, 0)
        else:
            for number in self._mapped.numbers_of(cast("Iterable[CallId]", other)):
                if number < len(marks):
                    marks[number] = 0
        return NumberedCalls(self._mapped, _spans(marks))

    @classmethod
    def _from_iterable(cls, it: Iterable[CallId]) -> Set[CallId]:  # type: ignore[override]
        return frozenset(it)


def _spans(marks: bytes | bytearray) -> Iterator[range]:
    """Where marks are set, in ascending order."""
    stop = 0
    while (start := marks.find(1, stop)) >= 0:
        stop = marks.find(0, start)
        stop = len(marks) if stop < 0 else stop
        yield range(start, stop)
