"""The ``.part`` as a file: its holders, their turns, and paths that are no regular file."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.part_file import PartFile, is_held
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, open_session
from tests.support.tiny_model import HEADER, TinyModel, ask, recording


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl.part"


@pytest.fixture
def lock(path: Path) -> Path:
    return path.with_name("c.jsonl.part.lock")


@contextmanager
def just_before_a_lock(
    patch: pytest.MonkeyPatch, name: Path, work: Callable[[], object]
) -> Iterator[None]:
    """Do something once, between the opening of a file and its being locked."""
    real = fcntl.flock
    left = [work]

    def flock(descriptor: int, operation: int) -> None:
        if left and name.exists() and os.path.samestat(os.fstat(descriptor), name.stat()):
            left.pop()()
        real(descriptor, operation)

    with patch.context() as inner:
        inner.setattr(fcntl, "flock", flock)
        yield
    assert not left, "there was no such moment"


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock of a file, shared or not."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


# --- Files that are gone by the time they are locked.


@pytest.mark.parametrize("shared", [True, False])
def test_a_part_removed_meanwhile_is_begun_anew(
    shared: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    path.write_bytes(b"of another recording")
    with just_before_a_lock(monkeypatch, path, path.unlink):
        file = PartFile(path, shared=shared)
    with closing(file):
        assert file.size() == 0
        os.write(file.descriptor, b"ours")
        assert path.read_bytes() == b"ours", "it writes into the file that has the name"
        assert is_locked(path)
    assert open_files() == before


def test_a_part_replaced_meanwhile_is_held_in_its_new_form(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"of one recording")
    (tmp_path / "next").write_bytes(b"of the next")
    with just_before_a_lock(monkeypatch, path, lambda: (tmp_path / "next").replace(path)):
        file = PartFile(path, shared=False)
    with closing(file):
        assert file.size() == len(b"of the next")
        assert is_locked(path)


def test_a_recording_that_begins_while_another_ends_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cassette = path.with_name("c.jsonl")
    path.touch()
    with just_before_a_lock(monkeypatch, path, path.unlink), recording(cassette) as session:
        ask(session, TinyModel(), "a")
        assert b'"record":"call"' in path.read_bytes()
    assert len(read_cassette(cassette).calls) == 1


def test_a_turn_uses_the_lock_file_with_the_right_name(
    path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.touch()
    with just_before_a_lock(monkeypatch, lock, lock.unlink):
        file = PartFile(path, shared=True)
    with closing(file):
        for _ in range(2):
            with file.turn():
                assert is_locked(lock)
            assert not is_locked(lock)
            lock.unlink()  # as the last of those who shared an earlier recording does


def test_turns_leave_no_file_open(path: Path, lock: Path) -> None:
    before = open_files()
    with closing(PartFile(path, shared=True)) as file:
        for _ in range(3):
            with file.turn():
                lock.unlink()
        with pytest.raises(ZeroDivisionError), file.turn():
            _ = 1 / 0
        with file.turn():
            pass
    assert open_files() == before


def test_sharing_processes_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    did: list[str] = []
    #: The second has to wait for its turn, or has had it.
    arrived = threading.Event()

    def flock(descriptor: int, operation: int) -> None:
        try:
            real(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            arrived.set()
            real(descriptor, operation)

    with closing(PartFile(path, shared=True)) as one, closing(PartFile(path, shared=True)) as two:

        def follow() -> None:
            with two.turn():
                did.append("two")
            arrived.set()

        with one.turn():
            monkeypatch.setattr(fcntl, "flock", flock)
            thread = threading.Thread(target=follow, daemon=True)
            thread.start()
            assert arrived.wait(20)
            did.append("one")
        thread.join(20)
        assert did == ["one", "two"]


def test_an_exclusive_recording_has_no_turns(path: Path, lock: Path) -> None:
    with closing(PartFile(path, shared=False)) as file, file.turn():
        assert not lock.exists()
        assert file.is_alone()
        assert is_locked(path)


# --- Who else is there.


def test_a_sharing_process_knows_whether_it_is_alone(path: Path) -> None:
    with closing(PartFile(path, shared=True)) as one:
        assert one.is_alone()
        with closing(PartFile(path, shared=True)) as two:
            for file in (one, two, one):
                assert not file.is_alone()
        for _ in range(2):
            assert one.is_alone()
        # Having asked, it still shares.
        PartFile(path, shared=True).close()
        with pytest.raises(CassetteAccessError):
            PartFile(path, shared=False)


def test_a_sharing_process_overtaken_by_an_exclusive_one_gets_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH | fcntl.LOCK_NB:
            raise BlockingIOError
        real(descriptor, operation)

    with closing(PartFile(path, shared=True)) as file:
        monkeypatch.setattr(fcntl, "flock", flock)
        says = "another process is recording c.jsonl alone; wait for its end"
        with pytest.raises(CassetteAccessError) as caught:
            file.is_alone()
    assert str(caught.value) == says


@pytest.mark.parametrize("wants_to_share", [True, False])
def test_a_held_part_is_refused_with_advice(wants_to_share: bool, path: Path, lock: Path) -> None:
    says = {
        True: "another process is recording c.jsonl alone; wait for its end",
        False: "another process is recording c.jsonl; wait for its end, or let all who record it "
        "share it (shared=True)",
    }
    with closing(PartFile(path, shared=not wants_to_share)):
        before = open_files()
        with pytest.raises(CassetteAccessError) as caught:
            PartFile(path, shared=wants_to_share)
        assert str(caught.value) == says[wants_to_share]
        assert open_files() == before
        assert lock.exists() == (not wants_to_share), "who records alone has no turns"


def test_closing_releases_the_part_and_may_be_repeated(path: Path) -> None:
    file = PartFile(path, shared=True)
    file.close()
    assert file.descriptor == -1
    other = PartFile(path, shared=False)
    file.close()
    assert is_locked(path), "of another file it lets go of nothing"
    other.close()


def test_a_part_is_removed_with_its_lock(path: Path, lock: Path) -> None:
    with closing(PartFile(path, shared=True)) as file:
        assert path.exists()
        assert lock.exists()
        file.remove()
        assert not path.exists()
        assert not lock.exists()
        file.remove()


def test_a_cut_part_keeps_its_beginning(path: Path) -> None:
    with closing(PartFile(path, shared=False)) as file:
        os.write(file.descriptor, b"0123456789")
        file.cut(4)
        assert (file.size(), path.read_bytes()) == (4, b"0123")
        os.write(file.descriptor, b"x")
        assert path.read_bytes() == b"0123x"


# --- What is no file.


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "it is no file"),
        (os.mkdir, "Is a directory"),
        (make_link, "it is a link; remove it"),
    ],
    ids=["a pipe", "a folder", "a link"],
)
def test_a_part_that_is_no_regular_file_is_refused(
    make: Callable[[Path], Any], says: str, shared: bool, path: Path
) -> None:
    make(path)
    kind = os.lstat(path).st_mode
    before = open_files()
    for mode in (Mode.RECORD, Mode.AUTO):
        with pytest.raises(CassetteAccessError, match=re.escape(says)) as caught:
            open_session(
                path.with_name("c.jsonl"), mode=mode, header=HEADER, seed=7, owner="x",
                shared=shared,
            )  # fmt: skip
        assert str(caught.value) == f"{path} cannot be written: {says}"
    assert os.lstat(path).st_mode == kind
    assert open_files() == before
    assert not path.with_name("elsewhere").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [(os.mkfifo, "it is no file"), (make_link, "it is a link; remove it")],
    ids=["a pipe", "a link"],
)
def test_a_lock_that_is_no_regular_file_is_refused(
    make: Callable[[Path], Any], says: str, path: Path, lock: Path
) -> None:
    make(lock)
    before = open_files()
    with pytest.raises(CassetteAccessError, match=re.escape(says)):
        PartFile(path, shared=True)
    assert not path.exists()
    assert open_files() == before


def test_a_part_creates_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.jsonl.part"
    PartFile(path, shared=False).close()
    assert path.read_bytes() == b""


# --- From outside.


@pytest.mark.parametrize("shared", [True, False])
def test_a_part_is_held_from_its_opening_to_its_closing(shared: bool, path: Path) -> None:
    before = open_files()
    assert not is_held(path)
    file = PartFile(path, shared=shared)
    for _ in range(2):
        assert is_held(path)
    file.close()
    assert not is_held(path)
    assert open_files() == before


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_link])
def test_a_path_that_is_no_regular_file_is_held_by_nobody(
    make: Callable[[Path], Any], path: Path
) -> None:
    make(path)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_held(path)), daemon=True)
    thread.start()
    thread.join(20)
    assert found == [False], "it waits for somebody who writes into the pipe"


def test_asking_whether_a_part_is_held_does_not_disturb_its_recordings(path: Path) -> None:
    cassette = path.with_name("c.jsonl")
    one = open_session(cassette, mode=Mode.AUTO, header=HEADER, seed=7, shared=True)
    ask(one, TinyModel(), "a")
    assert is_held(path)
    two = open_session(cassette, mode=Mode.AUTO, header=HEADER, seed=7, shared=True)
    conclude(one)
    assert is_held(path)
    conclude(two)
    assert not is_held(path)
    assert len(read_cassette(cassette).calls) == 1
