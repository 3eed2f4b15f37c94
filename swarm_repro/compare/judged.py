"""What each pair of calls is, packed: of a million pairs few are looked at again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from swarm_repro.compare.align import Pair, Pairs
from swarm_repro.packed import Packed


class Class(str, Enum):
    """What a pair of calls is."""

    IDENTICAL = "identical"
    ROOT = "root"
    FALLOUT = "fallout"
    CHANGED = "changed"
    ONLY_A = "only_a"
    ONLY_B = "only_b"


class Judged(NamedTuple):
    """A pair and what it is.

    Attributes:
        pair: The calls.
        cls: Its class.
        origins: Ids of its origins: its own, or those it follows from.
        proven: Of what follows from an origin: whether its words show that; else None.
    """

    pair: Pair
    cls: Class
    origins: tuple[int, ...] = ()
    proven: bool | None = None


_CLASSES = tuple(Class)
#: In place of a class's number: a pair that is not judged yet.
_OPEN = len(_CLASSES)
_PROVEN = (None, False, True)


class Judgements(Packed[Judged]):
    """The pairs of two cassettes and what each is, each made when it is asked for."""

    def __init__(self, pairs: Pairs) -> None:
        """Begin with none judged.

        Args:
            pairs: All pairs.
        """
        self.pairs = pairs
        self._classes = bytearray([_OPEN]) * len(pairs)
        self._proven = bytearray(len(pairs))
        self._origins = array("I", bytes(array("I").itemsize * len(pairs)))
        self._sets: dict[tuple[int, ...], int] = {(): 0}
        self._known: list[tuple[int, ...]] = [()]

    def keep(self, judged: Judged) -> None:
        """Keep what a pair is."""
        number = judged.pair.number
        place = self._sets.setdefault(judged.origins, len(self._known))
        if place == len(self._known):
            self._known.append(judged.origins)
        self._classes[number] = _CLASSES.index(judged.cls)
        self._proven[number] = _PROVEN.index(judged.proven)
        self._origins[number] = place

    def is_open(self, number: int) -> bool:
        """Whether a pair is not judged yet."""
        return self._classes[number] == _OPEN

    def classes(self) -> Iterator[Class]:
        """The class of each pair, in order, once all are judged."""
        return map(_CLASSES.__getitem__, self._classes)

    def __len__(self) -> int:
        return len(self.pairs)

    def _item(self, number: int) -> Judged:
        return Judged(
            self.pairs[number],
            _CLASSES[self._classes[number]],
            self._known[self._origins[number]],
            _PROVEN[self._proven[number]],
        )
