"""Reading a cassette: every line is checked, and nothing damaged is served."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from swarm_repro.canonical import text_sha256
from swarm_repro.cassette.archive import LFS_POINTER, is_archive, unpacked
from swarm_repro.cassette.header import FORMATS, Header
from swarm_repro.cassette.lines import LineError, decode_line, lines_of
from swarm_repro.cassette.records import CallId, CallRecord, env_at
from swarm_repro.cassette.runs import RunRecord, from_ranges
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, RequestError
from swarm_repro.model import ModelBinding
from swarm_repro.request import KEY_VERSION

CONFLICT_MARKS = (b"<<<<<<< ", b"=======\n", b">>>>>>> ")


@dataclass
class Cassette:
    """The records of one file.

    Attributes:
        path: Where they were read.
        header: How the calls were made.
        models: Model records by name.
        envs: Environment records by SHA-256.
        texts: Texts by SHA-256.
        calls: Call records by id, in file order.
        runs: Run records.
        witnesses: By environment: calls that it answered alike.
        recording: In a ``.part``: the run that is being recorded (``RunRecord.id``), if any.
    """

    path: Path
    header: Header
    models: dict[str, ModelBinding] = field(default_factory=dict)
    envs: dict[str, Environment] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[CallId, CallRecord] = field(default_factory=dict)
    runs: list[RunRecord] = field(default_factory=list)
    witnesses: dict[str, Set[CallId]] = field(default_factory=dict)
    recording: tuple[object, ...] | None = None


def read_cassette(path: Path) -> Cassette:
    """Read a finished cassette.

    Args:
        path: The file.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, or of a newer format.
        CassetteDamagedError: Empty, torn, or changed after it was written.
    """
    with open_cassette(path) as file:
        reader = RecordReader(path)
        cassette = reader.read(lines_of(file))
    reader.require_end()
    return cassette


@contextlib.contextmanager
def open_cassette(path: Path) -> Iterator[BinaryIO]:
    """Open a cassette's bytes for reading.

    Raises:
        CassetteAccessError: Missing, a folder, a pipe, or unreadable; an archive that unpacks to
            more than the limit.
        CassetteDamagedError: A damaged archive.
    """
    if path.is_dir():
        raise CassetteAccessError(f"{path} is a folder; name a cassette file in it")
    # Asked before it is opened: opening a pipe that nobody writes to never ends.
    if path.exists() and not path.is_file():
        raise CassetteAccessError(f"{path} is a pipe or a device; name a cassette file")
    try:
        with (unpacked(path) if is_archive(path) else path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise CassetteAccessError(
            f"there is no cassette at {path}; record one with --record"
        ) from error
    except OSError as error:
        raise CassetteAccessError(f"{path} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def reading(path: Path, call: CallRecord) -> Iterator[None]:
    """Say which call of which file cannot be read, while its texts or its answer are.

    Raises:
        CassetteDamagedError: A text is missing, or the bytes are not the recorded ones.
    """
    try:
        yield
    except LineError as error:
        raise unreadable(path, call, error) from error


def unreadable(path: Path, call: CallRecord, error: LineError) -> CassetteDamagedError:
    """Which call of which file cannot be read."""
    return CassetteDamagedError(path, f"call {call.i} of {call.scope}: {error}")


def text_of(path: Path, call: CallRecord, digest: str) -> str:
    """A text that a call refers to.

    Raises:
        CassetteDamagedError: It is not in the file.
    """
    try:
        return call.texts[digest]
    except KeyError as error:
        why = LineError(f"it refers to text {digest}, which is not in the file before it")
        raise unreadable(path, call, why) from error


class RecordReader:
    """One pass over the lines of a file, each checked before it is believed.

    Attributes:
        path: The file.
        cassette: What was read so far; None before the header.
        offset: How far, in bytes.
    """

    def __init__(self, path: Path, *, is_part: bool = False) -> None:
        """Make a reader.

        Args:
            path: The file, for messages.
            is_part: Whether it is a ``.part``, with notes of who writes, where a call may be
                recorded twice.
        """
        self.path = path
        self.cassette: Cassette | None = None
        self._texts: dict[str, str] = {}
        self._calls: dict[CallId, CallRecord] = {}
        #: Where the next line begins, in bytes.
        self.offset = 0
        self._is_part = is_part
        self._ids: list[CallId] = []
        self._envs: list[str] = []
        self._digest = hashlib.sha256()
        self._count = 0
        self._ended = False

    def read(self, lines: Iterable[bytes]) -> Cassette:
        """Read all records.

        Args:
            lines: The file's lines, line feeds included.

        Raises:
            CassetteAccessError: A format this version does not know.
            CassetteDamagedError: Empty, or changed after it was written.
        """
        for line in lines:
            self.take(line)
        if self.cassette is None:
            raise CassetteDamagedError(
                self.path, "the file is empty; restore it, or record it anew"
            )
        return self.cassette

    def take(self, line: bytes) -> None:
        """Read the next record.

        Args:
            line: Its line, line feed included.

        Raises:
            CassetteAccessError: A format this version does not know.
            CassetteDamagedError: It is not what was written.
        """
        cassette = self.cassette
        try:
            if self._ended:
                self.after_end()
            record = decode_line(line)
            if cassette is None:
                self.cassette = self._begin(record)
            elif record["record"] == "end":
                self._end(record)
            else:
                self._add(cassette, record, self.offset, len(line))
        except (LineError, RequestError) as error:
            self.damaged(cassette, self._count + 1, line, foreign(line) or str(error))
        except (KeyError, TypeError) as error:
            why = f"a record's member is missing or wrong: {error!r}"
            self.damaged(cassette, self._count + 1, line, why)
        self.passed(line)

    def after_end(self) -> None:
        """Refuse what comes after the end record.

        Raises:
            LineError: Nothing does.
        """
        raise LineError("records after the end record")

    def passed(self, line: bytes) -> None:
        """Count a line that was read."""
        self._digest.update(line)
        self._count += 1
        self.offset += len(line)

    def damaged(self, cassette: Cassette | None, number: int, line: bytes, why: str) -> None:
        """Refuse a line.

        Args:
            cassette: What was read so far; None before the header.
            number: The line's number, from 1.
            line: Its bytes.
            why: What is wrong with it.

        Raises:
            CassetteDamagedError: Nothing of a damaged file is served.
        """
        del cassette, line
        raise CassetteDamagedError(self.path, why, line=number)

    def require_end(self) -> None:
        """Refuse a file that was cut off.

        Raises:
            CassetteDamagedError: There was no end record.
        """
        if not self._ended:
            raise CassetteDamagedError(
                self.path,
                "the end record is missing: the file was cut off; restore it from version control",
            )

    def _begin(self, record: Mapping[str, object]) -> Cassette:
        run = record.get("run")
        return Cassette(
            path=self.path,
            header=self._header(record),
            texts=self._texts,
            calls=self._calls,
            recording=tuple(run) if isinstance(run, list) else None,
        )

    def _header(self, record: Mapping[str, object]) -> Header:
        if record["record"] != "cassette":
            raise LineError("the file does not begin with a cassette header")
        found: object = record.get("format")
        if type(found) is not int or found not in FORMATS or record.get("key") != KEY_VERSION:
            raise CassetteAccessError(
                f"{self.path} has format {found} with keys {record.get('key')}; this version "
                f"reads formats up to {FORMATS[-1]} with {KEY_VERSION}: upgrade swarm-repro"
            )
        return Header.from_json(record)

    def _add(self, cassette: Cassette, record: dict[str, object], offset: int, length: int) -> None:
        kind = record["record"]
        if kind == "text":
            text = record["text"]
            if not isinstance(text, str):
                raise LineError("a text that is no string")
            self.keep_text(cassette, text, offset, length)
        elif kind == "call":
            call = CallRecord.from_json(record, texts=cassette.texts, envs=self._envs)
            if call.model not in cassette.models:
                raise LineError(
                    f"a call of model {call.model!r}, which is not in the file before it"
                )
            self.keep_call(cassette, call, offset, length)
        elif kind == "model":
            binding = ModelBinding.from_json(record)
            if binding.name in cassette.models:
                raise LineError(f"two model records are called {binding.name!r}")
            cassette.models[binding.name] = binding
        elif kind == "env":
            content = record["content"]
            if not isinstance(content, dict):
                raise LineError("an environment without content")
            environment = Environment(content)
            if environment.sha256 != record["sha256"]:
                raise LineError("an environment that does not have the recorded SHA-256")
            if environment.sha256 in cassette.envs:
                raise LineError("an environment that is in the file already")
            cassette.envs[environment.sha256] = environment
            self._envs.append(environment.sha256)
        elif kind == "run":
            self.keep_run(cassette, record)
        elif kind == "witness":
            env = env_at(self._envs, record["env"])
            cassette.witnesses[env] = self.calls_of(record)
        elif kind == "batch":
            if not self._is_part:
                raise LineError(
                    "an interrupted recording: the end record is missing; give the file back its "
                    "name, which ends in .part, and go on with --auto"
                )
            self.keep_batch(record)
        else:
            raise LineError(f"an unknown record {kind!r}")

    def keep_text(self, cassette: Cassette, text: str, offset: int, length: int) -> None:
        """Take a text record.

        Args:
            cassette: What was read so far.
            text: The text.
            offset: Where its line begins in the file, in bytes.
            length: Of its line, in bytes.
        """
        del cassette, offset, length
        self._texts[text_sha256(text)] = text

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        """Take a call record; arguments as for ``keep_text``.

        Raises:
            LineError: The call is in the file already.
        """
        del cassette, offset, length
        # Going on in another order records a call anew: in a .part the later one counts.
        if call.id in self._calls and not self._is_part:
            raise LineError(f"a second recording of call {call.n} of {call.asked} in {call.scope}")
        self._calls[call.id] = call
        self._ids.append(call.id)

    def keep_batch(self, record: Mapping[str, object]) -> None:
        """Take the note of who writes what follows in a ``.part``."""
        del record

    def calls_of(self, record: Mapping[str, object]) -> frozenset[CallId]:
        """The calls that a run or a witness names.

        Raises:
            LineError: They are not in the file.
        """
        return from_ranges(record["calls"], self._ids)

    def keep_run(self, cassette: Cassette, record: Mapping[str, object]) -> None:
        """Take a run record.

        Raises:
            LineError: It cannot be read.
        """
        cassette.runs.append(RunRecord.from_json(record, self._ids))

    def _end(self, record: Mapping[str, object]) -> None:
        if record["records"] != self._count:
            raise LineError(f"{self._count} records where {record['records']} were written")
        if record["sha256"] != self._digest.hexdigest():
            raise LineError("the file does not have the recorded SHA-256")
        self._ended = True


def foreign(line: bytes) -> str | None:
    """What a line is that is no record, where that can be told."""
    if line.endswith(b"\r\n"):
        return "the line ends were converted to Windows'; put '*.jsonl -text' into .gitattributes"
    if line.startswith(LFS_POINTER):
        return "this is a Git LFS pointer, not the cassette; run: git lfs pull"
    if line.startswith(CONFLICT_MARKS):
        return (
            "git conflict markers; join the two sides with swarm-repro merge, or keep one of them "
            "whole (git checkout --ours or --theirs)"
        )
    return None
