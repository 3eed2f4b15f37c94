"""One HTTP request of a program and its answer, over the program's own transport."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from swarm_repro.canonical import encode_json
from swarm_repro.completion import Completion, is_streamed
from swarm_repro.errors import BackendError, BackendResponseError, BackendUnreachableError
from swarm_repro.request import Request

#: Headers of a request or an answer that belong to its body, which is rebuilt.
_BODY_HEADERS = frozenset({"content-length", "content-encoding", "transfer-encoding"})


class Came:
    """What came over the transport: an answer whole, or the beginning of one."""

    def __init__(self, response: Any, start: float) -> None:
        """Take a response.

        Args:
            response: The library's; not yet read.
            start: When its request was sent, by ``time.monotonic``.
        """
        self.response = response
        self._start = start

    @property
    def status(self) -> int:
        """HTTP status."""
        status: int = self.response.status_code
        return status

    @property
    def content_type(self) -> str:
        """As the server sent it."""
        value: str = self.response.headers.get("content-type", "")
        return value

    @property
    def is_stream(self) -> bool:
        """Whether it may be passed on piece by piece."""
        return self.status == 200 and is_streamed(self.content_type)

    def completion(self, body: bytes) -> Completion:
        """The whole answer.

        Args:
            body: Its bytes, decompressed.
        """
        return Completion(
            status=self.status,
            content_type=self.content_type,
            body=body,
            duration_s=time.monotonic() - self._start,
        )


class Exchange:
    """A request of httpx or httpx2, sent as the session decided, and what the program gets."""

    def __init__(self, library: ModuleType, http: Any) -> None:
        """Take a request.

        Args:
            library: httpx or httpx2.
            http: Its request.
        """
        self.library = library
        self._http = http
        self._failed: Completion | None = None
        self._failed_headers: list[tuple[bytes, bytes]] = []

    def open(self, sent: Request, forward: Callable[[Any], Any]) -> Came:
        """Send a request as it was decided, up to the answer's headers; any status will do.

        Raises:
            BackendError: No answer came.
        """
        start = time.monotonic()
        with self.naming_errors():
            return Came(forward(self._changed(sent)), start)

    async def open_async(self, sent: Request, forward: Callable[[Any], Awaitable[Any]]) -> Came:
        """As ``open``."""
        start = time.monotonic()
        with self.naming_errors():
            return Came(await forward(self._changed(sent)), start)

    def read(self, came: Came) -> Completion:
        """Read an answer to its end.

        Raises:
            BackendError: The connection broke.
        """
        with self.naming_errors():
            try:
                body = came.response.read()
            finally:
                came.response.close()
        return self._note(came, came.completion(body))

    async def read_async(self, came: Came) -> Completion:
        """As ``read``."""
        with self.naming_errors():
            try:
                body = await came.response.aread()
            finally:
                await came.response.aclose()
        return self._note(came, came.completion(body))

    def drop(self, came: Came) -> None:
        """Let go of an answer that is not read, so that its connection is free again."""
        with self.naming_errors():
            came.response.close()

    async def drop_async(self, came: Came) -> None:
        """As ``drop``."""
        with self.naming_errors():
            await came.response.aclose()

    def _note(self, came: Came, completion: Completion) -> Completion:
        self._failed, self._failed_headers = completion, _without_body(came.response.headers)
        return completion

    def _changed(self, sent: Request) -> Any:
        http = self._http
        return self.library.Request(
            http.method,
            http.url,
            headers=_without_body(http.headers),
            content=encode_json(dict(sent.body)) if http.method != "GET" else None,
            extensions=http.extensions,
        )

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Turn the library's errors into errors of the backend.

        Raises:
            BackendError: A time-out.
            BackendUnreachableError: No connection, or one that broke.
        """
        url = self._http.url
        try:
            yield
        except self.library.TimeoutException as error:
            limit = self._http.extensions.get("timeout", {}).get("read")
            raise BackendError(
                f"{url} did not answer within the client's {limit:g} s; raise llm.timeout"
                if limit
                else f"{url} timed out"
            ) from error
        except self.library.TransportError as error:
            raise BackendUnreachableError(f"no answer from {url}: {error}") from error

    def handed_back(self, error: BackendError, *, trips: bool) -> Any:
        """A failed call as it came, for a program that may retry.

        Raises:
            BackendError: Under ``run``, or where nothing came that could be handed back.
            Exception: The library's own error, where the connection failed.
        """
        if trips:
            raise error
        if isinstance(error, BackendResponseError) and self._failed is not None:
            failed = self._failed
            headers = [*self._failed_headers, _length_of(failed.body)]
            return self._response(
                failed.status, headers, stream=self.library.ByteStream(failed.body)
            )
        if isinstance(error.__cause__, self.library.TransportError):
            raise error.__cause__
        raise error

    def response(self, completion: Completion) -> Any:
        """The library's form of an answer: the same when it is recorded and when it is replayed."""
        headers = [_type_of(completion.content_type)]
        if not is_streamed(completion.content_type):
            headers.append(_length_of(completion.body))
        # As a stream, which the client has yet to read: it may want the raw bytes, and the time.
        return self._response(
            completion.status, headers, stream=self.library.ByteStream(completion.body)
        )

    def response_with(self, came: Came, stream: Iterator[bytes] | AsyncIterator[bytes]) -> Any:
        """An answer whose body is still to come."""
        return self._response(came.status, [_type_of(came.content_type)], stream=stream)

    def _response(self, status: int, headers: list[tuple[bytes, bytes]], *, stream: Any) -> Any:
        return self.library.Response(status, headers=headers, stream=stream, request=self._http)


def _type_of(content_type: str) -> tuple[bytes, bytes]:
    return (b"content-type", content_type.encode())


def _length_of(body: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", str(len(body)).encode())


def _without_body(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(k, v) for k, v in headers.raw if k.decode().lower() not in _BODY_HEADERS]
