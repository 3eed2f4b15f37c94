"""``llama_cpp.Llama`` under ``use_cassette``: recorded, then replayed where it is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette

pytestmark = pytest.mark.slow
pytest.importorskip("llama_cpp")

#: Prints what every form of a call gives, one JSON document a line.
PROGRAM = """
import json, sys, threading
from swarm_repro import scope, use_cassette

when, mode, model, path = sys.argv[1:]
if when == "blocked":
    sys.modules.pop("llama_cpp", None)
    import importlib.machinery
    real = importlib.machinery.PathFinder.find_spec
    def find_spec(cls, name, path=None, target=None):
        return None if name == "llama_cpp" else real(name, path, target)
    importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
if when == "before":
    from llama_cpp import Llama, LlamaGrammar
    early = Llama(model, n_ctx=512, n_threads=1, verbose=False) if mode == "record" else None

def tell(value):
    print(json.dumps(value, sort_keys=False))

ASK = [{"role": "user", "content": "Name three colours."}]
COLOUR = {"colour": {"enum": ["red", "blue"]}}
SCHEMA = {"type": "object", "properties": COLOUR, "required": ["colour"]}
FORMAT = {"type": "json_object", "schema": SCHEMA}
with use_cassette(path, mode=mode, seed_policy="event", seed=3) as session:
    from llama_cpp import Llama, LlamaGrammar
    llama = Llama(model_path=model, n_ctx=512, n_threads=1, verbose=False)
    if when == "before" and mode == "record":
        llama = early
    tell(llama.create_chat_completion(ASK, max_tokens=8, seed=5))
    tell(llama.create_chat_completion(ASK, max_tokens=8))
    tell(llama.create_chat_completion(ASK, max_tokens=8))
    tell(list(llama.create_chat_completion(ASK, max_tokens=8, seed=5, stream=True)))
    tell(llama.create_completion("Once", max_tokens=8, temperature=0.5))
    tell(llama("Once", max_tokens=8, stop=["."]))
    stream = llama.create_completion("Once", max_tokens=8, stream=True)
    assert next(stream)["object"] == "text_completion"
    tell(list(stream))
    tell(llama.create_chat_completion(ASK, max_tokens=24, response_format=FORMAT))
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)
    tell(llama.create_completion("Is it?", grammar=grammar, max_tokens=4))
    said = {}
    def agent(name):
        with scope(name):
            said[name] = llama.create_completion(name, max_tokens=4)
    threads = [threading.Thread(target=agent, args=(f"agent {n}",)) for n in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    tell(sorted(said.items()))
    encoder = Llama(model_path=model, n_ctx=64, n_threads=1, embedding=True, verbose=False)
    tell(encoder.create_embedding("hello"))
    llama.reset(); llama.set_cache(None); llama.close() if when != "before" else None
print(session.ledger.hits, session.ledger.called, file=sys.stderr)
"""


def run(folder: Path, when: str, mode: str, model: Path) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, when, mode, str(model), "c.jsonl"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.splitlines()[-1] == ("12 0" if mode == "replay" else "0 12")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("when", ["inside", "before"])
def test_every_form_of_a_call_is_replayed_where_there_is_no_llama_cpp(
    tmp_path: Path, model_path: Path, when: str
) -> None:
    recorded = run(tmp_path, when, "record", model_path)
    assert len(recorded) == 11
    nowhere = tmp_path / "nowhere" / model_path.name
    assert run(tmp_path, "blocked", "replay", nowhere) == recorded
    assert run(tmp_path, when, "replay", nowhere) == recorded
    calls = list(read_cassette(tmp_path / "c.jsonl").calls.values())
    assert {call.endpoint for call in calls} == {"chat", "completion", "embedding"}
    streamed = [call for call in calls if call.completion.is_stream]
    assert len(streamed) == 2
    assert all(call.completion.text for call in streamed)
