"""An altered recording goes on live: what came before is replayed, the model says what follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm_repro.cassette.alter import alter
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.serving.llama_server import running_server
from tests.conftest import threads
from tests.support.command import ROOT, swarm_repro

pytestmark = pytest.mark.slow

DEMO = ROOT / "cassettes" / "demo.seed42.jsonl"
TEXT = (
    '{"action_type":"POST","reasoning":"I want all to know.",'
    '"params":{"content":"The lighthouse is for sale."}}'
)


def test_the_demo_goes_on_live_from_an_altered_call(tmp_path: Path, model_path: Path) -> None:
    recorded = list(read_cassette(DEMO).calls.values())
    late = [call for call in recorded[len(recorded) * 4 // 5 :] if call.kind == "act"]
    chosen = next(call for call in late if call.scope == "llm_1")
    target = tmp_path / "demo.jsonl"
    alter(DEMO, target, call=chosen.id, text=TEXT)
    kept = read_cassette(target).calls
    with running_server(model_path, n_ctx=4096, threads=threads()) as server:
        scenario = tmp_path / "demo.yaml"
        demo = (ROOT / "scenarios" / "demo.yaml").read_text()
        address = "http://localhost:8080/v1"
        assert address in demo
        scenario.write_text(demo.replace(address, server.base_url))
        run = swarm_repro(
            *("run", scenario, "--seed", 42, "--auto", "--cassette", target, "--json"),
            cwd=tmp_path,
            timeout_s=900,
        )
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    assert outcome["called"] > 0
    found = read_cassette(target)
    assert found.calls[chosen.id].completion.text == TEXT
    before = [call.id for call in recorded if call.order < chosen.order]
    assert all(found.calls[call_id] == kept[call_id] for call_id in before)
    new = [call for call in found.calls.values() if call.id not in kept]
    assert len(new) == outcome["called"]
    assert any("lighthouse" in str(call.body["messages"]) for call in new), "others read it"
    (record,) = found.runs
    assert record.calls == found.calls.keys()
    replay = swarm_repro("run", scenario, "--seed", 42, "--cassette", target, cwd=tmp_path)
    assert replay.returncode == 0, replay.stderr
    assert "artifacts identical" in replay.stdout
    diff = swarm_repro("diff", DEMO, target, "--json", cwd=tmp_path)
    assert diff.returncode == 1, diff.stderr
    report = json.loads(diff.stdout)
    (origin,) = report["origins"]
    assert origin["kind"] == "root"
    (root,) = [call for call in report["calls"] if call["class"] == "root"]
    assert (root["scope"], root["i"]) == (chosen.scope, chosen.i)
    others = [call for call in report["calls"] if call is not root]
    assert {call["class"] for call in others} <= {"fallout", "only_a", "only_b"}
    assert all(call["origins"] == [origin["id"]] for call in others)
    assert origin["fallout"]["proven"] > 0
