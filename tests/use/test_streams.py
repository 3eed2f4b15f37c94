"""Streams reach the program as they come, and are recorded whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from swarm_repro import use_cassette
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import BackendError, CassetteAccessError
from tests.support.client_library import httpx
from tests.support.scripted_server import DONE, Asked, chat_event, scripted_server

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "any",
    "messages": [{"role": "user", "content": "count"}],
    "stream": True,
    "seed": 7,
}
PIECES = [chat_event("one "), chat_event("two "), chat_event("three", usage={"total_tokens": 9})]
WHOLE = b"".join([*PIECES, DONE])


def whole(asked: Asked) -> None:
    asked.begin_stream()
    for piece in [*PIECES, DONE]:
        asked.send(piece)
    asked.end_stream()


class Held:
    """Sends one piece at a time, each when the test allows it."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.may_go_on = threading.Semaphore(0)

    def __call__(self, asked: Asked) -> None:
        asked.begin_stream()
        for piece in self._pieces:
            if not self.may_go_on.acquire(timeout=20):
                return
            asked.send(piece)
        asked.end_stream()


def recorded(path: Path) -> bytes:
    (call,) = read_cassette(path).calls.values()
    return call.completion.body


def test_a_piece_is_given_on_before_the_next_has_come(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    held = Held([*PIECES, DONE])
    with scripted_server(held) as server, use_cassette(path, mode="record"), httpx.Client() as one:
        held.may_go_on.release()
        with one.stream("POST", server.root + CHAT, json=BODY) as response:
            pieces = response.iter_bytes()
            got = [next(pieces)]
            for _ in range(3):
                held.may_go_on.release()
                got.append(next(pieces))
            assert list(pieces) == []
    assert got == [*PIECES, DONE]
    assert recorded(path) == WHOLE
    with use_cassette(path), httpx.Client() as one:
        answer = one.post(server.root + CHAT, json=BODY)
    assert answer.content == WHOLE


def test_an_async_piece_is_given_on_before_the_next_has_come(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    held = Held([*PIECES, DONE])

    async def read(root: str) -> list[bytes]:
        async with httpx.AsyncClient() as one:
            held.may_go_on.release()
            async with one.stream("POST", root + CHAT, json=BODY) as response:
                got: list[bytes] = []
                async for piece in response.aiter_bytes():
                    got.append(piece)
                    held.may_go_on.release()
                return got

    with scripted_server(held) as server:
        with use_cassette(path, mode="record"):
            assert asyncio.run(read(server.root)) == [*PIECES, DONE]
    assert recorded(path) == WHOLE
    with use_cassette(path):
        assert b"".join(asyncio.run(read(server.root))) == WHOLE


def test_the_end_is_not_seen_before_the_call_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with scripted_server(whole) as server, use_cassette(path, mode="record"), httpx.Client() as one:
        with one.stream("POST", server.root + CHAT, json=BODY) as response:
            for piece in response.iter_bytes():
                if b"[DONE]" in piece:
                    found = read_part(part_path(path))
                    assert found is not None
                    (call,) = found.cassette.calls.values()
                    assert call.completion.body == WHOLE
                    break
            else:
                pytest.fail("the stream had no end")


def test_a_program_that_stops_reading_has_its_call_recorded_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def first_word(root: str) -> str | None:
        with openai.OpenAI(base_url=f"{root}/v1", api_key="none", max_retries=0) as one:
            with one.chat.completions.create(**BODY) as stream:
                for event in stream:
                    word: str | None = event.choices[0].delta.content
                    return word
        return None

    with scripted_server(whole) as server:
        with use_cassette(path, mode="record"):
            assert first_word(server.root) == "one "
    assert recorded(path) == WHOLE
    with use_cassette(path):
        assert first_word(server.root) == "one "


async def read_and_be_cancelled(root: str, *, pausing: bool) -> None:
    """Read a stream's first piece, then be cancelled: in a pause, or waiting for the next one."""
    seen = asyncio.Event()

    async def read() -> None:
        async with (
            httpx.AsyncClient() as one,
            one.stream("POST", root + CHAT, json=BODY) as response,
        ):
            async for _ in response.aiter_bytes():
                seen.set()
                if pausing:
                    await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await seen.wait()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


def test_a_task_that_is_cancelled_while_it_reads_has_no_call(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    held = Held([*PIECES, DONE])

    async def impatient(root: str) -> None:
        held.may_go_on.release()
        async with use_cassette(path, mode="record") as session:
            await read_and_be_cancelled(root, pausing=False)
            assert session.waiting() is None
            for _ in range(8):
                held.may_go_on.release()
            async with httpx.AsyncClient() as one:
                assert (await one.post(root + CHAT, json=BODY)).content == WHOLE

    with scripted_server(held) as server:
        asyncio.run(impatient(server.root))
    assert [(call.i, call.n) for call in read_cassette(path).calls.values()] == [(0, 0)]


def test_a_task_that_is_cancelled_between_pieces_has_no_call(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    held = Held([*PIECES, DONE])

    async def impatient(root: str) -> None:
        held.may_go_on.release()
        async with use_cassette(path, mode="record") as session:
            await read_and_be_cancelled(root, pausing=True)
            # The server still holds the rest back: nobody has waited for it.
            assert session.waiting() is None

    with scripted_server(held) as server:
        asyncio.run(impatient(server.root))
    assert not read_cassette(path).calls


def test_a_program_that_is_interrupted_between_pieces_has_no_call(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    held = Held([*PIECES, DONE])
    held.may_go_on.release()
    with scripted_server(held) as server, use_cassette(path, mode="record") as session:
        with pytest.raises(KeyboardInterrupt):
            with httpx.stream("POST", server.root + CHAT, json=BODY) as response:
                pieces = response.iter_bytes()
                for _ in pieces:
                    raise KeyboardInterrupt
        assert session.waiting() is None
    assert not read_cassette(path).calls


@pytest.mark.parametrize(
    "last",
    [
        b'data: {"error":{"message":"out of memory","code":500}}\n\n',
        b'error: {"message":"out of memory"}\n\n',
    ],
)
def test_an_error_in_mid_stream_is_passed_on_and_never_recorded(
    tmp_path: Path, last: bytes
) -> None:
    path = tmp_path / "c.jsonl"

    def fails(asked: Asked) -> None:
        asked.begin_stream()
        asked.send(PIECES[0])
        asked.send(last)
        asked.end_stream()

    with scripted_server(fails) as server:
        with pytest.raises(BackendError, match="1 calls failed"):
            with use_cassette(path, mode="record"):
                assert httpx.post(server.root + CHAT, json=BODY).content == PIECES[0] + last
    assert not path.exists()


def read_sync(root: str) -> list[bytes]:
    got: list[bytes] = []
    with httpx.Client() as one, one.stream("POST", root + CHAT, json=BODY) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(response.iter_bytes())
    return got


def read_async(root: str) -> list[bytes]:
    async def read() -> list[bytes]:
        got: list[bytes] = []
        async with (
            httpx.AsyncClient() as one,
            one.stream("POST", root + CHAT, json=BODY) as response,
        ):
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in response.aiter_bytes():
                    got.append(piece)
        return got

    return asyncio.run(read())


@pytest.mark.parametrize("read", [read_sync, read_async])
def test_a_server_that_dies_in_mid_stream_is_seen_as_it_is(
    tmp_path: Path, read: Callable[[str], list[bytes]]
) -> None:
    path = tmp_path / "c.jsonl"

    def dies(asked: Asked) -> None:
        asked.begin_stream()
        asked.send(PIECES[0])
        asked.die()

    with scripted_server(dies) as server:
        with pytest.raises(BackendError, match="1 calls failed"):
            with use_cassette(path, mode="record"):
                read(server.root)
    assert not path.exists()


def test_a_stream_that_ends_without_its_mark_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def stops_short(asked: Asked) -> None:
        asked.begin_stream()
        asked.send(PIECES[0])
        asked.end_stream()

    with scripted_server(stops_short) as server:
        with pytest.raises(BackendError, match="broke off"):
            with use_cassette(path, mode="record"):
                assert httpx.post(server.root + CHAT, json=BODY).content == PIECES[0]


def test_a_stream_that_nobody_reads_fails_the_block(tmp_path: Path) -> None:
    with scripted_server(whole) as server, httpx.Client() as one:
        with pytest.raises(BackendError, match="read a stream to its end or close it"):
            with use_cassette(tmp_path / "c.jsonl", mode="record"):
                response = one.send(
                    one.build_request("POST", server.root + CHAT, json=BODY), stream=True
                )
        with pytest.raises(CassetteAccessError, match="came after it"):
            response.close()


def test_verify_compares_a_stream_and_gives_the_recorded_one(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with scripted_server(whole) as server:
        with use_cassette(path, mode="record"):
            httpx.post(server.root + CHAT, json=BODY)
        with use_cassette(path, mode="verify"):
            assert httpx.post(server.root + CHAT, json=BODY).content == WHOLE


def test_the_mark_of_an_end_is_seen_across_pieces(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def cuts_anywhere(asked: Asked) -> None:
        asked.begin_stream()
        for start in range(0, len(WHOLE), 5):
            asked.send(WHOLE[start : start + 5])
        asked.end_stream()

    with scripted_server(cuts_anywhere) as server, httpx.Client() as one:
        with use_cassette(path, mode="record"):
            with one.stream("POST", server.root + CHAT, json=BODY) as response:
                assert b"".join(pieces(response)) == WHOLE
    assert recorded(path) == WHOLE


def pieces(response: Any) -> Iterator[bytes]:
    yield from response.iter_raw()
