"""One pass over a large cassette, as far as it was needed: where its calls and texts are.

A line is checked by its checksum and its place is noted. What a recorder wrote is told by its
beginning and its end, without parsing what is between; any other line is parsed as every reader
does.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, cast

import orjson

from swarm_repro.cassette import index_file
from swarm_repro.cassette.lines import CHECKSUM_BYTES, MOST_LINE_BYTES, LineError, lines_of
from swarm_repro.cassette.reader import Cassette, RecordReader
from swarm_repro.cassette.records import IMPLIED_IN_RESPONSE, CallId, CallRecord
from swarm_repro.cassette.runs import RunRecord, spans_of
from swarm_repro.cassette.table import DIGEST_BYTES
from swarm_repro.errors import CassetteDamagedError
from swarm_repro.request import KEY_VERSION

_LINES_A_TURN: Final = 256
_BUFFER_BYTES: Final = 1 << 20
CALL: Final = b'{"record":"call",'
TEXT: Final = b'{"record":"text","text":'
_STRING: Final = rb'"(?:[^"\\]|\\.)*"'
#: A call as recorders write it: its beginning, and all that comes after the answer.
_CALL_BEGINS: Final = re.compile(
    rb'\{"record":"call","scope":(%b),"i":\d+,(?:"n":(\d{1,18}),)?(?:"at":[^"]*,)?'
    rb'(?:"kind":(?:null|%b),)?"asked":"(sr1:[0-9a-f]{64})",(?:"sent":"sr1:([0-9a-f]{64})",)?'
    rb'"(?:seed|model|env|endpoint|request)":' % (_STRING, _STRING)
)
_COUNT: Final = rb"(null|\d{1,9})"
_CALL_ENDS: Final = re.compile(
    rb',"sha256":"([0-9a-f]{64})"\},'
    rb'"tokens":(?:\{"prompt":|\[)%b,(?:"completion":)?%b,(?:"total":)?%b,(?:"cached":)?%b[]}],'
    rb'(?:"prompt_sha256":(?:null|"[0-9a-f]*"),)?"duration_s":([0-9.eE+-]+)'
    rb'(,"shared":true)?(,"from_cache":true)?(?:,"masked":\{[^{}]*\})?,"crc32":"[0-9a-f]{8}"\}\n'
    % (_COUNT, _COUNT, _COUNT, _COUNT)
)
_KEY_DIGITS: Final = slice(len(KEY_VERSION) + 1, len(KEY_VERSION) + 1 + DIGEST_BYTES * 2)
_ANSWER: Final = b',"response":{'
_ANSWER_BEGINS: Final = re.compile(
    re.escape(_ANSWER) + rb'(?:"status":(\d{3}),"type":(%b),)?"json":' % _STRING
)
_PLAIN_STATUS, _PLAIN_TYPE = cast("tuple[int, str]", tuple(IMPLIED_IN_RESPONSE.values()))
_ANSWER_ENDS: Final = b',"sha256":"'
_MOST_TYPES: Final = 1000
_CHECKSUM: Final = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n')


class Scan(RecordReader):
    """One pass over the file, as far as it was needed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path)
        self.index = index_file.empty()
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
        """Note the place of a call or a text, or read the record."""
        # What every other line is does not have to be parsed to be found: it is when it is served.
        if self.cassette is not None and not self._ended and self._is_placed(line):
            self.passed(line)
        else:
            super().take(line)

    def _is_placed(self, line: bytes) -> bool:
        """Note the place of a call or a text that is whole; anything else takes the long way."""
        if line.startswith(CALL) and _is_whole(line):
            begins = _CALL_BEGINS.match(line)
            if begins is None:
                return False
            scope, n, asked, sent = begins.groups()
            name = _string(scope)
            if name is None:
                return False
            digest = call_digest((name, asked.decode(), int(n or 0)))
            sent_key = bytes.fromhex((sent or asked[len(KEY_VERSION) + 1 :]).decode())
            return self.index.calls.add(digest, *self._answer_in(line, sent_key))
        if line.startswith(TEXT) and _is_whole(line):
            text = _string(line[len(TEXT) : -CHECKSUM_BYTES])
            if text is not None:
                self._add_text(text, self.offset, len(line))
                return True
        return False

    def _answer_in(self, line: bytes, sent: bytes) -> tuple[object, ...]:
        """What is known of a call, and of its answer where its bytes are a part of the line."""
        begins = _ANSWER_BEGINS.match(line, max(line.find(_ANSWER), 0))
        ends = _CALL_ENDS.fullmatch(line, max(line.rfind(_ANSWER_ENDS), 0))
        if begins is None or ends is None:
            return _long_way(self.offset, len(line))
        digest, *counts, duration, shared, from_cache = ends.groups()
        body = line[begins.end() : ends.start()]
        known = bytes.fromhex(digest.decode())
        status, given_type = begins.groups()
        content_type = _PLAIN_TYPE if given_type is None else _string(given_type)
        # Whatever was taken for the answer: it is the answer if it has its digest.
        if content_type is None or hashlib.sha256(body).digest() != known:
            return _long_way(self.offset, len(line))
        kind = (_PLAIN_STATUS if status is None else int(status), content_type)
        types = self.index.types
        if kind not in types:
            if len(types) == _MOST_TYPES:
                return _long_way(self.offset, len(line))
            types.append(kind)
        tokens = (-1 if count == b"null" else int(count) for count in counts)
        flags = (shared is not None, from_cache is not None)
        return (
            self.offset + begins.end(),
            len(body),
            zlib.crc32(body),
            float(duration),
            types.index(kind),
            index_file.OF_CALL.pack(self.offset, len(line), sent, *tokens, *flags),
        )

    def _add_text(self, text: str, offset: int, length: int) -> None:
        digest = hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]
        self.index.texts.add(digest, offset, length)

    def keep_text(self, cassette: Cassette, text: str, offset: int, length: int) -> None:
        """Note the place of a text."""
        del cassette
        self._add_text(text, offset, length)

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        """Note the place of a call.

        Raises:
            LineError: The call is in the file already.
        """
        del cassette
        if not self.index.calls.add(call_digest(call.id), *_long_way(offset, length)):
            raise LineError(f"a second recording of call {call.n} of {call.asked} in {call.scope}")

    def calls_of(self, record: Mapping[str, object]) -> frozenset[CallId]:
        """See that the calls of a run or a witness are there; they are not listed."""
        spans_of(record["calls"], len(self.index.calls))
        return frozenset()

    def keep_run(self, cassette: Cassette, record: Mapping[str, object]) -> None:
        """See that a run can be read."""
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


def _long_way(offset: int, length: int) -> tuple[object, ...]:
    """What is known of a call that has to be parsed to be served."""
    nothing = (b"", 0, 0, 0, 0, False, False)
    return (0, 0, 0, 0.0, 0, index_file.OF_CALL.pack(offset, length, *nothing))


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


def call_number(call_id: CallId) -> int:
    """What a call is found by in an index, as a number of 128 bits.

    The asked key is a digest already: half of it, with the scope's digest and the repeat mixed in.
    """
    scope, asked, n = call_id
    return int(asked[_KEY_DIGITS], 16) ^ _scope_number(scope) ^ n


def call_digest(call_id: CallId) -> bytes:
    """What a call is found by in an index, as ``Table`` has it: the number, little endian."""
    return call_number(call_id).to_bytes(DIGEST_BYTES, "little")


@lru_cache(maxsize=4096)
def _scope_number(scope: str) -> int:
    known = scope.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(known, digest_size=DIGEST_BYTES).digest(), "little")
