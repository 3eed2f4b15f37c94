"""The audit of a real model on a real llama-server."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

from swarm_repro.audit.plan import AuditOptions
from swarm_repro.audit.runner import run_audit
from swarm_repro.serving.state import StartedServer, state_folder
from tests.conftest import threads
from tests.support.command import ROOT, swarm_repro

pytestmark = pytest.mark.slow

WITHIN = ("repeat", "restart", "prompt-cache", "order", "load", "stream")
SCHEMA = json.loads((ROOT / "docs/reference/schemas/audit.schema.json").read_text("utf-8"))


def test_default_flags_give_several_answers_and_the_recommended_setting_exactly_one(
    model_path: Path, tmp_path: Path
) -> None:
    others = set(state_folder().glob("*.json"))  # a server that other tests of this process share
    done = swarm_repro(
        *("audit", "--model", model_path, "--quick", "--threads", threads(), "--json"),
        *("--settings", "default,one-slot-no-cache", "--html", "audit.html"),
        *("--repeat", 2),
        *("--experiments", ",".join(WITHIN)),  # the others say nothing of one setting alone
        cwd=tmp_path,
        timeout_s=1500,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(SCHEMA).validate(report)
    cells = {(cell["setting"], cell["experiment"]): cell for cell in report["cells"]}
    assert {cell["status"] for cell in cells.values()} == {"done"}
    within = [one["name"] for one in report["experiments"] if one["kind"] == "within"]
    assert set(within) == set(WITHIN)
    assert max(cells["default", name]["distinct"] for name in within) > 1
    name = report["recommended"]["setting"]
    assert name == "one-slot-no-cache"
    assert [cells[name, one]["distinct"] for one in within] == [1] * len(within)
    assert [cells[name, one]["logprob_drift"] or 0.0 for one in within] == [0.0] * len(within)
    assert report["recommended"]["exact"] is True
    assert report["recommended"]["relative_price"] > 0
    assert report["prompts"][0]["tokens"] > 1000
    parted = [cell["divergence"] for cell in cells.values() if cell["divergence"]]
    assert all(parting["unit"] == "token" for parting in parted)
    assert set(state_folder().glob("*.json")) <= others, "a server was left"
    assert (tmp_path / "audit.html").stat().st_size > 0


def test_a_real_server_killed_in_the_middle_costs_one_experiment(model_path: Path) -> None:
    started: list[StartedServer] = []

    def kill_the_second(server: StartedServer) -> None:
        started.append(server)
        if len(started) == 2:
            os.kill(server.pid, signal.SIGKILL)

    report = run_audit(
        AuditOptions(
            model_path=model_path,
            cassette=ROOT / "cassettes" / "council.seed42.jsonl",
            prompts_limit=1,
            settings=("one-slot-no-cache",),
            experiments=("repeat", "restart", "load", "batch", "seed-0"),
            repeat=2,
            threads=threads(),
            in_process=False,
        ),
        on_server=kill_the_second,
    )
    statuses = {cell.experiment: cell.status for cell in report.cells}
    assert statuses == {
        "repeat": "done", "restart": "failed", "load": "done", "batch": "done", "seed-0": "done",
    }  # fmt: skip
    assert any("ended while it was asked" in line for line in report.missing)
    assert report.cell("one-slot-no-cache", "repeat").distinct == 1
    assert report.cell("one-slot-no-cache", "seed-0").distinct == 1, "0 is a seed on llama-server"
    assert not any(psutil.pid_exists(server.pid) for server in started)
    Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(report.to_json())))
