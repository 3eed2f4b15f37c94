"""The index of a large cassette, kept in the user's cache directory and mapped into memory.

An index belongs to one state of one cassette: the file's identity and times, and the digest
in its end record. It is believed if all of these and its own checksum are as they were; anything
else is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from swarm_repro.cachedir import cache_folder
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.table import Table

_log = logging.getLogger(__name__)

#: What belongs to a text: where its line is and how long, in bytes.
TEXT: Final = "QI"
#: What belongs to a call in one piece: where its line is and how long; and, where that is as
#: recorders write it, the sent key, token counts (-1: unknown), and whether it was answered with
#: another, or from the cache.
OF_CALL: Final = struct.Struct("=QI32s4i??")
#: What belongs to a call. Of its answer, where the line is as recorders write it: where its bytes
#: are (else 0) and how many, CRC-32 of them, seconds, and the number of its status and type. Then
#: ``OF_CALL``.
CALL: Final = f"QIIdH{OF_CALL.size}s"

#: Version of the format, and the byte order it is read with.
_MAGIC: Final = struct.pack("=8sI", b"srindex4", 0x01020304)
_HEAD: Final = struct.Struct("=5Q32s5QI")
#: A file that was written this recently may be written again without another time.
_RACY_NS: Final = 2_000_000_000


class State(NamedTuple):
    """A state of a cassette.

    Attributes:
        device: Of the file.
        inode: Of the file.
        size: In bytes.
        modified_ns: When its bytes were changed last.
        changed_ns: When it was changed in any way last.
        digest: SHA-256 in its end record, 32 bytes.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int
    digest: bytes

    @classmethod
    def of(cls, descriptor: int, digest: bytes) -> State:
        """The state of an open file."""
        stat = os.fstat(descriptor)
        return cls(
            stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, digest
        )


class Index(NamedTuple):
    """Where the calls and texts of a cassette are.

    Attributes:
        calls: By the digest of their ids, in file order; ``CALL``.
        texts: By their digests; ``TEXT``.
        types: HTTP statuses and content types of answers, which calls name by number.
    """

    calls: Table
    texts: Table
    types: list[tuple[int, str]]


def empty() -> Index:
    """An index to begin with."""
    return Index(Table(CALL), Table(TEXT), [])


def load(state: State) -> Index | None:
    """The index of a cassette; None where none can be believed."""
    path = _path(state)
    try:
        with path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):  # none, or an empty one
        return None
    head_end = len(_MAGIC) + _HEAD.size
    if len(mapped) < head_end or mapped[: len(_MAGIC)] != _MAGIC:
        return None
    known = _HEAD.unpack_from(mapped, len(_MAGIC))
    lengths, checksum = known[len(state) : -1], known[-1]
    if known[: len(state)] != state or head_end + sum(lengths) != len(mapped):
        return None
    if zlib.crc32(mapped[head_end:]) != checksum:
        _log.warning("the index %s is damaged; the cassette is read once more", path)
        return None
    parts = []
    for length in lengths:
        parts.append(mapped[head_end : head_end + length])
        head_end += length
    calls, texts = Table(CALL, parts[0], parts[1]), Table(TEXT, parts[2], parts[3])
    return Index(calls, texts, [tuple(pair) for pair in orjson.loads(parts[4])])


def save(state: State, index: Index) -> bool:
    """Keep the index of a cassette that was read to its end.

    Returns:
        Whether they are kept. A cassette that was written a moment ago could be written again
        without another time, and a cache directory that cannot be written is no error: reading the
        cassette once more does as well.
    """
    if time.time_ns() - max(state.modified_ns, state.changed_ns) < _RACY_NS:
        return False
    calls, texts, types = index
    parts = [calls.entry_bytes, calls.slot_bytes, texts.entry_bytes, texts.slot_bytes]
    parts.append(memoryview(encode_json(types)))
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    head = _HEAD.pack(*state, *(len(part) for part in parts), checksum)
    try:
        _write(_path(state), [_MAGIC, head, *parts])
    except OSError as error:
        _log.warning("the index of a cassette cannot be kept: %s", error)
        return False
    return True


def forget(state: State) -> None:
    """Remove the index of a cassette."""
    with contextlib.suppress(OSError):
        _path(state).unlink()


def _path(state: State) -> Path:
    name = hashlib.sha256(f"{state.device} {state.inode}".encode()).hexdigest()[:32]
    return cache_folder("indexes") / f"{name}.index"


def _write(path: Path, parts: Iterable[bytes | bytearray | memoryview]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".index.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
