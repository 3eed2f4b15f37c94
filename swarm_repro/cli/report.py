"""What a run prints at its end."""

from __future__ import annotations

import click

from swarm_repro.canonical import encode_json
from swarm_repro.compare.verify_report import VerifyReport, text_lines
from swarm_repro.compare.verify_run import verify_report
from swarm_repro.simulation.outcome import Outcome


def finish(outcome: Outcome, *, as_json: bool, kept: bool = True) -> int:
    """Print a run's outcome.

    Args:
        outcome: The run.
        as_json: One JSON object on stdout instead of text.
        kept: Whether its artifacts stay where they are.

    Returns:
        The exit code.
    """
    verified = _verified(outcome)
    if as_json:
        click.echo(encode_json(_as_json(outcome, verified)))
        return int(outcome.exit_code)
    if outcome.report:
        click.echo(outcome.report.rstrip())
        click.echo()
    for line in _summary(outcome):
        click.echo(line)
    if verified is not None:
        for line in text_lines(verified):
            click.echo(line)
    if kept and outcome.session.ledger.used:
        click.echo(f"artifacts in {outcome.plan.out}")
    for note in outcome.notes:
        click.echo(f"note: {note}", err=True)
    told = outcome.session.ledger.differences if verified is not None else []
    for message in outcome.messages:
        if message not in told:
            click.echo(f"error: {message}", err=True)
    return int(outcome.exit_code)


def _verified(outcome: Outcome) -> VerifyReport | None:
    """What came of asking again, where all that was asked is in the cassette."""
    ledger, store = outcome.session.ledger, outcome.session.store
    if not ledger.verified or store is None or ledger.called > len(ledger.verified):
        return None
    return verify_report(ledger.verified, store)


def _summary(outcome: Outcome) -> list[str]:
    plan, ledger = outcome.plan, outcome.session.ledger
    counts = f"{ledger.hits} calls from the cassette, {ledger.called} from the model"
    lines = [f"{plan.mode.value}: {counts} in {outcome.duration_s:.1f} s"]
    changes = outcome.changes
    if changes is not None:
        lines.append(
            f"cassette {plan.cassette}: {len(changes.unchanged)} calls unchanged, "
            f"{len(changes.replaced)} replaced, {len(changes.added)} added, "
            f"{len(changes.dropped)} dropped"
        )
    if outcome.verdict is not None and outcome.verdict.identical:
        lines.append("artifacts identical")
    return lines


def _as_json(outcome: Outcome, verified: VerifyReport | None) -> dict[str, object]:
    plan, ledger, verdict = outcome.plan, outcome.session.ledger, outcome.verdict
    changes = outcome.changes
    return {
        "scenario": plan.scenario.id,
        "seed": plan.seed,
        "mode": plan.mode.value,
        "exit_code": int(outcome.exit_code),
        "cassette": str(plan.cassette),
        "out": str(plan.out),
        "hits": ledger.hits,
        "called": ledger.called,
        "usage": {scope: dict(counter) for scope, counter in sorted(ledger.usage.items())},
        "changes": None
        if changes is None
        else {
            "unchanged": len(changes.unchanged),
            "replaced": len(changes.replaced),
            "added": len(changes.added),
            "dropped": len(changes.dropped),
        },
        "artifacts": None
        if verdict is None
        else {
            "identical": verdict.identical,
            "differing": list(verdict.differing),
            "rounded": list(verdict.rounded),
            "metrics": list(verdict.metrics),
        },
        "verify": None if verified is None else verified.to_json(),
        "messages": outcome.messages,
        "notes": outcome.notes,
        "duration_s": outcome.duration_s,
    }
