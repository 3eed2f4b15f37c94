"""Any sequence of recordings, crashes, resumptions and replays agrees with a plain dict."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import zstandard
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.cassette import archive, index_file
from swarm_repro.cassette import store as store_module
from swarm_repro.cassette.header import Header, SeedPolicy
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import open_cassette, read_cassette
from swarm_repro.cassette.store import (
    CassetteStore,
    open_for_recording,
    open_for_replay,
)
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendResponseError,
    CassetteAccessError,
    ReplayMiss,
    SwarmReproError,
)
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import LONG, TinyModel, ask, make_environment, make_run

#: What a call is known by here: scope, prompt, repeat. The machine never looks at a key.
Id = tuple[str, str, int]


@dataclass
class Entry:
    """What is known of a recorded call; ``i`` stands for the seed under the policy event."""

    i: int
    text: str


@dataclass
class Running:
    """The session that is open, as a dict sees it."""

    mode: Mode
    store: CassetteStore
    session: Session
    run: int
    used: dict[Id, Entry] = field(default_factory=dict)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    ordinal: Counter[str] = field(default_factory=Counter)


class Recordings(RuleBasedStateMachine):
    """Sessions on one cassette, one after the other."""

    #: Of the cassette; what it ends in says whether it is compressed.
    name = "c.jsonl"
    #: Whether replays open it as a large one, through an index.
    is_large = False

    scopes = st.sampled_from(["alice", "bob"])
    prompts = st.sampled_from(["hello", "bye", LONG])

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.cache = Path(tempfile.mkdtemp())
        self.path = self.folder / self.name
        self.patches = ExitStack()
        self.patches.enter_context(patch.dict(os.environ, {CACHE_VARIABLE: str(self.cache)}))
        if self.is_large:
            self.patches.enter_context(patch.object(store_module, "MAPPED_FROM_BYTES", 0))
            self.patches.enter_context(patch.object(index_file, "_RACY_NS", 0))
        self.model = TinyModel()
        self.kept: dict[Id, Entry] = {}
        self.part: dict[Id, Entry] | None = None
        self.runs: dict[int, set[Id]] = {}
        self.running: Running | None = None
        self.file: bytes | None = None
        self.lines: list[bytes] = []
        self.unchanged = True

    def teardown(self) -> None:
        if self.running is not None:
            self.running.store.close()
        self.patches.close()
        shutil.rmtree(self.folder)
        shutil.rmtree(self.cache)

    @initialize(policy=st.sampled_from(["event", "content", "as-is"]))
    def choose_policy(self, policy: SeedPolicy) -> None:
        self.header = Header(recorder="0.1.0", scenario="test", seed_policy=policy)

    # --- The world.

    @precondition(lambda self: self.running is None)
    @rule(wording=st.sampled_from(["fine", "fire"]), cpu=st.sampled_from(["a CPU", "another CPU"]))
    def another_model_or_machine(self, wording: str, cpu: str) -> None:
        self.model.wording = wording
        self.model.environment = make_environment(cpu)

    @precondition(lambda self: self.running is None and self.file is not None)
    @rule(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), keep=st.booleans())
    def damage_is_found_and_the_file_restored(self, at: float, bit: int, keep: bool) -> None:
        assert self.file is not None
        place = int(at * len(self.file))
        changed = bytearray(self.file)
        changed[place] ^= 1 << bit
        if self.is_harmless(bytes(changed)):
            return
        self.path.write_bytes(changed)
        with pytest.raises(SwarmReproError):
            self._add_nothing(keep=keep)
        if self.part is None:
            part_path(self.path).unlink(missing_ok=True)
        with pytest.raises(SwarmReproError):
            len(open_for_replay(self.path).calls())
        self.path.write_bytes(self.file)

    def is_harmless(self, changed: bytes) -> bool:
        """Whether a changed file says the same, byte for byte."""
        return changed == self.file

    def _add_nothing(self, *, keep: bool) -> None:
        with closing(open_for_recording(self.path, self.header, keep=keep)) as store:
            # Of a large one all is read at the end only.
            store.finish(used=[], run=None, keep=keep)

    @precondition(lambda self: self.running is None)
    @rule(at=st.floats(0, 1, exclude_max=True), cut=st.booleans())
    def damage_in_the_cache_directory(self, at: float, cut: bool) -> None:
        for path in self.cache.rglob("*"):
            if path.is_file() and path.stat().st_size:
                data = bytearray(path.read_bytes())
                place = int(at * len(data))
                data[place] ^= 1
                path.write_bytes(data[:place] if cut else data)

    # --- Sessions.

    @precondition(lambda self: self.running is None)
    @rule(run=st.sampled_from([1, 2]), discard=st.booleans())
    def record(self, run: int, discard: bool) -> None:
        if self.part and not discard:
            with pytest.raises(CassetteAccessError, match="--auto"):
                open_for_recording(self.path, self.header, keep=False)
            return
        self._open(Mode.RECORD, run, discard=discard)
        self.part = {}

    @precondition(lambda self: self.running is None)
    @rule(run=st.sampled_from([1, 2]))
    def auto(self, run: int) -> None:
        self._open(Mode.AUTO, run, discard=False)
        self.part = self.part or {}

    @precondition(lambda self: self.running is None and self.file is not None)
    @rule(run=st.sampled_from([1, 2]))
    def replay(self, run: int) -> None:
        store = open_for_replay(self.path)
        session = Session(mode=Mode.REPLAY, header=store.header, store=store, run_seed=7)
        self.running = Running(Mode.REPLAY, store, session, run)

    def _open(self, mode: Mode, run: int, *, discard: bool) -> None:
        store = open_for_recording(
            self.path, self.header, keep=mode is Mode.AUTO, discard_part=discard
        )
        # One seed for all runs: two run seeds in one file are another test's matter.
        session = Session(mode=mode, header=self.header, store=store, run_seed=7)
        self.running = Running(mode, store, session, run)

    # --- Calls.

    def _known(self, running: Running, call: Id, i: int) -> Entry | None:
        if running.mode is Mode.RECORD:
            return None
        entry = (self.part or {}).get(call) if running.mode is Mode.AUTO else None
        entry = entry or self.kept.get(call)
        if entry is not None and self.header.seed_policy == "event" and entry.i != i:
            return None
        return entry

    @precondition(lambda self: self.running is not None)
    @rule(who=scopes, prompt=prompts)
    def call(self, who: str, prompt: str) -> None:
        running = self.running
        assert running is not None
        n, i = running.made[who, prompt], running.ordinal[who]
        call = (who, prompt, n)
        known = self._known(running, call, i)
        if running.mode is Mode.AUTO and known is None and call in self.kept:
            with pytest.raises(CassetteAccessError, match="--cassette"):
                ask(running.session, self.model, prompt, who=who)
            return
        before = len(self.model.sent)
        if running.mode is Mode.REPLAY and known is None:
            with pytest.raises(ReplayMiss):
                ask(running.session, self.model, prompt, who=who)
            assert len(self.model.sent) == before
            with pytest.raises(ReplayMiss):  # tripped: nothing is served any more
                ask(running.session, self.model, prompt, who=who)
            running.store.close()
            self.running = None
            return
        answer = ask(running.session, self.model, prompt, who=who)
        if known is not None:
            assert answer.text == known.text
            assert len(self.model.sent) == before
            entry = known
        else:
            (sent,) = self.model.sent[before:]
            assert answer.text == self.model.says(sent)
            entry = Entry(i, answer.text)
            assert self.part is not None
            self.part[call] = entry
        running.used[call] = entry
        running.made[who, prompt] += 1
        running.ordinal[who] += 1

    @precondition(lambda self: self.running is not None and self.running.mode is not Mode.REPLAY)
    @rule(who=scopes, prompt=prompts, status=st.sampled_from([400, 500]))
    def failing_call(self, who: str, prompt: str, status: int) -> None:
        running = self.running
        assert running is not None
        call = (who, prompt, running.made[who, prompt])
        if self._known(running, call, running.ordinal[who]):
            return
        refused = running.mode is Mode.AUTO and call in self.kept
        self.model.trouble = lambda _number: Completion(status, "application/json", b"{}")
        try:
            with pytest.raises(CassetteAccessError if refused else BackendResponseError):
                ask(running.session, self.model, prompt, who=who)
        finally:
            self.model.trouble = lambda _number: None

    # --- Ends.

    @precondition(lambda self: self.running is not None)
    @rule(torn=st.integers(0, 40))
    def crash(self, torn: int) -> None:
        running = self.running
        assert running is not None
        running.store.close()
        self.running = None
        if running.mode is Mode.REPLAY:
            return
        with part_path(self.path).open("ab") as file:
            file.write(b'{"record":"call","scope":"alice","i":0,"n":0'[:torn])

    @precondition(lambda self: self.running is not None)
    @rule()
    def finish(self) -> None:
        running = self.running
        assert running is not None
        self.running = None
        if running.mode is Mode.REPLAY:
            running.store.close()
            return
        auto = running.mode is Mode.AUTO
        old_kept, old_runs, old_file = dict(self.kept), dict(self.runs), self.file
        used = running.session.ledger.used
        running.store.finish(used=used, run=make_run(used, seed=running.run), keep=auto)
        self.runs = {**(self.runs if auto else {}), running.run: set(running.used)}
        wanted = set().union(*self.runs.values())
        everything = {**self.kept, **(self.part or {})}
        self.kept = {call: everything[call] for call in wanted}
        self.part = None
        self.file = self.path.read_bytes()
        same_answers = self.kept == old_kept and self.runs == old_runs
        old_lines, new_lines = self.lines, self._lines()
        self.lines = new_lines
        known = self.model.environment.sha256.encode()
        if same_answers and old_file is not None and any(known in line for line in old_lines):
            old_lines = [line for line in old_lines if b'"witness"' not in line]
            new_lines = [line for line in new_lines if b'"witness"' not in line]
            assert new_lines[:-1] == old_lines[:-1], "an unchanged experiment changed the file"

    def _lines(self) -> list[bytes]:
        with open_cassette(self.path) as file:
            return file.readlines()

    # --- What always holds.

    @invariant()
    def the_file_is_what_the_last_clean_end_left(self) -> None:
        assert (self.path.read_bytes() if self.path.exists() else None) == self.file
        left = {path.name for path in self.folder.iterdir()} - {self.name, f"{self.name}.part"}
        assert not left

    @invariant()
    def the_file_holds_the_kept_calls_and_runs(self) -> None:
        if self.file is None:
            return
        found = read_cassette(self.path)
        assert _contents(found.calls.values()) == self.kept
        names = _names(found.calls.values())
        assert {run.seed: {names[call] for call in run.calls} for run in found.runs} == self.runs

    @invariant()
    def the_part_holds_each_call_as_soon_as_it_is_answered(self) -> None:
        part = part_path(self.path)
        assert part.exists() == (self.part is not None)
        if self.part is not None:
            found = read_part(part)
            assert found is not None
            assert _contents(found.cassette.calls.values()) == self.part


def _names(calls) -> dict[tuple[str, str, int], Id]:  # type: ignore[no-untyped-def]
    return {call.id: (call.scope, call.body["messages"][0]["content"], call.n) for call in calls}


def _contents(calls) -> dict[Id, Entry]:  # type: ignore[no-untyped-def]
    calls = list(calls)
    names = _names(calls)
    return {names[call.id]: Entry(call.i, call.completion.text) for call in calls}


class Archived(Recordings):
    """The same on an archive."""

    name = "c.jsonl.zst"

    def __init__(self) -> None:
        super().__init__()
        # Most of the time would be spent on packing small archives well.
        self.patches.enter_context(patch.object(archive, "_LEVEL", 1))

    def is_harmless(self, changed: bytes) -> bool:
        # Some bits of a frame mean nothing to who unpacks it, such as those for other tables.
        assert self.file is not None
        try:
            return unpack(changed) == unpack(self.file)
        except zstandard.ZstdError:
            return False


def unpack(packed: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(packed, read_across_frames=True) as reader:
        return reader.read()


class Indexed(Recordings):
    """The same on a cassette that replays open as a large one."""

    is_large = True


@pytest.mark.parametrize("machine", [Recordings, Archived, Indexed])
def test_any_sequence_of_sessions_agrees_with_a_dict(machine: type[Recordings]) -> None:
    examples = {Recordings: 60, Indexed: 30, Archived: 15}[machine]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=30, deadline=None),
    )
