"""``python -m swarm_repro``."""

from swarm_repro.cli import main

main()
