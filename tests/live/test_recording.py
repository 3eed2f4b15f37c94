"""Unmodified SWARM on a real model: recorded twice, replayed with the model gone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from swarm_repro.cassette.part import read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import same_but_volatile
from swarm_repro.serving.llama_server import running_server
from tests.conftest import threads
from tests.support.command import artifact_bytes, swarm_repro

pytestmark = pytest.mark.slow

SCENARIO = """\
scenario_id: live
simulation: {{n_epochs: 1, steps_per_epoch: 1, seed: 7}}
agents:
  - {{type: honest, count: 2}}
  - type: llm
    count: 2
    llm: {{provider: llama_cpp, {where}, temperature: 0.8, max_tokens: 16, timeout: 300}}
  - type: council
    council:
      members:
        - member_id: one
          llm: &llm {{provider: llama_cpp, {where}, max_tokens: 8, timeout: 300}}
        - {{member_id: two, llm: *llm}}
      min_members_required: 1
      timeout_per_member: 600
repro: {{strict: true}}
"""


def test_recorded_again_after_a_restart_no_byte_changes_and_the_replay_needs_no_server(
    tmp_path: Path, model_path: Path
) -> None:
    scenario = tmp_path / "live.yaml"
    cassette = tmp_path / "cassettes" / "live.seed7.jsonl"
    with running_server(model_path, n_ctx=4096, threads=threads()) as server:
        port = server.port
        where = f"model: small, base_url: '{server.base_url}'"
        scenario.write_text(SCENARIO.format(where=where))
        first = swarm_repro("run", scenario, "--record", "--out", "a", cwd=tmp_path, timeout_s=900)
        assert first.returncode == 0, first.stderr
    recorded = cassette.read_bytes()
    with running_server(model_path, n_ctx=4096, threads=threads(), port=port):
        again = swarm_repro(
            "run", scenario, "--record", "--out", "b", "--json", cwd=tmp_path, timeout_s=900
        )
        assert again.returncode == 0, again.stderr
        changes = json.loads(again.stdout)["changes"]
        assert cassette.read_bytes() == recorded, changes
        assert changes["replaced"] == changes["added"] == changes["dropped"] == 0
        other = tmp_path / "other.jsonl"
        fresh = swarm_repro(
            *("run", scenario, "--record", "--cassette", other, "--out", "c"),
            cwd=tmp_path,
            timeout_s=900,
        )
        assert fresh.returncode == 0, fresh.stderr
    assert other.read_bytes() != recorded, "ids and dates differ"
    one, two = read_cassette(cassette), read_cassette(other)
    assert one.calls.keys() == two.calls.keys()
    for call_id, call in one.calls.items():
        twin = two.calls[call_id]
        assert call.sent == twin.sent
        assert call.prompt_sha256 == twin.prompt_sha256
        assert same_but_volatile(call.completion, twin.completion)
    assert artifact_bytes(tmp_path / "a") == artifact_bytes(tmp_path / "c")
    members = {call.scope for call in one.calls.values() if "member" in call.scope}
    assert members == {"council_1_member_one", "council_1_member_two"}
    for number, env in enumerate(
        [
            {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"},
            {"PYTHONHASHSEED": "2", "TZ": "America/Lima"},
            {"PYTHONHASHSEED": "random"},
        ]
    ):
        folder = tmp_path / f"elsewhere{number}"
        folder.mkdir()
        replay = swarm_repro(
            *("run", scenario, "--replay", "--cassette", cassette, "--out", "out"),
            cwd=folder,
            env=env,
        )
        assert replay.returncode == 0, replay.stderr
        assert artifact_bytes(folder / "out") == artifact_bytes(tmp_path / "a")


def test_in_process_recorded_and_replayed_without_library_and_model(
    tmp_path: Path, model_path: Path
) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'swarm-repro[llama_cpp]'")
    (tmp_path / "models").mkdir()
    link = tmp_path / "models" / model_path.name
    link.symlink_to(model_path)
    scenario = tmp_path / "live.yaml"
    where = f"model_path: ./models/{model_path.name}, n_ctx: 4096, n_threads: {threads()}"
    scenario.write_text(SCENARIO.format(where=where))
    first = swarm_repro("run", scenario, "--record", "--out", "a", cwd=tmp_path, timeout_s=900)
    assert first.returncode == 0, first.stderr
    cassette = tmp_path / "cassettes" / "live.seed7.jsonl"
    recorded = cassette.read_bytes()
    assert str(tmp_path).encode() not in recorded
    again = swarm_repro("run", scenario, "--record", "--out", "b", cwd=tmp_path, timeout_s=900)
    assert again.returncode == 0, again.stderr
    assert cassette.read_bytes() == recorded
    link.unlink()
    blocked = tmp_path / "blocked" / "llama_cpp"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('replay must not import this')\n")
    replay = swarm_repro(
        *("run", scenario, "--replay", "--out", "c"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(blocked.parent)},
    )
    assert replay.returncode == 0, replay.stderr
    assert artifact_bytes(tmp_path / "c") == artifact_bytes(tmp_path / "a")


def test_a_real_server_killed_halfway_ends_with_4_and_auto_finishes_the_recording(
    tmp_path: Path, model_path: Path
) -> None:
    scenario = tmp_path / "live.yaml"
    part = tmp_path / "cassettes" / "live.seed7.jsonl.part"
    with running_server(model_path, n_ctx=4096, threads=threads()) as server:
        port = server.port
        where = f"model: small, base_url: '{server.base_url}'"
        scenario.write_text(SCENARIO.format(where=where))

        def kill_after_two_calls() -> None:
            limit = time.monotonic() + 600
            while time.monotonic() < limit:
                if part.exists() and part.read_bytes().count(b'"record":"call"') >= 2:
                    os.kill(server.pid, signal.SIGKILL)
                    return
                time.sleep(0.02)

        killer = threading.Thread(target=kill_after_two_calls)
        killer.start()
        failed = swarm_repro("run", scenario, "--record", "--out", "a", cwd=tmp_path, timeout_s=900)
        killer.join()
    assert failed.returncode == 4, failed.stderr
    kept = read_part(part)
    assert kept is not None
    n_kept = len(kept.cassette.calls)
    assert n_kept >= 2
    with running_server(model_path, n_ctx=4096, threads=threads(), port=port):
        resumed = swarm_repro(
            "run", scenario, "--auto", "--out", "a", "--json", cwd=tmp_path, timeout_s=900
        )
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout)["hits"] == n_kept
    replay = swarm_repro("run", scenario, "--replay", "--out", "b", cwd=tmp_path)
    assert replay.returncode == 0, replay.stderr
    assert artifact_bytes(tmp_path / "a") == artifact_bytes(tmp_path / "b")
