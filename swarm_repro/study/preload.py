"""Imports, once, what every worker of a study needs.

The fork server of a study imports this module by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

_PATH_VARIABLE = "SWARM_REPRO_FORK_SERVER_PATH"

# Ctrl-C is the study's to handle, also while this takes its 2 s.
signal.signal(signal.SIGINT, signal.SIG_IGN)
if _PATH_VARIABLE in os.environ:
    sys.path[:] = json.loads(os.environ.pop(_PATH_VARIABLE))
# Whatever is wrong with SWARM here, each run says by itself.
with contextlib.suppress(Exception):
    from swarm_repro.simulation.swarm import import_for_runs

    import_for_runs()
