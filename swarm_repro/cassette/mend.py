"""Putting flipped bits right, where the digest in the end record proves that all is as written.

A CRC-32 tells which bit of a line was flipped, if it was one. That alone would be a guess; the
SHA-256 of the whole file decides.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator

import orjson

from swarm_repro.cassette.lines import CHECKSUM_BYTES, LineError, decode_line

#: Flips of more lines than this are no accident of a disk.
_MOST_LINES = 64
_LONGEST = 1 << 22
#: Two records whose line feed was flipped.
_RUN_TOGETHER = re.compile(rb'"\}.(?=\{"record":")', re.DOTALL)


def mended_lines(lines: Iterable[bytes]) -> list[bytes] | None:
    """The lines as they were written, where single flipped bits explain all that is wrong.

    Args:
        lines: Those of a finished cassette, line feeds included.

    Returns:
        All lines; None where they cannot be had, or cannot be proven.
    """
    found: list[bytes] = []
    mended = 0
    held: bytes | None = None  # a line that may be the first half of one that was split
    for line in _split(lines):
        if held is not None:
            whole = _joined(held, line)
            held = None
            if whole is None:
                return None
            found.append(whole)
            continue
        if _is_whole(line):
            found.append(line)
            continue
        mended += 1
        if mended > _MOST_LINES or len(line) > _LONGEST:
            return None
        right = _mended(line)
        if right is None:
            held = line
        else:
            found.append(right)
    if held is not None or not found:
        return None
    digest = hashlib.sha256(b"".join(found[:-1])).hexdigest()
    end = orjson.loads(found[-1])
    return found if end.get("record") == "end" and end.get("sha256") == digest else None


def _is_whole(line: bytes) -> bool:
    try:
        decode_line(line)
    except LineError:
        return False
    return True


def _split(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Separate records whose line feed became another byte."""
    for line in lines:
        start = 0
        if not _is_whole(line):
            for found in _RUN_TOGETHER.finditer(line):
                if _is_one_bit(line[found.end() - 1] ^ ord("\n")):
                    yield line[start : found.end() - 1] + b"\n"
                    start = found.end()
        yield line[start:]


def _joined(first: bytes, second: bytes) -> bytes | None:
    """One record that a flipped bit made two of."""
    for bit in range(8):
        whole = first[:-1] + bytes([ord("\n") ^ 1 << bit]) + second
        if _is_whole(whole):
            return whole
    return None


def _mended(line: bytes) -> bytes | None:
    """A line with the one bit put right that makes its checksum right."""
    kept = line[:-CHECKSUM_BYTES]
    body = kept + b"}"
    checksum = zlib.crc32(body)
    suffix = b',"crc32":"%08x"}\n' % checksum
    if len(line) > CHECKSUM_BYTES and _is_one_bit(
        int.from_bytes(line[-CHECKSUM_BYTES:], "big") ^ int.from_bytes(suffix, "big")
    ):
        return kept + suffix
    try:
        syndrome = checksum ^ int(line[-11:-3], 16)
    except ValueError:
        return None
    # What a flipped bit does to the checksum, from the last byte to the first.
    effects = [_TABLE[1 << bit] for bit in range(8)]
    for place in range(len(body) - 1, -1, -1):
        if syndrome in effects and place < len(kept):
            flipped = bytearray(line)
            flipped[place] ^= 1 << effects.index(syndrome)
            return bytes(flipped)
        effects = [effect >> 8 ^ _TABLE[effect & 0xFF] for effect in effects]
    return None


def _is_one_bit(difference: int) -> bool:
    return difference != 0 and difference & (difference - 1) == 0


def _table() -> list[int]:
    """CRC-32 of each byte as a difference. Source: RFC 1952, section 8."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()
