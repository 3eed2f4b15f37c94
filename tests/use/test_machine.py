"""Threads and tasks record and replay in every mode, and get what a plain model says they must."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import openai
import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from swarm_repro import scope, use_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import DifferenceError, ReplayMiss, SwarmReproError, UnplayedCallsError
from tests.support.scripted_server import DONE, Asked, chat_event, scripted_server

httpx: ModuleType = importlib.import_module(
    openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
)
CHAT = "/v1/chat/completions"


class Ask(NamedTuple):
    """What is asked."""

    prompt: str
    seed: int | None
    stream: bool

    def body(self) -> dict[str, object]:
        messages = [{"role": "user", "content": self.prompt}]
        return {"model": "m", "messages": messages, "seed": self.seed, "stream": self.stream}


#: Scope, what is asked, and which repeat of it.
CallKey = tuple[str, Ask, int]
ASKS = st.builds(Ask, st.sampled_from(["a", "b"]), st.sampled_from([None, 1, 2]), st.booleans())
BATCHES = st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), ASKS), min_size=1, max_size=6)


class World:
    """The model behind it all: a seed decides its answer, without one no two are alike."""

    def __init__(self) -> None:
        self.version = 0
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def seeded(self, ask: Ask) -> str:
        return f"{ask.prompt} {ask.seed} in world {self.version}"

    def __call__(self, asked: Asked) -> None:
        document = json.loads(asked.body)
        prompt, seed = document["messages"][0]["content"], document["seed"]
        ask = Ask(prompt, seed, bool(document["stream"]))
        with self._lock:
            text = self.seeded(ask) if seed is not None else f"sample {next(self._numbers)}"
        if ask.stream:
            asked.begin_stream()
            for part in (chat_event(text), DONE):
                asked.send(part)
            asked.end_stream()
        else:
            asked.json({"choices": [{"index": 0, "message": {"content": text}}]})


def text_of(answer: object) -> str:
    content_type: str = answer.headers["content-type"]  # type: ignore[attr-defined]
    body: bytes = answer.content  # type: ignore[attr-defined]
    return Completion(200, content_type, body).text


class Cassettes(RuleBasedStateMachine):
    """One cassette file, opened again and again."""

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(folder) / "c.jsonl"
        self.world = World()
        self.server = self.stack.enter_context(scripted_server(self.world))
        self.stored: dict[CallKey, str] = {}
        self.seen: set[str] = set()
        self.use: use_cassette | None = None

    def teardown(self) -> None:
        if self.use is not None:
            self.use.end(judge=False)
        self.stack.close()

    @precondition(lambda self: self.use is None)
    @rule(mode=st.sampled_from(["record", "auto", "live", "replay", "verify"]))
    def open(self, mode: str) -> None:
        if mode in ("replay", "verify") and not self.path.exists():
            return
        # What an example left half recorded is thrown away, as its user would.
        self.use = use_cassette(self.path, mode=mode, discard=mode == "record")
        self.mode = mode
        self.use.__enter__()
        self.counts: Counter[tuple[str, Ask]] = Counter()
        self.made: dict[CallKey, str] = {}
        self.missed = False
        self.differs = False

    @precondition(lambda self: self.use is None)
    @rule()
    def another_world(self) -> None:
        """The model is another one: what it answers to a seed changes."""
        self.world.version += 1

    @precondition(lambda self: self.use is not None)
    @rule(batch=BATCHES, in_tasks=st.booleans())
    def ask_at_once(self, batch: list[tuple[str, Ask]], in_tasks: bool) -> None:
        expected = self._expected(batch)
        got = self._tasks(batch) if in_tasks else self._threads(batch)
        misses = any(wanted is ReplayMiss for _, wanted in expected)
        for call in set(batch):
            answers = sorted(map(str, (a for c, a in zip(batch, got, strict=True) if c == call)))
            wanted = [one for key, one in expected if key[:2] == call]
            if self.missed or misses:
                # The first miss ends it all; what was under way may have had its answer.
                allowed = {str(ReplayMiss), *map(str, wanted)}
                assert set(answers) <= allowed
            elif None not in wanted:
                assert answers == sorted(map(str, wanted))
            else:
                self._check_fresh(call[1], answers, [one for one in wanted if one is not None])
        self.missed = self.missed or misses
        if not self.missed:
            self._note(batch, expected, got)

    def _expected(self, batch: list[tuple[str, Ask]]) -> list[tuple[CallKey, object]]:
        """For each call the recorded answer, a miss, or None: what the world says."""
        found: list[tuple[CallKey, object]] = []
        counts = Counter(self.counts)
        for who, ask in batch:
            key = (who, ask, counts[who, ask])
            counts[who, ask] += 1
            recorded = self.stored.get(key)
            if self.mode in ("record", "live"):
                found.append((key, None))
            elif self.mode == "replay":
                found.append((key, recorded if recorded is not None else ReplayMiss))
            else:
                found.append((key, recorded))
        return found

    def _check_fresh(self, ask: Ask, answers: list[str], recorded: list[object]) -> None:
        fresh = list((Counter(answers) - Counter(map(str, recorded))).elements())
        if ask.seed is not None:
            assert set(fresh) <= {self.world.seeded(ask)}
        else:
            assert len(set(fresh)) == len(fresh)
            assert not set(fresh) & self.seen

    def _note(
        self,
        batch: list[tuple[str, Ask]],
        expected: list[tuple[CallKey, object]],
        got: list[object],
    ) -> None:
        for call in set(batch):
            keys = [(key, wanted) for key, wanted in expected if key[:2] == call]
            answers = [str(a) for c, a in zip(batch, got, strict=True) if c == call]
            self.counts[call] += len(keys)
            self.seen.update(answers)
            for key, wanted in keys:
                if self.mode == "verify":
                    world = self.world.seeded(call[1]) if call[1].seed is not None else None
                    self.differs = self.differs or wanted != world
                elif wanted is not None:
                    self.made[key] = str(wanted)
            if self.mode in ("record", "auto"):
                fresh = Counter(answers) - Counter(str(w) for _, w in keys if w is not None)
                new = [key for key, wanted in keys if wanted is None]
                # Which of several equal calls at once got which answer only the file says.
                self.made.update(dict(zip(new, fresh.elements(), strict=True)))
            if self.mode == "verify":
                self.made.update({key: "" for key, _ in keys})

    def _threads(self, batch: list[tuple[str, Ask]]) -> list[object]:
        def ask(call: tuple[str, Ask]) -> object:
            with scope(call[0]):
                try:
                    return text_of(httpx.post(self.server.root + CHAT, json=call[1].body()))
                except ReplayMiss:
                    return ReplayMiss

        with ThreadPoolExecutor(len(batch)) as pool:
            return list(pool.map(ask, batch))

    def _tasks(self, batch: list[tuple[str, Ask]]) -> list[object]:
        async def ask(client: object, call: tuple[str, Ask]) -> object:
            with scope(call[0]):
                try:
                    answer = await client.post(  # type: ignore[attr-defined]
                        self.server.root + CHAT, json=call[1].body()
                    )
                    return text_of(answer)
                except ReplayMiss:
                    return ReplayMiss

        async def all_of_them() -> list[object]:
            async with httpx.AsyncClient() as client:
                return list(await asyncio.gather(*(ask(client, call) for call in batch)))

        return asyncio.run(all_of_them())

    @precondition(lambda self: self.use is not None)
    @rule()
    def close(self) -> None:
        use, self.use = self.use, None
        assert use is not None
        expected: type[BaseException] | None = None
        if self.missed:
            expected = ReplayMiss
        elif self.mode in ("replay", "verify") and self.stored.keys() - self.made.keys():
            expected = UnplayedCallsError
        elif self.mode == "verify" and self.differs:
            expected = DifferenceError
        surfaced: BaseException | None = None
        try:
            use.end(judge=True)
        except (SwarmReproError, ReplayMiss) as error:
            surfaced = error
        assert type(surfaced) is (expected or type(None)), surfaced
        if self.mode == "record":
            self.stored = {}
        if self.mode in ("record", "auto"):
            self.stored.update(self.made)
            self._read_back()

    def _read_back(self) -> None:
        """The file holds what the model says; of equal calls at once it says who got what."""
        on_disk: dict[CallKey, str] = {}
        for call in read_cassette(self.path).calls.values():
            body = orjson.loads(orjson.dumps(call.body))
            ask = Ask(body["messages"][0]["content"], body["seed"], body["stream"])
            on_disk[call.scope, ask, call.n] = call.completion.text
        assert on_disk.keys() == self.stored.keys()
        for asked in {key[:2] for key in on_disk}:
            one = sorted(text for key, text in on_disk.items() if key[:2] == asked)
            assert one == sorted(text for key, text in self.stored.items() if key[:2] == asked)
        self.stored = on_disk


TestCassettes = Cassettes.TestCase
TestCassettes.settings = settings(
    max_examples=25, stateful_step_count=14, deadline=None, print_blob=True
)
