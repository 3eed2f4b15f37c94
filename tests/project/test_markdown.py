"""Texts in a Markdown page show themselves and do nothing."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from swarm_repro.printable import printable
from swarm_repro.project.markdown import code, escaped, joined, preformatted, table
from tests.support.tiny_model import texts

HOSTILE = [
    "<script>alert(1)</script></code></table>",
    "a|b||c\\|d",
    "``` `x` ~~~",
    "[link](javascript:alert(1)) ![i](x) <https://x.example>",
    "@everyone see #1, GH-2, https://x.example www.x.example a@b.example",
    "::error::x\n::set-output name=a::b\n##[error]y",
    "\x1b[31m\u202e\u2028\x00",
    "&lt;b&gt; &#60; &amp;",
    "# h\n- list\n1. one\n> quote\n---\n\n    code",
    "$x$ **bold** __b__ ~~s~~ :tada:",
]


def shown_cells(page: str) -> list[str]:
    """The texts of a page's table cells, as a browser would show them."""
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    return [
        html.unescape(re.sub(r"<!--.*?-->|</?code>", "", cell))
        for cell in re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    ]


@given(st.lists(st.sampled_from(HOSTILE) | texts(), min_size=1, max_size=3))
def test_a_cell_shows_its_text_whatever_it_holds(values: list[str]) -> None:
    # A cell that begins or ends with a space is trimmed by every renderer.
    values = [f"x{value}x" for value in values]
    page = "\n".join(table(["c"] * len(values), [[code(v, limit=10_000) for v in values]]))
    assert shown_cells(page) == [printable(value) for value in values]


@given(st.sampled_from(HOSTILE) | texts())
def test_what_is_escaped_has_no_character_that_means_anything(text: str) -> None:
    allowed = re.sub(r"&#\d+;|<!---->", "", escaped(text))
    assert all(c.isalnum() or c in " ,;" or ord(c) > 127 for c in allowed)
    assert allowed.isprintable()


@given(st.sampled_from(HOSTILE) | texts())
def test_no_line_of_a_text_is_a_command_of_the_runner(text: str) -> None:
    for line in preformatted(text).split("\n"):
        assert "::" not in line
        assert "##[" not in line


@given(st.sampled_from(HOSTILE) | texts())
def test_preformatted_text_cannot_end_its_element(text: str) -> None:
    block = preformatted(text)
    assert block.count("<") == 2
    assert html.unescape(block[5:-6]).split("\n") == [
        printable(line) or " " for line in text.split("\n")
    ]


def test_numbers_are_plain_and_nothing_is_a_dash() -> None:
    assert [code(value) for value in (3, -0.5, None, True, "")] == [
        "3", "&#45;0&#46;5", "-", "<code>True</code>", "",
    ]  # fmt: skip


def test_long_texts_are_shortened_before_they_are_escaped() -> None:
    assert code("|" * 500, limit=10) == f"<code>{'&#124;' * 9}…</code>"
    assert len(html.unescape(preformatted("x" * 10_000))) < 4_100


def test_sections_that_do_not_fit_are_counted() -> None:
    page = joined([["one"], ["x" * 500], ["three"]], limit_bytes=100)
    assert page == "one\n\n2 more sections did not fit.\n"
