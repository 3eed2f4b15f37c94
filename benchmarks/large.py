"""How a cassette of a million calls opens, answers and is read, and in how much memory.

    python benchmarks/large.py [--calls 1000000] [--folder FOLDER]

The calls are like SWARM's: a system prompt that they share and 1.3 KB of their own, of 100 agents.
The file is several GB, and stays in the folder if one is named. Each figure is of a process of its
own; ``wc -l`` reads the file in the same run, when it is in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diff import MACHINE  # noqa: E402 - found by the line above
from swarm_repro.cassette.header import Header  # noqa: E402
from swarm_repro.cassette.lines import encode_line  # noqa: E402
from swarm_repro.cassette.records import CallRecord  # noqa: E402
from swarm_repro.cassette.writer import (  # noqa: E402
    encode_environment,
    encode_model,
    encode_text,
)
from swarm_repro.completion import Completion  # noqa: E402
from swarm_repro.model import ModelBinding, ModelIdentity  # noqa: E402
from swarm_repro.request import Request  # noqa: E402

PATH = "/v1/chat/completions"
AGENTS = 100
MODEL = ModelBinding(
    name="stub",
    backend="llama-server",
    identity=ModelIdentity("gguf", {"files": ["a" * 64]}),
    template={"sha256": "b" * 64},
    defaults={"chat": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}},
)
RULES = "You act in a multi-agent economy. " + "Rule: weigh what the others said. " * 64
SEEN = "The others did this in the last step: " + "agent_7 proposed a trade to agent_9. " * 34
RECORDING = 1000


def scope_of(number: int, size: int) -> str:
    """Whose the n-th call of a cassette is."""
    return f"agent_{number * AGENTS // size:03d}"


def body_of(number: int) -> dict[str, Any]:
    """The n-th request: 3.6 KB."""
    return {
        "messages": [
            {"role": "system", "content": RULES},
            {"role": "user", "content": f"Step {number}. {SEEN}"},
        ],
        "model": "stub",
        "max_tokens": 256,
        "temperature": 0.8,
    }


def answer_of(number: int) -> bytes:
    """The answer to it."""
    said = {"role": "assistant", "content": json.dumps({"action_type": "POST", "step": number})}
    document = {
        "choices": [{"finish_reason": "stop", "index": 0, "message": said}],
        "created": 1_700_000_000 + number,
        "model": "stub",
        "object": "chat.completion",
        "usage": {"completion_tokens": 20, "prompt_tokens": 900, "total_tokens": 920},
        "id": f"chatcmpl-{number}",
    }
    return json.dumps(document, separators=(",", ":")).encode()


def write_large(path: Path, size: int) -> None:
    """Write a cassette of this many calls, as a recorder does, without holding it in memory."""
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        for count, line in enumerate(_lines(size), start=1):  # noqa: B007 - used after the loop
            digest.update(line)
            file.write(line)
        end = {"record": "end", "records": count, "sha256": digest.hexdigest()}
        file.write(encode_line(end))


def _lines(size: int) -> Iterator[bytes]:
    yield encode_line(Header(recorder="0.1.0", seed_policy="as-is").to_json())
    yield encode_model(MODEL)
    yield encode_environment(MACHINE)
    yield encode_text(RULES)
    places: dict[str, int] = {}
    for number in range(size):
        scope = scope_of(number, size)
        i = places[scope] = places.get(scope, -1) + 1
        request = Request("chat", MODEL, PATH, body_of(number))
        call = CallRecord.make(
            request=request,
            completion=Completion(200, "application/json", answer_of(number), 0.5),
            scope=scope,
            i=i,
            n=0,
            at=None,
            asked=request.asked_key,
            sent=request.asked_key,
            asked_seed=None,
            env=MACHINE.sha256,
            prompt_sha256=None,
        )
        yield from (encode_text(text) for text in call.texts.values() if text != RULES)
        yield encode_line(call.to_json(env=0))


# --- What is measured, each in a process of its own.


def _peak_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def measure(what: str, path: Path, size: int) -> dict[str, float]:
    """Measure one thing in this process."""
    from swarm_repro.cassette.store import open_for_recording, open_for_replay

    start = time.perf_counter()
    if what in ("record", "end"):
        from swarm_repro.mode import Mode
        from swarm_repro.session import Session
        from tests.support.tiny_model import TinyModel, ask

        header = Header(recorder="0.1.0", seed_policy="as-is")
        store = open_for_recording(path, header, keep=True)
        opened_s = time.perf_counter() - start
        session = Session(mode=Mode.AUTO, header=header, store=store)
        model = TinyModel()
        start = time.perf_counter()
        for number in range(RECORDING):
            ask(session, model, f"new {number} {SEEN}", who="newcomer")
        took_s = (time.perf_counter() - start) / RECORDING
        start = time.perf_counter()
        if what == "end":
            store.finish(used=session.ledger.used, run=None, keep=True)
        else:
            store.close()
            (path.with_name(path.name + ".part")).unlink()
        end_s = time.perf_counter() - start
        return {"opened_s": opened_s, "call_us": took_s * 1e6, "end_s": end_s, "MiB": _peak_mib()}
    store = open_for_replay(path)
    binding = store.binding("stub")
    assert binding is not None

    def answer(number: int) -> bytes:
        request = Request("chat", binding, PATH, body_of(number))
        call = store.find((scope_of(number, size), request.asked_key, 0))
        assert call is not None
        return store.completion_of(call).body

    assert answer(0 if what != "last" else size - 1)
    first_s = time.perf_counter() - start
    if what == "read":
        assert len(store.calls()) == size
    answers = min(size, 20_000)
    if what == "answers":
        for number in range(answers):
            assert answer(number * 7919 % size) == answer_of(number * 7919 % size)
    return {"first_s": first_s, "all_s": time.perf_counter() - start, "MiB": _peak_mib()}


def _measured(what: str, path: Path, size: int, cache: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", what, str(path), str(size)],
        env={**os.environ, "SWARM_REPRO_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def show(path: Path, size: int, cache: Path) -> None:
    """Print all figures of a cassette."""
    subprocess.run(["wc", "-l", path], stdout=subprocess.DEVNULL, check=True)
    start = time.perf_counter()
    subprocess.run(["wc", "-l", path], stdout=subprocess.DEVNULL, check=True)
    wc_s = time.perf_counter() - start
    print(f"{size} calls, {path.stat().st_size / 1e9:.2f} GB; wc -l, warm: {wc_s:.2f} s")
    first = _measured("first", path, size, cache)
    print(
        f"no index: first answer after {first['first_s']:.3f} s ({first['first_s'] / wc_s:.2f} of "
        f"wc -l), {first['MiB']:.0f} MiB"
    )
    read = _measured("read", path, size, cache)
    print(f"read to its end, index kept: {read['all_s']:.1f} s, {read['MiB']:.0f} MiB")
    last = _measured("last", path, size, cache)
    print(f"with the index: last call first, after {last['first_s']:.3f} s, {last['MiB']:.0f} MiB")
    answers = _measured("answers", path, size, cache)
    print(f"with the index: 20,000 answers from all over it, {answers['MiB']:.0f} MiB")


def main() -> None:
    """Make the cassette and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the cassette here, and use it again")
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "FILE", "CALLS"))
    options = parser.parse_args()
    if options.worker:
        what, name, size = options.worker
        print(json.dumps(measure(what, Path(name), int(size))))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for size in (1000, options.calls):
            path = folder / f"{size}.jsonl"
            if not path.exists():
                write_large(path, size)
                time.sleep(2.5)  # an index is not kept of what was written a moment ago
            cache = Path(temporary) / f"cache-{size}"
            if size > 1000:
                show(path, size, cache)
            recorded = _measured("record", path, size, cache)
            print(
                f"recording into {size} calls: {recorded['call_us']:.0f} us a call, opened in "
                f"{recorded['opened_s']:.1f} s, {recorded['MiB']:.0f} MiB"
            )
            other = folder / f"{size}-and-more.jsonl"
            other.hardlink_to(path)  # the end puts another file in its place
            ended = _measured("end", other, size, cache)
            other.unlink()
            print(f"its end: {ended['end_s']:.1f} s, {ended['MiB']:.0f} MiB")


if __name__ == "__main__":
    main()
