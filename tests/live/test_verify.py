"""Verifying recordings against the real llama-server and the real llama-cpp-python."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.backends.base import DirectCalls
from swarm_repro.backends.llama_cpp import LlamaCpp, unload_models
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.compare.parting import logprob_drift, part
from swarm_repro.compare.tokens import read_tokens
from swarm_repro.completion import Completion
from swarm_repro.mode import Mode
from swarm_repro.serving.llama_server import running_server
from swarm_repro.serving.state import StartedServer, find_started_server
from swarm_repro.session import Session
from tests.conftest import threads
from tests.support.command import swarm_repro

pytestmark = pytest.mark.slow

PROMPTS = (
    "Write one sentence about a cassette tape. Ünïcode and 🦙 too.",
    "Explain seeds of random number generators briefly.",
    "Agent bob offers 10 tokens for your post. Accept or reject, and why?",
)


def record(path: Path, backend: DirectCalls, **fields: object) -> None:
    header = Header(recorder="test", strict=True)
    store = open_for_recording(path, header, keep=False)
    session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=5)
    with scope("alice"):
        for prompt in PROMPTS:
            messages = [{"role": "user", "content": prompt}]
            backend.chat(messages, model="m", session=session, max_tokens=24, **fields)
    store.finish(used=session.ledger.used, run=None, keep=False)
    backend.close()


def client(server: StartedServer) -> LlamaServer:
    return LlamaServer(server.base_url, started=find_started_server)


@pytest.fixture(scope="module")
def recorded(llama_server: StartedServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "recorded.jsonl"
    record(path, client(llama_server), temperature=0.8)
    return path


def verify(path: Path, server: StartedServer, *options: object) -> tuple[int, dict[str, Any]]:
    done = swarm_repro(
        "verify", path, "--server", server.base_url, "--json", *options,
        cwd=path.parent, timeout_s=600,
    )  # fmt: skip
    assert "witness" in done.stderr if "--witness" in options else done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_strict_server_gives_every_recorded_answer_again_in_any_order(
    recorded: Path, llama_server: StartedServer
) -> None:
    before = recorded.read_bytes()
    code, report = verify(recorded, llama_server, "--repeat", 2, "--shuffle", 1, "--witness")
    assert (code, report["counts"]["same"], report["environment"]) == (0, 3, [])
    assert [(call["differing"], call["of"], call["distinct"]) for call in report["calls"]] == [
        (0, 2, 1)
    ] * 3
    assert report["witness"] is None, "an environment is no witness of itself"
    assert recorded.read_bytes() == before


def test_another_environment_that_answers_alike_becomes_a_witness(
    recorded: Path, model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "witnessed.jsonl"
    path.write_bytes(recorded.read_bytes())
    with running_server(model_path, n_ctx=2048, threads=threads()) as server:
        code, report = verify(path, server, "--witness")
        assert (code, report["counts"]["same"]) == (0, 3)
        fields = {difference["field"] for difference in report["environment"]}
        assert fields == {"flags", "settings.n_ctx"}
        after = path.read_bytes()
        assert verify(path, server, "--witness")[1]["witness"] == report["witness"]
    assert path.read_bytes() == after, "seen twice is noted once"
    old, new = read_cassette(recorded), read_cassette(path)
    assert new.witnesses == {report["witness"]: frozenset(new.calls)}
    assert (new.header, new.models, new.calls) == (old.header, old.models, old.calls)
    lines = recorded.read_bytes().splitlines()
    added = [json.loads(line)["record"] for line in after.splitlines() if line not in lines]
    assert added == ["env", "witness", "end"]


def test_other_arithmetic_is_found_and_placed_by_token(
    recorded: Path, model_path: Path, tmp_path: Path
) -> None:
    before = recorded.read_bytes()
    page = tmp_path / "report.html"
    flash = ["-fa", "on"]
    with running_server(model_path, n_ctx=4096, threads=threads(), extra_flags=flash) as server:
        code, report = verify(recorded, server, "--witness", "--html", page)
    differing = [call for call in report["calls"] if call["group"] != "same"]
    assert code == 1
    assert report["counts"]["failed"] == report["counts"]["prompt"] == 0
    assert differing
    for call in differing:
        parting = call["parting"]
        assert parting["unit"] == "token"
        assert parting["b_candidates"], "the live side was asked for its logprobs"
        assert call["completion"]["a"][: parting["character"]].endswith(parting["a_before"])
        assert parting["near_tie"] is (True if call["group"] == "near_tie" else parting["near_tie"])
        assert "temperature 0.8" in call["why"]
    assert "swarm_repro verify" in page.read_text("utf-8")
    if report["witness"] is None:
        assert recorded.read_bytes() == before


def test_recorded_logprobs_give_drift_and_margin(
    llama_server: StartedServer, model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "logprobs.jsonl"
    record(path, client(llama_server), temperature=0.0, logprobs=True, top_logprobs=5)
    assert verify(path, llama_server)[0] == 0
    flash = ["-fa", "on"]
    with running_server(model_path, n_ctx=4096, threads=threads(), extra_flags=flash) as server:
        code, report = verify(path, server)
    assert code == 1
    for call in report["calls"]:
        assert call["group"] in ("near_tie", "change")
        if call["parting"] is not None:
            assert call["parting"]["drift"] is None or call["parting"]["drift"] > 0
            assert call["parting"]["a_candidates"]


@pytest.mark.parametrize(
    ("endpoint", "path", "fields"),
    [
        ("chat", "/v1/chat/completions", {"logprobs": True, "top_logprobs": 3}),
        ("chat", "/v1/chat/completions", {"logprobs": True, "top_logprobs": 3, "stream": True}),
        ("completion", "/v1/completions", {"logprobs": 3}),
        ("completion", "/v1/completions", {"logprobs": 3, "stream": True}),
        ("completion", "/completion", {"n_probs": 3}),
        ("completion", "/completion", {"n_probs": 3, "stream": True}),
        ("completion", "/completion", {"n_probs": 3, "post_sampling_probs": True}),
    ],
)
def test_the_servers_tokens_add_up_to_its_text(
    llama_server: StartedServer, endpoint: Any, path: str, fields: dict[str, object]
) -> None:
    from swarm_repro.request import Request

    server = client(llama_server)
    asked: dict[str, object] = {"max_tokens": 8, "seed": 1, "cache_prompt": False, **fields}
    if endpoint == "chat":
        asked["messages"] = [{"role": "user", "content": "Answer with 🦙🦙🦙 only."}]
    else:
        asked["prompt"] = "🦙🦙🦙🦙🦙"
    completion = server.send(Request(endpoint, server.identify("m").binding, path, asked))
    server.close()
    tokens = read_tokens(completion)
    assert tokens is not None
    assert (
        b"".join(token.data or b"" for token in tokens)
        .decode("utf-8", "ignore")
        .startswith(completion.text.rstrip("\ufffd"))
    )
    assert all(token.logprob is not None and token.id is not None for token in tokens)
    assert all(1 <= len(token.top) <= 3 for token in tokens)
    assert part(completion, completion) is None
    assert logprob_drift(completion, completion) == 0.0


def in_process(model_path: Path) -> LlamaCpp:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
    return LlamaCpp(model_path, n_ctx=1024, n_threads=threads())


def test_a_recording_made_in_process_is_verified_in_process(
    model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "in_process.jsonl"
    record(path, in_process(model_path), temperature=0.8)
    unload_models()
    done = swarm_repro(
        "verify", path, "--model", model_path, "--repeat", 2, "--json", cwd=tmp_path, timeout_s=600
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["environment"]) == (0, []), "the recorded settings are used"
    assert report["counts"]["same"] == 3


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_tokens_are_read_in_process(model_path: Path, endpoint: str) -> None:
    in_process(model_path)
    backend = LlamaCpp(model_path, n_ctx=512, n_threads=threads(), logits_all=True)
    fields: dict[str, Any] = {"max_tokens": 6, "seed": 1, "temperature": 0.0}

    def ask(text: str) -> Completion:
        if endpoint == "completion":
            return backend.complete(text, logprobs=2, **fields)
        messages = [{"role": "user", "content": text}]
        return backend.chat(messages, logprobs=True, top_logprobs=2, **fields)

    one, other = ask("The capital of France is"), ask("Count: one, two,")
    unload_models()
    tokens = read_tokens(one)
    assert tokens is not None
    assert "".join(token.text or "" for token in tokens) == one.text
    assert all(token.logprob is not None and token.top for token in tokens)
    parting = part(one, other)
    assert parting is not None
    assert parting.unit == "token"
    assert parting.a_candidates


def second_server() -> str:
    binary = os.environ.get("SWARM_REPRO_SECOND_SERVER")
    if not binary:
        pytest.skip("needs a second llama-server: name it in SWARM_REPRO_SECOND_SERVER")
    return binary


def test_another_build_is_named_among_what_is_otherwise(recorded: Path, model_path: Path) -> None:
    binary = second_server()
    with running_server(model_path, n_ctx=4096, threads=threads(), binary=binary) as server:
        code, report = verify(recorded, server, "--repeat", 2)
    assert "binary_sha256" in {difference["field"] for difference in report["environment"]}
    assert code == (0 if report["counts"]["same"] == 3 else 1)
    for call in report["calls"]:
        assert (call["of"], call["distinct"]) == (2, 1), "each build is deterministic by itself"


def test_another_chat_template_renders_another_prompt(recorded: Path, model_path: Path) -> None:
    binary = second_server()
    other = ["--chat-template", "llama2"]
    with running_server(
        model_path, n_ctx=4096, threads=threads(), binary=binary, extra_flags=other
    ) as server:
        code, report = verify(recorded, server)
    assert (code, report["counts"]["prompt"]) == (1, 3)
    assert "chat template of m" in {difference["field"] for difference in report["environment"]}
