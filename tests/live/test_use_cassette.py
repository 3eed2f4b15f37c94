"""The openai client in each of its forms, against a real llama-server, then without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from swarm_repro import use_cassette
from swarm_repro.serving.state import StartedServer

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9/v1"
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
    usage = {"include_usage": True}
    with client(url).chat.completions.with_streaming_response.create(
        **ASK, stream=True, stream_options=usage
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
    shape = {"type": "object", "properties": {"colour": {"type": "string", "maxLength": 9}}}
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
        return answer.content + "\n".join(said).encode()

    return asyncio.run(ask())


@pytest.mark.parametrize("form", [plain, streamed, events, completion, constrained, asynchronous])
def test_the_same_bytes_come_back_without_a_server(
    tmp_path: Path, llama_server: StartedServer, form: Callable[[str], bytes]
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        recorded = form(llama_server.base_url)
    assert recorded
    with use_cassette(path):
        assert form(NOWHERE) == recorded
    with use_cassette(path, mode="verify"):
        assert form(llama_server.base_url) == recorded
