"""Who may ask the endpoint, and what it does not take."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.endpoint.server import Endpoint
from swarm_repro.errors import CassetteAccessError, UsageError
from tests.support.client_library import httpx
from tests.support.endpoint import CHAT, ask_body, serving
from tests.support.stub_server import StubServer, running_stub


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server


@pytest.fixture
def endpoint(tmp_path: Path, stub: StubServer) -> Iterator[Endpoint]:
    with serving(tmp_path / "c.jsonl", "record", upstream=stub.root, max_body_bytes=4096) as one:
        yield one
        assert httpx.post(one.root + CHAT, json=ask_body("whole")).status_code == 200


def kind_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["type"]


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        ("POST", CHAT, b"{not json", (400, "invalid_request")),
        ("POST", CHAT, b"[1]", (400, "invalid_request")),
        ("POST", CHAT, b'{"seed": 123456789012345678901}', (400, "invalid_request")),
        ("POST", CHAT, b'{"messages": [], "seed": "x"}', (400, "invalid_request")),
        ("GET", CHAT, b"", (405, "method")),
        ("PUT", "/v1/models", b"", (405, "method")),
        ("POST", "/v1/files", b"{}", (404, "unknown_path")),
        ("GET", "/", b"", (404, "unknown_path")),
        ("POST", CHAT, b'{"a": "%s"}' % (b"x" * 4096), (413, "too_large")),
    ],
)
def test_what_is_no_call_gets_a_clear_error_and_the_recording_stays_whole(
    endpoint: Endpoint,
    method: str,
    path: str,
    content: bytes,
    expected: tuple[int, str],
) -> None:
    answer = httpx.request(method, endpoint.root + path, content=content)
    assert kind_of(answer) == expected
    assert len(answer.json()["error"]["message"].splitlines()) == 1


def test_a_body_of_100_megabytes_is_refused_before_it_is_read(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        client.sendall(
            b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
            % (CHAT.encode(), 100 * 10**6)
        )
        client.settimeout(20)
        assert client.recv(64).startswith(b"HTTP/1.1 413")


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(endpoint: Endpoint) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(20_000):
            sent += 5000
            yield b"x" * 5000

    try:
        answer = httpx.post(endpoint.root + CHAT, content=endless(), timeout=20)
    except httpx.TransportError:
        pass  # the connection was closed in the middle of it
    else:
        assert answer.status_code == 413
    assert sent < 100 * 10**6


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:80", ""])
def test_another_host_name_is_refused(endpoint: Endpoint, host: str) -> None:
    answer = httpx.post(endpoint.root + CHAT, json={}, headers={"host": host})
    assert kind_of(answer) == (421, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:1", "LOCALHOST"])
def test_names_of_this_machine_are_not(endpoint: Endpoint, host: str) -> None:
    answer = httpx.get(f"{endpoint.root}/__swarm_repro__/status", headers={"host": host})
    assert answer.status_code == 200


def test_pages_may_not_ask_unless_they_are_let(tmp_path: Path, stub: StubServer) -> None:
    page = {"origin": "https://page.example.com"}
    path = "/__swarm_repro__/status"
    with serving(tmp_path / "a.jsonl", "live", upstream=stub.root) as one:
        answer = httpx.get(one.root + path, headers=page)
        assert "access-control-allow-origin" not in answer.headers
    with serving(tmp_path / "a.jsonl", "live", upstream=stub.root, cors=(page["origin"],)) as one:
        answer = httpx.get(one.root + path, headers=page)
        assert answer.headers["access-control-allow-origin"] == page["origin"]
        other = httpx.get(one.root + path, headers={"origin": "https://other.example.com"})
        assert "access-control-allow-origin" not in other.headers


def test_a_token_is_wanted_everywhere_and_goes_no_further(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(api_key="upstream-key") as stub:
        settings: dict[str, Any] = {"upstream": stub.root, "token": "s3cret", "host": "0.0.0.0"}
        with serving(path, "record", concludes=False, **settings) as one:
            root = f"http://127.0.0.1:{one.port}"
            for given in ({}, {"authorization": "Bearer wrong"}):
                for target in (CHAT, "/__swarm_repro__/status"):
                    method = "POST" if target == CHAT else "GET"
                    answer = httpx.request(method, root + target, headers=given)
                    assert kind_of(answer) == (401, "token_refused")
            ours = {"authorization": "Bearer s3cret"}
            assert httpx.get(f"{root}/__swarm_repro__/status", headers=ours).status_code == 200
            # The token is no key of the upstream's: it is not passed on, and the upstream says no.
            refused = httpx.post(root + CHAT, json=ask_body("hi"), headers=ours)
            assert refused.status_code == 502
            both = {"authorization": "Bearer upstream-key", "x-swarm-repro-token": "s3cret"}
        with serving(tmp_path / "d.jsonl", "record", **settings) as one:
            root = f"http://127.0.0.1:{one.port}"
            assert httpx.post(root + CHAT, json=ask_body("hi"), headers=both).status_code == 200
    for kept in tmp_path.iterdir():
        assert b"s3cret" not in kept.read_bytes()
        assert b"upstream-key" not in kept.read_bytes()


def test_another_address_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the endpoint a token"):
        with serving(tmp_path / "c.jsonl", "live", host="0.0.0.0"):
            pass


def test_two_endpoints_do_not_share_a_port(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(UsageError, match="cannot be listened on"):
        with serving(tmp_path / "other.jsonl", "live", port=endpoint.port):
            pass


def test_two_endpoints_do_not_record_one_cassette(tmp_path: Path, endpoint: Endpoint) -> None:
    assert httpx.post(endpoint.root + CHAT, json=ask_body("first")).status_code == 200
    with pytest.raises(CassetteAccessError, match="another process is recording"):
        with serving(tmp_path / "c.jsonl", "record", upstream="http://127.0.0.1:9"):
            pass


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_an_upstream_that_is_the_endpoint_itself_is_refused(tmp_path: Path, name: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match="is this endpoint itself"):
        with serving(tmp_path / "c.jsonl", "record", port=port, upstream=f"http://{name}:{port}"):
            pass


def test_a_loop_over_another_endpoint_is_seen(tmp_path: Path, stub: StubServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lasting: dict[str, Any] = {"hosted": True, "concludes": False}
    there = f"http://127.0.0.1:{port}"
    with serving(tmp_path / "a.jsonl", "live", upstream=there, **lasting) as far:
        with serving(tmp_path / "b.jsonl", "live", port=port, upstream=far.root, **lasting) as near:
            answer = httpx.post(near.root + CHAT, json=ask_body("hi"))
    assert kind_of(answer) == (508, "loop")
