"""The encoder: one form for one value, and no form for what JSON cannot say."""

from __future__ import annotations

import enum
import json
import math
import random
import struct
import uuid
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.canonical import (
    embed,
    encode_canonical,
    encode_json,
    in_order,
    sha256_hex,
    text_sha256,
    to_float32,
)
from swarm_repro.errors import RequestError
from tests.support.tiny_model import json_values

FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def shuffled(value: object, shuffle: random.Random) -> object:
    if isinstance(value, dict):
        names = list(value)
        shuffle.shuffle(names)
        return {name: shuffled(value[name], shuffle) for name in names}
    if isinstance(value, list):
        return [shuffled(item, shuffle) for item in value]
    return value


@given(json_values(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_canonical_bytes_do_not_depend_on_member_order(
    value: object, shuffle: random.Random
) -> None:
    assert encode_canonical(shuffled(value, shuffle)) == encode_canonical(value)


@given(json_values(floats=False))
@settings(max_examples=80, deadline=None)
def test_canonical_bytes_are_those_of_the_standard_library_but_for_floats(value: object) -> None:
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert json.loads(encode_canonical(value)) == json.loads(expected)
    assert encode_canonical(value) == expected.encode()


@given(json_values())
@settings(max_examples=80, deadline=None)
def test_reading_what_was_encoded_gives_the_same_value_and_member_order(value: object) -> None:
    read = json.loads(encode_json(value))
    assert repr(read) == repr(value)


def test_members_are_sorted_by_code_point_not_by_utf16_unit() -> None:
    assert encode_canonical({"\U0001f41d": 1, "\uffee": 2, "z": 3, "Z": 4}) == (
        '{"Z":4,"z":3,"\uffee":2,"\U0001f41d":1}'.encode()
    )


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(), min_size=2, max_size=6).filter(
        lambda members: all(-(2**63) <= value < 2**64 for value in members.values())
    )
)
@settings(max_examples=60, deadline=None)
def test_in_order_keeps_member_order_at_every_depth(members: dict[str, int]) -> None:
    backwards = dict(reversed(members.items()))
    outer = {"z": {"schema": in_order({"deep": [members]})}, "a": 1}
    turned = {"a": 1, "z": {"schema": in_order({"deep": [backwards]})}}
    assert encode_canonical(outer) != encode_canonical(turned)
    inside = json.dumps({"deep": [members]}, separators=(",", ":"))
    assert encode_canonical(outer) == f'{{"a":1,"z":{{"schema":{inside}}}}}'.encode()


def test_embedded_bytes_are_left_as_they_are() -> None:
    assert encode_canonical({"b": embed(b'{"z":1,"a":2}'), "a": 0}) == b'{"a":0,"b":{"z":1,"a":2}}'


NOT_JSON = [
    pytest.param(math.nan, id="NaN"),
    pytest.param(math.inf, id="infinity"),
    pytest.param(-math.inf, id="minus infinity"),
    pytest.param(2**64, id="65 bits"),
    pytest.param(-(2**63) - 1, id="65 bits, negative"),
    pytest.param("\ud800", id="lone high surrogate"),
    pytest.param("a\udfff", id="lone low surrogate"),
    pytest.param(b"bytes", id="bytes"),
    pytest.param({1, 2}, id="set"),
    pytest.param(object(), id="object"),
    pytest.param(Decimal(1), id="Decimal"),
    pytest.param(1j, id="complex"),
    pytest.param(datetime(2020, 1, 1, tzinfo=timezone.utc), id="datetime"),
    pytest.param({1: "a"}, id="integer key"),
    pytest.param({None: "a"}, id="None key"),
    pytest.param({True: "a"}, id="boolean key"),
    pytest.param({1.5: "a"}, id="float key"),
    pytest.param({"\ud800": 1}, id="surrogate key"),
]


class Colour(enum.Enum):
    RED = "red"
    NOTHING = math.nan


@pytest.mark.parametrize(
    "value",
    [
        *NOT_JSON,
        pytest.param(Colour.NOTHING, id="Enum that is NaN"),
    ],
)
@pytest.mark.parametrize("encode", [encode_json, encode_canonical, in_order])
@pytest.mark.parametrize(
    "place", [lambda v: v, lambda v: [None, v], lambda v: {"a": None, "b": (1, {"c": v})}]
)
def test_what_json_cannot_say_is_an_error_wherever_it_stands(value, encode, place) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError):
        encode(place(value))


def test_enum_members_and_uuids_stand_for_their_values() -> None:
    assert encode_json([Colour.RED, uuid.UUID(int=1)]) == (
        b'["red","00000000-0000-0000-0000-000000000001"]'
    )


def test_a_value_that_holds_itself_is_an_error() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(RequestError):
        encode_json(value)


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 2**63, 0, -1])
def test_integers_of_64_bits_are_exact(value: int) -> None:
    assert encode_json(value) == str(value).encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=100, deadline=None)
def test_a_float_reads_back_as_itself(value: float) -> None:
    assert struct.pack("<d", json.loads(encode_json(value))) == struct.pack("<d", value)


@given(st.floats(min_value=-FLOAT32_MAX, max_value=FLOAT32_MAX))
@settings(max_examples=100, deadline=None)
def test_float32_rounding_is_nearest_and_idempotent(value: float) -> None:
    once = to_float32(value)
    assert to_float32(once) == once
    assert struct.pack("<f", once) in (struct.pack("<f", value), b"\0\0\0\0")
    assert math.copysign(1, once) > 0 or once < 0


def test_zero_has_one_form() -> None:
    for zero in (0, 0.0, -0.0, -1e-60):
        assert encode_json(to_float32(zero)) == b"0.0"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -1e39, 10**39])
def test_what_float32_cannot_hold_is_an_error(value: float) -> None:
    with pytest.raises(RequestError):
        to_float32(value)


def test_an_integer_beyond_binary64_is_an_error_like_any_other_misfit() -> None:
    with pytest.raises(RequestError):
        to_float32(10**400)


def test_the_largest_float32_is_one() -> None:
    assert to_float32(FLOAT32_MAX) == FLOAT32_MAX


def test_digests_are_sha256_of_the_utf8_bytes() -> None:
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert text_sha256("é") == sha256_hex(b"\xc3\xa9")
