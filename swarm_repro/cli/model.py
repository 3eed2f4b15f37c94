"""``swarm-repro model``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.serving.models import KNOWN_MODELS
from swarm_repro.serving.pull import DEFAULT_FOLDER, fetch_model
from swarm_repro.weights import hash_file


@click.group("model")
def command() -> None:
    """Fetch and digest model files."""


@command.command("pull")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where the file goes.",
)
@click.option("--sha256", help="The digest it must have.")
@click.option("--url", help="Where to download it instead (also: SWARM_REPRO_MODEL_URL).")
def _pull(name: str, folder: Path, sha256: str | None, url: str | None) -> None:
    """Fetch the model NAME, or the .gguf file at the URL NAME, and check its digest.

    A download that was cut goes on where it ended.
    """
    with _bytes_display(name) as show:
        fetched = fetch_model(name, folder=folder, sha256=sha256, url=url, progress=show)
    click.echo(fetched.path)
    already = "was there already, " if fetched.was_there else ""
    click.echo(f"{already}SHA-256 {fetched.sha256} as {_vouched(fetched.digest_source)}", err=True)


def _vouched(source: str) -> str:
    return source if source.startswith(("given", "known")) else f"in {source}"


@command.command("hash")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _hash(file: Path, as_json: bool) -> None:
    """Print the SHA-256 of the GGUF FILE, the digest Hugging Face shows for it."""
    done_bytes = 0
    with _bytes_display(file.name) as show:

        def step(step_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += step_bytes
            show(done_bytes, file.stat().st_size)

        digest = hash_file(file, progress=step)
    if as_json:
        content = {"file": str(file), "sha256": digest, "size_bytes": file.stat().st_size}
        click.echo(encode_json(content))
    else:
        click.echo(f"{digest}  {file}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _list(as_json: bool) -> None:
    """List the models that `model pull` knows by name."""
    if as_json:
        content = [
            {
                "name": model.name,
                "description": model.description,
                "file_name": model.file_name,
                "size_bytes": model.size_bytes,
                "sha256": model.sha256,
            }
            for model in KNOWN_MODELS.values()
        ]
        click.echo(encode_json(content))
        return
    width = max(len(name) for name in KNOWN_MODELS)
    for model in KNOWN_MODELS.values():
        click.echo(f"{model.name:<{width}}  {model.description}")


@contextmanager
def _bytes_display(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show bytes as they come, with an estimate; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done_bytes, _total_bytes: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as display:
        task = display.add_task(title, total=None)
        yield lambda done_bytes, total_bytes: display.update(
            task, completed=done_bytes, total=total_bytes
        )
