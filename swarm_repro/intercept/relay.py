"""Streams that are passed on to the program as they come, and recorded when they have ended.

What ends a stream is held back until the call is on disk: a program that has seen the end of its
answer never loses it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from swarm_repro.completion import Completion
from swarm_repro.errors import BackendError
from swarm_repro.intercept.exchange import Came, Exchange
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.session import Session

#: What the last piece of a stream holds, whichever API it is of; a false alarm only holds the rest
#: of a stream back until it is whole.
_ENDS = (
    b"[DONE]",
    b"message_stop",
    b'"done":true',
    b'"done": true',
    b'"stop":true',
    b"response.completed",
    b"response.incomplete",
    b"response.failed",
    b'"error"',
    b"error:",
)


def may_relay(session: Session, came: Came) -> bool:
    """Whether the program may have the pieces of an answer before it is whole."""
    # Who verifies gets the recorded answer, whatever comes now.
    return came.is_stream and session.mode is not Mode.VERIFY


class _Reception:
    """The pieces of a stream so far, and its end."""

    def __init__(
        self,
        session: Session,
        call: PendingCall,
        exchange: Exchange,
        came: Came,
        digest: Callable[[], str | None],
    ) -> None:
        self._session = session
        self._call = call
        self._parts: list[bytes] = []
        self._has_ended = False
        self.digest = digest
        self.exchange = exchange
        self.came = came

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def take(self, part: bytes) -> bool:
        """Note a piece.

        Returns:
            Whether it may be the last one.
        """
        before = self._parts[-1][-32:] if self._parts else b""
        self._parts.append(part)
        seen = before + part
        return any(mark in seen for mark in _ENDS)

    def keep(self, prompt_sha256: str | None) -> None:
        """Record the stream, now that all of it is there.

        Args:
            prompt_sha256: Digest of the rendered prompt.

        Raises:
            SessionTripped: Under ``run``, when it is no completion.
        """
        with self._ending():
            self._session.settle(self._call, self._completion(), prompt_sha256=prompt_sha256)

    async def keep_async(
        self,
        prompt_sha256: str | None,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        """As ``keep``, beside an event loop.

        Args:
            prompt_sha256: Digest of the rendered prompt.
            in_thread: Runs what blocks beside the event loop.
        """
        with self._ending():
            await self._session.settle_async(
                self._call, self._completion(), prompt_sha256=prompt_sha256, in_thread=in_thread
            )

    def _completion(self) -> Completion:
        return self.came.completion(b"".join(self._parts))

    @contextmanager
    def _ending(self) -> Iterator[None]:
        self._has_ended = True
        try:
            yield
        except BackendError as error:
            self._session.fail(self._call, error)  # the program has seen what came
        except BaseException as error:
            self._session.fail(self._call, error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Note that the rest will not come."""
        if not self._has_ended:
            self._has_ended = True
            self._session.fail(self._call, error)


def _interruption() -> BaseException | None:
    """What ends the reading of a stream from outside: a time-out, Ctrl-C."""
    error = sys.exc_info()[1]
    if error is None or isinstance(error, (Exception, GeneratorExit)):
        return None  # the program has read as far as it wants to
    return error


def sync_relay(
    session: Session,
    call: PendingCall,
    exchange: Exchange,
    came: Came,
    digest: Callable[[], str | None],
) -> Any:
    """An answer of httpx or httpx2 whose body is passed on as it comes.

    A program that stops reading early still has its call recorded whole: a replay gives it all.

    Args:
        session: Decides.
        call: The call.
        exchange: Its request.
        came: The beginning of its answer.
        digest: Waits for the digest of the rendered prompt.
    """
    reception = _Reception(session, call, exchange, came, digest)
    return exchange.response_with(came, _sync_stream(exchange.library)(reception))


def async_relay(
    session: Session,
    call: PendingCall,
    exchange: Exchange,
    came: Came,
    digest: Callable[[], str | None],
    *,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Any:
    """As ``sync_relay``, for an async client.

    Args:
        session: Decides.
        call: The call.
        exchange: Its request.
        came: The beginning of its answer.
        digest: Waits for the digest of the rendered prompt.
        in_thread: Runs what blocks beside the event loop.
    """
    reception = _Reception(session, call, exchange, came, digest)
    return exchange.response_with(came, _async_stream(exchange.library)(reception, in_thread))


def _sync_stream(library: ModuleType) -> Any:
    class SyncRelay(library.SyncByteStream):  # type: ignore[misc,name-defined]
        """The pieces as they come."""

        def __init__(self, reception: _Reception) -> None:
            self._reception = reception
            self._pieces = reception.came.response.iter_bytes()

        def __iter__(self) -> Iterator[bytes]:
            reception = self._reception
            for part in self._read():
                if not reception.take(part):
                    yield part
                    continue
                held = [part]
                for later in self._read():
                    reception.take(later)
                    held.append(later)
                self._keep()
                yield from held
                return
            if not reception.has_ended:
                self._keep()

        def _keep(self) -> None:
            try:
                prompt_sha256 = self._reception.digest()
            except BaseException as error:
                self._reception.give_up(error)
                raise
            self._reception.keep(prompt_sha256)

        def _read(self) -> Iterator[bytes]:
            try:
                with self._reception.exchange.naming_errors():
                    # Not "yield from": a program that leaves its loop closes this generator, and
                    # what it delegates to; the rest is still to be read when the answer is closed.
                    for part in self._pieces:  # noqa: UP028
                        yield part
            except GeneratorExit:
                raise
            except BackendError as error:
                self._reception.give_up(error)
                raise (error.__cause__ or error) from None
            except BaseException as error:
                self._reception.give_up(error)
                raise

        def close(self) -> None:
            reception = self._reception
            interruption = _interruption()
            try:
                if interruption is not None:
                    reception.give_up(interruption)
                elif not reception.has_ended:
                    for part in self._read():
                        reception.take(part)
                    self._keep()
            finally:
                reception.came.response.close()

    return SyncRelay


def _async_stream(library: ModuleType) -> Any:
    class AsyncRelay(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        """The pieces as they come."""

        def __init__(
            self,
            reception: _Reception,
            in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        ) -> None:
            self._reception = reception
            self._in_thread = in_thread
            self._pieces = reception.came.response.aiter_bytes()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            reception = self._reception
            async for part in self._read():
                if not reception.take(part):
                    yield part
                    continue
                held = [part]
                async for later in self._read():
                    reception.take(later)
                    held.append(later)
                await self._keep()
                for one in held:
                    yield one
                return
            if not reception.has_ended:
                await self._keep()

        async def _keep(self) -> None:
            try:
                prompt_sha256 = await self._in_thread(self._reception.digest)
            except BaseException as error:
                self._reception.give_up(error)
                raise
            await self._reception.keep_async(prompt_sha256, self._in_thread)

        async def _read(self) -> AsyncIterator[bytes]:
            try:
                with self._reception.exchange.naming_errors():
                    async for part in self._pieces:
                        yield part
            except GeneratorExit:
                raise
            except BackendError as error:
                self._reception.give_up(error)
                raise (error.__cause__ or error) from None
            except BaseException as error:
                self._reception.give_up(error)
                raise

        async def aclose(self) -> None:
            reception = self._reception
            interruption = _interruption()
            try:
                if interruption is not None:
                    reception.give_up(interruption)
                elif not reception.has_ended:
                    async for part in self._read():
                        reception.take(part)
                    await self._keep()
            finally:
                await reception.came.response.aclose()

    return AsyncRelay
