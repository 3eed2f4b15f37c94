"""Serving the endpoint: a socket, a uvicorn server, and a session that is concluded at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from swarm_repro.cassette.header import Header
from swarm_repro.endpoint.app import Access, make_app
from swarm_repro.endpoint.upstream import Upstream
from swarm_repro.errors import UsageError
from swarm_repro.intercept.http import HttpInterceptor
from swarm_repro.intercept.routes import Belonging
from swarm_repro.masking import Redact
from swarm_repro.mode import Mode
from swarm_repro.opening import open_session
from swarm_repro.session import Session

#: How long requests in flight may take to end when the endpoint is stopped, in seconds.
_GRACE_S = 10
#: How long the server may take to start in a thread, in seconds.
_START_S = 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DEFAULT_UPSTREAM = "http://localhost:8080"


@dataclass(frozen=True)
class Settings:
    """How an endpoint is served.

    Attributes:
        cassette: The file.
        mode: What to do with calls; None replays.
        header: How calls are made.
        seed: Run seed.
        upstream: URL of the server behind it; None takes llama-server's usual address.
        hosted: Whether the upstream is no llama-server.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        token: What requests must bring, or None.
        cors: Origins of pages that may ask.
        max_body_bytes: Limit of a request's body.
        discard: Throw away what an interrupted recording left.
        cache: Take answers from the machine-wide cache while recording; see ``open_session``.
        fresh: Take none, but add to it.
        redact: The user's own redaction of what is stored.
    """

    cassette: Path
    mode: Mode | None
    header: Header
    seed: int
    upstream: str | None = None
    hosted: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    cors: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    discard: bool = False
    cache: bool = False
    fresh: bool = False
    redact: Redact | None = None


class Endpoint:
    """An endpoint with its socket and its session."""

    def __init__(self, settings: Settings) -> None:
        """Listen, and open the cassette.

        Args:
            settings: How.

        Raises:
            UsageError: The address cannot be had, is not loopback and has no token, or the
                upstream is the endpoint itself.
            CassetteAccessError: No cassette, or one that is in use.
            CassetteDamagedError: Not the bytes that were written.
        """
        if settings.host not in _LOOPBACK and not settings.token:
            raise UsageError(
                f"{settings.host} can be reached from other machines: give the endpoint a token "
                "(--token, or SWARM_REPRO_TOKEN), or listen on 127.0.0.1"
            )
        self._settings = settings
        self._socket = _listen(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        try:
            given = Upstream(settings.upstream or _DEFAULT_UPSTREAM)
            given.require_other(settings.host, self.port)
            self.session: Session = open_session(
                settings.cassette,
                mode=settings.mode,
                header=settings.header,
                seed=settings.seed,
                discard=settings.discard,
                cache=settings.cache,
                fresh=settings.fresh,
                redact=settings.redact,
                isolated=True,
            )
        except BaseException:
            self._socket.close()
            raise
        self._upstream = self._upstream_of_session(given)
        hosted = settings.hosted or self._replays_a_host()
        self._interceptor = HttpInterceptor(
            self.session,
            belonging=Belonging.of(
                hosts=[self._upstream.host], hosted=[self._upstream.host] if hosted else []
            ),
        )
        app = make_app(
            self.session,
            self._interceptor,
            self._upstream,
            Access(
                hosts=frozenset({*_LOOPBACK, "[::1]", settings.host}),
                token=settings.token,
                cors=settings.cors,
                max_body_bytes=settings.max_body_bytes,
            ),
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="critical",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    @property
    def root(self) -> str:
        """Its root URL."""
        host = self._settings.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def _upstream_of_session(self, given: Upstream) -> Upstream:
        """In replay the host that was recorded, so that its calls are found by its name."""
        hosts = _recorded_hosts(self.session)
        if self.session.mode.calls_model or self._settings.upstream or len(hosts) != 1:
            return given
        return Upstream(f"http://{_bracketed(hosts[0])}")

    def _replays_a_host(self) -> bool:
        """Whether all that a replay can answer is known by the name of a host alone."""
        store = self.session.store
        if self.session.mode.calls_model or store is None:
            return False
        hosts = _recorded_hosts(self.session)
        return bool(hosts) and len(hosts) == len(store.model_names())

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; what is in flight may end."""
        with self._stopping_at_signals():
            asyncio.run(self._serve())

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[None]:
        """Serve beside the block, and stop at its end.

        Raises:
            UsageError: It did not start.
        """
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="swarm-repro-endpoint"
        )
        thread.start()
        try:
            if not self._server.has_started.wait(_START_S):
                raise UsageError(f"the endpoint did not start within {_START_S:g} s")
            yield
        finally:
            self._server.should_exit = True
            thread.join()

    async def _serve(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            await self._upstream.close()

    @contextlib.contextmanager
    def _stopping_at_signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._server.force_exit = self._server.should_exit
            self._server.should_exit = True

        kept = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Let go of the socket and the cassette; what is concluded is concluded before."""
        self._socket.close()
        self._interceptor.close()
        self.session.close()


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever runs it, and says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self.has_started.set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port in TIME_WAIT may be had again at once; one that is in use may not.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{host}:{port} cannot be listened on: {why}; choose another --port, or leave it out"
        ) from error
    return listening


def _recorded_hosts(session: Session) -> list[str]:
    store = session.store
    if store is None:
        return []
    bindings = filter(None, map(store.binding, store.model_names()))
    return [
        str(binding.identity.content["host"])
        for binding in bindings
        if binding.identity.kind == "hosted"
    ]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
