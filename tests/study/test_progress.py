"""The bar of a study: the numbers of runs, of finished and of failed ones; on a terminal only."""

from __future__ import annotations

import io
import re
import sys

import pytest

from swarm_repro.cli.progress import StudyProgress
from swarm_repro.study.worker import Report


class Terminal(io.StringIO):
    """A terminal that remembers everything shown on it."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """The text shown, without the codes that place and colour it."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let a test's own stderr be one; a fixture's would be pytest's again when the test begins."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_finished_runs_are_counted_with_earlier_ones_and_failures_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = a_terminal(monkeypatch)
    with StudyProgress("tax [bold]") as progress:
        progress.on_begin(5, 2)
        progress.on_report(Report("a", 0))
        progress.on_report(Report("b", 4))
    last = terminal.shown.split("tax [bold]")[-1]
    assert "4/5 runs, 1 failed" in last
    assert "left" in last
    assert terminal.getvalue().endswith("\x1b[2K"), "nothing of it stays"


def test_without_failures_none_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with StudyProgress("tax") as progress:
        progress.on_report(Report("before anything has begun", 0))
        progress.on_begin(2, 0)
        progress.on_report(Report("a", 0))
    assert "1/2 runs" in terminal.shown
    assert "failed" not in terminal.shown


def test_without_a_terminal_nothing_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StudyProgress("tax") as progress:
        progress.on_begin(2, 0)
        progress.on_report(Report("a", 4))
    assert capsys.readouterr() == ("", "")
