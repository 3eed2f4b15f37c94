"""Recording into a large cassette: the same file as from memory, and no more memory for it."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.cassette import index_file, store, writer
from swarm_repro.cassette.call_sets import NumberedCalls, all_of, those_in
from swarm_repro.cassette.changes import Changes
from swarm_repro.cassette.header import SeedPolicy
from swarm_repro.cassette.lines import decode_line, encode_line
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.errors import CassetteDamagedError, ReplayMiss
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    make_environment,
    make_run,
    recording,
    replaying,
)

SCOPES = ("alice", "bob", "carol")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "_RACY_NS", 0)


@contextmanager
def session_on(
    path: Path, *, keep: bool, policy: SeedPolicy, finish: Callable[[Session], Changes]
) -> Iterator[Session]:
    header = replace(HEADER, seed_policy=policy)
    opened = open_for_recording(path, header, keep=keep)
    try:
        mode = Mode.AUTO if keep else Mode.RECORD
        session = Session(mode=mode, header=header, store=opened, run_seed=7)
        yield session
        finish(session)
    finally:
        opened.close()


def recorded_before(path: Path, policy: SeedPolicy) -> None:
    """Two runs, of which the second has its own calls and some of the first's."""
    for seed, words in enumerate((range(12), range(8, 20))):

        def finish(session: Session, seed: int = seed) -> Changes:
            assert session.store is not None
            used = session.ledger.used
            return session.store.finish(used=used, run=make_run(used, seed=seed), keep=True)

        with session_on(path, keep=True, policy=policy, finish=finish) as session:
            for number in words:
                for who in SCOPES:
                    ask(session, TinyModel(), f"{LONG} {number}", who=who, seed=number)


def recorded_into(
    path: Path, *, keep: bool, policy: SeedPolicy, has_run: bool, owner: str
) -> tuple[bytes, Changes]:
    """Record into a cassette again: same, other and new answers, in another environment."""
    changes = Changes()

    def finish(session: Session) -> Changes:
        nonlocal changes
        assert session.store is not None
        used = session.ledger.used
        run = make_run(used, seed=1) if has_run else None
        changes = session.store.finish(used=used, run=run, keep=keep, owner=owner)
        return changes

    other = TinyModel(environment=make_environment("another CPU"))
    drifted = TinyModel(environment=other.environment, wording="well")
    with session_on(path, keep=keep, policy=policy, finish=finish) as session:
        for number in (0, 1, 10, 19, 30):
            for who in (*SCOPES[1:], "dave"):
                model = drifted if number == 10 else other
                ask(session, model, f"{LONG} {number}", who=who, seed=number)
    return path.read_bytes(), changes


@pytest.mark.parametrize("policy", ["event", "content"])
@pytest.mark.parametrize(
    ("keep", "has_run", "owner"),
    [
        (True, True, ""),
        (True, False, ""),
        (False, True, ""),
        (False, False, ""),
        (False, False, "bob"),
    ],
)
def test_it_ends_as_a_recording_into_any_other_cassette_does(
    policy: SeedPolicy,
    keep: bool,
    has_run: bool,
    owner: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = []
    for name, least in (("in-memory", 1 << 30), ("large", 0)):
        path = tmp_path / name / "c.jsonl"
        with monkeypatch.context() as patch:
            patch.setattr("time.perf_counter", lambda: 0.0)
            recorded_before(path, policy)
            patch.setattr(store, "MAPPED_FROM_BYTES", least)
            results.append(
                recorded_into(path, keep=keep, policy=policy, has_run=has_run, owner=owner)
            )
    (expected, before), (found, after) = results
    assert found == expected
    assert (after.added, after.replaced, after.unchanged) == (
        before.added,
        before.replaced,
        before.unchanged,
    )
    assert (len(after.dropped), set(after.dropped)) == (len(before.dropped), set(before.dropped))
    assert after.added
    assert bool(after.unchanged) is not keep
    assert bool(after.dropped) is (has_run or not keep)
    read_cassette(tmp_path / "large" / "c.jsonl")


def records_held() -> int:
    return sum(isinstance(one, CallRecord) for one in gc.get_objects())


def test_its_end_holds_a_few_calls_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        for number in range(600):
            ask(session, TinyModel(), f"{LONG} {number}")
    monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    gc.collect()
    before = records_held()  # of other tests
    held: list[int] = []
    lines = 0
    real = writer.encode_text

    def encode_text(text: str) -> bytes:
        nonlocal lines
        lines += 1
        if lines % 100 == 0:
            held.append(records_held())
        return real(text)

    monkeypatch.setattr(writer, "encode_text", encode_text)
    with recording(path, mode=Mode.AUTO, run_seed=8) as session:
        for number in range(5):
            ask(session, TinyModel(), f"new {number}")
    assert len(read_cassette(path).calls) == 605
    assert len(held) >= 6
    assert max(held) - before < 30


def sealed(lines: list[bytes]) -> bytes:
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = encode_line({"record": "end", "records": len(lines), "sha256": digest})
    return b"".join([*lines, end])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        for number in range(6):
            ask(session, TinyModel(), f"{LONG} {number}", who=SCOPES[number % 3])
    return path


def test_calls_that_are_in_no_order_are_put_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = path.read_bytes()
    lines = expected.splitlines(keepends=True)[:-1]
    texts = [line for line in lines if line.startswith(b'{"record":"text"')]
    calls = [line for line in lines if line.startswith(b'{"record":"call"')]
    head, tail = lines[: lines.index(texts[0])], lines[lines.index(calls[-1]) + 1 :]
    path.write_bytes(sealed([*head, *texts, *reversed(calls), *tail]))
    monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    with recording(path, mode=Mode.AUTO, run_seed=8) as session:
        ask(session, TinyModel(), "new", who="alice")
    written = read_cassette(path)
    order = [call.order for call in written.calls.values()]
    assert order == sorted(order)
    assert len(order) == 7


@pytest.mark.parametrize("is_large", [True, False])
def test_a_text_that_is_missing_ends_no_recording_with_a_traceback(
    is_large: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)[:-1]
    texts = [line for line in lines if line.startswith(b'{"record":"text"')]
    path.write_bytes(sealed([line for line in lines if line != texts[-1]]))
    before = path.read_bytes()
    if is_large:
        monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    with (
        pytest.raises(CassetteDamagedError, match="text"),
        recording(path, mode=Mode.AUTO, run_seed=8) as session,
    ):
        ask(session, TinyModel(), "new")
    assert path.read_bytes() == before
    assert path.with_name("c.jsonl.part").exists(), "what was recorded stays"


def test_a_miss_in_it_names_the_nearest_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        with pytest.raises(ReplayMiss, match="nearest recorded call") as miss:
            ask(replaying(path), TinyModel(), f"{LONG} 8", who="bob")
        return str(miss.value)

    expected = said()
    monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    assert said() == expected
    assert "of bob" in expected


def test_sets_of_its_calls_are_those_of_any_other(path: Path) -> None:
    large, small = open_mapped(path).calls, read_cassette(path).calls
    ids = list(small)
    everything = all_of(large)
    assert isinstance(everything, NumberedCalls)
    some = those_in(large, frozenset({ids[4], ids[0], ("nobody", ids[0][1], 0)}), frozenset())
    assert list(some) == [ids[0], ids[4]]
    assert list(everything - some) == [ids[1], ids[2], ids[3], ids[5]]
    assert list(some - everything) == []
    assert list(some - (everything - some)) == [ids[0], ids[4]]
    assert list(those_in(large, some, everything - frozenset(ids[1:]))) == [ids[0], ids[4]]
    assert [one in some for one in ids] == [True, False, False, False, True, False]


def test_runs_keep_their_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls_by_run() -> dict[tuple[object, ...], set[object]]:
        return {run.id: set(run.calls) for run in read_cassette(path).runs}

    before = calls_by_run()
    monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    with recording(path, mode=Mode.AUTO, run_seed=8) as session:
        ask(session, TinyModel(), f"{LONG} 9", who="bob")
        ask(session, TinyModel(), "first by name", who="aaron")
    after = calls_by_run()
    assert len(after) == 2
    assert {key: after[key] for key in before} == before
    numbers = [decode_line(line) for line in path.read_bytes().splitlines(keepends=True)]
    old, new = [record["calls"] for record in numbers if record["record"] == "run"]
    # By name: aaron's call, alice's two, bob's new one and his two, carol's two.
    assert old == [[1, 3], [4, 8]]
    assert new == [[0, 1], [3, 4]]


@pytest.mark.parametrize("is_large", [True, False])
def test_of_calls_in_no_order_those_that_stay_take_the_places_of_those_that_go(
    is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.jsonl"
    header = replace(HEADER, seed_policy="content")
    for words in (["first", "second"], ["second"]):
        if is_large:
            monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
        with recording(path, header=header) as session:
            for word in words:
                ask(session, TinyModel(), word)
    (call,) = read_cassette(path).calls.values()
    assert call.i == 0
