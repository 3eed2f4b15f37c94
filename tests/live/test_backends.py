"""One contract for both backends, against the real llama-server and the real llama-cpp-python."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.backends.base import DirectCalls
from swarm_repro.backends.llama_cpp import LlamaCpp, unload_models
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.completion import same_but_volatile
from swarm_repro.errors import BackendResponseError, ReplayMiss, RequestError
from swarm_repro.mode import Mode
from swarm_repro.serving.state import StartedServer, find_started_server
from swarm_repro.session import Session
from swarm_repro.weights import hash_file
from tests.conftest import threads

pytestmark = pytest.mark.slow

MESSAGES = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is a cassette? Ünïcode and 🦙 too."},
]
SAMPLING: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "seed": 42}


@pytest.fixture(params=["llama-server", "llama-cpp-python"])
def backend(request: pytest.FixtureRequest, model_path: Path) -> Iterator[DirectCalls]:
    if request.param == "llama-server":
        server: StartedServer = request.getfixturevalue("llama_server")
        client = LlamaServer(server.base_url, started=find_started_server)
        yield client
        client.close()
    else:
        if find_spec("llama_cpp") is None:
            pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
        yield LlamaCpp(model_path, n_ctx=2048, n_threads=threads())
        unload_models()


def test_the_model_is_known_by_its_files_digest(backend: DirectCalls, model_path: Path) -> None:
    bound = backend.identify("small")
    assert bound.binding.name == "small"
    assert bound.binding.identity.kind == "gguf"
    assert bound.binding.identity.content["files"] == [hash_file(model_path)]
    assert bound.binding.template is not None
    assert bound.binding.sampling_defaults("chat")["top_k"] == 40
    content = bound.environment.content if bound.environment else {}
    assert content["cpu"]
    assert len(str(content["binary_sha256"])) == 64
    assert str(model_path.parent) not in str(content)


def test_a_chat_completion_has_text_and_token_counts(backend: DirectCalls) -> None:
    completion = backend.chat(MESSAGES, **SAMPLING)
    assert completion.status == 200
    assert completion.text
    usage = completion.usage
    assert usage.completion is not None
    assert 0 < usage.completion <= 12
    assert usage.prompt is not None
    assert usage.prompt > 20
    assert usage.total == usage.prompt + usage.completion
    assert completion.duration_s > 0


def test_a_plain_completion_takes_text_and_token_ids(backend: DirectCalls) -> None:
    text = backend.complete("Once upon a time", **SAMPLING)
    ids = backend.complete([9904, 3487, 253, 655], **SAMPLING)
    assert text.text
    assert ids.usage.completion


def test_one_seed_one_answer_whatever_was_asked_before(backend: DirectCalls) -> None:
    strict: dict[str, Any] = {**backend.strict_fields()}
    first = backend.chat(MESSAGES, **SAMPLING, **strict)
    backend.chat(
        [*MESSAGES[:1], {"role": "user", "content": "Something else"}], **SAMPLING, **strict
    )
    backend.complete("Once upon a time", **SAMPLING, **strict)
    again = backend.chat(MESSAGES, **SAMPLING, **strict)
    assert same_but_volatile(first, again)
    other = backend.chat(MESSAGES, **{**SAMPLING, "seed": 43}, **strict)
    assert not same_but_volatile(first, other)


def test_a_schema_constrains_the_answer(backend: DirectCalls) -> None:
    schema = {
        "type": "object",
        "properties": {"vote": {"enum": ["yes", "no"]}},
        "required": ["vote"],
    }
    completion = backend.chat(
        MESSAGES,
        **{**SAMPLING, "max_tokens": 40},
        response_format={"type": "json_object", "schema": schema},
    )
    answer = json.loads(completion.text)
    assert list(answer) == ["vote"]
    assert answer["vote"] in ("yes", "no")


def test_a_refused_call_is_an_error_and_not_a_completion(backend: DirectCalls) -> None:
    long = [{"role": "user", "content": "word " * 6000}]
    with pytest.raises(BackendResponseError):
        backend.chat(long, **SAMPLING)


def test_the_event_loop_is_not_blocked(backend: DirectCalls) -> None:
    async def call_and_count() -> int:
        call = asyncio.create_task(backend.chat_async(MESSAGES, **SAMPLING))
        turns = 0
        while not call.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert (await call).text
        return turns

    assert asyncio.run(call_and_count()) > 5


def test_recorded_and_replayed_to_the_same_bytes(backend: DirectCalls, tmp_path: Path) -> None:
    path = tmp_path / "direct.jsonl"
    header = Header(recorder="test", strict=True)
    store = open_for_recording(path, header, keep=False)
    session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=5)
    asked: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8}
    with scope("alice"):
        recorded = [backend.chat(MESSAGES, model="m", session=session, **asked) for _ in range(2)]
    store.finish(used=session.ledger.used, run=None, keep=False)
    assert recorded[0].text != recorded[1].text, "event seeds make repeats differ"

    replay = Session(mode=Mode.REPLAY, header=header, store=open_for_replay(path), run_seed=5)
    unreachable = (
        type(backend)("http://127.0.0.1:9/v1")
        if isinstance(backend, LlamaServer)
        else LlamaCpp("/nowhere/else/model.gguf")
    )
    with scope("alice"):
        for answer in recorded:
            again = unreachable.chat(MESSAGES, model="m", session=replay, **asked)
            assert (again.status, again.content_type, again.body) == (
                answer.status,
                answer.content_type,
                answer.body,
            )
        with pytest.raises(ReplayMiss):
            unreachable.chat(MESSAGES, model="m", session=replay, temperature=0.7, max_tokens=12)


def test_in_process_one_model_is_loaded_however_many_ask(model_path: Path) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
    from swarm_repro.backends import llama_cpp as module

    agents = [LlamaCpp(model_path, n_ctx=512, n_threads=1) for _ in range(3)]
    assert not module._shared, "nothing is loaded before the first call"
    answers: list[bytes] = []

    def ask(agent: LlamaCpp) -> None:
        answers.append(agent.complete("One, two,", max_tokens=4, seed=3).text.encode())

    start = [threading.Thread(target=ask, args=(agent,)) for agent in agents]
    for thread in start:
        thread.start()
    for thread in start:
        thread.join()
    assert len(set(answers)) == 1
    assert len(module._shared) == 1
    unload_models()
    assert not module._shared


def test_in_process_a_call_without_a_seed_is_refused(model_path: Path) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
    with pytest.raises(RequestError, match="needs a seed"):
        LlamaCpp(model_path, n_ctx=512).complete("One, two,", max_tokens=4)
    unload_models()


def test_in_process_a_schema_that_cannot_be_kept_is_refused_and_not_ignored(
    model_path: Path,
) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
    schema = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
    response_format = {"type": "json_object", "schema": schema}
    with pytest.raises(RequestError, match="cannot constrain"):
        LlamaCpp(model_path, n_ctx=512).chat(MESSAGES, **SAMPLING, response_format=response_format)
    unload_models()


def test_the_server_shows_the_rendered_prompt(llama_server: StartedServer) -> None:
    from swarm_repro.request import Request

    server = LlamaServer(llama_server.base_url)
    binding = server.identify("small").binding
    digests = {
        server.render(Request("chat", binding, "/v1/chat/completions", {"messages": messages}))()
        for messages in (MESSAGES, MESSAGES, MESSAGES[1:])
    }
    assert len(digests) == 2
    assert None not in digests
    server.close()


def test_a_server_that_is_gone_is_an_error() -> None:
    from swarm_repro.errors import BackendUnreachableError

    with pytest.raises(BackendUnreachableError, match=r"127\.0\.0\.1:9/"):
        LlamaServer("http://127.0.0.1:9/v1").identify("small")
