"""Parts of the endpoint by themselves: access, and what is passed to the upstream and back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm_repro.caller import current_caller
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.endpoint.app import (
    KIND_HEADER,
    SCOPE_HEADER,
    STATUS_PATH,
    TOKEN_HEADER,
    VIA_HEADER,
    Access,
    make_app,
    status_of,
)
from swarm_repro.endpoint.child import child_environment, run_child, upstream_from_environment
from swarm_repro.endpoint.server import Endpoint, Settings
from swarm_repro.endpoint.upstream import Upstream
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    CassetteDamagedError,
    DifferenceError,
    ExitCode,
    ReplayMiss,
    SessionTripped,
    StrictModeError,
    UsageError,
)
from swarm_repro.intercept.http import HttpInterceptor
from swarm_repro.intercept.routes import Belonging
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, header_of, open_session
from swarm_repro.session import Session
from tests.support.endpoint import CHAT, ask_body
from tests.support.scripted_server import scripted_server

HEADER = header_of(seed_policy="as-is", strict=False)
ROOT = "http://upstream.example:8080"
httpx: ModuleType = Upstream(ROOT).library
ANSWER = b'{"choices":[{"index":0,"message":{"content":"fine"}}]}'
JSON = [("content-type", "application/json")]


class Scripted(Upstream):
    """An upstream that answers as the test says."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(f"{ROOT}/v1/")
        self.answers = list(answers) or [(200, JSON, ANSWER)]
        self.sent: list[Any] = []
        self.kinds: list[str | None] = []

    async def forward(self, request: Any) -> Any:
        self.sent.append(request)
        self.kinds.append(current_caller().kind)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        status, headers, body = answer
        return httpx.Response(status, headers=headers, content=body)


class Asked:
    """An application, asked without a socket."""

    def __init__(
        self,
        path: Path,
        upstream: Scripted,
        mode: Mode = Mode.RECORD,
        *,
        isolated: bool = True,
        **access: Any,
    ) -> None:
        self.session = open_session(path, mode=mode, header=HEADER, seed=0, isolated=isolated)
        belonging = Belonging.of(hosts=[upstream.host], hosted=[upstream.host])
        self.interceptor = HttpInterceptor(self.session, belonging=belonging)
        allowed = Access(**{"hosts": frozenset({"localhost", "[::1]"}), **access})
        self.app = make_app(self.session, self.interceptor, upstream, allowed)

    def ask(self, method: str = "POST", path: str = CHAT, **how: Any) -> Any:
        if method == "POST" and "content" not in how:
            how = {"json": ask_body("one"), **how}

        async def ask() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
                return await one.request(method, path, **how)

        return asyncio.run(ask())

    def close(self) -> None:
        self.interceptor.close()
        self.session.close()


def error_of(answer: Any) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == answer.status_code
    assert error["param"] is None
    return answer.status_code, error["type"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


# --- Who may ask.


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("localhost", True),
        ("localhost:1234", True),
        ("LOCALHOST:1", True),
        ("[::1]", True),
        ("[::1]:1234", True),
        ("evil.example", False),
        ("evil.example:80", False),
        ("localhost.evil.example", False),
        ("[::2]:1", False),
        ("", False),
    ],
)
def test_only_the_endpoints_own_names_are_answered(path: Path, host: str, admitted: bool) -> None:
    upstream = Scripted()
    with closing(Asked(path, upstream)) as one:
        for answer in (
            one.ask(headers={"host": host}),
            one.ask("GET", STATUS_PATH, headers={"host": host}),
        ):
            if admitted:
                assert answer.status_code == 200
            else:
                assert error_of(answer) == (421, "host_refused")
    assert len(upstream.sent) == admitted


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"authorization": "Bearer t0ken"}, True),
        ({"authorization": "bearer t0ken"}, True),
        ({TOKEN_HEADER: "t0ken"}, True),
        ({TOKEN_HEADER: "t0ken", "authorization": "Bearer other"}, True),
        ({}, False),
        ({"authorization": "Basic t0ken"}, False),
        ({"authorization": "Bearer t0ken2"}, False),
        ({TOKEN_HEADER: ""}, False),
    ],
)
def test_a_token_is_required_and_not_passed_on(
    path: Path, headers: dict[str, str], admitted: bool
) -> None:
    upstream = Scripted()
    with closing(Asked(path, upstream, token="t0ken")) as one:
        answer = one.ask(headers=headers)
        if not admitted:
            assert error_of(answer) == (401, "token_refused")
            assert error_of(one.ask("GET", STATUS_PATH, headers=headers)) == (401, "token_refused")
            return
        assert answer.status_code == 200
    (sent,) = upstream.sent
    assert b"t0ken" not in b"".join(value for _, value in sent.headers.raw)
    assert sent.headers.get("authorization") == (
        "Bearer other" if "other" in str(headers) else None
    )


def test_without_a_token_the_programs_key_goes_on(path: Path) -> None:
    upstream = Scripted()
    with closing(Asked(path, upstream)) as one:
        one.ask(headers={"authorization": "Bearer sk-own"})
    assert upstream.sent[0].headers["authorization"] == "Bearer sk-own"


def test_a_loop_of_requests_is_refused(path: Path) -> None:
    upstream = Scripted()
    with closing(Asked(path, upstream)) as one:
        one.ask(headers={VIA_HEADER: "another,third"})
        via = upstream.sent[0].headers[VIA_HEADER]
        assert via.startswith("another,third,")
        assert error_of(one.ask(headers={VIA_HEADER: via})) == (508, "loop")
        own = via.rpartition(",")[2]
        assert error_of(one.ask(headers={VIA_HEADER: own})) == (508, "loop")
        with closing(Asked(path.with_name("other"), upstream)) as other:
            assert other.ask(headers={VIA_HEADER: via}).status_code == 200
    assert upstream.sent[-1].headers[VIA_HEADER].startswith(f"{via},")


def test_pages_of_a_named_origin_may_ask(path: Path) -> None:
    origin = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with closing(Asked(path, Scripted(), cors=("https://page.example",))) as one:
        allowed = one.ask("OPTIONS", headers=origin)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        assert allowed.headers["access-control-allow-methods"] == "GET, POST"
        refused = one.ask("OPTIONS", headers={**origin, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
    with closing(Asked(path.with_name("other"), Scripted())) as one:
        assert "access-control-allow-origin" not in one.ask("OPTIONS", headers=origin).headers


# --- What is asked.


@pytest.mark.parametrize(
    ("method", "target", "content", "expected"),
    [
        ("GET", CHAT, b"", (405, "method")),
        ("PUT", CHAT, b"{}", (405, "method")),
        ("POST", "/v1/models", b"{}", (405, "method")),
        ("POST", "/v1/files", b"{}", (404, "unknown_path")),
        ("GET", "/", b"", (404, "unknown_path")),
        ("POST", CHAT, b"", (400, "invalid_request")),
        ("POST", CHAT, b"[1]", (400, "invalid_request")),
    ],
)
def test_a_request_that_is_no_call_is_refused(
    path: Path, method: str, target: str, content: bytes, expected: tuple[int, str]
) -> None:
    upstream = Scripted()
    with closing(Asked(path, upstream)) as one:
        answer = one.ask(method, target, content=content)
        assert error_of(answer) == expected
        said = answer.json()["error"]["message"]
        if expected[0] == 405:
            wanted = "POST" if target == CHAT else "GET"
            assert said == f"{target} wants {wanted}, not {method}"
        assert one.session.cause is None
    assert upstream.sent == []


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_as_large_as_the_limit(
    path: Path, more: int, status: int, chunked: bool
) -> None:
    body = b'{"messages":[],"x":"%s"}' % (b"x" * 40)
    upstream = Scripted()

    async def pieces() -> Any:
        for start in range(0, len(body), 10):
            yield body[start : start + 10]

    with closing(Asked(path, upstream, max_body_bytes=len(body) - more)) as one:
        answer = one.ask(content=pieces() if chunked else body)
        assert answer.status_code == status
        if status == 413:
            assert error_of(answer) == (413, "too_large")
            assert f"larger than {len(body) - 1} bytes" in answer.json()["error"]["message"]
            assert answer.headers["connection"] == "close"
    assert [sent.content for sent in upstream.sent] == ([body] if status == 200 else [])


def test_a_client_that_goes_away_in_the_middle_of_its_body_asks_nothing(path: Path) -> None:
    upstream = Scripted()
    coming = [
        {"type": "http.request", "body": b'{"messages": [', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(),
        "query_string": b"", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    with closing(Asked(path, upstream, isolated=False)) as one:
        asyncio.run(one.app(scope, receive, send))
        assert json.loads(sent[1]["body"])["error"]["type"] == "disconnected"
        assert one.session.exit_code() is ExitCode.OK, "the session goes on"
        assert one.ask().status_code == 200
        conclude(one.session)
    assert len(read_cassette(path).calls) == len(upstream.sent) == 1


def test_a_call_goes_to_the_upstream_without_the_endpoints_own_headers(path: Path) -> None:
    upstream = Scripted()
    headers = {
        SCOPE_HEADER: "alice",
        KIND_HEADER: "act",
        "x-own": "kept",
        "accept-encoding": "br",
        "te": "trailers",
        "proxy-authorization": "Basic x",
    }
    with closing(Asked(path, upstream)) as one:
        one.ask(path=f"{CHAT}?beta=1", headers=headers)
        one.ask(json=ask_body("two"))
        conclude(one.session)
    sent = upstream.sent[0]
    assert (sent.method, str(sent.url)) == ("POST", f"{ROOT}{CHAT}?beta=1")
    assert sent.headers["x-own"] == "kept"
    assert sent.headers["host"] == "upstream.example:8080"
    dropped = {SCOPE_HEADER, KIND_HEADER, TOKEN_HEADER, "te", "proxy-authorization"}
    assert not dropped & sent.headers.keys()
    assert sent.headers.get("accept-encoding") != "br"
    assert sent.extensions["timeout"]["read"] == 3600.0
    assert upstream.kinds == ["act", None]
    assert [call.scope for call in read_cassette(path).calls.values()] == ["alice", "main"]


def test_an_answer_comes_without_the_headers_of_its_connection(path: Path) -> None:
    headers = [
        ("Content-Type", "application/json"), ("Connection", "close"), ("Keep-Alive", "x"),
        ("Set-Cookie", "x=1"), ("Server", "s"), ("Date", "now"), ("Retry-After", "1"),
    ]  # fmt: skip
    with closing(Asked(path, Scripted((429, headers, b'{"error":"busy"}')))) as one:
        answer = one.ask()
    assert (answer.status_code, answer.content) == (429, b'{"error":"busy"}')
    assert dict(answer.headers) == {
        "content-type": "application/json",
        "retry-after": "1",
        "content-length": "16",
    }


def test_a_stream_comes_with_its_type(path: Path) -> None:
    body = b'data: {"a":1}\n\ndata: [DONE]\n\n'
    upstream = Scripted((200, [("content-type", "text/event-stream")], body))
    with closing(Asked(path, upstream)) as one:
        answer = one.ask()
        assert (answer.status_code, answer.content) == (200, body)
        assert dict(answer.headers) == {"content-type": "text/event-stream"}
        conclude(one.session)
    with closing(Asked(path, Scripted(AssertionError()), Mode.REPLAY)) as one:
        assert one.ask().content == body


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (ReplayMiss("no such call"), (404, "replay_miss"), "no such call"),
        (SessionTripped("over"), (503, "session_over"), "over"),
        (httpx.ReadTimeout("slow"), (504, "timeout"), "did not answer in time: slow"),
        (httpx.ReadTimeout(""), (504, "timeout"), "did not answer in time: ReadTimeout"),
        (httpx.ConnectError("refused"), (502, "unreachable"), "from the upstream: refused"),
        (httpx.ReadError(""), (502, "unreachable"), "from the upstream: ReadError"),
        (BackendError("odd"), (502, "upstream"), "odd"),
        (StrictModeError("cached"), (502, "upstream"), "cached"),
        (CassetteAccessError("disk full"), (500, "cassette"), "disk full"),
        (CassetteDamagedError(Path("c"), "torn"), (500, "cassette"), "torn"),
        (UsageError("no"), (400, "invalid_request"), "no"),
        (DifferenceError("other"), (500, "error"), "other"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_an_answer_that_names_it(
    path: Path, error: BaseException, expected: tuple[int, str], said: str
) -> None:
    with closing(Asked(path, Scripted(error))) as one:
        answer = one.ask()
        assert error_of(answer) == expected
        assert said in answer.json()["error"]["message"]
        assert one.session.waiting() is None


def test_the_status_tells_what_happened(path: Path) -> None:
    with closing(Asked(path, Scripted())) as one:
        one.ask()
        one.ask(json=ask_body("two"))
        one.ask(content=b'{"messages":[],"stop":1e999}')
        found = one.ask("GET", STATUS_PATH).json()
        assert found == status_of(one.session)
        conclude(one.session)
    assert found == {
        "mode": "record", "from_cassette": 0, "from_model": 2, "shared": 0, "misses": 0,
        "failures": 0, "rejected": found["rejected"], "in_flight": 0, "unplayed": None,
        "first_misses": [],
    }  # fmt: skip
    with closing(Asked(path, Scripted(), Mode.REPLAY)) as one:
        one.ask()
        for number in range(12):
            assert error_of(one.ask(json=ask_body(f"unknown {number}"))) == (404, "replay_miss")
        found = one.ask("GET", STATUS_PATH).json()
    assert (found["mode"], found["from_cassette"], found["misses"]) == ("replay", 1, 12)
    assert len(found["first_misses"]) == 10
    assert "1 of 2 calls" in found["unplayed"]


# --- The upstream.


@pytest.mark.parametrize(
    ("root", "expected", "host"),
    [
        ("http://box:1", "http://box:1", "box:1"),
        ("http://box:1/v1", "http://box:1", "box:1"),
        ("http://box:1/v1/", "http://box:1", "box:1"),
        ("https://box/proxy/", "https://box/proxy", "box:443"),
        ("http://127.0.0.1", "http://127.0.0.1", "localhost:80"),
    ],
)
def test_an_upstream_is_named_with_or_without_v1(root: str, expected: str, host: str) -> None:
    upstream = Upstream(root)
    assert (upstream.root, upstream.host) == (expected, host)
    assert upstream.url_of("/v1/x", "a=b") == f"{expected}/v1/x?a=b"
    assert upstream.url_of("/v1/x", "") == f"{expected}/v1/x"
    assert upstream.timeouts == {"connect": 10.0, "read": 3600.0, "write": 60.0, "pool": None}


@pytest.mark.parametrize(
    ("root", "host", "port", "is_itself"),
    [
        ("http://127.0.0.1:9", "127.0.0.1", 9, True),
        ("http://localhost:9/v1", "127.0.0.1", 9, True),
        ("http://[::1]:9", "127.0.0.1", 9, True),
        ("http://localhost:9", "::1", 9, True),
        ("http://localhost:9", "0.0.0.0", 9, True),
        ("http://localhost:9", "::", 9, True),
        ("http://10.0.0.1:9", "10.0.0.1", 9, True),
        ("http://127.0.0.1:8", "127.0.0.1", 9, False),
        ("http://box:9", "127.0.0.1", 9, False),
        ("http://box:9", "0.0.0.0", 9, False),
        ("http://localhost:9", "10.0.0.1", 9, False),
    ],
)
def test_an_upstream_that_is_the_endpoint_itself_is_refused(
    root: str, host: str, port: int, is_itself: bool
) -> None:
    if not is_itself:
        Upstream(root).require_other(host, port)
        return
    with pytest.raises(UsageError, match="is this endpoint itself: name the server behind it"):
        Upstream(root).require_other(host, port)


def test_no_address_is_no_upstream() -> None:
    with pytest.raises(UsageError):
        Upstream("box:1")


# --- The endpoint's socket, and what it stands for.


def make(path: Path, mode: Mode | None = Mode.RECORD, **settings: Any) -> Endpoint:
    return Endpoint(Settings(cassette=path, mode=mode, header=HEADER, seed=0, **settings))


@pytest.mark.parametrize(
    ("host", "root"),
    [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1"), ("localhost", None)],
)
def test_an_endpoint_tells_where_it_is(path: Path, host: str, root: str | None) -> None:
    with closing(make(path, host=host, token="t")) as one:
        assert one.root == f"{root or 'http://localhost'}:{one.port}"
        assert one.port > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "box"])
def test_an_address_reachable_from_outside_requires_a_token(path: Path, host: str) -> None:
    with pytest.raises(UsageError, match=f"{host} can be reached from other machines"):
        make(path, host=host)
    with pytest.raises(UsageError, match="can be reached"):
        make(path, host=host, token="")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 2**16), ("no.such.host.invalid", 0)])
def test_an_unavailable_address_is_named(path: Path, host: str, port: int) -> None:
    with pytest.raises(UsageError, match=f"^{host}:{port} cannot be listened on: .*--port"):
        make(path, host=host, port=port, token="t")


def test_a_port_in_use_is_named_and_a_released_one_is_free(path: Path) -> None:
    with closing(make(path)) as one:
        with pytest.raises(UsageError, match="cannot be listened on"):
            make(path.with_name("other"), port=one.port)
        port = one.port
    with closing(make(path, port=port, discard=True)) as again:
        assert again.port == port
    with pytest.raises(UsageError, match="is this endpoint itself"):
        make(path.with_name("third"), upstream=f"http://localhost:{port}", port=port)


def test_a_cassette_that_cannot_be_opened_lets_the_port_go(path: Path) -> None:
    with closing(make(path.with_name("other"))) as one:
        port = one.port
    for _ in range(2):
        with pytest.raises(CassetteAccessError):
            make(path, None, port=port)


def recorded_of(path: Path, *hosts: str) -> None:
    """A recording of hosted services."""
    session: Session = open_session(path, mode=Mode.RECORD, header=HEADER, seed=0)
    belonging = Belonging.of(hosts=None, hosted=hosts)

    def forward(_http: Any) -> Any:
        return httpx.Response(200, headers=JSON, content=ANSWER)

    with closing(session), closing(HttpInterceptor(session, belonging=belonging)) as interceptor:
        for host in hosts:
            http = httpx.Request("POST", f"http://{host}{CHAT}", json=ask_body("one"))
            interceptor.answer(httpx, http, forward)
        conclude(session)


def answered(endpoint: Endpoint) -> tuple[int, str]:
    with endpoint.in_thread():
        answer = httpx.post(endpoint.root + CHAT, json=ask_body("one"), timeout=60)
    return answer.status_code, answer.text


def test_a_replay_stands_for_the_one_host_that_was_recorded(path: Path) -> None:
    recorded_of(path, "models.example.com")
    with closing(make(path, Mode.REPLAY)) as one:
        assert answered(one) == (200, ANSWER.decode())
        conclude(one.session)


def test_the_upstream_selects_among_recorded_hosts(path: Path) -> None:
    recorded_of(path, "one.example.com", "two.example.com")
    with closing(make(path, Mode.REPLAY, upstream="http://two.example.com")) as one:
        assert answered(one)[0] == 200
        assert one.session.ledger.hits == 1
    with closing(make(path, Mode.REPLAY)) as one:
        status, said = answered(one)
        assert status == 404
        assert "knows no model" in said


def test_an_upstream_that_was_not_recorded_is_not_taken_for_the_one_that_was(path: Path) -> None:
    recorded_of(path, "one.example.com")
    with closing(make(path, Mode.REPLAY, upstream="http://two.example.com")) as one:
        status, said = answered(one)
        assert status == 404
        assert "knows no model" in said


# --- A command beside it.


def test_a_command_finds_the_endpoint_in_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "own")
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://real")
    found = child_environment("http://127.0.0.1:9", key=None)
    assert {name: found[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE")} == {
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_API_BASE": "http://127.0.0.1:9/v1",
    }
    roots = ("ANTHROPIC_BASE_URL", "OLLAMA_HOST", "LLAMA_SERVER_URL")
    assert {found[name] for name in roots} == {"http://127.0.0.1:9"}
    assert (found["OPENAI_API_KEY"], found["ANTHROPIC_API_KEY"]) == ("own", "none")
    assert found["NO_PROXY"] == "example.com,127.0.0.1,localhost"
    assert found["no_proxy"] == "127.0.0.1,localhost"
    assert child_environment("x", key="given")["ANTHROPIC_API_KEY"] == "given"


@pytest.mark.parametrize(
    ("variables", "upstream"),
    [
        ({}, None),
        ({"OPENAI_BASE_URL": ""}, None),
        ({"OPENAI_BASE_URL": "a"}, "a"),
        ({"OPENAI_API_BASE": "b"}, "b"),
        ({"OPENAI_API_BASE": "b", "OPENAI_BASE_URL": "a"}, "a"),
        ({"OPENAI_API_BASE": "b", "OPENAI_BASE_URL": ""}, "b"),
        ({"OLLAMA_HOST": "c"}, None),
    ],
)
def test_the_upstream_is_the_server_a_program_would_ask(
    variables: dict[str, str], upstream: str | None
) -> None:
    assert upstream_from_environment(variables) == upstream


def handlers() -> list[Any]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    return [signal.getsignal(number) for number in numbers]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ('test "$X" = y', 0),
    ],
)
def test_a_commands_code_is_that_of_a_shell(program: str, code: int) -> None:
    before = handlers()
    assert run_child(["/bin/sh", "-c", program], {"X": "y"}) == code
    assert handlers() == before


#: The signal comes again and again: the first may come before it is handed on.
SENDING = "turns=0; while [ $turns -lt {most} ]; do {kill}; sleep 0.02; turns=$((turns + 1)); done"


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT"])
def test_a_signal_is_passed_to_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _descriptor: False)
    assert code_after(name) == 5


@pytest.mark.parametrize(
    ("name", "most", "code"),
    [("TERM", 1000, 5), ("HUP", 1000, 5), ("INT", 20, 7), ("QUIT", 20, 7)],
)
def test_on_a_terminal_what_is_typed_is_not_passed_once_more(
    name: str, most: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _descriptor: True)
    assert code_after(name, most) == code


def code_after(name: str, most: int = 1000) -> int:
    """The exit code of a command that sends its parent a signal: 5 if it gets it, else 7."""
    sending = SENDING.format(most=most, kill=f"kill -{name} $PPID")
    number = getattr(signal, f"SIG{name}")
    kept = signal.signal(number, lambda *_: None)
    try:
        program = f"trap 'exit 5' {name}; {sending}; exit 7"
        return run_child(["/bin/sh", "-c", program], {"PATH": "/usr/bin:/bin"})
    finally:
        signal.signal(number, kept)


def test_a_command_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing cannot be run: No such file or directory"):
        run_child([str(tmp_path / "nothing")], {})


def test_recorded_hosts_do_not_restrict_a_live_upstream(
    path: Path,
) -> None:
    recorded_of(path, "models.example.com")
    with (
        scripted_server(lambda asked: asked.answer(ANSWER, "application/json")) as upstream,
        closing(make(path, Mode.AUTO, upstream=upstream.root)) as one,
    ):
        assert answered(one)[0] == 200
        conclude(one.session)
    endpoints = sorted(call.endpoint for call in read_cassette(path).calls.values())
    assert endpoints == ["chat", "opaque"], "the second is the one from before"
