"""What httpx clients do beside a plain call, under ``use_cassette``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from swarm_repro import use_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.serving.state import STATE_VARIABLE, write_record
from tests.support.server_records import this_process_as_a_server
from tests.support.stub_server import StubServer, running_stub

NOWHERE = "http://127.0.0.1:9/v1"
BODY = {"model": "stub", "messages": [{"role": "user", "content": "one"}]}
CHAT = "/chat/completions"

httpx: ModuleType = importlib.import_module(
    openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    numbers = itertools.count()
    with running_stub(reply=lambda _body: f"answer {next(numbers)}") as server:
        yield server


def said(response: object) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]  # type: ignore[attr-defined]
    return text


def test_raw_bytes_and_elapsed_time_of_an_answer_are_there(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"

    async def raw_async() -> bytes:
        async with (
            httpx.AsyncClient() as one,
            one.stream("POST", stub.base_url + CHAT, json=BODY) as response,
        ):
            return b"".join([part async for part in response.aiter_raw()])

    found = []
    for mode in ("record", "replay"):
        with use_cassette(path, mode=mode), httpx.Client() as one:
            with one.stream("POST", stub.base_url + CHAT, json=BODY) as response:
                found.append(b"".join(response.iter_raw()))
            found.append(asyncio.run(raw_async()))
            whole = one.post(stub.base_url + CHAT, json=BODY)
            assert whole.read() == whole.read()
            found.append(whole.content)
            assert whole.elapsed.total_seconds() >= 0
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


def test_what_only_the_starter_of_a_server_knows_is_recorded(
    tmp_path: Path, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    path, program = tmp_path / "c.jsonl", tmp_path / "llama-server"
    program.write_bytes(b"a program")
    write_record(
        this_process_as_a_server(stub.port, flags=("-np", "1", "-fa", "off"), files=(program,))
    )
    with use_cassette(path, mode="record"):
        httpx.post(stub.base_url + CHAT, json=BODY)
    (environment,) = read_cassette(path).envs.values()
    assert environment.content["flags"] == ["-np", "1", "-fa", "off"]


def test_a_compressed_answer_is_kept_as_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(gzips=True, reply=lambda _body: "plain") as stub:
        for mode in ("record", "replay"):
            with use_cassette(path, mode=mode):
                assert said(httpx.post(stub.base_url + CHAT, json=BODY)) == "plain"
    (call,) = read_cassette(path).calls.values()
    assert call.completion.text == "plain"


def test_calls_at_once_have_the_order_in_which_they_were_made(
    tmp_path: Path, stub: StubServer
) -> None:
    stub.delay_s = 0.02

    async def all_at_once() -> list[str]:
        async with httpx.AsyncClient() as one:
            calls = [one.post(stub.base_url + CHAT, json=BODY) for _ in range(12)]
            return [said(response) for response in await asyncio.gather(*calls)]

    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        with use_cassette(path, mode="record"):
            recorded = asyncio.run(all_at_once())
        assert len(set(recorded)) == 12
        with use_cassette(path):
            assert asyncio.run(all_at_once()) == recorded


def test_a_server_that_wants_a_key_is_asked_about_its_model_with_the_clients(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(api_key="secret-key") as stub, use_cassette(path, mode="record"):
        with openai.OpenAI(base_url=stub.base_url, api_key="secret-key", max_retries=0) as one:
            one.chat.completions.create(model="stub", messages=[{"role": "user", "content": "one"}])
    assert b"secret-key" not in path.read_bytes()


def test_no_secret_of_a_url_or_header_is_kept(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        httpx.post(
            stub.base_url.replace("//", "//user:secret-1@") + CHAT + "?key=secret-2",
            json=BODY,
            headers={"cookie": "secret-3", "x-api-key": "secret-4"},
        )
    assert len(read_cassette(path).calls) == 1
    assert b"secret" not in path.read_bytes()


def test_a_redirect_is_followed(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    moved = {"location": stub.base_url + CHAT}
    with running_stub(fault=lambda _n: 307, fault_headers=moved) as old:
        with use_cassette(path, mode="record"):
            answer = httpx.post(old.base_url + CHAT, json=BODY, follow_redirects=True)
    assert len(old.chats) == len(stub.chats) == 1
    with use_cassette(path):
        assert said(httpx.post(NOWHERE + CHAT, json=BODY)) == said(answer)


def test_a_client_waits_as_long_as_the_server_says_and_takes_one_place(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    headers = {"retry-after-ms": "1", "x-should-retry": "true"}
    with running_stub(fault=lambda n: 404 if n == 0 else None, fault_headers=headers) as stub:
        with use_cassette(path, mode="record"):
            with openai.OpenAI(base_url=stub.base_url, api_key="none", max_retries=2) as one:
                one.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": "one"}]
                )
    ((_, _, repeat),) = read_cassette(path).calls
    assert repeat == 0


def test_a_model_that_was_never_found_fails_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with pytest.raises(BackendUnreachableError, match="no connection"):
        with use_cassette(path, mode="record"), contextlib.suppress(httpx.ConnectError):
            httpx.post(NOWHERE + CHAT, json=BODY)
    assert not path.exists()


def test_a_call_that_is_cancelled_gives_its_place_back(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"

    async def impatient() -> str:
        asked, loop = asyncio.Event(), asyncio.get_running_loop()

        def hang_once(number: int) -> str | None:
            loop.call_soon_threadsafe(asked.set)
            return "hang" if number == 0 else None

        stub.fault = hang_once
        async with httpx.AsyncClient() as one:
            async with use_cassette(path, mode="record"):
                call = asyncio.create_task(one.post(stub.base_url + CHAT, json=BODY))
                await asked.wait()
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await call
                return said(await one.post(stub.base_url + CHAT, json=BODY))

    answer = asyncio.run(impatient())
    (call,) = read_cassette(path).calls.values()
    assert (call.i, call.n, call.completion.text) == (0, 0, answer)


def test_a_block_may_end_in_another_context_than_it_began_in(
    tmp_path: Path, stub: StubServer
) -> None:
    outer, inner = tmp_path / "outer.jsonl", tmp_path / "inner.jsonl"

    async def generator() -> AsyncIterator[None]:
        async with use_cassette(inner, mode="record"):
            httpx.post(stub.base_url + CHAT, json=BODY)
            yield

    async def step(steps: AsyncIterator[None]) -> None:
        with contextlib.suppress(StopAsyncIteration):
            await steps.__anext__()

    async def both() -> None:
        steps = generator()
        has_begun, leftover = asyncio.Event(), asyncio.Event()

        async def begins() -> None:
            await step(steps)
            has_begun.set()
            await leftover.wait()
            httpx.post(stub.base_url + CHAT, json=BODY)  # the outer block's: the inner has ended

        begun = asyncio.create_task(begins())
        await has_begun.wait()
        await asyncio.create_task(step(steps))
        leftover.set()
        await begun

    with use_cassette(outer, mode="record"):
        asyncio.run(both())
    assert len(read_cassette(inner).calls) == len(read_cassette(outer).calls) == 1
    httpx.post(stub.base_url + CHAT, json=BODY)
    assert len(stub.chats) == 3


def test_a_function_that_hands_on_a_coroutine_is_refused(tmp_path: Path, stub: StubServer) -> None:
    def logged(function: Callable[[], object]) -> Callable[[], object]:
        return functools.wraps(function)(lambda: function())

    @use_cassette(tmp_path / "c.jsonl", mode="record")
    @logged
    async def asks() -> None:
        httpx.post(stub.base_url + CHAT, json=BODY)

    with pytest.raises(UsageError, match="outside the block"):
        asks()
    assert not stub.chats


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_is_told_that_it_has_no_part(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        httpx.post(stub.base_url + CHAT, json=BODY)
        process = os.fork()
        if process == 0:
            code = 1
            try:
                httpx.post(stub.base_url + CHAT, json=BODY)
            except UsageError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert len(read_cassette(path).calls) == 1


def test_a_transport_that_changes_its_pool_works_in_a_replay(
    tmp_path: Path, stub: StubServer
) -> None:
    class Persistent(httpx.HTTPTransport):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self._pool._retries = 2

    path = tmp_path / "c.jsonl"
    for mode in ("record", "replay"):
        with use_cassette(path, mode=mode), httpx.Client(transport=Persistent()) as one:
            assert one.post(stub.base_url + CHAT, json=BODY).status_code == 200
            assert not hasattr(one._transport, "nothing")
    assert len(stub.chats) == 1


def test_a_client_of_a_replay_is_set_up_once_for_all_threads(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        httpx.post(stub.base_url + CHAT, json=BODY)
    for _ in range(5):
        with use_cassette(path):
            one = httpx.Client()
            one.post(stub.base_url + CHAT, json=BODY)
        start, answers = threading.Barrier(4), []

        def ask(one: object = one, start: threading.Barrier = start) -> None:
            start.wait()
            answers.append(said(one.post(stub.base_url + CHAT, json=BODY)))  # type: ignore[attr-defined] # noqa: B023

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(answers)) == 4
        one.close()


def test_a_replay_builds_no_tls_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub() as stub, use_cassette(path, mode="record"):
        httpx.post(stub.base_url + CHAT, json=BODY)
    made: list[object] = []
    original = ssl.SSLContext.__new__

    def counting(cls: type[ssl.SSLContext], *args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(cls)
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "__new__", counting)
    with use_cassette(path):
        with openai.OpenAI(base_url="https://example.com/v1", api_key="none") as one:
            one.chat.completions.create(model="stub", messages=BODY["messages"])  # type: ignore[arg-type]
    assert made == []
    httpx.HTTPTransport().close()
    assert made


LATE = """
import importlib, sys
from swarm_repro import use_cassette

path, mode, url = sys.argv[1:]
with use_cassette(path, mode=mode):
    loaded = {"httpx", "httpx2"} & set(sys.modules)
    library = importlib.import_module(LIBRARY)
    answer = library.post(url, json=BODY)
print(sorted(loaded), answer.json()["choices"][0]["message"]["content"])
"""


def test_a_library_that_is_imported_within_the_block_is_recorded_too(
    tmp_path: Path, stub: StubServer
) -> None:
    printed = []
    program = f"LIBRARY, BODY = {httpx.__name__!r}, {BODY!r}\n{LATE}"
    for mode in ("record", "replay"):
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "c.jsonl", mode, stub.base_url + CHAT],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1], "each answer of the model is another"
    assert printed[0].startswith("[] answer "), "no library was imported before"
