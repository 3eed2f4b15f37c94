"""Reading a request's body: anything but a JSON object that is sent unchanged is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from swarm_repro.errors import RequestError
from swarm_repro.intercept.bodies import read_body
from tests.support.tiny_model import json_values

URL = "http://host/v1/x"


@given(json_values())
def test_an_object_is_read_as_json_reads_it(value: object) -> None:
    data = json.dumps({"a": value}).encode()
    assert read_body(data, URL) == {"a": value} == json.loads(data)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 10**18, 0])
def test_integers_of_64_bits_are_kept(number: int) -> None:
    assert read_body(b'{"seed":%d}' % number, URL) == {"seed": number}


@pytest.mark.parametrize("number", [2**64, -(2**64) + 1, -(2**63) - 1, 10**30])
def test_integers_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(RequestError) as caught:
        read_body(b'{"a":[{"seed":%d}]}' % number, URL)
    assert str(caught.value) == f"the request to {URL} has the integer {number}: beyond 64 bits"


def test_an_integer_of_more_digits_than_python_reads_is_refused() -> None:
    digits = "1" * 5000
    with pytest.raises(RequestError, match=f"has the integer {digits}: beyond 64 bits$"):
        read_body(b'{"a":%s}' % digits.encode(), URL)


@pytest.mark.parametrize(
    "data", [b'{"a":"12345678901234567890123"}', b'{"a":0.12345678901234567890123}']
)
def test_long_digits_that_are_no_integer_are_fine(data: bytes) -> None:
    assert read_body(data, URL) == json.loads(data)


@pytest.mark.parametrize("data", [b"", b"{", b"{'a':1}", b'["123456789012345678901', b"\xff"])
def test_invalid_json_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=f"^the request to {URL} is not JSON: "):
        read_body(data, URL)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'"\xff"', id="bytes that are no UTF-8"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused_beside_long_digits(value: bytes) -> None:
    with pytest.raises(RequestError, match=f"^the request to {URL} is not JSON: "):
        read_body(b'{"a":"12345678901234567890","b":%s}' % value, URL)


@pytest.mark.parametrize("data", [b"[1]", b"1", b'"text"', b"null", b"true"])
def test_json_other_than_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=f"^the request to {URL} is not a JSON object$"):
        read_body(data, URL)
