"""A large cassette: its calls and texts are read when they are asked for.

Opening it costs its first and its last records. A call is found through an index (``index_file``);
where there is none the file is read on from where the last search ended, up to the call, and at the
end of the file the index is kept. Each line that is served is checked as any line of a cassette is.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, cast

import orjson

from swarm_repro.canonical import text_sha256
from swarm_repro.cassette import index_file
from swarm_repro.cassette.lines import (
    CHECKSUM_BYTES,
    MOST_LINE_BYTES,
    LineError,
    decode_line,
    lines_of,
)
from swarm_repro.cassette.reader import Cassette, RecordReader, open_cassette
from swarm_repro.cassette.records import CallId, CallRecord, RunRecord, env_at, spans_of
from swarm_repro.cassette.table import DIGEST_BYTES, Place, Table
from swarm_repro.errors import CassetteDamagedError

#: Files from this size on are opened so; smaller ones are read at once.
MAPPED_FROM_BYTES: Final = 64 << 20

_TEXTS_AT_HAND: Final = 1024
_LINES_A_TURN: Final = 256
_BUFFER_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 1 << 16
#: What the runs and witnesses of a file may take: no study has as many.
_MOST_TAIL_BYTES: Final = 1 << 28
_CALL: Final = b'{"record":"call",'
_TEXT: Final = b'{"record":"text","text":'
_COMES_FIRST: Final = (b'{"record":"cassette"', b'{"record":"model"', b'{"record":"env"')
_STRING: Final = rb'"(?:[^"\\]|\\.)*"'
#: The beginning of a call as recorders write it.
_CALL_ID: Final = re.compile(
    rb'\{"record":"call","scope":(%b),"i":\d+,"n":(\d{1,18}),"at":[^"]*,"kind":(?:null|%b),'
    rb'"asked":"([^"\\]*)",' % (_STRING, _STRING)
)
_CHECKSUM: Final = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n')


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
        mapped = _Mapped(first, os.dup(file.fileno()), _end_digest(path, tail))
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
        last = max(tail.rfind(b"\n" + _CALL), tail.rfind(b"\n" + _TEXT))
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


def _take(record: Mapping[str, object], cassette: Cassette, mapped: _Mapped) -> None:
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


class _Mapped:
    """The file, and where in it the calls and texts are."""

    def __init__(self, cassette: Cassette, descriptor: int, digest: bytes) -> None:
        weakref.finalize(self, os.close, descriptor)
        self.cassette = cassette
        self.path = cassette.path
        self.texts = _Texts(self)
        self._descriptor = descriptor
        self._envs = list(cassette.envs)
        #: Held while the file is read on, and while something is looked for in what grows.
        self._lock = threading.RLock()
        self._state = index_file.State.of(descriptor, digest)
        self._scan: _Scan | None = None
        known = index_file.load(self._state)
        if known is None:
            self._scan = _Scan(self.path, descriptor)
            known = self._scan.calls, self._scan.text_places
        self._call_table, self._text_table = known

    @property
    def most_calls(self) -> int:
        """How many calls there are, or at most can be."""
        return self._state.size if self._scan is not None else len(self._call_table)

    def count(self) -> int:
        """How many calls there are; reads the file to its end, where that was not done yet."""
        with self._lock:
            while self._read_on():
                pass
            return len(self._call_table)

    def number_of(self, call_id: object) -> int | None:
        """The place of a call among those of the file, from 0; None where it has none."""
        digest = _call_digest(*cast("CallId", call_id))
        if self._scan is None:
            return self._call_table.find(digest)
        with self._lock:
            while (number := self._call_table.find(digest)) is None and self._read_on():
                pass
            return number

    def call(self, number: int) -> CallRecord:
        """The record of a call.

        Raises:
            CassetteDamagedError: There are not as many, or it is not what was written.
        """
        with self._lock:
            while number >= len(self._call_table) and self._read_on():
                pass
            if number >= len(self._call_table):
                raise self._damaged(f"a run has call {number}, which is not in the file")
            place = self._call_table.place(number)
        record = self._record(place)
        try:
            call = CallRecord.from_json(record, texts=self.texts, envs=self._envs)
        except LineError as error:
            raise self._damaged(str(error)) from error
        if call.model not in self.cassette.models:
            raise self._damaged(f"a call of model {call.model!r}, which is not in the file")
        return call

    def place_of_text(self, digest: object) -> Place | None:
        """Where a text is; None where it is not in the file."""
        try:
            known = bytes.fromhex(cast("str", digest))[:DIGEST_BYTES]
        except (TypeError, ValueError):
            return None
        with self._lock:
            number = self._text_table.find(known)
            return None if number is None else self._text_table.place(number)

    def text(self, place: Place, digest: str) -> str:
        """A text, which has the digest that it is asked for by."""
        text = self._record(place).get("text")
        if not isinstance(text, str) or text_sha256(text) != digest:
            raise self._damaged(f"the text {digest} is another one")
        return text

    def _record(self, place: Place) -> dict[str, object]:
        try:
            return decode_line(os.pread(self._descriptor, place.length, place.offset))
        except LineError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> CassetteDamagedError:
        index_file.forget(self._state)
        return CassetteDamagedError(self.path, f"{why}; see what is whole: swarm-repro check")

    def _read_on(self) -> bool:
        """Read some more of the file, under the lock; whether there was more to read."""
        if self._scan is None:
            return False
        if self._scan.read_on():
            return True
        self._scan = None
        if index_file.State.of(self._descriptor, self._state.digest) == self._state:
            index_file.save(self._state, self._call_table, self._text_table)
        return False


class _Scan(RecordReader):
    """One pass over the file, as far as it was needed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path)
        self.calls = Table()
        self.text_places = Table()
        self._lines = lines_of(io.BufferedReader(_Positioned(descriptor), _BUFFER_BYTES))
        self._failure: CassetteDamagedError | None = None

    def read_on(self) -> bool:
        """Read some more lines; whether there were any.

        Raises:
            CassetteDamagedError: One is not what was written, or the file was cut off.
        """
        if self._failure is not None:
            raise self._failure
        before = self.offset
        try:
            for line in islice(self._lines, _LINES_A_TURN):
                self.take(line)
            if self.offset == before:
                self.require_end()
        except CassetteDamagedError as error:
            self._failure = error
            raise
        return self.offset > before

    def take(self, line: bytes) -> None:
        # What every other line is does not have to be parsed to be found: it is when it is served.
        if self.cassette is not None and not self._ended and self._is_placed(line):
            self.passed(line)
        else:
            super().take(line)

    def _is_placed(self, line: bytes) -> bool:
        """Note the place of a call or a text that is whole; anything else takes the long way."""
        place = Place(self.offset, len(line))
        if line.startswith(_CALL):
            begins = _CALL_ID.match(line)
            if begins is None or not _is_whole(line):
                return False
            scope, n, asked = begins.groups()
            name = _string(scope)
            return name is not None and self.calls.add(
                _call_digest(name, asked.decode("utf-8", "replace"), int(n)), place
            )
        if line.startswith(_TEXT) and _is_whole(line):
            text = _string(line[len(_TEXT) : -CHECKSUM_BYTES])
            if text is not None:
                self._add_text(text, place)
                return True
        return False

    def _add_text(self, text: str, place: Place) -> None:
        self.text_places.add(hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES], place)

    def keep_text(self, cassette: Cassette, text: str, offset: int, length: int) -> None:
        del cassette
        self._add_text(text, Place(offset, length))

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        del cassette
        if not self.calls.add(_call_digest(*call.id), Place(offset, length)):
            raise LineError(f"a second recording of call {call.n} of {call.asked} in {call.scope}")

    def calls_of(self, record: Mapping[str, object]) -> frozenset[CallId]:
        spans_of(record["calls"], len(self.calls))
        return frozenset()

    def keep_run(self, cassette: Cassette, record: Mapping[str, object]) -> None:
        del cassette
        self.calls_of(record)
        RunRecord.from_json({**record, "calls": []}, [])


class _Positioned(io.RawIOBase):
    """An open file from its beginning, with a position of its own: a forked child has another."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _string(encoded: bytes) -> str | None:
    """What a JSON string says; None where it is something else."""
    try:
        value = orjson.loads(encoded)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def _is_whole(line: bytes) -> bool:
    checksum = _CHECKSUM.fullmatch(line[-CHECKSUM_BYTES:])
    if checksum is None or len(line) > MOST_LINE_BYTES:
        return False
    crc = zlib.crc32(b"}", zlib.crc32(memoryview(line)[:-CHECKSUM_BYTES]))
    return crc == int(checksum.group(1), 16)


def _call_digest(scope: str, asked: str, n: int) -> bytes:
    known = f"{len(scope)} {scope} {asked} {n}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(known, digest_size=DIGEST_BYTES).digest()


class MappedCalls(Mapping[CallId, CallRecord]):
    """The calls of a file by id, in file order."""

    def __init__(self, mapped: _Mapped) -> None:
        self._mapped = mapped

    def __getitem__(self, call_id: CallId) -> CallRecord:
        number = self._mapped.number_of(call_id)
        if number is None:
            raise KeyError(call_id)
        return self._mapped.call(number)

    def __contains__(self, call_id: object) -> bool:
        return self._mapped.number_of(call_id) is not None

    def __len__(self) -> int:
        return self._mapped.count()

    def __iter__(self) -> Iterator[CallId]:
        return (call.id for call in self.values())

    def values(self) -> ValuesView[CallRecord]:
        """The calls, in file order, each read when it is its turn."""
        return _Records(self)

    def numbered(self) -> NumberedCalls:
        """All ids, as a set that holds none of them."""
        return NumberedCalls(self._mapped, [range(self._mapped.count())])


class _Records(ValuesView[CallRecord]):
    _mapping: MappedCalls

    def __iter__(self) -> Iterator[CallRecord]:
        mapped = self._mapping._mapped
        return map(mapped.call, range(mapped.count()))


class NumberedCalls(Set[CallId]):
    """Calls given by their places in the file."""

    def __init__(self, mapped: _Mapped, spans: Iterable[range]) -> None:
        self._mapped = mapped
        self._spans = list(spans)

    def __contains__(self, call_id: object) -> bool:
        number = self._mapped.number_of(call_id)
        return number is not None and any(number in span for span in self._spans)

    def __len__(self) -> int:
        return sum(map(len, self._spans))

    def __iter__(self) -> Iterator[CallId]:
        return (call.id for call in self.in_order())

    def __hash__(self) -> int:
        return id(self)

    def in_order(self) -> Iterator[CallRecord]:
        """The calls, in file order."""
        return (self._mapped.call(number) for span in self._spans for number in span)

    def __sub__(self, other: Iterable[object]) -> NumberedCalls:
        places = map(self._mapped.number_of, other)
        taken = sorted(number for number in places if number is not None)
        spans: list[range] = []
        for span in self._spans:
            start = span.start
            for number in taken[bisect_left(taken, start) : bisect_left(taken, span.stop)]:
                spans.append(range(start, number))
                start = number + 1
            spans.append(range(start, span.stop))
        return NumberedCalls(self._mapped, filter(None, spans))

    @classmethod
    def _from_iterable(cls, it: Iterable[CallId]) -> Set[CallId]:  # type: ignore[override]
        return frozenset(it)


class _Texts(Mapping[str, str]):
    """The texts of a file by digest."""

    def __init__(self, mapped: _Mapped) -> None:
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
        raise NotImplementedError("the texts of a large cassette are only known by their digests")

    def __len__(self) -> int:
        raise NotImplementedError("the texts of a large cassette are only known by their digests")
