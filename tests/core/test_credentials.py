"""Credentials: every kind that the rules know is found whole, and ordinary prompts hold none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.credentials import _rules, find_credentials, find_in_target, mark_of
from tests.support.command import ROOT

ANTHROPIC = "sk-ant-api03-" + "aB3-" * 20
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"

SAMPLES = {
    "Anthropic key": ANTHROPIC,
    "OpenRouter key": "sk-or-v1-" + "0f" * 32,
    "OpenAI key": "sk-proj-" + "aB3_" * 30,
    "OpenAI Token": "sk-" + "a" * 20 + "T3BlbkFJ" + "b" * 20,
    "Google API key": "AIza" + "Sy-_7" * 7,
    "Google OAuth token": "ya29.a0AfH6SMBx-_yz0123456789",
    "Hugging Face token": "hf_" + "aBcD" * 8 + "eF",
    "Groq key": "gsk_" + "aB3d" * 13,
    "xAI key": "xai-" + "aB3d" * 20,
    "Replicate token": "r8_" + "a" * 37,
    "Perplexity key": "pplx-" + "a1" * 24,
    "NVIDIA key": "nvapi-" + "aB-_" * 16,
    "GitHub Token": "ghp_" + "aB3d" * 9,
    "GitHub fine-grained token": "github_pat_" + "a_" * 41,
    "GitLab Token": "glpat-" + "aB3_" * 5,
    "npm token": "npm_" + "aB3d" * 9,
    "PyPI Token": "pypi-AgEIcHlwaS5vcmc" + "aB3-" * 20,
    "AWS Access Key": "AKIAIOSFODNN7EXAMPLE",
    "Azure Storage Account access key": "AccountKey=" + "a+/1" * 21 + "abc=",
    "Slack Token": "xoxb-123456789012-abcdefabcdef",
    "Slack app token": "xapp-1-A012-123-" + "0f" * 32,
    "SendGrid API Key": "SG." + "a" * 22 + "." + "b" * 43,
    "Stripe Access Key": "sk_live_" + "a1" * 12,
    "Stripe test key": "sk_test_" + "a1" * 12,
    "Telegram Bot Token": "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
    "Twilio API Key": "SK" + "0f" * 16,
    "Discord Bot Token": "M" + "a" * 23 + "." + "b" * 6 + "." + "c" * 27,
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s-t_uvwxyz",
    "private key": PEM,
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("around", [("", ""), ("Use ", " to log in."), ('{"key": "', '"}')])
def test_a_credential_is_found_from_its_first_character_to_its_last(
    kind: str, around: tuple[str, str]
) -> None:
    before, after = around
    (span,) = find_credentials(f"{before}{SAMPLES[kind]}{after}")
    assert (span.start, span.end) == (len(before), len(before) + len(SAMPLES[kind]))
    assert span.kind == kind


@settings(max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("number", range(len(_rules())))
def test_what_a_public_rule_matches_is_masked(number: int, data: st.DataObject) -> None:
    rule = _rules()[number]
    ascii_only = st.characters(codec="ascii")
    drawn = data.draw(st.from_regex(rule.pattern, fullmatch=True, alphabet=ascii_only))
    match = rule.pattern.search(drawn)
    assert match is not None
    text = f"see {drawn} there"
    again = rule.pattern.search(text)
    if again is None:
        return  # such as one that begins where a text begins
    covered = "".join(text[span.start : span.end] for span in find_credentials(text))
    assert again.group(rule.group) in covered


def test_the_password_of_an_address_is_masked_and_the_address_is_not() -> None:
    text = "postgres://agent:correct-horse@db.example:5432/town"
    (span,) = find_credentials(text)
    assert text[span.start : span.end] == "correct-horse"


def test_a_key_in_json_text_is_found_though_its_line_feeds_are_escaped() -> None:
    text = PEM.replace("\n", "\\n")
    (span,) = find_credentials(f'{{"pem": "{text}"}}')
    assert span.end - span.start == len(text)


def test_a_key_that_was_cut_off_is_masked_to_the_end() -> None:
    text = PEM[:-20]
    (span,) = find_credentials(text)
    assert (span.start, span.end) == (0, len(text))


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_an_authorization_header_in_a_text_is_masked(scheme: str) -> None:
    text = f'curl -H "Authorization: {scheme} dG93bjpzZWNyZXQtd29yZA=="'
    (span,) = find_credentials(text)
    assert text[span.start : span.end] == "dG93bjpzZWNyZXQtd29yZA=="


def test_a_mark_is_no_credential() -> None:
    mark = mark_of("Anthropic key", ANTHROPIC)
    assert find_credentials(f"{mark} and https://me:{mark}@host/") == []


def test_one_credential_has_one_mark_and_two_have_two() -> None:
    assert mark_of("key", "abcdefgh") == mark_of("key", "abcdefgh") != mark_of("key", "abcdefgi")
    assert re.fullmatch(r"\[masked key [0-9a-f]{8}\]", mark_of("key", "abcdefgh"))


def test_values_of_query_parameters_that_hold_credentials_are_found() -> None:
    target = "POST /v1beta/models/m:generate?alt=sse&key=hunter2&API_KEY=a%20b&keyword=fine"
    found = [target[span.start : span.end] for span in find_in_target(target)]
    assert found == ["hunter2", "a%20b"]


def test_recorded_prompts_and_answers_hold_none() -> None:
    """False alarms would cost bit-exactness: none in a thousand real texts."""
    texts: set[str] = set()
    for path in (*ROOT.glob("cassettes/*.jsonl"), *ROOT.glob("tests/data/drift/*.jsonl")):
        for call in read_cassette(path).calls.values():
            texts.update(call.texts.values())
            texts.add(call.completion.body.decode())
    assert len(texts) > 400
    assert [text for text in texts if find_credentials(text)] == []
