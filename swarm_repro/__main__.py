"""``swarm-repro`` and ``python -m swarm_repro``."""

from __future__ import annotations

import os
import sys

from swarm_repro.simulation.hash_seed import VARIABLE, is_hash_seed_fixed, start_again

#: Commands that run a simulation whatever their options.
_SIMULATING = (["run"], ["demo"], ["study", "run"])


def main() -> None:
    """Run the command line of this process and exit with its code.

    Simulations need PYTHONHASHSEED=0, which can only be set before Python starts, so the command
    usually restarts itself. It does so before importing anything else: whatever is imported first
    is imported twice.
    """
    simulates = any(sys.argv[1 : 1 + len(words)] == words for words in _SIMULATING)
    if simulates and not is_hash_seed_fixed() and os.environ.get(VARIABLE) != "0":
        start_again()
    from swarm_repro.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
