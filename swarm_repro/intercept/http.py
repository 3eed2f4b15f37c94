"""The transports of httpx and httpx2: below every openai client, above the network."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from swarm_repro.backends.base import Backend
from swarm_repro.canonical import encode_json
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    BackendUnreachableError,
    RequestError,
    SwarmReproError,
    UsageError,
)
from swarm_repro.intercept.present import intercepting
from swarm_repro.intercept.transports import patch_libraries
from swarm_repro.request import Endpoint, Request
from swarm_repro.session import Session

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from anyio.lowlevel import RunVar

_T = TypeVar("_T")

#: Digits that may be more than 64 bits hold.
_LONG_INTEGER = re.compile(rb"\d{19}")
_ENDPOINTS: Mapping[str, Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completion",
}
#: Headers of a request or an answer that belong to its body, which is rebuilt.
_BODY_HEADERS = frozenset({"content-length", "content-encoding", "transfer-encoding"})

#: Makes the backend for a root URL such as ``http://localhost:8080``, and the program's API key.
BackendFactory = Callable[[str, str | None], Backend]


@contextmanager
def intercept_http(
    session: Session, backend_for: BackendFactory, *, passes: bool = False
) -> Iterator[None]:
    """Put all requests of httpx and httpx2 to a session while the block runs.

    In replay no transport is set up at all: no TLS context, no connection.

    Args:
        session: Decides.
        backend_for: Makes the backend that identifies the model behind a URL.
        passes: In modes that call, let requests through that are no model calls; else they are
            refused, as they always are in replay.
    """
    patch_libraries()
    interceptor = _Interceptor(session, backend_for, passes=passes)
    try:
        with intercepting(interceptor):
            yield
    finally:
        interceptor.close()


@dataclass(frozen=True)
class _Target:
    """Where a model call goes.

    Attributes:
        backend: Identifies the model.
        endpoint: The kind of call.
        path: The URL's path.
    """

    backend: Backend
    endpoint: Endpoint
    path: str


class _Interceptor:
    """Turns HTTP requests into calls of a session."""

    def __init__(self, session: Session, backend_for: BackendFactory, *, passes: bool) -> None:
        self._session = session
        self._backend_for = backend_for
        self._passes = passes
        self._backends: dict[str, Backend] = {}
        self._process = os.getpid()

    @property
    def session(self) -> Session:
        return self._session

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()

    def answer(self, library: ModuleType, http: Any, forward: Callable[[Any], Any]) -> Any:
        target = self._target(http)
        if target is None:
            return forward(http)
        body = self._body(http, http.read)
        exchange = _Exchange(library, http)
        try:
            completion = self._session.call(
                target.backend,
                endpoint=target.endpoint,
                model=str(body.get("model", "default")),
                path=target.path,
                body=body,
                send=lambda sent: exchange.send(sent, forward),
            )
        except BackendError as error:
            return exchange.handed_back(error, trips=self._session.trips)
        return exchange.response(completion)

    async def answer_async(
        self, library: ModuleType, http: Any, forward: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        target = self._target(http)
        if target is None:
            return await forward(http)
        await http.aread()
        body = self._body(http, http.read)
        exchange = _Exchange(library, http)
        try:
            completion = await self._session.call_async(
                target.backend,
                endpoint=target.endpoint,
                model=str(body.get("model", "default")),
                path=target.path,
                body=body,
                send=lambda sent: exchange.send_async(sent, forward),
                in_turn=_in_turn,
                in_thread=_in_thread,
            )
        except BackendError as error:
            return exchange.handed_back(error, trips=self._session.trips)
        return exchange.response(completion)

    def _target(self, http: Any) -> _Target | None:
        """Where a request goes; None for one that is no model call and passes."""
        url = str(http.url)
        endpoint, root = _route(http.method, url)
        if endpoint is None:
            if self._passes and self._session.mode.calls_model:
                return None
            self._session.refuse(
                f"the program asked for {http.method} {url.partition('?')[0]}, which is no chat or "
                "completion call of an OpenAI-compatible server and cannot be replayed"
            )
        if os.getpid() != self._process:
            # Neither locks nor helper threads of the session work in a fork.
            raise UsageError(
                f"{http.method} {url.partition('?')[0]} comes from a process that was forked while "
                "a cassette was in use, and cannot belong to it: make model calls in threads"
            )
        try:
            backend = self._backends.get(root)
            if backend is None:
                made = self._backend_for(root, _api_key(http))
                backend = self._backends.setdefault(root, made)
        except SwarmReproError as error:
            self._session.reject(error)
        return _Target(backend, endpoint, urlsplit(url).path)

    def _body(self, http: Any, read: Callable[[], bytes]) -> dict[str, Any]:
        try:
            return _read_body(read(), http.url)
        except SwarmReproError as error:
            self._session.reject(error)


async def _in_thread(work: Callable[[], _T]) -> _T:
    from anyio import to_thread

    return await to_thread.run_sync(work)


async def _in_turn(work: Callable[[], _T]) -> _T:
    """As ``_in_thread``, in the order of arrival: threads at once would shuffle the calls."""
    from anyio import CapacityLimiter, to_thread

    turns = _turns()
    limiter = turns.get(None)
    if limiter is None:
        limiter = CapacityLimiter(1)
        turns.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)


@functools.cache
def _turns() -> RunVar[CapacityLimiter | None]:
    """Whose turn it is, in each event loop."""
    from anyio.lowlevel import RunVar

    return RunVar("swarm_repro_turns")


def _api_key(http: Any) -> str | None:
    """The bearer token of a request."""
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None


def _route(method: str, url: str) -> tuple[Endpoint | None, str]:
    """The endpoint of a URL, and the root of its server."""
    parts = urlsplit(url)
    for suffix, endpoint in _ENDPOINTS.items():
        if method == "POST" and parts.path.endswith(suffix):
            prefix = parts.path.removesuffix(suffix).removesuffix("/v1")
            return endpoint, f"{parts.scheme}://{parts.netloc}{prefix}"
    return None, ""


def _read_body(data: bytes, url: object) -> dict[str, Any]:
    if _LONG_INTEGER.search(data):
        _require_64_bits(data, url)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request to {url} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"the request to {url} is not a JSON object")
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


class _Exchange:
    """One request and its answer, over the program's own transport."""

    def __init__(self, library: ModuleType, http: Any) -> None:
        self._library = library
        self._http = http
        self._came: Completion | None = None
        self._headers: list[tuple[bytes, bytes]] = []

    def send(self, sent: Request, forward: Callable[[Any], Any]) -> Completion:
        """Send a request as it was decided; any answer is a completion here."""
        start = time.monotonic()
        with self._naming_errors():
            response = forward(self._changed(sent))
            try:
                content = response.read()
            finally:
                response.close()
        return self._completion(response, content, start)

    async def send_async(
        self, sent: Request, forward: Callable[[Any], Awaitable[Any]]
    ) -> Completion:
        """As ``send``."""
        start = time.monotonic()
        with self._naming_errors():
            response = await forward(self._changed(sent))
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        return self._completion(response, content, start)

    def _changed(self, sent: Request) -> Any:
        http = self._http
        return self._library.Request(
            http.method,
            http.url,
            headers=_without_body(http.headers),
            content=encode_json(dict(sent.body)),
            extensions=http.extensions,
        )

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        url = self._http.url
        try:
            yield
        except self._library.TimeoutException as error:
            limit = self._http.extensions.get("timeout", {}).get("read")
            raise BackendError(
                f"{url} did not answer within the client's {limit:g} s; raise llm.timeout"
                if limit
                else f"{url} timed out"
            ) from error
        except self._library.TransportError as error:
            raise BackendUnreachableError(f"no answer from {url}: {error}") from error

    def _completion(self, response: Any, content: bytes, start: float) -> Completion:
        self._headers = _without_body(response.headers)
        self._came = Completion(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            body=content,
            duration_s=time.monotonic() - start,
        )
        return self._came

    def handed_back(self, error: BackendError, *, trips: bool) -> Any:
        """A failed call as it came, for a program that may retry.

        Raises:
            BackendError: Under ``run``, or where nothing came that could be handed back.
            Exception: The library's own error, where the connection failed.
        """
        if trips:
            raise error
        if isinstance(error, BackendResponseError) and self._came is not None:
            return self._response(self._came, self._headers)
        if isinstance(error.__cause__, self._library.TransportError):
            raise error.__cause__
        raise error

    def response(self, completion: Completion) -> Any:
        """The library's form of an answer: the same when it is recorded and when it is replayed."""
        return self._response(completion, [(b"content-type", completion.content_type.encode())])

    def _response(self, completion: Completion, headers: list[tuple[bytes, bytes]]) -> Any:
        # As a stream, which the client has yet to read: it may want the raw bytes, and the time.
        return self._library.Response(
            completion.status,
            headers=[*headers, (b"content-length", str(len(completion.body)).encode())],
            stream=self._library.ByteStream(completion.body),
            request=self._http,
        )


def _without_body(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(k, v) for k, v in headers.raw if k.decode().lower() not in _BODY_HEADERS]
