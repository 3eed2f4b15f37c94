"""Each section of the summary as a whole, also of incomplete reports."""

from __future__ import annotations

from typing import Any

import pytest

from swarm_repro.project.markdown import code, escaped, joined, preformatted, table
from swarm_repro.project.summary import Named, summary

Report = dict[str, Any]


def page(*reports: Named, notes: tuple[str, ...] = ()) -> list[str]:
    """The lines of a summary below its title."""
    lines = summary(reports, notes=notes).split("\n")
    assert lines[:2] == ["## swarm-repro", ""]
    assert lines[-2:] == ["", ""]
    return lines[2:-2]


def of(report: Report, name: str = "x") -> list[str]:
    """The lines below the heading and the verdict of one report."""
    lines = page(Named(name, {"verdict": "v", **report}))
    assert lines[:4] == [f"### <code>{name}</code>", "", f"**{report['report']}:** {cell('v')}", ""]
    return lines[4:]


def cell(text: str) -> str:
    return f"<code>{text}</code>"


def test_an_empty_summary_says_so() -> None:
    assert page() == ["Nothing was run, and no cassette changed."]


def test_notes_come_last() -> None:
    lines = page(Named("x", None, "was deleted"), notes=("one", "two"))
    assert lines == [
        "### <code>x</code>", "", "<code>was deleted</code>", "", "<code>one</code>", "",
        "<code>two</code>",
    ]  # fmt: skip
    assert page(notes=("one",)) == ["<code>one</code>"]


def test_a_report_without_content_or_note_says_that_there_is_none() -> None:
    assert page(Named("x", None)) == ["### <code>x</code>", "", "<code>no report</code>"]


@pytest.mark.parametrize("content", [{}, {"report": "other"}, {"report": 5}, {"mode": "replay"}])
def test_a_report_of_another_kind_is_marked_as_such(content: Report) -> None:
    assert page(Named("x", content)) == [
        "### <code>x</code>", "", "This report is of a kind that this version does not know.",
    ]  # fmt: skip


def test_a_report_is_named_by_its_cassette_where_it_says_one() -> None:
    lines = page(Named("file", {"report": "audit", "cassette": "c"}))
    assert lines[0] == "### <code>c</code>"


# --- Runs.

RUN: Report = {
    "scenario": "demo", "seed": 42, "mode": "replay", "exit_code": 0, "hits": 54, "called": 2,
    "artifacts": {"identical": True}, "messages": [], "duration_s": 1.94,
}  # fmt: skip
RUN_HEAD = [
    "| scenario | seed | mode | result | calls: cassette + model | artifacts | time |",
    "|---|---|---|---|---|---|---|",
]


def run_row(**members: Any) -> str:
    lines = page(Named("x", {**RUN, **members}))
    assert lines[:2] == RUN_HEAD
    return lines[2]


def test_a_run_is_a_row() -> None:
    lines = page(Named("x", RUN))
    what = f"{cell('demo')} | 42 | {cell('replay')} | passed | 54 + 2 | identical"
    assert lines == [*RUN_HEAD, f"| {what} | {cell('1&#46;9 s')} |"]


def test_runs_come_before_other_reports_in_one_table() -> None:
    lines = page(Named("n", None, "note"), Named("x", RUN), Named("y", {**RUN, "seed": 43}))
    assert lines[:2] == RUN_HEAD
    assert [line.split(" | ")[1] for line in lines[2:4]] == ["42", "43"]
    assert lines[4:7] == ["", "### <code>n</code>", ""]


def test_a_run_that_failed_says_with_which_code() -> None:
    assert "| **failed**, exit code 3 |" in run_row(exit_code=3)
    assert "| **failed**, exit code - |" in run_row(exit_code=None)


def test_artifacts_are_identical_different_or_not_compared() -> None:
    differing = {"identical": False, "differing": ["a", "b"]}
    assert "| differ: <code>&#91;&#39;a&#39;, &#39;b&#39;&#93;</code> |" in run_row(
        artifacts=differing
    )
    assert "| not compared |" in run_row(artifacts=None)


def test_unknown_values_of_a_run_are_dashes() -> None:
    assert run_row(scenario=None, hits=None, duration_s="x") == (
        f"| - | 42 | {cell('replay')} | passed | - + 2 | identical |  |"
    )


def test_messages_and_metrics_of_a_run_are_listed_below() -> None:
    artifacts = {"identical": False, "differing": [], "metrics": ["welfare 1 2", "harm 3 4"]}
    lines = page(Named("x", {**RUN, "messages": ["one\ntwo", "three"], "artifacts": artifacts}))
    assert lines[3:] == [
        "",
        "### <code>demo</code>: what went wrong",
        "",
        "<pre>one",
        "two</pre>",
        "<pre>three</pre>",
        "",
        "Metrics that moved:",
        "",
        "<pre>welfare 1 2",
        "harm 3 4</pre>",
    ]


def test_messages_without_artifacts_are_listed_too() -> None:
    lines = page(Named("x", {**RUN, "messages": ["one"], "artifacts": None}))
    assert lines[4:] == ["### <code>demo</code>: what went wrong", "", "<pre>one</pre>"]


def test_twenty_messages_and_sixty_metrics_are_shown() -> None:
    artifacts = {"metrics": [f"m{n}" for n in range(62)]}
    run = {**RUN, "messages": [f"n{n}" for n in range(23)], "artifacts": artifacts}
    lines = page(Named("x", run))
    assert sum(line.startswith("<pre>n") for line in lines) == 20
    assert "3 more messages are in the report." in lines
    assert lines[-3:] == ["m59</pre>", "", "2 more metrics are in the report."]
    exact = {**RUN, "messages": ["n"] * 20, "artifacts": {"metrics": ["m"] * 60}}
    assert not any("more" in line for line in page(Named("x", exact)))


def test_a_verified_run_has_the_report_of_verify_below() -> None:
    verified = {"report": "verify", "verdict": "1 changed", "counts": {"same": 1}}
    lines = page(Named("x", {**RUN, "verify": verified}))
    assert lines[3:7] == ["", "### <code>x</code>", "", "**verify:** <code>1 changed</code>"]
    assert len(page(Named("x", {**RUN, "verify": {"report": "other"}}))) == 3
    assert len(page(Named("x", {**RUN, "verify": None}))) == 3


# --- diff

SIDE = {"calls": 3, "tokens": {"prompt": 10, "completion": 5}, "duration_s": 1.5}
DIFF_TABLE = [
    "|  | calls | prompt tokens | completion tokens | seconds |",
    "|---|---|---|---|---|",
    "| before | 3 | 10 | 5 | 1&#46;5 |",
    "| after | 4 | - | - | - |",
    "",
]


def diff(**members: Any) -> list[str]:
    report = {
        "report": "diff",
        "a": SIDE,
        "b": {"calls": 4},
        "counts": {"identical": 2, "root": 1, "only_a": 0},
        **members,
    }
    lines = of(report)
    assert lines[:6] == [*DIFF_TABLE, "Calls: 2 identical, 1 root"]
    return lines[7:]


def root(**members: Any) -> Report:
    return {
        "kind": "root",
        "call": 7,
        "parting": {"unit": "token", "index": 5, "a_before": "see ", "a": "the", "b": "a"},
        "fallout": {"proven": 2, "assumed": 3},
        **members,
    }


CALL: Report = {
    "number": 7, "scope": "ada", "i": 1, "at": [0, 2], "kind": "act", "class": "root",
    "completion": {"a": "yes", "b": "no"},
}  # fmt: skip


def origin_row(origin: Report) -> str:
    lines = diff(origins=[origin], calls=[{**CALL, "completion": {}}])
    assert lines[:4] == [
        "#### Where they part, in causal order",
        "",
        "|  | call | what | before | after | followed |",
        "|---|---|---|---|---|---|",
    ]
    assert len(lines) == 5
    return lines[4]


def test_a_diff_without_origins_has_its_two_sides_and_counts() -> None:
    assert diff() == []


def test_missing_sides_are_dashes() -> None:
    assert of({"report": "diff", "a": None})[2:6] == [
        "| before | - | - | - | - |", "| after | - | - | - | - |", "", "Calls: ",
    ]  # fmt: skip


def test_a_root_is_a_row() -> None:
    assert origin_row(root()) == (
        f"| root | {cell('ada 1, at 0&#46;2')} | the answer, at token 5 | {cell('see ⟨the⟩')} | "
        f"{cell('see ⟨a⟩')} | 2 proven, 3 assumed |"
    )


def test_a_near_tie_is_marked_as_one() -> None:
    parting = {"unit": "character", "index": 0, "near_tie": True}
    assert "| the answer, at character 0, near tie |" in origin_row(root(parting=parting))
    parting["near_tie"] = False
    assert "| the answer, at character 0 |" in origin_row(root(parting=parting))
    assert "| the answer, at character 0 |" in origin_row(root(parting={"near_tie": None}))


def test_a_root_beside_its_text_is_shown_by_its_evidence() -> None:
    for evidence, told in ((["other", "x"], "other"), ([], "beside its text")):
        row = origin_row(root(parting=None, evidence=evidence, call=8))
        assert row == (
            f"| root | - | the answer, {cell(told)} | {cell('⟨⟩')} | {cell('⟨⟩')} | "
            "2 proven, 3 assumed |"
        )


def test_a_cause_is_a_row() -> None:
    cause = {"kind": "cause", "call": 7, "field": "top_k", "calls": 4, "a": "1", "b": None}
    assert origin_row(cause) == (
        f"| cause | {cell('ada 1, at 0&#46;2')} | {cell('top&#95;k')}, in 4 calls | {cell('1')} | "
        "- | 0 proven, 0 assumed |"
    )


def test_twenty_origins_are_shown_and_the_rest_counted() -> None:
    lines = diff(origins=[root()] * 21, origins_left_out=4)
    assert sum(line.startswith("| root ") for line in lines) == 20
    assert lines[-2:] == ["", "5 more origins are in the report."]
    assert diff(origins=[root()] * 20, origins_left_out=1)[-1] == (
        "1 more origins are in the report."
    )
    assert diff(origins=[root()] * 20)[-1].startswith("| root ")


def test_environments_are_compared_in_a_table() -> None:
    changed = [{"field": f"f{n}", "a": "1", "b": None} for n in range(22)]
    lines = diff(environment=changed)
    assert lines[:5] == [
        "#### Environment",
        "",
        "| field | before | after |",
        "|---|---|---|",
        f"| {cell('f0')} | {cell('1')} | - |",
    ]
    assert lines[-3:] == [f"| {cell('f19')} | {cell('1')} | - |", "",
                          "2 more fields are in the report."]  # fmt: skip


def test_changed_completions_are_listed() -> None:
    same = {**CALL, "completion": {"a": "x", "b": "x"}}
    alone = {**CALL, "at": None, "kind": None, "completion": {"a": None, "b": ""}}
    lines = diff(calls=[same, CALL, alone, {"number": 3}])
    assert lines == [
        "<details><summary>Changed completions (2)</summary>",
        "",
        "| call | kind | class | before | after |",
        "|---|---|---|---|---|",
        f"| {cell('ada 1, at 0&#46;2')} | {cell('act')} | root | {cell('yes')} | {cell('no')} |",
        f"| {cell('ada 1')} | {cell('&#45;')} | root | not recorded | (nothing) |",
        "",
        "</details>",
    ]


def test_completions_of_a_report_that_left_calls_out_are_those_in_the_report() -> None:
    lines = diff(calls=[CALL], left_out=3)
    assert lines[0] == (
        "<details><summary>Changed completions (1 of those in the report)</summary>"
    )


def test_thirty_changed_completions_are_shown() -> None:
    lines = diff(calls=[CALL] * 32)
    assert sum(line.startswith("| <code>ada 1") for line in lines) == 30
    assert lines[-4:] == ["", "2 more changed completions are in the report.", "", "</details>"]
    assert "more" not in "".join(diff(calls=[CALL] * 30))


@pytest.mark.parametrize(
    ("a", "b", "change"),
    [
        (2.0, 3.0, "&#43;1 &#40;&#43;50&#46;0&#37;&#41;"),
        (-2, -3, "&#45;1 &#40;&#45;50&#46;0&#37;&#41;"),
        (0, 3, "&#43;3"),
        (1, 1.00001, "&#43;1e&#45;05 &#40;&#43;0&#46;0&#37;&#41;"),
        (None, 3, ""),
        (3, None, ""),
        ("2", 3, ""),
        (True, 3, ""),
        (3, False, ""),
    ],
)
def test_a_metric_that_moved_shows_by_how_much(a: object, b: object, change: str) -> None:
    metric = {"seed": 7, "epoch": 0, "metric": "welfare", "a": a, "b": b}
    lines = diff(metrics=[metric])
    assert lines[:4] == [
        "<details open><summary>Metrics that moved (1)</summary>",
        "",
        "| seed | epoch | metric | before | after | change |",
        "|---|---|---|---|---|---|",
    ]
    assert lines[4] == (
        f"| 7 | 0 | {cell('welfare')} | {code(a)} | {code(b)} | {cell(change) if change else ''} |"
    )
    assert lines[5:] == ["", "</details>"]


def test_sixty_metrics_are_shown() -> None:
    metric = {"seed": 7, "epoch": 0, "metric": "welfare", "a": 1, "b": 2}
    lines = diff(metrics=[metric] * 61)
    assert lines[0] == "<details open><summary>Metrics that moved (61)</summary>"
    assert sum(line.startswith("| 7 |") for line in lines) == 60
    assert lines[-4:] == ["", "1 more metrics are in the report.", "", "</details>"]
    assert "more" not in "".join(diff(metrics=[metric] * 60))


# --- verify, survey, audit


def verify(**members: Any) -> list[str]:
    counts = {"same": 2, "near_tie": 0}
    report = {"report": "verify", "counts": counts, "repeat": 3, "order": "recorded", **members}
    lines = of(report)
    assert lines[0] == f"2 same, 0 near&#95;tie; each asked 3 x, in {cell('recorded')} order"
    return lines[2:]


def test_verify_lists_differing_calls() -> None:
    asked: Report = {
        "scope": "ada", "i": 0, "at": [0, 1], "kind": "act", "group": "change", "differing": 2,
        "of": 3, "why": "noise", "completion": {"a": "yes", "b": "no"},
    }  # fmt: skip
    failed = {**asked, "kind": None, "group": "failed", "completion": {"a": "x", "b": None}}
    nothing = {**asked, "completion": {"a": "", "b": ""}}
    assert verify() == []
    assert verify(calls=[{**asked, "group": "same"}]) == []
    lines = verify(
        calls=[asked, {**asked, "group": "same"}, failed, nothing],
        environment=[{"field": "cpu", "a": "x", "b": "y"}],
    )
    place = cell("ada 0, at 0&#46;1")
    assert lines == [
        "#### Environment",
        "",
        "| field | recorded | now |",
        "|---|---|---|",
        f"| {cell('cpu')} | {cell('x')} | {cell('y')} |",
        "",
        "#### Calls that were not the same",
        "",
        "| call | kind | group | differing | recorded | now |",
        "|---|---|---|---|---|---|",
        f"| {place} | {cell('act')} | change | 2 of 3 | {cell('yes')} | {cell('no')} |",
        f"| {place} | {cell('&#45;')} | failed | 2 of 3 | {cell('noise')} |  |",
        f"| {place} | {cell('act')} | change | 2 of 3 | (nothing) | (nothing) |",
    ]


def test_thirty_differing_calls_are_shown() -> None:
    call = {"group": "change", "completion": {"b": "x"}}
    lines = verify(calls=[call] * 33)
    assert sum(line.startswith("| <code>None") for line in lines) == 30
    assert lines[-2:] == ["", "3 more calls are in the report."]
    assert "more" not in "".join(verify(calls=[call] * 30))


def test_a_survey_lists_versions_and_groups() -> None:
    group = {"field": "top_k", "calls": 3, "a": "1", "b": None}
    lines = of({"report": "survey", "versions": ["swarm 2", "python 3"], "groups": [group] * 22})
    assert lines[:7] == [
        f"- {cell('swarm 2')}",
        f"- {cell('python 3')}",
        "",
        "| field | calls | recorded | asked now |",
        "|---|---|---|---|",
        f"| {cell('top&#95;k')} | 3 | {cell('1')} | - |",
        f"| {cell('top&#95;k')} | 3 | {cell('1')} | - |",
    ]
    assert lines[-2:] == ["", "2 more groups are in the report."]
    assert len(lines) == 5 + 20 + 2
    assert of({"report": "survey"}) == [""]


def test_an_audit_shows_flags_and_what_is_missing() -> None:
    recommended = {"flags": ["-np", 1]}
    lines = of({"report": "audit", "recommended": recommended, "missing": ["devices", "x"]})
    assert lines == [
        "Recommended:", "", "<pre>&#45;np 1</pre>", "", f"- missing: {cell('devices')}",
        f"- missing: {cell('x')}",
    ]  # fmt: skip
    assert of({"report": "audit"}) == [""]


@pytest.mark.parametrize(
    "report",
    [
        {"report": "diff", "origins": [root(parting={"a_before": "x" * 200})]},
        {"report": "diff", "origins": [{"kind": "cause", "a": "x" * 200}]},
        {"report": "diff", "environment": [{"field": "x" * 200}]},
        {"report": "diff", "calls": [{"completion": {"a": "x" * 200}}]},
        {"report": "verify", "calls": [{"why": "x" * 200}]},
        {"report": "verify", "calls": [{"completion": {"a": "x" * 200, "b": "y"}}]},
        {"report": "survey", "groups": [{"a": "x" * 200}]},
    ],
)
def test_texts_in_tables_are_cut_at_a_hundred_and_sixty_characters(report: Report) -> None:
    shown = "\n".join(of(report))
    assert "x" * 159 + "…" in shown
    assert "x" * 160 not in shown


def test_verdicts_and_notes_are_cut_at_a_thousand() -> None:
    long = "x" * 1_001
    for named in (
        Named("x", {"report": "audit", "verdict": long}),
        Named("x", None, long),
    ):
        assert "x" * 999 + "…" in "\n".join(page(named))
    assert page(notes=(long,)) == [cell("x" * 999 + "…")]


# --- Markdown.


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (3, "3"),
        (-1.5, "&#45;1&#46;5"),
        (True, cell("True")),
        ("", ""),
        ("x" * 240, cell("x" * 240)),
        ("x" * 241, cell("x" * 239 + "…")),
        (["a"], cell("&#91;&#39;a&#39;&#93;")),
        ("a@b\nc", cell("a&#64;<!---->b&#92;nc")),
        ("é, ok; yes", cell("é, ok; yes")),
    ],
)
def test_a_value_in_code(value: object, shown: str) -> None:
    assert code(value) == shown


def test_a_limit_is_of_characters() -> None:
    assert code("abc", limit=3) == cell("abc")
    assert code("abcd", limit=3) == cell("ab…")
    assert preformatted("abcd", limit=4) == "<pre>abcd</pre>"
    assert preformatted("abcde", limit=4) == "<pre>abc…</pre>"
    assert preformatted("x" * 4_001) == f"<pre>{'x' * 3_999}…</pre>"


def test_empty_lines_and_addresses_stay_in_preformatted_text() -> None:
    assert preformatted("a\n\nb@c") == "<pre>a\n \nb&#64;c</pre>"


def test_a_table_without_rows_has_its_columns() -> None:
    assert table(["a", "b"], []) == ["| a | b |", "|---|---|"]
    assert escaped("a|b") == "a&#124;b"


def test_sections_are_joined_up_to_a_limit() -> None:
    sections = [["a", "b"], ["é"], ["c"]]
    assert joined(sections, limit_bytes=12) == "a\nb\n\né\n\nc\n\n"
    assert joined(sections, limit_bytes=11) == "a\nb\n\né\n\n1 more sections did not fit.\n"
    assert joined(sections, limit_bytes=9) == "a\nb\n\né\n\n1 more sections did not fit.\n"
    assert joined(sections, limit_bytes=8) == "a\nb\n\n2 more sections did not fit.\n"
    assert joined([["long" * 9], ["c"]], limit_bytes=9) == "2 more sections did not fit.\n"
    assert joined([], limit_bytes=9) == ""
