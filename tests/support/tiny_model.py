"""Small real parts for tests of the core: a model of a few lines, its cassettes, strategies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hypothesis import strategies as st

from swarm_repro.backends.base import Bound
from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.records import CallId
from swarm_repro.cassette.runs import Artifact, RunRecord
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.mode import Mode
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.request import Request
from swarm_repro.session import Session

NAME = "tiny"
PATH = "/v1/chat/completions"
DEFAULTS: Mapping[str, object] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
}


def make_binding(
    *,
    name: str = NAME,
    weights: str = "a" * 64,
    template: Mapping[str, str] | None = None,
    defaults: Mapping[str, object] = DEFAULTS,
) -> ModelBinding:
    return ModelBinding(
        name=name,
        backend="llama-server",
        identity=ModelIdentity("gguf", {"files": [weights]}),
        template={"sha256": "b" * 64} if template is None else template,
        defaults={"chat": defaults, "completion": defaults},
    )


def make_environment(cpu: str = "a CPU") -> Environment:
    return Environment({"backend": "llama-server", "build": "b1", "cpu": cpu})


def chat(
    prompt: str = "hello", *, binding: ModelBinding | None = None, **fields: object
) -> Request:
    return Request(
        endpoint="chat",
        binding=binding or make_binding(),
        path=PATH,
        body={"messages": [{"role": "user", "content": prompt}], "model": NAME, **fields},
    )


def completion_of(text: str, *, number: int = 0, **members: object) -> Completion:
    """A llama-server chat answer; ``number`` changes nothing but what is volatile."""
    document = {
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "created": 1_700_000_000 + number,
        "model": f"echo-{number}",
        "system_fingerprint": f"b{number}",
        "object": "chat.completion",
        "usage": {
            "completion_tokens": 3,
            "prompt_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "id": f"chatcmpl-{number}",
        "timings": {"predicted_ms": number + 0.5},
        **members,
    }
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Completion(200, "application/json; charset=utf-8", body, duration_s=0.25 + number / 1e3)


@dataclass
class TinyModel:
    """A backend whose answer follows from weights, messages and seed, as a strict server's does.

    Attributes:
        binding: What it says it is.
        environment: Where it says it runs.
        wording: A part of every answer: another one is a model that answers otherwise.
        sent: The requests that reached it.
        trouble: Takes the number of a call (from 0); raises or returns another answer.
    """

    binding: ModelBinding = field(default_factory=make_binding)
    environment: Environment = field(default_factory=make_environment)
    wording: str = "fine"
    sent: list[Request] = field(default_factory=list)
    trouble: Callable[[int], Completion | None] = lambda _number: None
    numbers: Iterator[int] = field(default_factory=count)
    strict_error: Exception | None = None

    @property
    def address(self) -> str:
        return "tiny"

    def identify(self, name: str) -> Bound:
        assert name == self.binding.name
        return Bound(self.binding, self.environment)

    def strict_fields(self) -> dict[str, object]:
        return {"cache_prompt": False}

    def check_strict(self) -> None:
        if self.strict_error is not None:
            raise self.strict_error

    def send(self, request: Request) -> Completion:
        self.sent.append(request)
        wrong = self.trouble(len(self.sent) - 1)
        return (
            completion_of(self.says(request), number=next(self.numbers)) if wrong is None else wrong
        )

    def says(self, request: Request) -> str:
        asked = json.dumps([request.body.get("messages"), request.body.get("seed"), self.wording])
        return f"{self.wording} {hashlib.sha256(asked.encode()).hexdigest()[:12]}"

    def render(self, request: Request) -> Callable[[], str | None]:
        digest = hashlib.sha256(str(request.body["messages"]).encode()).hexdigest()
        return lambda: digest

    def close(self) -> None:
        """Nothing is open."""


HEADER = Header(recorder="0.1.0", scenario="test")


def ask(
    session: Session,
    model: TinyModel,
    prompt: str = "hello",
    *,
    who: str = "alice",
    **fields: object,
) -> Completion:
    """One call, by the same steps as every way in."""
    with scope(who):
        bound = session.bind(model.binding.name, model)
        given = {**fields, **session.fields_for(model.strict_fields())}
        request = chat(prompt, binding=bound.binding, **given)
        return session.perform(request, model.send, render=model.render)


def make_run(used: Iterator[CallId] | Mapping[CallId, None], *, seed: int = 7) -> RunRecord:
    return RunRecord(
        scenario="test",
        scenario_sha256="c" * 64,
        seed=seed,
        epochs=1,
        steps=2,
        versions={"python": "3.11"},
        calls=frozenset(used),
        artifacts={"history.json": Artifact("d" * 64, "e" * 64)},
        metrics=({"welfare": 0.5},),
    )


@contextmanager
def recording(
    path: Path,
    *,
    mode: Mode = Mode.RECORD,
    header: Header = HEADER,
    run_seed: int = 7,
    trips: bool = False,
    discard: bool = False,
) -> Iterator[Session]:
    """A recording that ends well, unless the block raises or the session trips."""
    store = open_for_recording(path, header, keep=mode is Mode.AUTO, discard_part=discard)
    try:
        session = Session(mode=mode, header=header, store=store, run_seed=run_seed, trips=trips)
        yield session
        if session.tripped is None:
            run = make_run(session.ledger.used, seed=run_seed)
            store.finish(used=session.ledger.used, run=run, keep=mode is Mode.AUTO)
    finally:
        store.close()


def replaying(
    path: Path, *, mode: Mode = Mode.REPLAY, run_seed: int = 7, trips: bool = False
) -> Session:
    store = open_for_replay(path)
    return Session(mode=mode, header=store.header, store=store, run_seed=run_seed, trips=trips)


LONG = "A persona of more than two hundred and fifty-six bytes, so that it is kept apart. " * 4


def small_cassette(path: Path) -> TinyModel:
    """Three calls of two scopes, one with an interned text, one run, one witness."""
    model = TinyModel()
    for environment in (make_environment(), make_environment("another CPU")):
        model.environment = environment
        with recording(path) as session:
            ask(session, model, LONG)
            ask(session, model, "hello")
            ask(session, model, "hello", who="bob")
    return model


def json_values(*, floats: bool = True) -> st.SearchStrategy[object]:
    """JSON values as a client may send them, long strings and look-alike references included."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | texts()
        | (st.floats(allow_nan=False, allow_infinity=False) if floats else st.nothing())
    )
    names = st.sampled_from(["$text", "$$text", "a", "b", "data", "raw"]) | texts(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


def texts(*, max_size: int = 40) -> st.SearchStrategy[str]:
    """Texts without lone surrogates; now and then one that is long in bytes or in characters."""
    short = st.text(st.characters(exclude_categories=["Cs"]), max_size=max_size)
    if max_size < 40:
        return short
    return short | st.sampled_from(["x" * 255, "x" * 256, "é" * 128, "é" * 200, "🐝" * 64, LONG])
