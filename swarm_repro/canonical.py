"""The only JSON encoder of the package, and the digests made from it.

Two forms leave this module:

* ``encode_json``: compact UTF-8 with members in the order they have. Everything written to disk.
* ``encode_canonical``: the same with members sorted by code point, except inside values wrapped
  with ``in_order``, whose member order is part of their meaning. Everything that is hashed.

Numbers are written as orjson writes them: the shortest digits that read back as the same binary64
value. NaN, infinities, integers beyond 64 bits and keys that are no strings have no canonical form
and are errors. Source: docs/reference/key.md.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TypeAlias

import orjson

from swarm_repro.errors import RequestError

JSONValue: TypeAlias = (
    "Mapping[str, JSONValue] | Sequence[JSONValue] | str | int | float | bool | None"
)

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_CANONICAL = _STRICT | orjson.OPT_SORT_KEYS

#: Largest float32 magnitude; what is above it would round to infinity.
_FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def encode_json(value: object, *, finite: bool = False) -> bytes:
    """Encode a JSON value compactly, members in the order they have.

    Args:
        value: dicts with string keys, lists, tuples, strings, numbers, booleans, None; enum members
            stand for their values, UUIDs for their text.
        finite: Whether it is known to hold neither NaN nor infinities, as what was parsed from
            JSON does not: looking for them takes longer than encoding.

    Returns:
        UTF-8 bytes without insignificant white space.

    Raises:
        RequestError: NaN, an infinity, an integer beyond 64 bits, a key that is no string, a lone
            surrogate, or a value that is not JSON.
    """
    try:
        encoded = orjson.dumps(value, option=_STRICT)
    except TypeError as error:
        raise _refusal(error) from error
    if not finite and b"null" in encoded:
        _reject_non_finite(value)
    return encoded


def encode_canonical(value: object, *, finite: bool = False) -> bytes:
    """Encode a JSON value with members sorted by code point.

    Args:
        value: as for ``encode_json``; parts made by ``in_order`` keep their member order.
        finite: as for ``encode_json``.

    Returns:
        UTF-8 bytes without insignificant white space.

    Raises:
        RequestError: as for ``encode_json``.
    """
    try:
        encoded = orjson.dumps(value, option=_CANONICAL)
    except TypeError as error:
        raise _refusal(error) from error
    if not finite and b"null" in encoded:
        _reject_non_finite(value)
    return encoded


def in_order(value: object) -> orjson.Fragment:
    """Mark a value whose member order is part of its meaning, such as a JSON schema.

    Raises:
        RequestError: as for ``encode_json``.
    """
    return orjson.Fragment(encode_json(value))


def embed(encoded: bytes) -> orjson.Fragment:
    """Put bytes that are already encoded into a larger value, unchanged."""
    return orjson.Fragment(encoded)


def _refusal(error: TypeError) -> RequestError:
    return RequestError(f"not a JSON value: {error}")


def _reject_non_finite(value: object) -> None:
    """Refuse what orjson writes as null: only where there is one is this slow look worth its time.

    Raises:
        RequestError: NaN or an infinity.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                raise RequestError(f"{item} has no JSON form; send a finite number")
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, Enum):
            stack.append(item.value)
        elif isinstance(item, (list, tuple)):
            stack.extend(item)


def to_float32(value: float) -> float:
    """Round to the nearest float32, as llama.cpp does with sampling parameters.

    Negative zero becomes zero.

    Raises:
        RequestError: NaN, an infinity, or a magnitude that float32 cannot hold.
    """
    # Compared before anything is converted: an integer may be too large even for a float.
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise RequestError(f"{value} does not fit a float32 sampling parameter")
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded + 0.0  # -0.0 + 0.0 is 0.0


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
