"""Which interceptor the code that runs now belongs to.

One that is put in place belongs to its own context: its thread, its tasks, what
``asyncio.to_thread`` runs for it. A thread without a context of its own belongs to the only one in
place.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

from swarm_repro.caller import is_own_traffic
from swarm_repro.errors import RequestError
from swarm_repro.session import Session


class Interceptor(Protocol):
    """Answers a program's calls of models."""

    @property
    def session(self) -> Session:
        """What decides about its calls."""

    def answer(self, library: ModuleType, http: Any, forward: Callable[[Any], Any]) -> Any:
        """Answer an HTTP request.

        Args:
            library: httpx or httpx2.
            http: The library's request.
            forward: Sends a request over the program's own transport.
        """

    async def answer_async(
        self, library: ModuleType, http: Any, forward: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """As ``answer``, for an async client."""


#: Those of this context, the innermost last; some may have ended in another context since.
_current: ContextVar[tuple[Interceptor, ...]] = ContextVar("swarm_repro_interceptors", default=())
#: All that are in place, in this process.
_in_place: list[Interceptor] = []
_lock = threading.Lock()


#: Those that answer in every context which has none of its own, the innermost last.
_everywhere: list[Interceptor] = []


@contextmanager
def intercepting(interceptor: Interceptor, *, everywhere: bool = False) -> Iterator[None]:
    """Let calls of models made in this context belong to an interceptor while the block runs.

    Args:
        interceptor: Answers; the innermost of several.
        everywhere: Whether it answers in all contexts that have none in place.
    """
    with _lock:
        _in_place.append(interceptor)
        if everywhere:
            _everywhere.append(interceptor)
    _current.set((*(one for one in _current.get() if one in _in_place), interceptor))
    try:
        yield
    finally:
        with _lock:
            _in_place.remove(interceptor)
            if everywhere:
                _everywhere.remove(interceptor)
        # Without a token: a generator may end the block in another context than it began in.
        _current.set(tuple(one for one in _current.get() if one is not interceptor))


def present_interceptor() -> Interceptor | None:
    """The interceptor of the code that runs now.

    Raises:
        RequestError: A thread without context, while there are several.
    """
    if is_own_traffic():
        return None
    mine, in_place = _current.get(), tuple(_in_place)
    for one in reversed(mine):
        if one in in_place:
            return one
    everywhere = tuple(_everywhere)
    if everywhere:
        return everywhere[-1]
    if mine:
        return None  # its block has ended
    if len(in_place) > 1:
        raise RequestError(
            f"{len(in_place)} cassettes are in use and this thread belongs to none of them: start "
            "it with contextvars.copy_context().run, or asyncio.to_thread"
        )
    return in_place[0] if in_place else None
