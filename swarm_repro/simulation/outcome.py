"""What came of a run, judged against what was recorded."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from swarm_repro.cassette.changes import Changes
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.cassette.store import CassetteStore
from swarm_repro.errors import ExitCode
from swarm_repro.mode import Mode
from swarm_repro.opening import describe_masked
from swarm_repro.session import Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.plan import Plan

#: Distributions whose version can change the prompts.
PROMPTING = ("swarm-safety", "openai")


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        plan: The run.
        exit_code: For the shell.
        session: The session, with its ledger.
        messages: What went wrong or differs, one entry each.
        notes: What the user may want to know.
        changes: What a recording did to the cassette.
        verdict: How the artifacts compare with the recorded ones, where they were compared.
        report: What SWARM printed.
        duration_s: Wall-clock duration.
        unplayed: Recorded calls that the run did not ask for.
    """

    plan: Plan
    exit_code: ExitCode
    session: Session
    messages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: Changes | None = None
    verdict: artifacts.ArtifactVerdict | None = None
    report: str = ""
    duration_s: float = 0.0
    unplayed: int = 0


def make_run_record(
    plan: Plan, session: Session, hooks: SwarmHooks, recorded: RunRecord | None
) -> RunRecord:
    """Describe a run that has ended.

    Args:
        plan: The run.
        session: Its session.
        hooks: They hold SWARM's orchestrator.
        recorded: The recorded run, whose artifacts need not be digested again where they are equal.
    """
    history = hooks.orchestrator.get_metrics_history()
    return RunRecord(
        scenario=plan.scenario.id,
        scenario_sha256=plan.scenario.sha256,
        seed=plan.seed,
        epochs=plan.epochs,
        steps=plan.steps,
        versions=versions(),
        calls=frozenset(session.ledger.used),
        artifacts=artifacts.digest_artifacts(
            plan.out, plan.scenario.id, known=recorded.artifacts if recorded else {}
        ),
        metrics=tuple(_plain(epoch.to_dict()) for epoch in history),
    )


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, for JSON."""
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    item = getattr(value, "item", None)
    number = item() if callable(item) else value
    # JSON has no NaN and no infinities; a metric that is one is shown as text.
    return repr(number) if isinstance(number, float) and not math.isfinite(number) else number


@lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that can change prompts."""
    found = {"python": platform.python_version()}
    for name in PROMPTING:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def judge(
    outcome: Outcome,
    store: CassetteStore | None,
    recorded: RunRecord | None,
    fresh: RunRecord,
    *,
    update: bool,
) -> None:
    """Finish the cassette, or compare with it, and find the exit code."""
    session, plan = outcome.session, outcome.plan
    outcome.exit_code = session.exit_code()
    outcome.messages += [str(failure) for failure in session.ledger.failures.values()]
    outcome.messages += session.ledger.differences
    if store is None or outcome.exit_code is ExitCode.BACKEND:
        return
    if plan.mode.writes:
        outcome.changes = store.finish(
            used=session.ledger.used, run=fresh, keep=plan.mode is Mode.AUTO
        )
        masked = describe_masked(session)
        if masked is not None:
            outcome.notes.append(masked)
        return
    expected = recorded.calls if recorded else store.ids()
    missing, first = session.unplayed(expected)
    if first is not None:
        where = f"call {first.i} of {first.scope}"
        if first.at is not None:
            where += f" at epoch {first.at[0]}, step {first.at[1]}"
        outcome.messages.append(
            f"{missing} of {len(expected)} recorded calls were not played, first {where}"
        )
        outcome.unplayed = missing
        outcome.exit_code = ExitCode.MISS
        return
    if recorded is None or recorded.id != fresh.id:
        outcome.notes.append("the cassette has no artifacts of this run to compare with")
        return
    outcome.verdict = artifacts.judge(recorded, fresh)
    if outcome.verdict.rounded:
        outcome.notes.append(
            "recorded under another Python; the same to 12 significant digits: "
            + ", ".join(outcome.verdict.rounded)
        )
    if outcome.verdict.identical:
        return
    if update:
        store.replace_run(fresh)
        outcome.notes.append(f"accepted the new artifacts into {plan.cassette}")
        return
    outcome.exit_code = outcome.exit_code or ExitCode.DIFFERENCE
    outcome.messages += [f"{name} is not what was recorded" for name in outcome.verdict.differing]
    outcome.messages += list(outcome.verdict.metrics)


def judge_criteria(outcome: Outcome) -> None:
    """A failed success criterion of the scenario, which SWARM only prints, fails the run."""
    failed = [
        line.strip() for line in outcome.report.splitlines() if line.strip().startswith("[FAIL]")
    ]
    if failed and outcome.exit_code is ExitCode.OK:
        outcome.exit_code = ExitCode.DIFFERENCE
    outcome.messages += [f"success criterion {line}" for line in failed]
