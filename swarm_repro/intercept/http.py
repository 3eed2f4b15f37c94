"""The transports of httpx and httpx2: below every openai client, above the network."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypedDict

from swarm_repro.backends.base import Backend
from swarm_repro.backends.hosted import Hosted
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.errors import BackendError, SwarmReproError, UsageError
from swarm_repro.intercept.bodies import read_body
from swarm_repro.intercept.exchange import Exchange
from swarm_repro.intercept.present import intercepting
from swarm_repro.intercept.relay import async_relay, may_relay, sync_relay
from swarm_repro.intercept.routes import Belonging, Route
from swarm_repro.intercept.threads import current_flow, in_thread, in_turn, pause
from swarm_repro.intercept.transports import patch_libraries
from swarm_repro.model import hosted_name
from swarm_repro.request import Endpoint
from swarm_repro.serving.state import find_started_server
from swarm_repro.session import Session

#: Addresses whose routes are remembered.
_MOST_ROUTES = 1024


@contextmanager
def intercept_http(
    session: Session,
    *,
    belonging: Belonging | None = None,
    passes: bool = False,
    everywhere: bool = False,
) -> Iterator[None]:
    """Put all requests of httpx and httpx2 to a session while the block runs.

    In replay no transport is set up at all: no TLS context, no connection.

    Args:
        session: Decides.
        belonging: Which requests are the session's; the model calls of known APIs by default.
        passes: In modes that call, let the others through; else they are refused, as they always
            are in replay.
        everywhere: Answer in all contexts that have no cassette of their own.
    """
    patch_libraries()
    interceptor = HttpInterceptor(session, belonging=belonging, passes=passes)
    try:
        with intercepting(interceptor, everywhere=everywhere):
            yield
    finally:
        interceptor.close()


class HttpInterceptor:
    """Turns HTTP requests into calls of a session."""

    def __init__(
        self,
        session: Session,
        *,
        belonging: Belonging | None = None,
        passes: bool = False,
    ) -> None:
        """Arguments as for ``intercept_http``."""
        self._session = session
        self._belonging = belonging or Belonging()
        self._passes = passes
        self._backends: dict[str, Backend] = {}
        self._routes: dict[tuple[str, str], Route | None] = {}
        self._process = os.getpid()

    @property
    def session(self) -> Session:
        """What decides about its calls."""
        return self._session

    def would_take(self, method: str, url: str) -> bool:
        """Whether a request to a URL would be a call of the session."""
        return self._belonging.route(method, url) is not None

    def close(self) -> None:
        """Let go of the backends' connections."""
        for backend in self._backends.values():
            backend.close()

    def answer(self, library: ModuleType, http: Any, forward: Callable[[Any], Any]) -> Any:
        """Answer a request; see ``Interceptor``."""
        session = self._session
        route = self._route(http)
        if route is None:
            return forward(http)
        asked = self._asked(route, http, http.read())
        exchange = Exchange(library, http)
        try:
            call = session.start(**asked)
            if call.answer is not None:
                return exchange.response(call.answer)
            with session.failing(call):
                digest = session.digest(call, asked["backend"].render)
                came = session.send(
                    call, lambda sent: exchange.open(sent, forward), drop=exchange.drop
                )
                if may_relay(session, came):
                    return sync_relay(session, call, exchange, came, digest)
                completion = exchange.read(came)
                given = session.settle(call, completion, prompt_sha256=digest())
        except BackendError as error:
            return exchange.handed_back(error, trips=session.trips)
        return exchange.response(given)

    async def answer_async(
        self, library: ModuleType, http: Any, forward: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """As ``answer``, for an async client."""
        session = self._session
        route = self._route(http)
        if route is None:
            return await forward(http)
        asked = self._asked(route, http, await http.aread())
        exchange = Exchange(library, http)
        try:
            call = await session.start_async(
                **asked, flow=current_flow(), in_turn=in_turn, in_thread=in_thread
            )
            if call.answer is not None:
                return exchange.response(call.answer)
            with session.failing(call):
                digest = session.digest(call, asked["backend"].render)
                came = await session.send_async(
                    call,
                    lambda sent: exchange.open_async(sent, forward),
                    drop=exchange.drop_async,
                    pause=pause,
                )
                if may_relay(session, came):
                    return async_relay(session, call, exchange, came, digest, in_thread=in_thread)
                completion = await exchange.read_async(came)
                prompt_sha256 = await in_thread(digest)
                given = await session.settle_async(
                    call, completion, prompt_sha256=prompt_sha256, in_thread=in_thread
                )
        except BackendError as error:
            return exchange.handed_back(error, trips=session.trips)
        return exchange.response(given)

    def _route(self, http: Any) -> Route | None:
        """Where a request goes; None for one that is no model call and passes."""
        url = str(http.url)
        key = (http.method, url)
        # A program asks the same few addresses again and again.
        route = self._routes[key] if key in self._routes else self._find_route(key)
        if route is None:
            shown = _shown(*key)
            if self._passes and self._session.mode.calls_model:
                return None
            self._session.refuse(
                f"the program asked for {shown}, which is no model call that belongs to this "
                "cassette and cannot be replayed; its host may have to be named with hosts or "
                "hosted"
            )
        if os.getpid() != self._process:
            # Neither locks nor helper threads of the session work in a fork.
            raise UsageError(
                f"{_shown(*key)} comes from a process that was forked while a cassette was in use, "
                "and cannot belong to it: make model calls in threads"
            )
        return route

    def _find_route(self, key: tuple[str, str]) -> Route | None:
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        route = self._routes[key] = self._belonging.route(*key)
        return route

    def _asked(self, route: Route, http: Any, data: bytes) -> _Asked:
        """The call that a request is."""
        try:
            body = read_body(data, http.url) if data or http.method != "GET" else {}
            model = str(body.get("model", "default"))
            if not route.is_opaque and self._is_recorded_as_hosted(model, route.host):
                route = route.as_opaque(http.method)
            if route.is_opaque:
                model = hosted_name(route.host)
            backend = self._backend(route, http)
        except SwarmReproError as error:
            self._session.reject(error)
        return {
            "backend": backend,
            "endpoint": route.endpoint,
            "model": model,
            "path": route.path,
            "body": body,
        }

    def _is_recorded_as_hosted(self, model: str, host: str) -> bool:
        """Whether a replay knows this model's answers by the name of their host alone."""
        store = self._session.store
        return (
            store is not None
            and not self._session.mode.calls_model
            and store.binding(model) is None
            and store.binding(hosted_name(host)) is not None
        )

    def _backend(self, route: Route, http: Any) -> Backend:
        key = f"{route.asks_model} {route.host}" if route.is_opaque else route.root
        backend = self._backends.get(key)
        if backend is None:
            made: Backend
            if route.is_opaque:
                made = Hosted(route.host, asks_model=route.asks_model)
            else:
                made = LlamaServer(route.root, api_key=_api_key(http), started=find_started_server)
            backend = self._backends.setdefault(key, made)
        return backend


class _Asked(TypedDict):
    backend: Backend
    endpoint: Endpoint
    model: str
    path: str
    body: Mapping[str, object]


def _shown(method: str, url: str) -> str:
    """A request for a message, without its query, which may hold a secret."""
    return f"{method} {url.partition('?')[0]}"


def _api_key(http: Any) -> str | None:
    """The bearer token of a request."""
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None
