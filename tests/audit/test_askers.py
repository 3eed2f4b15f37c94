"""Requests sent to a model, and the errors when no completion comes back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from swarm_repro.audit.askers import InProcessAsker, ServerAsker
from swarm_repro.audit.prompts import Prompt
from swarm_repro.backends.llama_cpp import LlamaCpp
from swarm_repro.completion import Completion
from swarm_repro.errors import BackendError, BackendResponseError
from swarm_repro.request import Request
from tests.support.audit_reports import answer
from tests.support.scripted_server import DONE, Asked, chat_event, scripted_server
from tests.support.server_records import ended_server, this_process_as_a_server
from tests.support.tiny_model import make_binding

CHAT = Prompt(
    name="act",
    source="built in",
    endpoint="chat",
    body={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "seed": 1},
)
PLAIN = Prompt(
    name="plain", source="built in", endpoint="completion", body={"prompt": "Hi", "seed": 1}
)


@contextmanager
def asking(
    answer_with: Callable[[Asked], None], *, gone: bool = False, **request: object
) -> Iterator[tuple[ServerAsker, list[Asked], list[float]]]:
    weights: list[float] = []
    with scripted_server(answer_with) as server:
        asker = ServerAsker(
            ended_server(server.port) if gone else this_process_as_a_server(server.port),
            binding=make_binding(),
            request=request,
            on_answer=weights.append,
        )
        with closing(asker):
            yield asker, server.asked, weights


def says(asked: Asked) -> None:
    asked.json({"choices": [{"message": {"content": json.loads(asked.body).get("seed")}}]})


def bodies(asked: list[Asked]) -> list[dict[str, Any]]:
    return [json.loads(one.body) for one in asked]


def test_a_chat_goes_out_with_the_settings_fields_and_logprobs() -> None:
    with asking(says, cache_prompt=False) as (asker, asked, weights):
        asker.ask(CHAT)
        asker.ask(CHAT, seed=3, cache_prompt=True)
        asker.ask(CHAT, logprobs=None, top_logprobs=None, seed=None)
    shown = {"logprobs": True, "top_logprobs": 5}
    assert bodies(asked) == [
        {**CHAT.body, "cache_prompt": False, **shown},
        {**CHAT.body, "cache_prompt": True, **shown, "seed": 3},
        {"messages": CHAT.body["messages"], "max_tokens": 10, "cache_prompt": False},
    ]
    assert {one.path for one in asked} == {"/v1/chat/completions"}
    assert weights == [CHAT.weight] * 3


def test_a_plain_completion_asks_for_logprobs_in_its_own_way() -> None:
    with asking(says) as (asker, asked, _):
        assert asker.ask(PLAIN).status == 200
    assert bodies(asked) == [{**PLAIN.body, "logprobs": 5}]
    assert asked[0].path == "/v1/completions"


def test_a_field_of_the_setting_wins_over_the_prompts_and_one_of_the_call_over_both() -> None:
    with asking(says, seed=8, max_tokens=2) as (asker, asked, _):
        asker.ask(CHAT, max_tokens=3)
    body = bodies(asked)[0]
    assert (body["seed"], body["max_tokens"]) == (8, 3)


def test_several_prompts_are_asked_at_a_time_and_answered_in_their_order() -> None:
    prompts = [
        Prompt(
            name=str(number),
            source="built in",
            endpoint="chat",
            body={"messages": [{"role": "user", "content": "Hi"}], "seed": number},
        )
        for number in range(6)
    ]
    together = threading.Barrier(3, timeout=20)  # no answer before three have come

    def hold(asked: Asked) -> None:
        together.wait()
        says(asked)

    with asking(hold, cache_prompt=False) as (asker, asked, weights):
        answers = asker.ask_together(prompts, threads=3)
    seeds = [json.loads(one.body)["choices"][0]["message"]["content"] for one in answers]
    assert seeds == list(range(6))
    assert {body["cache_prompt"] for body in bodies(asked)} == {False}
    assert {body["top_logprobs"] for body in bodies(asked)} == {5}
    assert len(weights) == 6


def test_each_thread_has_a_connection_of_its_own() -> None:
    with asking(says) as (asker, asked, _):
        asker.ask_together([CHAT] * 4, threads=1)
        alone = {id(one._handler) for one in asked}
        assert len(alone) == 1
        assert len(asked) == 4


def test_an_error_in_one_of_several_requests_is_raised() -> None:
    def third_fails(asked: Asked) -> None:
        if json.loads(asked.body)["seed"] == 2:
            asked.json({"error": {"message": "too long"}}, status=400)
        else:
            says(asked)

    prompts = [
        Prompt(name="p", source="s", endpoint="chat", body={"messages": [], "seed": number})
        for number in range(4)
    ]
    with asking(third_fails) as (asker, _, _), pytest.raises(BackendResponseError, match="400"):
        asker.ask_together(prompts, threads=2)


def test_an_invalid_completion_is_an_error_and_not_counted() -> None:
    with asking(lambda asked: asked.json({"error": {"message": "no"}}, status=500)) as asking_it:
        asker, _, weights = asking_it
        with pytest.raises(BackendResponseError, match="500"):
            asker.ask(CHAT)
        assert weights == []
    with asking(lambda asked: asked.json({"nothing": 1})) as (asker, _, weights):
        with pytest.raises(BackendResponseError):
            asker.ask(CHAT)
        assert weights == []


def test_a_broken_connection_says_whether_the_server_is_still_there() -> None:
    with asking(Asked.reset) as (asker, _, _), pytest.raises(BackendError) as raised:
        asker.ask(CHAT)
    assert str(raised.value) == (
        f"llama-server (process {os.getpid()}) broke the connection, but is still there; its log is"
        " /logs/8080.log"
    )
    with asking(Asked.reset, gone=True) as (asker, _, _), pytest.raises(BackendError) as raised:
        asker.ask(CHAT)
    assert str(raised.value) == (
        f"llama-server (process {os.getpid()}) ended while it was asked; its log is /logs/8080.log"
    )


def test_an_error_names_the_server_that_has_ended() -> None:
    def fail(asked: Asked) -> None:
        asked.json({"error": {"message": "no"}}, status=500)

    with (
        asking(fail, gone=True) as (asker, _, _),
        pytest.raises(BackendError, match="ended while it was asked"),
    ):
        asker.ask(CHAT)


def test_no_request_goes_out_on_a_connection_that_was_streamed_over() -> None:
    connections: list[tuple[bool, int]] = []

    def answer_with(asked: Asked) -> None:
        streams = bool(json.loads(asked.body).get("stream"))
        connections.append((streams, asked._handler.client_address[1]))
        if streams:
            asked.answer(chat_event("Hi") + DONE, "text/event-stream")
        else:
            says(asked)

    with asking(answer_with) as (asker, _, weights):
        assert asker.ask(CHAT, stream=True).text == "Hi"
        asker.ask(CHAT)
        asker.ask(CHAT)
    (_, first), (_, second), (_, third) = connections
    assert first != second == third
    assert len(weights) == 3


@dataclass
class InMemory(LlamaCpp):
    """A model in process with a list of answers."""

    asked: list[Request] = field(default_factory=list)
    says: Completion = field(default_factory=lambda: answer("yes"))

    def send(self, request: Request) -> Completion:
        self.asked.append(request)
        return self.says


def test_in_process_a_prompt_goes_out_as_it_is_and_without_logprobs() -> None:
    weights: list[float] = []
    model = InMemory()
    binding = make_binding()
    asker = InProcessAsker(model, binding=binding, on_answer=weights.append)
    assert asker.ask(CHAT, seed=5).text == "yes"
    assert [one.text for one in asker.ask_together([PLAIN, CHAT], threads=2)] == ["yes", "yes"]
    first = model.asked[0]
    assert (first.endpoint, first.path, first.body) == (
        "chat",
        "create_chat_completion",
        {**CHAT.body, "seed": 5},
    )
    assert first.binding is binding
    assert sorted(one.path for one in model.asked[1:]) == [
        "create_chat_completion",
        "create_completion",
    ]
    assert sorted(weights) == sorted([CHAT.weight, PLAIN.weight, CHAT.weight])


def test_in_process_an_invalid_completion_is_an_error() -> None:
    weights: list[float] = []
    model = InMemory(says=Completion(200, "application/json", b'{"nothing":1}'))
    asker = InProcessAsker(model, binding=make_binding(), on_answer=weights.append)
    with pytest.raises(BackendResponseError, match="create_chat_completion"):
        asker.ask(CHAT)
    assert weights == []


def three_prompts() -> list[Prompt]:
    return [
        Prompt(name=str(n), source="s", endpoint="completion", body={"prompt": "a", "seed": n})
        for n in range(3)
    ]


class Failing(InMemory):
    """Fails for seed 0; holds all other answers back until it is released."""

    go_on = threading.Event()
    waited_in_vain = False

    def send(self, request: Request) -> Completion:
        if request.seed == 0:
            raise BackendError("cut")
        self.waited_in_vain |= not self.go_on.wait(5)
        return super().send(request)


def test_the_first_failure_is_raised_while_others_still_wait() -> None:
    model = Failing()
    model.go_on = threading.Event()
    asker = InProcessAsker(model, binding=make_binding(), on_answer=lambda _weight: None)
    with pytest.raises(BackendError, match="cut") as raised:
        asker.ask_together([*three_prompts(), *three_prompts()[1:]], threads=2)
    threads = [one for one in threading.enumerate() if one.name.startswith("audit")]
    model.go_on.set()
    for thread in threads:
        thread.join(5)
    assert not model.waited_in_vain
    assert not any(thread.is_alive() for thread in threads), "no thread stays behind"
    assert len(model.asked) <= 2, "who still waited for a thread is not asked"
    assert raised.value.exit_code == 4
