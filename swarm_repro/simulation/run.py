"""One run, from plan to outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from swarm_repro import __version__
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.cassette.store import (
    CassetteStore,
    open_for_recording,
    open_for_replay,
)
from swarm_repro.completion import Completion
from swarm_repro.difference import differences
from swarm_repro.errors import (
    CassetteAccessError,
    DifferenceError,
    ExitCode,
    ReplayMiss,
    SessionTripped,
    UsageError,
)
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.opening import answer_cache, retry_waits_s
from swarm_repro.session import Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.outcome import (
    PROMPTING,
    Outcome,
    judge,
    judge_criteria,
    make_run_record,
    versions,
)
from swarm_repro.simulation.plan import Plan, RunOptions, make_plan
from swarm_repro.simulation.swarm import require_backends, simulate
from swarm_repro.weights import hash_file

OnCall = Callable[[PendingCall, Completion], None]


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
    retries: Sequence[float] = ()
    if plan.mode.calls_model:
        retries = retry_waits_s()
        require_backends(plan.scenario, on_wait, served=plan.served)
    store = _open_store(plan, discard=options.discard)
    if options.check_model is not None:
        _check_model(options.check_model, plan, store)
    hooks = SwarmHooks(event_log=plan.out.resolve() / artifacts.EVENTS, served=plan.served)
    recorded = recorded_run(plan, store)
    session = Session(
        mode=plan.mode,
        header=store.header if store and plan.mode is not Mode.LIVE else plan.header,
        store=store,
        run_seed=plan.seed,
        trips=True,
        position=hooks.position,
        version_notes=version_notes(plan, store),
        on_call=on_call,
        cache=answer_cache(wanted=options.cache or options.fresh),
        fresh=options.fresh,
        redact=options.redact,
        retry_waits_s=retries,
    )
    outcome = Outcome(plan=plan, exit_code=ExitCode.OK, session=session)
    outcome.notes += _seed_notes(options, plan)
    start = time.monotonic()
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        artifacts.clear(plan.out, plan.scenario.id)
        outcome.report = simulate(plan, session, hooks)
        fresh = make_run_record(plan, session, hooks, recorded)
        judge(outcome, store, recorded, fresh, update=options.update_artifacts)
        judge_criteria(outcome)
    except SessionTripped as stop:
        outcome.exit_code = stop.exit_code
        outcome.messages.append(str(stop))
    except OSError as error:
        raise UsageError(f"{plan.out} cannot be written: {error.strerror or error}") from error
    finally:
        session.close()
        outcome.duration_s = time.monotonic() - start
    outcome.notes += [*_weak_identities(session), *session.cache_notes()]
    if (
        outcome.exit_code is not ExitCode.OK
        and plan.mode.writes
        and store is not None
        and store.in_part
        and part_path(plan.cassette).exists()
    ):
        outcome.notes.append(
            f"{store.in_part} calls are kept in {part_path(plan.cassette)}; "
            "go on from them with --auto, or throw them away with --record --discard"
        )
    _write_session(outcome)
    return outcome


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
    store = open_recording(plan)
    asked = replace(plan.header, recorder=store.header.recorder, format=store.header.format)
    found = differences(store.header.to_json(), asked.to_json())
    if found:
        raise ReplayMiss(
            f"the scenario's repro settings are not those that {plan.cassette} was recorded with: "
            f"{found[0]}; record it anew with --record"
        )
    return store


def open_recording(plan: Plan) -> CassetteStore:
    """Open the cassette of a plan's scenario for replay.

    Raises:
        CassetteAccessError: Missing, unreadable, or another scenario's.
        CassetteDamagedError: Not the bytes that were written.
    """
    store = open_for_replay(plan.cassette)
    if store.header.scenario != plan.scenario.id:
        raise CassetteAccessError(
            f"{plan.cassette} belongs to scenario {store.header.scenario!r}, not "
            f"{plan.scenario.id!r}; name its own with --cassette"
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


def recorded_run(plan: Plan, store: CassetteStore | None) -> RunRecord | None:
    """The record of this run; of several with the same seed the one of the same length."""
    runs = [run for run in (store.runs() if store else ()) if run.seed == plan.seed]
    exact = [run for run in runs if (run.epochs, run.steps) == (plan.epochs, plan.steps)]
    return next(iter(exact or runs), None)


def version_notes(plan: Plan, store: CassetteStore | None) -> tuple[str, ...]:
    """What a miss says first: versions and seed that are not the recording's."""
    runs = store.runs() if store else []
    if not runs:
        return ()
    now, recorded = versions(), runs[0]
    notes = [
        f"{name} is {now.get(name, 'not installed')} here, the recording was made with {version}"
        for name, version in recorded.versions.items()
        if name in PROMPTING and now.get(name) != version
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
        "versions": versions(),
    }
    try:
        (plan.out / artifacts.SESSION).write_bytes(encode_json(report) + b"\n")
    except OSError as error:
        raise UsageError(f"{plan.out} cannot be written: {error.strerror or error}") from error
