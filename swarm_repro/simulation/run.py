"""Running unmodified SWARM under a session, and judging what came of it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from swarm_repro import __version__
from swarm_repro.backends.base import Backend
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.records import Header, RunRecord
from swarm_repro.cassette.store import (
    CassetteStore,
    Changes,
    open_for_recording,
    open_for_replay,
    part_path,
)
from swarm_repro.completion import Completion
from swarm_repro.difference import differences
from swarm_repro.errors import (
    CassetteAccessError,
    DifferenceError,
    ExitCode,
    ReplayMiss,
    ScenarioError,
    SessionTripped,
    SwarmReproError,
    UsageError,
)
from swarm_repro.intercept.http import intercept_http
from swarm_repro.intercept.llama_cpp import llama_cpp_module
from swarm_repro.intercept.network import refuse_network
from swarm_repro.ledger import PendingCall
from swarm_repro.serving.health import require_llama_server
from swarm_repro.serving.state import find_started_server
from swarm_repro.session import Mode, Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.entropy import Entropy
from swarm_repro.simulation.event_loop import in_place_event_loop
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.scenario import Scenario, load_scenario
from swarm_repro.simulation.taming import tamed
from swarm_repro.weights import hash_file, require_gguf

_PACKAGE = "swarm"
#: Distributions whose version can change the prompts.
_PROMPTING = ("swarm-safety", "openai")

OnCall = Callable[[PendingCall, Completion], None]


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for.

    Attributes:
        scenario: The scenario file.
        seed: Seed of the run; None takes the scenario's.
        mode: What to do with calls; None replays if there is a cassette.
        cassette: The cassette; None takes the scenario's, or the default path.
        out: Folder for artifacts; None makes a fresh one under ``runs/``.
        epochs: Number of epochs; None takes the scenario's.
        steps: Steps per epoch; None takes the scenario's.
        discard: Throw away an interrupted recording.
        update_artifacts: Accept artifacts that differ from the recorded ones.
        check_model: A GGUF file that must be one the cassette was recorded with.
    """

    scenario: Path
    seed: int | None = None
    mode: Mode | None = None
    cassette: Path | None = None
    out: Path | None = None
    epochs: int | None = None
    steps: int | None = None
    discard: bool = False
    update_artifacts: bool = False
    check_model: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A run that has been checked and can begin.

    Attributes:
        scenario: What is run.
        mode: What is done with calls.
        seed: Seed of the run.
        epochs: Number of epochs.
        steps: Steps per epoch.
        cassette: The cassette, which need not exist when it is recorded.
        out: Folder for artifacts.
    """

    scenario: Scenario
    mode: Mode
    seed: int
    epochs: int
    steps: int
    cassette: Path
    out: Path

    @property
    def header(self) -> Header:
        """Header of a cassette that this run records."""
        return Header(
            recorder=__version__,
            scenario=self.scenario.id,
            seed_policy=self.scenario.seed_policy,
            strict=self.scenario.strict,
            requests=self.scenario.requests,
        )


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


def make_plan(options: RunOptions) -> Plan:
    """Check the options against the scenario and the files that are there.

    Raises:
        ScenarioError: The scenario cannot be run.
        UsageError: No seed, a seed out of range, or no cassette to replay.
    """
    scenario = load_scenario(options.scenario)
    seed = options.seed if options.seed is not None else scenario.seed
    if seed is None:
        raise UsageError(f"scenario {scenario.path} sets no seed; give one with --seed")
    if not 0 <= seed < 2**32 - 1:
        raise UsageError(f"seed {seed} is out of range: use 0 to 4294967294")
    for name, count in (("--epochs", options.epochs), ("--steps", options.steps)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")
    cassette = (
        options.cassette
        or scenario.cassette
        or Path("cassettes") / f"{scenario.id}.seed{seed}.jsonl"
    )
    mode = options.mode
    if mode is None:
        if not cassette.exists():
            raise CassetteAccessError(
                f"there is no cassette at {cassette}; record one with: swarm-repro run "
                f"{scenario.path} --seed {seed} --record"
            )
        mode = Mode.REPLAY
    if options.update_artifacts and mode is not Mode.REPLAY:
        raise UsageError("--update-artifacts goes with --replay")
    if options.discard and not mode.writes:
        raise UsageError("--discard goes with --record or --auto")
    return Plan(
        scenario=scenario,
        mode=mode,
        seed=seed,
        epochs=options.epochs or scenario.epochs,
        steps=options.steps or scenario.steps,
        cassette=cassette,
        out=options.out or _fresh_folder(scenario.id, seed),
    )


def _fresh_folder(scenario_id: str, seed: int) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{scenario_id}.seed{seed}.{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{scenario_id}.seed{seed}.{stamp}.{number}")
    return folder


def run_scenario(
    options: RunOptions,
    *,
    plan: Plan | None = None,
    on_call: OnCall | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Outcome:
    """Run a scenario and judge it.

    Args:
        options: What the user asked for.
        plan: The plan made of it, if it was made already.
        on_call: Called after each model call.
        on_wait: Called with the seconds waited for a server that is loading.

    Raises:
        SwarmReproError: Bad input, a backend that is not there, a damaged cassette. What fails
            after the simulation has begun is in the outcome.
        ReplayMiss: The scenario's ``repro:`` settings are not those of the cassette.
    """
    plan = plan or make_plan(options)
    if plan.mode.calls_model:
        _require_backends(plan.scenario, on_wait)
    store = _open_store(plan, discard=options.discard)
    if options.check_model is not None:
        _check_model(options.check_model, plan, store)
    hooks = SwarmHooks(event_log=plan.out.resolve() / artifacts.EVENTS)
    recorded_run = _recorded_run(plan, store)
    session = Session(
        mode=plan.mode,
        header=store.header if store and plan.mode is not Mode.LIVE else plan.header,
        store=store,
        run_seed=plan.seed,
        trips=True,
        position=hooks.position,
        version_notes=_version_notes(plan, store),
        on_call=on_call,
    )
    outcome = Outcome(plan=plan, exit_code=ExitCode.OK, session=session)
    outcome.notes += _seed_notes(options, plan)
    start = time.monotonic()
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        artifacts.clear(plan.out, plan.scenario.id)
        outcome.report = _simulate(plan, session, hooks)
        fresh = _run_record(plan, session, hooks, recorded_run)
        _judge(outcome, store, recorded_run, fresh, update=options.update_artifacts)
        _judge_criteria(outcome)
    except SessionTripped as stop:
        outcome.exit_code = stop.exit_code
        outcome.messages.append(str(stop))
    except OSError as error:
        raise UsageError(f"{plan.out} cannot be written: {error.strerror or error}") from error
    finally:
        if store is not None:
            store.close()
        outcome.duration_s = time.monotonic() - start
    outcome.notes += _weak_identities(session)
    if (
        outcome.exit_code is not ExitCode.OK
        and plan.mode.writes
        and part_path(plan.cassette).exists()
    ):
        outcome.notes.append(
            f"{len(session.ledger.used)} calls are kept in {part_path(plan.cassette)}; "
            "go on from them with --auto, or throw them away with --record --discard"
        )
    _write_session(outcome)
    return outcome


def _require_backends(scenario: Scenario, on_wait: Callable[[float], None] | None) -> None:
    """Look for what will be called before anything is."""
    for block in scenario.llms:
        if block.model_path is not None:
            require_gguf(Path(block.model_path))
    for url in dict.fromkeys(block.base_url for block in scenario.llms if block.base_url):
        require_llama_server(url, on_wait=on_wait)


def _open_store(plan: Plan, *, discard: bool) -> CassetteStore | None:
    if plan.mode is Mode.LIVE:
        return None
    if plan.mode.writes:
        return open_for_recording(
            plan.cassette,
            plan.header,
            keep=plan.mode is Mode.AUTO,
            discard_part=discard,
            run_id=(plan.scenario.id, plan.seed, plan.epochs, plan.steps),
        )
    store = open_for_replay(plan.cassette)
    if store.header.scenario != plan.scenario.id:
        raise CassetteAccessError(
            f"{plan.cassette} belongs to scenario {store.header.scenario!r}, not "
            f"{plan.scenario.id!r}; name its own with --cassette"
        )
    asked = replace(plan.header, recorder=store.header.recorder)
    found = differences(store.header.to_json(), asked.to_json())
    if found:
        raise ReplayMiss(
            f"the scenario's repro settings are not those that {plan.cassette} was recorded with: "
            f"{found[0]}; record it anew with --record"
        )
    return store


def _check_model(path: Path, plan: Plan, store: CassetteStore | None) -> None:
    """Compare a model file that is there with those the cassette was recorded with.

    Raises:
        DifferenceError: It is none of them.
        ModelFileError: It is missing or not GGUF.
    """
    digest = hash_file(path)
    bindings = [store.binding(name) for name in store.model_names()] if store else []
    known = [binding.identity for binding in bindings if binding is not None]
    if known and not any(digest in str(identity.content.get("files")) for identity in known):
        raise DifferenceError(
            f"{path} has SHA-256 {digest}; {plan.cassette} was recorded with "
            + ", ".join(identity.label for identity in known)
        )


def _recorded_run(plan: Plan, store: CassetteStore | None) -> RunRecord | None:
    """The record of this run; of several with the same seed the one of the same length."""
    runs = [run for run in (store.runs() if store else ()) if run.seed == plan.seed]
    exact = [run for run in runs if (run.epochs, run.steps) == (plan.epochs, plan.steps)]
    return next(iter(exact or runs), None)


def _simulate(plan: Plan, session: Session, hooks: SwarmHooks) -> str:
    """Let SWARM run the scenario.

    Returns:
        What SWARM printed.

    Raises:
        SessionTripped: A miss or a failed call.
        ScenarioError: SWARM refused the scenario.
    """
    printed, complaints = io.StringIO(), io.StringIO()
    modules = {"llama_cpp": llama_cpp_module(session)}
    arguments = argparse.Namespace(
        scenario=str(plan.scenario.path),
        seed=plan.seed,
        epochs=plan.epochs,
        steps=plan.steps,
        export_json=str(plan.out.resolve() / artifacts.HISTORY),
        export_csv=str(plan.out.resolve()),
        export_dolt=None,
        prompt_audit=str(plan.out.resolve() / artifacts.PROMPTS),
        prompt_audit_include_system=True,
        quiet=False,
    )
    with contextlib.ExitStack() as stack:
        if not plan.mode.calls_model:
            stack.enter_context(refuse_network(session))
        stack.enter_context(intercept_http(session, _server))
        stack.enter_context(tamed([_PACKAGE], Entropy(plan.seed), modules=modules))
        swarm = _import_swarm()
        stack.enter_context(hooks.install(session))
        stack.enter_context(in_place_event_loop())
        stack.enter_context(_quiet_logging())
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(complaints))
        try:
            status = swarm.cmd_run(arguments)
        except SwarmReproError:
            raise
        except Exception as error:
            if session.tripped is not None:
                raise session.tripped from error
            raise ScenarioError(
                f"SWARM failed on {plan.scenario.path}: {type(error).__name__}: {error}"
            ) from error
    if session.tripped is not None:
        raise session.tripped
    if status != 0:
        raise ScenarioError(complaints.getvalue().strip().removeprefix("Error: "))
    return printed.getvalue()


def _import_swarm() -> Any:
    try:
        return importlib.import_module("swarm.__main__")
    except ImportError as error:
        raise UsageError(
            f"SWARM is not installed ({error}); run: pip install 'swarm-repro[swarm]'"
        ) from error


def _server(root: str) -> Backend:
    return LlamaServer(root, started=find_started_server)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """SWARM logs each call that raised; the ledger has them, with their causes."""
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run_record(
    plan: Plan, session: Session, hooks: SwarmHooks, recorded: RunRecord | None
) -> RunRecord:
    history = hooks.orchestrator.get_metrics_history()
    return RunRecord(
        scenario=plan.scenario.id,
        scenario_sha256=plan.scenario.sha256,
        seed=plan.seed,
        epochs=plan.epochs,
        steps=plan.steps,
        versions=_versions(),
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
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PROMPTING:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _version_notes(plan: Plan, store: CassetteStore | None) -> tuple[str, ...]:
    """What a miss says first: versions and seed that are not the recording's."""
    runs = store.runs() if store else []
    if not runs:
        return ()
    now, recorded = _versions(), runs[0]
    notes = [
        f"{name} is {now.get(name, 'not installed')} here, the recording was made with {version}"
        for name, version in recorded.versions.items()
        if name in _PROMPTING and now.get(name) != version
    ]
    if all(run.seed != plan.seed for run in runs):
        notes.append(f"this run has seed {plan.seed}, the recording has {recorded.seed}")
    return tuple(notes)


def _seed_notes(options: RunOptions, plan: Plan) -> list[str]:
    explicit = [block for block in plan.scenario.llms if block.seed is not None]
    if not explicit or options.seed is None:
        return []
    places = ", ".join(block.where for block in explicit)
    return [f"{places} sets its own seed, which does not follow --seed"]


def _weak_identities(session: Session) -> list[str]:
    """Models known only by properties that another file could share."""
    if not session.mode.calls_model:
        return []
    return [
        f"the file of model {binding.name} is not on this machine: it is known by a weak "
        "fingerprint (size, number of weights), not by its SHA-256"
        for binding in session.bindings
        if binding.identity.kind == "fingerprint"
    ]


def _judge(
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
        return
    expected = recorded.calls if recorded else frozenset(store.calls())
    missing = session.unplayed(expected)
    if missing:
        first = store.find(missing[0])
        where = f"call {first.i} of {first.scope}" if first else str(missing[0])
        if first is not None and first.at is not None:
            where += f" at epoch {first.at[0]}, step {first.at[1]}"
        outcome.messages.append(
            f"{len(missing)} of {len(expected)} recorded calls were not played, first {where}"
        )
        outcome.unplayed = len(missing)
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


def _judge_criteria(outcome: Outcome) -> None:
    """A failed success criterion of the scenario, which SWARM only prints, fails the run."""
    failed = [
        line.strip() for line in outcome.report.splitlines() if line.strip().startswith("[FAIL]")
    ]
    if failed and outcome.exit_code is ExitCode.OK:
        outcome.exit_code = ExitCode.DIFFERENCE
    outcome.messages += [f"success criterion {line}" for line in failed]


def _write_session(outcome: Outcome) -> None:
    """Write what differs from run to run by nature."""
    ledger, plan = outcome.session.ledger, outcome.plan
    report = {
        "recorder": __version__,
        "scenario": plan.scenario.id,
        "seed": plan.seed,
        "mode": plan.mode.value,
        "cassette": plan.cassette.name,
        "exit_code": int(outcome.exit_code),
        "hits": ledger.hits,
        "called": ledger.called,
        "misses": len(ledger.misses),
        "unplayed": outcome.unplayed,
        "failures": [str(failure) for failure in ledger.failures.values()],
        "messages": outcome.messages,
        "usage": {
            scope: {**counter, "cost_usd": 0.0} for scope, counter in sorted(ledger.usage.items())
        },
        "duration_s": round(outcome.duration_s, 3),
        "versions": _versions(),
    }
    try:
        (plan.out / artifacts.SESSION).write_bytes(encode_json(report) + b"\n")
    except OSError as error:
        raise UsageError(f"{plan.out} cannot be written: {error.strerror or error}") from error
