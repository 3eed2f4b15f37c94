"""``swarm-repro check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.check import Examination, check_cassette, repair, repaired_path
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.redact import redact
from swarm_repro.errors import CassetteDamagedError, ExitCode
from swarm_repro.printable import printable


@dataclass(frozen=True)
class _Checked:
    """What became of one file."""

    path: Path
    found: Examination | None
    damage: str | None = None
    repaired: Path | None = None
    secrets: Mapping[CallId, Counter[str]] = field(default_factory=dict)

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
            "secrets": [
                {"call": _name(self.found.whole.calls[call]), "kind": kind, "count": count}
                for call, kinds in self.secrets.items()
                for kind, count in sorted(kinds.items())
                if self.found is not None
            ],
        }


@click.command("check")
@click.argument("cassettes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--repair", "mend", is_flag=True, help="Write what is whole to x.repaired.jsonl.")
@click.option("--secrets", is_flag=True, help="Look for credentials; with --repair mask them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(cassettes: tuple[Path, ...], mend: bool, secrets: bool, as_json: bool) -> int:
    """Derive every checksum, digest, key and reference of CASSETTES again.

    Names each line that is wrong. What is whole of a damaged file can be written to a new one; the
    damaged one stays as it is. With --secrets a file is searched for credentials, as recordings
    have been since they mask them.
    """
    checked = [_check(path, mend=mend, secrets=secrets) for path in cassettes]
    if as_json:
        click.echo(encode_json({"cassettes": [one.to_json() for one in checked]}))
    else:
        for one in checked:
            _tell(one)
    if not all(one.is_whole for one in checked):
        return int(ExitCode.DAMAGED)
    return int(ExitCode.DIFFERENCE if any(one.secrets for one in checked) else ExitCode.OK)


def _check(path: Path, *, mend: bool, secrets: bool) -> _Checked:
    try:
        found = check_cassette(path)
        whole, held = redact(found.whole) if secrets else (found.whole, {})
        if not mend or (found.is_whole and not held):
            return _Checked(path, found, secrets=held)
        target = repaired_path(path)
        repair(replace(found, whole=whole), target)
    except CassetteDamagedError as error:
        return _Checked(path, None, damage=str(error))
    return _Checked(path, found, repaired=target, secrets=held)


def _name(call: CallRecord) -> str:
    return f"call {call.i} of {call.scope}"


def _tell(one: _Checked) -> None:
    if one.found is None:
        click.echo(printable(str(one.damage)))
        return
    name = printable(str(one.path))
    for finding in one.found.findings:
        place = name if finding.line is None else f"{name}:{finding.line}"
        click.echo(f"{place}: {printable(finding.record)}: {printable(finding.why)}")
    whole = one.found.whole
    for call_id, kinds in one.secrets.items():
        held = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        click.echo(f"{name}: {printable(_name(whole.calls[call_id]))}: holds credentials: {held}")
    counts = (
        f"{len(whole.calls)} calls, {len(whole.texts)} texts, {len(whole.models)} models, "
        f"{len(whole.envs)} environments, {len(whole.runs)} runs"
    )
    state = "whole" if one.is_whole else "damaged"
    if not one.is_whole:
        counts = f"calls lost: {one.found.lost}; whole: {counts}"
    if one.secrets:
        counts = f"calls with credentials: {len(one.secrets)}; {counts}"
    if one.repaired is not None:
        counts += f"; written to {printable(str(one.repaired))}"
    elif not one.is_whole or one.secrets:
        what = "mask them in" if one.is_whole else "write what is whole to"
        counts += f"; {what} a new file with --repair"
    click.echo(f"{name}: {state}: {counts}")
