"""The transports of httpx and httpx2: below every openai client, above the network."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from swarm_repro.backends.base import Backend
from swarm_repro.caller import is_own_traffic
from swarm_repro.canonical import encode_json
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendUnreachableError,
    RequestError,
    SwarmReproError,
)
from swarm_repro.request import Endpoint, Request
from swarm_repro.session import Session

_T = TypeVar("_T")

#: Digits that may be more than 64 bits hold.
_LONG_INTEGER = re.compile(rb"\d{19}")
_LIBRARIES = ("httpx", "httpx2")
_ENDPOINTS: Mapping[str, Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completion",
}
#: Headers of a request that belong to its body, which is rebuilt.
_BODY_HEADERS = frozenset({"content-length", "content-encoding", "transfer-encoding"})

#: Makes the backend for a root URL such as ``http://localhost:8080``.
BackendFactory = Callable[[str], Backend]


@contextmanager
def intercept_http(session: Session, backend_for: BackendFactory) -> Iterator[None]:
    """Put all requests of httpx and httpx2 to a session while the block runs.

    In replay no transport is set up at all: no TLS context, no connection.

    Args:
        session: Decides.
        backend_for: Makes the backend that identifies the model behind a URL.
    """
    interceptor = _Interceptor(session, backend_for)
    undo: list[Callable[[], None]] = []
    try:
        undo.extend(
            _patch(importlib.import_module(name), interceptor)
            for name in _LIBRARIES
            if importlib.util.find_spec(name) is not None
        )
        yield
    finally:
        for restore in reversed(undo):
            restore()
        interceptor.close()


def _patch(library: ModuleType, interceptor: _Interceptor) -> Callable[[], None]:
    sync, asynchronous = library.HTTPTransport, library.AsyncHTTPTransport
    original_init, original_send = sync.__init__, sync.handle_request
    original_async_init = asynchronous.__init__
    original_async_send = asynchronous.handle_async_request
    original_close, original_async_close = sync.close, asynchronous.aclose
    original_exit, original_async_exit = sync.__exit__, asynchronous.__aexit__
    original_enter, original_async_enter = sync.__enter__, asynchronous.__aenter__

    def send(transport: Any, request: Any) -> Any:
        if is_own_traffic():
            return original_send(transport, request)
        return interceptor.answer(
            library, request, lambda changed: original_send(transport, changed)
        )

    async def send_async(_transport: Any, request: Any) -> Any:
        session = interceptor.session
        session.refuse(f"an async HTTP client asked for {request.url}; only sync ones are recorded")

    sync.handle_request, asynchronous.handle_async_request = send, send_async
    if not interceptor.calls_model:
        # A TLS context costs some 30 ms, and SWARM makes a client for every call.
        sync.__init__ = asynchronous.__init__ = _no_init
        sync.__enter__, asynchronous.__aenter__ = _no_enter, _no_aenter
        sync.close, sync.__exit__ = _no_close, _no_close
        asynchronous.aclose, asynchronous.__aexit__ = _no_aclose, _no_aclose

    def restore() -> None:
        sync.__init__, asynchronous.__init__ = original_init, original_async_init
        sync.handle_request = original_send
        asynchronous.handle_async_request = original_async_send
        sync.close, asynchronous.aclose = original_close, original_async_close
        sync.__exit__, asynchronous.__aexit__ = original_exit, original_async_exit
        sync.__enter__, asynchronous.__aenter__ = original_enter, original_async_enter

    return restore


def _no_init(*_args: object, **_kwargs: object) -> None:
    """Set nothing up: nothing will be sent."""


def _no_enter(transport: _T) -> _T:
    """Open nothing."""
    return transport


async def _no_aenter(transport: _T) -> _T:
    """Open nothing."""
    return transport


def _no_close(*_args: object) -> None:
    """Close nothing: nothing was opened."""


async def _no_aclose(*_args: object) -> None:
    """Close nothing: nothing was opened."""


class _Interceptor:
    """Turns HTTP requests into calls of a session."""

    def __init__(self, session: Session, backend_for: BackendFactory) -> None:
        self.session = session
        self._backend_for = backend_for
        self._backends: dict[str, Backend] = {}

    @property
    def calls_model(self) -> bool:
        return self.session.mode.calls_model

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()

    def answer(self, library: ModuleType, http: Any, forward: Callable[[Any], Any]) -> Any:
        """Answer one HTTP request.

        Args:
            library: httpx or httpx2.
            http: The library's request.
            forward: Sends a request over the program's own transport.
        """
        url = str(http.url)
        endpoint, root = _route(http.method, url)
        if endpoint is None:
            self.session.refuse(
                f"the program asked for {http.method} {url.partition('?')[0]}, which is no chat or "
                "completion call of an OpenAI-compatible server and cannot be replayed"
            )
        try:
            body = _read_body(http)
            backend = self._backends.get(root)
            if backend is None:
                backend = self._backends[root] = self._backend_for(root)
        except SwarmReproError as error:
            self.session.reject(error)
        completion = self.session.call(
            backend,
            endpoint=endpoint,
            model=str(body.get("model", "default")),
            path=urlsplit(url).path,
            body=body,
            send=lambda sent: _forward(library, http, sent, forward),
        )
        return library.Response(
            completion.status,
            headers={"content-type": completion.content_type},
            content=completion.body,
            request=http,
        )


def _route(method: str, url: str) -> tuple[Endpoint | None, str]:
    """The endpoint of a URL, and the root of its server."""
    parts = urlsplit(url)
    for suffix, endpoint in _ENDPOINTS.items():
        if method == "POST" and parts.path.endswith(suffix):
            prefix = parts.path.removesuffix(suffix).removesuffix("/v1")
            return endpoint, f"{parts.scheme}://{parts.netloc}{prefix}"
    return None, ""


def _read_body(http: Any) -> dict[str, Any]:
    data = http.read()
    if _LONG_INTEGER.search(data):
        _require_64_bits(data, http.url)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request to {http.url} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"the request to {http.url} is not a JSON object")
    return body


def _require_64_bits(data: bytes, url: object) -> None:
    """Refuse integers that orjson would turn into floats: another request would go out."""

    def check(digits: str) -> int:
        value = int(digits)
        if not -(2**63) <= value < 2**64:
            raise RequestError(f"the request to {url} has the integer {digits}: beyond 64 bits")
        return value

    with contextlib.suppress(json.JSONDecodeError):  # the next reader says what is wrong
        json.loads(data, parse_int=check)


def _forward(
    library: ModuleType, http: Any, sent: Request, forward: Callable[[Any], Any]
) -> Completion:
    """Send a request as it was decided over the program's own transport."""
    changed = library.Request(
        http.method,
        http.url,
        headers=[(k, v) for k, v in http.headers.raw if k.decode().lower() not in _BODY_HEADERS],
        content=encode_json(dict(sent.body)),
        extensions=http.extensions,
    )
    start = time.monotonic()
    try:
        response = forward(changed)
        try:
            content = response.read()
        finally:
            response.close()
    except library.TimeoutException as error:
        limit = http.extensions.get("timeout", {}).get("read")
        raise BackendError(
            f"{http.url} did not answer within the client's {limit:g} s; raise llm.timeout"
            if limit
            else f"{http.url} timed out"
        ) from error
    except library.TransportError as error:
        raise BackendUnreachableError(f"no answer from {http.url}: {error}") from error
    return Completion(
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        body=content,
        duration_s=time.monotonic() - start,
    )
