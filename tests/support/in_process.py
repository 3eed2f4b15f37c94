"""A command in this process: its exit code and what it printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from swarm_repro.cli import main


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The output, read as JSON."""
        found: dict[str, Any] = orjson.loads(self.out)
        return found


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run the command line as the installed command does, without a process of its own."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return Done(int(stop.value.code or 0), told.out, told.err)
