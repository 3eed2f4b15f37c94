"""The file itself: escaping, policy, assets; no browser needed."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.errors import RequestError, UsageError
from swarm_repro.reporting.html import render_html, write_html
from tests.support.reports import PAGES, Report, hostile_diff, small_diff

ASSETS = files("swarm_repro.reporting") / "assets"
UNWANTED = (
    "[<>&\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\uffff\U000e0000-\U000e0fff]"
)
SCRIPTS = sorted(one.name for one in ASSETS.iterdir() if one.name.endswith(".js"))


def element(page: bytes, start: str, name: str) -> str:
    """What is between the opening tag that begins so and the first closing tag."""
    text = page.decode("utf-8")
    begin = text.index(">", text.index(f"<{name}{start}")) + 1
    return text[begin : text.index(f"</{name}>", begin)]


def embedded(page: bytes) -> Report:
    report: Report = json.loads(element(page, ' type="application/json"', "script"))
    return report


@pytest.mark.parametrize("kind", PAGES)
def test_the_report_in_the_page_is_the_report(kind: str) -> None:
    report = PAGES[kind]()

    assert embedded(render_html(report)) == report


@given(st.text(st.characters(codec=None)))
def test_any_text_survives_the_way_into_the_page(text: str) -> None:
    read = embedded(render_html({"report": "diff", "version": 1, "verdict": "", "text": text}))

    # Two surrogates that stand for one character are read as that character.
    assert read["text"] == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(st.text(st.characters(codec=None)))
def test_no_text_writes_markup_or_unseen_characters_into_the_source(text: str) -> None:
    page = render_html({"report": "diff", "version": 1, "verdict": text, "texts": {text: text}})

    inside = element(page, ' type="application/json"', "script")
    assert not re.search(UNWANTED, inside)


def test_every_unwanted_character_is_escaped_and_reads_back() -> None:
    text = "".join(filter(re.compile(UNWANTED).match, map(chr, range(0x110000))))
    assert len(text) > 4_000

    page = render_html({"report": "diff", "version": 1, "verdict": "", "text": text})

    assert not re.search(UNWANTED, element(page, ' type="application/json"', "script"))
    assert embedded(page)["text"] == text


def test_hostile_texts_do_not_change_the_structure_of_the_file() -> None:
    def tags(page: bytes) -> list[bytes]:
        return re.findall(rb"</?(?:script|style|img|svg|h1|main|p)\b", page)

    assert tags(render_html(hostile_diff())) == tags(render_html(small_diff()))


def test_policy_allows_this_script_and_this_style_and_nothing_else() -> None:
    page = render_html(small_diff())
    (policy,) = re.findall(rb'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.decode().split("; "))

    def source(text: str) -> str:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    assert rules == {
        "default-src": "'none'",
        "script-src": source(element(page, ' type="module"', "script")),
        "style-src": source(element(page, "", "style")),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_loaded_from_anywhere(kind: str) -> None:
    page = render_html({**PAGES[kind](), "verdict": ""}).decode()

    shell = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert len(shell) < len(page)
    assert not re.search(r"https?:|//[a-z]+\.|\bsrc=|\bhref=|@import|url\(", shell)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_turn_strings_into_markup_or_code(name: str) -> None:
    script = (ASSETS / name).read_text(encoding="utf-8")

    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
        r"|DOMParser|createContextualFragment|fetch\(|XMLHttpRequest|localStorage|</script|<!--",
        script,
    )


@pytest.mark.parametrize("kind", PAGES)
def test_the_same_report_gives_the_same_bytes(kind: str) -> None:
    assert render_html(PAGES[kind]()) == render_html(PAGES[kind]())


def test_the_verdict_is_there_without_javascript_and_harmless() -> None:
    page = render_html(hostile_diff())

    shown = html.unescape(element(page, "", "h1"))
    assert shown.startswith("call 7 parts: <script>window.pwned=1</script>\\n")
    assert "\\u202e" in shown
    assert "<" not in element(page, "", "h1")


@pytest.mark.parametrize("kind", ["poem", None, 3])
def test_an_unknown_kind_of_report_is_a_usage_error(kind: object) -> None:
    with pytest.raises(UsageError, match="no HTML page for a report of kind"):
        render_html({"report": kind, "version": 1})


def test_another_version_of_a_report_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="version 1, not 2"):
        render_html({**small_diff(), "version": 2})


def test_numbers_without_a_json_form_are_refused() -> None:
    with pytest.raises(RequestError, match="nan has no JSON form"):
        render_html({**small_diff(), "extra": float("nan")})


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing.*cannot be written"):
        write_html(small_diff(), tmp_path / "missing" / "page.html")


def test_what_is_written_is_what_is_rendered(tmp_path: Path) -> None:
    write_html(small_diff(), tmp_path / "page.html")

    assert (tmp_path / "page.html").read_bytes() == render_html(small_diff())


def test_a_page_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    page, cassette = tmp_path / "page.html", tmp_path / "demo.jsonl"
    page.write_bytes(render_html(hostile_diff()))
    cassette.write_bytes(b'{"record":"cassette"}\n')

    write_html(small_diff(), page)
    with pytest.raises(UsageError, match=r"demo\.jsonl is there and is no page"):
        write_html(small_diff(), cassette)

    assert page.read_bytes() == render_html(small_diff())
    assert cassette.read_bytes() == b'{"record":"cassette"}\n'
