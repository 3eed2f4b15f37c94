"""One line of a cassette: a JSON object with a checksum, and long texts kept apart.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import BinaryIO

import orjson

from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.completion import Completion
from swarm_repro.errors import RequestError

#: A string of this many UTF-8 bytes or more is stored once, as a ``text`` record.
TEXT_MIN_BYTES = 256

_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n')
CHECKSUM_BYTES = len(b',"crc32":"00000000"}\n')
#: What memory a line may take: no recorder writes a longer one.
MOST_LINE_BYTES = 1 << 26
#: How deeply the encoder nests; Python's own recursion ends later.
_MOST_NESTED = 254
_REFERENCE = "$text"
_MARK = b'$text"'
_ESCAPED_MARK = b'$$text"'
_REFERENCE_START = b'{"$text":'
_ENCODED_REFERENCE = re.compile(rb'\{"\$text":"([^"\\]*)"\}')
_ESCAPED = re.compile(r"\$+text\Z")
_EVENT = "data: "
_EVENT_END = "\n\n"


class LineError(ValueError):
    """A line that is not what was written; the reader adds file and line number."""


def encode_line(record: Mapping[str, object]) -> bytes:
    """One record as a line: compact JSON, CRC-32 of it as last member, a line feed.

    Raises:
        RequestError: The record holds something that is not JSON, or too much.
    """
    body = encode_json(record)
    if len(body) + CHECKSUM_BYTES > MOST_LINE_BYTES:
        raise RequestError(
            f"a {record.get('record')} of {len(body) >> 20} MiB is too long for a cassette, whose "
            f"lines have at most {MOST_LINE_BYTES >> 20} MiB"
        )
    return b'%s,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, line feeds included, each in bounded memory.

    Args:
        file: Open for reading. Of a line that is too long a piece is given, which is no record.
    """
    while line := file.readline(MOST_LINE_BYTES + 1):
        yield line


def decode_line(line: bytes) -> dict[str, object]:
    """Check and parse one line.

    Raises:
        LineError: No checksum, a wrong one, or no JSON object.
    """
    if len(line) > MOST_LINE_BYTES:
        raise LineError(
            f"a line of more than {MOST_LINE_BYTES >> 20} MiB, which no recorder writes"
        )
    match = _CHECKSUM.fullmatch(line[-CHECKSUM_BYTES:])
    if match is None:
        raise LineError("no checksum: the line is torn, or not a cassette record")
    body = line[:-CHECKSUM_BYTES] + b"}"
    if zlib.crc32(body) != int(match.group(1), 16):
        raise LineError("wrong checksum: the line was changed after it was written")
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("record"), str):
        raise LineError("not a cassette record")
    if body.count(b"{") + body.count(b"[") > _MOST_NESTED:
        _require_shallow(record)
    return record


def _require_shallow(record: object) -> None:
    """Refuse what no recorder could have encoded."""
    try:
        encode_json(record)
    except RequestError as error:
        raise LineError("nested too deeply") from error


def intern(value: object, texts: MutableMapping[str, str]) -> object:
    """Replace long strings by references, and note them in ``texts``.

    A reference is ``{"$text": "<sha256>"}``. An object of the data that looks like one gets another
    dollar sign, so that ``resolve`` is exact.
    """
    if isinstance(value, str):
        # A character is 1 to 4 bytes: most strings need not be encoded to know.
        if len(value) * 4 < TEXT_MIN_BYTES or len(value.encode("utf-8")) < TEXT_MIN_BYTES:
            return value
        digest = text_sha256(value)
        texts[digest] = value
        return {_REFERENCE: digest}
    if isinstance(value, Mapping):
        if len(value) == 1:
            (name,) = value
            if _ESCAPED.match(name):
                return {"$" + name: intern(value[name], texts)}
        return {name: intern(member, texts) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [intern(item, texts) for item in value]
    return value


def resolve(value: object, texts: Mapping[str, str]) -> object:
    """Put the texts back: the inverse of ``intern``.

    Raises:
        LineError: A reference to a text that is not there.
    """
    encoded = encode_json(value)
    resolved = _resolve_encoded(encoded, value, texts)
    return value if resolved is encoded else orjson.loads(resolved)


def _resolve_encoded(encoded: bytes, value: object, texts: Mapping[str, str]) -> bytes:
    """JSON of a value with its texts put back; the same object if it refers to none."""
    if _MARK not in encoded:
        return encoded
    if _ESCAPED_MARK not in encoded:
        # Inside a JSON string a quotation mark is escaped: what looks like a reference is one.
        resolved, count = _ENCODED_REFERENCE.subn(
            lambda found: encode_json(_text(found.group(1).decode(), texts)), encoded
        )
        if count == encoded.count(_REFERENCE_START):
            return resolved
    return encode_json(_resolve_members(value, texts))


def _text(digest: object, texts: Mapping[str, str]) -> str:
    if not isinstance(digest, str) or digest not in texts:
        raise LineError(f"refers to text {digest}, which is not in the file before it")
    return texts[digest]


def _resolve_members(value: object, texts: Mapping[str, str]) -> object:
    if isinstance(value, dict):
        if len(value) == 1:
            (name,) = value
            if name == _REFERENCE:
                return _text(value[name], texts)
            if _ESCAPED.match(name):
                return {name[1:]: _resolve_members(value[name], texts)}
        return {name: _resolve_members(member, texts) for name, member in value.items()}
    if isinstance(value, list):
        return [_resolve_members(item, texts) for item in value]
    return value


def references(value: object) -> Iterator[str]:
    """The digests of the texts a stored value refers to, in order of use."""
    if isinstance(value, dict):
        if len(value) == 1 and _REFERENCE in value:
            yield str(value[_REFERENCE])
        else:
            for member in value.values():
                yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def encode_response(completion: Completion, texts: MutableMapping[str, str]) -> dict[str, object]:
    """The ``response`` member of a call: the body in the most readable form that is exact."""
    return {
        "status": completion.status,
        "type": completion.content_type,
        **_encode_body(completion, texts),
        "sha256": completion.sha256,
    }


def _encode_body(completion: Completion, texts: MutableMapping[str, str]) -> dict[str, object]:
    body = completion.body
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}
    if completion.is_stream:
        return {"events": [_encode_event(event, texts) for event in _split_events(text)]}
    exact, value = _exact_json(text)
    return {"json": intern(value, texts)} if exact else {"text": intern(text, texts)}


def _split_events(text: str) -> list[str]:
    pieces = text.split(_EVENT_END)
    return [piece + _EVENT_END for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def _encode_event(event: str, texts: MutableMapping[str, str]) -> object:
    if event.startswith(_EVENT) and event.endswith(_EVENT_END):
        exact, value = _exact_json(event[len(_EVENT) : -len(_EVENT_END)])
        if exact and isinstance(value, dict):
            return {"data": intern(value, texts)}
    interned = intern(event, texts)
    return interned if isinstance(interned, str) else {"raw": interned}


def _exact_json(text: str) -> tuple[bool, object]:
    """Parse, and say whether encoding the value again gives the same bytes."""
    try:
        value = orjson.loads(text)
        return encode_json(value) == text.encode("utf-8"), value
    except (orjson.JSONDecodeError, RequestError):
        # Not JSON, or nested more deeply than can be written: kept as text.
        return False, None


def decode_response(
    stored: Mapping[str, object], texts: Mapping[str, str], *, duration_s: float
) -> Completion:
    """Rebuild an answer and check its bytes.

    Raises:
        LineError: The body's SHA-256 is not the recorded one, or a member is missing.
    """
    try:
        body = _decode_body(stored, texts)
        status, content_type, digest = stored["status"], stored["type"], stored["sha256"]
    except LineError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise LineError(f"the response cannot be read: {error}") from error
    if not isinstance(status, int) or not isinstance(content_type, str):
        raise LineError("the response has no status or content type")
    if sha256_hex(body) != digest:
        raise LineError("the response's bytes do not have the recorded SHA-256")
    return Completion(status=status, content_type=content_type, body=body, duration_s=duration_s)


def _decode_body(stored: Mapping[str, object], texts: Mapping[str, str]) -> bytes:
    if "json" in stored:
        value = stored["json"]
        return _resolve_encoded(encode_json(value, finite=True), value, texts)
    if "text" in stored:
        return str(resolve(stored["text"], texts)).encode("utf-8")
    if "events" in stored:
        events = stored["events"]
        if not isinstance(events, list):
            raise TypeError("events is not a list")
        return b"".join(_decode_event(event, texts) for event in events)
    return base64.b64decode(str(stored["base64"]), validate=True)


def _decode_event(event: object, texts: Mapping[str, str]) -> bytes:
    if isinstance(event, str):
        return event.encode("utf-8")
    if not isinstance(event, dict):
        raise TypeError("an event is neither a string nor an object")
    if "raw" in event:
        return str(resolve(event["raw"], texts)).encode("utf-8")
    data = encode_json(resolve(event["data"], texts))
    return _EVENT.encode() + data + _EVENT_END.encode()
