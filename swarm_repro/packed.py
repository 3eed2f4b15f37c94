"""Sequences that hold numbers, and make an item of them when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

_T = TypeVar("_T")


class Packed(Sequence[_T]):
    """A sequence whose items are made when they are asked for."""

    @abstractmethod
    def _item(self, number: int) -> _T:
        """Make the item at a place that is there, from 0."""

    @overload
    def __getitem__(self, number: int) -> _T: ...

    @overload
    def __getitem__(self, number: slice) -> list[_T]: ...

    def __getitem__(self, number: int | slice) -> _T | list[_T]:
        places = range(len(self))[number]
        return self._item(places) if isinstance(places, int) else [*map(self._item, places)]
