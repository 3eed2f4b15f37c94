"""What every worker of a study imports: importing this module imports it.

The process that a study's workers are forked from imports it by name.
"""

from __future__ import annotations

import contextlib

from swarm_repro.simulation.swarm import import_for_runs

# Where SWARM is not installed each run says so by itself.
with contextlib.suppress(ImportError):
    import_for_runs()
