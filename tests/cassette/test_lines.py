"""One line, one text, one response: what was written is what is read, and damage is seen."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarm_repro.canonical import encode_json, text_sha256
from swarm_repro.cassette.lines import (
    LineError,
    decode_line,
    decode_response,
    encode_line,
    encode_response,
    intern,
    references,
    resolve,
)
from swarm_repro.cassette.runs import from_ranges, to_ranges
from swarm_repro.completion import IN_PROCESS, Completion
from tests.support.tiny_model import LONG, completion_of, json_values, texts

STREAM = "text/event-stream"
RECORDS = st.dictionaries(st.text("abcdef", min_size=1, max_size=5), json_values(), max_size=4).map(
    lambda members: {"record": "call", **members}
)

# --- Lines.


@given(RECORDS)
@settings(max_examples=80, deadline=None)
def test_a_line_reads_back_as_its_record(record: dict[str, object]) -> None:
    line = encode_line(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    json.loads(line)
    assert repr(decode_line(line)) == repr(record)


@given(RECORDS, st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_of_a_line_is_seen(record: dict[str, object], data: st.DataObject) -> None:
    line = bytearray(encode_line(record))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LineError):
        decode_line(bytes(line))


def test_every_change_of_every_byte_of_a_line_is_seen() -> None:
    line = encode_line({"record": "text", "text": 'é "x", {"crc32":"00000000"}'})
    for at in range(len(line)):
        for value in range(256):
            if value != line[at]:
                with pytest.raises(LineError):
                    decode_line(line[:at] + bytes([value]) + line[at + 1 :])


@given(RECORDS, st.data())
@settings(max_examples=60, deadline=None)
def test_a_line_that_breaks_off_is_seen(record: dict[str, object], data: st.DataObject) -> None:
    line = encode_line(record)
    with pytest.raises(LineError):
        decode_line(line[: data.draw(st.integers(0, len(line) - 2))])


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b"[]\n", b'{"record":"call"}\n'])
def test_a_line_without_checksum_is_refused(line: bytes) -> None:
    with pytest.raises(LineError, match="checksum"):
        decode_line(line)


@pytest.mark.parametrize("record", [{}, {"a": 1}, {"record": 1}, {"record": None}])
def test_a_line_that_is_no_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(LineError):
        decode_line(encode_line(record))


# --- Texts.


@given(json_values())
@settings(max_examples=150, deadline=None)
@example({"$text": text_sha256(LONG)})
@example({"$$text": {"$text": LONG}})
@example([{"$text": None}, {"$$$text": [LONG]}, {"$text": LONG, "b": 1}, {"text": LONG}])
def test_interned_values_come_back_exactly(value: object) -> None:
    kept: dict[str, str] = {}
    stored = orjson.loads(encode_json(intern(value, kept)))
    assert repr(resolve(stored, kept)) == repr(value)
    assert all(text_sha256(text) == digest for digest, text in kept.items())
    assert set(references(stored)) == set(kept)


@given(json_values())
@settings(max_examples=80, deadline=None)
def test_no_text_of_256_bytes_is_left_in_a_stored_value(value: object) -> None:
    stack = [intern(value, {})]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            assert len(item.encode()) < 256
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


@pytest.mark.parametrize(
    ("text", "apart"),
    [("x" * 255, False), ("x" * 256, True), ("é" * 127 + "x", False), ("é" * 128, True),
     ("🐝" * 63, False), ("🐝" * 64, True), ("", False)],
)  # fmt: skip
def test_the_limit_counts_utf8_bytes(text: str, *, apart: bool) -> None:
    kept: dict[str, str] = {}
    stored = intern(text, kept)
    assert (stored != text) == apart == bool(kept)


@pytest.mark.parametrize("reference", ["0" * 64, None, 5, ["x"], {}])
def test_a_reference_to_a_text_that_is_not_there_is_refused(reference: object) -> None:
    with pytest.raises(LineError, match="not in the file"):
        resolve({"a": [{"$text": reference}]}, {})


# --- Responses.


def round_trip(completion: Completion) -> tuple[Completion, dict[str, object]]:
    kept: dict[str, str] = {}
    stored = orjson.loads(encode_json(encode_response(completion, kept)))
    assert set(references(stored)) == set(kept)
    return decode_response(stored, kept, duration_s=completion.duration_s), stored


def is_exact(body: bytes, content_type: str) -> None:
    completion = Completion(200, content_type, body, 1.5)
    found, _ = round_trip(completion)
    assert found == completion


LOOSE_JSON = (
    *(b'{"a": 1}', b'{"a":1e-07}', b'{"a":1e-7}', b'{"a":1.0}', b'{"a":1,"a":2}', b'{"a":1}\n'),
    *(b'{"a":"\\u00e9"}', b'{"a":"\\/"}', b'"\\ud800"', b"\xef\xbb\xbf{}", b"-0", b"-0.0", b"0.10"),
    *(b"1e400", b"1E5", b"123456789012345678901234567890", b"NaN", b"null", b"true", b"", b"{"),
    *(b"\x00", b"\r\n\r\n"),
)
LOOSE = st.sampled_from(LOOSE_JSON)
JSON_BODIES = json_values().map(encode_json)
TEXT_BODIES = texts().map(str.encode)
BODIES = (
    JSON_BODIES
    | TEXT_BODIES
    | st.binary(max_size=80)
    | LOOSE
    | st.binary(min_size=300, max_size=400)
)
TYPES = st.sampled_from(["application/json", IN_PROCESS, "text/plain; charset=é", "", STREAM])


@given(BODIES, TYPES)
@settings(max_examples=130, deadline=None)
def test_any_body_comes_back_byte_for_byte(body: bytes, content_type: str) -> None:
    is_exact(body, content_type)


ENDS = st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n", b"", b"\n\n\n"])
STARTS = st.sampled_from([b"data: ", b"data:", b"event: x\ndata: ", b": ", b"error: ", b""])
MULTIBYTE = "é" * 200


EVENTS = st.tuples(STARTS, JSON_BODIES | LOOSE | TEXT_BODIES, ENDS).map(b"".join)
STREAM_BODIES = st.lists(EVENTS, max_size=5).map(b"".join)


@given(STREAM_BODIES)
@settings(max_examples=150, deadline=None)
def test_any_stream_comes_back_byte_for_byte(body: bytes) -> None:
    is_exact(body, STREAM)


@pytest.mark.parametrize(
    "event", [f'data: {{"a": "{MULTIBYTE}"}}\n\n', f": {MULTIBYTE}\n\n", MULTIBYTE]
)
def test_an_event_that_is_long_in_bytes_only_comes_back(event: str) -> None:
    is_exact(event.encode(), STREAM)


@pytest.mark.parametrize("depth", [255, 300, 1000])
@pytest.mark.parametrize(
    ("start", "end", "content_type"),
    [(b"", b"", "application/json"), (b'data: {"a":', b"}\n\n", STREAM)],
)
def test_a_deeply_nested_body_comes_back(
    depth: int, start: bytes, end: bytes, content_type: str
) -> None:
    is_exact(start + b"[" * depth + b"]" * depth + end, content_type)


def test_a_body_is_stored_in_the_most_readable_form_that_is_exact() -> None:
    def form(body: bytes, content_type: str = "application/json") -> dict[str, object]:
        stored = round_trip(Completion(200, content_type, body))[1]
        return {k: v for k, v in stored.items() if k not in {"status", "type", "sha256"}}

    assert form(b'{"b":1,"a":[1.5]}') == {"json": {"b": 1, "a": [1.5]}}
    assert form(b'{"a": 1}') == {"text": '{"a": 1}'}
    assert form(b"\xff") == {"base64": "/w=="}
    assert form(b'data: {"a":1}\n\ndata: [DONE]\n\n', STREAM) == {
        "events": [{"data": {"a": 1}}, "data: [DONE]\n\n"]
    }
    assert form(b'data: {"a":1}\n\ndata: {"a', STREAM) == {
        "events": [{"data": {"a": 1}}, 'data: {"a']
    }
    assert form(b"\xff", STREAM) == {"base64": "/w=="}


def test_member_order_and_floats_of_an_answer_come_back() -> None:
    body = b'{"z":0.1,"a":1e-300,"m":-0.0,"k":1.5e+16,"b":18446744073709551615}'
    found, stored = round_trip(Completion(200, IN_PROCESS, body))
    assert "json" in stored
    assert list(found.documents[0]) == ["z", "a", "m", "k", "b"]  # type: ignore[call-overload]


STORED_BAD = [
    {"json": {"a": 2}},
    {"text": "x"},
    {"base64": "AAAA"},
    {"base64": "not base64!"},
    {"events": ["x"]},
    {"events": "x"},
    {"events": [5]},
    {"events": [{}]},
    {"events": [{"data": {"$text": "0" * 64}}]},
    {"json": {"$text": "0" * 64}},
    {},
]


@pytest.mark.parametrize("member", STORED_BAD)
def test_a_response_that_is_not_what_was_recorded_is_refused(member: dict[str, object]) -> None:
    stored = encode_response(Completion(200, "application/json", b'{"a":1}'), {})
    del stored["json"]
    with pytest.raises(LineError):
        decode_response({**stored, **member}, {}, duration_s=0)


@pytest.mark.parametrize("change", [{"status": "200"}, {"type": None}, {"sha256": "0" * 64}])
def test_a_response_with_a_wrong_member_is_refused(change: dict[str, object]) -> None:
    stored = encode_response(completion_of("x"), {})
    with pytest.raises(LineError):
        decode_response({**stored, **change}, {}, duration_s=0)
    for name in change:
        with pytest.raises(LineError):
            decode_response({k: v for k, v in stored.items() if k != name}, {}, duration_s=0)


# --- Ranges.


@given(st.sets(st.integers(0, 60)))
@settings(max_examples=100, deadline=None)
def test_ranges_come_back(positions: set[int]) -> None:
    ids = [("s", f"k{number}", 0) for number in range(61)]
    ranges = to_ranges(positions)
    assert from_ranges(ranges, ids) == {ids[position] for position in positions}
    assert all(ranges[at][1] < ranges[at + 1][0] for at in range(len(ranges) - 1))
    assert ranges == to_ranges(sorted(positions, reverse=True))


@pytest.mark.parametrize(
    "ranges",
    [
        None,
        5,
        {},
        [5],
        [[1]],
        [[0, 1, 2]],
        [[1, 1]],
        [[2, 1]],
        [[-1, 1]],
        [[0, 4]],
        [[3, 4]],
        ["ab"],
    ],
)
def test_ranges_beyond_the_file_or_malformed_are_refused(ranges: object) -> None:
    with pytest.raises(LineError):
        from_ranges(ranges, [("s", "k", number) for number in range(3)])
