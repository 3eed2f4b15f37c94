"""What clients of the endpoint get, recorded and replayed."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.endpoint.answer import StreamedAnswer
from swarm_repro.endpoint.server import Endpoint
from swarm_repro.errors import BackendError, ReplayMiss
from tests.support.client_library import httpx
from tests.support.endpoint import CHAT, ask_body, serving
from tests.support.scripted_server import DONE, Asked, chat_event, scripted_server
from tests.support.stub_server import running_stub

EVENTS = [chat_event("one "), chat_event("two"), DONE]


def echo(asked: Asked) -> None:
    document = json.loads(asked.body)
    text = f"you said {document['messages'][-1]['content']}"
    if document.get("stream"):
        asked.begin_stream()
        for part in (chat_event(text), DONE):
            asked.send(part)
        asked.end_stream()
    else:
        asked.json({"choices": [{"index": 0, "message": {"content": text}}]})


def post(endpoint: Endpoint, body: object, *, path: str = CHAT, **options: Any) -> Any:
    return httpx.post(endpoint.root + path, json=body, timeout=30, **options)


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again until it holds; a test that never sees it fails by its own time limit."""
    gone = threading.Event()
    for _ in range(2000):
        if holds():
            return
        gone.wait(0.01)
    raise AssertionError("it never came to hold")


def test_what_is_recorded_through_the_endpoint_is_replayed_without_the_upstream(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.jsonl"
    headers = {
        "authorization": "Bearer sk-secret",
        "cookie": "sk-secret",
        "x-api-key": "sk-secret",
    }

    def ask(endpoint: Endpoint) -> list[bytes]:
        return [
            post(endpoint, ask_body("one"), headers=headers).content,
            post(endpoint, ask_body("one", stream=True), headers=headers).content,
            post(endpoint, ask_body("two", seed=3), headers=headers).content,
        ]

    with scripted_server(echo) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            recorded = ask(endpoint)
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer sk-secret"}
    assert b"you said one" in recorded[0]
    with serving(path) as endpoint:
        assert ask(endpoint) == recorded
    assert b"sk-secret" not in path.read_bytes()


def test_scopes_are_told_by_a_header_that_goes_no_further(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    scopes = ("alice", "bob", "alice")
    with scripted_server(echo) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            for scope in scopes:
                post(endpoint, ask_body("hi"), headers={"x-swarm-repro-scope": scope})
        assert all("x-swarm-repro-scope" not in asked.headers for asked in server.asked)
    calls = read_cassette(path).calls.values()
    assert [(call.scope, call.n) for call in calls] == [("alice", 0), ("alice", 1), ("bob", 0)]


def test_a_miss_is_explained_and_ends_nobody_elses_calls(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with scripted_server(echo) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            post(endpoint, ask_body("one"))
    with pytest.raises(ReplayMiss, match="1 misses"), serving(path) as endpoint:
        missed = post(endpoint, ask_body("ONE"))
        assert missed.status_code == 404
        error = missed.json()["error"]
        assert error["type"] == "replay_miss"
        assert "recorded 'one', asked 'ONE'" in error["message"]
        with openai.OpenAI(base_url=f"{endpoint.root}/v1", api_key="none", max_retries=0) as one:
            with pytest.raises(openai.NotFoundError, match="nearest recorded call"):
                one.chat.completions.create(**ask_body("two"))
        endpoint.session.ledger.misses.pop()
        assert post(endpoint, ask_body("one")).status_code == 200
        status = httpx.get(f"{endpoint.root}/__swarm_repro__/status").json()
        assert (status["from_cassette"], status["misses"], status["unplayed"]) == (1, 1, None)
        assert "is not in" in status["first_misses"][0]


def test_a_stream_passes_through_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    may_go_on = threading.Semaphore(1)

    def held(asked: Asked) -> None:
        asked.begin_stream()
        for part in EVENTS:
            assert may_go_on.acquire(timeout=20)
            asked.send(part)
        asked.end_stream()

    got = []
    with scripted_server(held) as server:
        with serving(path, "record", upstream=server.root) as endpoint, httpx.Client() as one:
            body = ask_body("count", stream=True)
            with one.stream("POST", endpoint.root + CHAT, json=body, timeout=30) as response:
                for part in response.iter_bytes():
                    got.append(part)
                    may_go_on.release()
    assert got == EVENTS
    (call,) = read_cassette(path).calls.values()
    assert call.completion.body == b"".join(EVENTS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_no_call_and_its_retry_takes_the_place(
    tmp_path: Path, stream: bool
) -> None:
    path = tmp_path / "c.jsonl"
    arrived, may_answer = threading.Semaphore(0), threading.Event()

    def slow(asked: Asked) -> None:
        if stream:
            asked.begin_stream()
            asked.send(EVENTS[0])
        arrived.release()
        assert may_answer.wait(20)
        if stream:
            asked.send(DONE)
            asked.end_stream()
        else:
            echo(asked)

    body = ask_body("hi", stream=stream, seed=5)
    with scripted_server(slow) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            data = json.dumps(body).encode()
            with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
                client.sendall(
                    b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s"
                    % (CHAT.encode(), len(data), data)
                )
                assert arrived.acquire(timeout=20)
                if stream:
                    assert client.recv(65536)
            wait_until(lambda: not endpoint.session.in_flight())
            may_answer.set()
            assert post(endpoint, body).status_code == 200
            assert endpoint.session.ledger.failures == {}
    assert [(call.i, call.n) for call in read_cassette(path).calls.values()] == [(0, 0)]


def test_a_client_that_goes_away_without_reading_leaves_no_call(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    arrived, may_end = threading.Semaphore(0), threading.Event()

    def more_than_buffers_hold(asked: Asked) -> None:
        asked.begin_stream()
        arrived.release()
        for _ in range(64):
            asked.send(b"data: %s\n\n" % (b"x" * 2**20))
        assert may_end.wait(20)
        asked.send(DONE)
        asked.end_stream()

    with scripted_server(more_than_buffers_hold) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            data = json.dumps(ask_body("hi", stream=True)).encode()
            with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
                client.sendall(
                    b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s"
                    % (CHAT.encode(), len(data), data)
                )
                assert arrived.acquire(timeout=20)
                assert client.recv(4096)
            wait_until(lambda: not endpoint.session.in_flight())
            may_end.set()
    assert not read_cassette(path).calls


def test_a_stream_is_closed_by_the_cancellation_when_its_server_holds_a_piece_back() -> None:
    class OnePiece(httpx.AsyncByteStream):  # type: ignore[misc,name-defined]
        closed_in: BaseException | None = None

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield EVENTS[0]

        async def aclose(self) -> None:
            closed_in = sys.exc_info()[1]
            await asyncio.sleep(0)  # as an interceptor's, which waits for the disk
            self.closed_in = closed_in

    stream = OnePiece()

    async def client_goes_away_while_a_piece_is_sent() -> None:
        sending = asyncio.Event()

        async def send(message: Mapping[str, object]) -> None:
            if message["type"] == "http.response.body":
                sending.set()
                await asyncio.Event().wait()

        async def receive() -> dict[str, str]:
            await sending.wait()
            return {"type": "http.disconnect"}

        await StreamedAnswer(httpx.Response(200, stream=stream), httpx)({}, receive, send)

    asyncio.run(client_goes_away_while_a_piece_is_sent())
    # By this the relay knows that nobody waits for the rest, and gives the call up.
    assert isinstance(stream.closed_in, asyncio.CancelledError)


def test_an_upstream_that_dies_in_mid_stream_is_seen_and_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def dies(asked: Asked) -> None:
        asked.begin_stream()
        asked.send(EVENTS[0])
        asked.die()

    with scripted_server(dies) as server:
        with pytest.raises(BackendError, match="1 calls failed"):
            with serving(path, "record", upstream=server.root) as endpoint:
                with pytest.raises(httpx.RemoteProtocolError):
                    post(endpoint, ask_body("hi", stream=True))
    assert not path.exists()


def test_failures_of_the_upstream_come_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    faults: list[int | str | None] = [429, 500, "reset", None]
    with running_stub(fault=lambda n: faults[n], fault_headers={"retry-after": "7"}) as stub:
        with serving(path, "record", upstream=stub.root) as endpoint:
            seen = [post(endpoint, ask_body("hi")) for _ in faults]
    assert [response.status_code for response in seen] == [429, 500, 502, 200]
    assert seen[0].headers["retry-after"] == "7"
    assert seen[0].json()["error"]["message"] == "told to fail"
    assert seen[2].json()["error"]["type"] == "unreachable"
    assert [call.n for call in read_cassette(path).calls.values()] == [0]


def test_an_upstream_that_resets_the_connection_is_named_by_the_kind_of_error(
    tmp_path: Path,
) -> None:
    with scripted_server(Asked.reset) as server:
        with pytest.raises(BackendError, match="1 calls failed"):
            with serving(tmp_path / "c.jsonl", "record", upstream=server.root) as endpoint:
                answer = post(endpoint, ask_body("hi"))
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == "no answer from the upstream: ReadError"


def test_no_upstream_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no connection"):
        with serving(tmp_path / "c.jsonl", "record", upstream="http://127.0.0.1:9") as endpoint:
            answer = post(endpoint, ask_body("hi"))
    assert answer.status_code == 502
    assert "start a llama-server" in answer.json()["error"]["message"]


def test_other_apis_are_served_under_their_hosts_name(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    message = {"type": "message", "content": [{"type": "text", "text": "hi"}]}
    with scripted_server(lambda asked: asked.json(message)) as server:
        with serving(path, "record", upstream=server.root, hosted=True) as endpoint:
            for name in ("/v1/messages", CHAT):
                assert post(endpoint, ask_body("hi"), path=name).json() == message
    with serving(path) as endpoint:
        for name in ("/v1/messages", CHAT):
            assert post(endpoint, ask_body("hi"), path=name).json() == message


def test_many_clients_record_each_answer_once_and_right_then_replay_them(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    clients, each = 64, 2
    all_wait = threading.Barrier(clients, timeout=60)

    def slow(asked: Asked) -> None:
        all_wait.wait()
        echo(asked)

    async def one_client(one: Any, root: str, name: str) -> list[tuple[str, str]]:
        said = []
        for number in range(each):
            body = ask_body(f"{name} {number}", seed=number, stream=number % 2 == 1)
            headers = {"x-swarm-repro-scope": name}
            answer = await one.post(root + CHAT, json=body, headers=headers, timeout=120)
            assert answer.status_code == 200, answer.text
            said.append((f"{name} {number}", answer.text))
        return said

    async def at_once(root: str) -> list[tuple[str, str]]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as one:
            names = [f"agent_{number}" for number in range(clients)]
            found = await asyncio.gather(*(one_client(one, root, name) for name in names))
        return [pair for said in found for pair in said]

    with scripted_server(slow) as server:
        with serving(path, "record", upstream=server.root) as endpoint:
            recorded = asyncio.run(at_once(endpoint.root))
        assert len(server.calls(CHAT)) == clients * each
    assert all(f"you said {asked}" in answer for asked, answer in recorded)
    assert len(read_cassette(path).calls) == clients * each
    with serving(path) as endpoint:
        assert asyncio.run(at_once(endpoint.root)) == recorded
        assert endpoint.session.ledger.hits == clients * each
