"""A bench whose servers are scripts: their requests are noted, and a clock tells time.

Every answer takes one second of that clock, and starting a server takes a hundred, so that a test
can say which seconds are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.audit import lab as lab_module
from swarm_repro.audit.experiments import Answers
from swarm_repro.audit.lab import Bench, Lab
from swarm_repro.audit.prompts import Prompt
from swarm_repro.audit.settings import SETTINGS, Setting, Variant
from swarm_repro.completion import Completion
from swarm_repro.errors import BackendError
from swarm_repro.model import ModelBinding, ModelIdentity
from tests.support.audit_reports import answer

#: What a scripted server does with a request: its answer's text, or an error to raise.
Reply = Callable[["Asked"], str | BackendError]


@dataclass(frozen=True)
class Asked:
    """One request: its server (from 1), its number overall (from 1), and its prompt."""

    server: int
    number: int
    setting: str
    variant: Variant | None
    prompt: Prompt
    fields: Mapping[str, object]
    together: int = 0

    def __str__(self) -> str:
        said = [f"{self.server}:", self.prompt.name]
        said += [f"{name}={value}" for name, value in self.fields.items()]
        said += [f"({self.together} threads)"] if self.together else []
        return " ".join(said)


@dataclass
class Clock:
    """A clock that only requests to servers and their starts move."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Script:
    """The behaviour of servers, and their requests."""

    clock: Clock
    reply: Reply = lambda asked: f"answer {asked.number}"
    #: What goes wrong with the n-th start (from 1), if anything.
    start: Callable[[int], BackendError | None] = lambda _number: None
    starts: list[tuple[str, Variant | None]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    @property
    def log(self) -> list[str]:
        return [str(one) for one in self.asked]


@dataclass
class ScriptedAsker:
    bench: Bench
    script: Script
    setting: str
    variant: Variant | None
    server: int

    def ask(self, prompt: Prompt, **fields: object) -> Completion:
        return self._ask(prompt, fields, together=0)

    def ask_together(self, prompts: Sequence[Prompt], *, threads: int) -> list[Completion]:
        return [self._ask(prompt, {}, together=threads) for prompt in prompts]

    def _ask(self, prompt: Prompt, fields: Mapping[str, object], *, together: int) -> Completion:
        script = self.script
        number = len(script.asked) + 1
        asked = Asked(
            self.server, number, self.setting, self.variant, prompt, dict(fields), together
        )
        script.asked.append(asked)
        script.clock.now += 1.0
        said = script.reply(asked)
        if isinstance(said, BackendError):
            raise said
        self.bench.on_answer(prompt.weight)
        return answer(said)


class ScriptedLab(Lab):
    """A lab whose servers are scripts; all else is the real one's."""

    def __init__(self, bench: Bench, setting: Setting, script: Script) -> None:
        super().__init__(bench, setting)
        self._script = script

    @contextmanager
    def _served(self, variant: Variant | None) -> Iterator[ScriptedAsker]:
        script = self._script
        script.clock.now += 100.0
        script.starts.append((self.setting.name, variant))
        number = len(script.starts)
        failure = script.start(number)
        if failure is not None:
            raise failure
        self.bench.started += 1
        try:
            yield ScriptedAsker(self.bench, script, self.setting.name, variant, number)
        finally:
            script.ended.append(number)

    @contextmanager
    def _loaded(self) -> Iterator[ScriptedAsker]:
        with self._served(None) as asker:
            yield asker


@dataclass
class ScriptedBench(Bench):
    script: Script = field(default_factory=lambda: Script(Clock()))

    def lab(self, setting: Setting) -> Lab:
        return self._labs.setdefault(setting.name, ScriptedLab(self, setting, self.script))


def prompt(name: str, *, length: int = 0) -> Prompt:
    """A text prompt of 10 tokens at most, with a number of characters."""
    return Prompt(
        name=name,
        source="built in",
        endpoint="completion",
        body={"max_tokens": 10, "prompt": "x" * length, "seed": 7},
    )


PROMPTS = (prompt("act", length=300), prompt("accept", length=200), prompt("vote", length=100))


def setting(name: str) -> Setting:
    return next(one for one in SETTINGS if one.name == name)


def scripted_bench(monkeypatch: pytest.MonkeyPatch, **given: Any) -> ScriptedBench:
    """A bench of three prompts, with 2 threads and 3 answers to compare, on a clock of its own."""
    clock = Clock()
    monkeypatch.setattr(lab_module, "time", clock)
    return ScriptedBench(
        **{
            "model_path": Path("/models/m.gguf"),
            "binding": ModelBinding(
                name="m.gguf",
                backend="llama-server",
                identity=ModelIdentity("gguf", {"files": ["ab" * 32]}),
                template=None,
            ),
            "threads": 2,
            "n_ctx": 4096,
            "repeat": 3,
            "prompts": PROMPTS,
            "script": Script(clock),
            **given,
        }
    )


def texts(answers: Answers) -> dict[str, list[str]]:
    return {name: [one.text for one in found] for name, found in answers.items()}
