"""Recordings that run: who may append, when a call counts, and what a failing disk does."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from swarm_repro.caller import scope
from swarm_repro.cassette import disk
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.part_file import PartFile, is_held
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import CassetteStore, open_for_recording
from swarm_repro.errors import (
    CassetteAccessError,
    ModelConflictError,
    ReplayMiss,
    UnplayedCallsError,
    UsageError,
)
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, describe_unplayed, open_session
from swarm_repro.session import Session
from tests.support.command import ROOT
from tests.support.tiny_model import (
    HEADER,
    TinyModel,
    ask,
    chat,
    completion_of,
    make_binding,
    recording,
    replaying,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def shared(path: Path, *, owner: str = "", mode: Mode = Mode.AUTO) -> Session:
    return open_session(path, mode=mode, header=HEADER, seed=7, owner=owner, shared=True)


def calls_in(path: Path) -> list[tuple[str, str]]:
    calls = read_cassette(path).calls.values()
    return sorted((call.scope, call.completion.text) for call in calls)


def beside(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir()}


# --- Several writers.


def test_the_last_of_those_who_share_a_recording_writes_the_cassette(path: Path) -> None:
    one, two = shared(path), shared(path)
    texts = [
        ask(session, TinyModel(), "a", who=who).text for session, who in ((one, "x"), (two, "y"))
    ]
    conclude(one)
    assert not path.exists()
    conclude(two)
    assert calls_in(path) == list(zip("xy", texts, strict=True))
    assert beside(path) == {"c.jsonl"}


def test_two_that_record_one_call_are_in_conflict_which_the_later_one_is_told(path: Path) -> None:
    one, two = shared(path), shared(path)
    first = ask(one, TinyModel(wording="first"), "a").text
    with pytest.raises(CassetteAccessError, match=r"meanwhile \(repeat 0\).*scope_prefix"):
        ask(two, TinyModel(wording="second"), "a")
    ask(two, TinyModel(), "b")
    conclude(one)
    with pytest.raises(CassetteAccessError, match="meanwhile"):
        conclude(two)  # whoever swallowed the error
    two.close()
    assert not path.exists(), "one of them came to no good end"
    found = read_part(part_path(path))
    assert found is not None
    assert len(found.cassette.calls) == 2
    with recording(path, mode=Mode.AUTO) as session:
        assert ask(session, TinyModel(), "a").text == first


def test_prefixes_keep_the_same_calls_of_two_processes_apart(path: Path) -> None:
    one, two = shared(path, owner="one"), shared(path, owner="two")
    for session in (one, two):
        for who in ("main", "alice"):
            ask(session, TinyModel(), "a", who=who)
    conclude(two)
    conclude(one)
    scopes = [scope for scope, _ in calls_in(path)]
    assert scopes == ["one", "one/alice", "two", "two/alice"]


def test_who_shares_records_anew_what_has_its_own_prefix(path: Path) -> None:
    with recording(path, header=HEADER) as session:
        for who in ("one", "one/alice", "ones", "two"):
            ask(session, TinyModel(wording="old"), "a", who=who)
    # Runs keep their calls; without one nothing does.
    found = read_cassette(path)
    store = open_for_recording(path, HEADER, keep=False)
    store.finish(used=found.calls, run=None, keep=False)
    one, two = shared(path, owner="one", mode=Mode.RECORD), shared(path, owner="two")
    ask(one, TinyModel(wording="new"), "a", who="main")
    ask(two, TinyModel(wording="new"), "b", who="main")
    conclude(one)
    conclude(two)
    words = [(scope, text.split()[0]) for scope, text in calls_in(path)]
    assert words == [("one", "new"), ("ones", "old"), ("two", "new"), ("two", "old")]


def test_all_of_a_shared_cassette_cannot_be_recorded_anew(path: Path) -> None:
    with pytest.raises(UsageError, match="scope_prefix"):
        shared(path, mode=Mode.RECORD)
    assert beside(path) == set()


def test_another_model_by_the_same_name_is_a_conflict(path: Path) -> None:
    with closing(shared(path)) as one, closing(shared(path)) as two:
        ask(one, TinyModel(), "a", who="x")
        with pytest.raises(ModelConflictError):
            ask(two, TinyModel(binding=make_binding(weights="f" * 64)), "a", who="y")


def test_what_was_there_when_a_block_began_is_served_to_it(path: Path) -> None:
    one, two = shared(path), shared(path)
    ask(one, TinyModel(), "a", who="x")
    conclude(one)
    late, model = shared(path), TinyModel()
    ask(late, model, "a", who="x")
    assert model.sent == []
    conclude(two)
    conclude(late)
    assert len(calls_in(path)) == 1


def test_a_process_that_dies_takes_nothing_with_it_and_is_named(path: Path) -> None:
    dead, alive = shared(path), shared(path)
    ask(dead, TinyModel(), "a", who="x")
    dead.close()
    ask(alive, TinyModel(), "a", who="y")
    with pytest.raises(CassetteAccessError, match=r"before it was done.*--auto"):
        conclude(alive)
    alive.close()
    model = TinyModel()
    again = shared(path)
    for who in ("x", "y"):
        ask(again, model, "a", who=who)
    conclude(again)
    assert model.sent == []
    assert [scope for scope, _ in calls_in(path)] == ["x", "y"]
    assert beside(path) == {"c.jsonl"}


def test_what_a_dying_process_left_half_written_is_cut_off_by_the_next(path: Path) -> None:
    one, two = shared(path), shared(path)
    ask(one, TinyModel(), "a", who="x")
    with part_path(path).open("ab") as file:
        file.write(b'{"record":"call","scope":"y","i"')
    ask(two, TinyModel(), "b", who="z")
    conclude(one)
    conclude(two)
    assert [scope for scope, _ in calls_in(path)] == ["x", "z"]


@pytest.mark.parametrize("first_shares", [True, False])
def test_who_shares_and_who_does_not_cannot_record_at_once(first_shares: bool, path: Path) -> None:
    def begin(*, share: bool) -> CassetteStore:
        return open_for_recording(path, HEADER, keep=True, shared=share)

    with closing(begin(share=first_shares)):
        before = beside(path)
        with pytest.raises(CassetteAccessError, match="another process is recording"):
            begin(share=not first_shares)
        assert beside(path) == before
    with closing(begin(share=not first_shares)):
        pass


def test_others_recordings_cannot_be_discarded(path: Path) -> None:
    with closing(shared(path)) as one:
        ask(one, TinyModel(), "a")
        with pytest.raises(CassetteAccessError, match="others are recording"):
            open_for_recording(path, HEADER, keep=True, shared=True, discard_part=True)
    assert read_part(part_path(path)) is not None


@pytest.mark.parametrize("is_shared", [True, False])
def test_calls_that_are_left_unplayed_may_be_others_where_a_cassette_is_shared(
    is_shared: bool, path: Path
) -> None:
    with recording(path) as session:
        for who in ("x", "y"):
            ask(session, TinyModel(), "a", who=who)
    replay = open_session(path, mode=Mode.REPLAY, header=HEADER, seed=7, shared=is_shared)
    ask(replay, TinyModel(), "a", who="x")
    if is_shared:
        conclude(replay)
        assert (replay.ledger.hits, describe_unplayed(replay)) == (1, None)
    else:
        with pytest.raises(UnplayedCallsError, match="1 of 2 calls"):
            conclude(replay)


def test_who_shares_a_cassette_still_answers_for_its_own_misses(path: Path) -> None:
    with recording(path) as session:
        ask(session, TinyModel(), "a")
    replay = shared(path, mode=Mode.REPLAY)
    with pytest.raises(ReplayMiss):
        ask(replay, TinyModel(), "another")
    with pytest.raises(ReplayMiss, match="asked 'another'"):
        conclude(replay)


# --- Locks end with their process.

HOLDER = """
import os, signal, sys
from pathlib import Path
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import HEADER, TinyModel, ask

store = open_for_recording(Path(sys.argv[1]), HEADER, keep=False)
session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
ask(session, TinyModel(), "a")
child = os.fork() if sys.argv[2] == "fork" else None
if not child:  # the child itself, which has let go of the lock by now, or who has none
    print(0 if child is None else os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("leaves_a_child", [True, False])
def test_the_lock_of_a_killed_process_is_gone_even_if_a_child_of_it_lives(
    leaves_a_child: bool, path: Path
) -> None:
    words = [sys.executable, "-c", HOLDER, str(path), "fork" if leaves_a_child else "alone"]
    holder = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(CassetteAccessError, match="another process is recording"):
            open_for_recording(path, HEADER, keep=True)
        holder.kill()
        holder.wait()
        model = TinyModel()
        with recording(path, mode=Mode.AUTO) as session:
            ask(session, model, "a")
        assert model.sent == []
    finally:
        holder.kill()
        holder.stdout.close()
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_cannot_append_to_its_parents_recording(path: Path) -> None:
    with recording(path) as session:
        ask(session, TinyModel(), "a")
        before = part_path(path).read_bytes()
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            said = "nothing was refused"
            try:
                ask(session, TinyModel(), "b", who="child")
            except CassetteAccessError as error:
                said = str(error)
            os.write(theirs, said.encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as told:
            assert "this process was forked" in told.read()
        os.waitpid(child, 0)
        assert part_path(path).read_bytes() == before
        ask(session, TinyModel(), "b")
    assert len(calls_in(path)) == 2


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "precious.txt"
    other.write_text("precious")
    part_path(path).symlink_to(other)
    for mode in (Mode.RECORD, Mode.AUTO):
        with (
            pytest.raises(CassetteAccessError, match="it is a link; remove it"),
            recording(path, mode=mode),
        ):
            pass
    assert other.read_text() == "precious"


def test_a_part_that_another_program_changes_is_not_written_on(path: Path) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
        ask(session, TinyModel(), "a")
        os.truncate(part_path(path), 10)
        with pytest.raises(CassetteAccessError, match="changed by another program"):
            ask(session, TinyModel(), "b")


# --- When a call counts.


@contextmanager
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[int], threading.Event]]:
    """A disk on which nothing is synced before the event is set; and what was synced."""
    synced: list[int] = []
    goes_on = threading.Event()
    real = disk.sync

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        assert goes_on.wait(60)
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", sync)
        try:
            yield synced, goes_on
        finally:
            goes_on.set()  # whatever failed, nobody waits for it


def test_calls_that_wait_for_the_disk_at_once_wait_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording(path) as session:
        ask(session, TinyModel(), "first")
        begun = part_path(path).stat().st_size
        with ThreadPoolExecutor(8) as pool, slow_disk(monkeypatch) as (synced, goes_on):
            waiting = [
                pool.submit(ask, session, TinyModel(), "a", who=f"agent_{n}") for n in range(8)
            ]
            # All of them are written, though the first has not come to the disk.
            until = time.monotonic() + 20
            while part_path(path).read_bytes().count(b'"record":"call"') < 9:
                assert not any(one.done() for one in waiting)
                assert time.monotonic() < until, "a call waits for the disk before it is written"
            assert len(synced) == 1
            assert begun < synced[0]
            goes_on.set()
            assert len({one.result().text for one in waiting}) == 8
        assert len(synced) <= 2, "the other seven took one turn"


def test_an_event_loop_goes_on_while_the_disk_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_thread(work):  # type: ignore[no-untyped-def]
        return await asyncio.to_thread(work)

    async def settle(session: Session) -> str:
        model = TinyModel()
        bound = session.bind("tiny", model)
        call = session.begin(chat("a", binding=bound.binding))
        settling = asyncio.create_task(
            session.settle_async(
                call, completion_of("fine"), prompt_sha256=None, in_thread=in_thread
            )
        )
        with slow_disk(monkeypatch) as (synced, goes_on):
            while not synced:  # a thread tells
                assert not settling.done(), "nobody waits for the disk"
                await asyncio.sleep(0)
            assert not settling.done()
            goes_on.set()
            return (await settling).text

    with recording(path) as session, scope("alice"):
        assert asyncio.run(settle(session)) == "fine"
    assert calls_in(path) == [("alice", "fine")]


def test_after_a_failing_disk_nothing_more_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _recorded(path)

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = open_for_recording(path, HEADER, keep=False)
    with closing(store):
        session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
        ask(session, TinyModel(), "kept")
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", fail)
            with pytest.raises(CassetteAccessError, match="Input/output error"):
                ask(session, TinyModel(), "lost")
        # The disk says that all is well again. What it lost it does not say.
        with pytest.raises(CassetteAccessError, match="Input/output error"):
            ask(session, TinyModel(), "more")
        assert store.in_part == 1
        with pytest.raises(CassetteAccessError):
            conclude(session)
    assert path.read_bytes() == before
    with recording(path, mode=Mode.AUTO) as session:
        model = TinyModel()
        ask(session, model, "kept")
        assert model.sent == []


def _recorded(path: Path) -> bytes:
    with recording(path) as session:
        ask(session, TinyModel(wording="old"), "kept")
    return path.read_bytes()


def test_a_disk_that_is_read_only_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _recorded(path)
    real = os.open

    def refuse(target: str | os.PathLike[str], flags: int, *args: int, **kwargs: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(target, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(CassetteAccessError, match="Read-only file system"):
            open_for_recording(path, HEADER, keep=True)
    assert path.read_bytes() == before
    ask(replaying(path), TinyModel(), "kept")


def test_a_file_is_held_until_it_is_closed(path: Path) -> None:
    held = PartFile(part_path(path), shared=False)
    with pytest.raises(CassetteAccessError, match="shared=True"):
        PartFile(part_path(path), shared=False)
    held.close()
    PartFile(part_path(path), shared=False).close()


def test_who_ends_lets_go_of_the_file_before_the_next_has_its_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PartFile(part_path(path), shared=True)
    closed: list[int] = []
    close = os.close

    def closing(one: int) -> None:
        closed.append(one)
        close(one)

    monkeypatch.setattr(os, "close", closing)
    with file.turn():
        held, turns = file.descriptor, file._turns
        file.close()
    assert closed == [held, turns]


def test_a_part_is_held_as_long_as_somebody_records_into_it(path: Path) -> None:
    assert not is_held(part_path(path))
    file = PartFile(part_path(path), shared=True)
    assert is_held(part_path(path))
    file.close()
    assert not is_held(part_path(path))
    assert part_path(path).exists()
