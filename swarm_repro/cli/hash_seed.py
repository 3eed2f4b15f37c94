"""One order of sets for the commands that run simulations."""

from __future__ import annotations

import os

import click

from swarm_repro.errors import UsageError
from swarm_repro.simulation.hash_seed import VARIABLE, is_hash_seed_fixed, start_again


def pin_hash_seed() -> None:
    """Start this command again with ``PYTHONHASHSEED=0``, unless hashes are fixed already.

    Raises:
        UsageError: ``main`` was called by another program, which cannot be started again, or the
            interpreter ignores its environment.
    """
    if is_hash_seed_fixed():
        return
    is_command = bool(click.get_current_context().find_root().obj)
    if not is_command or os.environ.get(VARIABLE) == "0":
        raise UsageError(f"set {VARIABLE}=0 before Python starts: sets must have one order")
    start_again()
