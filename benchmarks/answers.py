"""Answering SWARM's calls from a list, in the ways a replay is compared with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answering(way: str, bodies: list[bytes]) -> Iterator[None]:
    """Answer the n-th call with the n-th body while the block runs.

    Args:
        way: ``floor``: no client. ``client``: the openai client without TLS contexts.
            ``client-tls``: the openai client as it is.
        bodies: Recorded answers, in order.
    """
    answers = iter(bodies)
    if way == "floor":
        from swarm.agents.llm_agent import LLMAgent

        async def answer(_self: Any, _system: str, _user: str) -> tuple[str, int, int]:
            document = json.loads(next(answers))
            usage = document["usage"]
            text = document["choices"][0]["message"]["content"]
            return text, usage["prompt_tokens"], usage["completion_tokens"]

        original = LLMAgent._call_llm_async
        LLMAgent._call_llm_async = answer
        try:
            yield
        finally:
            LLMAgent._call_llm_async = original
        return
    import openai

    name = openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
    library = sys.modules[name]
    transport = library.HTTPTransport
    kept = transport.__init__, transport.handle_request, transport.close

    def handle(_self: Any, request: Any) -> Any:
        body = next(answers)
        return library.Response(
            200, headers={"content-type": "application/json"}, content=body, request=request
        )

    transport.handle_request = handle
    if way == "client":
        transport.__init__ = lambda *_args, **_kwargs: None
        transport.close = lambda _self: None
    try:
        yield
    finally:
        transport.__init__, transport.handle_request, transport.close = kept
