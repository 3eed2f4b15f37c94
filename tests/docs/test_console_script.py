"""The installed command, whose pages are run in forks of another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_installed_command_says_what_it_is() -> None:
    command = Path(sys.executable).with_name("swarm-repro")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: swarm-repro [OPTIONS] COMMAND [ARGS]...\n")
