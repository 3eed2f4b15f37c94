"""A study on a real model: each worker with its own, one worker killed on the way."""

from __future__ import annotations

import contextlib
import csv
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from swarm_repro.serving.state import take_inventory
from swarm_repro.weights import hash_file
from tests.support.command import ROOT
from tests.support.studies import command, environment, study, tables_of, write_study

pytestmark = pytest.mark.slow


def server_at_work(study_id: int, *, limit_s: float = 300) -> psutil.Process:
    """A server that a study has started, once it works on a call."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        for child in psutil.Process(study_id).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                if "xllamacpp_server" in " ".join(child.cmdline()) and child.cpu_times().user > 2:
                    return child
        time.sleep(0.05)
    raise AssertionError("no server works")


def worker_that_records(study_id: int) -> psutil.Process:
    """A Dask worker whose child's server works on a call."""
    records = server_at_work(study_id).parent()
    worker = records.parent() if records is not None else None
    assert worker is not None
    return worker


def test_runs_of_a_worker_that_was_killed_are_made_by_others(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_MODELS", str(model_path.parent))
    backend = {"kind": "llama-server", "model": hash_file(model_path)}
    scenario = str(ROOT / "scenarios" / "council.yaml")
    members = {"scenarios": [scenario], "epochs": 1, "steps": 1, "backend": backend}
    path = write_study(tmp_path, **members)
    before = {server.pid for server in take_inventory().running}
    with subprocess.Popen(
        command("run", path, "--record", "--engine", "dask", "--workers", 2),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True,
    ) as recording:  # fmt: skip
        worker_that_records(recording.pid).kill()
        said, _ = recording.communicate(timeout=600)
    assert recording.returncode == 0, said
    assert "2 runs finished, 0 failed" in said
    assert {server.pid for server in take_inventory().running} == before, "no server is left"
    recorded = tables_of(tmp_path / "studies" / "small")
    (row, _) = csv.DictReader(recorded["runs.csv"].decode().splitlines())
    assert int(row["calls"]) >= 7
    monkeypatch.setenv("SWARM_REPRO_MODELS", "")
    study("run", path, "--replay", "--out", "replayed", cwd=tmp_path)
    assert tables_of(tmp_path / "replayed") == recorded


def test_a_study_in_process_finds_its_model_under_another_name(
    model_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.symlink_to(model_path)
    backend = {"kind": "llama-cpp-python", "model": str(elsewhere)}
    scenario = str(ROOT / "scenarios" / "demo_in_process.yaml")
    members = {"scenarios": [scenario], "epochs": 1, "steps": 1, "seeds": [1], "backend": backend}
    path = write_study(tmp_path, **members)
    study("run", path, "--record", cwd=tmp_path, timeout_s=600)
    recorded = tables_of(tmp_path / "studies" / "small")
    elsewhere.unlink()
    study("run", path, "--replay", "--out", "replayed", cwd=tmp_path)
    assert tables_of(tmp_path / "replayed") == recorded


def test_a_probe_that_is_told_to_end_ends_its_server(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_MODELS", str(model_path.parent))
    backend = {"kind": "llama-server", "model": hash_file(model_path)}
    scenario = str(ROOT / "scenarios" / "council.yaml")
    path = write_study(tmp_path, scenarios=[scenario], backend=backend)
    with subprocess.Popen(
        command("run", path, "--dry-run", "--probe"),
        cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL,
    ) as probing:  # fmt: skip
        server = server_at_work(probing.pid)
        probing.terminate()
        assert probing.wait(60) == 143
    server.wait(10)
