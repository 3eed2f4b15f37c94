"""``swarm-repro audit``: its options, what it prints, and how it ends, without a server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.audit import runner
from swarm_repro.audit.plan import AuditOptions
from swarm_repro.audit.report import AuditReport
from swarm_repro.audit.text import render
from swarm_repro.canonical import encode_json
from tests.audit.test_text import report
from tests.support.terminal import on_a_terminal, run

Capture = pytest.CaptureFixture[str]


class Audits:
    """Audits with prescribed findings."""

    def __init__(self) -> None:
        self.options: list[AuditOptions] = []
        self.finds = report()
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(
        self, options: AuditOptions, *, on_progress: Callable[[str, float, float], None]
    ) -> AuditReport:
        self.options.append(options)
        on_progress("default, repeat", 25.0, 100.0)
        self.meanwhile()
        return self.finds


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> Audits:
    made = Audits()
    monkeypatch.setattr(runner, "run_audit", made)
    return made


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ([], {}),
        (["--binary", "a"], {"binary": Path("a")}),
        (["--second-binary", "b"], {"second_binary": Path("b")}),
        (["--prompts", "c.jsonl"], {"cassette": Path("c.jsonl")}),
        (["--prompts-limit", "5"], {"prompts_limit": 5}),
        (["--repeat", "7", "--threads", "3"], {"repeat": 7, "threads": 3}),
        (["--ctx-size", "99"], {"n_ctx": 99}),
        (["--settings", "default, one-slot,,"], {"settings": ("default", "one-slot")}),
        (["--settings", ""], {"settings": ()}),
        (["--experiments", "load"], {"experiments": ("load",)}),
        (["--quick"], {"quick": True}),
        (["--in-process"], {"in_process": True}),
        (["--no-in-process"], {"in_process": False}),
    ],
)
def test_options_become_those_of_an_audit(
    given: list[str], changed: dict[str, Any], audits: Audits, capsys: Capture
) -> None:
    assert run(capsys, "audit", "--model", "m.gguf", *given).code == 0
    defaults = {"prompts_limit": 3, "n_ctx": 8192, "quick": False, "in_process": None}
    assert audits.options == [AuditOptions(**{"model_path": Path("m.gguf"), **defaults, **changed})]


def test_the_report_is_printed_as_text_or_json_and_the_page_is_written(
    audits: Audits, capsys: Capture, tmp_path: Path
) -> None:
    text = run(capsys, "audit", "--model", "m.gguf")
    assert (text.code, text.out, text.err) == (0, render(report()), "")
    page = tmp_path / "a.html"
    as_json = run(capsys, "audit", "--model", "m.gguf", "--json", "--html", page)
    assert as_json.out == encode_json(report().to_json()).decode() + "\n"
    assert json.loads(as_json.out)["report"] == "audit"
    assert as_json.err == f"report written to {page}\n"
    assert "cpu-strict gave one answer" in page.read_text("utf-8")


def test_without_a_recommendation_it_ends_with_1(audits: Audits, capsys: Capture) -> None:
    audits.finds = replace(report(), recommended=None)
    assert run(capsys, "audit", "--model", "m.gguf").code == 1


def test_a_page_without_a_folder_is_refused_before_anything_is_measured(
    audits: Audits, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "audit", "--model", "m.gguf", "--html", "none/a.html")
    assert (done.code, audits.options) == (2, [])
    assert done.err == "error: none is no folder; make it, or give another --html\n"
    assert run(capsys, "audit", "--model", "m.gguf", "--html", "a.html").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_by_the_way_of_an_error_and_handlers_are_given_back(
    number: signal.Signals, audits: Audits, capsys: Capture
) -> None:
    left: list[str] = []

    def be_ended() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            left.append("left as by an error")

    audits.meanwhile = be_ended
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]
    assert run(capsys, "audit", "--model", "m.gguf").code == 128 + number
    assert left == ["left as by an error"]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_terminal_shows_what_is_measured_and_how_far_it_is(
    audits: Audits, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert run(capsys, "audit", "--model", "m.gguf").code == 0
    shown = [line for line in terminal.text.splitlines() if line.startswith("default, repeat ")]
    assert " 25% " in shown[-1]
    assert " left " in shown[-1]


def test_without_a_terminal_progress_is_not_shown(audits: Audits, capsys: Capture) -> None:
    assert run(capsys, "audit", "--model", "m.gguf").err == ""
