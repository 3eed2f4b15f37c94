"""``diff``, ``merge`` and ``summarize``: options, output, files and exit codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from swarm_repro.cassette.header import FORMAT
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.compare.diff import DiffReport
from swarm_repro.compare.text import diff_lines
from swarm_repro.project.summary import Named, summary
from swarm_repro.reporting.html import render_html
from tests.support.in_process import invoke
from tests.support.recordings import Call, record
from tests.support.society import comparing

Capsys = pytest.CaptureFixture[str]


def scene(path: Path, word: str, *, count: int = 2, seed: int = 7) -> Path:
    """One call with equal answers on both sides, and some with different ones."""
    calls = [Call("0", at=(0, 0))]
    calls += [Call(f"{n}", f"{n} {word}", at=(0, n)) for n in range(1, count + 1)]
    return record(path, calls, seed=seed)


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return scene(tmp_path / "a.jsonl", "yes")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return scene(tmp_path / "b.jsonl", "no")


# --- diff


def test_two_recordings_that_differ_end_with_1(a: Path, b: Path, capsys: Capsys) -> None:
    with comparing(a, b) as found:
        expected = list(diff_lines(DiffReport(found).to_json()))
    done = invoke(capsys, "diff", a, b)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == expected
    assert "A and B are the same file" not in done.out


def test_the_same_file_twice_is_identical_and_named_as_one_file(a: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "diff", a, a)
    assert done.code == 0
    assert done.out.splitlines()[:2] == [
        "A and B are the same file",
        "identical: 3 calls, the same requests and the same completions",
    ]


def test_a_copy_is_not_the_same_file(a: Path, capsys: Capsys) -> None:
    copy = a.with_name("copy.jsonl")
    copy.write_bytes(a.read_bytes())
    done = invoke(capsys, "diff", a, copy)
    assert (done.code, done.out.splitlines()[0]) == (
        0,
        "identical: 3 calls, the same requests and the same completions",
    )


def test_json_lists_what_differs_up_to_a_limit(a: Path, b: Path, capsys: Capsys) -> None:
    with comparing(a, b) as found:
        expected, limited = DiffReport(found).to_json(), DiffReport(found).to_json(limit=1)
    done = invoke(capsys, "diff", a, b, "--json")
    assert (done.code, done.report) == (1, orjson.loads(orjson.dumps(expected)))
    done = invoke(capsys, "diff", a, b, "--json", "--limit", 1)
    assert done.report == orjson.loads(orjson.dumps(limited))
    assert (len(done.report["calls"]), done.report["left_out"]) == (1, 1)


def test_the_page_lists_identical_calls_too(a: Path, b: Path, capsys: Capsys) -> None:
    page = a.with_name("report.html")
    with comparing(a, b) as found:
        whole = DiffReport(found).to_json(identical_too=True)
        limited = DiffReport(found).to_json(identical_too=True, limit=2)
    done = invoke(capsys, "diff", a, b, "--html", page)
    assert (done.code, done.out.splitlines()[0]) == (1, whole["verdict"])
    assert page.read_bytes() == render_html(whole)
    invoke(capsys, "diff", a, b, "--html", page, "--limit", 2)
    assert page.read_bytes() == render_html(limited)


def test_a_terminal_shows_ten_origins_and_counts_the_rest(tmp_path: Path, capsys: Capsys) -> None:
    sides = [
        scene(tmp_path / f"{word}.jsonl", word, count=25) for word in ("yes", "no")
    ]  # fmt: skip
    lines = invoke(capsys, "diff", *sides).out.splitlines()
    assert sum(line.startswith("  root ") for line in lines) == 10
    assert "  and 15 more" in lines
    assert "  root 10: call 10 of ada at epoch 0, step 10: same request, other completion" in lines


def test_a_limit_below_one_is_refused(a: Path, b: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "diff", a, b, "--limit", 0)
    assert (done.code, done.out) == (2, "")
    assert "--limit" in done.err


def test_an_invalid_tokenizer_is_refused(a: Path, b: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "diff", a, b, "--tokenizer", a.with_name("none.gguf"))
    assert (done.code, done.out) == (2, "")
    assert "none.gguf" in done.err


# --- merge


def test_two_recordings_become_one(tmp_path: Path, capsys: Capsys) -> None:
    one = scene(tmp_path / "one.jsonl", "yes", seed=1)
    other = record(tmp_path / "other.jsonl", [Call("x")], seed=2)
    out = tmp_path / "o\x1but.jsonl"
    done = invoke(capsys, "merge", out, one, other)
    assert (done.code, done.err) == (0, "")
    assert done.out == rf"{tmp_path}/o\x1but.jsonl: 4 calls of 3 and 1, 2 runs" + "\n"
    merged = read_cassette(out)
    assert len(merged.calls) == 4
    assert [run.seed for run in merged.runs] == [1, 2]


def test_a_merge_as_json(tmp_path: Path, capsys: Capsys) -> None:
    one = scene(tmp_path / "one.jsonl", "yes")
    out = tmp_path / "out.jsonl"
    done = invoke(capsys, "merge", out, one, "--json")
    assert (done.code, done.report) == (
        0,
        {"out": str(out), "written": True, "calls": 3, "runs": 1, "conflicts": []},
    )
    assert out.read_bytes() == one.read_bytes()


def test_conflicts_are_named_and_nothing_is_written(a: Path, b: Path, capsys: Capsys) -> None:
    out = a.with_name("out.jsonl")
    done = invoke(capsys, "merge", out, a, b)
    lines = done.out.splitlines()
    assert done.code == 1
    assert [line.partition(" (repeat")[0] for line in lines[:2]] == [
        "conflict: call 1 of ada", "conflict: call 2 of ada",
    ]  # fmt: skip
    assert all(line.endswith(": the answers part at character 2") for line in lines[:2])
    assert lines[2:] == [f"{out}: not written: 2 conflicts; take one side whole, or record anew"]
    assert not out.exists()
    report = invoke(capsys, "merge", out, a, b, "--json").report
    assert (report["written"], report["calls"], report["runs"]) == (False, 1, 1)
    assert report["conflicts"][0] == {
        "what": lines[0].removeprefix("conflict: ").rpartition(": ")[0],
        "why": "the answers part at character 2",
    }
    assert not out.exists()


def test_an_output_that_is_no_side_is_only_replaced_by_force(
    a: Path, b: Path, capsys: Capsys
) -> None:
    before = b.read_bytes()
    done = invoke(capsys, "merge", b, a)
    assert (done.code, done.out, b.read_bytes()) == (2, "", before)
    assert done.err == (
        f"error: {b} is there already and is not one of the cassettes to merge: "
        "name it among them, or replace it with --force\n"
    )
    assert invoke(capsys, "merge", b, a, "--force").code == 0
    assert b.read_bytes() == a.read_bytes()


def test_an_output_may_be_any_of_the_sides_by_any_name(a: Path, capsys: Capsys) -> None:
    other, link = record(a.with_name("x.jsonl"), [Call("x")], seed=8), a.with_name("link.jsonl")
    os.link(other, link)
    done = invoke(capsys, "merge", link, a, other)
    assert (done.code, done.err) == (0, "")
    assert len(read_cassette(link).calls) == 4


def test_with_an_ancestor_the_side_that_changed_wins(a: Path, b: Path, capsys: Capsys) -> None:
    out, empty = a.with_name("out.jsonl"), a.with_name("empty")
    assert invoke(capsys, "merge", out, a, b, "--base", a).code == 0
    assert read_cassette(out).calls == read_cassette(b).calls
    empty.touch()
    assert invoke(capsys, "merge", out, a, b, "--base", empty, "--force").code == 1


def test_an_ancestor_that_is_missing_is_an_error(a: Path, b: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "merge", a.with_name("out.jsonl"), a, b, "--base", a.with_name("none"))
    assert done.code == 2
    assert "none" in done.err


def test_the_newest_format_is_written_only_on_demand(a: Path, capsys: Capsys) -> None:
    old, out = a.with_name("old.jsonl"), a.with_name("out.jsonl")
    whole = read_cassette(a)
    earlier = replace(whole.header, format=min(1, FORMAT))
    write_cassette(replace(whole, header=earlier), old)
    assert invoke(capsys, "merge", out, old).code == 0
    assert read_cassette(out).header.format == earlier.format
    assert invoke(capsys, "merge", out, old, "--upgrade", "--force").code == 0
    assert read_cassette(out).header.format == FORMAT


# --- summarize

RUN = {"scenario": "demo", "mode": "replay", "exit_code": 0}


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "empty.json").write_text(" \n")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_reports_become_one_page_and_invalid_ones_are_named(reports: Path, capsys: Capsys) -> None:
    names = ("run.json", "empty.json", "broken.json", "list.json")
    done = invoke(capsys, "summarize", *names)
    assert (done.code, done.err) == (0, "")
    assert done.out == summary(
        [
            Named("run.json", RUN),
            Named("empty.json", None, "The command printed no report; its log says why."),
            Named("broken.json", None, "This is not a report."),
            Named("list.json", None, "This is not a report."),
        ]
    )


def test_a_report_that_is_missing_is_named(reports: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "summarize", "run.json", "no\x1bne.json")
    assert (done.code, done.out) == (2, "")
    assert done.err == r"error: no\x1bne.json cannot be read: No such file or directory" + "\n"


def test_outside_of_a_repository_reports_are_shown_all_the_same(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(reports.parent))
    done = invoke(capsys, "summarize", "run.json", "--since", "HEAD")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(summary([Named("run.json", RUN)]).rstrip("\n"))
    assert "Changed cassettes were not compared" in done.out


def test_a_new_branch_has_nothing_to_compare(reports: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "summarize", "run.json", "--since", "0" * 40)
    assert done.out == summary([Named("run.json", RUN)])
    assert reports.is_dir()
