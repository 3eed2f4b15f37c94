"""The endpoint under load: 64 clients, 20,000 requests, in replay.

    python benchmarks/endpoint.py [--clients 64] [--requests 20000]

``swarm-repro serve`` runs in a process of its own on a cassette in which each client has a scope
with calls of its own. Every answer is compared with the recorded bytes. Prints errors, wrong
answers, requests a second, and the server's resident memory along the way.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.client import make_cassette  # noqa: E402 - found by the line above

PATH = "/chat/completions"
LIMIT_S = 900


def scope_of(client: int) -> str:
    return f"client {client}"


async def one_client(
    http: Any, url: str, client: int, calls: list[tuple[dict[str, Any], bytes]], tally: Counter[str]
) -> None:
    headers = {"x-swarm-repro-scope": scope_of(client)}
    for body, expected in calls:
        try:
            answer = await http.post(url + PATH, json=body, headers=headers, timeout=60)
        except Exception as error:  # noqa: BLE001, PERF203 - every error is what is counted
            tally[f"error: {type(error).__name__}"] += 1
        else:
            right = answer.status_code == 200 and answer.content == expected
            tally["right" if right else "wrong"] += 1


async def watch(process: psutil.Process, tally: Counter[str], total: int) -> None:
    """Print resident memory at marks of the way."""
    marks = [total // 20, total // 4, total // 2, total]
    while marks:
        done = sum(tally.values())
        while marks and done >= marks[0]:
            size = process.memory_info().rss / 2**20
            print(f"{marks.pop(0):>8} requests   {size:>6.0f} MB resident", flush=True)
        await asyncio.sleep(0.05)


async def load(url: str, server: int, calls: list[Any], clients: int) -> tuple[Counter[str], float]:
    httpx = importlib.import_module(
        "httpx2" if importlib.util.find_spec("httpx2") is not None else "httpx"
    )
    tally: Counter[str] = Counter()
    start = time.perf_counter()
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as http:
        watching = asyncio.create_task(watch(psutil.Process(server), tally, len(calls)))
        await asyncio.gather(
            *(
                one_client(http, url, client, calls[client::clients], tally)
                for client in range(clients)
            )
        )
        seconds = time.perf_counter() - start
        await watching
    return tally, seconds


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "c.jsonl"
        recorded = make_cassette(
            path, options.requests, scope_of=lambda n: scope_of(n % options.clients)
        )
        calls = [(dict(call.body), call.completion.body) for call in recorded]
        server = subprocess.Popen(
            [sys.executable, "-m", "swarm_repro", "serve", str(path), "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            tally, seconds = asyncio.run(
                asyncio.wait_for(load(url, server.pid, calls, options.clients), LIMIT_S)
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    print(
        f"{options.clients} clients, {len(calls)} requests: {tally['right']} right, "
        f"{tally['wrong']} wrong, {sum(tally.values()) - tally['right'] - tally['wrong']} errors, "
        f"{len(calls) / seconds:.0f} requests/s, exit code {server.returncode}"
    )
    if tally["right"] != len(calls) or server.returncode != 0:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
