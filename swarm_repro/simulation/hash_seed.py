"""One order of sets: SWARM iterates over sets of names, so the hash seed reaches its artifacts.

The hash seed is read when the interpreter starts and cannot be changed afterwards.
"""

from __future__ import annotations

import os
import sys
from typing import Final

VARIABLE: Final = "PYTHONHASHSEED"


def is_hash_seed_fixed() -> bool:
    """Whether sets have the same order in every process like this one."""
    return not sys.flags.hash_randomization


def start_again() -> None:
    """Start this command again with ``PYTHONHASHSEED=0``; does not return.

    The process keeps its id, its arguments and its streams.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 - the same program with the same arguments
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, VARIABLE: "0"},
    )
