"""``swarm-repro merge``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.header import FORMAT
from swarm_repro.cassette.merge import Conflict, merge_cassettes
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import ExitCode, UsageError
from swarm_repro.printable import printable

_PATH = click.Path(path_type=Path)


@click.command("merge")
@click.argument("out", type=_PATH)
@click.argument("cassettes", nargs=-1, required=True, type=_PATH)
@click.option("--base", type=_PATH, help="Their common ancestor; an empty file stands for none.")
@click.option("--force", is_flag=True, help="Replace OUT, although it is none of CASSETTES.")
@click.option("--upgrade", is_flag=True, help="Write the newest format, whichever they have.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    out: Path,
    cassettes: tuple[Path, ...],
    base: Path | None,
    force: bool,
    upgrade: bool,
    as_json: bool,
) -> int:
    """Join CASSETTES of one experiment, and write them to OUT.

    Calls that only one has are taken, of several that agree the first. What was answered in two
    ways is a conflict: all of them are named, and OUT stays as it is. With --base, what only one
    side changed or dropped since is no conflict.

    OUT may be one of CASSETTES. For git, which calls it where `.gitattributes` has `*.jsonl
    merge=swarm-repro`, after:
    git config merge.swarm-repro.driver "swarm-repro merge %A %A %B --base %O"
    """
    if out.exists() and not force and not any(_same_file(out, path) for path in cassettes):
        raise UsageError(
            f"{printable(str(out))} is there already and is not one of the cassettes to merge: "
            "name it among them, or replace it with --force"
        )
    sides = [read_cassette(path) for path in cassettes]
    merged, conflicts = merge_cassettes(sides, base=None if base is None else _ancestor(base))
    if upgrade:
        merged = replace(merged, header=replace(merged.header, format=FORMAT))
    if not conflicts:
        write_cassette(merged, out)
    if as_json:
        click.echo(encode_json(_report(out, merged, conflicts)))
    else:
        _tell(out, sides, merged, conflicts)
    return int(ExitCode.DIFFERENCE if conflicts else ExitCode.OK)


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and a.samefile(b)


def _ancestor(path: Path) -> Cassette | None:
    """What git gives as ancestor: an empty file where the two sides have none."""
    if path.is_file() and path.stat().st_size == 0:
        return None
    return read_cassette(path)


def _report(out: Path, merged: Cassette, conflicts: list[Conflict]) -> dict[str, object]:
    return {
        "out": str(out),
        "written": not conflicts,
        "calls": len(merged.calls),
        "runs": len(merged.runs),
        "conflicts": [{"what": one.what, "why": one.why} for one in conflicts],
    }


def _tell(out: Path, sides: list[Cassette], merged: Cassette, conflicts: list[Conflict]) -> None:
    name = printable(str(out))
    for conflict in conflicts:
        click.echo(f"conflict: {printable(conflict.what)}: {printable(conflict.why)}")
    if conflicts:
        click.echo(
            f"{name}: not written: {len(conflicts)} conflicts; take one side whole, or record anew"
        )
        return
    of = " and ".join(str(len(side.calls)) for side in sides)
    click.echo(f"{name}: {len(merged.calls)} calls of {of}, {len(merged.runs)} runs")
