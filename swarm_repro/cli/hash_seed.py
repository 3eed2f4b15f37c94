"""One order of sets: SWARM iterates over sets of names, so the hash seed reaches its artifacts."""

from __future__ import annotations

import os
import sys

import click

from swarm_repro.errors import UsageError

_VARIABLE = "PYTHONHASHSEED"


def pin_hash_seed() -> None:
    """Start this command again with ``PYTHONHASHSEED=0``, unless hashes are fixed already.

    The hash seed is read when the interpreter starts and cannot be changed afterwards. The process
    keeps its id, its arguments and its streams.

    Raises:
        UsageError: ``main`` was called by another program, which cannot be started again, or the
            interpreter ignores its environment.
    """
    if not sys.flags.hash_randomization:
        return
    is_command = bool(click.get_current_context().find_root().obj)
    if not is_command or os.environ.get(_VARIABLE) == "0":
        raise UsageError(f"set {_VARIABLE}=0 before Python starts: sets must have one order")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 - the same program with the same arguments
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, _VARIABLE: "0"},
    )
