"""What a replay costs, as ratios in one run.

Runs the plan's scenario (scenarios/llm_llama_cpp.yaml, about 91 calls) in several ways, each in
processes of its own, and prints CPU seconds and ratios:

* floor: every call answered from a list, no client at all;
* client: through the openai client, answered by an in-memory transport, no TLS contexts;
* client with TLS contexts: the same as the client is by default;
* replay: what swarm_repro does;
* whole command: processes from start to end, imports included.

The cassette is recorded first, from a loopback stub whose answers have the size of llama-server's.

    python benchmarks/replay.py [--rounds N]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.answers import answering  # noqa: E402 - found by the line above
from tests.support.stub_server import running_stub  # noqa: E402

SCENARIO = ROOT / "scenarios" / "llm_llama_cpp.yaml"
SEED = 42


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds, user and system."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def swarm_arguments(scenario: Path, out: Path) -> argparse.Namespace:
    """The same exports as swarm_repro asks SWARM for."""
    out.mkdir(parents=True, exist_ok=True)
    return argparse.Namespace(
        scenario=str(scenario),
        seed=SEED,
        epochs=None,
        steps=None,
        export_json=str(out / "history.json"),
        export_csv=str(out),
        export_dolt=None,
        prompt_audit=str(out / "prompts.jsonl"),
        prompt_audit_include_system=True,
        quiet=False,
    )


def recorded_bodies(cassette: Path) -> list[bytes]:
    """The recorded answers, in the order of the calls."""
    from swarm_repro.cassette.reader import read_cassette

    return [call.completion.body for call in read_cassette(cassette).calls.values()]


def simulate(way: str, scenario: Path, cassette: Path, out: Path) -> float:
    """Run the scenario in one way in this process.

    Returns:
        CPU seconds of the simulation, without imports.
    """
    if way == "replay":
        from swarm_repro.mode import Mode
        from swarm_repro.simulation import swarm as adapter
        from swarm_repro.simulation.plan import RunOptions
        from swarm_repro.simulation.run import run_scenario

        with contextlib.suppress(ImportError):
            import openai
        adapter._import_swarm = lambda: _imported_swarm(start)
        start: list[float] = []
        options = RunOptions(scenario, seed=SEED, mode=Mode.REPLAY, cassette=cassette, out=out)
        before = cpu_s()
        outcome = run_scenario(options)
        assert outcome.exit_code == 0, outcome.messages
        return cpu_s() - before - start[0]
    bodies = recorded_bodies(cassette)
    import openai  # noqa: F401 - its import is not the simulation

    swarm: Any = _imported_swarm([])
    _with_event_log(out / "events.jsonl")
    with answering(way, bodies), contextlib.redirect_stdout(io.StringIO()):
        before = cpu_s()
        assert swarm.cmd_run(swarm_arguments(scenario, out)) == 0
        return cpu_s() - before


def _with_event_log(path: Path) -> None:
    """Let SWARM write its event log, as it does under swarm_repro."""
    loader: Any = importlib.import_module("swarm.scenarios.loader")
    load = loader.load_scenario

    def load_scenario(scenario_path: Path) -> Any:
        scenario = load(scenario_path)
        scenario.orchestrator_config.log_path = path
        scenario.orchestrator_config.log_events = True
        return scenario

    loader.load_scenario = load_scenario


def _imported_swarm(start: list[float]) -> object:
    """Import SWARM, with what it imports only when needed, and note what that cost."""
    before = cpu_s()
    swarm: Any = importlib.import_module("swarm.__main__")
    for name in ("swarm.analysis.export", "swarm.scenarios.loader", "swarm.agents.llm_agent"):
        importlib.import_module(name)
    start.append(cpu_s() - before)
    return swarm


def child(*arguments: str) -> tuple[float, str]:
    """Run this script's worker, or the command.

    Returns:
        CPU seconds of the whole process, and its stdout.
    """
    before = cpu_s(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return cpu_s(resource.RUSAGE_CHILDREN) - before, done.stdout


def reply(body: dict[str, Any]) -> str:
    """Mostly nothing, now and then a proposal, which another agent accepts."""
    prompt = str(body["messages"])
    if '"accept"' in prompt:
        return '{"accept": true, "reasoning": "it looks fair to me, and I gain from it"}'
    if int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 4 == 0:
        peer = next(f"llm_{n}" for n in (1, 2, 3) if f"Your ID: llm_{n}" not in prompt)
        params = {"counterparty_id": peer, "interaction_type": "trade", "content": "A fair trade?"}
        return json.dumps({"action_type": "PROPOSE_INTERACTION", "params": params})
    return '{"action_type": "NOOP", "reasoning": "waiting for a better moment to act"}'


def record(folder: Path) -> tuple[Path, Path]:
    """Record the plan's scenario from a stub.

    Returns:
        The scenario with the stub's address in it, and the cassette.
    """
    with running_stub(reply=reply) as stub:
        scenario = folder / "plan.yaml"
        text = SCENARIO.read_text(encoding="utf-8")
        scenario.write_text(text.replace("http://localhost:8080/v1", stub.base_url))
        cassette = folder / "plan.jsonl"
        child(
            *("-m", "swarm_repro", "run", str(scenario), "--seed", str(SEED), "--record"),
            *("--cassette", str(cassette), "--out", str(folder / "recorded")),
        )
    return scenario, cassette


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=4, metavar=("WAY", "SCENARIO", "CASSETTE", "OUT"))
    options = parser.parse_args()
    if options.worker:
        way, scenario, cassette, out = options.worker
        print(json.dumps(simulate(way, Path(scenario), Path(cassette), Path(out))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenario, cassette = record(folder)
        simulated: dict[str, list[float]] = {}
        whole: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for way in ("floor", "client", "client-tls", "replay"):
                arguments = ("--worker", way, str(scenario), str(cassette), str(folder / way))
                total, printed = child(__file__, *arguments)
                simulated.setdefault(way, []).append(json.loads(printed.splitlines()[-1]))
                if way != "replay":
                    whole.setdefault(way, []).append(total)
            total, _ = child(
                *("-m", "swarm_repro", "run", str(scenario), "--seed", str(SEED), "--replay"),
                *("--cassette", str(cassette), "--out", str(folder / "command")),
            )
            whole.setdefault("replay", []).append(total)
        calls = sum(b'"record":"call"' in line for line in cassette.read_bytes().splitlines())
        print(f"{calls} calls, Python {platform.python_version()}, {platform.machine()}, ", end="")
        print(f"best of {options.rounds}, {time.strftime('%Y-%m-%d')}")
        _table("simulation alone", simulated)
        _table("whole command", whole)


def _table(title: str, times: dict[str, list[float]]) -> None:
    best = {way: min(values) for way, values in times.items()}
    print(f"\n{title:<20} {'CPU s':>8} {'median':>8} {'of client':>10}")
    for way, value in best.items():
        middle = statistics.median(times[way])
        print(f"{way:<20} {value:>8.3f} {middle:>8.3f} {value / best['client']:>10.2f}")


if __name__ == "__main__":
    main()
