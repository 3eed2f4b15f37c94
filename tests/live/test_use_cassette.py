"""The openai client in each of its forms, against a real llama-server, then without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from swarm_repro import use_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.serving.llama_server import running_server
from swarm_repro.serving.state import StartedServer
from tests.conftest import threads
from tests.support.client_library import httpx

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9/v1"
#: llama-server closes a connection it has streamed over, and tells the client that it keeps it: the
#: next request may go out on it just then.
NONE_KEPT = httpx.Limits(max_keepalive_connections=0)
ASK: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 12,
    "seed": 7,
}


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def plain(url: str) -> bytes:
    return client(url).chat.completions.with_raw_response.create(**ASK).content


def streamed(url: str) -> bytes:
    with client(url).chat.completions.with_streaming_response.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    ) as response:
        return b"".join(response.iter_bytes())


def events(url: str) -> bytes:
    with client(url).chat.completions.create(**ASK, stream=True) as stream:
        return "\n".join(event.model_dump_json() for event in stream).encode()


def completion(url: str) -> bytes:
    return (
        client(url)
        .completions.with_raw_response.create(
            model="smollm2", prompt="Once upon a time", max_tokens=12, seed=7
        )
        .content
    )


def constrained(url: str) -> bytes:
    shape: dict[str, object] = {
        "type": "object",
        "properties": {"colour": {"type": "string", "maxLength": 9}},
    }
    return (
        client(url)
        .chat.completions.with_raw_response.create(
            **{**ASK, "max_tokens": 40},
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "colour", "schema": shape},
            },
            logprobs=True,
            top_logprobs=2,
        )
        .content
    )


def asynchronous(url: str) -> bytes:
    async def ask() -> bytes:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as one:
            answer = await one.chat.completions.with_raw_response.create(**ASK)
            stream = await one.chat.completions.create(**ASK, stream=True)
            said = [event.model_dump_json() async for event in stream]
        whole: bytes = answer.content
        return whole + "\n".join(said).encode()

    return asyncio.run(ask())


def several(url: str) -> bytes:
    """Tools, a grammar, more than one answer, and token ids for a prompt."""
    one = client(url)
    shape: dict[str, object] = {"type": "object", "properties": {"n": {}}}
    answers = [
        one.chat.completions.with_raw_response.create(
            **ASK,
            tools=[{"type": "function", "function": {"name": "pick", "parameters": shape}}],
        ),
        one.chat.completions.with_raw_response.create(
            **ASK, extra_body={"grammar": 'root ::= "yes" | "no"'}
        ),
        one.completions.with_raw_response.create(
            model="smollm2", prompt=[504, 260, 1379], max_tokens=4, seed=7
        ),
    ]
    return b"\n".join(answer.content for answer in answers)


def own_routes(url: str) -> bytes:
    """What llama-server has beside the OpenAI API."""
    root = url.removesuffix("/v1")
    with httpx.Client(timeout=60, limits=NONE_KEPT) as one:
        native = {"prompt": "Once upon", "n_predict": 6, "seed": 7}
        answers = [
            one.post(f"{root}/completion", json=native),
            one.post(f"{root}/completion", json={**native, "stream": True}),
            one.post(f"{root}/tokenize", json={"content": "hello"}),
            one.get(f"{root}/props"),
            one.get(f"{root}/health"),
            one.get(f"{url}/models"),
        ]
    assert {answer.status_code for answer in answers} == {200}
    return b"\n".join(answer.content for answer in answers)


def other_apis(url: str) -> bytes:
    """llama-server speaks Anthropic's and OpenAI's newer API too."""
    root = url.removesuffix("/v1")
    ask = {"model": "smollm2", "max_tokens": 8, "messages": ASK["messages"]}
    respond = {"model": "smollm2", "max_output_tokens": 8, "input": "Name a colour."}
    with httpx.Client(timeout=60, limits=NONE_KEPT) as one:
        answers = [
            one.post(f"{root}/v1/{path}", json={**body, "stream": stream})
            for path, body in (("messages", ask), ("responses", respond))
            for stream in (False, True)
        ]
    assert {answer.status_code for answer in answers} == {200}
    return b"\n".join(answer.content for answer in answers)


FORMS = [
    *(plain, streamed, events, completion, constrained, asynchronous),
    *(several, own_routes, other_apis),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bytes_come_back_without_a_server(
    tmp_path: Path, llama_server: StartedServer, form: Callable[[str], bytes]
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        recorded = form(llama_server.base_url)
    assert recorded
    with use_cassette(path):
        assert form(NOWHERE) == recorded
    if form is own_routes or form is other_apis:
        return  # unseeded, or with a date of today: another answer is no fault
    with use_cassette(path, mode="verify"):
        assert form(llama_server.base_url) == recorded


def test_embeddings_are_replayed(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def embed(url: str) -> bytes:
        with client(url) as one:
            return one.embeddings.with_raw_response.create(
                model="smollm2", input=["one", "two"]
            ).content

    flags = ["--embeddings", "--pooling", "mean"]
    with running_server(model_path, n_ctx=512, threads=threads(), extra_flags=flags) as server:
        use = use_cassette(path, mode="record")
        with use:
            recorded = embed(server.base_url)
    (call,) = read_cassette(path).calls.values()
    assert call.endpoint == "embedding"
    with use_cassette(path):
        assert embed(NOWHERE) == recorded


def test_more_than_one_answer_to_a_call_is_replayed(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def ask(url: str) -> list[str | None]:
        with client(url) as one:
            answer = one.chat.completions.create(**ASK, n=2)
        return [choice.message.content for choice in answer.choices]

    with running_server(
        model_path, n_ctx=1024, threads=threads(), profile="default-1slot", parallel=2
    ) as server:
        use = use_cassette(path, mode="record")
        with use:
            recorded = ask(server.base_url)
    assert len(recorded) == 2
    with use_cassette(path):
        assert ask(NOWHERE) == recorded
