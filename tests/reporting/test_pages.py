"""What the pages share: themes, contrast, paper; and the pages of verify, survey and audit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.report_page import Page
from tests.support.reports import PAGES, audit_report, small_diff, survey_report, verify_report

pytestmark = pytest.mark.browser
OpenPage = Callable[..., Page]

#: What to click on each kind of page to see the detail panel.
OPENER = {
    "diff": "#cell-7",
    "identical": "#cell-7",
    "hostile": "#cell-7",
    "verify": "#cell-7",
    "survey": ".rows [role=row]",
    "audit": ".heat button",
}
_BACKGROUND = "return getComputedStyle(document.documentElement).backgroundColor"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", PAGES)
def test_every_text_has_the_contrast_of_wcag_aa(open_page: OpenPage, kind: str, theme: str) -> None:
    page = open_page(PAGES[kind](), theme=theme)
    page.click(OPENER[kind])

    assert page.low_contrast() == []


def test_the_page_follows_the_system_theme_and_the_switch(open_page: OpenPage) -> None:
    page = open_page(small_diff(), theme="light")
    light = page.run(_BACKGROUND)
    page.click("#theme")
    dark = page.run(_BACKGROUND)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")

    page = open_page(small_diff(), theme="dark")
    assert page.run(_BACKGROUND) == dark
    assert page.find("#theme").get_attribute("aria-label") == "Switch to light colours"
    page.click("#theme")
    assert page.run(_BACKGROUND) == light


@pytest.mark.parametrize("kind", PAGES)
def test_every_control_has_a_name_and_every_id_is_unique(open_page: OpenPage, kind: str) -> None:
    page = open_page(PAGES[kind]())
    page.click(OPENER[kind])

    unnamed = page.run("""
        const name = (one) =>
          one.getAttribute("aria-label") || one.textContent.trim() || one.closest("label");
        return [...document.querySelectorAll("button, input, [tabindex], [role=option]")]
          .filter((one) => !name(one))
          .map((one) => one.outerHTML);
    """)
    assert unnamed == []
    ids = page.run("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", PAGES)
def test_a_narrow_window_does_not_scroll_sideways(open_page: OpenPage, kind: str) -> None:
    page = open_page(PAGES[kind](), width=500)
    page.click(OPENER[kind])

    assert page.run("return document.documentElement.scrollWidth - innerWidth") <= 0


def test_on_paper_there_are_no_controls_and_the_colours_are_light(open_page: OpenPage) -> None:
    page = open_page(small_diff(), theme="dark")
    page.click("#cell-7")
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})

    assert page.run(_BACKGROUND) == "rgb(255, 255, 255)"
    assert not any(one.is_displayed() for one in page.all("button"))
    assert page.run("return getComputedStyle(document.getElementById('detail')).position") == (
        "static"
    )


def test_on_paper_the_list_is_not_cut_off(open_page: OpenPage) -> None:
    page = open_page(verify_report(600))
    page.click(".filters label:last-of-type input")
    page.run("""
        window.addEventListener("beforeprint", () => {
          window.printed = document.querySelectorAll(".rows [role=row]").length;
        });
    """)
    assert len(page.all(".rows [role=row]")) < 50

    page.browser.execute_cdp_cmd("Page.printToPDF", {})

    assert page.run("return window.printed") == 600
    page.wait(lambda: len(page.all(".rows [role=row]")) < 50)


def test_verify_shows_groups_and_both_texts(open_page: OpenPage) -> None:
    report = verify_report()
    page = open_page(report)

    assert page.text("h1") == report["verdict"]
    assert page.text("#list-count") == "4 of 54 calls"
    page.click("#cell-7")
    assert page.heading == "C Call 7: llm_1 #2 — real change"
    assert "2 of 3 differ" in page.text("#detail .facts")
    assert page.texts("#detail .sides .text") == list(report["calls"][7]["completion"].values())
    page.click("#cell-20")
    assert "the backend answered 500: context is full" in page.text("#detail")


def test_survey_shows_what_changed_and_what_it_costs(open_page: OpenPage) -> None:
    page = open_page(survey_report())

    assert "To record anew: 14 calls, about 91.2 s" in page.text("#page")
    assert "at most 40 calls and 4 min 11 s" in page.text("#page")
    assert page.text("#list-count") == "2 of 2 groups"
    page.run("document.getElementById('list').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    assert page.heading == "messages[0].content — 12 calls"
    assert page.texts("#detail del") == ["careful"]
    page.press("n")
    assert page.heading == "temperature — 1 call"


def test_audit_is_a_heat_map_with_text_in_every_cell(open_page: OpenPage) -> None:
    page = open_page(audit_report())

    rows = {
        row.find_element("tag name", "th").text: [
            cell.text for cell in row.find_elements("tag name", "td")
        ]
        for row in page.all(".heat tbody tr")
    }
    one = "✓ 1 of 10"
    assert rows["repeat"] == ["2 of 10", one, one, one + " ±0.012", one]
    assert rows["load"] == ["8 of 10", "6 of 10", "4 of 10", "2 of 10", one]
    assert rows["flash-attention"] == [
        "other", "✕ failed", "✓ same", "✓ same ±0.012", "✓ same",
    ]  # fmt: skip
    assert rows["in-process"] == ["\N{EN DASH} skipped"] * 5
    assert rows["seed-none"] == ["10 of 10"] * 5
    assert rows["price"] == ["10.1 s"] + [
        f"{price}\N{MULTIPLICATION SIGN} ({seconds} s)"
        for price, seconds in (("1.25", 12.6), ("1.5", 15.1), ("1.75", 17.7), ("2", 20.2))
    ]
    assert page.text(".heat .best") == "★ strict (recommended)"


def test_the_recommendation_and_what_is_missing_are_said(open_page: OpenPage) -> None:
    page = open_page(audit_report())

    shown = page.text("#page")
    assert "one answer in every experiment within it: strict, at 2 times the time" in shown
    assert "logprobs agreed to the bit" in shown
    assert page.text("#flags") == "-np 1 --no-cache-prompt --alias 'it'\\''s mine'"
    assert page.text("#command") == "swarm-repro server start --model x.gguf --profile strict"
    assert "one slot, flash-attention: the server died: signal 9" in shown
    assert "llama-server is the prebuilt one" in shown


def test_an_audit_without_a_recommendation_says_so(open_page: OpenPage) -> None:
    page = open_page({**audit_report(), "recommended": None, "price": []})

    assert "No setting gave one answer in every experiment." in page.text("#page")


def test_a_cell_of_the_audit_explains_itself(open_page: OpenPage) -> None:
    page = open_page(audit_report())

    page.click("button.failed")
    assert "the server died: signal 9" in page.text("#detail")
    page.click(".heat button")
    assert page.heading == ("default \N{MULTIPLICATION SIGN} repeat — 2 distinct answers out of 10")
    assert "The texts part at token 17" in page.text("#detail")


def test_the_heat_map_is_one_stop_of_the_tab_key_with_arrows_inside(open_page: OpenPage) -> None:
    page = open_page(audit_report())
    page.run("document.getElementById('copy-command').focus()")

    page.press(Keys.TAB, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert page.focused == "one slot, restart: 1 distinct answer out of 10"
    page.press(Keys.ENTER)
    assert page.heading.startswith("one slot \N{MULTIPLICATION SIGN} restart")
    page.press(Keys.ESCAPE)
    assert page.heading == ""
    assert page.focused == "one slot, restart: 1 distinct answer out of 10"
    page.press(Keys.TAB)
    assert not page.focused.startswith("one slot")


def test_flags_are_copied(open_page: OpenPage) -> None:
    page = open_page(audit_report())
    page.browser.execute_cdp_cmd(
        "Browser.setPermission", {"permission": {"name": "clipboard-write"}, "setting": "granted"}
    )

    page.click("#copy-flags")

    page.wait(lambda: page.text("#status"))
    assert page.text("#status").startswith(("Copied", "Selected"))
    assert page.run("return getSelection().toString()") == page.text("#flags")
