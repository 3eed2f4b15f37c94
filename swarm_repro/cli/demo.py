"""``swarm-repro demo``."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

import click

from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.cli.report import finish
from swarm_repro.session import Mode


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the artifacts in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(out: Path | None, as_json: bool) -> int:
    """Replay the packaged demo: no model, no server, no network.

    Three agents backed by a 135-million-parameter model act in an economy beside scripted ones.
    Every model call comes from the cassette that is part of this package.
    """
    pin_hash_seed()
    from swarm_repro.simulation.run import RunOptions, run_scenario

    data = resources.files("swarm_repro") / "data"
    with (
        tempfile.TemporaryDirectory(prefix="swarm-repro-demo.") as temporary,
        resources.as_file(data / "demo.yaml") as scenario,
        resources.as_file(data / "demo.seed42.jsonl") as cassette,
    ):
        outcome = run_scenario(
            RunOptions(
                scenario=scenario,
                seed=42,
                mode=Mode.REPLAY,
                cassette=cassette,
                out=out or Path(temporary) / "artifacts",
            )
        )
        return finish(outcome, as_json=as_json)
