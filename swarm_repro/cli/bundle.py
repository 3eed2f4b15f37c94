"""``swarm-repro bundle``."""

from __future__ import annotations

from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.errors import UsageError
from swarm_repro.printable import printable


@click.group("bundle")
def command() -> None:
    """One zip for a paper: scenarios, recordings, artifacts, methods, and a manifest."""


@command.command("make")
@click.argument("target", metavar="ZIP", type=click.Path(path_type=Path))
@click.argument("scenarios", nargs=-1, metavar="SCENARIO...", type=click.Path(path_type=Path))
@click.option("--title", required=True, help="Of the study.")
@click.option("--author", "authors", multiple=True, help="Name of an author; again for each.")
@click.option(
    "--cassette",
    "cassettes",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A cassette; those of the scenarios if none is given.",
)
@click.option(
    "--lock",
    type=click.Path(path_type=Path),
    help="File with the versions of all packages; those that are installed if not given.",
)
@click.option(
    "--model-source",
    "sources",
    multiple=True,
    metavar="SHA256=URL",
    help="Where a file of weights came from.",
)
def _make(
    target: Path,
    scenarios: tuple[Path, ...],
    title: str,
    authors: tuple[str, ...],
    cassettes: tuple[Path, ...],
    lock: Path | None,
    sources: tuple[str, ...],
) -> None:
    """Replay all recorded runs of the SCENARIOs, and put what they need and give into ZIP."""
    pin_hash_seed()
    from swarm_repro.bundle.make import BundleOptions, make_bundle

    made = make_bundle(
        BundleOptions(
            scenarios=scenarios,
            cassettes=cassettes,
            title=title,
            authors=authors,
            lock=lock,
            sources=dict(_source(source) for source in sources),
        ),
        target,
    )
    click.echo(f"{target}: {len(made.files)} files, {len(made.runs)} runs, all of them replayed")


@command.command("check")
@click.argument("source", metavar="ZIP", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _check(source: Path, as_json: bool) -> int:
    """See that ZIP holds what was put in, and that its runs replay to its artifacts.

    Needs no model. The scenarios in it are run.
    """
    pin_hash_seed()
    from swarm_repro.bundle.check import check_bundle

    found = check_bundle(source)
    if as_json:
        runs = [
            {
                "scenario": run.scenario,
                "seed": run.seed,
                "exit_code": int(run.exit_code),
                "messages": list(run.messages),
            }
            for run in found.replayed
        ]
        click.echo(encode_json({"files": found.files, "runs": runs}))
        return int(found.exit_code)
    for run in found.replayed:
        said = "; ".join(run.messages) if run.exit_code else "replayed, artifacts identical"
        click.echo(printable(f"{run.scenario}, seed {run.seed}: {said}"))
    click.echo(f"{source}: {found.files} files as they were put in, {len(found.replayed)} runs")
    return int(found.exit_code)


def _source(given: str) -> tuple[str, str]:
    sha256, _, where = given.partition("=")
    if len(sha256) != 64 or not where:
        raise UsageError(f"--model-source {given!r}: write SHA256=URL")
    return sha256.lower(), where
