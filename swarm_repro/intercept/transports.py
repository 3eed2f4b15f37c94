"""The transports of httpx and httpx2, which ask the interceptor that is in place first.

The classes are patched once and stay so: a transport that was made in a replay, without a TLS
context, is completed when it is used after it. With no interceptor in place requests pass through.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from importlib.abc import Loader
from types import ModuleType
from typing import Any

from swarm_repro.intercept.present import present_interceptor
from swarm_repro.loaders import ImportHook

_LIBRARIES = ("httpx", "httpx2")
_CLASSES = ("HTTPTransport", "AsyncHTTPTransport")
#: On a class that is patched. A library can be imported anew, with classes that are not.
_PATCHED = "_swarm_repro_patched"
#: On a transport whose set-up waits until it is needed: the arguments of its ``__init__``.
_WAITING = "_swarm_repro_waiting"

_lock = threading.Lock()
_set_up_lock = threading.Lock()


def patch_libraries() -> None:
    """Let the transports of both libraries ask ``present_interceptor`` first, for good.

    A library that the program has not imported yet is patched on import. Most programs use one of
    the two; importing the other would cost a tenth of a short replay.
    """
    with _lock:
        if _hook not in sys.meta_path:
            sys.meta_path.insert(0, _hook)
    for name in _LIBRARIES:
        if sys.modules.get(name) is not None:  # None hides a library, as tests do
            with contextlib.suppress(ImportError):  # of another thread, whose import fails
                _patch_once(importlib.import_module(name))


def _load(real: Loader, library: ModuleType) -> None:
    real.exec_module(library)
    _patch_once(library)


_hook = ImportHook(_LIBRARIES.__contains__, _load)


def _patch_once(library: ModuleType) -> None:
    """Patch a library's classes, unless these very classes are, or it is another of its name.

    Who imports this package anew, as some test runners do, has two copies of it: each patches them.
    """
    with _lock:
        classes = [getattr(library, name, None) for name in _CLASSES]
        if None not in classes and not any(vars(one).get(_PATCHED) is _hook for one in classes):
            _patch(library)
            for one in classes:
                setattr(one, _PATCHED, _hook)


def _patch(library: ModuleType) -> None:
    for transport_class in (library.HTTPTransport, library.AsyncHTTPTransport):
        _patch_init(transport_class)
    _patch_sync(library)
    _patch_async(library)


def _patch_init(transport_class: Any) -> None:
    original = transport_class.__init__

    def init(transport: Any, *args: object, **kwargs: object) -> None:
        interceptor = present_interceptor()
        if interceptor is None or interceptor.session.mode.calls_model:
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
        interceptor = present_interceptor()
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
        interceptor = present_interceptor()
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
