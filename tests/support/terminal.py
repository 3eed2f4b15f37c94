"""Commands in this process: as a user runs them, without the start of a process."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass

import pytest

from swarm_repro.cli import main

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """The text shown on a terminal, as lines."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return _CONTROL.sub("", self.getvalue()).replace("\r", "\n")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Done(int(stop.value.code or 0), out, err)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, width: int = 160) -> Terminal:
    """Let stderr be a terminal, from now on."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return terminal
