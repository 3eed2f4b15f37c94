"""The endpoint as an ASGI application: requests become calls of the same session.

A request is rebuilt as one of httpx, with the upstream's address, and put to the interceptor that
answers httpx clients in this process. What is decided here is only who may ask.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from swarm_repro.caller import calling_for, scope
from swarm_repro.endpoint.answer import answer_unless_gone
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    CassetteDamagedError,
    ReplayMiss,
    RequestError,
    SessionTripped,
    SwarmReproError,
    UsageError,
)
from swarm_repro.intercept.bodies import read_body
from swarm_repro.intercept.http import HttpInterceptor
from swarm_repro.opening import describe_unplayed

if TYPE_CHECKING:
    from swarm_repro.endpoint.upstream import Upstream
    from swarm_repro.session import Session

#: Where the endpoint tells of itself.
STATUS_PATH = "/__swarm_repro__/status"
#: Says whose call a request is, and what for.
SCOPE_HEADER = "x-swarm-repro-scope"
KIND_HEADER = "x-swarm-repro-kind"
TOKEN_HEADER = "x-swarm-repro-token"  # noqa: S105 - a header's name
#: Names the endpoints that a request has passed: one that comes back is a loop.
VIA_HEADER = "x-swarm-repro-via"
#: How many misses the status explains.
_SHOWN_MISSES = 10

#: Headers of a request that end here: those of one connection, and those for the endpoint.
_OURS = frozenset(
    {
        *("host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "content-length", "accept-encoding"),
        *(SCOPE_HEADER, KIND_HEADER, TOKEN_HEADER, VIA_HEADER),
    }
)
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: Names that the Host header may have, against DNS rebinding.
        token: What a request must bring, or None.
        cors: Origins of pages that may ask, besides programs.
        max_body_bytes: Limit of a request's body.
    """

    hosts: frozenset[str]
    token: str | None = None
    cors: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20


class _Refused(Exception):
    """A request that is answered here."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.response = failure(status, message, kind)


def failure(status: int, message: str, kind: str) -> JSONResponse:
    """An error in the form that clients of OpenAI's API read.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        kind: ``type`` of the error.
    """
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)


def make_app(
    session: Session, interceptor: HttpInterceptor, upstream: Upstream, access: Access
) -> Starlette:
    """The application.

    Args:
        session: Decides.
        interceptor: Turns requests into its calls.
        upstream: Where what is not replayed goes.
        access: Who may ask.
    """
    endpoint = _Endpoint(session, interceptor, upstream, access)
    app = Starlette(
        routes=[
            Route(STATUS_PATH, endpoint.status, methods=["GET"]),
            Route("/{path:path}", endpoint.call, methods=_METHODS),
        ]
    )
    if access.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return app


class _Endpoint:
    def __init__(
        self, session: Session, interceptor: HttpInterceptor, upstream: Upstream, access: Access
    ) -> None:
        self._session = session
        self._interceptor = interceptor
        self._upstream = upstream
        self._access = access
        self._id = secrets.token_hex(8)

    async def status(self, request: Request) -> Response:
        """What happened so far."""
        try:
            self._admit(request)
        except _Refused as refused:
            return refused.response
        return JSONResponse(status_of(self._session))

    async def call(self, request: Request) -> Response:
        """Answer a model call."""
        try:
            self._admit(request)
            self._require_route(request)
            data = await self._body(request)
            library = self._upstream.library
            http = library.Request(
                request.method,
                self._upstream.url_of(request.url.path, request.url.query),
                headers=self._headers(request),
                content=data,
                extensions={"timeout": self._upstream.timeouts},
            )
            with _naming_errors(library), self._in_scope(request):
                return await answer_unless_gone(
                    request,
                    lambda: self._interceptor.answer_async(library, http, self._upstream.forward),
                    library=library,
                )
        except _Refused as refused:
            return refused.response

    def _admit(self, request: Request) -> None:
        host = request.headers.get("host", "")
        name = host[: host.rindex(":")] if ":" in host.rpartition("]")[2] else host
        if name.lower() not in self._access.hosts:
            raise _Refused(
                421,
                f"this endpoint is not {name!r}: ask it by the address it was started with",
                "host_refused",
            )
        token = self._access.token
        if token is not None and not any(
            secrets.compare_digest(given.encode(), token.encode())
            for given in (_bearer(request), request.headers.get(TOKEN_HEADER, ""))
        ):
            raise _Refused(
                401,
                f"this endpoint wants its token: as API key, or in the header {TOKEN_HEADER}",
                "token_refused",
            )
        if self._id in request.headers.get(VIA_HEADER, "").split(","):
            raise _Refused(
                508, "the upstream of this endpoint leads back to itself: name another", "loop"
            )

    def _require_route(self, request: Request) -> None:
        url = self._upstream.url_of(request.url.path, request.url.query)
        known = [method for method in ("GET", "POST") if self._interceptor.would_take(method, url)]
        if request.method in known:
            return
        if known:
            raise _Refused(
                405, f"{request.url.path} wants {known[0]}, not {request.method}", "method"
            )
        raise _Refused(
            404, f"{request.url.path} is no path of a model API that is known here", "unknown_path"
        )

    async def _body(self, request: Request) -> bytes:
        limit = self._access.max_body_bytes
        told = request.headers.get("content-length", "0")
        parts: list[bytes] = []
        size = int(told) if told.isdecimal() else 0
        if size <= limit:
            size = 0
            try:
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        break
                    parts.append(part)
            except ClientDisconnect:
                raise _Refused(400, "the client has gone", "disconnected") from None
        if size > limit:
            refused = _Refused(
                413, f"the body is larger than {limit} bytes; see --max-body", "too_large"
            )
            refused.response.headers["connection"] = "close"  # the rest of it is not read
            raise refused
        data = b"".join(parts)
        if request.method == "POST":
            try:
                read_body(data, request.url.path)
            except RequestError as error:
                raise _Refused(400, str(error), "invalid_request") from error
        return data

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        kept = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1").lower() not in _OURS
        ]
        if self._access.token is not None and _bearer(request) == self._access.token:
            kept = [(name, value) for name, value in kept if name.lower() != b"authorization"]
        passed = [*filter(None, request.headers.get(VIA_HEADER, "").split(",")), self._id]
        return [*kept, (VIA_HEADER.encode(), ",".join(passed).encode())]

    @contextmanager
    def _in_scope(self, request: Request) -> Iterator[None]:
        with ExitStack() as stack:
            name = request.headers.get(SCOPE_HEADER)
            if name:
                stack.enter_context(scope(name))
            kind = request.headers.get(KIND_HEADER)
            if kind:
                stack.enter_context(calling_for(kind))
            yield


@contextmanager
def _naming_errors(library: Any) -> Iterator[None]:
    """What went wrong, as an answer."""
    try:
        yield
    except ReplayMiss as miss:
        raise _Refused(404, str(miss), "replay_miss") from miss
    except SessionTripped as tripped:
        raise _Refused(503, str(tripped), "session_over") from tripped
    except library.TimeoutException as error:
        why = str(error) or type(error).__name__
        raise _Refused(504, f"the upstream did not answer in time: {why}", "timeout") from error
    except library.TransportError as error:
        why = str(error) or type(error).__name__
        raise _Refused(502, f"no answer from the upstream: {why}", "unreachable") from error
    except BackendError as error:
        raise _Refused(502, str(error), "upstream") from error
    except (CassetteAccessError, CassetteDamagedError) as error:
        raise _Refused(500, str(error), "cassette") from error
    except UsageError as error:
        raise _Refused(400, str(error), "invalid_request") from error
    except SwarmReproError as error:
        raise _Refused(500, str(error), "error") from error


def status_of(session: Session) -> Mapping[str, object]:
    """What a session did so far, for scripts."""
    ledger = session.ledger
    return {
        "mode": session.mode.value,
        "from_cassette": ledger.hits,
        "from_model": ledger.called,
        "shared": ledger.shared,
        "misses": len(ledger.misses),
        "failures": len(ledger.failures),
        "rejected": ledger.rejected,
        "in_flight": sum(session.in_flight().values()),
        "unplayed": None if session.mode.writes else describe_unplayed(session),
        "first_misses": ledger.misses[:_SHOWN_MISSES],
    }


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else ""
