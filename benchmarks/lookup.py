"""What finding one recorded answer costs in process, as ratios to the least it can cost.

    python benchmarks/lookup.py [--calls 1000] [--large 100000] [--rounds 15] [--no-peers]

From a request that is new (parsed a moment ago, nothing remembered of its bytes) to the bytes of
its answer. The floor is what no content-addressed store can do without: orjson with sorted members,
SHA-256, a dict. swarm_repro finds the same in a cassette of as many calls as the others hold, and
in a large one through its index. The peers are installed in environments of their own, kept in
``--environments``, and each does what it does for its own users:

* DSPy: its cache of language-model responses, in memory alone and on disk alone;
* diskcache: the floor's key, the answer as bytes;
* inspect_ai: its cache of model outputs;
* LangChain: its SQLite cache;
* frozentrace: the player of a trace;
* vcrpy and cassetter: a cassette, matching bodies.

All take turns in one run, and begin each with look-ups that do not count: what others did to the
processor's caches is not what is measured. Shown: microseconds, each tenth of the look-ups in the
turn in which it was fastest, which is what it costs where nobody else uses the machine (as
``timeit`` has it); its ratio to the floor's; microseconds of the median turn; what is on the disk
when an answer has been kept.
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
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.large import (  # noqa: E402 - found by the line above
    answer_of,
    body_of,
    scope_of,
    write_large,
)

#: What all workers begin and end with: each prepares FETCH, which takes a fresh body and gives the
#: answer, and is then timed once for each line on its standard input, in ten parts.
HEAD = """\
import hashlib, json, sys, tempfile, time
from pathlib import Path
folder = Path(tempfile.mkdtemp(dir=sys.argv[2]))
with open(sys.argv[1], "rb") as file:
    pairs = [json.loads(line) for line in file]
bodies = [json.dumps(pair["request"]).encode() for pair in pairs]
answers = [pair["response"] for pair in pairs]
prepare = lambda body: body
restart = lambda: None
step = 1
"""
TAIL = """
def fresh():
    return [prepare(json.loads(body)) for body in bodies]

for item in fresh():
    assert fetch(item), "the answer is not there"
print("ready", flush=True)
for _ in sys.stdin:
    restart()
    for item in fresh()[::step]:
        fetch(item)
    restart()
    items = fresh()[::step]
    took = []
    for first in range(10):
        part = items[first::10]
        start = time.perf_counter()
        for item in part:
            fetch(item)
        took.append((time.perf_counter() - start) / len(part))
    print(*took, flush=True)
"""

FLOOR = """
import orjson
def key(body):
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
store = {key(json.loads(body)): answer.encode() for body, answer in zip(bodies, answers)}
fetch = lambda body: store[key(body)]
"""
OURS = """
sys.path.insert(0, sys.argv[3])
from benchmarks.lookup import fetching
fetch = fetching(Path(sys.argv[4]), folder)
prepare = lambda body: (body["user"], body)
"""
DSPY = """
from dspy.clients.cache import Cache
from openai.types.chat import ChatCompletion
cache = Cache(enable_disk_cache=DISK, enable_memory_cache=not DISK, disk_cache_dir=str(folder),
              disk_size_limit_bytes=1 << 32)
for body, answer in zip(bodies, answers):
    cache.put(json.loads(body), ChatCompletion.model_validate_json(answer))
fetch = cache.get
"""
DISKCACHE = """
import diskcache, orjson
def key(body):
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
cache = diskcache.Cache(str(folder), size_limit=1 << 32)
for body, answer in zip(bodies, answers):
    cache.set(key(json.loads(body)), answer.encode())
fetch = lambda body: cache.get(key(body))
"""
INSPECT = """
import os
os.environ["INSPECT_CACHE_DIR"] = str(folder)
from inspect_ai.model import (CachePolicy, ChatMessageSystem, ChatMessageUser, GenerateConfig,
                              ModelOutput)
from inspect_ai.model._cache import CacheEntry, cache_fetch, cache_store
KINDS = {"system": ChatMessageSystem, "user": ChatMessageUser}
def prepare(body):
    return ([KINDS[m["role"]](content=m["content"]) for m in body["messages"]],
            GenerateConfig(temperature=body["temperature"], max_tokens=body["max_tokens"]))
def entry(item):
    messages, config = item
    return CacheEntry(base_url=None, config=config, input=messages, model="tiny/model",
                      policy=CachePolicy(expiry=None), tool_choice=None, tools=[])
for body, answer in zip(bodies, answers):
    said = json.loads(answer)["choices"][0]["message"]["content"]
    assert cache_store(entry(prepare(json.loads(body))), ModelOutput.from_content("tiny", said))
fetch = lambda item: cache_fetch(entry(item))
"""
LANGCHAIN = """
import warnings
warnings.simplefilter("ignore")
from langchain_community.cache import SQLiteCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration
cache = SQLiteCache(str(folder / "cache.db"))
KINDS = {"system": SystemMessage, "user": HumanMessage}
def prepare(body):
    rest = {name: value for name, value in body.items() if name != "messages"}
    return [KINDS[m["role"]](m["content"]) for m in body["messages"]], rest
def key(item):
    return dumps(item[0]), str(sorted(item[1].items()))
for body, answer in zip(bodies, answers):
    said = json.loads(answer)["choices"][0]["message"]["content"]
    cache.update(*key(prepare(json.loads(body))), [ChatGeneration(message=AIMessage(said))])
fetch = lambda item: cache.lookup(*key(item))
"""
FROZENTRACE = """
from frozentrace import Player, Recorder
recorder = Recorder()
for body, answer in zip(bodies, answers):
    recorder.on_call_sync(lambda _: json.loads(answer), "chat", "llm", (json.loads(body),), {},
                          None, None)
def restart():
    global player
    player = Player(recorder.trace())
restart()
fetch = lambda body: player.on_call_sync(None, "chat", "llm", (body,), {}, None, None)
"""
VCRPY = """
from vcr.cassette import Cassette
from vcr.matchers import body as match_body, method, uri
from vcr.request import Request
def request(body):
    return Request("POST", "http://localhost/v1/chat/completions", json.dumps(body).encode(),
                   {"Content-Type": "application/json"})
cassette = Cassette(str(folder / "c.yaml"), match_on=(method, uri, match_body),
                    allow_playback_repeats=True, record_mode="none")
for body, answer in zip(bodies, answers):
    cassette.data.append((request(json.loads(body)),
                          {"status": {"code": 200, "message": "OK"}, "headers": {},
                           "body": {"string": answer.encode()}}))
fetch = lambda body: cassette.play_response(request(body))
step = len(bodies) // 20 or 1  # it compares with one recording after the other
"""
CASSETTER = """
import cassetter
from cassetter import MatchConfig, RecordMode
HEADERS = {"content-type": ["application/json"]}
CALL = ("POST", "http://localhost/v1/chat/completions", HEADERS)
match = MatchConfig(["method", "uri", "json_body"])
path = folder / "c.yaml"
cassette = cassetter.Cassette(path, record_mode=RecordMode.ALL, match_config=match)
cassette.load()
for body, answer in zip(bodies, answers):
    cassette.record(*CALL, body, 200, HEADERS, answer.encode())
cassette.save()
def restart():
    global cassette
    cassette = cassetter.Cassette(path, record_mode=RecordMode.NONE, match_config=match)
    cassette.load()
restart()
fetch = lambda body: cassette.play(*CALL, json.dumps(body).encode())
"""


class Way(NamedTuple):
    """One that takes part.

    Attributes:
        name: As the table says it.
        packages: What its environment needs; none: this one's.
        program: What its worker does between ``HEAD`` and ``TAIL``.
        kept: What is on the disk when an answer has been kept.
    """

    name: str
    packages: Sequence[str]
    program: str
    kept: str


SYNCED = "on the disk (fsync)"
WAL = "SQLite, WAL, not synced"
WAYS = (
    Way("floor", (), FLOOR, "nothing"),
    Way("swarm_repro", (), OURS, SYNCED),
    Way("swarm_repro, large", (), OURS, SYNCED),
    Way("DSPy, memory", ("dspy",), DSPY.replace("DISK", "False"), "nothing"),
    Way("DSPy, disk", ("dspy",), DSPY.replace("DISK", "True"), WAL),
    Way("diskcache", (), DISKCACHE, WAL),
    Way("inspect_ai", ("inspect-ai", "openai"), INSPECT, "a file, not synced"),
    Way("LangChain SQLite", ("langchain-community",), LANGCHAIN, "SQLite (fsync)"),
    Way("frozentrace", ("frozentrace",), FROZENTRACE, "nothing before the end"),
    Way("vcrpy", ("vcrpy",), VCRPY, "nothing before the end"),
    Way("cassetter", ("cassetter",), CASSETTER, "nothing before the end"),
)


def fetching(cassette: Path, folder: Path) -> Any:
    """Look-ups in a cassette, for its worker.

    Args:
        cassette: A file that ``make_cassette`` wrote.
        folder: For the index of a large one.

    Returns:
        Takes a scope and a body, gives the answer's bytes.
    """
    os.environ["SWARM_REPRO_CACHE_DIR"] = str(folder)
    from swarm_repro.cassette.store import open_for_replay
    from swarm_repro.request import Request

    len(open_for_replay(cassette).calls())  # reads all of it, so that its index is kept
    store = open_for_replay(cassette)
    binding = store.binding("stub")
    assert binding is not None

    def fetch(item: tuple[str, dict[str, Any]]) -> bytes:
        scope, body = item
        key = Request("chat", binding, "/v1/chat/completions", body).asked_key
        call = store.find((scope, key, 0))
        assert call is not None, "the answer is not there"
        return store.completion_of(call).body

    return fetch


def write_pairs(path: Path, size: int, count: int) -> None:
    """Requests and answers of a cassette of ``large``, spread over all of it."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(0, size, size // count):
            body = {**body_of(number), "user": scope_of(number, size)}  # who asks is in no key
            file.write(json.dumps({"request": body, "response": answer_of(number).decode()}) + "\n")


def python_of(way: Way, environments: Path) -> Path:
    """The Python of a way, its packages installed."""
    if not way.packages:
        return Path(sys.executable)
    environment = environments / way.packages[0]
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *way.packages], check=True)
    return python


def version_of(way: Way, python: Path) -> str:
    """The version of what takes part."""
    name = way.packages[0] if way.packages else way.name.partition(",")[0]
    if name == "floor":
        name = "orjson"
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--environments", type=Path, help="keep the peers' environments here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        environments = options.environments or folder
        sizes = {"swarm_repro, large": options.large}
        ways = [way for way in WAYS if not (options.no_peers and way.packages)]
        for size in {options.calls, options.large}:
            write_large(folder / f"{size}.jsonl", size)
            write_pairs(folder / f"{size}.pairs", size, options.calls)
        workers: dict[str, subprocess.Popen[str]] = {}
        versions: dict[str, str] = {}
        for way in ways:
            size = sizes.get(way.name, options.calls)
            python = python_of(way, environments)
            versions[way.name] = version_of(way, python).strip()
            files = (folder / f"{size}.pairs", folder, ROOT, folder / f"{size}.jsonl")
            workers[way.name] = stack.enter_context(
                subprocess.Popen(
                    [python, "-c", HEAD + way.program + TAIL, *files],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
            if answer_from(workers[way.name]) != "ready":
                raise SystemExit(f"{way.name} could not prepare")
        took: dict[str, list[list[float]]] = {way.name: [] for way in ways}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                print("go", file=worker.stdin, flush=True)
                took[name].append([float(part) for part in answer_from(worker).split()])
        for worker in workers.values():
            worker.stdin.close()  # type: ignore[union-attr]
    sizes_shown = f"{options.calls} calls, large: {options.large}"
    print(f"Python {platform.python_version()}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    print(f"{sizes_shown}; fastest (median) of {options.rounds} turns")
    fastest = {
        name: statistics.mean(map(min, zip(*turns, strict=True))) for name, turns in took.items()
    }
    for way in ways:
        median = statistics.median(map(statistics.mean, took[way.name]))
        print(
            f"{way.name:<20} {versions[way.name]:<8} {fastest[way.name] * 1e6:>8.1f} us "
            f"{fastest[way.name] / fastest['floor']:>8.2f} x floor ({median * 1e6:.1f} us)   "
            f"kept: {way.kept}"
        )
    large = fastest["swarm_repro, large"] / fastest["swarm_repro"]
    print(f"large: {large:.2f} x the time at {options.calls}")


def answer_from(worker: subprocess.Popen[str]) -> str:
    """The next line a worker says."""
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


if __name__ == "__main__":
    main()
