"""The calls of an index, packed: of a million calls a list of tuples would take half a gigabyte."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from swarm_repro.cassette.records import At
from swarm_repro.packed import Packed


class Entry(NamedTuple):
    """One call of the index.

    Attributes:
        number: Place among the calls of the file, from 0.
        offset: Where its line begins, in bytes.
        length: Of its line, in bytes.
        scope: Who called.
        i: Ordinal in the scope.
        n: Repeat of the asked key.
        at: Epoch and step.
        kind: What the call was for.
        asked: Asked key, its 32 bytes.
        sent: Sent key, its 32 bytes.
        answer: Digest of the answer without volatile members, 32 bytes.
        settings: Digest of all that was asked but texts and seed, the model's name included.
        env: SHA-256 of the environment record.
        seeds: Seeds of the runs that used the call.
    """

    number: int
    offset: int
    length: int
    scope: str
    i: int
    n: int
    at: At | None
    kind: str | None
    asked: bytes
    sent: bytes
    answer: bytes
    settings: bytes
    env: str
    seeds: frozenset[int] = frozenset()


#: How a member is packed: as itself, or (``I``) as its place among the values that calls share.
#: ``seeds`` is the last: it changes after the call was packed.
_PACKED = {
    "offset": "Q",
    "length": "Q",
    "scope": "I",
    "i": "Q",
    "n": "Q",
    "at": "I",
    "kind": "I",
    "asked": "32s",
    "sent": "32s",
    "answer": "32s",
    "settings": "I",
    "env": "I",
    "seeds": "I",
}
_ENTRY = struct.Struct("=" + "".join(_PACKED.values()))
_SEEDS = struct.Struct("=I")
_SEEDS_AT = _ENTRY.size - _SEEDS.size


def _column(name: str) -> struct.Struct:
    """One member of each entry, and nothing of the others."""
    names = list(_PACKED)
    place = names.index(name)
    before, after = (
        struct.calcsize("=" + "".join(_PACKED[other] for other in others))
        for others in (names[:place], names[place + 1 :])
    )
    return struct.Struct(f"={before}x{_PACKED[name]}{after}x")


class Entries(Packed[Entry]):
    """Calls in file order, each made when it is asked for."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Pack entries; the number of each is its place among them."""
        self._packed = bytearray()
        self._values: list[Any] = []
        self._places: dict[object, int] = {}
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add a call to the end; its number is its place there."""
        _, offset, length, scope, i, n, at, kind, asked, sent, answer, settings, env, seeds = entry
        place = self._place
        self._packed += _ENTRY.pack(
            offset,
            length,
            place(scope),
            i,
            n,
            place(at),
            place(kind),
            asked,
            sent,
            answer,
            place(settings),
            place(env),
            place(seeds),
        )

    def __len__(self) -> int:
        return len(self._packed) // _ENTRY.size

    def _item(self, number: int) -> Entry:
        (offset, length, scope, i, n, at, kind, asked, sent, answer, settings, env, seeds) = (
            _ENTRY.unpack_from(self._packed, number * _ENTRY.size)
        )
        values = self._values
        return Entry(
            number,
            offset,
            length,
            values[scope],
            i,
            n,
            values[at],
            values[kind],
            asked,
            sent,
            answer,
            values[settings],
            values[env],
            values[seeds],
        )

    def column(self, name: str) -> Iterator[Any]:
        """One member of each call, in order.

        Args:
            name: Any but ``number``.
        """
        found = (value for (value,) in _column(name).iter_unpack(self._packed))
        return map(self._values.__getitem__, found) if _PACKED[name] == "I" else found

    def add_seed(self, number: int, seed: int) -> None:
        """Note that a run used a call.

        Args:
            number: Of the call.
            seed: Of the run.
        """
        at = number * _ENTRY.size + _SEEDS_AT
        seeds = self._values[_SEEDS.unpack_from(self._packed, at)[0]]
        _SEEDS.pack_into(self._packed, at, self._place(seeds | {seed}))

    def _place(self, value: object) -> int:
        place = self._places.setdefault(value, len(self._values))
        if place == len(self._values):
            self._values.append(value)
        return place
