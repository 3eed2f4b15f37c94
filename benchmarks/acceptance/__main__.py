"""Run the trials: what a cassette promises, tried as often as was promised.

    python -m benchmarks.acceptance [TRIAL...] [--share S] [--json]

Prints what each trial counted, with the date, the machine and versions. A trial that fails ends
with a traceback. With a share of 0.01 a hundredth of each is done, as the tests do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.acceptance.damage import SMALL, edits, flips, fuzz
from benchmarks.acceptance.full_disk import full_disk
from benchmarks.acceptance.kill import kill
from benchmarks.acceptance.power_loss import power_loss
from benchmarks.acceptance.stops import stops
from benchmarks.acceptance.writers import writers
from swarm_repro import __version__

#: How often each is tried in full.
TRIALS: dict[str, tuple[Callable[[int], dict[str, object]], int]] = {
    "kill": (kill, 1000),
    "power-loss": (power_loss, 20_000),
    "full-disk": (full_disk, 100),
    "writers": (partial(writers, rounds=20), 160_000),
    "flips": (flips, 8 * SMALL.stat().st_size),
    "edits": (edits, 100_000),
    "fuzz": (fuzz, 1_000_000),
    "stops": (stops, 10),
}


def main() -> None:
    """Run the trials that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=", ".join(TRIALS))
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    unknown = sorted(set(options.trials) - TRIALS.keys())
    if unknown:
        parser.error(f"there is no trial {unknown[0]}: use {', '.join(TRIALS)}")
    machine = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "swarm_repro": __version__,
    }
    if not options.json:
        print(", ".join(machine.values()))
    results: dict[str, object] = {}
    for name in options.trials or TRIALS:
        trial, full = TRIALS[name]
        start = time.perf_counter()
        counted = trial(max(1, round(full * options.share)))
        took = round(time.perf_counter() - start)
        results[name] = counted
        if not options.json:
            shown = ", ".join(f"{what} {count}" for what, count in counted.items())
            print(f"{name}: {shown} ({took} s)", flush=True)
    if options.json:
        print(json.dumps({**machine, "trials": results}))


if __name__ == "__main__":
    main()
