"""Bundles made in this process: a recorded scenario of two agents, one step long."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from swarm_repro.bundle.crate import MANIFEST
from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import ExitCode
from swarm_repro.mode import Mode
from swarm_repro.simulation.plan import RunOptions
from swarm_repro.simulation.run import run_scenario
from tests.support.stub_server import running_stub


def record(
    folder: Path,
    *,
    name: str = "tiny",
    seeds: tuple[int, ...] = (1,),
    epochs: int | None = None,
    steps: int | None = None,
) -> tuple[Path, Path]:
    """A scenario file and its cassette, which holds a run of each seed."""
    scenario = folder / "scenarios" / f"{name}.yaml"
    cassette = folder / "cassettes" / f"{name}.seed{seeds[0]}.jsonl"
    scenario.parent.mkdir(parents=True, exist_ok=True)
    with running_stub() as stub:
        block = {"provider": "llama_cpp", "model": "stub", "base_url": stub.base_url}
        document = {
            "scenario_id": name,
            "simulation": {"n_epochs": 1, "steps_per_epoch": 1, "seed": seeds[0]},
            "agents": [{"type": "llm", "count": 2, "llm": block}],
        }
        scenario.write_text(yaml.safe_dump(document, sort_keys=False))
        for seed in seeds:
            outcome = run_scenario(
                RunOptions(
                    scenario=scenario,
                    seed=seed,
                    mode=Mode.AUTO,
                    cassette=cassette,
                    out=folder / "recorded",
                    epochs=epochs,
                    steps=steps,
                )
            )
            assert outcome.exit_code is ExitCode.OK, outcome.messages
    return scenario, cassette


def rewrite(cassette: Path, target: Path, **members: object) -> Path:
    """A cassette with changed runs and right checksums."""
    recorded = read_cassette(cassette)
    runs: list[RunRecord] = [replace(run, **members) for run in recorded.runs]  # type: ignore[arg-type]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_cassette(replace(recorded, path=target, runs=runs), target)
    return target


def contents_of(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, contents: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def replaced(contents: Mapping[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    """The same with another file, which the manifest vouches for."""
    document: dict[str, Any] = json.loads(contents[MANIFEST])
    for entity in document["@graph"]:
        if entity["@id"] == name:
            entity["sha256"] = sha256_hex(data)
    return {**contents, name: data, MANIFEST: json.dumps(document).encode()}
