"""Credentials of a URL: each once, by the name of its parameter or by its form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.completion import Completion
from swarm_repro.credentials import find_credentials, find_in_target, mark_of
from swarm_repro.masking import Masker
from swarm_repro.request import Request
from tests.support.tiny_model import make_binding

GOOGLE = "AIza" + "Sy-_7" * 7
AWS = "AKIAIOSFODNN7EXAMPLE"
MARK = mark_of("URL parameter", "x")


def found(target: str) -> list[tuple[str, str]]:
    return [(target[span.start : span.end], span.kind) for span in find_in_target(target)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("POST /v1/messages", []),
        ("POST /v1/messages?", []),
        ("POST /v1/messages?alt=sse", []),
        ("POST /x?key", []),
        ("POST /x?key=", []),
        ("POST /x?=value", []),
        ("POST /x?&&", []),
        ("POST /x?key=abc", [("abc", "URL parameter")]),
        ("POST /x?a=1&KEY=abc&b=2", [("abc", "URL parameter")]),
        ("POST /x?api%5Fkey=abc", [("abc", "URL parameter")]),
        ("POST /x?key=a=b", [("a=b", "URL parameter")]),
        ("POST /x?key=abc&token=def", [("abc", "URL parameter"), ("def", "URL parameter")]),
        # One that is known by its looks as well is found once, by the whole of its parameter.
        (f"POST /x?key={GOOGLE}", [(GOOGLE, "URL parameter")]),
        (f"POST /x?key=a{AWS}b", [(f"a{AWS}b", "URL parameter")]),
        (f"POST /x?sig={AWS}&q={AWS}", [(AWS, "URL parameter"), (AWS, "AWS Access Key")]),
        (f"POST /x?q={AWS}&sig={AWS}", [(AWS, "AWS Access Key"), (AWS, "URL parameter")]),
        (f"POST /{AWS}/x?a=1", [(AWS, "AWS Access Key")]),
        (f"POST /{AWS}/x?key=abc", [(AWS, "AWS Access Key"), ("abc", "URL parameter")]),
        # What was masked before is not masked again.
        (f"POST /x?key={MARK}", []),
        (f"POST /x?key={MARK}&token=abc", [("abc", "URL parameter")]),
        (f"POST /x?key={MARK}x", [(f"{MARK}x", "URL parameter")]),
    ],
)
def test_each_credential_of_an_address_is_found_once(
    target: str, expected: list[tuple[str, str]]
) -> None:
    assert found(target) == expected


SECRET = [
    "access_key", "access_token", "api_key", "api-key", "apikey", "auth", "auth_token",
    "client_secret", "code", "key", "passwd", "password", "secret", "sig", "signature",
    "subscription-key", "token", "x-amz-credential", "x-amz-security-token", "X-Amz-Signature",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET)
def test_parameters_that_hold_a_credential_are_known_by_their_names(name: str) -> None:
    assert found(f"GET /x?{name}=abc&y=z") == [("abc", "URL parameter")]


@pytest.mark.parametrize("name", ["keyword", "author", "max_tokens", "decode", "user"])
def test_other_names_are_not_taken_for_them(name: str) -> None:
    assert found(f"GET /x?{name}=abc") == []


@given(st.lists(st.sampled_from(["a=1", "key=abc", f"token={GOOGLE}", f"q={AWS}", ""]), max_size=6))
def test_the_rest_of_an_address_is_left_as_it_is(parts: list[str]) -> None:
    target = "POST /v1/x?" + "&".join(parts)
    request = Request("opaque", make_binding(), target, {})
    masked, kinds = Masker().request(request)
    expected = "POST /v1/x?" + "&".join(
        {
            "key=abc": f"key={mark_of('URL parameter', 'abc')}",
            f"token={GOOGLE}": f"token={mark_of('URL parameter', GOOGLE)}",
            f"q={AWS}": f"q={mark_of('AWS Access Key', AWS)}",
        }.get(part, part)
        for part in parts
    )
    assert masked.path == expected
    assert sum(kinds.values()) == sum(part not in ("a=1", "") for part in parts)
    again, none = Masker().request(masked)
    assert again is masked
    assert not none


def test_the_path_of_a_known_api_is_left_as_it_is() -> None:
    request = Request("chat", make_binding(), "/v1/chat/completions?key=abc", {"messages": []})
    assert Masker().request(request)[0] is request


def test_credentials_that_overlap_are_one() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s-t_uvwxyz"
    text = f"Authorization: Bearer {jwt}"
    (span,) = find_credentials(text)
    assert text[span.start : span.end] == jwt
    two = f"{AWS} {GOOGLE}"
    assert [two[s.start : s.end] for s in find_credentials(two)] == [AWS, GOOGLE]


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("text/plain", "short", "short"),
        ("text/plain", "1234567", "1234567"),
        ("text/plain", "12345678", "x2345678"),
        ("application/json", '{"a":"1"}', '{"a":"x"}'),
        ("application/json", '{"a":"2"}', '{"a":"2"}'),
        ("application/json", '{"a": ["1", 1, {"1": "1"}]}', '{"a":["x",1,{"1":"x"}]}'),
        ("application/json", '["1"]', '["x"]'),
        ("application/json", '"1"', '"x"'),
    ],
)
def test_a_users_own_redaction_changes_texts_and_nothing_else(
    kind: str, before: str, after: str
) -> None:
    masker = Masker(lambda text: text.replace("1", "x") if len(text) != 7 else text)
    masked, _ = masker.completion(Completion(200, kind, before.encode()))
    assert masked.body.decode() == after
    assert (masked.status, masked.content_type) == (200, kind)


@given(st.text(max_size=7))
def test_a_text_of_less_than_eight_characters_holds_no_credential(text: str) -> None:
    assert find_credentials(text) == []
