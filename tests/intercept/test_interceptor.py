"""One contract for sync and async clients: the program's answer, and the recorded call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from swarm_repro.backends.hosted import Hosted
from swarm_repro.caller import scope
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendUnreachableError,
    ExitCode,
    ReplayMiss,
    RequestError,
    SessionTripped,
    UsageError,
)
from swarm_repro.intercept import http as http_module
from swarm_repro.intercept.exchange import Exchange
from swarm_repro.intercept.http import HttpInterceptor
from swarm_repro.intercept.relay import async_relay, sync_relay
from swarm_repro.intercept.routes import Belonging, Route
from swarm_repro.intercept.threads import in_thread
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, header_of, open_session
from swarm_repro.session import Session
from tests.support.client_library import httpx

URL = "https://api.example.com/v1/chat/completions"
ANSWER = b'{"choices":[{"index":0,"message":{"content":"fine"}}]}'
EVENTS = [b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % word for word in (b"a", b"b")]
DONE = b"data: [DONE]\n\n"
STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[name-defined,misc]
    """A body that comes piece by piece; an error among the pieces is raised in its place."""

    def __init__(self, pieces: Sequence[bytes | BaseException]) -> None:
        self._pieces = pieces
        self.read = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            self.read += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            await asyncio.sleep(0)
            yield piece

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


@dataclass
class Transport:
    """The end of a program's own transport: answers in turn, the last one again and again."""

    answers: list[Any]
    sent: list[Any] = field(default_factory=list)

    def __call__(self, http: Any) -> Any:
        self.sent.append(http)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    async def forward_async(self, http: Any) -> Any:
        await asyncio.sleep(0)
        return self(http)


def whole(
    body: bytes = ANSWER, *, status: int = 200, headers: dict[str, str] = JSON
) -> Callable[[], Any]:
    return lambda: httpx.Response(status, headers=headers, stream=Pieces([body]))


def stream(*pieces: bytes | BaseException) -> Any:
    return httpx.Response(200, headers=STREAM, stream=Pieces(pieces))


@dataclass
class Got:
    """The answer as a program sees it."""

    response: Any
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


#: Takes an answer, as far as the program wants it, and closes it.
Ask = Callable[..., Got]


def ask_sync(
    interceptor: HttpInterceptor,
    transport: Transport,
    http: Any = None,
    *,
    pieces: int | None = None,
    fails: BaseException | None = None,
) -> Got:
    response = interceptor.answer(httpx, http or request(), transport)
    got: list[bytes] = []
    try:
        for piece in islice(response.stream, pieces):
            got.append(piece)
        if fails is not None:
            raise fails
    finally:
        response.close()
    return Got(response, got)


def ask_async(
    interceptor: HttpInterceptor,
    transport: Transport,
    http: Any = None,
    *,
    pieces: int | None = None,
    fails: BaseException | None = None,
) -> Got:
    async def ask() -> Got:
        response = await interceptor.answer_async(httpx, http or request(), transport.forward_async)
        got: list[bytes] = []
        try:
            async for piece in response.stream:
                got.append(piece)
                if len(got) == pieces:
                    break
            for _ in range(8):
                await asyncio.sleep(0)  # what the loop left behind is closed
            if fails is not None:
                raise fails
        finally:
            await response.aclose()
        return Got(response, got)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    ask: Ask = request.param
    return ask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def request(prompt: str = "hello", *, url: str = URL, method: str = "POST", **how: Any) -> Any:
    """A request as an httpx client makes it."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    how = {"content": json.dumps(body).encode(), **how}
    return httpx.Request(method, url, headers={"x-own": "kept", **how.pop("headers", {})}, **how)


@contextmanager
def intercepting(
    path: Path,
    mode: Mode = Mode.RECORD,
    *,
    passes: bool = False,
    trips: bool = False,
    belonging: Belonging | None = None,
) -> Iterator[tuple[Session, HttpInterceptor]]:
    """A session whose calls are a hosted API's: nothing but the test's own transport is asked."""
    header = header_of(seed_policy="as-is", strict=False)
    with closing(open_session(path, mode=mode, header=header, seed=0)) as session:
        session.trips = trips
        belonging = belonging or Belonging.of(hosts=None, hosted=["api.example.com"])
        with closing(HttpInterceptor(session, belonging=belonging, passes=passes)) as interceptor:
            yield session, interceptor


def recorded(path: Path) -> list[Completion]:
    return [call.completion for call in read_cassette(path).calls.values()]


# --- An answer that comes whole.


def test_an_answer_is_given_recorded_and_replayed(ask: Ask, path: Path) -> None:
    transport = Transport([whole()])
    with intercepting(path) as (session, interceptor), scope("alice"):
        got = ask(interceptor, transport)
        assert (session.ledger.called, session.ledger.hits) == (1, 0)
        conclude(session)
    assert (got.response.status_code, got.body) == (200, ANSWER)
    assert got.response.headers["content-type"] == "application/json"
    assert got.response.headers["content-length"] == str(len(ANSWER))
    (call,) = read_cassette(path).calls.values()
    assert (call.scope, call.completion.body, call.completion.status) == ("alice", ANSWER, 200)
    assert call.path == "POST /v1/chat/completions"
    assert call.duration_s >= 0
    silent = Transport([AssertionError("sent")])
    with intercepting(path, Mode.REPLAY) as (session, interceptor), scope("alice"):
        again = ask(interceptor, silent)
        assert session.ledger.hits == 1
        conclude(session)
    assert (again.response.status_code, again.body) == (200, ANSWER)
    assert list(again.response.headers.raw) == list(got.response.headers.raw)
    assert silent.sent == []


def test_a_request_goes_out_as_it_came_but_for_the_bytes_of_its_body(ask: Ask, path: Path) -> None:
    transport = Transport([whole()])
    http = request(
        content=b'{ "model": "m",\n "messages": [] }',
        headers={"content-encoding": "identity"},
        extensions={"timeout": {"read": 5.0}},
    )
    with intercepting(path) as (_, interceptor):
        got = ask(interceptor, transport, http)
    (sent,) = transport.sent
    assert (sent.method, str(sent.url)) == ("POST", URL)
    assert sent.headers["x-own"] == "kept"
    assert "content-encoding" not in sent.headers
    assert sent.content == b'{"model":"m","messages":[]}'
    assert sent.headers["content-length"] == str(len(sent.content))
    assert sent.extensions["timeout"] == {"read": 5.0}
    assert got.response.request is http


def test_a_question_without_a_body_is_sent_without_one(ask: Ask, path: Path) -> None:
    transport = Transport([whole(b'{"data":[]}')])
    http = httpx.Request("GET", "https://api.example.com/v1/models")
    with intercepting(path) as (session, interceptor):
        assert ask(interceptor, transport, http).body == b'{"data":[]}'
        conclude(session)
    assert transport.sent[0].content == b""
    (call,) = read_cassette(path).calls.values()
    assert (call.path, dict(call.body)) == ("GET /v1/models", {})


def test_the_body_of_an_answer_is_read_and_closed_once(ask: Ask, path: Path) -> None:
    answer = whole()()
    with intercepting(path) as (_, interceptor):
        ask(interceptor, Transport([answer]))
    assert (answer.stream.read, answer.stream.closed) == (1, 1)


def test_how_long_an_answer_took_is_recorded(ask: Ask, path: Path) -> None:
    before = time.monotonic()
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([whole()]))
        conclude(session)
    (call,) = read_cassette(path).calls.values()
    assert 0 <= call.duration_s <= time.monotonic() - before


def test_verify_gives_the_recorded_answer(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([whole()]))
        conclude(session)
    other = ANSWER.replace(b"fine", b"other")
    with intercepting(path, Mode.VERIFY) as (session, interceptor):
        assert ask(interceptor, Transport([whole(other)])).body == ANSWER
        assert len(session.ledger.differences) == 1


# --- What is no model call.


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_request_passes_where_it_may(ask: Ask, path: Path, method: str) -> None:
    answer = httpx.Response(418, stream=Pieces([b"tea", b"pot"]))
    transport = Transport([answer])
    http = request(url="https://elsewhere.example/x", method=method)
    with intercepting(path, passes=True) as (session, interceptor):
        got = ask(interceptor, transport, http)
        assert session.ledger.used == {}
    assert got.response is answer
    assert got.pieces == [b"tea", b"pot"]
    assert transport.sent == [http]


@pytest.mark.parametrize(
    ("mode", "passes"), [(Mode.RECORD, False), (Mode.REPLAY, False), (Mode.REPLAY, True)]
)
def test_a_foreign_request_is_refused_where_it_may_not_pass(
    ask: Ask, path: Path, mode: Mode, passes: bool
) -> None:
    with intercepting(path) as (session, _):
        conclude(session)
    transport = Transport([whole()])
    http = request(url="https://elsewhere.example/x?key=secret")
    with intercepting(path, mode, passes=passes) as (session, interceptor):
        with pytest.raises(ReplayMiss if mode is Mode.REPLAY else UsageError) as caught:
            ask(interceptor, transport, http)
        assert "asked for POST https://elsewhere.example/x, which is no model" in str(caught.value)
        assert session.exit_code() is (ExitCode.MISS if mode is Mode.REPLAY else ExitCode.USAGE)
    assert transport.sent == []


def test_the_number_of_addresses_that_are_remembered_is_limited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Belonging):
        looked_at: ClassVar[list[str]] = []

        def route(self, method: str, url: str) -> Route | None:
            self.looked_at.append(url)
            return super().route(method, url)

    monkeypatch.setattr(http_module, "_MOST_ROUTES", 3)
    belonging = Counting.of(hosts=None, hosted=[])
    with intercepting(path, belonging=belonging, passes=True) as (_, interceptor):
        for page in (1, 1, 2, 3, 1, 4, 4, 1):
            transport = Transport([whole(b"page")])
            ask_sync(
                interceptor, transport, request(url=f"https://example.com/{page}", method="GET")
            )
            assert len(transport.sent) == 1
    # What belongs where is remembered of three addresses, then anew.
    assert [url[-1] for url in Counting.looked_at] == ["1", "2", "3", "4", "1"]


def test_a_call_that_would_be_intercepted_is_known_without_sending_it(path: Path) -> None:
    with intercepting(path) as (_, interceptor):
        assert interceptor.would_take("POST", URL)
        assert not interceptor.would_take("PUT", URL)
        assert not interceptor.would_take("POST", "https://elsewhere.example/x")


@pytest.mark.parametrize("content", [b"", b"{not json", b"[1]", b'{"seed":123456789012345678901}'])
@pytest.mark.parametrize("trips", [False, True])
def test_a_body_that_is_no_json_object_ends_a_run_and_is_not_forgotten(
    ask: Ask, path: Path, content: bytes, trips: bool
) -> None:
    transport = Transport([whole()])
    with intercepting(path, trips=trips) as (session, interceptor):
        with pytest.raises(SessionTripped if trips else RequestError, match=r"api\.example"):
            ask(interceptor, transport, request(content=content))
        assert session.exit_code() is ExitCode.USAGE
        assert isinstance(session.cause, RequestError)
        if trips:
            with pytest.raises(SessionTripped, match=r"api\.example"):
                ask(interceptor, transport)
        else:
            assert ask(interceptor, transport).body == ANSWER
    assert len(transport.sent) == (0 if trips else 1)


# --- What fails.


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_failed_answer_is_handed_back_as_it_came(ask: Ask, path: Path, status: int) -> None:
    headers = {**JSON, "retry-after": "1", "transfer-encoding": "chunked", "content-length": "99"}
    transport = Transport([whole(b'{"error":"no"}', status=status, headers=headers), whole()])
    with intercepting(path) as (session, interceptor):
        got = ask(interceptor, transport)
        assert (got.response.status_code, got.body) == (status, b'{"error":"no"}')
        assert dict(got.response.headers) == {
            "content-type": "application/json",
            "retry-after": "1",
            "content-length": "14",
        }
        (failure,) = session.ledger.failures.values()
        assert f"HTTP {status}" in str(failure)
        assert ask(interceptor, transport).body == ANSWER
        conclude(session)
    assert len(recorded(path)) == 1


def test_a_failed_answer_under_run_ends_the_session(ask: Ask, path: Path) -> None:
    transport = Transport([whole(b"{}", status=400)])
    with intercepting(path, trips=True) as (session, interceptor):
        for _ in range(2):
            with pytest.raises(SessionTripped, match="HTTP 400"):
                ask(interceptor, transport)
        assert session.exit_code() is ExitCode.BACKEND
    assert len(transport.sent) == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("swarm_repro.session.time", SimpleNamespace(sleep=waited.append))

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("swarm_repro.intercept.http.pause", pause)
    return waited


HICCUPS = {
    "refused": lambda: httpx.ConnectError("refused"),
    "reset": lambda: httpx.ReadError("reset"),
    "loading": whole(b'{"error":"loading"}', status=503),
}


@pytest.mark.parametrize("kind", HICCUPS)
@pytest.mark.parametrize("times", [1, 3])
def test_a_hiccup_under_run_is_tried_again_with_the_same_bytes(
    ask: Ask, path: Path, kind: str, times: int, waits: list[float]
) -> None:
    hiccups = [HICCUPS[kind]() for _ in range(times)]
    transport = Transport([*hiccups, whole()])
    with intercepting(path, trips=True) as (session, interceptor):
        assert ask(interceptor, transport).body == ANSWER
        assert session.ledger.failures == {}
        conclude(session)
    assert waits == [0.2, 1.0, 3.0][:times]
    assert len(transport.sent) == times + 1
    assert len({sent.content for sent in transport.sent}) == 1
    assert len(recorded(path)) == 1


def test_the_connection_of_an_answer_that_is_not_used_is_free_again(
    ask: Ask, path: Path, waits: list[float]
) -> None:
    loading = whole(b'{"error":"loading"}', status=503)()
    with intercepting(path, trips=True) as (_, interceptor):
        assert ask(interceptor, Transport([loading, whole()])).body == ANSWER
    assert loading.stream.closed == 1
    assert waits == [0.2]


@pytest.mark.parametrize("kind", HICCUPS)
def test_a_hiccup_that_lasts_ends_the_run(
    ask: Ask, path: Path, kind: str, waits: list[float]
) -> None:
    transport = Transport([HICCUPS[kind]() for _ in range(5)])
    with intercepting(path, trips=True) as (session, interceptor):
        with pytest.raises(SessionTripped):
            ask(interceptor, transport)
        assert session.exit_code() is ExitCode.BACKEND
    assert len(transport.sent) == 4
    assert waits == [0.2, 1.0, 3.0]


@pytest.mark.parametrize("kind", HICCUPS)
def test_outside_run_a_hiccup_is_the_programs(
    ask: Ask, path: Path, kind: str, waits: list[float]
) -> None:
    transport = Transport([HICCUPS[kind](), whole()])
    with intercepting(path) as (session, interceptor):
        with contextlib.suppress(httpx.TransportError):
            assert ask(interceptor, transport).response.status_code == 503
        assert len(session.ledger.failures) == 1
        assert ask(interceptor, transport).body == ANSWER
        conclude(session)
    assert waits == []


def test_under_run_a_timeout_is_no_hiccup(ask: Ask, path: Path, waits: list[float]) -> None:
    transport = Transport([httpx.ReadTimeout("slow"), whole()])
    with intercepting(path, trips=True) as (session, interceptor):
        with pytest.raises(SessionTripped, match="timed out"):
            ask(interceptor, transport)
        assert session.exit_code() is ExitCode.BACKEND
    assert len(transport.sent) == 1
    assert waits == []


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda: httpx.ConnectError("refused"), f"no answer from {URL}: refused"),
        (lambda: httpx.ReadTimeout("slow"), "did not answer within the client's 2.5 s"),
    ],
    ids=["refused", "timed out"],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_broken_connection_is_the_clients_own_error(
    ask: Ask, path: Path, broken: Callable[[], Exception], why: str, late: bool
) -> None:
    error = broken()
    answer: Any = error
    if late:
        answer = httpx.Response(200, headers=JSON, stream=Pieces([b"{", error]))
    http = request(extensions={"timeout": {"read": 2.5}})
    with intercepting(path) as (session, interceptor):
        with pytest.raises(type(error)) as caught:
            ask(interceptor, Transport([answer]), http)
        assert caught.value is error
        (failure,) = session.ledger.failures.values()
        assert why in str(failure)
    if late:
        assert answer.stream.closed == 1


def test_a_timeout_without_a_limit_is_named_so(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        with pytest.raises(httpx.ReadTimeout):
            ask(interceptor, Transport([httpx.ReadTimeout("slow")]))
        (failure,) = session.ledger.failures.values()
        assert str(failure) == f"call 0 of main: {URL} timed out"


def test_a_foreign_error_of_the_transport_fails_the_call(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        with pytest.raises(ZeroDivisionError):
            ask(interceptor, Transport([ZeroDivisionError("by zero")]))
        assert session.waiting() is None
        assert len(session.ledger.failures) == 1


def test_a_miss_reaches_the_program(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([whole()]))
        conclude(session)
    with intercepting(path, Mode.REPLAY) as (session, interceptor):
        with pytest.raises(ReplayMiss):
            ask(interceptor, Transport([whole()]), request("another"))
        assert session.exit_code() is ExitCode.MISS


def test_strict_mode_can_promise_nothing_of_a_hosted_api(ask: Ask, path: Path) -> None:
    header = header_of(seed_policy="as-is", strict=True)
    belonging = Belonging.of(hosts=None, hosted=["api.example.com"])
    with closing(open_session(path, mode=Mode.RECORD, header=header, seed=0)) as session:
        interceptor = HttpInterceptor(session, belonging=belonging)
        with pytest.raises(BackendError, match=r"what computes behind api\.example\.com"):
            ask(interceptor, Transport([whole()]))


# --- Streams.


def test_a_stream_is_given_on_piece_by_piece_and_recorded_whole(ask: Ask, path: Path) -> None:
    answer = stream(*EVENTS, DONE)
    with intercepting(path) as (session, interceptor):
        got = ask(interceptor, Transport([answer]))
        assert session.ledger.called == 1
        assert session.waiting() is None
        conclude(session)
    assert got.pieces == [*EVENTS, DONE]
    assert list(got.response.headers.raw) == [(b"content-type", b"text/event-stream")]
    assert answer.stream.closed == 1
    (completion,) = recorded(path)
    assert (completion.body, completion.content_type) == (b"".join(got.pieces), "text/event-stream")
    with intercepting(path, Mode.REPLAY) as (session, interceptor):
        again = ask(interceptor, Transport([AssertionError()]))
        conclude(session)
    assert again.body == got.body
    assert list(again.response.headers.raw) == list(got.response.headers.raw)


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_program_that_leaves_its_loop_has_its_call_recorded_whole(
    ask: Ask, path: Path, pieces: int
) -> None:
    answer = stream(*EVENTS, DONE)
    with intercepting(path) as (session, interceptor):
        got = ask(interceptor, Transport([answer]), pieces=pieces or None)
        assert session.waiting() is None
        assert session.ledger.failures == {}
        conclude(session)
    assert got.pieces == [*EVENTS, DONE][: pieces or 3]
    assert answer.stream.read == 3
    assert answer.stream.closed == 1
    assert [completion.body for completion in recorded(path)] == [b"".join([*EVENTS, DONE])]


def test_an_error_of_the_program_while_it_reads_loses_no_call(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        with pytest.raises(ZeroDivisionError):
            ask(
                interceptor, Transport([stream(*EVENTS, DONE)]), pieces=1, fails=ZeroDivisionError()
            )
        conclude(session)
    assert len(recorded(path)) == 1


def test_an_interrupt_while_a_stream_is_read_gives_its_call_up(ask: Ask, path: Path) -> None:
    answer = stream(*EVENTS, DONE)
    with intercepting(path) as (session, interceptor):
        with pytest.raises(KeyboardInterrupt):
            ask(interceptor, Transport([answer]), pieces=1, fails=KeyboardInterrupt())
        assert session.waiting() is None
        assert session.ledger.failures == {}
        assert session.ledger.used == {}
        conclude(session)
    assert answer.stream.read == 1, "the rest is not waited for"
    assert answer.stream.closed == 1
    assert recorded(path) == []


@pytest.mark.parametrize("held", [False, True])
def test_a_stream_that_breaks_off_is_seen_as_it_is_and_not_recorded(
    ask: Ask, path: Path, held: bool
) -> None:
    error = httpx.RemoteProtocolError("gone")
    answer = stream(EVENTS[0], *([b'data: "error"'] if held else []), error)
    with intercepting(path) as (session, interceptor):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            ask(interceptor, Transport([answer]))
        assert caught.value is error
        (failure,) = session.ledger.failures.values()
        assert failure.why == f"no answer from {URL}: gone"
        assert session.waiting() is None
        with pytest.raises(BackendError, match="1 calls failed"):
            conclude(session)
    assert answer.stream.closed == 1


def test_a_stream_that_ends_without_its_mark_is_given_whole_and_not_recorded(
    ask: Ask, path: Path
) -> None:
    with intercepting(path) as (session, interceptor):
        got = ask(interceptor, Transport([stream(*EVENTS)]))
        assert got.pieces == EVENTS
        (failure,) = session.ledger.failures.values()
        assert "broke off" in failure.why
    assert not path.exists()


def test_a_stream_that_is_no_completion_ends_a_run(ask: Ask, path: Path) -> None:
    with intercepting(path, trips=True) as (session, interceptor):
        with pytest.raises(SessionTripped, match="broke off"):
            ask(interceptor, Transport([stream(*EVENTS)]))
        assert session.exit_code() is ExitCode.BACKEND


def test_another_error_in_a_stream_fails_its_call(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        with pytest.raises(ZeroDivisionError):
            ask(interceptor, Transport([stream(EVENTS[0], ZeroDivisionError("by zero"))]))
        (failure,) = session.ledger.failures.values()
        assert failure.why == "by zero"
        assert session.waiting() is None


def test_the_rest_of_a_stream_that_breaks_when_it_is_closed_fails_its_call(
    ask: Ask, path: Path
) -> None:
    error = httpx.RemoteProtocolError("gone")
    with intercepting(path) as (session, interceptor):
        with pytest.raises(httpx.RemoteProtocolError):
            ask(interceptor, Transport([stream(EVENTS[0], EVENTS[1], error)]), pieces=1)
        assert len(session.ledger.failures) == 1


ENDS = [
    DONE,
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'{"done":true}\n',
    b'{"done": true}\n',
    b'data: {"stop":true}\n\n',
    b'data: {"type":"response.completed"}\n\n',
    b'data: {"type":"response.incomplete"}\n\n',
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("cut", [None, 9])
def test_a_possible_last_piece_is_held_until_the_call_is_on_the_disk(
    ask: Ask, path: Path, end: bytes, cut: int | None
) -> None:
    pieces = [end] if cut is None else [end[:cut], end[cut:]]
    headers = {"content-type": "application/x-ndjson"} if end.startswith(b"{") else STREAM
    first = b'{"response":"a"}\n' if end.startswith(b"{") else EVENTS[0]
    kept: list[int] = []

    answer = httpx.Response(200, headers=headers, stream=Pieces([first, *pieces]))
    with intercepting(path) as (session, interceptor):
        seen: list[str] = []
        session.on_call = lambda _call, _completion: seen.append("kept")

        def look(piece: bytes) -> bytes:
            kept.append(len(seen))
            return piece

        got = watch(ask, interceptor, Transport([answer]), look)
        assert got == [first, *pieces]
        assert kept[0] == 0
        assert kept[-1] == 1
        found = read_part(part_path(path))
        assert found is not None
        assert len(found.cassette.calls) == 1


def watch(
    ask: Ask, interceptor: HttpInterceptor, transport: Transport, look: Callable[[bytes], bytes]
) -> list[bytes]:
    """Read a stream to its end, and look at each piece as it comes."""
    if ask is ask_sync:
        with closing(interceptor.answer(httpx, request(), transport)) as response:
            return [look(piece) for piece in response.stream]

    async def read() -> list[bytes]:
        response = await interceptor.answer_async(httpx, request(), transport.forward_async)
        try:
            return [look(piece) async for piece in response.stream]
        finally:
            await response.aclose()

    return asyncio.run(read())


def test_other_pieces_are_not_held(ask: Ask, path: Path) -> None:
    answer = stream(*EVENTS, DONE)
    read: list[int] = []

    def look(piece: bytes) -> bytes:
        read.append(answer.stream.read)
        return piece

    with intercepting(path) as (_, interceptor):
        watch(ask, interceptor, Transport([answer]), look)
    assert read == [1, 2, 3]


def test_a_stream_of_an_error_status_is_no_stream(ask: Ask, path: Path) -> None:
    answer = httpx.Response(500, headers=STREAM, stream=Pieces([b"data: {}\n\n"]))
    with intercepting(path) as (session, interceptor):
        got = ask(interceptor, Transport([answer]))
        assert (got.response.status_code, got.body) == (500, b"data: {}\n\n")
        assert len(session.ledger.failures) == 1


def test_verify_reads_a_stream_before_it_gives_the_recorded_one(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([stream(*EVENTS, DONE)]))
        conclude(session)
    other = EVENTS[0].replace(b'"a"', b'"x"')
    answer = stream(other, EVENTS[1], DONE)
    with intercepting(path, Mode.VERIFY) as (session, interceptor):
        got = ask(interceptor, Transport([answer]), pieces=1)
        assert got.pieces == [b"".join([*EVENTS, DONE])]
        assert len(session.ledger.differences) == 1
    assert answer.stream.read == 3


# --- Whose answers are known by the name of their host.


def test_a_replay_finds_calls_by_the_host_that_was_recorded_as_hosted(ask: Ask, path: Path) -> None:
    """A replay need not be told again which hosts are hosted."""
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([whole()]))
        conclude(session)
    with intercepting(path, Mode.REPLAY, belonging=Belonging()) as (session, interceptor):
        assert ask(interceptor, Transport([AssertionError()])).body == ANSWER
        conclude(session)
    with intercepting(path, Mode.REPLAY, belonging=Belonging()) as (session, interceptor):
        elsewhere = request(url="https://elsewhere.example/v1/chat/completions")
        with pytest.raises(ReplayMiss, match="knows no model 'm'"):
            ask(interceptor, Transport([whole()]), elsewhere)


def test_a_request_that_names_no_model_is_asked_as_default(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, interceptor):
        ask(interceptor, Transport([whole()]))
        conclude(session)
    with intercepting(path, Mode.REPLAY, belonging=Belonging()) as (session, interceptor):
        http = request(content=b"{}", url="https://elsewhere.example/v1/chat/completions")
        with pytest.raises(ReplayMiss, match="knows no model 'default'"):
            ask(interceptor, Transport([whole()]), http)


def test_each_answer_is_reported_as_progress(ask: Ask, path: Path) -> None:
    seen: list[tuple[str, bytes]] = []

    def note(call: PendingCall, completion: Completion) -> None:
        seen.append((call.caller.scope, completion.body))

    with intercepting(path) as (session, interceptor), scope("alice"):
        session.on_call = note
        ask(interceptor, Transport([whole()]))
        ask(interceptor, Transport([stream(*EVENTS, DONE)]))
    assert seen == [("alice", ANSWER), ("alice", b"".join([*EVENTS, DONE]))]


def test_an_error_that_came_from_no_transport_is_raised_as_it_is(path: Path) -> None:

    exchange = Exchange(httpx, request())
    for error in (BackendError("no"), BackendUnreachableError("gone")):
        with pytest.raises(BackendError) as caught:
            exchange.handed_back(error, trips=False)
        assert caught.value is error


# --- The digest of the rendered prompt.


class Rendering:
    """A function that gives a digest, or fails."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def __call__(self) -> str | None:
        if self._error is not None:
            raise self._error
        return "0" * 64


def relay(ask: Ask, session: Session, answer: Any, digest: Callable[[], str | None]) -> list[bytes]:
    """Read a stream whose prompt is rendered beside it."""
    exchange = Exchange(httpx, request())
    backend = Hosted("api.example.com", asks_model=True)
    call = session.start(
        backend, endpoint="opaque", model="x", path="POST /v1/messages", body={"stream": True}
    )
    came = exchange.open(call.sent, lambda _http: answer)
    if ask is ask_sync:
        with closing(sync_relay(session, call, exchange, came, digest)) as response:
            return list(response.stream)

    async def read() -> list[bytes]:
        response = async_relay(session, call, exchange, came, digest, in_thread=in_thread)
        try:
            return [piece async for piece in response.stream]
        finally:
            await response.aclose()

    return asyncio.run(read())


def test_a_stream_is_recorded_with_the_digest_of_its_prompt(ask: Ask, path: Path) -> None:
    with intercepting(path) as (session, _):
        relay(ask, session, stream(*EVENTS, DONE), Rendering())
        conclude(session)
    (call,) = read_cassette(path).calls.values()
    assert call.prompt_sha256 == "0" * 64


@pytest.mark.parametrize("pieces", [[*EVENTS, DONE], EVENTS])
def test_a_prompt_that_cannot_be_rendered_fails_the_call_of_its_stream(
    ask: Ask, path: Path, pieces: list[bytes]
) -> None:
    with intercepting(path) as (session, _):
        with pytest.raises(ZeroDivisionError):
            relay(ask, session, stream(*pieces), Rendering(ZeroDivisionError("by zero")))
        assert session.waiting() is None
        (failure,) = session.ledger.failures.values()
        assert failure.why == "by zero"
