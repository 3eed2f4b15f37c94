"""``swarm-repro export``."""

from __future__ import annotations

from pathlib import Path

import click

from swarm_repro.errors import UsageError
from swarm_repro.printable import printable


@click.command("export")
@click.argument("cassette", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["inspect"]),
    default="inspect",
    show_default=True,
    help="Which tool the file is for.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write; logs/<name of the cassette>.eval if not given.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(cassette: Path, form: str, out: Path | None, force: bool) -> None:
    """Write a CASSETTE as an Inspect log.

    Each agent is a sample, each of its calls a model event, each run an epoch. `inspect view` finds
    the log in logs/ by itself. Needs the extra `inspect`.
    """
    del form
    if out is None:
        out = Path("logs") / f"{cassette.name.removesuffix('.jsonl')}.eval"
    if out.suffix != ".eval":
        raise UsageError(f"{printable(str(out))} does not end in .eval, which Inspect goes by")
    if out.is_dir():
        raise UsageError(f"{printable(str(out))} is a folder; name a file in it")
    if out.exists() and not force:
        raise UsageError(f"{printable(str(out))} is there already; replace it with --force")
    try:
        from swarm_repro.export.inspect_log import write_inspect_log
    except ImportError as error:
        if not (error.name or "").startswith("inspect_ai"):
            raise
        raise UsageError(
            f"an Inspect log needs inspect-ai ({error}); install it with: "
            "pip install 'swarm-repro[inspect]'"
        ) from error
    log = write_inspect_log(cassette, out)
    agents = len(log.samples or ())
    click.echo(f"{printable(str(out))}: {agents} agents of {printable(cassette.name)}")
    click.echo(f"look at it with: inspect view --log-dir {printable(str(out.parent))}")
