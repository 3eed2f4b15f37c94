"""The display on a terminal during a run, a study or a command."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro.caller import current_caller
from swarm_repro.cli import progress
from swarm_repro.cli.progress import Bar, RunProgress, StudyProgress
from swarm_repro.completion import Completion
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.study.worker import Report
from tests.support.terminal import on_a_terminal
from tests.support.tiny_model import chat, completion_of

PLAN: Any = SimpleNamespace(mode=Mode.RECORD, epochs=3, steps=4)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def call(at: tuple[int, int] | None) -> PendingCall:
    return PendingCall(
        request=chat(), caller=current_caller(), i=0, n=0, at=at, asked="a", seed=1, sent_key="b"
    )


def using(tokens: int | None) -> Completion:
    counts = {} if tokens is None else {"completion_tokens": tokens}
    return completion_of("yes", usage={"prompt_tokens": 1, **counts})


def test_a_run_shows_steps_calls_tokens_and_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    terminal = on_a_terminal(monkeypatch)
    with RunProgress(PLAN) as shown:
        clock.now += 4.0
        shown.on_call(call((0, 1)), using(10))
        shown.on_call(call((1, 2)), using(None))
        shown.on_call(call((1, 3)), using(30))
    last = terminal.text.strip().splitlines()[-1]
    assert last.startswith("record ")
    assert " 7/12 steps epoch 2/3  3 calls  40 tokens  10 tokens/s " in last
    assert " left " in last


def test_calls_that_have_no_step_are_counted_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "time", Clock())
    terminal = on_a_terminal(monkeypatch)
    with RunProgress(PLAN) as shown:
        shown.on_call(call(None), using(2))
    # No time has passed: the speed is large, and nothing is divided by zero.
    assert " 0/12 steps epoch 1/3  1 calls  2 tokens  2000000 tokens/s " in terminal.text


def test_a_run_shows_that_its_server_is_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with RunProgress(PLAN) as shown:
        shown.on_wait(3.4)
    assert "0/12 steps server is loading, 3 s " in terminal.text


def test_the_display_is_gone_when_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with pytest.raises(ValueError, match="no"), RunProgress(PLAN):
        raise ValueError("no")
    assert terminal.getvalue().rstrip().endswith("\x1b[2K"), "the line is erased"
    assert "\x1b[?25h" in terminal.getvalue(), "the cursor is back"


def test_output_of_a_program_bypasses_the_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = on_a_terminal(monkeypatch)
    out = sys.stdout
    with RunProgress(PLAN):
        assert sys.stdout is out
        assert sys.stderr is terminal


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(PLAN) as shown, StudyProgress("s") as study, Bar() as bar:
        shown.on_wait(1.0)
        shown.on_call(call((0, 0)), using(3))
        study.on_begin(3, 1)
        study.on_report(Report("r", 1))
        assert bar.phase("look") is None
    assert capsys.readouterr() == ("", "")


def test_a_study_shows_its_runs_and_how_many_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with StudyProgress("prices") as shown:
        shown.on_begin(9, 2)
        shown.on_report(Report("a", 0))
    last = terminal.text.strip().splitlines()[-1]
    assert last.startswith("prices ")
    assert " 3/9 runs " in last
    assert "failed" not in last
    with StudyProgress("prices") as shown:
        shown.on_begin(9, 0)
        for code in (0, 3, 1, 0):
            shown.on_report(Report("a", code))
    assert " 4/9 runs, 2 failed " in terminal.text.strip().splitlines()[-1]


def test_a_name_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with StudyProgress("[bold]x[/bold]") as shown:
        shown.on_begin(1, 0)
    assert "[bold]x[/bold] " in terminal.text


def test_a_report_before_the_beginning_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch)
    with StudyProgress("s") as shown:
        shown.on_report(Report("a", 1))


def test_a_bar_shows_each_phase_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Bar() as bar:
        first = bar.phase("reading")
        assert first is not None
        first(1, 4)
        second = bar.phase("comparing")
        assert second is not None
        second(3, 4)
    assert terminal.getvalue().rstrip().endswith("\x1b[2K"), "the lines are erased"
    reading, comparing = terminal.text.strip().splitlines()[-2:]
    assert reading.startswith("reading ")
    assert " 25 %, left " in reading
    assert comparing.startswith("comparing ")
    assert " 75 %, left " in comparing
