"""What one call through the openai client costs in a replay, as ratios in one run.

    python benchmarks/client.py [--calls 300] [--rounds 9] [--no-peers]

The same client asks the same requests of

* stub: an HTTP server on loopback that answers at once, in a process of its own;
* replay: a cassette of 10, 1,000 and 100,000 recorded calls;
* vcrpy and cassetter, matching bodies, each in an environment of its own, with 10 and 1,000 calls
  that they recorded from the stub themselves.

Every way has a process of its own, with one client. Wall time a call: the median of each process.
The ways take turns for several rounds, since a shared machine is now fast, now slow; a ratio is the
median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diff import MACHINE  # noqa: E402 - found by the line above
from swarm_repro.cassette.reader import Cassette  # noqa: E402
from swarm_repro.cassette.records import CallRecord, Header  # noqa: E402
from swarm_repro.cassette.writer import write_cassette  # noqa: E402
from swarm_repro.completion import Completion  # noqa: E402
from swarm_repro.model import ModelBinding, ModelIdentity  # noqa: E402
from swarm_repro.request import Request  # noqa: E402

SIZES = (10, 1_000, 100_000)
PEER_SIZES = (10, 1_000)
RULES = "You act in a multi-agent economy. " + "Rule: weigh what the others said. " * 25

STUB = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.stub_server import running_stub
with running_stub() as stub:
    print(stub.base_url, flush=True)
    sys.stdin.read()
"""
#: Run by a peer's own Python: records SIZE calls from URL into TAPE, then times CALLS replays.
PEER = """
import json, os, statistics, sys, time
name, url, tape, size, calls, rules = sys.argv[1:]
size, calls = int(size), int(calls)
import openai
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

def ask(number):
    client.chat.completions.create(
        model="stub", temperature=0.8, max_tokens=64, seed=7,
        messages=[{"role": "system", "content": rules},
                  {"role": "user", "content": f"call {number}"}])

if name == "vcrpy":
    import vcr
    def using(record):
        return vcr.VCR(match_on=["method", "uri", "body"]).use_cassette(
            tape, record_mode="all" if record else "none")
else:
    import cassetter
    def using(record):
        return cassetter.use_cassette(
            tape, record_mode="all" if record else "none",
            match_on=["method", "uri", "json_body"])

with using(True):
    for number in range(size):
        ask(number)
durations = []
while len(durations) < calls:
    # A recorded call is there once: each round is a replay of its own.
    with using(False):
        for number in range(min(size, calls)):
            start = time.perf_counter()
            ask(number * 7919 % size)
            durations.append(time.perf_counter() - start)
print(json.dumps(statistics.median(durations[len(durations) // 10:])))
"""


def body_of(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": RULES},
            {"role": "user", "content": f"call {number}"},
        ],
        "model": "stub",
        "max_tokens": 64,
        "seed": 7,
        "temperature": 0.8,
    }


def make_cassette(
    path: Path, size: int, *, scope_of: Callable[[int], str] = lambda _number: "main"
) -> list[CallRecord]:
    """A cassette of this many calls, written by the library.

    Args:
        path: Where to.
        size: How many.
        scope_of: The scope of the n-th.
    """
    model = ModelBinding(
        name="stub",
        backend="llama-server",
        identity=ModelIdentity("gguf", {"files": ["a" * 64]}),
        template={"sha256": "b" * 64},
        defaults={"chat": {"temperature": 0.8, "top_k": 40, "top_p": 0.95}},
    )
    header = Header(recorder="0.1.0", seed_policy="as-is")
    cassette = Cassette(path=path, header=header)
    cassette.models[model.name] = model
    cassette.envs[MACHINE.sha256] = MACHINE
    for number in range(size):
        request = Request("chat", model, "/v1/chat/completions", body_of(number))
        text = json.dumps(
            {
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": f"answer {number}"}}
                ],
                "created": number,
                "model": "stub",
                "object": "chat.completion",
                "usage": {"completion_tokens": 8, "prompt_tokens": 100, "total_tokens": 108},
                "id": f"chatcmpl-{number}",
                "timings": {"predicted_ms": 9147.418, "prompt_ms": 3058.387},
            },
            separators=(",", ":"),
        )
        call = CallRecord.make(
            request=request,
            completion=Completion(200, "application/json; charset=utf-8", text.encode(), 0.5),
            scope=scope_of(number),
            i=number,
            n=0,
            at=None,
            asked=request.asked_key,
            sent=request.asked_key,
            asked_seed=7,
            env=MACHINE.sha256,
            prompt_sha256=None,
        )
        cassette.calls[call.id] = call
    write_cassette(cassette, path)
    return list(cassette.calls.values())


def time_calls(url: str, calls: int, size: int, cassette: Path | None) -> float:
    """Median seconds of a call in this process, the first tenth left out."""
    import openai

    from swarm_repro import use_cassette

    count = min(calls, size)
    rounds = max(1, calls // count)
    durations: list[float] = []
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for _ in range(rounds):
            # A recorded call is there once: each round is a replay of its own.
            use: Any = nullcontext() if cassette is None else use_cassette(cassette)
            if cassette is not None:
                use.begin()
            for number in range(count):
                body = body_of(number * 7919 % size)
                start = time.perf_counter()
                client.chat.completions.create(**body)
                durations.append(time.perf_counter() - start)
            if cassette is not None:
                use.end(judge=False)
    return statistics.median(durations[len(durations) // 10 :])


def in_process_of_its_own(*arguments: object) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def peers(folder: Path, url: str, calls: int, show: Callable[[str, int, float], None]) -> None:
    """Install each peer and time it."""
    for name, packages in (("vcrpy", ["vcrpy==9.4.2"]), ("cassetter", ["cassetter==0.16.1"])):
        environment = folder / name
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", *packages, "openai>=2,<3"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        for size in PEER_SIZES:
            tape = folder / f"{name}.{size}.yaml"
            asked = calls if size < 1_000 else min(calls, 60)
            done = subprocess.run(
                [python, "-c", PEER, name, url, tape, str(size), str(asked), RULES],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                print(f"{name:<10} {size:>8} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            show(name, size, float(json.loads(done.stdout)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--worker", nargs=4, metavar=("URL", "CALLS", "SIZE", "CASSETTE"))
    options = parser.parse_args()
    if options.worker:
        url, calls, size, cassette = options.worker
        path = None if cassette == "-" else Path(cassette)
        print(time_calls(url, int(calls), int(size), path))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    print("way         recorded   ms a call   of the stub's")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stub = subprocess.Popen(
            [sys.executable, "-c", STUB, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert stub.stdout is not None
        url = stub.stdout.readline().strip()
        try:
            paths = {size: folder / f"{size}.jsonl" for size in SIZES}
            for size, path in paths.items():
                make_cassette(path, size)
            stub_s: list[float] = []
            replay_s: dict[int, list[float]] = {size: [] for size in SIZES}
            for _ in range(options.rounds):
                stub_s.append(in_process_of_its_own(url, options.calls, 1_000, "-"))
                for size, path in paths.items():
                    replay_s[size].append(in_process_of_its_own(url, options.calls, size, path))
            base = statistics.median(stub_s)

            def show(name: str, size: int, seconds: float, ratio: float | None = None) -> None:
                ratio = seconds / base if ratio is None else ratio
                print(f"{name:<10} {size:>9}   {seconds * 1000:>9.2f}   {ratio:>13.2f}", flush=True)

            show("stub", 1_000, base)
            for size, found in replay_s.items():
                ratios = [one / stub for one, stub in zip(found, stub_s, strict=True)]
                show("replay", size, statistics.median(found), statistics.median(ratios))
            if not options.no_peers:
                peers(folder, url, options.calls, show)
        finally:
            stub.communicate()


if __name__ == "__main__":
    main()
