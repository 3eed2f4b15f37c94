"""The result of one probe of an address, and its bytes on the wire."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.serving import health, llama_server, probe_http
from swarm_repro.serving.health import (
    Health,
    Probe,
    check_llama_server,
    probe_llama_server,
    require_llama_server,
)
from swarm_repro.serving.probe_http import Address, AnswerTooLongError, get

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]

OK = (200, b'{"status":"ok"}')
PROPS = (200, b'{"default_generation_settings":{},"total_slots":2,"model_path":"/m.gguf"}')
STILL_LOADING = Probe(health=Health.LOADING, detail="its model is still loading")


def pages(**given: tuple[int, bytes]) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        status, body = given.get(handler.path[1:], (404, b"{}"))
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@contextmanager
def peer(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A peer that answers each connection with bytes, or closes it; returns what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    asked.append(connection.recv(4096))
                    if answer is not None:
                        connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            thread.join()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


LOADING = http(503, b'{"error":{"message":"Loading model"}}')


# --- One look.


@pytest.mark.parametrize(
    ("props", "model_path", "slots"),
    [
        (PROPS[1], "/m.gguf", 2),
        (b'{"default_generation_settings":{}}', None, None),
        (b'{"default_generation_settings":{},"total_slots":"2","model_path":7}', None, None),
        (b'{"default_generation_settings":{},"role":"model"}', None, None),
    ],
)
def test_a_ready_server_is_reported_with_its_model_and_slots(
    props: bytes, model_path: str | None, slots: int | None, http_server: Serve
) -> None:
    assert probe_llama_server(http_server(pages(health=OK, props=(200, props)))) == Probe(
        health=Health.READY, detail="", model_path=model_path, total_slots=slots
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"health": (503, b'{"error":{}}')}, STILL_LOADING),
        ({"health": (503, b'{"status":"loading model"}')}, STILL_LOADING),
        ({"health": OK, "props": (503, b"")}, STILL_LOADING),
        *(
            (
                {"health": (status, body)},
                Probe(
                    health=Health.WRONG_SERVICE,
                    detail=f'/health answered {status} without llama-server\'s {{"status":"ok"}}',
                ),
            )
            for status, body in (
                (503, b"{}"),
                (503, b"[]"),
                (200, b'{"status":"no"}'),
                (200, b"{}"),
                (201, OK[1]),
                (500, b'{"error":{}}'),
            )
        ),
        *(
            (
                {"health": OK, "props": (status, body)},
                Probe(
                    health=Health.WRONG_SERVICE,
                    detail=f"/props answered {status} without llama-server's settings",
                ),
            )
            for status, body in ((404, PROPS[1]), (200, b"{}"), (200, b"[]"), (200, b"no"))
        ),
        *(
            (
                {"health": OK, "props": (status, PROPS[1])},
                Probe(
                    health=Health.WRONG_SERVICE,
                    detail=f"/props answered {status}, it was started with --api-key; start it"
                    " without one",
                ),
            )
            for status in (401, 403)
        ),
        (
            {"health": OK, "props": (200, b'{"role":"router","default_generation_settings":{}}')},
            Probe(
                health=Health.WRONG_SERVICE,
                detail="it runs as a router of models; start it with one --model",
            ),
        ),
    ],
)
def test_a_server_that_is_not_ready_is_reported_with_the_reason(
    given: dict[str, tuple[int, bytes]], found: Probe, http_server: Serve
) -> None:
    url = http_server(pages(**given))
    assert probe_llama_server(url) == found
    assert check_llama_server(url) is False


def test_an_address_at_which_nothing_answers_says_how() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert probe_llama_server(unused) == Probe(
        health=Health.REFUSED, detail="the connection was refused"
    )
    with peer(None) as (url, _):
        assert probe_llama_server(url) == Probe(
            health=Health.UNREACHABLE, detail="it closed the connection without an answer"
        )
    with peer(b"SSH-2.0\r\n") as (url, _):
        assert probe_llama_server(url) == Probe(
            health=Health.WRONG_SERVICE, detail="it does not answer in HTTP"
        )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert probe_llama_server(silent, timeout_s=0.05) == Probe(
            health=Health.UNREACHABLE, detail="no answer within 0.05 s"
        )
    assert probe_llama_server("http://nowhere.invalid", timeout_s=10) == Probe(
        health=Health.UNREACHABLE, detail="the host name 'nowhere.invalid' cannot be resolved"
    )


@contextmanager
def meeting_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give the next socket the port to which it will connect, as Linux may where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        first, make = iter([bound]), socket.socket
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", lambda *how: next(first, None) or make(*how))
            yield bound.getsockname()[1]


def test_a_connection_that_meets_itself_is_refused_and_leaves_the_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with meeting_itself(monkeypatch) as port:
        found = probe_llama_server(f"http://127.0.0.1:{port}")
    assert found == Probe(health=Health.REFUSED, detail="the connection was refused")
    with socket.create_server(("127.0.0.1", port)):
        pass  # as the server that is being started


def test_a_port_where_the_question_met_itself_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with meeting_itself(monkeypatch) as port:
        llama_server._require_free_port("127.0.0.1", port)


def test_an_error_of_the_system_is_reported_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_given: object) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(health, "get", no_route)
    assert probe_llama_server("http://10.0.0.1") == Probe(
        health=Health.UNREACHABLE, detail="No route to host"
    )


# --- Waiting.

URL = "http://localhost:8080"


class Looks:
    """Probes with prescribed results, each a second after the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: Health) -> None:
        self.found, self.now = list(found), 0.0
        self.timeouts: list[float] = []
        monkeypatch.setattr(health, "time", self)
        monkeypatch.setattr(health, "_probe", self._probe)

    def _probe(self, _address: Address, timeout_s: float) -> Probe:
        self.timeouts.append(timeout_s)
        self.now += 1.0
        return Probe(health=self.found.pop(0), detail="so")

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds < 1
        self.now += seconds


def test_a_server_that_is_loading_is_waited_for_though_it_is_silent_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch, Health.LOADING, Health.UNREACHABLE, Health.UNREACHABLE, Health.READY)
    waited: list[float] = []
    require_llama_server(timeout_s=0.7, on_wait=waited.append)
    assert waited == pytest.approx([1.0, 2.1, 3.2])
    assert looks.timeouts == [0.7] * 4


@pytest.mark.parametrize(
    ("found", "limit_s", "said"),
    [
        (
            [Health.REFUSED],
            300.0,
            (
                f"no llama-server at {URL}: so; start one with `swarm-repro server start"
                " --model <gguf>` or `scripts/llama-server-setup.sh start`"
            ),
        ),
        (
            [Health.UNREACHABLE],
            300.0,
            (
                f"no llama-server at {URL}: so; start one with `swarm-repro server start"
                " --model <gguf>` or `scripts/llama-server-setup.sh start`"
            ),
        ),
        (
            [Health.LOADING, Health.WRONG_SERVICE],
            300.0,
            (
                f"{URL} is not a llama-server that can be used: so; give the right"
                " address, or start one with `swarm-repro server start --model <gguf>` or"
                " `scripts/llama-server-setup.sh start`"
            ),
        ),
        (
            [Health.LOADING, Health.REFUSED],
            300.0,
            (
                f"the llama-server at {URL} ended while it was loading its model; its"
                " log says why, `swarm-repro server status` says where the log is"
            ),
        ),
        (
            [Health.LOADING, Health.LOADING],
            2.0,
            (
                f"the llama-server at {URL} was still loading its model after 2 s; wait"
                " until it is done, or give it a smaller model"
            ),
        ),
        (
            [Health.LOADING, Health.UNREACHABLE],
            2.1,
            (
                f"the llama-server at {URL} was still loading its model after 2 s; wait"
                " until it is done, or give it a smaller model"
            ),
        ),
    ],
)
def test_a_missing_server_is_explained(
    found: list[Health], limit_s: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Looks(monkeypatch, *found)
    with pytest.raises(BackendUnreachableError) as raised:
        require_llama_server(loading_limit_s=limit_s)
    assert str(raised.value) == said


def test_by_default_a_model_has_five_minutes_and_a_look_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch, *[Health.LOADING] * 400)
    with pytest.raises(BackendUnreachableError, match="still loading its model after 300 s"):
        require_llama_server()
    assert set(looks.timeouts) == {2.0}


# --- Addresses.


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://localhost:8080", ("http", "localhost", 8080, "")),
        (" http://localhost:8080/ ", ("http", "localhost", 8080, "")),
        ("http://localhost:8080/v1/", ("http", "localhost", 8080, "")),
        ("http://localhost/v1", ("http", "localhost", 80, "")),
        ("https://example.org/a/v1", ("https", "example.org", 443, "/a")),
        ("https://example.org/a//v1", ("https", "example.org", 443, "/a")),
        ("http://example.org/v1x", ("http", "example.org", 80, "/v1x")),
        ("http://example.org/av1", ("http", "example.org", 80, "/av1")),
        ("http://[::1]:9", ("http", "::1", 9, "")),
        ("http://bücher.example:9/x", ("http", "bücher.example", 9, "/x")),
    ],
)
def test_an_address_is_read_with_or_without_v1(
    base_url: str, address: tuple[str, str, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Address] = []

    def look(found: Address, _timeout_s: float) -> Probe:
        seen.append(found)
        return STILL_LOADING

    monkeypatch.setattr(health, "_probe", look)
    assert probe_llama_server(base_url) is STILL_LOADING
    scheme, host, port, prefix = address
    assert seen == [Address(scheme=scheme, host=host, port=port, prefix=prefix)]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("http", "localhost", 80, ""), "http://localhost:80"),
        (("https", "::1", 9, "/a"), "https://[::1]:9/a"),
    ],
)
def test_an_address_is_written_as_a_url(address: tuple[str, str, int, str], url: str) -> None:
    scheme, host, port, prefix = address
    assert Address(scheme=scheme, host=host, port=port, prefix=prefix).url == url


@pytest.mark.parametrize(
    "base_url",
    [
        *("localhost:8080", "ftp://localhost", "http://", "http://localhost:0", "http://[::1"),
        *("http://localhost/?a=b", "http://localhost/#a", "http://localhost/a b"),
        *("http://a\x07b", "http://localhost:99999", "http://" + "a" * 70, "http://localhost/é"),
        "http://[fe80::1%é]:9",
    ],
)
def test_an_invalid_address_is_refused_with_the_reason(base_url: str) -> None:
    with pytest.raises(UsageError) as raised:
        probe_llama_server(base_url)
    assert str(raised.value).endswith(
        "is not the address of a llama-server; write it as http://localhost:8080"
    )
    assert check_llama_server(base_url) is False


@pytest.mark.parametrize("base_url", ["http://me@localhost", "http://:word@localhost"])
def test_an_address_with_a_password_is_refused_without_showing_it(base_url: str) -> None:
    with pytest.raises(UsageError) as raised:
        probe_llama_server(base_url)
    assert str(raised.value) == (
        "an address with a user name or password in it is not the address of a llama-server; write"
        " it as http://localhost:8080"
    )


# --- Over the wire.


def soon() -> float:
    return time.monotonic() + 10


def of(url: str, *, host: str | None = None, prefix: str = "", scheme: str = "http") -> Address:
    name, port = url.removeprefix("http://").rsplit(":", 1)
    return Address(scheme=scheme, host=host or name, port=int(port), prefix=prefix)


def test_a_request_is_a_get_with_the_prefix_and_closes() -> None:
    with peer(http(418, b"body")) as (url, asked):
        assert get(of(url, prefix="/a"), "/health", soon()) == (418, b"body")
    assert asked == [
        f"GET /a/health HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\n"
        "Accept: application/json\r\nConnection: close\r\n\r\n".encode()
    ]


def redirecting(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> list[str]:
    """Let every name mean these addresses; returns the names that were looked up."""
    asked: list[str] = []

    def look_up(host: str, _port: int, *, type: int) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, type, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    ("host", "looked_up", "named"),
    [
        ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("::1", "::1", "[::1]"),
    ],
)
def test_a_host_is_named_as_http_wants_it(
    host: str, looked_up: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer(http(200, b"")) as (url, asked):
        address = of(url, host=host)
        names = redirecting(monkeypatch, ("127.0.0.1", address.port))
        get(address, "/", soon())
    assert names == [looked_up]
    assert f"\r\nHost: {named}:{address.port}\r\n".encode() in asked[0]


@pytest.fixture
def refused() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "127.0.0.1", listener.getsockname()[1]


def test_the_next_address_of_a_name_is_tried_when_one_refuses(
    refused: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer(http(200, b"second")) as (url, _):
        redirecting(monkeypatch, refused, ("127.0.0.1", of(url).port))
        assert get(of(url, host="name"), "/", soon()) == (200, b"second")


def test_a_failure_other_than_a_refusal_is_raised(
    refused: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broadcast address cannot be connected to, and is no refusal.
    other = ("255.255.255.255", 9)
    address = Address(scheme="http", host="name", port=9, prefix="")
    for addresses, refuses in (
        ([refused, refused], True),
        ([refused, other], False),
        ([other, refused], False),
    ):
        redirecting(monkeypatch, *addresses)
        with pytest.raises(OSError, match=r".") as raised:
            get(address, "/", soon())
        assert isinstance(raised.value, ConnectionRefusedError) is refuses


def test_a_name_without_an_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    redirecting(monkeypatch)
    with pytest.raises(OSError, match=r"^name has no address$"):
        get(Address(scheme="http", host="name", port=9, prefix=""), "/", soon())


def test_a_name_that_is_not_resolved_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_given: object, **_more: object) -> list[Any]:
        released.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(TimeoutError):
        get(Address(scheme="http", host="name", port=9, prefix=""), "/", time.monotonic() + 0.05)
    released.set()


def test_a_deadline_that_has_passed_is_a_time_out() -> None:
    with pytest.raises(TimeoutError):
        get(Address(scheme="http", host="127.0.0.1", port=9, prefix=""), "/", time.monotonic())


@pytest.mark.parametrize(("extra", "is_refused"), [(0, False), (1, True)])
def test_a_body_of_the_limit_is_taken_and_a_longer_one_is_not(
    extra: int, is_refused: bool, http_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_http, "BODY_LIMIT_BYTES", 1000)
    url = http_server(pages(health=(200, b"x" * (1000 + extra))))
    if is_refused:
        with pytest.raises(AnswerTooLongError) as raised:
            get(of(url), "/health", soon())
        assert str(raised.value) == "/health answered more than 1000 bytes"
    else:
        assert get(of(url), "/health", soon()) == (200, b"x" * 1000)


def test_the_limit_holds_the_largest_template() -> None:
    assert probe_http.BODY_LIMIT_BYTES == 4 * 1024 * 1024


def test_https_is_spoken_where_it_is_asked_for() -> None:
    with peer(b"no TLS at all") as (url, asked), pytest.raises(ssl.SSLError):
        get(of(url, scheme="https"), "/", soon())
    assert asked[0][0] == 0x16, "a TLS handshake"


def test_the_time_that_is_left_is_shared_by_the_addresses_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float] = []

    class Silent(socket.socket):
        def settimeout(self, seconds: float | None) -> None:
            assert seconds is not None
            limits.append(seconds)

        def connect(self, address: object) -> None:
            raise TimeoutError

    class Stopped:
        monotonic = staticmethod(lambda: 100.0)

    redirecting(monkeypatch, *[("127.0.0.1", 9)] * 3)
    monkeypatch.setattr(socket, "socket", Silent)
    monkeypatch.setattr(probe_http, "time", Stopped)
    with pytest.raises(TimeoutError):
        get(Address(scheme="http", host="name", port=9, prefix=""), "/", 112.0)
    assert limits == [4.0, 6.0, 12.0]
