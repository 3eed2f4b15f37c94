"""Completions, cells and settings for the tests of the audit."""

from __future__ import annotations

import json
import math
from typing import Any

from swarm_repro.audit.experiments import EXPERIMENTS, Experiment
from swarm_repro.audit.report import Cell, MeasuredSetting
from swarm_repro.completion import Completion


def answer(*tokens: str, logprobs: tuple[float, ...] | None = None) -> Completion:
    """A chat completion of these tokens, with logprobs if they are given."""
    choice: dict[str, Any] = {
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "".join(tokens)},
    }
    if logprobs is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "bytes": list(token.encode()),
                    "logprob": logprob,
                    "top_logprobs": [
                        {"token": token, "bytes": list(token.encode()), "logprob": logprob},
                        {"token": " or", "bytes": list(b" or"), "logprob": math.log(0.01)},
                    ],
                }
                for token, logprob in zip(tokens, logprobs, strict=True)
            ]
        }
    return Completion(200, "application/json", json.dumps({"choices": [choice]}).encode())


def streamed(*tokens: str) -> Completion:
    events = [
        json.dumps({"choices": [{"index": 0, "delta": {"content": token}}]}) for token in tokens
    ]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
    return Completion(200, "text/event-stream", body.encode())


def calling(name: str, arguments: str) -> Completion:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", **call}]}
    return Completion(
        200, "application/json", json.dumps({"choices": [{"message": message}]}).encode()
    )


def cell(setting: str, experiment: str, distinct: int | None = 1, **more: Any) -> Cell:
    """A cell that is done, or, with ``distinct=None``, what ``more`` says."""
    if distinct is None:
        return Cell(setting=setting, experiment=experiment, **more)
    return Cell(
        setting=setting,
        experiment=experiment,
        status="done",
        distinct=distinct,
        of=5,
        worst_prompt="act",
        seconds=1.0,
        **more,
    )


def measured(name: str, *, in_process: bool = False) -> MeasuredSetting:
    return MeasuredSetting(
        name=name,
        what=f"what {name} is",
        flags=() if in_process else ("-np", "1"),
        request={"cache_prompt": False},
        command="" if in_process else f"swarm-repro server start --profile {name}",
    )


def experiments(*names: str) -> list[Experiment]:
    return [one for one in EXPERIMENTS if one.name in names]
