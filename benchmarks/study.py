"""What a study costs beside its runs: CPU time of the engine, and memory of its workers.

Records a study of the plan's scenario (scenarios/llm_llama_cpp.yaml, some 90 calls a run) from a
loopback stub, and replays it with each engine. A recording takes far longer than a replay (a TLS
context for each of SWARM's clients), so that a tenth of the runs is recorded, and each is replayed
ten times as repeats of its seed.

    python benchmarks/study.py [--runs 1000] [--workers 2]

Shown for each: CPU seconds of the simulations (measured in the workers around each run), of all
processes together, what that is more, and the most memory that a worker had after a tenth of the
runs and at the end. Both engines' tables must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.replay import SCENARIO, reply  # noqa: E402
from tests.support.stub_server import running_stub  # noqa: E402
from tests.support.studies import TABLES, tables_of, write_study  # noqa: E402

REPEATS = 10


def cpu_s() -> float:
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def made(folder: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """Run the study.

    Returns:
        What it reports, and the CPU seconds it took.
    """
    before = cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "swarm_repro", "study", "run", "study.yaml", "--json", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(done.stderr + done.stdout)
    return json.loads(done.stdout), cpu_s() - before


def peaks_mb(out: Path) -> tuple[float, float]:
    """The most memory of a worker after a tenth of the runs, and at the end."""
    with (out / "times.csv").open(newline="") as file:
        peaks = [float(row["peak_mb"]) for row in csv.DictReader(file)]
    return max(peaks[: max(1, len(peaks) // 10)]), max(peaks)


def main() -> None:
    """Print what each engine costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as temporary, running_stub(reply=reply) as stub:
        folder = Path(temporary)
        text = SCENARIO.read_text(encoding="utf-8")
        plan = text.replace("http://localhost:8080/v1", stub.base_url)
        (folder / "scenario.yaml").write_text(plan, encoding="utf-8")
        seeds = {"count": max(1, options.runs // REPEATS)}
        workers = ("--workers", str(options.workers))
        write_study(folder, seeds=seeds)
        made(folder, "--record", *workers)
        cassettes = folder / "cassettes" / "small"
        for cassette in list(cassettes.iterdir()):
            for number in range(REPEATS):
                shutil.copy(cassette, cassette.with_suffix(f".repeat{number}.jsonl"))
        write_study(folder, seeds=seeds, repeats=REPEATS)
        expected: dict[str, bytes] = {}
        for engine in ("local", "dask"):
            out = folder / engine
            start = time.perf_counter()
            report, total = made(
                folder, "--replay", "--engine", engine, "--out", str(out), *workers
            )
            tables = tables_of(out, TABLES)
            if tables != (expected := expected or tables):
                raise SystemExit(f"{engine} gives other tables")
            simulated = report["cpu_s"]
            took_s, more = time.perf_counter() - start, (total / simulated - 1) * 100
            early, late = peaks_mb(out)
            print(
                f"{engine:<6} {len(report['finished'])} runs on {options.workers} workers: "
                f"{simulated:.1f} s of CPU in runs, {total:.1f} s in all ({more:.1f} % more), "
                f"{took_s:.0f} s; "
                f"a worker had {early:.0f} MB, at the end {late:.0f} MB; tables identical"
            )


if __name__ == "__main__":
    main()
