"""``swarm-repro cache``."""

from __future__ import annotations

import click

from swarm_repro.cache import AnswerCache
from swarm_repro.canonical import encode_json
from swarm_repro.errors import ExitCode


@click.group("cache")
def command() -> None:
    """Look after the machine-wide cache of answers, which --cache uses."""


@command.command("stats")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _stats(as_json: bool) -> None:
    """Say where it is, and how much is in it."""
    cache = AnswerCache()
    try:
        found = cache.stats()
    finally:
        cache.close()
    if as_json:
        document = {
            "folder": str(found.folder),
            "answers": found.answers,
            "bytes": found.size,
            "limit": found.limit,
        }
        click.echo(encode_json(document))
        return
    size, limit = found.size / 2**20, found.limit / 2**20
    click.echo(f"{found.folder}: {found.answers} answers, {size:.1f} of {limit:.0f} MiB")


@command.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _check(as_json: bool) -> int:
    """Look at every answer, and remove those that are not what was written."""
    cache = AnswerCache()
    try:
        whole, removed = cache.check()
    finally:
        cache.close()
    if as_json:
        click.echo(encode_json({"whole": whole, "removed": removed}))
    else:
        click.echo(f"{cache.folder}: {whole} answers are whole, {removed} were not and are removed")
    return ExitCode.DAMAGED if removed else ExitCode.OK


@command.command("clear")
def _clear() -> None:
    """Remove all of it."""
    cache = AnswerCache()
    cache.clear()
    click.echo(f"{cache.folder} is removed")
