"""Nothing that a model says can drive the terminal it is shown on, or mislead its reader."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.printable import printable

any_text = st.text(st.characters(codec=None), max_size=40)


@given(any_text)
@settings(max_examples=150)
def test_nothing_is_left_that_does_not_show_as_itself(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & {
        "Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp",
    }  # fmt: skip
    shown.encode("utf-8")


@given(any_text)
def test_lines_are_kept_only_where_that_is_asked_for(text: str) -> None:
    assert "\n" not in printable(text)
    assert printable(text, keep_lines=True).split("\n") == [
        printable(line) for line in text.split("\n")
    ]


@given(any_text)
def test_what_shows_as_itself_is_left_alone(text: str) -> None:
    harmless = "".join(character for character in text if character.isprintable())
    assert printable(harmless) == harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202ebackwards\u2069", "\\u202ebackwards\\u2069"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\U000e0041 a tag", "\\U000e0041 a tag"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("\ud800 \ue000 \u0378", "\\ud800 \\ue000 \\u0378"),
        ("\r\t", "\\r\\t"),
        ("Ünïcode, 🦙 and 漢字", "Ünïcode, 🦙 and 漢字"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert printable(text) == shown
