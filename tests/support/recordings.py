"""Recordings of single calls, each as a test needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header, SeedPolicy
from swarm_repro.cassette.records import At
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.completion import Completion
from swarm_repro.mode import Mode
from swarm_repro.request import Endpoint, Request
from swarm_repro.session import Session
from tests.support.tiny_model import PATH, TinyModel, completion_of, make_run


@dataclass(frozen=True)
class Call:
    """A call to be recorded, and its answer."""

    prompt: str
    answer: str | Completion = "fine"
    who: str = "ada"
    at: At | None = (0, 0)
    kind: str | None = "act"
    system: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    endpoint: Endpoint = "chat"
    path: str = PATH
    rendered: str | None = None

    @property
    def body(self) -> dict[str, object]:
        if self.endpoint == "embedding":
            return {"model": "tiny", "input": self.prompt, **self.fields}
        messages = [{"role": "user", "content": self.prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return {"model": "tiny", "messages": messages, **self.fields}


def record(
    path: Path,
    calls: Iterable[Call],
    *,
    seed: int = 7,
    policy: SeedPolicy = "event",
    run: bool = True,
    epochs: int = 1,
    steps: int = 9,
    model: TinyModel | None = None,
    metrics: Sequence[Mapping[str, object]] = ({"welfare": 0.5},),
    strict: bool = False,
) -> Path:
    """Record a run; a second one into the same file stays beside the first."""
    header = Header(recorder="0.1.0", scenario="scenes", seed_policy=policy, strict=strict)
    mode = Mode.AUTO if path.exists() else Mode.RECORD
    store = open_for_recording(path, header, keep=mode is Mode.AUTO)
    at: list[At | None] = [None]
    session = Session(mode=mode, header=header, store=store, run_seed=seed, position=lambda: at[0])
    model = model or TinyModel()
    for call in calls:
        at[0] = call.at
        with scope(call.who):
            request = Request(
                endpoint=call.endpoint,
                binding=session.bind(model.binding.name, model).binding,
                path=call.path,
                body=call.body,
                kind=call.kind,
            )
            answer = call.answer
            whole = answer if isinstance(answer, Completion) else completion_of(answer)
            session.perform(
                request,
                lambda _, whole=whole: whole,  # type: ignore[misc]
                render=lambda _, call=call: lambda: call.rendered,  # type: ignore[misc]
            )
    made = replace(
        make_run(session.ledger.used, seed=seed),
        epochs=epochs,
        steps=steps,
        metrics=tuple(metrics),
    )
    store.finish(used=session.ledger.used, run=made if run else None, keep=mode is Mode.AUTO)
    return path
