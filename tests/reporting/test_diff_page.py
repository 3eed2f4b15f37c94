"""The page of a diff, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support.report_page import Page
from tests.support.reports import (
    call,
    demo_calls,
    diff_report,
    identical_diff,
    large_diff,
    root_origin,
    small_diff,
)

pytestmark = pytest.mark.browser
OpenPage = Callable[..., Page]


def test_the_verdict_comes_first_then_recordings_then_origins(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    assert page.text("h1") == small_diff()["verdict"]
    order = [page.find(selector).location["y"] for selector in ("h1", ".pairs", ".origins")]
    assert order == sorted(order)
    assert page.texts(".pairs tbody tr:first-child > *")[:3] == [
        "file",
        "base.jsonl",
        "other.jsonl",
    ]
    assert "≠ build" in page.texts(".pairs .differs th")


def test_an_origin_shows_where_the_texts_part_and_its_fallout(open_page: OpenPage) -> None:
    page = open_page(small_diff())
    root = page.find("[data-origin='0']").text

    assert "root 1: same request, other completion — call 7, llm_1 #2, epoch 0, step 1" in root
    assert "part at token 17 (character 58); near tie" in root
    assert "margin 0.004 nats" in root
    assert "-0.614 (54.1 %)" in root
    assert "cached prompt tokens: 0 and 120" in root
    assert "Fallout: 2 proven, 1 assumed" in root
    assert "messages[0].content from character 10" in page.find("[data-origin='1']").text


def test_from_a_root_to_its_fallout_and_back(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    page.press_button("Next fallout", within="[data-origin='0']")
    assert page.heading == "F Call 9: llm_3 #3 — fallout, proven"
    assert page.selected_cell == "call 9, llm_3 #3, act, epoch 0, step 2, fallout, proven"
    page.press_button("Next fallout (1 of 3)", within="#detail")
    assert page.heading.startswith("F Call 10:")
    page.press_button("Next fallout (2 of 3)", within="#detail")
    assert page.heading == "f Call 16: llm_2 #5 — fallout, assumed"
    page.press_button("Back to root 1", within="#detail")
    assert page.heading == "R Call 7: llm_1 #2 — root divergence"


def test_the_detail_shows_fields_and_completions_side_by_side(open_page: OpenPage) -> None:
    report = small_diff()
    page = open_page(report)

    page.click("#cell-9")
    recorded = report["calls"][9]

    shown = page.run(
        "return [...document.querySelectorAll('#detail .text')].map((one) => one.textContent)"
    )
    assert shown[:2] == [recorded["completion"]["a"], recorded["completion"]["b"]]
    assert shown[2:] == [recorded["differences"][0][side] for side in "ab"]
    assert page.text("#detail .difference code") == "messages[1].content"
    assert "action_type" in page.texts("#detail .difference del")
    assert "Aktion_type" in page.texts("#detail .difference ins")


def test_a_call_that_only_one_recording_has(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    page.click("#cell-40")

    assert page.heading == "A Call 40: llm_3 #13 — only in A"
    assert "No such call in B." in page.text("#detail")


def test_classes_are_told_apart_by_letters_not_by_colour_alone(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    letters = {index: page.text(f"#cell-{index}") for index in (0, 7, 9, 16, 20, 40, 54)}
    assert letters == {0: "·", 7: "R", 9: "F", 16: "f", 20: "C", 40: "A", 54: "B"}
    assert len(page.all(".legend li")) == 7


def test_selecting_a_root_marks_its_fallout_in_the_timeline(open_page: OpenPage) -> None:
    page = open_page(small_diff())
    assert page.all("#timeline .linked") == []

    page.click("#cell-7")

    assert [one.get_attribute("id") for one in page.all("#timeline .linked")] == [
        "cell-9",
        "cell-10",
        "cell-16",
    ]


def test_epochs_and_steps_are_marked(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    assert page.texts("#timeline .epoch") == ["epoch 0", "epoch 1", "epoch 2"]
    assert page.texts("#timeline .step")[:3] == ["0·0", "0·1", "0·2"]
    assert page.texts("#timeline .label") == ["llm_1", "llm_2", "llm_3"]


def test_the_list_can_be_filtered_and_searched(open_page: OpenPage) -> None:
    page = open_page(small_diff())
    assert page.text("#list-count") == "8 of 55 calls"

    page.press_button("List them", within="[data-origin='0']")
    assert page.text("#list-count") == "4 of 55 calls"
    assert [line.split()[0] for line in page.texts(".rows [role=row]")] == ["R", "F", "F", "f"]
    page.press_button("root 1 and what follows")
    assert page.text("#list-count") == "8 of 55 calls"

    page.find("input[type=search]").send_keys("aktion")
    page.wait(lambda: page.text("#list-count") == "4 of 55 calls")
    page.all(".filters input[type=checkbox]")[0].click()
    assert page.text("#list-count") == "3 of 55 calls"


def test_everything_can_be_reached_by_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page(small_diff())
    seen = []
    while "timeline" not in seen:
        page.press(Keys.TAB)
        seen.append(page.focused)
        assert len(seen) < 30
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"focus on {seen[-1]} cannot be seen"
    assert seen[0] == "theme"

    page.press("r")
    assert page.selected_cell.startswith("call 7,")
    page.press(Keys.ENTER)
    assert page.heading.startswith("R Call 7:")
    assert page.focused == "detail-title"
    page.press("f")
    assert page.heading.startswith("F Call 9:")
    page.press("f", "f")
    assert page.heading.startswith("f Call 16:")
    page.press("F")
    assert page.heading.startswith("F Call 10:")
    page.press("b")
    assert page.heading.startswith("R Call 7:")
    page.press("n")
    assert page.heading.startswith("F Call 9:")
    page.press("p", "p")
    assert page.heading.startswith("B Call 54:")
    page.press(Keys.ESCAPE)
    assert page.heading == ""
    assert page.focused == "timeline"

    page.press(Keys.HOME)
    assert page.selected_cell.startswith("call 0,")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.selected_cell.startswith("call 2, llm_3 ")
    page.press(Keys.ARROW_UP)
    assert page.selected_cell.startswith("call 1, llm_2 ")
    page.press(Keys.END)
    assert page.selected_cell.startswith("call 54,")


def test_the_list_by_keyboard(open_page: OpenPage) -> None:
    page = open_page(small_diff())
    page.run("document.getElementById('list').focus()")

    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    assert page.heading.startswith("F Call 9:")
    page.press(Keys.ESCAPE)
    assert page.focused == "list"
    page.press(Keys.END)
    assert page.find("#list").get_attribute("aria-activedescendant") == "line-54"


def test_the_focus_is_never_hidden_behind_the_detail_panel(open_page: OpenPage) -> None:
    page = open_page(large_diff(2_000))
    page.click("#theme")
    page.run("document.getElementById('cell-0').click()")
    assert page.heading

    seen = []
    while "detail-title" not in seen and "Close" not in seen:
        page.press(Keys.TAB)
        seen.append(page.focused)
        covered = page.run("""
            const box = document.activeElement.getBoundingClientRect();
            const panel = document.getElementById("detail");
            return !panel.contains(document.activeElement)
              && box.top + 1 > panel.getBoundingClientRect().top;
        """)
        assert not covered, f"{seen[-1]} cannot be seen"
    assert {"timeline", "list"} <= set(seen)


def test_letters_typed_into_the_search_are_text(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    page.find("input[type=search]").send_keys("nprf")

    assert page.find("input[type=search]").get_attribute("value") == "nprf"
    assert page.find("#timeline").get_attribute("aria-activedescendant") is None


def test_identical_recordings_say_so_and_list_all_calls(open_page: OpenPage) -> None:
    page = open_page(identical_diff())

    assert page.text("h1").startswith("identical")
    assert page.all(".origins") == []
    assert page.text("#list-count") == "54 of 54 calls"
    page.run("document.getElementById('timeline').focus()")
    page.press("n")
    assert page.text("#status") == "There is no difference."


def test_metrics_that_moved_are_listed(open_page: OpenPage) -> None:
    page = open_page(small_diff())

    page.click("details:last-of-type summary")
    assert [row.text.split() for row in page.all("#metrics tbody tr")] == [
        ["toxicity_rate", "42", "1", "0.2303", "0.2511"],
        ["total_posts", "42", "1", "18", "\N{EN DASH}"],
    ]


def test_a_report_that_leaves_calls_out_says_so_and_still_works(open_page: OpenPage) -> None:
    report = small_diff()
    report["calls"] = [one for one in report["calls"] if one["number"] < 12]
    report["left_out"] = 43
    page = open_page(report)

    assert page.text("#left-out").startswith("43 more calls not on this page")
    assert "call 20, not on this page" in page.text("[data-origin='1'] h3")
    page.press_button("Next fallout", within="[data-origin='0']")
    assert page.heading.startswith("F Call 9:")
    page.press_button("Next fallout (1 of 2)", within="#detail")
    page.press_button("Next fallout (2 of 2)", within="#detail")
    assert page.heading.startswith("F Call 9:")


def test_ten_thousand_calls_stay_usable(open_page: OpenPage) -> None:
    page = open_page(large_diff(10_000))
    assert page.node_count < 3_000
    assert page.run("return performance.now()") < 5_000

    page.run("document.getElementById('timeline').focus()")
    page.press(Keys.END)
    assert page.selected_cell.startswith("call 9999,")
    page.press(Keys.ENTER)
    assert "Call 9,999:" in page.heading
    page.press("R")
    assert "Call 9,500:" in page.heading
    page.press("f")
    assert "Call 9,501:" in page.heading
    assert page.node_count < 3_000

    page.press(Keys.ESCAPE)
    page.click(".filters label:last-of-type input")
    assert page.text("#list-count") == "10,000 of 10,000 calls"
    page.run("const list = document.getElementById('list'); list.scrollTop = list.scrollHeight")
    page.wait(lambda: page.all("#line-9999"))
    assert page.node_count < 3_000
    page.run("document.getElementById('list').focus()")
    page.press(Keys.HOME)
    assert page.selected_cell.startswith("call 0,")


def test_every_frame_while_scrolling_through_ten_thousand_calls_is_short(
    open_page: OpenPage,
) -> None:
    page = open_page(large_diff(10_000))

    longest_ms = page.browser.execute_async_script("""
        const done = arguments[0];
        const timeline = document.getElementById("timeline");
        const list = document.getElementById("list");
        let worst = 0;
        let step = 0;
        const go = () => {
          const start = performance.now();
          timeline.scrollLeft = step * 1800;
          list.scrollTop = step * 400;
          timeline.dispatchEvent(new Event("scroll"));
          list.dispatchEvent(new Event("scroll"));
          requestAnimationFrame(() => {
            document.body.offsetHeight;
            worst = Math.max(worst, performance.now() - start);
            if (++step < 100) setTimeout(go); else done(worst);
          });
        };
        go();
    """)

    # Generous for a shared machine; drawing all calls instead of the visible ones takes seconds.
    assert longest_ms < 500


def test_the_overview_leads_anywhere(open_page: OpenPage) -> None:
    page = open_page(large_diff(10_000))
    overview = page.find(".overview")
    assert len(page.all(".overview span.root")) == 10

    ActionChains(page.browser).move_to_element_with_offset(
        overview, overview.size["width"] // 2 - 3, 0
    ).click().perform()

    page.wait(lambda: page.all("#cell-9990"))


def test_thousands_of_origins_are_paged(open_page: OpenPage) -> None:
    calls = [call(number, "root", origins=[number]) for number in range(3_000)]
    origins = [root_origin(number, number, proven=0) for number in range(3_000)]
    page = open_page(diff_report(calls, origins))

    assert len(page.all(".origins > li")) == 10
    page.press_button("Later")
    assert page.text(".origins > li h3").startswith("R root 11:")
    assert page.node_count < 3_000


def test_thousands_of_agents_stay_usable(open_page: OpenPage) -> None:
    page = open_page(diff_report([call(i, scope=f"agent_{i}") for i in range(3_000)], []))

    page.run("document.getElementById('timeline').focus()")
    page.press(Keys.END)

    assert page.selected_cell.startswith("call 2999, agent_2999 ")
    assert page.node_count < 3_000


PAIRS = {
    "one word": ("You are a careful agent.", "You are a greedy agent."),
    "nothing in common": ("alpha beta", "gamma delta"),
    "empty and not": ("", "something"),
    "both empty": ("", ""),
    "insertion": ("a b d", "a b c d"),
    "moved": ("one two three four", "three four one two"),
    "white space": ("a  b", "a b"),
    "lines": ("a\nb\nc\n", "a\nc\nd\n"),
    "not Latin": ("Ein Äpfel, 日本語 text", "Ein Apfel, 日本 text"),
    "long": ("word " * 6_000 + "x", "word " * 6_000 + "y"),
    "long and different": (
        " ".join(str(i) for i in range(4_000)),
        " ".join(str(-i) for i in range(4_000)),
    ),
    "very long": ("abcd " * 45_000 + "1" + "c" * 1_000, "abcd " * 45_000 + "2" + "c" * 1_000),
    "real": (demo_calls()[1][1], demo_calls()[2][1]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_marked_words_are_what_differs_between_two_texts(open_page: OpenPage, name: str) -> None:
    a, b = PAIRS[name]
    origin = root_origin(0, 0, proven=0)
    one = call(0, "root", origins=[0], completion={"a": a, "b": b})
    page = open_page(diff_report([one], [{**origin, "parting": None}]))
    page.click("#cell-0")
    assert page.node_count < 6_000

    # Unfold what is folded, then read both sides: whole, and without what is marked.
    for _ in range(400):
        folded = page.run(
            "const found = [...document.querySelectorAll('#detail .more')];"
            "found.forEach((one) => one.click()); return found.length"
        )
        if not folded:
            break
    whole, same = page.run("""
        const read = (box, marks) => {
          if (!box || box.querySelector(":scope > .muted")) return "";
          const copy = box.cloneNode(true);
          if (marks) copy.querySelectorAll("del, ins").forEach((one) => one.remove());
          return copy.textContent;
        };
        const boxes = [...document.querySelectorAll("#detail .sides .text")];
        return [boxes.map((box) => read(box, false)), boxes.map((box) => read(box, true))];
    """)
    assert whole == [a, b]
    assert same[0] == same[1]
    if name in {"one word", "insertion", "real", "long", "very long", "not Latin"}:
        assert same[0], "something is the same"


def test_only_the_word_that_differs_is_marked(open_page: OpenPage) -> None:
    a, b = PAIRS["one word"]
    one = call(0, "root", origins=[0], completion={"a": a, "b": b})
    page = open_page(diff_report([one], [root_origin(0, 0, proven=0)]))

    page.click("#cell-0")

    assert page.texts("#detail .sides del") == ["careful"]
    assert page.texts("#detail .sides ins") == ["greedy"]
