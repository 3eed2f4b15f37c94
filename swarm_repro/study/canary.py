"""Before a study is recorded: would all workers answer alike?

Each is asked the same seeded question, and where it answers. Source: docs/guides/studies.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swarm_repro.backends.llama_cpp import LlamaCpp
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.errors import (
    BackendError,
    ExitCode,
    NotComparableError,
    SwarmReproError,
    UsageError,
)
from swarm_repro.masking import find_redaction
from swarm_repro.request import Request
from swarm_repro.serving.state import find_started_server
from swarm_repro.simulation.plan import Served
from swarm_repro.study.file import Run
from swarm_repro.study.worker import Task, own_port, served_by, versions, worker_name

#: Long enough to part where arithmetic differs; drawn, since that shows more than the likeliest.
_BODY: Mapping[str, Any] = {
    "messages": [
        {"role": "user", "content": "Name three animals, and say what each of them eats."}
    ],
    "temperature": 0.8,
    "max_tokens": 32,
    "seed": 7,
}


@dataclass(frozen=True)
class Canary:
    """What a worker said of itself.

    Attributes:
        worker: Its name.
        versions: What it must have alike with the others.
        answers: By the model's name: the answer's digest and what the environment is.
        failed: Why it cannot take part, and the exit code that says so; or None.
        port: Of its own llama-server, if it has one.
    """

    worker: str
    versions: Mapping[str, object]
    answers: Mapping[str, tuple[str, Mapping[str, object]]]
    failed: tuple[int, str] | None = None
    port: int | None = None


def sing(task: Task) -> Canary:
    """Ask this worker's models the canary's question; in a replay only what is installed."""
    answers: dict[str, tuple[str, Mapping[str, object]]] = {}
    failed = None
    try:
        if task.redact is not None:
            find_redaction(task.redact)
        if task.mode.calls_model:
            for name, backend in _backends(task.run, served_by(task.run, task)):
                bound = backend.identify(name)
                body = {**_BODY, "model": name, **backend.strict_fields()}
                answer = backend.send(Request("chat", bound.binding, backend.paths["chat"], body))
                environment = bound.environment.content if bound.environment else {}
                answers[name] = (answer.stable_sha256, environment)
    except SwarmReproError as error:
        failed = (int(error.exit_code), str(error))
    return Canary(worker_name(), versions(), answers, failed, own_port())


def _backends(run: Run, served: Served) -> Iterator[tuple[str, LlamaCpp | LlamaServer]]:
    """The models of a scenario, each once."""
    seen: set[tuple[str, str]] = set()
    for block in _blocks(yaml.safe_load(run.document)):
        path = block.get("model_path")
        if path:
            where = str(served.model_path or path)
            name = Path(path).name
        else:
            where = served.base_url or str(block.get("base_url") or "http://localhost:8080/v1")
            name = str(block.get("model") or "default")
        if (name, where) in seen:
            continue
        seen.add((name, where))
        yield (
            name,
            LlamaCpp(where, n_threads=served.threads)
            if path
            else LlamaServer(where, started=find_started_server),
        )


def _blocks(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("llm"), dict):
            yield value["llm"]
        for member in value.values():
            yield from _blocks(member)
    elif isinstance(value, list):
        for item in value:
            yield from _blocks(item)


def require_alike(canaries: Sequence[Canary], *, here: Mapping[str, object]) -> None:
    """Refuse workers that would not give one another's results.

    Args:
        canaries: What they said.
        here: Versions of who asks.

    Raises:
        UsageError: One cannot take part, or has another version.
        BackendError: One cannot reach its model.
        NotComparableError: One answers otherwise than the others.
    """
    for canary in canaries:
        if canary.failed is not None:
            code, why = canary.failed
            kind = BackendError if code == ExitCode.BACKEND else UsageError
            raise kind(f"worker {canary.worker} cannot take part: {why}")
        if not canary.versions.get("hash_seed"):
            raise UsageError(
                f"worker {canary.worker} was started without PYTHONHASHSEED=0, so that sets have "
                "another order in it: start workers with PYTHONHASHSEED=0 in their environment"
            )
        for name in ("swarm_repro", "swarm_safety", "python"):
            if canary.versions.get(name) != here.get(name):
                raise UsageError(
                    f"worker {canary.worker} has {name} {canary.versions.get(name)}, and "
                    f"{here.get(name)} is here: install the same on all"
                )
    first = canaries[0] if canaries else None
    for canary in canaries[1:]:
        for name, (answer, environment) in canary.answers.items():
            if first is None or name not in first.answers:
                continue
            expected, environment_there = first.answers[name]
            if answer != expected:
                parts = sorted(
                    member
                    for member in {*environment, *environment_there}
                    if environment.get(member) != environment_there.get(member)
                )
                differs = (
                    f"their environments differ in {', '.join(parts)}"
                    if parts
                    else ("their environments look alike")
                )
                raise NotComparableError(
                    f"{canary.worker} answers a seeded question to {name} otherwise than "
                    f"{first.worker}: {differs}; record on workers of one kind"
                )
