"""A backend that a program calls itself, with a session and without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from swarm_repro.backends.base import Backend, Bound, DirectCalls
from swarm_repro.completion import Completion
from swarm_repro.errors import BackendResponseError
from swarm_repro.request import Endpoint, Request
from tests.support.tiny_model import completion_of, make_binding, make_environment

MESSAGES = [{"role": "user", "content": "Hi"}]


@dataclass
class Scripted(DirectCalls):
    paths: ClassVar[Mapping[Endpoint, str]] = {"chat": "/chat", "completion": "/complete"}
    says: Completion = field(default_factory=lambda: completion_of("yes"))
    sent: list[Request] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def address(self) -> str:
        return "here"

    def identify(self, name: str) -> Bound:
        return Bound(make_binding(name=name), make_environment())

    def strict_fields(self) -> dict[str, object]:
        return {}

    def check_strict(self) -> None:
        """Fine."""

    def close(self) -> None:
        """Nothing."""

    def send(self, request: Request) -> Completion:
        self.sent.append(request)
        self.threads.append(threading.current_thread())
        return self.says

    def render(self, request: Request) -> Callable[[], str | None]:
        return lambda: None


@dataclass
class Recording:
    """The part of a session that a backend needs: writes calls down."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def call(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
    ) -> Completion:
        self.calls.append((backend, endpoint, model, path, body))
        return completion_of("recorded")


def test_without_a_session_the_model_is_called() -> None:
    backend = Scripted()
    assert backend.chat(MESSAGES, seed=3).text == "yes"
    backend.complete("Once", model="small", seed=4)
    backend.complete((1, 2))
    assert [(one.endpoint, one.path, dict(one.body), one.binding.name) for one in backend.sent] == [
        ("chat", "/chat", {"messages": MESSAGES, "seed": 3}, "default"),
        ("completion", "/complete", {"prompt": "Once", "seed": 4}, "small"),
        ("completion", "/complete", {"prompt": [1, 2]}, "default"),
    ]
    assert type(backend.sent[2].body["prompt"]) is list


def test_an_invalid_completion_is_an_error_with_the_path() -> None:
    backend = Scripted(says=Completion(500, "application/json", b'{"error":{"message":"no"}}'))
    with pytest.raises(BackendResponseError, match="/chat") as raised:
        backend.chat(MESSAGES)
    assert raised.value.status == 500


def test_with_a_session_the_session_is_called() -> None:
    backend, session = Scripted(), Recording()
    assert backend.chat(MESSAGES, model="m", session=session, seed=3).text == "recorded"
    assert backend.complete("Once", session=session).text == "recorded"
    assert backend.sent == []
    assert session.calls == [
        (backend, "chat", "m", "/chat", {"messages": MESSAGES, "seed": 3}),
        (backend, "completion", "default", "/complete", {"prompt": "Once"}),
    ]


def test_messages_are_those_at_the_time_of_the_call() -> None:
    session = Recording()
    messages = [{"role": "user", "content": "Hi"}]
    Scripted().chat(messages, session=session)
    messages[0]["content"] = "changed"
    assert session.calls[0][4] == {"messages": MESSAGES}


def test_beside_an_event_loop_calls_are_made_in_a_thread() -> None:
    backend, session = Scripted(), Recording()

    async def main() -> list[str]:
        answers = [
            await backend.chat_async(MESSAGES, model="m", seed=3),
            await backend.complete_async("Once", model="m", seed=4),
            await backend.chat_async(MESSAGES, model="m", session=session, seed=5),
            await backend.complete_async("Once", model="m", session=session, seed=6),
        ]
        return [answer.text for answer in answers]

    assert asyncio.run(main()) == ["yes", "yes", "recorded", "recorded"]
    assert [(one.path, dict(one.body), one.binding.name) for one in backend.sent] == [
        ("/chat", {"messages": MESSAGES, "seed": 3}, "m"),
        ("/complete", {"prompt": "Once", "seed": 4}, "m"),
    ]
    assert [call[1:] for call in session.calls] == [
        ("chat", "m", "/chat", {"messages": MESSAGES, "seed": 5}),
        ("completion", "m", "/complete", {"prompt": "Once", "seed": 6}),
    ]
    assert threading.main_thread() not in backend.threads
