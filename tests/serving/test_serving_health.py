"""A health check answers in time, and is fooled by nothing that is no llama-server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.serving.health import (
    Health,
    check_llama_server,
    probe_llama_server,
    require_llama_server,
)

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]

READY = (200, b'{"status":"ok"}')
LOADING = (503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
PROPS = (200, b'{"default_generation_settings":{},"total_slots":1,"model_path":"m.gguf"}')


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answering(
    health: tuple[int, bytes] = READY, props: tuple[int, bytes] = PROPS, prefix: str = ""
) -> Callable[[BaseHTTPRequestHandler], None]:
    pages = {f"{prefix}/health": health, f"{prefix}/props": props}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, *pages.get(handler.path, (404, b"{}")))

    return answer


@contextmanager
def raw_peer(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A peer that accepts one connection and then does what ``talk`` says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                talk(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def wait_for_close(connection: socket.socket) -> None:
    connection.settimeout(10)
    while connection.recv(4096):
        pass


@pytest.fixture
def unused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_ready_server_is_found_under_its_root_and_under_v1(
    http_server: Serve, suffix: str
) -> None:
    url = http_server(answering()) + suffix
    assert check_llama_server(url) is True
    require_llama_server(url)
    assert probe_llama_server(url).total_slots == 1


def test_a_path_prefix_is_kept(http_server: Serve) -> None:
    url = http_server(answering(prefix="/llm"))
    assert check_llama_server(f"{url}/llm/v1")
    assert not check_llama_server(url)


def test_localhost_is_found_whichever_address_it_means_first(http_server: Serve) -> None:
    port = http_server(answering()).rsplit(":", 1)[1]
    assert check_llama_server(f"http://localhost:{port}")


def test_nothing_there_is_said_at_once_with_the_url_and_how_to_start_one(unused_url: str) -> None:
    began = time.monotonic()
    with pytest.raises(BackendUnreachableError) as caught:
        require_llama_server(f"{unused_url}/v1", model_hint="models/x.gguf", timeout_s=120)
    assert time.monotonic() - began < 60
    message = str(caught.value)
    assert unused_url in message
    assert "swarm-repro server start --model models/x.gguf" in message
    assert "scripts/llama-server-setup.sh start" in message
    assert "\n" not in message
    assert check_llama_server(unused_url) is False


def trickle(connection: socket.socket) -> None:
    """Send a byte of an endless header every 50 ms, until the other side has enough."""
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        return


@pytest.mark.parametrize("talk", [wait_for_close, trickle])
def test_a_peer_that_hangs_or_trickles_is_given_up_in_time(
    talk: Callable[[socket.socket], None],
) -> None:
    with raw_peer(talk) as url:
        began = time.monotonic()
        with pytest.raises(BackendUnreachableError, match=r"no answer within 0\.5 s"):
            require_llama_server(url, timeout_s=0.5)
        assert time.monotonic() - began > 0.4


def test_a_peer_that_does_not_even_accept_is_given_up_in_time() -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):  # fill the queue of connections
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        assert not check_llama_server(
            f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.5
        )


@pytest.mark.parametrize(
    ("health", "props", "why"),
    [
        ((200, b"<html>hello</html>"), PROPS, "/health answered 200"),
        ((404, b"{}"), PROPS, "/health answered 404"),
        ((200, b'["ok"]'), PROPS, "/health answered 200"),
        ((503, b"<html>down</html>"), PROPS, "/health answered 503"),
        (READY, (404, b"{}"), "/props answered 404"),
        (READY, (200, b"{}"), "/props answered 200"),
        (READY, (401, b"{}"), "--api-key"),
        (READY, (200, b'{"role":"router","default_generation_settings":{}}'), "router"),
        (READY, (200, b" " * 5_000_000), "more than"),
    ],
)
def test_another_service_is_told_apart_from_a_llama_server(
    http_server: Serve, health: tuple[int, bytes], props: tuple[int, bytes], why: str
) -> None:
    url = http_server(answering(health, props))
    assert check_llama_server(url) is False
    with pytest.raises(BackendUnreachableError, match="not a llama-server") as caught:
        require_llama_server(url)
    assert why in str(caught.value)


def test_a_peer_that_speaks_no_http_is_no_llama_server() -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        wait_for_close(connection)

    with raw_peer(banner) as url:
        assert probe_llama_server(url).health is Health.WRONG_SERVICE


def test_a_peer_that_hangs_up_is_unreachable() -> None:
    with raw_peer(lambda connection: None) as url:
        assert probe_llama_server(url).health is Health.UNREACHABLE


def test_a_redirect_is_not_followed(http_server: Serve) -> None:
    good = http_server(answering())

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", good + handler.path)
        handler.end_headers()

    assert check_llama_server(http_server(redirect)) is False


def test_no_proxy_is_used(http_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    proxy = http_server(lambda handler: asked.append(handler.path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    assert check_llama_server(http_server(answering()))
    assert asked == []


def test_a_loading_model_is_waited_for_and_the_wait_is_reported(http_server: Serve) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        answering(LOADING if len(asked) < 4 else READY)(handler)

    waits: list[float] = []
    require_llama_server(http_server(answer), on_wait=waits.append)
    assert len(waits) == 3
    assert waits == sorted(waits)


def test_a_model_that_never_loads_ends_at_the_limit(http_server: Serve) -> None:
    url = http_server(answering(LOADING))
    assert check_llama_server(url) is False
    with pytest.raises(BackendUnreachableError, match="still loading"):
        require_llama_server(url, loading_limit_s=0.3)


def test_a_server_that_dies_while_loading_is_said_to_have_ended() -> None:
    body = LOADING[1]

    def load_then_die(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            listener.close()
            with connection:
                load_then_die(connection)

        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(BackendUnreachableError, match="ended while it was loading"):
            require_llama_server(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://localhost:8080",
        "http://",
        "http://localhost:99999",
        "http://localhost:0",
        "http://localhost:abc",
        "http://[::1",
        "http://me:secret@localhost:8080",
        "http://localhost:8080/?a=b",
        "http://localhost:8080/a b",
        "http://localhost:8080/x\r\nHost: y",
        "http://" + "a" * 70 + ":8080",
    ],
)
def test_a_bad_url_is_false_for_check_and_a_usage_error_for_require(url: str) -> None:
    assert check_llama_server(url) is False
    with pytest.raises(UsageError) as caught:
        require_llama_server(url)
    assert "secret" not in str(caught.value)


def test_an_unknown_host_is_unreachable() -> None:
    with pytest.raises(BackendUnreachableError, match="resolved"):
        require_llama_server("http://nowhere.invalid:8080", timeout_s=10)
