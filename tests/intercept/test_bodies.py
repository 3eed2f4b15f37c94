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


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_integers_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(RequestError) as caught:
        read_body(b'{"a":[{"seed":%d}]}' % number, URL)
    assert str(caught.value) == f"the request to {URL} has the integer {number}: beyond 64 bits"


@pytest.mark.parametrize(
    "data", [b'{"a":"12345678901234567890123"}', b'{"a":0.12345678901234567890123}']
)
def test_long_digits_that_are_no_integer_are_fine(data: bytes) -> None:
    assert read_body(data, URL) == json.loads(data)


@pytest.mark.parametrize("data", [b"", b"{", b"{'a':1}", b'["123456789012345678901', b"\xff"])
def test_invalid_json_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=f"^the request to {URL} is not JSON: "):
        read_body(data, URL)


@pytest.mark.parametrize("data", [b"[1]", b"1", b'"text"', b"null", b"true"])
def test_json_other_than_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match=f"^the request to {URL} is not a JSON object$"):
        read_body(data, URL)
