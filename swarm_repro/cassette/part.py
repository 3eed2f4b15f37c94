"""The ``.part`` of a cassette: what recordings append to while they run.

One process holds it alone, or several share it. Who appends writes a *batch*: a note that says who
writes and how much of the file was on the disk by then, and the records. A reader believes a file
up to its first line that is not whole; what a later note says was on the disk before cannot be
torn, so that line is damage. No lock outlives its process: the system lets go of them.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from swarm_repro.canonical import text_sha256
from swarm_repro.cassette import disk
from swarm_repro.cassette.lines import LineError, decode_line, encode_line, lines_of
from swarm_repro.cassette.reader import Cassette, RecordReader, open_cassette
from swarm_repro.cassette.records import CallId, CallRecord, Header
from swarm_repro.cassette.writer import encode_environment, encode_model, encode_text
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.model import ModelBinding, require_same_model


def part_path(path: Path) -> Path:
    """Where a recording of this cassette is kept while it runs."""
    return path.with_name(path.name + ".part")


@dataclass
class Writer:
    """One of those who append to a ``.part``.

    Attributes:
        replaces: The prefix of the scopes whose earlier recordings its calls replace; None keeps
            all that was recorded.
        ended: Whether it came to a clean end.
    """

    replaces: str | None = None
    ended: bool = False


@dataclass(frozen=True)
class Part:
    """What is whole of a ``.part``.

    Attributes:
        cassette: The records.
        length: Up to where the file is whole, in bytes.
        writers: Who appended, by number.
        written_by: Whose each call is.
    """

    cassette: Cassette
    length: int
    writers: Mapping[int, Writer] = field(default_factory=dict)
    written_by: Mapping[CallId, int] = field(default_factory=dict)

    def going_on(self) -> Iterator[CallId]:
        """The calls of writers that came to no clean end."""
        for call_id, number in self.written_by.items():
            if number in self.writers and not self.writers[number].ended:
                yield call_id


def read_part(path: Path) -> Part | None:
    """Read what a recording has left, or has written so far: up to its last whole line.

    Args:
        path: The ``.part`` file.

    Returns:
        None where not even the header was written.

    Raises:
        CassetteAccessError: Unreadable, or of a newer format.
        CassetteDamagedError: Damage in what was on the disk.
    """
    with open_cassette(path) as file:
        length = _whole_length(path, file)
        if not length:
            return None
        file.seek(0)
        reader = _PartReader(path)
        cassette = reader.read(_up_to(length, file))
        return Part(cassette, length, reader.writers, reader.written_by)


def _whole_length(path: Path, file: BinaryIO) -> int:
    """Up to where a file is whole: what is torn after that was never on the disk for certain."""
    length, has_notes = 0, False
    torn: tuple[int, str] | None = None
    for number, line in enumerate(lines_of(file), start=1):
        try:
            record = decode_line(line)
        except LineError as error:
            torn = torn or (number, str(error))
            continue
        has_notes = has_notes or record["record"] == "batch"
        if torn is None:
            length += len(line)
        elif not has_notes or (record["record"] == "batch" and _synced(record) > length):
            raise CassetteDamagedError(path, torn[1], line=torn[0])
    return length


def _up_to(length: int, file: BinaryIO) -> Iterator[bytes]:
    for line in lines_of(file):
        length -= len(line)
        if length < 0:
            return
        yield line


def _synced(note: Mapping[str, object]) -> int:
    synced = note.get("synced")
    return synced if isinstance(synced, int) else 0


class _PartReader(RecordReader):
    """Keeps who wrote what."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, is_part=True)
        self.writers: dict[int, Writer] = {}
        self.written_by: dict[CallId, int] = {}
        self._writer = 0

    def keep_batch(self, record: Mapping[str, object]) -> None:
        self._writer = _take_note(record, self.writers)

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        super().keep_call(cassette, call, offset, length)
        self.written_by[call.id] = self._writer


def _take_note(note: Mapping[str, object], writers: dict[int, Writer]) -> int:
    """Take a batch's note.

    Returns:
        Who writes what follows.
    """
    number = cast("int", note["writer"])
    writer = writers.setdefault(number, Writer(cast("str | None", note.get("replaces"))))
    writer.ended = writer.ended or note.get("state") == "ended"
    return number


class PartFile:
    """The file, open and held: alone, or with others who share it."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        """Open or create a ``.part``, and hold it until ``close``.

        Args:
            path: The file.
            shared: Whether other processes may append to it too.

        Raises:
            CassetteAccessError: Another process is recording and does not share; a link or a
                folder; the file cannot be written.
        """
        self.path = path
        self.shared = shared
        self._turns: int | None = None
        self._turn_path = path.with_name(path.name + ".lock")
        try:
            disk.make_folder(path.parent)
            with self.turn():
                self.descriptor = self._open()
        except OSError as error:
            self._close_turns()
            raise CassetteAccessError(f"{path} cannot be written: {_why(error)}") from error
        except BaseException:
            self._close_turns()
            raise
        _held.add(self)

    def _open(self) -> int:
        mode = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        while True:
            descriptor = _open_here(self.path)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                if self.shared:
                    self._turn_path.unlink(missing_ok=True)  # who records alone has no turns
                raise self._refusal() from error
            if _is_at(descriptor, self.path):
                return descriptor
            os.close(descriptor)  # its recording has ended meanwhile

    def _refusal(self) -> CassetteAccessError:
        name = self.path.name.removesuffix(".part")
        how = " alone; wait for its end" if self.shared else (
            "; wait for its end, or let all who record it share it (shared=True)"
        )  # fmt: skip
        return CassetteAccessError(f"another process is recording {name}{how}")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One process at a time looks at the file and changes it; at once where none shares it.

        Raises:
            OSError: The lock cannot be had.
        """
        if not self.shared:
            yield
            return
        while True:
            if self._turns is None:
                self._turns = _open_here(self._turn_path)
            fcntl.flock(self._turns, fcntl.LOCK_EX)
            if _is_at(self._turns, self._turn_path):
                break
            self._close_turns()
        try:
            yield
        finally:
            if self._turns is not None:
                fcntl.flock(self._turns, fcntl.LOCK_UN)

    def is_alone(self) -> bool:
        """Whether no other process holds the file; asked in a turn.

        Raises:
            CassetteAccessError: Somebody has begun to record alone at this very moment.
        """
        if not self.shared:
            return True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            # Whether it was had or not, the shared lock is gone by now.
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal() from error
        return alone

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def cut(self, length: int) -> None:
        """Take back what comes after the first ``length`` bytes.

        Raises:
            OSError: It cannot be.
        """
        os.ftruncate(self.descriptor, length)

    def remove(self) -> None:
        """Remove the file: what was in it is in the cassette now.

        Raises:
            OSError: It cannot be removed.
        """
        self.path.unlink(missing_ok=True)
        self._turn_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; it stays where it is."""
        _held.discard(self)
        # Before its turn ends: who is next must not find it held by one who has left already, or
        # both would leave the cassette to the other.
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._close_turns()

    def _close_turns(self) -> None:
        if self._turns is not None:
            os.close(self._turns)
            self._turns = None


def is_held(path: Path) -> bool:
    """Whether somebody is recording into a ``.part`` now.

    Args:
        path: The file, which may not exist.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # there is none, or none that can be recorded into
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_here(path: Path) -> int:
    """Open or create a file of ours; a link would lead to somebody else's.

    Raises:
        OSError: It is something else, or cannot be written.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, how, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file")
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link; remove it"
    return error.strerror or str(error)


#: What this process holds. A forked child would hold it on after its parent's end.
_held: weakref.WeakSet[PartFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for held in list(_held):
        held.close()


os.register_at_fork(after_in_child=_let_go_in_child)


class PartWriter:
    """Appends the records of a running recording.

    Attributes:
        file: What it appends to.
    """

    def __init__(
        self,
        file: PartFile,
        header: Header,
        *,
        part: Part | None,
        takes_over: bool = True,
        run: tuple[object, ...] | None = None,
        replaces: str | None = None,
    ) -> None:
        """Begin to append, in a turn of the file.

        Args:
            file: The file.
            header: First record of a new file.
            part: What is whole in the file, or None to begin anew.
            takes_over: Whether those who came to no clean end are gone, and their calls this
                writer's; else they are recording now.
            run: The run that is recorded (``RunRecord.id``), noted in a new file.
            replaces: See ``Writer``.

        Raises:
            CassetteAccessError: It cannot be written.
        """
        self.file = file
        self._process = os.getpid()
        #: One thread at a time writes, one at a time waits for the disk.
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._broken: CassetteAccessError | None = None
        self._texts = set(part.cassette.texts) if part else set()
        self._models = dict(part.cassette.models) if part else {}
        self._envs = {sha: place for place, sha in enumerate(part.cassette.envs)} if part else {}
        self._writers = dict(part.writers) if part else {}
        self._number = max(self._writers, default=-1) + 1
        gone = [number for number, one in self._writers.items() if takes_over and not one.ended]
        for number in gone:
            self._writers[number].ended = True
        #: Calls of those who record at the same time.
        self._others = set(part.going_on()) if part else set()
        self._synced = self._noted = self._last = 0
        self._end = part.length if part else 0
        with self._failing():
            file.cut(self._end)
        lines = [self._note(number, state="ended") for number in gone]
        if part is None:
            first = header.to_json()
            lines.append(encode_line(first if run is None else {**first, "run": list(run)}))
        lines.append(self._note(self._number, state="began", replaces=replaces))
        self._write(lines)
        self.sync(self._end)
        with self._failing():
            disk.sync_folder(file.path.parent)

    def append(self, call: CallRecord, binding: ModelBinding, environment: Environment) -> int:
        """Write a call, after the model, environment and texts it refers to.

        Returns:
            What to hand to ``sync``, to know that it is on the disk.

        Raises:
            CassetteAccessError: The disk is full or failing; another process has recorded this
                call. What was written before stays whole.
            ModelConflictError: Another process records another model by this name.
        """
        self._require_own()
        with self._writing, self.turn():
            if self._broken is not None:
                raise self._broken
            self._catch_up()
            if call.id in self._others:
                raise CassetteAccessError(
                    f"another process has recorded this request of {call.scope} meanwhile (repeat "
                    f"{call.n}): give each process scopes of its own (scope_prefix)"
                )
            known = self._models.get(binding.name)
            if known is not None:
                require_same_model(known, binding)
            place = self._envs.get(environment.sha256, len(self._envs))
            texts = [digest for digest in call.text_digests if digest not in self._texts]
            lines: list[bytes] = []
            if self._last != self._number or self._noted != self._synced:
                lines.append(self._note(self._number))
            if known is None:
                lines.append(encode_model(binding))
            if place == len(self._envs):
                lines.append(encode_environment(environment))
            lines.extend(encode_text(call.texts[digest]) for digest in texts)
            lines.append(encode_line(call.to_json(env=place)))
            self._write(lines)
            self._models[binding.name] = binding
            self._envs[environment.sha256] = place
            self._texts.update(texts)
            return self._end

    def sync(self, end: int) -> None:
        """Wait until what was written is on the disk; who waits at once waits once.

        Args:
            end: What ``append`` gave.

        Raises:
            CassetteAccessError: It is not; nothing more is written then, since what the system
                says later of the lost bytes cannot be believed.
        """
        with self._syncing:
            if self._synced >= end:
                return
            if self._broken is not None:
                raise self._broken
            upto = self._end
            with self._failing():
                disk.sync(self.file.descriptor)
            self._synced = upto

    def finish(self) -> None:
        """Note a clean end for those who share the file, in a turn of it.

        Raises:
            CassetteAccessError: It cannot be written, or is not this process's.
        """
        self._require_own()
        if not self.file.shared:
            return
        with self._writing:
            self._catch_up()
            self._write([self._note(self._number, state="ended")])
        self.sync(self._end)

    def close(self) -> None:
        """Close the file; what is in it stays for ``--auto``."""
        with self._writing, self._syncing:
            self._broken = self._broken or CassetteAccessError(f"{self.file.path} is closed")
            self.file.close()

    def _require_own(self) -> None:
        if os.getpid() != self._process:
            raise CassetteAccessError(
                f"this process was forked from the one that records {self.file.path}: open the "
                "cassette in it, with shared=True in both"
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """As ``PartFile.turn``.

        Raises:
            CassetteAccessError: The lock cannot be had.
        """
        with contextlib.ExitStack() as stack:
            with self._failing():
                stack.enter_context(self.file.turn())
            yield

    def _note(self, number: int, **state: str | None) -> bytes:
        self._noted = self._synced
        known = {name: value for name, value in state.items() if value is not None}
        return encode_line({"record": "batch", "writer": number, "synced": self._synced, **known})

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            disk.write(self.file.descriptor, data)
        except OSError as error:
            # Take back the torn tail where the disk still lets us; a reader drops it anyway.
            with contextlib.suppress(OSError):
                self.file.cut(self._end)
            raise self._failure(error) from error
        self._end += len(data)
        self._last = self._number

    def _catch_up(self) -> None:
        """Take note of what others have appended, and cut off what one of them died over."""
        with self._failing():
            size = self.file.size()
            if size == self._end:
                return
            if size < self._end or not self.file.shared:
                raise CassetteAccessError(
                    f"{self.file.path} was changed by another program while it was being recorded"
                )
            data = os.pread(self.file.descriptor, size - self._end, self._end)
            for line in data.splitlines(keepends=True):
                try:
                    record = decode_line(line)
                except LineError:
                    break
                self._learn(record)
                self._end += len(line)
            self.file.cut(self._end)

    def _learn(self, record: Mapping[str, object]) -> None:
        kind = record["record"]
        if kind == "batch":
            self._last = _take_note(record, self._writers)
        elif kind == "text":
            self._texts.add(text_sha256(cast("str", record["text"])))
        elif kind == "model":
            binding = ModelBinding.from_json(record)
            self._models[binding.name] = binding
        elif kind == "env":
            self._envs[cast("str", record["sha256"])] = len(self._envs)
        elif kind == "call":
            known = (record["scope"], record["asked"], record.get("n", 0))
            self._others.add(cast("CallId", known))

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Say what cannot be done, and do nothing more with the file."""
        try:
            yield
        except OSError as error:
            self._broken = self._failure(error)
            raise self._broken from error

    def _failure(self, error: OSError) -> CassetteAccessError:
        return CassetteAccessError(
            f"{self.file.path} cannot be written: {error.strerror or error}; free some space and "
            "go on with --auto"
        )
