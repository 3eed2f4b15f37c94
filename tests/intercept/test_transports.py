"""Clients of httpx made in a block, used in it, after it and beside it."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm_repro import use_cassette
from swarm_repro.caller import own_traffic
from swarm_repro.intercept.transports import patch_libraries
from tests.support.client_library import httpx
from tests.support.scripted_server import Asked, ScriptedServer, scripted_server
from tests.support.stub_server import running_stub
from tests.support.warm import run_python

URL = "https://api.openai.com/v1/messages"
ANSWER = {"content": [{"type": "text", "text": "fine"}]}


def answer(asked: Asked) -> None:
    asked.json(ANSWER)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server(answer) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path, server: ScriptedServer) -> Path:
    """Two answers of a host, to be replayed."""
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"), httpx.Client() as one:
        for _ in range(2):
            one.post(f"{server.root}/v1/messages", json={})
    server.asked.clear()
    return path


def is_set_up(client: Any) -> bool:
    return "_pool" in vars(client._transport)


def connections(client: Any) -> list[Any]:
    found: list[Any] = client._transport._pool.connections
    return found


def test_a_client_of_a_replay_is_never_set_up(path: Path) -> None:
    url = "http://localhost/v1/messages"
    with use_cassette(path):
        with httpx.Client() as one:
            assert one.post(url, json={}).json() == ANSWER
            assert not is_set_up(one)
        assert not is_set_up(one)

        async def ask() -> None:
            async with httpx.AsyncClient() as other:
                assert (await other.post(url, json={})).json() == ANSWER
            assert not is_set_up(other)

        asyncio.run(ask())
    one.close()
    assert not is_set_up(one)


def test_a_client_of_a_replay_works_after_it(path: Path, server: ScriptedServer) -> None:
    url = f"{server.root}/anything"
    with use_cassette(path) as session:
        one, other = httpx.Client(), httpx.AsyncClient()
        for _ in range(2):
            one.post("http://localhost/v1/messages", json={})
    assert session.ledger.hits == 2
    with closing(one):
        assert one.post(url).json() == ANSWER
        assert len(connections(one)) == 1
    assert connections(one) == []

    async def ask() -> None:
        async with other:
            assert (await other.post(url)).json() == ANSWER
            assert len(connections(other)) == 1
        assert connections(other) == []

    asyncio.run(ask())
    assert [asked.path for asked in server.asked] == ["/anything", "/anything"]


def test_a_client_from_outside_is_set_up_and_closed_as_ever(
    path: Path, server: ScriptedServer
) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient() as other:
            assert is_set_up(other)
            with use_cassette(path):
                for _ in range(2):
                    answered = await other.post("http://localhost/v1/messages", json={})
                    assert answered.json() == ANSWER
            await other.post(f"{server.root}/after")
            assert len(connections(other)) == 1
        assert connections(other) == []

    asyncio.run(ask())
    with httpx.Client() as one:
        assert is_set_up(one)
        with use_cassette(path):
            for _ in range(2):
                assert one.post("http://localhost/v1/messages", json={}).json() == ANSWER
        one.post(f"{server.root}/after")
        assert len(connections(one)) == 1
    assert connections(one) == []
    assert [asked.path for asked in server.asked] == ["/after", "/after"]


def test_a_client_made_while_recording_is_set_up_at_once(tmp_path: Path) -> None:
    with use_cassette(tmp_path / "new.jsonl", mode="record"), httpx.Client() as one:
        assert is_set_up(one)


def test_our_own_requests_go_out_though_a_replay_is_on(path: Path, server: ScriptedServer) -> None:
    with use_cassette(path) as session:
        with own_traffic(), httpx.Client() as one:
            assert one.post(f"{server.root}/own").json() == ANSWER
        assert session.ledger.used == {}
        with httpx.Client() as one:
            for _ in range(2):
                one.post("http://localhost/v1/messages", json={})
    assert [asked.path for asked in server.asked] == ["/own"]


@pytest.mark.parametrize("name", ["HTTPTransport", "AsyncHTTPTransport"])
def test_a_missing_attribute_of_a_transport_is_named(path: Path, name: str) -> None:
    plain = getattr(httpx, name)()
    with pytest.raises(AttributeError) as caught:
        _ = plain.nothing
    assert str(caught.value) == f"'{name}' object has no attribute 'nothing'"
    with use_cassette(path), httpx.Client() as one:
        waiting = getattr(httpx, name)(retries=3)
        assert not hasattr(waiting, "__len__")
        assert "_pool" not in vars(waiting)
        assert waiting._pool._retries == 3, "the arguments are kept"
        assert "_pool" in vars(waiting)
        with pytest.raises(AttributeError, match="nothing"):
            _ = waiting.nothing
        for _ in range(2):
            one.post("http://localhost/v1/messages", json={})


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModuleType]]:
    """Imports the library as if it had never been; the tests' own is put back."""
    name = httpx.__name__
    own = {key: module for key, module in sys.modules.items() if key.partition(".")[0] == name}

    def forget() -> None:
        for key in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[key]

    def load() -> ModuleType:
        forget()
        return importlib.import_module(name)

    yield load
    forget()
    sys.modules.update(own)


def test_classes_of_a_library_that_is_imported_anew_are_patched_too(
    anew: Callable[[], ModuleType],
) -> None:
    patch_libraries()
    first = anew()
    assert first.HTTPTransport is not httpx.HTTPTransport
    for library in (first, anew()):
        handle = library.HTTPTransport.handle_request
        assert handle.__module__ == "swarm_repro.intercept.transports"


def test_a_library_is_patched_once() -> None:
    patch_libraries()
    handle = httpx.HTTPTransport.handle_request
    importlib.reload(httpx)
    patch_libraries()
    assert httpx.HTTPTransport.handle_request is handle


RECORDED_TWICE = """\
import sys
from pathlib import Path
import openai
from swarm_repro.cassette.reader import read_cassette

def ask(path):
    from swarm_repro import use_cassette
    with use_cassette(path, mode="record"), openai.OpenAI(
        base_url=sys.argv[1], api_key="none", max_retries=0
    ) as one:
        one.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    print(len(read_cassette(Path(path)).calls))

ask("first.jsonl")
for name in [name for name in sys.modules if name.partition(".")[0] == "swarm_repro"]:
    del sys.modules[name]
ask("second.jsonl")
"""


def test_a_copy_of_the_package_that_is_imported_anew_records_too(tmp_path: Path) -> None:
    with running_stub() as stub:
        done = run_python(
            ["-c", RECORDED_TWICE, stub.base_url],
            cwd=tmp_path,
            environment=os.environ,
            timeout_s=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize("other", [None, ModuleType("httpx2")], ids=["hidden", "of its name"])
def test_a_library_that_is_hidden_or_another_of_its_name_is_passed_over(
    other: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("httpx", "httpx2"):
        if name != httpx.__name__:
            monkeypatch.setitem(sys.modules, name, other)
    patch_libraries()
