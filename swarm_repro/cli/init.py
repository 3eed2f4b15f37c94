"""``swarm-repro init``."""

from __future__ import annotations

from pathlib import Path

import click

from swarm_repro.printable import printable


@click.command("init")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="The project's folder.",
)
@click.option("--force", is_flag=True, help="Replace files that differ.")
def command(folder: Path, force: bool) -> None:
    """Write a scenario, git attributes and a CI workflow into a project.

    The workflow replays on each push, asks a live model every week, and puts what changed in the
    job's summary. Files that are there and differ are left alone.
    """
    from swarm_repro.project.init import GIT_CONFIG, init_project

    done = init_project(folder, force=force)
    for what, names in (
        ("written", done.written),
        ("extended", done.extended),
        ("unchanged", done.unchanged),
    ):
        for name in names:
            click.echo(f"{what:<9}  {name}")
    for note in done.notes:
        click.echo(f"note: {printable(note)}", err=True)
    click.echo(
        "\nNext:\n"
        "  swarm-repro model pull smollm2-135m\n"
        "  swarm-repro server start --model models/SmolLM2-135M-Instruct.Q4_1.gguf "
        "--profile cpu-strict\n"
        "  swarm-repro run scenarios/example.yaml --record\n"
        "  git add .gitattributes .gitignore .github scenarios cassettes\n"
        "and once in each clone, so that git shows cassettes and merges them:\n  "
        + "\n  ".join(GIT_CONFIG)
    )
