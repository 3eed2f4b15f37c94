"""Digests and what belongs to them, in one block of bytes that can be mapped into memory.

A hash table with open addressing: entries in the order they were added, and slots that hold the
number of an entry, from 1. A look-up touches a slot or two and an entry, however many there are.
"""

from __future__ import annotations

import struct
from typing import Any, Final

#: Of SHA-256 or BLAKE2b: enough that no two of a file are alike by chance.
DIGEST_BYTES: Final = 16

_SLOT_BYTES: Final = 4
#: Slots are twice the entries at least, so that chains are short.
_FEWEST_SLOTS: Final = 64


class Table:
    """The entries and slots of some digests."""

    def __init__(
        self,
        content: str,
        entries: bytearray | bytes | memoryview | None = None,
        slots: bytearray | bytes | memoryview | None = None,
    ) -> None:
        """Begin an empty table, or open one that is complete.

        Args:
            content: What belongs to a digest, as ``struct`` writes it, without a byte order.
            entries: Of a complete table, as ``entry_bytes`` gave them.
            slots: Likewise, as ``slot_bytes`` gave them.
        """
        self._content = struct.Struct(f"={content}")
        self._size = DIGEST_BYTES + self._content.size
        self._entries = bytearray() if entries is None else entries
        self._count = len(self._entries) // self._size
        self._set_slots(bytearray(_FEWEST_SLOTS * _SLOT_BYTES) if slots is None else slots)

    def __len__(self) -> int:
        return self._count

    @property
    def entry_bytes(self) -> bytearray | bytes | memoryview:
        """All entries."""
        return self._entries

    @property
    def slot_bytes(self) -> memoryview:
        """All slots."""
        return self._slots.cast("B")

    def find(self, digest: bytes) -> int | None:
        """The number of a digest's entry, from 0; None where it has none."""
        slots, entries, mask, size = self._slots, self._entries, self._mask, self._size
        slot = int.from_bytes(digest, "little") & mask
        while number := slots[slot]:
            start = (number - 1) * size
            if entries[start : start + DIGEST_BYTES] == digest:
                return number - 1
            slot = (slot + 1) & mask
        return None

    def get(self, digest: bytes) -> tuple[Any, ...] | None:
        """What belongs to a digest; None where it has no entry."""
        number = self.find(digest)
        return None if number is None else self.content(number)

    @property
    def parts(self) -> tuple[memoryview, Any, int, int]:
        """The slots, the entries, what makes a slot's number of a digest's, and an entry's size."""
        return self._slots, self._entries, self._mask, self._size

    def digest(self, number: int) -> bytes:
        """The digest of an entry."""
        start = number * self._size
        return bytes(self._entries[start : start + DIGEST_BYTES])

    def content(self, number: int) -> tuple[Any, ...]:
        """What belongs to an entry's digest."""
        return self._content.unpack_from(self._entries, number * self._size + DIGEST_BYTES)

    def add(self, digest: bytes, *content: object) -> bool:
        """Add an entry to a table that is not complete.

        Returns:
            Whether it is new; what belongs to a digest that is there stays.
        """
        if self.find(digest) is not None:
            return False
        if not isinstance(self._entries, bytearray):
            raise TypeError("the table is complete")
        self._entries += digest + self._content.pack(*content)
        self._count += 1
        if self._count * 2 > len(self._slots):
            self._grow()
        else:
            self._link(digest, self._count)
        return True

    def _set_slots(self, slots: bytearray | bytes | memoryview) -> None:
        self._slots = memoryview(slots).cast("B").cast("I")
        self._mask = len(self._slots) - 1

    def _grow(self) -> None:
        self._set_slots(bytearray(len(self._slots) * 2 * _SLOT_BYTES))
        for number in range(self._count):
            self._link(self.digest(number), number + 1)

    def _link(self, digest: bytes, number: int) -> None:
        slots, mask = self._slots, self._mask
        slot = int.from_bytes(digest, "little") & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = number
