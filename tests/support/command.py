"""Running the installed command, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
    return subprocess.run(
        [sys.executable, "-m", "swarm_repro", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def artifact_bytes(folder: Path) -> dict[str, bytes]:
    """Every artifact of a run but session.json, which has no digest."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name != "session.json"
    }
