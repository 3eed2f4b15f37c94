"""Why a call is not in a cassette: the nearest recording, and the field that differs."""

from __future__ import annotations

from collections.abc import Mapping

from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.store import CassetteStore
from swarm_repro.difference import Difference, differences, distance
from swarm_repro.request import OUTSIDE_KEY, Endpoint, Request, event_seed

_SHOWN = 3


def explain_unknown_model(name: str, store: CassetteStore) -> str:
    """A model name that the cassette has no record of."""
    known = ", ".join(repr(known) for known in store.model_names()) or "none"
    return (
        f"the cassette {store.path} knows no model {name!r} (it knows: {known}); "
        "record it with --record"
    )


def explain_miss(
    *,
    request: Request,
    seed: int | None,
    scope: str,
    i: int,
    n: int,
    asked: str,
    run_seed: int,
    store: CassetteStore,
    version_notes: tuple[str, ...],
) -> str:
    """Say which recorded call is nearest to one that was not found, and what differs.

    Args:
        request: The call as asked.
        seed: The seed it would go out with.
        scope: Who called.
        i: Ordinal in the scope.
        n: Repeat of the asked key.
        asked: Asked key.
        run_seed: Seed of this run.
        store: The cassette.
        version_notes: Versions that differ from the recording's.
    """
    lines = [f"call {i} of {scope} is not in {store.path}"]
    lines += [f"  {note}" for note in version_notes]
    same = store.find((scope, asked, n))
    if same is not None:
        lines.append(
            f"  the same request was recorded with seed {same.sent_seed}, now it goes out with "
            f"seed {seed}: {_seed_cause(same, run_seed)}"
        )
    elif not store.calls():
        lines.append("  the cassette holds no calls")
    else:
        nearest, found = _nearest(store, request, scope, i)
        lines.append(
            f"  nearest recorded call: {nearest.i} of {nearest.scope}"
            + (f" at epoch {nearest.at[0]}, step {nearest.at[1]}" if nearest.at else "")
        )
        lines += [f"    {difference}" for difference in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"    and {len(found) - _SHOWN} more")
        if not found:
            lines.append(_explain_equal_body(request, scope, nearest))
    lines.append("  record it anew with --record, or add what is missing with --auto")
    return "\n".join(lines)


def _seed_cause(recorded: CallRecord, run_seed: int) -> str:
    derived = event_seed(run_seed=run_seed, scope=recorded.scope, i=recorded.i)
    if recorded.asked_seed is None and recorded.sent_seed != derived:
        return f"the recording's run seed is not {run_seed}"
    return "it is another call of its scope"


def _nearest(
    store: CassetteStore, request: Request, scope: str, i: int
) -> tuple[CallRecord, list[Difference]]:
    """The recorded call at the same place; else the nearest of its scope, else of the file."""

    def closeness(call: CallRecord) -> tuple[bool, bool, bool]:
        in_scope = call.scope == scope
        return (call.endpoint == request.endpoint, in_scope and call.i == i, in_scope)

    # Gone through twice rather than kept: there may be a million.
    recorded = store.calls().values()
    closest = max(map(closeness, recorded))
    asked_body = _comparable(request.body, request.seed, request.endpoint)
    best: tuple[float, CallRecord, list[Difference]] | None = None
    for call in (call for call in recorded if closeness(call) == closest):
        body = _comparable(store.body_of(call), call.asked_seed, call.endpoint)
        found = differences(body, asked_body)
        far = distance(found)
        if best is None or far < best[0]:
            best = (far, call, found)
    if best is None:
        raise ValueError("no recorded calls to compare with")
    return best[1], best[2]


def _explain_equal_body(request: Request, scope: str, nearest: CallRecord) -> str:
    if request.path != nearest.path:
        return f"    path: recorded {nearest.path}, asked {request.path}"
    if nearest.asked == request.asked_key and nearest.scope != scope:
        return f"    it is the same request, recorded in the scope {nearest.scope}, not in {scope}"
    if nearest.asked == request.asked_key:
        return "    it is the same request, and was asked more often than it was recorded"
    return "    the body is the same: the model, its template or its defaults differ"


def _comparable(
    body: Mapping[str, object], asked_seed: int | None, endpoint: Endpoint
) -> dict[str, object]:
    """What of a body is in the key; a derived seed follows from the place of the call."""
    if endpoint == "opaque":
        return dict(body)
    shown = {name: value for name, value in body.items() if name not in OUTSIDE_KEY}
    return shown if asked_seed is None else {**shown, "seed": asked_seed}
