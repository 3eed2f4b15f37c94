"""Giving an answer to a client that may go away at any time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

#: Status that says nothing to anybody: the client has gone.
_CLIENT_GONE = 499


class BrokenStreamError(Exception):
    """An upstream died in mid-stream: the connection is closed, so that the client sees it."""


async def answer_unless_gone(
    request: Request, ask: Callable[[], Awaitable[Any]], *, library: ModuleType
) -> Response:
    """Wait for an answer for as long as the client does.

    Args:
        request: The client's, its body read.
        ask: Gives a response of httpx or httpx2.
        library: Which of them.

    Returns:
        The response as it is sent to the client. With a client that has gone the call was
        cancelled, so that nothing is recorded and a retry takes its place.
    """
    came: Any = None
    failed: BaseException | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            came = await ask()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - raised outside the group, which wraps
            failed = error
        finally:
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    if came is None:
        return Response(status_code=_CLIENT_GONE)
    if isinstance(came.stream, library.ByteStream):
        return _plain(came, await came.aread())
    return StreamedAnswer(came, library)


def _plain(came: Any, body: bytes) -> Response:
    response = Response(body, status_code=came.status_code)
    response.raw_headers = [
        *((name.lower(), value) for name, value in came.headers.raw if not _is_of_connection(name)),
    ]
    return response


def _is_of_connection(name: bytes) -> bool:
    return name.lower() in (b"connection", b"keep-alive", b"set-cookie", b"server", b"date")


class StreamedAnswer(Response):
    """A stream, passed on as it comes."""

    def __init__(self, came: Any, library: ModuleType) -> None:
        """Take the beginning of an answer.

        Args:
            came: A response of httpx or httpx2 whose stream is still to be read.
            library: Which of them.
        """
        super().__init__(status_code=came.status_code)
        self.raw_headers = [(name.lower(), value) for name, value in came.headers.raw]
        self._stream = came.stream
        self._library = library

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that goes away ends the call.

        Raises:
            BrokenStreamError: The upstream died.
        """
        del scope
        broken: Exception | None = None
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await self._send(send)
            except self._library.TransportError as error:
                broken = error
            finally:
                # Closed by a cancellation, the stream gives the call up.
                with anyio.CancelScope(shield=True):
                    await self._stream.aclose()
                group.cancel_scope.cancel()
        if broken is not None:
            raise BrokenStreamError(str(broken))

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for part in self._stream:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
