"""A property that is computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_T = TypeVar("_T")


class once(Generic[_T]):
    """As ``functools.cached_property``, which takes a lock before Python 3.12.

    The lock takes longer than most of what is computed here, and guards nothing: two threads that
    come at once compute the same value.
    """

    def __init__(self, function: Callable[[Any], _T]) -> None:
        """Wrap a method.

        Args:
            function: Takes the object, which has a ``__dict__``.
        """
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> once[_T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...

    def __get__(self, instance: Any, owner: type) -> once[_T] | _T:
        """Compute the value; from then on the object has it itself."""
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._function(instance)
        return value
