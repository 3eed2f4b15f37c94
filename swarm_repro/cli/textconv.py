"""``swarm-repro textconv``."""

from __future__ import annotations

from pathlib import Path

import click

from swarm_repro.errors import CassetteDamagedError, UsageError
from swarm_repro.printable import printable


@click.command("textconv")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Show a cassette FILE as text for `git diff`.

    For git, which calls it where `.gitattributes` has `*.jsonl diff=swarm-repro`, after:
    git config diff.swarm-repro.textconv "swarm-repro textconv"
    """
    from swarm_repro.cassette.archive import MAGIC, unpacked
    from swarm_repro.project.textconv import cassette_text, is_cassette

    try:
        data = file.read_bytes()
        if data.startswith(MAGIC):  # git may call it by another name
            data = unpacked(file).read_bytes()
    except CassetteDamagedError as error:
        click.echo(f"damaged: {printable(error.why)}")
        return
    except OSError as error:
        raise UsageError(f"{printable(str(file))} cannot be read: {error.strerror}") from error
    # What is no cassette is git's to show, as it is.
    if not is_cassette(data):
        click.echo(data, nl=False)
        return
    for line in cassette_text(data):
        click.echo(line.encode("utf-8"))
