"""The transports of httpx and httpx2, and which interceptor a request belongs to.

The classes are patched once and stay so: a transport that was made in a replay, without a TLS
context, is completed when it is used after it. With no interceptor in place requests pass through.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

from swarm_repro.caller import is_own_traffic
from swarm_repro.errors import RequestError

_LIBRARIES = ("httpx", "httpx2")
#: On a transport whose set-up waits until it is needed: the arguments of its ``__init__``.
_WAITING = "_swarm_repro_waiting"


class Interceptor(Protocol):
    """Answers HTTP requests."""

    @property
    def calls_model(self) -> bool:
        """Whether a request may go out."""

    def answer(self, library: ModuleType, http: Any, forward: Callable[[Any], Any]) -> Any:
        """Answer a request.

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
_set_up_lock = threading.Lock()
_patched: set[str] = set()


@contextmanager
def intercepting(interceptor: Interceptor) -> Iterator[None]:
    """Put requests to an interceptor while the block runs.

    Those of the block's own context: its thread, its tasks, what ``asyncio.to_thread`` runs for it.
    A thread without a context of its own belongs to the only interceptor in place.

    Args:
        interceptor: Answers; the innermost of several.
    """
    _patch_libraries()
    with _lock:
        _in_place.append(interceptor)
    _current.set((*(one for one in _current.get() if one in _in_place), interceptor))
    try:
        yield
    finally:
        with _lock:
            _in_place.remove(interceptor)
        # Without a token: a generator may end the block in another context than it began in.
        _current.set(tuple(one for one in _current.get() if one is not interceptor))


def _present() -> Interceptor | None:
    """The interceptor of the code that runs now.

    Raises:
        RequestError: A thread without context, while there are several.
    """
    if is_own_traffic():
        return None
    mine, in_place = _current.get(), tuple(_in_place)
    if mine:
        return next((one for one in reversed(mine) if one in in_place), None)
    if len(in_place) > 1:
        raise RequestError(
            f"{len(in_place)} cassettes are in use and this thread belongs to none of them: start "
            "it with contextvars.copy_context().run, or asyncio.to_thread"
        )
    return in_place[0] if in_place else None


def _patch_libraries() -> None:
    with _lock:
        for name in _LIBRARIES:
            if name not in _patched and importlib.util.find_spec(name) is not None:
                _patch(importlib.import_module(name))
                _patched.add(name)


def _patch(library: ModuleType) -> None:
    for transport_class in (library.HTTPTransport, library.AsyncHTTPTransport):
        _patch_init(transport_class)
    _patch_sync(library)
    _patch_async(library)


def _patch_init(transport_class: Any) -> None:
    original = transport_class.__init__

    def init(transport: Any, *args: object, **kwargs: object) -> None:
        interceptor = _present()
        if interceptor is None or interceptor.calls_model:
            original(transport, *args, **kwargs)
        else:
            # A TLS context costs some 30 ms, and SWARM makes a client for every call.
            transport.__dict__[_WAITING] = lambda: original(transport, *args, **kwargs)

    def missing(transport: Any, name: str) -> object:
        """A subclass may reach for what ``__init__`` makes, such as the connection pool."""
        if name.startswith("__") or _is_set_up(transport):
            raise AttributeError(f"{type(transport).__name__!r} object has no attribute {name!r}")
        _complete(transport)
        return getattr(transport, name)

    transport_class.__init__ = init
    transport_class.__getattr__ = missing


def _complete(transport: Any) -> None:
    """Set a transport up that was made in a replay and is used outside it."""
    if _is_set_up(transport):
        return
    with _set_up_lock:
        waiting = transport.__dict__.get(_WAITING)
        if waiting is not None:
            waiting()
            del transport.__dict__[_WAITING]


def _patch_sync(library: ModuleType) -> None:
    transport_class = library.HTTPTransport
    send, close = transport_class.handle_request, transport_class.close
    enter, leave = transport_class.__enter__, transport_class.__exit__

    def forward(transport: Any, request: Any) -> Any:
        _complete(transport)
        return send(transport, request)

    def handle_request(transport: Any, request: Any) -> Any:
        interceptor = _present()
        if interceptor is None:
            return forward(transport, request)
        return interceptor.answer(library, request, lambda http: forward(transport, http))

    transport_class.handle_request = handle_request
    transport_class.close = lambda transport: _is_set_up(transport) and close(transport)
    transport_class.__enter__ = lambda transport: (
        enter(transport) if _is_set_up(transport) else transport
    )
    transport_class.__exit__ = lambda transport, *error: (
        leave(transport, *error) if _is_set_up(transport) else None
    )


def _patch_async(library: ModuleType) -> None:
    transport_class = library.AsyncHTTPTransport
    send, close = transport_class.handle_async_request, transport_class.aclose
    enter, leave = transport_class.__aenter__, transport_class.__aexit__

    async def forward(transport: Any, request: Any) -> Any:
        _complete(transport)
        return await send(transport, request)

    async def handle_async_request(transport: Any, request: Any) -> Any:
        interceptor = _present()
        if interceptor is None:
            return await forward(transport, request)
        return await interceptor.answer_async(
            library, request, lambda http: forward(transport, http)
        )

    async def aclose(transport: Any) -> None:
        if _is_set_up(transport):
            await close(transport)

    async def aenter(transport: Any) -> Any:
        return await enter(transport) if _is_set_up(transport) else transport

    async def aexit(transport: Any, *error: Any) -> None:
        if _is_set_up(transport):
            await leave(transport, *error)

    transport_class.handle_async_request = handle_async_request
    transport_class.aclose = aclose
    transport_class.__aenter__, transport_class.__aexit__ = aenter, aexit


def _is_set_up(transport: Any) -> bool:
    return _WAITING not in transport.__dict__
