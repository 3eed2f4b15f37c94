"""Model output that attacks the page is shown, not run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.browser import log_of
from tests.support.report_page import Page
from tests.support.reports import (
    ALL_HOSTILE,
    HOSTILE,
    Report,
    audit_report,
    hostile_diff,
    small_diff,
    survey_report,
    verify_report,
)

pytestmark = pytest.mark.browser
OpenPage = Callable[..., Page]

_PWNED = "return typeof window.pwned"
_FOREIGN = (
    "return document.querySelectorAll('img, svg, iframe, object, [onerror], [onload]').length"
    " + document.querySelectorAll('script').length - 2"
)


def with_hostile_verify() -> Report:
    report = verify_report()
    report["calls"][7]["completion"] = {"a": ALL_HOSTILE, "b": ALL_HOSTILE + "!"}
    report["calls"][7]["why"] = ALL_HOSTILE
    report["cassette"] = HOSTILE["image"]
    return report


def with_hostile_survey() -> Report:
    report = survey_report()
    report["groups"][0].update(a=ALL_HOSTILE, b=ALL_HOSTILE + "!", field=HOSTILE["script"])
    report["versions"] = [ALL_HOSTILE]
    return report


def with_hostile_audit() -> Report:
    report = audit_report()
    report["cells"][0].update(why=ALL_HOSTILE)
    report["cells"][0]["divergence"].update(a=ALL_HOSTILE, b=HOSTILE["end of script"])
    report["experiments"][0]["what"] = ALL_HOSTILE
    report["recommended"]["flags"] = [HOSTILE["image"]]
    report["missing"] = [ALL_HOSTILE]
    return report


@pytest.mark.parametrize(
    ("make", "opener"),
    [
        (hostile_diff, "#cell-7"),
        (hostile_diff, "#cell-9"),
        (with_hostile_verify, "#cell-7"),
        (with_hostile_survey, ".rows [role=row]"),
        (with_hostile_audit, ".heat button"),
    ],
)
def test_hostile_texts_are_shown_and_not_run(
    open_page: OpenPage, make: Callable[[], Report], opener: str
) -> None:
    page = open_page(make())
    page.click(opener)

    shown = page.text("#page")
    assert HOSTILE["script"] in shown
    assert HOSTILE["end of script"] in shown
    assert HOSTILE["image"] in shown
    assert page.run(_PWNED) == "undefined"
    assert page.run(_FOREIGN) == 0


def test_unseen_characters_become_visible_marks(open_page: OpenPage) -> None:
    page = open_page(hostile_diff())
    page.click("#cell-7")

    marks = set(page.texts("#detail .a-side .mark"))
    assert marks >= {
        "U+001B", "U+0007", "U+0000", "U+009B", "U+007F", "U+202E", "U+202C", "U+2066", "U+2069",
        "U+200B", "U+200D", "U+FEFF", "U+2028", "U+2029", "U+0085", "U+D83D", "U+E0041", "U+FFF9",
        "U+00AD", "U+00A0",
    }  # fmt: skip
    assert all(mark.is_displayed() for mark in page.all("#detail .a-side .mark"))


def test_no_unseen_character_reaches_the_page(open_page: OpenPage) -> None:
    page = open_page(hostile_diff())
    page.click("#cell-7")

    found = page.run(r"""
        const unseen = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;
        const found = [];
        const main = document.getElementById("page");
        const walker = document.createTreeWalker(main, 5 /* elements and texts */);
        while (walker.nextNode()) {
          const node = walker.currentNode;
          for (const value of [node.data, ...[...(node.attributes ?? [])].map((one) => one.value)])
            if (value && unseen.test(value)) found.push(escape(value));
        }
        return found;
    """)

    assert found == []


def test_texts_are_isolated_so_that_directions_end_with_them(open_page: OpenPage) -> None:
    report = small_diff()
    report["calls"][7]["scope"] = "\u05e1\u05d5\u05db\u05df"
    report["calls"][7]["completion"]["a"] = "\u05e9\u05dc\u05d5\u05dd abc"
    page = open_page(report)
    page.click("#cell-7")

    styles = page.run(
        "return [...document.querySelectorAll('.t, .text, .mark')]"
        ".map((one) => getComputedStyle(one).unicodeBidi)"
    )
    assert set(styles) == {"isolate"}
    assert page.run(
        "return getComputedStyle(document.querySelector('#detail .text')).direction"
    ) == ("rtl")


def test_the_policy_stops_what_would_get_past_the_escaping(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    outcome = page.run("""
        const script = document.createElement("script");
        try { script.append("window.pwned = 5"); document.body.append(script); } catch (error) {}
        try { document.body.innerHTML = "<img src=x onerror='window.pwned = 6'>"; }
        catch (error) { return error.name; }
    """)

    assert outcome == "TypeError"
    assert page.run(_PWNED) == "undefined"
    complaints = [one["message"] for one in log_of(page.browser, "browser")]
    assert len(complaints) == 3, complaints
    assert all("requires 'Trusted" in one for one in complaints)


def test_piled_up_marks_and_endless_lines_stay_in_their_box(open_page: OpenPage) -> None:
    report = small_diff()
    report["calls"][7]["completion"] = {"a": "Z" + "\u0336\u0352\u0321" * 500, "b": "x" * 5_000}
    page = open_page(report)
    page.click("#cell-7")

    assert page.run("return document.documentElement.scrollWidth") <= 1400
    body = page.find("#detail .body")
    assert page.run("return arguments[0].scrollWidth - arguments[0].clientWidth", body) == 0


def test_a_million_control_characters_do_not_drown_the_page(open_page: OpenPage) -> None:
    report = small_diff()
    report["calls"][7]["completion"] = {"a": "\x00" * 1_000_000, "b": "\x01" * 1_000_000}
    page = open_page(report)
    page.click("#cell-7")

    assert page.node_count < 45_000
    assert "more characters" in page.text("#detail .a-side")
