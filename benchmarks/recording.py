"""What recording costs: milliseconds a call, and bytes on disk beside vcrpy's.

Runs the plan's scenario against a loopback stub that takes a fixed time for each answer, with and
without recording, and records the same run with vcrpy in an environment of its own (openai 2.x,
since vcrpy patches httpx).

    python benchmarks/recording.py [--delay-s S] [--no-vcrpy]
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.replay import SCENARIO, SEED, reply  # noqa: E402 - found by the line above
from swarm_repro.cassette.reader import read_cassette  # noqa: E402
from swarm_repro.cassette.writer import write_cassette  # noqa: E402
from tests.support.stub_server import running_stub  # noqa: E402

VCR = """\
import runpy, sys, vcr
sys.argv = ["swarm", "run", sys.argv[1], "--seed", sys.argv[3], "-q"]
with vcr.use_cassette(CASSETTE, match_on=["method", "uri", "body"]):
    runpy.run_module("swarm", run_name="__main__", alter_sys=True)
"""


def added_ms(way: str, scenario: Path, folder: Path) -> list[float]:
    """Run the scenario in this process.

    Returns:
        For each call, milliseconds it took beyond what the stub and the connection took.
    """
    from swarm_repro.intercept.http import HttpInterceptor
    from swarm_repro.mode import Mode
    from swarm_repro.session import Session
    from swarm_repro.simulation.plan import RunOptions
    from swarm_repro.simulation.run import run_scenario

    sent: list[float] = []
    whole: list[float] = []
    _timed(Session, "send", sent)
    _timed(HttpInterceptor, "answer", whole)
    outcome = run_scenario(
        RunOptions(
            scenario=scenario,
            seed=SEED,
            mode=Mode(way),
            cassette=folder / f"{way}.jsonl",
            out=folder / "out",
            discard=way == "record",
        )
    )
    assert outcome.exit_code == 0, outcome.messages
    return [(total - send) * 1000 for total, send in zip(whole, sent, strict=True)]


def _timed(owner: Any, name: str, durations: list[float]) -> None:
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            durations.append(time.perf_counter() - start)

    setattr(owner, name, timed)


def overhead(scenario: Path, folder: Path) -> None:
    """Print what recording adds to a call: keys, encoding, the sync to disk."""
    for way in ("live", "record"):
        arguments = ("--worker", way, str(scenario), str(folder))
        done = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        added = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{way:<7} {len(added)} calls: {statistics.median(added):.2f} ms a call beyond the "
            f"answer's own time (quarter of calls above {statistics.quantiles(added)[2]:.2f})"
        )


def sizes(scenario: Path, folder: Path, *, with_vcrpy: bool) -> None:
    """Print the bytes of the cassette, and of vcrpy's for the same run."""
    plain = folder / "record.jsonl"
    ours = plain.read_bytes()
    _print_size("swarm_repro", ours)
    archive = folder / "record.jsonl.zst"
    write_cassette(read_cassette(plain), archive)
    print(f"{archive.suffix:<12} {archive.stat().st_size / 1000:>8.0f} KB")
    if not with_vcrpy:
        return
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    packages = ["vcrpy", "openai<3", "swarm-safety==1.9.0", "matplotlib"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    tape = folder / "vcr.yaml"
    code = VCR.replace("CASSETTE", repr(str(tape)))
    done = subprocess.run(
        [python, "-c", code, str(scenario), str(tape), str(SEED)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if not tape.exists():
        raise SystemExit(done.stderr)
    theirs = tape.read_bytes()
    calls, their_calls = len(read_cassette(plain).calls), theirs.count(b"- request:")
    print(f"vcrpy recorded {their_calls} calls, swarm_repro {calls}: ratios are of bytes a call")
    _print_size("vcrpy", theirs)
    per_call = their_calls / calls / len(theirs)
    print(
        f"ratio {len(ours) * per_call:.2f}, as an archive {archive.stat().st_size * per_call:.3f}"
    )


def _print_size(name: str, data: bytes) -> None:
    packed = len(gzip.compress(data))
    print(f"{name:<12} {len(data) / 1000:>8.0f} KB plain {packed / 1000:>8.0f} KB gzipped")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-s", type=float, default=0.05)
    parser.add_argument("--no-vcrpy", action="store_true")
    parser.add_argument("--worker", nargs=3, metavar=("WAY", "SCENARIO", "FOLDER"))
    options = parser.parse_args()
    if options.worker:
        way, scenario_name, folder_name = options.worker
        print(json.dumps(added_ms(way, Path(scenario_name), Path(folder_name))))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    with (
        tempfile.TemporaryDirectory() as temporary,
        running_stub(reply=reply, delay_s=options.delay_s) as stub,
    ):
        folder = Path(temporary)
        scenario = folder / "plan.yaml"
        text = SCENARIO.read_text(encoding="utf-8")
        scenario.write_text(text.replace("http://localhost:8080/v1", stub.base_url))
        overhead(scenario, folder)
        stub.delay_s = 0
        sizes(scenario, folder, with_vcrpy=not options.no_vcrpy)


if __name__ == "__main__":
    main()
