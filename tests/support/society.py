"""Agents who hear each other, recorded for real: each one's words are in the others' prompts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.compare.judge import Comparison
from swarm_repro.mode import Mode
from swarm_repro.request import Request
from swarm_repro.session import Session
from tests.support.tiny_model import PATH, TinyModel, completion_of, make_run

AGENTS = ("ada", "ben", "cleo")


@dataclass
class Society:
    """One recording to be made.

    Attributes:
        model: Answers.
        steps: How often each agent speaks.
        personas: System prompts that are not the usual ones.
        altered: Calls, as (agent, step), whose answer is another one: a planted root.
        deaf: Agents who hear nobody, so that nothing can follow in their calls.
        fields: Request fields of all calls.
        run_seed: Seed of the run.
    """

    model: TinyModel = field(default_factory=TinyModel)
    steps: int = 4
    personas: Mapping[str, str] = field(default_factory=dict)
    altered: Collection[tuple[str, int]] = ()
    deaf: Collection[str] = ()
    fields: Mapping[str, object] = field(default_factory=dict)
    run_seed: int = 7
    header: Header = field(default_factory=lambda: Header(recorder="0.1.0", scenario="society"))

    def record(self, path: Path) -> Path:
        """Run the society and record it."""
        store = open_for_recording(path, self.header, keep=False)
        step = 0
        session = Session(
            mode=Mode.RECORD,
            header=self.header,
            store=store,
            run_seed=self.run_seed,
            position=lambda: (0, step),
        )
        heard = ["nobody has spoken"]
        for step in range(self.steps):
            said = [
                f"{agent} said at {step}: {self._speak(session, agent, step, heard[-3:])}"
                for agent in AGENTS
            ]
            heard += said
        run = make_run(session.ledger.used, seed=self.run_seed)
        store.finish(used=session.ledger.used, run=run, keep=False)
        return path

    def _speak(self, session: Session, agent: str, step: int, heard: list[str]) -> str:
        persona = self.personas.get(agent, f"You are {agent}, a citizen.")
        lines = [f"It is step {step}.", *([] if agent in self.deaf else heard)]
        with scope(agent):
            bound = session.bind(self.model.binding.name, self.model)
            request = Request(
                endpoint="chat",
                binding=bound.binding,
                path=PATH,
                body={
                    "messages": [
                        {"role": "system", "content": persona},
                        {"role": "user", "content": "\n".join(lines)},
                    ],
                    "model": bound.binding.name,
                    **self.fields,
                },
                kind="act",
            )
            if (agent, step) in self.altered:
                other = completion_of(f"something else entirely, {agent} at {step}")
                return session.perform(request, lambda _: other).text
            return session.perform(request, self.model.send).text


@contextmanager
def comparing(a: Path, b: Path) -> Iterator[Comparison]:
    """Compare two files, which are open within the block."""
    with CassetteIndex(a) as one, CassetteIndex(b) as other:
        yield Comparison(one, other)
