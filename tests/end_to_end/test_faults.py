"""What a backend that fails does to a recording: nothing false is kept, nothing kept is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarm_repro.cassette.part import read_part
from swarm_repro.cassette.reader import read_cassette
from tests.support.command import artifact_bytes, swarm_repro
from tests.support.stub_server import Fault, StubServer, running_stub

SCENARIO = """\
scenario_id: faults
simulation: {{n_epochs: 2, steps_per_epoch: 2, seed: 7}}
agents:
  - type: honest
    count: 2
  - type: llm
    count: 2
    llm:
      provider: llama_cpp
      model: stub
      base_url: {base_url}
      temperature: 0.8
      max_tokens: 16
      timeout: {timeout}
repro: {{strict: true}}
"""
CALLS = 8


@pytest.fixture(autouse=True)
def _no_waits_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_REPRO_RETRY_WAITS", "0 0 0")


def write_scenario(folder: Path, stub: StubServer, *, timeout_s: float = 30) -> Path:
    path = folder / "faults.yaml"
    path.write_text(SCENARIO.format(base_url=stub.base_url, timeout=timeout_s))
    return path


def fail_at(number: int, fault: Fault) -> object:
    return lambda n: fault if n >= number else None


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (400, "HTTP 400"),
        (500, "HTTP 500"),
        ("hang", "did not answer within"),
        ("cut", "no answer from"),
        ("reset", "no answer from"),
        ("garbage", "broken body"),
        ("error-body", "no completion"),
    ],
)
def test_a_failing_call_ends_the_recording_with_4_and_auto_goes_on_from_what_was_kept(
    tmp_path: Path, fault: Fault, shown: str
) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub, timeout_s=1 if fault == "hang" else 30)
        stub.fault = fail_at(5, fault)  # type: ignore[assignment]
        failed = swarm_repro("run", scenario, "--record", "--out", "out", cwd=tmp_path)
        cassette = tmp_path / "cassettes" / "faults.seed7.jsonl"
        part = cassette.with_name(cassette.name + ".part")

        assert failed.returncode == 4, failed.stderr
        assert shown in failed.stderr
        assert "call 2 of llm_2" in failed.stderr
        assert f"5 calls are kept in {part.relative_to(tmp_path)}" in failed.stderr
        assert "--auto" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not cassette.exists()
        kept = read_part(part)
        assert kept is not None
        assert len(kept.cassette.calls) == 5

        stub.fault = lambda _n: None
        refused = swarm_repro("run", scenario, "--record", "--out", "out", cwd=tmp_path)
        assert refused.returncode == 2
        assert "--discard" in refused.stderr
        before = len(stub.chats)
        resumed = swarm_repro("run", scenario, "--auto", "--out", "out", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert len(stub.chats) - before == CALLS - 5
        assert not part.exists()
    replayed = swarm_repro("run", scenario, "--replay", "--out", "again", cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert "artifacts identical" in replayed.stdout
    assert artifact_bytes(tmp_path / "again") == artifact_bytes(tmp_path / "out")


def test_what_no_call_was_recorded_of_is_not_said_to_be_kept(tmp_path: Path) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
        stub.fault = lambda _n: 400
        failed = swarm_repro("run", scenario, "--record", "--out", "out", cwd=tmp_path)
        assert failed.returncode == 4, failed.stderr
        assert "are kept in" not in failed.stderr
        stub.fault = lambda _n: None
        again = swarm_repro("run", scenario, "--record", "--out", "out", cwd=tmp_path)
        assert again.returncode == 0, again.stderr


def test_a_server_that_hangs_on_every_route_does_not_keep_the_command(tmp_path: Path) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub, timeout_s=1)
        stub.fault = lambda _n: "hang"
        stub.hangs_everywhere = True
        failed = swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        assert failed.returncode == 4, failed.stderr


def test_a_second_recording_of_the_same_cassette_is_refused(tmp_path: Path) -> None:
    with running_stub(fault=fail_at(1, "held")) as stub:
        scenario = write_scenario(tmp_path, stub, timeout_s=120)
        part = tmp_path / "cassettes" / "faults.seed7.jsonl.part"
        first = subprocess.Popen(
            [sys.executable, "-m", "swarm_repro", "run", str(scenario), "--record", "--out", "a"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            limit = time.monotonic() + 60
            while not (part.exists() and b'"record":"call"' in part.read_bytes()):
                assert time.monotonic() < limit
                time.sleep(0.01)
            for mode in (("--auto",), ("--record", "--discard")):
                second = swarm_repro("run", scenario, *mode, "--out", "b", cwd=tmp_path)
                assert second.returncode == 2, second.stderr
                assert "another process is recording faults.seed7.jsonl" in second.stderr
        finally:
            stub.hung.set()
            out, err = first.communicate(timeout=120)
        assert first.returncode == 0, (out, err)
    assert len(read_cassette(tmp_path / "cassettes" / "faults.seed7.jsonl").calls) == CALLS


def test_a_failed_recording_leaves_the_old_cassette_untouched(tmp_path: Path) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
        assert swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path).returncode == 0
        cassette = tmp_path / "cassettes" / "faults.seed7.jsonl"
        old = cassette.read_bytes()
        first = len(stub.chats)
        stub.fault = lambda n: 500 if n >= first + 3 else None
        stub.reply = lambda _body: "another answer"
        failed = swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        assert failed.returncode == 4
        assert cassette.read_bytes() == old
    replayed = swarm_repro("run", scenario, "--replay", "--out", "o", cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr


def test_a_hiccup_is_tried_again_with_the_same_bytes(tmp_path: Path) -> None:
    with running_stub(fault={2: "reset", 3: 503}.get) as stub:
        scenario = write_scenario(tmp_path, stub)
        recorded = swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        assert recorded.returncode == 0, recorded.stderr
        assert stub.chats[2] == stub.chats[3] == stub.chats[4]
        assert len(stub.chats) == CALLS + 2
    cassette = read_cassette(tmp_path / "cassettes" / "faults.seed7.jsonl")
    assert len(cassette.calls) == CALLS


def test_a_server_that_dies_ends_the_run_at_once(tmp_path: Path) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
    gone = swarm_repro("run", scenario, "--record", cwd=tmp_path, timeout_s=20)
    assert gone.returncode == 4
    assert stub.root in gone.stderr
    assert "swarm-repro server start" in gone.stderr
    assert not (tmp_path / "cassettes").exists()


def test_a_server_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    with running_stub(loading=3) as stub:
        scenario = write_scenario(tmp_path, stub)
        recorded = swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        assert recorded.returncode == 0, recorded.stderr
        assert stub.loading == 0


def test_strict_mode_refuses_cached_tokens_several_slots_and_a_dated_template(
    tmp_path: Path,
) -> None:
    for settings, shown in (
        ({"cached_tokens": 7}, "7 cached prompt tokens"),
        ({"slots": 4}, "has 4 slots"),
        ({"template": "{{ strftime_now('%d') }}"}, "strftime_now"),
    ):
        with running_stub(**settings) as stub:
            scenario = write_scenario(tmp_path, stub)
            refused = swarm_repro("run", scenario, "--record", "--discard", cwd=tmp_path)
            assert refused.returncode == 4, (settings, refused.stderr)
            assert shown in refused.stderr
    assert not (tmp_path / "cassettes" / "faults.seed7.jsonl").exists()


def test_rerecording_equal_answers_changes_no_byte_and_other_answers_are_counted(
    tmp_path: Path,
) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
        cassette = tmp_path / "cassettes" / "faults.seed7.jsonl"
        swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        first = cassette.read_bytes()
        again = swarm_repro("run", scenario, "--record", "--out", "o", "--json", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert cassette.read_bytes() == first
        assert json.loads(again.stdout)["changes"]["unchanged"] == CALLS

        stub.reply = lambda _body: '{"action_type": "NOOP", "reasoning": "changed"}'
        verified = swarm_repro("run", scenario, "--verify", "--out", "v", cwd=tmp_path)
        assert verified.returncode == 1
        assert "did not give the recorded answer" in verified.stdout
        assert "recorded answer" not in verified.stderr, "said once"
        assert cassette.read_bytes() == first
        changed = swarm_repro("run", scenario, "--record", "--out", "o", "--json", cwd=tmp_path)
        counts = json.loads(changed.stdout)["changes"]
        assert counts["unchanged"] == 0
        assert counts["replaced"] + counts["added"] == CALLS


def test_live_calls_and_writes_nothing(tmp_path: Path) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
        live = swarm_repro("run", scenario, "--live", "--out", "o", cwd=tmp_path)
        assert live.returncode == 0, live.stderr
        assert len(stub.chats) == CALLS
    assert not (tmp_path / "cassettes").exists()


def test_waits_that_cannot_be_read_leave_nothing_behind_and_keep_no_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_stub() as stub:
        scenario = write_scenario(tmp_path, stub)
        monkeypatch.setenv("SWARM_REPRO_RETRY_WAITS", "soon")
        refused = swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: SWARM_REPRO_RETRY_WAITS is 'soon': give seconds")
        assert not (tmp_path / "cassettes").exists()
        monkeypatch.delenv("SWARM_REPRO_RETRY_WAITS")
        assert swarm_repro("run", scenario, "--record", "--out", "o", cwd=tmp_path).returncode == 0
    monkeypatch.setenv("SWARM_REPRO_RETRY_WAITS", "soon")
    replayed = swarm_repro("run", scenario, "--replay", "--out", "o", cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
