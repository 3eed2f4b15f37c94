"""What one call through the openai client costs in a replay, as ratios in one run.

    python benchmarks/client.py [--calls 300] [--rounds 9] [--no-peers]

The same client asks the same requests of

* stub: an HTTP server on loopback that answers at once, in a process of its own;
* nothing: a transport that has the answer in memory, which is what the client itself costs;
* replay: a cassette of 10, 1,000 and 100,000 recorded calls;
* vcrpy and cassetter, matching bodies, each in an environment of its own, with 10 and 1,000 calls
  that they recorded from the stub themselves.

Stub, nothing and replay take turns in one process, in blocks of 25 calls of which the first five do
not count: a shared machine is now fast, now slow, and two processes differ. Of each way the median,
and its ratio to the stub's. There are several such processes; shown are the medians of their
figures, and the least and greatest ratio.
The peers have processes of their own, and their ratio is to the median of the stub's.
"""

from __future__ import annotations

import argparse
import importlib
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
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diff import MACHINE  # noqa: E402 - found by the line above
from swarm_repro.cassette.header import Header  # noqa: E402
from swarm_repro.cassette.reader import Cassette  # noqa: E402
from swarm_repro.cassette.records import CallId, CallRecord  # noqa: E402
from swarm_repro.cassette.writer import write_cassette  # noqa: E402
from swarm_repro.completion import Completion  # noqa: E402
from swarm_repro.model import ModelBinding, ModelIdentity  # noqa: E402
from swarm_repro.request import Request  # noqa: E402

WAYS = ("stub", "nothing", "replay")
BLOCK, UNCOUNTED = 25, 5
JSON = b"application/json; charset=utf-8"
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
    calls: dict[CallId, CallRecord] = {}
    cassette = Cassette(path=path, header=header, calls=calls)
    cassette.models[model.name] = model
    cassette.envs[MACHINE.sha256] = MACHINE
    for number in range(size):
        request = Request("chat", model, "/v1/chat/completions", body_of(number))
        call = CallRecord.make(
            request=request,
            completion=Completion(200, JSON.decode(), answer_of(number), 0.5),
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
        calls[call.id] = call
    write_cassette(cassette, path)
    return list(calls.values())


def answer_of(number: int) -> bytes:
    """What the model says to the n-th call."""
    document = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": f"answer {number}"}}],
        "created": number,
        "model": "stub",
        "object": "chat.completion",
        "usage": {"completion_tokens": 8, "prompt_tokens": 100, "total_tokens": 108},
        "id": f"chatcmpl-{number}",
        "timings": {"predicted_ms": 9147.418, "prompt_ms": 3058.387},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def from_memory(openai: ModuleType) -> Any:
    """An HTTP client of the openai client's own library that sends nothing."""
    library = importlib.import_module("httpx" if openai.__version__.startswith("2.") else "httpx2")
    body = answer_of(7)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]

    class Memory(library.BaseTransport):  # type: ignore[misc,name-defined]
        def handle_request(self, request: Any) -> Any:
            request.read()
            stream = library.ByteStream(body)
            return library.Response(200, headers=headers, stream=stream, request=request)

    return library.Client(transport=Memory())


def time_calls(url: str, calls: int, size: int, cassette: Path) -> dict[str, float]:
    """Median seconds of a call in each way, in turns."""
    import openai

    from swarm_repro import use_cassette
    from swarm_repro.caller import own_traffic

    def ask(client: Any, block: range) -> list[float]:
        durations = []
        for number in block:
            body = body_of(number * 7919 % size)
            start = time.perf_counter()
            client.chat.completions.create(**body)
            durations.append(time.perf_counter() - start)
        return durations[UNCOUNTED:]

    found: dict[str, list[float]] = {way: [] for way in WAYS}
    given: dict[str, Any] = {"base_url": url, "api_key": "none", "max_retries": 0}
    with (
        openai.OpenAI(**given) as client,
        openai.OpenAI(**given, http_client=from_memory(openai)) as alone,
    ):
        while len(found["replay"]) < calls:
            # A recorded call is there once: each round is a replay of its own.
            use = use_cassette(cassette)
            use.begin()
            for first in range(0, min(calls, size), BLOCK):
                block = range(first, min(first + BLOCK, size))
                with own_traffic():  # not intercepted
                    found["stub"] += ask(client, block)
                    found["nothing"] += ask(alone, block)
                found["replay"] += ask(client, block)
            use.end(judge=False)
    return {way: statistics.median(durations) for way, durations in found.items()}


def in_process_of_its_own(*arguments: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


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
        print(json.dumps(time_calls(url, int(calls), int(size), Path(cassette))))
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
            found: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
            for _ in range(options.rounds):
                for size, path in paths.items():
                    found[size].append(in_process_of_its_own(url, options.calls, size, path))
            everywhere = [one for processes in found.values() for one in processes]
            base = statistics.median(one["stub"] for one in everywhere)

            def show(name: str, size: int | None, seconds: float, ratios: list[float]) -> None:
                spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
                calls = f"{size:>9}" if size else " " * 9
                ratio = statistics.median(ratios)
                print(
                    f"{name:<10} {calls}   {seconds * 1000:>9.2f}   {ratio:>13.2f}{spread}",
                    flush=True,
                )

            def show_way(way: str, size: int | None, processes: list[dict[str, float]]) -> None:
                seconds = statistics.median(one[way] for one in processes)
                show(way, size, seconds, [one[way] / one["stub"] for one in processes])

            show("stub", None, base, [1.0])
            show_way("nothing", None, everywhere)
            for size, processes in found.items():
                show_way("replay", size, processes)
            if not options.no_peers:
                peers(
                    folder,
                    url,
                    options.calls,
                    lambda name, size, s: show(name, size, s, [s / base]),
                )
        finally:
            stub.communicate()


if __name__ == "__main__":
    main()
