"""How long ``diff`` takes, and how much memory, as cassettes grow.

    python benchmarks/diff.py [--calls 200000]

Two cassettes of one simulated society of ten agents are recorded by the library from prompts like
SWARM's, about 4 KB a request. They part at a planted root: ``late`` in the last tenth, ``early`` in
the first, so that nine tenths of all calls are fallout, the most work there is. Each size is
compared by the installed command in a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import Cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.request import Request, event_seed

AGENTS = 10
MODEL = ModelBinding(
    name="smollm2-135m",
    backend="llama-server",
    identity=ModelIdentity("gguf", {"files": ["a" * 64]}),
    template={"sha256": "b" * 64},
    defaults={"chat": {"temperature": 0.8, "top_k": 40, "top_p": 0.95}},
)
MACHINE = Environment({"backend": "llama-server", "build": "b1"})
RULES = "You act in a multi-agent economy. " + "Rule: weigh what the others said. " * 60


def records(calls: int, *, root: int | None, run: str) -> Iterator[CallRecord]:
    """The calls of one recording; from ``root`` on its agents say something else."""
    said = "nothing yet"
    for number in range(calls):
        agent, i = f"llm_{number % AGENTS}", number // AGENTS
        heard = f"step {i}\n" + "The market is calm and the feed is long. " * 30 + f"\n{said}\n"
        request = Request(
            "chat",
            MODEL,
            "/v1/chat/completions",
            {
                "model": MODEL.name,
                "messages": [
                    {"role": "system", "content": RULES + agent},
                    {"role": "user", "content": heard},
                ],
                "temperature": 0.8,
                "max_tokens": 64,
            },
            kind="act",
        )
        other = root is not None and number >= root
        said = f"{agent} says in step {i}: " + (
            "I changed my mind about this." if other else "Fine by me."
        )
        body = (
            '{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"'
            + said
            + f'"}}}}],"created":{1_700_000_000 + number},"model":"m","system_fingerprint":"b1",'
            '"object":"chat.completion","usage":{"completion_tokens":12,"prompt_tokens":900,'
            f'"total_tokens":912}},"id":"chatcmpl-{run}{number}"}}'
        )
        seed = event_seed(run_seed=42, scope=agent, i=i)
        yield CallRecord.make(
            request=request.with_seed(seed),
            completion=Completion(200, "application/json", body.encode(), 0.5),
            scope=agent,
            i=i,
            n=0,
            at=(i // 100, i % 100),
            asked=request.asked_key,
            sent=request.key(seed=seed),
            asked_seed=None,
            env=MACHINE.sha256,
            prompt_sha256=None,
        )


def write(path: Path, calls: int, *, root: int | None = None, run: str = "a") -> None:
    """Write a cassette in a process of its own, so that its memory is not this one's."""
    cassette = Cassette(path=path, header=Header(recorder="0.1.0", scenario="benchmark"))
    cassette.models[MODEL.name] = MODEL
    cassette.envs[MACHINE.sha256] = MACHINE
    cassette.calls = {call.id: call for call in records(calls, root=root, run=run)}
    write_cassette(cassette, path)


def measure(a: Path, b: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of the command."""
    code = (
        "import resource, sys\n"
        "from swarm_repro.cli import root\n"
        f"root.main(['diff', {str(a)!r}, {str(b)!r}], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return seconds, int(done.stderr) * unit / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        path, calls, root, run = arguments.write
        write(Path(path), int(calls), root=int(root) if root else None, run=run)
        return
    print("   calls   root  MB a file  seconds  µs a call  peak MB")
    with tempfile.TemporaryDirectory() as folder:
        for calls in (
            arguments.calls // 8,
            arguments.calls // 4,
            arguments.calls // 2,
            arguments.calls,
        ):
            a, b = Path(folder, "a.jsonl"), Path(folder, "b.jsonl")
            _write(a, calls, "", "a")
            for name, root in (("late", calls * 9 // 10), ("early", calls // 10)):
                _write(b, calls, str(root), "b")
                seconds, peak = measure(a, b)
                print(
                    f"{calls:>8} {name:>6} {a.stat().st_size / 1e6:>10.0f} {seconds:>8.1f} "
                    f"{seconds / calls * 1e6:>10.1f} {peak:>8.0f}",
                    flush=True,
                )


def _write(path: Path, calls: int, root: str, run: str) -> None:
    subprocess.run(
        [sys.executable, __file__, "--write", str(path), str(calls), root, run], check=True
    )


if __name__ == "__main__":
    main()
