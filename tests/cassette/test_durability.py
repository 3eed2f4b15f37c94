"""What reaches the disk, in which order: a call before its answer, a file before its name.

The calls of ``os`` that decide this are watched while they do their work. What is not synced is not
durable, however soon it can be read again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro.cassette import disk, part_writer
from swarm_repro.cassette.lines import decode_line
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.store import CassetteStore, Staged, open_for_recording, open_for_replay
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteAccessError
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, open_session
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    make_environment,
    make_run,
    recording,
    small_cassette,
)

#: A fault must fail a test, not hang it. Nothing here takes a thousandth of this.
PATIENCE_S = 20


class WatchedDisk:
    """The operations that reach one folder's files, in order, while the real ones run.

    Attributes:
        happened: What was done, as ``"sync c.jsonl.part"``. The folder itself is called by its
            name, and a temporary file ``temporary``.
        before: Told of each operation before it is done; may wait, or raise.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.before: Callable[[str], None] = lambda _what: None
        self._folder = folder
        #: By inode: how many bytes of a file have come to the disk.
        self._synced: dict[int, int] = {}
        self._watch(patch)

    def synced(self, path: Path) -> bytes:
        """The bytes of a file that are on the disk."""
        return path.read_bytes()[: self._synced.get(path.stat().st_ino, 0)]

    def fail_at(self, what: str, number: int = errno.EIO) -> None:
        """Let an operation fail, each time."""

        def before(operation: str) -> None:
            if operation == what:
                raise OSError(number, os.strerror(number))

        self.before = before

    def during(self, work: Callable[[], object]) -> list[str]:
        """The operations while some work is done."""
        start = len(self.happened)
        work()
        return self.happened[start:]

    def _watch(self, patch: pytest.MonkeyPatch) -> None:
        do_write, do_cut, do_sync, do_mkdir = os.write, os.ftruncate, os.fsync, os.mkdir
        do_remove, do_replace, do_chmod, do_control = os.unlink, os.replace, os.chmod, fcntl.fcntl

        def write(descriptor: int, data: Any) -> int:
            self._begin(f"write {self._name_of(descriptor)}")
            return do_write(descriptor, data)

        def cut(descriptor: int, length: int) -> None:
            if length < os.fstat(descriptor).st_size:
                self._begin(f"cut {self._name_of(descriptor)}")
            do_cut(descriptor, length)

        def sync(descriptor: int) -> None:
            self._sync(descriptor, lambda: do_sync(descriptor))

        def control(descriptor: int, command: int, *args: Any) -> Any:
            # macOS: the only way to get past the cache of the drive.
            if command != getattr(fcntl, "F_FULLFSYNC", None):
                return do_control(descriptor, command, *args)
            return self._sync(descriptor, lambda: do_control(descriptor, command, *args))

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            do_mkdir(path, *args, **kwargs)
            self._begin(f"make {Path(path).name}")

        def remove(path: Any, **kwargs: Any) -> None:
            if Path(path).exists():
                self._begin(f"remove {self._called(Path(path))}")
            do_remove(path, **kwargs)

        def put(source: Any, target: Any, **kwargs: Any) -> None:
            is_synced = self.synced(Path(source)) == Path(source).read_bytes()
            which = self._called(Path(source)) if is_synced else "what is not on the disk"
            self._begin(f"put {which} in the place of {Path(target).name}")
            do_replace(source, target, **kwargs)

        def chmod(path: Any, mode: int, **kwargs: Any) -> None:
            self._begin(f"chmod {self._called(Path(path))}")
            do_chmod(path, mode, **kwargs)

        patch.setattr(fcntl, "fcntl", control)
        watched = {
            "write": write, "ftruncate": cut, "fsync": sync, "fdatasync": sync, "mkdir": mkdir,
            "unlink": remove, "remove": remove, "replace": put, "rename": put, "chmod": chmod,
        }  # fmt: skip
        for name, wrapper in watched.items():
            patch.setattr(os, name, wrapper, raising=False)
            if sys.version_info < (3, 11):  # pathlib has bound them before
                patch.setattr(pathlib._normal_accessor, name, wrapper, raising=False)  # type: ignore[attr-defined]

    def _sync(self, descriptor: int, really: Callable[[], Any]) -> Any:
        name, known = self._name_of(descriptor), os.fstat(descriptor)
        self._begin(f"sync {name}")
        result = really()
        self._synced[known.st_ino] = max(known.st_size, self._synced.get(known.st_ino, 0))
        return result

    def _begin(self, what: str) -> None:
        self.before(what)
        self.happened.append(what)

    def _name_of(self, descriptor: int) -> str:
        """The present name of an open file or folder."""
        known = os.fstat(descriptor)
        for path in (self._folder, *self._folder.parents, *self._folder.iterdir()):
            if os.path.samestat(known, path.lstat()):
                return self._called(path)
        return "another file"

    @staticmethod
    def _called(path: Path) -> str:
        return "temporary" if path.name.startswith(".") else path.name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "c.jsonl"


@pytest.fixture
def watched(path: Path, monkeypatch: pytest.MonkeyPatch) -> WatchedDisk:
    return WatchedDisk(path.parent, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cassette:
    """A recording of ten calls, to stage again."""
    path = tmp_path_factory.mktemp("made") / "c.jsonl"
    with recording(path) as session:
        for number in range(10):
            ask(session, TinyModel(), f"{LONG if number % 3 == 0 else ''} {number}")
    return read_cassette(path)


def stage(store: CassetteStore, made: Cassette, number: int) -> Staged:
    call = list(made.calls.values())[number]
    return store.stage(call, made.models[call.model], made.envs[call.env])


def records_in(path: Path) -> list[dict[str, object]]:
    return [decode_line(line) for line in path.read_bytes().splitlines(keepends=True)]


class Task:
    """Work in a thread that cannot outlive the tests."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - told to who waits
            self.error = error

    def end(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error


class Gate:
    """Stops the first operation of a kind until it is opened, at the latest when the block ends."""

    def __init__(self, watched: WatchedDisk, what: str) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()
        self._failure: OSError | None = None
        self._what = what
        watched.before = self._stop

    def _stop(self, what: str) -> None:
        if what == self._what and not self._reached.is_set():
            self._reached.set()
            assert self._opened.wait(PATIENCE_S)
            if self._failure is not None:
                raise self._failure

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE_S), f"no {self._what}"

    def open(self, failure: OSError | None = None) -> None:
        self._failure = failure
        self._opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.set()


def asked_again(path: Path, *prompts: str) -> int:
    """How many earlier calls a resumed recording has to ask again."""
    model = TinyModel()
    with recording(path, mode=Mode.AUTO) as session:
        for prompt in prompts:
            ask(session, model, prompt)
    return len(model.sent)


# --- While a recording runs.


def test_a_recording_begins_with_its_header_and_its_name_on_the_disk(
    path: Path, watched: WatchedDisk
) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)):
        assert watched.happened == [
            "write c.jsonl.part", "sync c.jsonl.part", "sync folder",
        ]  # fmt: skip
        assert watched.synced(part_path(path)) == part_path(path).read_bytes()
        kinds = [record["record"] for record in records_in(part_path(path))]
        assert kinds == ["cassette", "batch"]


def test_the_folders_of_a_new_cassette_are_on_the_disk(path: Path, watched: WatchedDisk) -> None:
    inner = path.parent / "one" / "two" / "c.jsonl"
    with closing(open_for_recording(inner, HEADER, keep=False)):
        assert watched.happened[:4] == ["make one", "sync folder", "make two", "sync one"]


def test_a_folder_that_is_there_is_left_alone(path: Path, watched: WatchedDisk) -> None:
    disk.make_folder(path.parent)
    assert watched.happened == []


def test_a_folder_that_another_process_makes_meanwhile_is_on_the_disk_too(
    path: Path, watched: WatchedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_mkdir = os.mkdir

    def mkdir(folder: Path, *args: Any, **kwargs: Any) -> None:
        do_mkdir(folder, *args, **kwargs)
        do_mkdir(folder, *args, **kwargs)  # who comes second

    monkeypatch.setattr(os, "mkdir", mkdir)
    if sys.version_info < (3, 11):
        monkeypatch.setattr(pathlib._normal_accessor, "mkdir", mkdir)  # type: ignore[attr-defined]
    disk.make_folder(path.parent / "one")
    assert watched.happened == ["make one", "sync folder"]


def test_each_call_is_on_the_disk_before_its_answer_is_given(
    path: Path, watched: WatchedDisk
) -> None:
    with recording(path) as session:
        for number in range(3):
            did = watched.during(lambda number=number: ask(session, TinyModel(), f"{number}"))  # type: ignore[misc]
            assert did == ["write c.jsonl.part", "sync c.jsonl.part"]
            assert watched.synced(part_path(path)) == part_path(path).read_bytes()


def test_a_written_call_counts_once_it_is_synced(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        staged: list[Staged] = []
        assert watched.during(lambda: staged.append(stage(store, made, 0))) == [
            "write c.jsonl.part"
        ]
        assert (store.in_part, store.find(staged[0].call.id)) == (0, None)
        assert watched.during(staged[0].wait) == ["sync c.jsonl.part"]
        store.keep(staged[0])
        assert store.in_part == 1
        assert store.find(staged[0].call.id) == staged[0].call


def test_bytes_already_on_the_disk_are_not_synced_again(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        staged = [stage(store, made, number) for number in range(3)]
        assert watched.during(staged[2].wait) == ["sync c.jsonl.part"]
        for one in (*staged, *staged):
            assert watched.during(one.wait) == []


def test_a_batch_claims_only_bytes_that_are_on_the_disk(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    part = part_path(path)
    on_disk: list[int] = []

    def note(what: str) -> None:
        if what == "write c.jsonl.part":
            on_disk.append(len(watched.synced(part)))

    watched.before = note
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        stage(store, made, 0).wait()
        stage(store, made, 1)
        last = stage(store, made, 2)
        stage(store, made, 3)
        last.wait()
        stage(store, made, 4).wait()
    told = [record["synced"] for record in records_in(part) if record["record"] == "batch"]
    # One write each: the header, and five calls, of which two follow another without a sync.
    assert told == [on_disk[0], on_disk[1], on_disk[2], on_disk[5]]
    assert told == sorted({0, *on_disk}), "nothing is said twice"


def test_a_resumed_recording_syncs_its_additions(path: Path, watched: WatchedDisk) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        ask(Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7), TinyModel(), "a")
    with part_path(path).open("ab") as file:
        file.write(b'{"record":"text","te')
    begun: list[CassetteStore] = []
    did = watched.during(lambda: begun.append(open_for_recording(path, HEADER, keep=True)))
    with closing(begun[0]):
        assert did == [
            "cut c.jsonl.part", "write c.jsonl.part", "sync c.jsonl.part", "sync folder",
        ]  # fmt: skip
        assert watched.synced(part_path(path)) == part_path(path).read_bytes()


# --- Several that wait at once.


def test_a_second_caller_waits_for_the_sync_under_way(
    path: Path, watched: WatchedDisk, made: Cassette, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    #: The second has to wait, or did not.
    arrived = threading.Event()

    class Lock:
        """A lock that notes when somebody has to wait for it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            if not self._lock.acquire(blocking=False):
                did.append("waits")
                arrived.set()
                self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def come_second() -> None:
        two.wait()
        did.append("is on the disk")
        arrived.set()

    monkeypatch.setattr(part_writer, "threading", SimpleNamespace(Lock=Lock))
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        one, two = stage(store, made, 0), stage(store, made, 1)
        with Gate(watched, "sync c.jsonl.part") as gate:
            first = Task(one.wait)
            gate.wait_until_reached()
            second = Task(come_second)
            assert arrived.wait(PATIENCE_S)
            assert did == ["waits"]
            before = len(watched.happened)
            gate.open()
            first.end()
            second.end()
        assert watched.happened[before:] == ["sync c.jsonl.part"], "who waits at once waits once"
        assert watched.synced(part_path(path)) == part_path(path).read_bytes()


def test_bytes_written_during_a_sync_wait_for_the_next(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    late: list[Staged] = []
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        one = stage(store, made, 0)
        with Gate(watched, "sync c.jsonl.part") as gate:
            first = Task(one.wait)
            gate.wait_until_reached()
            Task(lambda: late.append(stage(store, made, 1))).end()  # who writes waits for nobody
            gate.open()
            first.end()
        on_disk = watched.synced(part_path(path))
        stage(store, made, 2)
        *_, note = [record for record in records_in(part_path(path)) if record["record"] == "batch"]
        assert note["synced"] == len(on_disk) < part_path(path).stat().st_size
        assert watched.during(late[0].wait) == ["sync c.jsonl.part"]
        assert watched.synced(part_path(path)) == part_path(path).read_bytes()


def test_a_sync_that_fails_fails_all_who_wait_for_it_and_all_who_come_later(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    says = rf"^{part_path(path)} cannot be written: Input/output error; free some space and go on "
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        kept = stage(store, made, 0)
        kept.wait()
        one, two = stage(store, made, 1), stage(store, made, 2)
        with Gate(watched, "sync c.jsonl.part") as gate:
            tasks = [Task(one.wait)]
            gate.wait_until_reached()
            tasks.append(Task(two.wait))
            before = len(watched.happened)
            gate.open(OSError(errno.EIO, os.strerror(errno.EIO)))
            for task in tasks:
                with pytest.raises(CassetteAccessError, match=says):
                    task.end()
        # The next sync would go well: of what was lost it says nothing.
        for late in (one.wait, two.wait, lambda: stage(store, made, 3)):
            with pytest.raises(CassetteAccessError, match=says):
                late()
        assert watched.happened[before:] == []
        kept.wait()  # what was on the disk before is so still


def test_calls_of_several_threads_are_on_the_disk_before_their_answers_are_given(
    path: Path, watched: WatchedDisk
) -> None:
    missing: list[str] = []

    def work(session: Session, who: str) -> None:
        for number in range(5):
            ask(session, TinyModel(), f"{number}", who=who)
            if watched.synced(part_path(path)).count(b'"scope":"%b"' % who.encode()) <= number:
                missing.append(f"call {number} of {who}")

    with recording(path) as session:
        tasks = [Task(lambda who=who: work(session, who)) for who in ("a", "b", "c")]  # type: ignore[misc]
        for task in tasks:
            task.end()
    assert missing == []
    assert len(read_cassette(path).calls) == 15


# --- At the end.

FINISH = [
    "sync temporary",
    "chmod temporary",
    "put temporary in the place of c.jsonl",
    "sync folder",
    "remove c.jsonl.part",
]


NOT_WRITTEN = "cannot be written: Input/output error; it is as it was before"
#: What is said where a step fails.
SAYS = {
    **dict.fromkeys(FINISH[:3], NOT_WRITTEN),
    "sync folder": "was written but could not be flushed to disk (Input/output error); it may be "
    "lost in a power failure. Check the disk and write it again",
}


def finish(store: CassetteStore, session: Session) -> None:
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst"])
@pytest.mark.parametrize("is_there", [True, False])
def test_the_cassette_is_on_the_disk_before_its_part_is_removed(
    is_there: bool, name: str, path: Path, watched: WatchedDisk
) -> None:
    path = path.with_name(name)
    if is_there:
        small_cassette(path)
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    ask(session, TinyModel(), LONG)
    did = watched.during(lambda: finish(store, session))
    assert did == [step.replace("c.jsonl", name) for step in FINISH]
    assert watched.synced(path) == path.read_bytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", FINISH)
def test_whichever_step_of_the_end_fails_nothing_recorded_is_lost(
    step: str, path: Path, watched: WatchedDisk
) -> None:
    with recording(path) as session:
        ask(session, TinyModel(wording="old"), "a")
    before = path.read_bytes()
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
        for prompt in ("a", "b"):
            ask(session, TinyModel(wording="new"), prompt)
        watched.fail_at(step)
        with pytest.raises(CassetteAccessError) as caught:
            finish(store, session)
    watched.before = lambda _what: None
    removal = (
        f"was written, but {part_path(path)} cannot be removed (Input/output error); "
        "delete it by hand"
    )
    assert str(caught.value) == f"{path} {SAYS.get(step, removal)}"
    assert (path.read_bytes() == before) == str(caught.value).endswith("it is as it was before")
    assert {one.name for one in path.parent.iterdir()} == {"c.jsonl", "c.jsonl.part"}
    assert asked_again(path, "a", "b") == 0
    answers = [call.completion.text.split()[0] for call in read_cassette(path).calls.values()]
    assert answers == ["new", "new"]


def test_a_cassette_that_cannot_be_created_is_left_unchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cassette(path)
    before = path.read_bytes()
    found = read_cassette(path)
    real = os.open

    def refuse(target: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(target, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    says = rf"^{path} cannot be written: No space left on device; it is as it was before$"
    with pytest.raises(CassetteAccessError, match=says):
        write_cassette(replace(found, runs=[]), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_cassette_may_be_written_into_a_folder_that_is_not_there_yet(
    path: Path, watched: WatchedDisk, made: Cassette
) -> None:
    did = watched.during(lambda: write_cassette(made, path.parent / "new" / "c.jsonl"))
    assert did[:2] == ["make new", "sync folder"]
    assert read_cassette(path.parent / "new" / "c.jsonl").calls == made.calls


def test_a_file_that_cannot_be_encoded_leaves_no_temporary_one(path: Path) -> None:
    small_cassette(path)
    before = path.read_bytes()
    found = read_cassette(path)
    with pytest.raises(ValueError, match="the run of test uses calls that are not in the cassette"):
        write_cassette(replace(found, calls={}), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("what", ["an accepted run", "a witness"])
def test_a_cassette_that_is_rewritten_is_on_the_disk(
    what: str, path: Path, watched: WatchedDisk
) -> None:
    small_cassette(path)
    store = open_for_replay(path)

    def rewrite() -> None:
        if what == "a witness":
            store.add_witness(make_environment("a third CPU"), store.ids())
        else:
            store.replace_run(replace(store.runs()[0], steps=9))

    assert watched.during(rewrite) == FINISH[:-1]
    assert watched.synced(path) == path.read_bytes()


def test_the_end_of_a_sharing_process_is_on_the_disk_before_the_last_relies_on_it(
    path: Path, watched: WatchedDisk
) -> None:
    one, two = (
        open_session(path, mode=Mode.AUTO, header=HEADER, seed=7, shared=True) for _ in range(2)
    )
    ask(one, TinyModel(), "a", who="x")
    ask(two, TinyModel(), "a", who="y")
    assert watched.during(lambda: conclude(one)) == ["write c.jsonl.part", "sync c.jsonl.part"]
    assert watched.synced(part_path(path)) == part_path(path).read_bytes()
    assert watched.during(lambda: conclude(two)) == [
        "write c.jsonl.part",
        "sync c.jsonl.part",
        *FINISH,
        "remove c.jsonl.part.lock",
    ]


# --- The disk itself.


def test_a_link_to_a_cassette_stays_one(path: Path, tmp_path: Path) -> None:
    small_cassette(path)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    write_cassette(replace(read_cassette(path), runs=[]), link)
    assert link.is_symlink()
    assert read_cassette(path).runs == []
    assert {one.name for one in tmp_path.iterdir()} == {"folder", "link.jsonl"}


def test_partial_writes_are_continued_to_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with path.open("ab") as file:
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
        disk.write(file.fileno(), bytes(range(256)))
        disk.write(file.fileno(), b"")
    assert path.read_bytes() == bytes(range(256))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOTTY])
def test_a_folder_that_cannot_be_synced_at_all_is_no_failure(
    number: int, path: Path, watched: WatchedDisk
) -> None:
    watched.fail_at("sync folder", number)
    with recording(path) as session:
        ask(session, TinyModel(), "a")
    assert len(read_cassette(path).calls) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_is_not_synced_is_a_failure(
    number: int, path: Path, watched: WatchedDisk
) -> None:
    watched.fail_at("sync folder", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.sync_folder(path.parent)
    with pytest.raises(CassetteAccessError, match=os.strerror(number)):
        open_for_recording(path, HEADER, keep=False)


def test_a_file_that_cannot_be_synced_at_all_is_a_failure(path: Path, watched: WatchedDisk) -> None:
    """Unlike with a folder: no file system that keeps anything lacks this."""
    watched.fail_at("sync c.jsonl.part", errno.EINVAL)
    with pytest.raises(CassetteAccessError, match="Invalid argument"):
        open_for_recording(path, HEADER, keep=False)


def test_syncing_a_folder_leaves_nothing_open(
    path: Path, watched: WatchedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[int] = set()
    real_open, real_close = os.open, os.close

    def open_(*args: Any, **kwargs: Any) -> int:
        descriptor = real_open(*args, **kwargs)
        opened.add(descriptor)
        return descriptor

    def close(descriptor: int) -> None:
        opened.discard(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "close", close)
    disk.sync_folder(path.parent)
    watched.fail_at("sync folder")
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_folder(path.parent)
    assert opened == set()


FULL_SYNC = 51


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (None, "full"),
        (errno.ENOTSUP, "full, plain"),
        (errno.EINVAL, "full, plain"),
        (errno.ENOTTY, "full, plain"),
        (errno.EIO, "full, Input/output error"),
    ],
)
def test_on_macos_the_cache_of_the_drive_is_written_too_where_it_can_be(
    number: int | None, says: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    def control(_descriptor: int, command: int) -> int:
        assert command == FULL_SYNC
        did.append("full")
        if number is not None:
            raise OSError(number, os.strerror(number))
        return 0

    with path.open("wb") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        patch.setattr(fcntl, "F_FULLFSYNC", FULL_SYNC, raising=False)
        patch.setattr(fcntl, "fcntl", control)
        patch.setattr(os, "fsync", lambda _descriptor: did.append("plain"))
        try:
            disk.sync(file.fileno())
        except OSError as error:
            did.append(str(error.strerror))
    assert ", ".join(did) == says
