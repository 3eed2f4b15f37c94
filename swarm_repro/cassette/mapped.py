"""A large cassette: its calls and texts are read when they are asked for.

Opening it costs its first and its last records. A call is found through an index (``index_file``);
where there is none the file is read on from where the last search ended, up to the call, and at the
end of the file the index is kept. Each line that is served is checked as any line of a cassette is.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from swarm_repro.canonical import text_sha256
from swarm_repro.cassette import index_file
from swarm_repro.cassette.call_sets import MappedCalls, NumberedCalls
from swarm_repro.cassette.index_file import OF_CALL
from swarm_repro.cassette.lines import (
    LineError,
    decode_line,
    lines_of,
)
from swarm_repro.cassette.reader import Cassette, RecordReader, open_cassette
from swarm_repro.cassette.records import COUNTED, CallId, CallRecord, env_at
from swarm_repro.cassette.runs import RunRecord, spans_of
from swarm_repro.cassette.scan import CALL, TEXT, Scan, call_digest, call_number
from swarm_repro.cassette.table import DIGEST_BYTES
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteDamagedError
from swarm_repro.once import once
from swarm_repro.request import KEY_VERSION

#: Files from this size on are opened so; smaller ones are read at once.
MAPPED_FROM_BYTES: Final = 64 << 20

_TEXTS_AT_HAND: Final = 1024
_TAIL_BYTES: Final = 1 << 16
#: What the runs and witnesses of a file may take: no study has as many.
_MOST_TAIL_BYTES: Final = 1 << 28
_COMES_FIRST: Final = (b'{"record":"cassette"', b'{"record":"model"', b'{"record":"env"')
_crc32: Final = zlib.crc32
_pread: Final = os.pread


def open_mapped(path: Path) -> Cassette:
    """Open a finished cassette without reading it.

    Args:
        path: The file, plain or an archive.

    Returns:
        Its records. ``calls``, ``texts`` and the calls of runs and witnesses are read when they are
        asked for, and raise ``CassetteDamagedError`` then.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, or of a newer format.
        CassetteDamagedError: Its first or last records are not what was written.
    """
    with open_cassette(path) as file:
        head = RecordReader(path)
        first = head.read(_first_lines(file))
        start = _start_of_tail(path, file, head.offset)
        file.seek(start)
        tail = [_decoded(path, line) for line in lines_of(file)]
        mapped = MappedFile(first, os.dup(file.fileno()), _end_digest(path, tail))
    first.calls, first.texts = MappedCalls(mapped), mapped.texts
    for record in tail[:-1]:
        _take(record, first, mapped)
    return first


def _first_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in lines_of(file):
        if not line.startswith(_COMES_FIRST):
            return
        yield line


def _start_of_tail(path: Path, file: BinaryIO, least: int) -> int:
    """Where the records begin that come after the last call."""
    end = file.seek(0, os.SEEK_END)
    length = _TAIL_BYTES
    while length < _MOST_TAIL_BYTES:
        start = max(end - length, least - 1)  # the line feed before the first call
        file.seek(start)
        tail = file.read(end - start)
        last = max(tail.rfind(b"\n" + CALL), tail.rfind(b"\n" + TEXT))
        if last >= 0:
            return start + tail.find(b"\n", last + 1) + 1
        if start < least:
            return least
        length *= 2
    raise CassetteDamagedError(path, "its last call is too far from its end: no recorder writes so")


def _decoded(path: Path, line: bytes) -> dict[str, object]:
    try:
        return decode_line(line)
    except LineError as error:
        raise CassetteDamagedError(path, f"in its last records: {error}") from error


def _end_digest(path: Path, tail: Sequence[Mapping[str, object]]) -> bytes:
    end = tail[-1] if tail else {}
    if end.get("record") != "end":
        RecordReader(path).require_end()
    try:
        return bytes.fromhex(cast("str", end["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CassetteDamagedError(path, f"its end record cannot be read: {error!r}") from error


def _take(record: Mapping[str, object], cassette: Cassette, mapped: MappedFile) -> None:
    """Take a run or a witness, whose calls are given by their places."""
    try:
        spans = spans_of(record["calls"], mapped.most_calls)
        calls = NumberedCalls(mapped, spans)
        if record["record"] == "run":
            run = RunRecord.from_json({**record, "calls": []}, [])
            cassette.runs.append(replace(run, calls=calls))
        elif record["record"] == "witness":
            cassette.witnesses[env_at(list(cassette.envs), record["env"])] = calls
        else:
            raise LineError(f"a {record['record']} record after the last call")
    except (LineError, KeyError) as error:
        raise CassetteDamagedError(cassette.path, f"in its last records: {error}") from error


class MappedFile:
    """The file, and where in it the calls and texts are."""

    def __init__(self, cassette: Cassette, descriptor: int, digest: bytes) -> None:
        weakref.finalize(self, os.close, descriptor)
        self.cassette = cassette
        self.path = cassette.path
        self.texts = _Texts(self)
        self.descriptor = descriptor
        self._envs = list(cassette.envs)
        #: Held while the file is read on, and while something is looked for in what grows.
        self._lock = threading.RLock()
        self._state = index_file.State.of(descriptor, digest)
        self._scan: Scan | None = None
        known = index_file.load(self._state)
        if known is None:
            self._scan = Scan(self.path, descriptor)
            known = self._scan.index
        self._index = known
        self.types = known.types

    @property
    def most_calls(self) -> int:
        """How many calls there are, or at most can be."""
        return self._state.size if self._scan is not None else len(self._index.calls)

    def count(self) -> int:
        """How many calls there are; reads the file to its end, where that was not done yet."""
        with self._lock:
            while self._read_on():
                pass
            return len(self._index.calls)

    def number_of(self, call_id: CallId) -> int | None:
        """The place of a call among those of the file, from 0; None where it has none."""
        digest = call_digest(call_id)
        if self._scan is None:
            return self._index.calls.find(digest)
        with self._lock:
            while (number := self._index.calls.find(digest)) is None and self._read_on():
                pass
            return number

    def numbers_of(self, ids: Iterable[CallId]) -> Iterator[int]:
        """The places of calls; of those that have none, nothing."""
        for number in map(self.number_of, ids):
            if number is not None:
                yield number

    def finder(self) -> Callable[[CallId], CallRecord | None]:
        """What finds the record of a call, in as few steps as there can be.

        Returns:
            Gives the record of an id; None where it has none. Raises ``CassetteDamagedError`` where
            it is not what was written.
        """
        if self._scan is not None:
            return self._find_reading_on
        slots, entries, mask, size = self._index.calls.parts
        unpack_from, call_of = _ENTRY.unpack_from, self._call_of

        # As ``Table.get`` finds what ``call_digest`` gives, without the calls of these.
        def find(call_id: CallId) -> CallRecord | None:
            number = call_number(call_id)
            digest = number.to_bytes(DIGEST_BYTES, "little")
            slot = number & mask
            while entry := slots[slot]:
                found = unpack_from(entries, (entry - 1) * size)
                if found[0] == digest:
                    return call_of(call_id, found)
                slot = (slot + 1) & mask
            return None

        return find

    def _find_reading_on(self, call_id: CallId) -> CallRecord | None:
        digest = call_digest(call_id)
        with self._lock:
            while (content := self._index.calls.get(digest)) is None and self._read_on():
                pass
        return None if content is None else self._call_of(call_id, (digest, *content))

    def _call_of(self, call_id: CallId, found: tuple[Any, ...]) -> CallRecord:
        if not found[1]:
            return self.parsed(found[-1], call_id)
        call = _new(_QuickCall)
        _set_known(call, (self, call_id, found))
        return call

    def digest(self, number: int) -> bytes:
        """What a call is found by (``call_digest``), by its place.

        Raises:
            CassetteDamagedError: There are not as many.
        """
        self._require(number)
        return self._index.calls.digest(number)

    def call(self, number: int) -> CallRecord:
        """The record of a call by its place.

        Raises:
            CassetteDamagedError: There are not as many, or it is not what was written.
        """
        self._require(number)
        with self._lock:
            *_, of_call = self._index.calls.content(number)
        return self.parsed(of_call)

    def _require(self, number: int) -> None:
        with self._lock:
            while number >= len(self._index.calls) and self._read_on():
                pass
            if number >= len(self._index.calls):
                raise self.damaged(f"a run has call {number}, which is not in the file")

    def parsed(self, of_call: bytes, call_id: CallId | None = None) -> CallRecord:
        """A call, all of its line read.

        Args:
            of_call: As ``index_file.OF_CALL`` says.
            call_id: What the call is found by, where that is known.

        Raises:
            CassetteDamagedError: It is not what was written.
        """
        offset, length, *_ = OF_CALL.unpack(of_call)
        record = self._record(offset, length)
        try:
            call = CallRecord.from_json(record, texts=self.texts, envs=self._envs)
        except LineError as error:
            raise self.damaged(str(error)) from error
        if call_id is not None and call.id != call_id:
            raise self.damaged("the index names another call")
        if call.model not in self.cassette.models:
            raise self.damaged(f"a call of model {call.model!r}, which is not in the file")
        return call

    def place_of_text(self, digest: object) -> tuple[int, int] | None:
        """Where a text is; None where it is not in the file."""
        try:
            known = bytes.fromhex(cast("str", digest))[:DIGEST_BYTES]
        except (TypeError, ValueError):
            return None
        with self._lock:
            return self._index.texts.get(known)

    def count_texts(self) -> int:
        """How many texts there are; reads the file to its end, as ``count`` does."""
        self.count()
        return len(self._index.texts)

    def text_digests(self) -> Iterator[str]:
        """SHA-256 of every text, in file order: the index holds half of each."""
        for number in range(self.count_texts()):
            offset, length = self._index.texts.content(number)
            yield text_sha256(str(self._record(offset, length).get("text")))

    def text(self, place: tuple[int, int], digest: str) -> str:
        """A text, which has the digest that it is asked for by."""
        text = self._record(*place).get("text")
        if not isinstance(text, str) or text_sha256(text) != digest:
            raise self.damaged(f"the text {digest} is another one")
        return text

    def _record(self, offset: int, length: int) -> dict[str, object]:
        try:
            return decode_line(os.pread(self.descriptor, length, offset))
        except LineError as error:
            raise self.damaged(str(error)) from error

    def damaged(self, why: str) -> CassetteDamagedError:
        """What to raise of a line that is not what was written; its index is not kept."""
        index_file.forget(self._state)
        return CassetteDamagedError(self.path, why)

    def _read_on(self) -> bool:
        """Read some more of the file, under the lock; whether there was more to read."""
        if self._scan is None:
            return False
        if self._scan.read_on():
            return True
        self._scan = None
        if index_file.State.of(self.descriptor, self._state.digest) == self._state:
            index_file.save(self._state, self._index)
        return False


class _QuickCall(CallRecord):
    """A call of which no more is read than a replay needs, until something else is asked for.

    What it says of itself is in the index. Its answer's bytes are a part of its line; when the
    index was made they had the recorded SHA-256, and they have the same checksum since.
    """

    __slots__ = ("_known",)
    #: The file; its id; its digest, and as ``index_file.CALL`` says.
    _known: tuple[MappedFile, CallId, tuple[Any, ...]]

    def __new__(cls, **fields: Any) -> CallRecord:  # type: ignore[misc]
        """A changed copy is a record like any other."""
        return CallRecord(**fields)

    scope = property(lambda self: self._known[1][0])
    asked = property(lambda self: self._known[1][1])
    n = property(lambda self: self._known[1][2])
    id = property(lambda self: self._known[1])
    sent = property(lambda self: f"{KEY_VERSION}:{self._more[2].hex()}")
    shared = property(lambda self: self._more[-2])
    from_cache = property(lambda self: self._more[-1])

    @property
    def tokens(self) -> dict[str, int | None]:
        """Token counts."""
        counts = (None if count < 0 else count for count in self._more[3:7])
        return dict(zip(COUNTED, counts, strict=True))

    @once
    def _more(self) -> tuple[Any, ...]:
        """What the index says of it otherwise."""
        return OF_CALL.unpack(self._known[2][-1])

    @once
    def _whole(self) -> CallRecord:
        """All that its line says."""
        mapped, call_id, found = self._known
        return mapped.parsed(found[-1], call_id)

    def __eq__(self, other: object) -> bool:
        """As of any call, however it was read."""
        return self._whole == (other._whole if isinstance(other, _QuickCall) else other)

    __hash__ = CallRecord.__hash__

    def decode_completion(self) -> Completion:
        """As of any call."""
        mapped, _, (_, start, size, checksum, duration_s, kind, _) = self._known
        body = _pread(mapped.descriptor, size, start)
        if _crc32(body) != checksum:
            raise mapped.damaged("the response's bytes are not the recorded ones")
        status, content_type = mapped.types[kind]
        return Completion(status, content_type, body, duration_s)

    #: Not kept: a long replay would hold every answer it has given.
    completion = property(decode_completion)


# What the index does not say is of the line. A ``__getattr__`` would slow down all other members.
for _field in fields(CallRecord):
    if _field.name not in vars(_QuickCall):
        setattr(_QuickCall, _field.name, property(attrgetter(f"_whole.{_field.name}")))

#: The digest of a call, and what belongs to it.
_ENTRY: Final = struct.Struct(f"={DIGEST_BYTES}s{index_file.CALL}")
_new: Final = object.__new__
_set_known: Final = _QuickCall._known.__set__  # type: ignore[attr-defined]


class _Texts(Mapping[str, str]):
    """The texts of a file by digest."""

    def __init__(self, mapped: MappedFile) -> None:
        self._mapped = mapped
        self._read = lru_cache(maxsize=_TEXTS_AT_HAND)(mapped.text)

    def __contains__(self, digest: object) -> bool:
        return self._mapped.place_of_text(digest) is not None

    def __getitem__(self, digest: str) -> str:
        place = self._mapped.place_of_text(digest)
        if place is None:
            raise KeyError(digest)
        return self._read(place, digest)

    def __iter__(self) -> Iterator[str]:
        return self._mapped.text_digests()

    def __len__(self) -> int:
        return self._mapped.count_texts()
