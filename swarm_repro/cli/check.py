"""``swarm-repro check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.check import Examination, check_cassette, repair, repaired_path
from swarm_repro.errors import CassetteDamagedError, ExitCode
from swarm_repro.printable import printable


@dataclass(frozen=True)
class _Checked:
    """What became of one file."""

    path: Path
    found: Examination | None
    damage: str | None = None
    repaired: Path | None = None

    @property
    def is_whole(self) -> bool:
        return self.found is not None and self.found.is_whole

    def to_json(self) -> dict[str, object]:
        findings = self.found.findings if self.found else ()
        return {
            "cassette": str(self.path),
            "whole": self.is_whole,
            "calls": len(self.found.whole.calls) if self.found else 0,
            "lost": self.found.lost if self.found else None,
            "findings": [
                {"line": one.line, "record": one.record, "why": one.why} for one in findings
            ],
            "damage": self.damage,
            "repaired": None if self.repaired is None else str(self.repaired),
        }


@click.command("check")
@click.argument("cassettes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repair", "mend", is_flag=True, help="Write what is whole to x.repaired.jsonl.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(cassettes: tuple[Path, ...], mend: bool, as_json: bool) -> int:
    """Derive every checksum, digest, key and reference of CASSETTES again.

    Names each line that is wrong. What is whole of a damaged file can be written to a new one; the
    damaged one stays as it is.
    """
    checked = [_check(path, mend=mend) for path in cassettes]
    if as_json:
        click.echo(encode_json({"cassettes": [one.to_json() for one in checked]}))
    else:
        for one in checked:
            _tell(one)
    return int(ExitCode.OK if all(one.is_whole for one in checked) else ExitCode.DAMAGED)


def _check(path: Path, *, mend: bool) -> _Checked:
    try:
        found = check_cassette(path)
        if found.is_whole or not mend:
            return _Checked(path, found)
        target = repaired_path(path)
        repair(found, target)
    except CassetteDamagedError as error:
        return _Checked(path, None, damage=str(error))
    return _Checked(path, found, repaired=target)


def _tell(one: _Checked) -> None:
    if one.found is None:
        click.echo(printable(str(one.damage)))
        return
    name = printable(str(one.path))
    for finding in one.found.findings:
        place = name if finding.line is None else f"{name}:{finding.line}"
        click.echo(f"{place}: {printable(finding.record)}: {printable(finding.why)}")
    whole = one.found.whole
    counts = (
        f"{len(whole.calls)} calls, {len(whole.texts)} texts, {len(whole.models)} models, "
        f"{len(whole.envs)} environments, {len(whole.runs)} runs"
    )
    if one.is_whole:
        click.echo(f"{name}: whole: {counts}")
        return
    lost = f"calls lost: {one.found.lost}; whole: {counts}"
    if one.repaired is None:
        click.echo(f"{name}: damaged: {lost}; write them to a new file with --repair")
    else:
        click.echo(f"{name}: damaged: {lost}; written to {printable(str(one.repaired))}")
