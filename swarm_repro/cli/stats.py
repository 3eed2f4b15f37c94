"""``swarm-repro stats``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.printable import printable


@dataclass
class _Sum:
    """Counts over some calls."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_s: float = 0.0

    def add(self, call: CallRecord) -> None:
        self.calls += 1
        self.prompt_tokens += call.tokens.get("prompt") or 0
        self.completion_tokens += call.tokens.get("completion") or 0
        self.duration_s += call.duration_s

    def to_json(self) -> dict[str, object]:
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "duration_s": round(self.duration_s, 3),
        }


@click.command("stats")
@click.argument("cassette", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(cassette: Path, as_json: bool) -> None:
    """Count a CASSETTE's calls, tokens and seconds by agent, model and environment."""
    found = read_cassette(cassette)
    total = _Sum()
    groups: dict[str, defaultdict[str, _Sum]] = {
        name: defaultdict(_Sum) for name in ("agent", "kind", "model", "environment")
    }
    for call in found.calls.values():
        total.add(call)
        groups["agent"][call.scope].add(call)
        groups["kind"][call.kind or "-"].add(call)
        groups["model"][call.model].add(call)
        groups["environment"][call.env].add(call)
    if as_json:
        click.echo(
            encode_json(
                {
                    "total": total.to_json(),
                    **{
                        name: {label: part.to_json() for label, part in sorted(group.items())}
                        for name, group in groups.items()
                    },
                    "models": [model.to_json() for model in found.models.values()],
                    "environments": {
                        sha256: dict(env.content) for sha256, env in found.envs.items()
                    },
                    "runs": [
                        {"scenario": run.scenario, "seed": run.seed, "calls": len(run.calls)}
                        for run in found.runs
                    ],
                    "witnesses": {env: len(ids) for env, ids in found.witnesses.items()},
                }
            )
        )
        return
    columns = f"{'calls':>6} {'prompt':>9} {'completion':>11} {'seconds':>9}"
    for name, group in groups.items():
        click.echo(f"{name:<28} {columns}")
        for label, part in sorted(group.items()):
            click.echo(f"  {printable(label)[:26]:<26} {_row(part)}")
    click.echo(f"{'total':<28} {_row(total)}")
    for sha256, environment in found.envs.items():
        content = environment.content
        shown = [content.get(name) for name in ("backend", "build", "cpu", "machine")]
        click.echo(f"environment {sha256[:12]}: {', '.join(str(part) for part in shown if part)}")
    for run in found.runs:
        click.echo(f"run of {run.scenario}, seed {run.seed}: {len(run.calls)} calls")


def _row(part: _Sum) -> str:
    return (
        f"{part.calls:>6} {part.prompt_tokens:>9} {part.completion_tokens:>11} "
        f"{part.duration_s:>9.1f}"
    )
