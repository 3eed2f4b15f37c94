"""``swarm-repro demo``."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from pathlib import Path

import click

from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.cli.report import finish
from swarm_repro.mode import Mode


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the artifacts in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(out: Path | None, as_json: bool) -> int:
    """Replay the packaged demo: no model, no server, no network.

    Three agents backed by a 135-million-parameter model act in an economy beside scripted ones.
    Every model call comes from the cassette that is part of this package.
    """
    pin_hash_seed()
    from swarm_repro.simulation.plan import RunOptions
    from swarm_repro.simulation.run import run_scenario

    with (
        tempfile.TemporaryDirectory(prefix="swarm-repro-demo.") as temporary,
        _file("scenarios", "demo.yaml") as scenario,
        _file("cassettes", "demo.seed42.jsonl") as cassette,
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
        return finish(outcome, as_json=as_json, kept=out is not None)


def _file(folder: str, name: str) -> AbstractContextManager[Path]:
    """A file of the demo: in the wheel beside the code, in a checkout in its own folder."""
    package = resources.files("swarm_repro")
    packaged = package / "data" / name
    if packaged.is_file():
        return resources.as_file(packaged)
    return nullcontext(Path(str(package)).parent / folder / name)
