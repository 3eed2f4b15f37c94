"""``swarm-repro summarize``."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from swarm_repro.errors import UsageError
from swarm_repro.printable import printable
from swarm_repro.project.summary import Named, summary


@click.command("summarize")
@click.argument("reports", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--since",
    metavar="REV",
    help="Also compare cassettes with what they were when this branch left the git revision REV.",
)
@click.option(
    "--cassettes",
    metavar="PATHSPEC",
    default="cassettes/*.jsonl",
    show_default=True,
    help="Which files --since compares.",
)
def command(reports: tuple[Path, ...], since: str | None, cassettes: str) -> None:
    """Write REPORTS, which commands printed with --json, as one Markdown page.

    For the summary of a CI job: outcomes of runs; for each changed cassette where it parted from
    what it was, which completions changed, and which metrics moved.
    """
    named = [_read(path) for path in reports]
    notes = []
    if since is not None:
        from swarm_repro.project.changes import changed_cassettes

        try:
            named += changed_cassettes(Path.cwd(), since=since, pathspec=cassettes)
        except UsageError as error:
            # The reports are to be seen all the same; a job is not failed by its summary.
            notes.append(f"Changed cassettes were not compared: {error}")
    click.echo(summary(named, notes=notes), nl=False)


def _read(path: Path) -> Named:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be read: {error.strerror}") from error
    if not data.strip():
        return Named(path.name, None, "The command printed no report; its log says why.")
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        return Named(path.name, None, "This is not a report.")
    return Named(path.name, content)
