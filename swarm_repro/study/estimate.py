"""How long a study takes to record: from what was recorded before, or from steps that are tried."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swarm_repro.cassette.store import open_recorded
from swarm_repro.completion import Completion
from swarm_repro.errors import BackendError, ExitCode
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.simulation.plan import Plan, RunOptions, make_plan
from swarm_repro.simulation.run import run_scenario
from swarm_repro.study.file import Run, Study
from swarm_repro.study.recordings import recording_of
from swarm_repro.study.worker import Task, end_own, served_by

#: Recordings of a scenario that are looked at.
_MOST = 8


@dataclass(frozen=True)
class Estimate:
    """How long a study takes to record.

    Attributes:
        model_s: Seconds of a model, for all runs together.
        tried: Whether steps were tried for it; else it follows from recordings.
    """

    model_s: float
    tried: bool


def estimate(study: Study, *, probe: bool) -> Estimate | None:
    """Say how long a study takes to record.

    Recordings of the study count, else those of its scenarios where ``run`` puts them, else one
    step of the scenario, which is recorded nowhere. A scenario of which nothing is known counts as
    the others do.

    Args:
        study: The study.
        probe: Whether to try a step of each scenario that was not recorded.

    Returns:
        None if nothing is known.

    Raises:
        SwarmReproError: A step cannot be tried.
    """
    step_s: dict[str, float] = {}
    tried = False
    by_scenario: dict[str, list[Run]] = {}
    for run in study.runs:
        by_scenario.setdefault(run.scenario, []).append(run)
    for scenario, runs in by_scenario.items():
        recorded = _recorded_step_s(_recordings(study, runs))
        if recorded is None and probe:
            recorded, tried = _tried_step_s(study, runs[0]), True
        if recorded is not None:
            step_s[scenario] = recorded
    if not step_s:
        return None
    usual = sum(step_s.values()) / len(step_s)
    steps: dict[str, int] = {}
    total = 0.0
    for run in study.runs:
        if run.group not in steps:
            plan = _plan_of(study, run)
            steps[run.group] = plan.epochs * plan.steps
        total += steps[run.group] * step_s.get(run.scenario, usual)
    return Estimate(total, tried)


def _recordings(study: Study, runs: Iterable[Run]) -> list[Path]:
    """Cassettes that say how long a scenario takes."""
    own = dict.fromkeys(filter(None, (recording_of(study, run) for run in runs)))
    beside = (Path("cassettes") / f"{run.scenario}.seed{run.seed}.jsonl" for run in runs)
    return [*own, *(path for path in dict.fromkeys(beside) if path.is_file() and not own)][:_MOST]


def _recorded_step_s(paths: Iterable[Path]) -> float | None:
    """Seconds of a model that a step took; None where no run is recorded."""
    took, steps = 0.0, 0
    for path in paths:
        cassette = open_recorded(path)
        took += sum(call.duration_s for call in cassette.calls.values())
        steps += sum(run.epochs * run.steps for run in cassette.runs)
    return took / steps if steps else None


def _tried_step_s(study: Study, run: Run) -> float:
    """Seconds of a model that a step takes now.

    Raises:
        SwarmReproError: The model is not there, or does not answer.
    """
    took: list[float] = []

    def on_call(_call: PendingCall, completion: Completion) -> None:
        took.append(completion.duration_s)

    with tempfile.TemporaryDirectory(prefix="swarm-repro-") as folder:
        scenario = Path(folder) / f"{run.scenario}.yaml"
        scenario.write_text(run.document, encoding="utf-8")
        task = Task(replace(study, runs=()), run, Mode.LIVE, Path(folder), 1)
        with _own_server_ended():
            outcome = run_scenario(
                RunOptions(
                    scenario=scenario,
                    seed=run.seed,
                    mode=Mode.LIVE,
                    out=Path(folder) / "artifacts",
                    epochs=1,
                    steps=1,
                    served=served_by(run, task),
                ),
                on_call=on_call,
            )
    if outcome.exit_code not in (ExitCode.OK, ExitCode.DIFFERENCE):
        raise BackendError(f"a step of {run.scenario} failed: {'; '.join(outcome.messages)}")
    return sum(took)


@contextlib.contextmanager
def _own_server_ended() -> Iterator[None]:
    """End this process's own server with the block, also where the process is told to end."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        end_own()
        signal.signal(signal.SIGTERM, before)


def _plan_of(study: Study, run: Run) -> Plan:
    with tempfile.TemporaryDirectory(prefix="swarm-repro-") as folder:
        scenario = Path(folder) / f"{run.scenario}.yaml"
        scenario.write_text(run.document, encoding="utf-8")
        return make_plan(
            RunOptions(
                scenario=scenario,
                seed=run.seed,
                mode=Mode.LIVE,
                epochs=study.epochs,
                steps=study.steps,
            )
        )
