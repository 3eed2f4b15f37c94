"""The ``.part`` of a cassette: what recordings append to while they run.

One process holds it alone, or several share it. Who appends writes a *batch*: a note that says who
writes and how much of the file was on the disk by then, and the records. A reader believes a file
up to its first line that is not whole; what a later note says was on the disk before cannot be
torn, so that line is damage.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from swarm_repro.cassette.lines import LineError, decode_line, lines_of
from swarm_repro.cassette.reader import Cassette, RecordReader, open_cassette
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.errors import CassetteDamagedError


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
        self._writer = take_note(record, self.writers)

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        super().keep_call(cassette, call, offset, length)
        self.written_by[call.id] = self._writer


def take_note(note: Mapping[str, object], writers: dict[int, Writer]) -> int:
    """Take a batch's note.

    Returns:
        Who writes what follows.
    """
    number = cast("int", note["writer"])
    writer = writers.setdefault(number, Writer(cast("str | None", note.get("replaces"))))
    writer.ended = writer.ended or note.get("state") == "ended"
    return number
