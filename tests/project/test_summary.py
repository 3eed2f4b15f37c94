"""Reports as one page: every kind, nothing hostile, never too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from swarm_repro.project.summary import LIMIT_BYTES, Named, summary
from tests.project.test_markdown import HOSTILE
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import json_values, texts

DRIFT = ROOT / "tests" / "data" / "drift"

RUN = {
    "scenario": "demo", "seed": 42, "mode": "replay", "exit_code": 0, "hits": 54, "called": 0,
    "artifacts": {"identical": True, "differing": [], "rounded": [], "metrics": []},
    "messages": [], "notes": [], "duration_s": 1.9,
}  # fmt: skip


def rendered(page: str) -> str:
    output: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    return output


def test_runs_are_one_table_and_failures_are_told_below(tmp_path: Path) -> None:
    failed = {
        **RUN, "scenario": "other", "exit_code": 1,
        "artifacts": {"identical": False, "differing": ["history.json"],
                      "metrics": ["welfare 1 2"]},
        "messages": ["an artifact differs\n  history.json"],
    }  # fmt: skip
    page = summary([Named("a.json", RUN), Named("b.json", failed)])
    assert page.count("| scenario |") == 1
    assert "passed" in page
    assert "**failed**, exit code 1" in page
    assert "history&#46;json" in page
    assert "welfare 1 2" in page
    assert rendered(page).count("<tr>") == 3


def test_a_diff_of_two_recordings_shows_its_origins_and_calls(tmp_path: Path) -> None:
    done = swarm_repro(
        "diff", DRIFT / "base.jsonl", DRIFT / "temperature.jsonl", "--json", cwd=tmp_path
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    page = summary([Named("cassettes/drift.jsonl", report)])
    assert "cassettes&#47;drift&#46;jsonl" in page
    assert "| cause | <code>llm&#95;1 0&#44; at 0&#46;0" in page.replace(",", "&#44;")
    assert "<code>temperature</code>" in page
    assert "<code>0&#46;8</code> | <code>0&#46;4</code>" in page
    pairs = [call["completion"] for call in report["calls"]]
    changed = sum(pair["a"] != pair["b"] for pair in pairs)
    assert changed > 5
    assert f"Changed completions ({changed})" in page


ROOT_REPORT: dict[str, Any] = {
    "report": "diff", "version": 1, "verdict": "1 root", "identical": False,
    "a": {"file": "x.jsonl", "calls": 3}, "b": {"file": "x.jsonl", "calls": 3},
    "counts": {"identical": 1, "root": 1, "fallout": 1},
    "origins": [{
        "id": 0, "kind": "root", "call": 1,
        "parting": {"unit": "token", "index": 5, "a_before": "see ", "a": "the", "b": "a",
                    "near_tie": True},
        "fallout": {"proven": 1, "assumed": 0}, "calls": 1,
    }],
    "environment": [{"field": "build", "a": "b1", "b": "b2"}],
    "calls": [
        {"number": 1, "scope": "llm_1", "i": 1, "at": [0, 1], "kind": "act", "class": "root",
         "completion": {"a": "see the", "b": "see a"}},
    ],
    "metrics": [{"seed": 42, "epoch": 0, "metric": "welfare", "a": 2.0, "b": 3.0}],
}  # fmt: skip


def test_a_root_shows_where_the_answers_part() -> None:
    page = summary([Named("x.jsonl", ROOT_REPORT)])
    assert (
        "| root | <code>llm&#95;1 1, at 0&#46;1</code> | the answer, at token 5, near tie |" in page
    )
    assert "see ⟨the⟩" in page
    assert "see ⟨a⟩" in page
    assert "<code>&#43;1 &#40;&#43;50&#46;0&#37;&#41;</code>" in page
    assert "Metrics that moved (1)" in page
    assert "<code>b1</code> | <code>b2</code>" in page


def test_verify_survey_and_audit_have_their_sections() -> None:
    verify = {
        "report": "verify", "verdict": "1 of 2 changed", "repeat": 3, "order": "recorded",
        "counts": {"same": 1, "change": 1}, "environment": [],
        "calls": [
            {"scope": "a", "i": 0, "group": "same", "completion": {"a": "q", "b": "q"}},
            {"scope": "b", "i": 0, "group": "change", "differing": 2, "of": 3,
             "why": "drawn at temperature 0.8",
             "completion": {"a": "recorded words", "b": "live words"}},
            {"scope": "c", "i": 0, "group": "failed", "differing": 0, "of": 3, "why": "HTTP 500"},
        ],
    }  # fmt: skip
    group = {"field": "messages[0].content", "calls": 3, "a": "x", "b": "y"}
    survey = {
        "report": "survey", "verdict": "3 stale", "versions": ["swarm-safety differs"],
        "groups": [group],
    }  # fmt: skip
    audit = {"report": "audit", "verdict": "strict", "missing": ["devices: none"],
             "recommended": {"flags": ["-np", "1"]}}  # fmt: skip
    run = {"scenario": "demo", "mode": "verify", "exit_code": 1, "verify": verify}
    nested = summary([Named("r", run)])
    assert "1 of 2 changed" in nested, "run --verify holds a report of its own"
    page = summary([Named("v", verify), Named("s", survey), Named("a", audit)])
    assert "recorded words" in page
    assert "live words" in page
    assert "HTTP 500" in page
    assert "<code>q</code>" not in page
    assert "swarm&#45;safety differs" in page
    assert "&#45;np 1" in page
    assert "devices&#58; none" in page


@given(
    st.recursive(
        st.sampled_from(HOSTILE) | texts() | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=3,
    )
)
def test_hostile_values_in_any_place_of_a_report_stay_texts(value: object) -> None:
    def poisoned(node: object) -> object:
        if isinstance(node, dict):
            return {name: member if name == "report" else poisoned(member)
                    for name, member in node.items()}  # fmt: skip
        if isinstance(node, list):
            return [poisoned(item) for item in node]
        return value

    report = poisoned(ROOT_REPORT)
    assert isinstance(report, dict)
    run = {"mode": value, "exit_code": value, **{k: poisoned(v) for k, v in RUN.items()}}
    page = summary([Named("x", report), Named("y", run)], notes=[str(value)])
    output = rendered(page)
    for tag in ("<script", "<a ", "<img", "href="):
        assert tag not in output
    for line in page.splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    assert output.count("<code>") == page.count("<code>")


@given(st.dictionaries(st.sampled_from([*ROOT_REPORT, *RUN]), json_values()))
def test_a_report_of_any_form_breaks_nothing(report: dict[str, object]) -> None:
    for kind in ("diff", "verify", "survey", "audit", "other"):
        assert summary([Named("x", {**report, "report": kind})]).startswith("## swarm-repro")


def test_a_page_has_an_end() -> None:
    call = ROOT_REPORT["calls"][0] | {"completion": {"a": "|" * 5_000, "b": "<" * 5_000}}
    report = {
        **ROOT_REPORT,
        "calls": [{**call, "number": n} for n in range(2_000)],
        "metrics": ROOT_REPORT["metrics"] * 2_000,
        "origins": ROOT_REPORT["origins"] * 2_000,
    }
    page = summary([Named(f"{n}.jsonl", report) for n in range(40)])
    assert len(page.encode()) <= LIMIT_BYTES + 100
    assert "more sections did not fit" in page
    one = summary([Named("x", report)])
    assert "1970 more changed completions" in one
    assert "1980 more origins" in one


def test_the_command_says_which_report_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "broken.json").write_text("{")
    done = swarm_repro("summarize", "run.json", "empty.json", "broken.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The command printed no report" in done.stdout
    assert "This is not a report" in done.stdout
    assert "<code>demo</code>" in done.stdout
    missing = swarm_repro("summarize", "nowhere.json", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "nowhere.json cannot be read" in missing.stderr
    assert "Nothing was run" in swarm_repro("summarize", cwd=tmp_path).stdout


def test_a_root_beside_the_text_shows_what_differs() -> None:
    origin = {
        "kind": "root", "call": 0, "parting": None,
        "evidence": ["the text is the same; choices[0].message.tool_calls: A 1, B 2"],
    }  # fmt: skip
    page = summary([Named("d", {"report": "diff", "origins": [origin], "calls": []})])
    assert "choices&#91;0&#93;&#46;message&#46;tool&#95;calls&#58; A 1, B 2" in page
    assert "at character" not in page
