"""Running the installed command, as a user does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.warm import ROOT as ROOT
from tests.support.warm import run_python


def swarm_repro(
    *arguments: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m swarm_repro`` in a folder.

    Args:
        *arguments: Its arguments.
        cwd: Working directory.
        env: Variables to add to this process's.
        timeout_s: Limit; a command that hangs fails the test.
    """
    return run_python(
        ["-m", "swarm_repro", *map(str, arguments)],
        cwd=cwd,
        environment={**os.environ, **(env or {})},
        timeout_s=timeout_s,
    )


def artifact_bytes(folder: Path) -> dict[str, bytes]:
    """Every artifact of a run but session.json, which has no digest."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name != "session.json"
    }
