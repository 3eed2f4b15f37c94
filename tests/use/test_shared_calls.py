"""Identical seeded requests in flight at once: the model is asked once, every call is recorded."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from swarm_repro import scope, use_cassette
from swarm_repro.cassette.reader import read_cassette
from tests.support.scripted_server import DONE, Asked, chat_event, scripted_server

httpx: ModuleType = importlib.import_module(
    openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
)
CHAT = "/v1/chat/completions"
COUNT = 6


def body(*, seed: int | None = 7, **members: Any) -> dict[str, Any]:
    return {
        "model": "any",
        "messages": [{"role": "user", "content": "hi"}],
        "seed": seed,
        **members,
    }


class Gathered:
    """Answers when the test says so; every answer is another one."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.faults: list[int] = []
        self._lock = threading.Lock()
        self._number = 0

    def __call__(self, asked: Asked) -> None:
        with self._lock:
            number, self._number = self._number, self._number + 1
            fault = self.faults.pop(0) if self.faults else 200
        self.arrived.release()
        assert self.may_answer.wait(20)
        text = f"answer {number}"
        if fault != 200:
            asked.json({"error": {"message": "told to fail", "code": fault}}, status=fault)
        elif json.loads(asked.body).get("stream"):
            asked.begin_stream()
            asked.send(chat_event(text))
            asked.send(DONE)
            asked.end_stream()
        else:
            asked.json({"choices": [{"index": 0, "message": {"content": text}}]})


def in_threads(session: Any, gathered: Gathered, ask: Callable[[str], Any]) -> list[Any]:
    """Ask at once, each in a scope of its own; the model answers when all of them wait."""
    names = [f"agent_{number}" for number in range(COUNT)]

    def in_scope(name: str) -> Any:
        with scope(name):
            return ask(name)

    with ThreadPoolExecutor(COUNT) as pool:
        futures = [pool.submit(in_scope, name) for name in names]
        while sum(session.in_flight().values()) < COUNT:
            assert not any(future.done() and future.result() for future in futures)
        gathered.may_answer.set()
        return [future.result(30) for future in futures]


@pytest.mark.parametrize("stream", [False, True])
def test_threads_that_ask_the_same_at_once_share_one_answer(tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "c.jsonl"
    gathered = Gathered()
    asked = body(stream=stream)

    def ask(_name: str) -> bytes:
        content: bytes = httpx.post(server.root + CHAT, json=asked, timeout=30).content
        return content

    with scripted_server(gathered) as server:
        with use_cassette(path, mode="record") as session:
            answers = in_threads(session, gathered, ask)
        assert len(server.calls(CHAT)) == 1
        assert (session.ledger.called, session.ledger.shared) == (1, COUNT - 1)
        gathered.may_answer.clear()
        before = path.read_bytes()
        with use_cassette(path, mode="auto") as session:
            for number in range(COUNT):
                with scope(f"agent_{number}"):
                    assert ask("") == answers[0]
    assert len(set(answers)) == 1
    calls = list(read_cassette(path).calls.values())
    assert sorted(call.scope for call in calls) == [f"agent_{number}" for number in range(COUNT)]
    assert sorted(call.shared for call in calls) == [False] + [True] * (COUNT - 1)
    assert path.read_bytes() == before


def test_tasks_that_ask_the_same_at_once_share_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    gathered = Gathered()

    async def ask(one: Any, root: str, name: str) -> bytes:
        with scope(name):
            content: bytes = (await one.post(root + CHAT, json=body(), timeout=30)).content
            return content

    async def at_once(root: str) -> list[bytes]:
        async with httpx.AsyncClient() as one:
            tasks = [asyncio.create_task(ask(one, root, f"a{n}")) for n in range(64)]
            while sum(session.in_flight().values()) < len(tasks):  # noqa: ASYNC110 - no event says it
                await asyncio.sleep(0)
            gathered.may_answer.set()
            return list(await asyncio.gather(*tasks))

    with scripted_server(gathered) as server:
        with use_cassette(path, mode="record") as session:
            answers = asyncio.run(at_once(server.root))
        assert len(server.calls(CHAT)) == 1
    assert len(set(answers)) == 1
    assert len(read_cassette(path).calls) == 64


@pytest.mark.parametrize("mode", ["record", "live"])
def test_without_a_seed_every_answer_is_a_sample_of_its_own(tmp_path: Path, mode: str) -> None:
    gathered = Gathered()

    def ask(_name: str) -> str:
        answer = httpx.post(server.root + CHAT, json=body(seed=None), timeout=30).json()
        return str(answer["choices"][0]["message"]["content"])

    with scripted_server(gathered) as server:
        with use_cassette(tmp_path / "c.jsonl", mode=mode) as session:
            answers = in_threads(session, gathered, ask)
        assert len(server.calls(CHAT)) == COUNT
    assert sorted(answers) == [f"answer {number}" for number in range(COUNT)]


def test_when_the_one_in_flight_fails_another_asks(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    gathered = Gathered()
    gathered.faults = [500]

    def ask(_name: str) -> int:
        status: int = httpx.post(server.root + CHAT, json=body(), timeout=30).status_code
        if status == 500:
            status = httpx.post(server.root + CHAT, json=body(), timeout=30).status_code
        return status

    with scripted_server(gathered) as server:
        with use_cassette(path, mode="record") as session:
            assert in_threads(session, gathered, ask) == [200] * COUNT
        # The failed one, one for those who waited, and what its retry found in flight or not.
        assert 2 <= len(server.calls(CHAT)) <= 3
    assert {call.n for call in read_cassette(path).calls.values()} == {0}
    assert len(read_cassette(path).calls) == COUNT


def test_one_who_has_the_stream_open_does_not_wait_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    gathered = Gathered()
    gathered.may_answer.set()
    with scripted_server(gathered) as server, httpx.Client() as one:
        with use_cassette(path, mode="record"):
            with one.stream("POST", server.root + CHAT, json=body(stream=True)) as first:
                second = one.post(server.root + CHAT, json=body(stream=True)).content
                assert b"answer 1" in second
                assert b"answer 0" in first.read()
    assert sorted(call.n for call in read_cassette(path).calls.values()) == [0, 1]


def test_recording_again_in_another_order_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def echo(asked: Asked) -> None:
        said = json.loads(asked.body)["messages"][-1]["content"]
        asked.json({"choices": [{"index": 0, "message": {"content": f"you said {said}"}}]})

    def ask(text: str) -> None:
        messages = [{"role": "user", "content": text}]
        httpx.post(server.root + CHAT, json=body(messages=messages))

    with scripted_server(echo) as server:
        with use_cassette(path, mode="record"):
            ask("one")
            ask("two")
        before = path.read_bytes()
        with use_cassette(path, mode="record"):
            ask("two")
            ask("one")
        assert path.read_bytes() == before
        with use_cassette(path, mode="record"):
            ask("zero")
            ask("two")
            ask("one")
    order: dict[str, int] = {}
    for call in read_cassette(path).calls.values():
        messages: Any = call.body["messages"]
        order[messages[-1]["content"]] = call.i
    assert order == {"zero": 0, "two": 1, "one": 2}
