"""``run --survey``: how much of a cassette an upgrade made stale, before anything is recorded.

The run goes on despite drift: a call gets the answer that was recorded at its place, by scope and
ordinal, whatever it asks now. So the simulation takes the recorded way, and every prompt difference
is one that the upgrade made, not one that followed from another answer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swarm_repro import __version__
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.store import CassetteStore
from swarm_repro.compare.causes import ABSENT, Cause, Edit, settings_causes, text_edits
from swarm_repro.completion import Completion
from swarm_repro.errors import ExitCode
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.plan import Plan, RunOptions, make_plan
from swarm_repro.simulation.run import open_recording, recorded_run, version_notes
from swarm_repro.simulation.swarm import simulate

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Drift:
    """A call that is not the recorded one.

    Attributes:
        asked: As it is asked now.
        recorded: The call that was recorded at its place, or None.
    """

    asked: CallRecord
    recorded: CallRecord | None


@dataclass(frozen=True)
class Group:
    """Calls that differ from the recording in the same way.

    Attributes:
        cause: What differs, as the first of them shows it.
        first: The first of them.
        scopes: Whose calls they are.
        calls: How many.
    """

    cause: Cause
    first: CallRecord
    scopes: tuple[str, ...]
    calls: int

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        at = self.first.at
        return {
            **self.cause._asdict(),
            "calls": self.calls,
            "scopes": list(self.scopes),
            "first": {
                "scope": self.first.scope,
                "i": self.first.i,
                "at": None if at is None else list(at),
            },
        }


@dataclass(frozen=True)
class Survey:
    """What a survey found.

    Attributes:
        plan: The run.
        versions: Versions that differ from the recording's, a line each.
        same: Calls that would be replayed as they are.
        drifts: Calls that would not, in order.
        unplayed: Recorded calls that were not asked for.
        following: Recorded calls from the first drift on, and the seconds they took: what may have
            to be recorded anew, since other answers lead to other prompts.
        groups: The drifts by what differs, the largest group first.
    """

    plan: Plan
    versions: tuple[str, ...]
    same: int
    drifts: tuple[Drift, ...]
    unplayed: int
    following: tuple[int, float]
    groups: tuple[Group, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Whether a replay would succeed."""
        return ExitCode.MISS if self.drifts or self.unplayed else ExitCode.OK

    @property
    def seconds(self) -> float:
        """How long the drifted calls take at the recorded speed."""
        known = [drift.recorded.duration_s for drift in self.drifts if drift.recorded]
        mean = sum(known) / len(known) if known else 0.0
        return sum(known) + mean * (len(self.drifts) - len(known))

    def to_json(self) -> dict[str, object]:
        """The report. Source: docs/reference/schemas/survey.schema.json."""
        unrecorded = sum(drift.recorded is None for drift in self.drifts)
        return {
            "report": "survey",
            "version": 1,
            "recorder": __version__,
            "verdict": self._verdict(),
            "cassette": self.plan.cassette.name,
            "scenario": self.plan.scenario.id,
            "versions": list(self.versions),
            "counts": {
                "same": self.same,
                "changed": len(self.drifts) - unrecorded,
                "unrecorded": unrecorded,
                "unplayed": self.unplayed,
            },
            "record_anew": {
                "calls": len(self.drifts),
                "seconds": round(self.seconds, 1),
                "at_most_calls": max(self.following[0], len(self.drifts)),
                "at_most_seconds": round(max(self.following[1], self.seconds), 1),
            },
            "groups": [group.to_json() for group in self.groups],
        }

    def _verdict(self) -> str:
        total = self.same + len(self.drifts)
        if self.exit_code is ExitCode.OK:
            return f"nothing is stale: all {total} calls ask what was recorded"
        if not self.drifts:
            return f"{self.unplayed} recorded calls are not asked for any more"
        first = self.groups[0].cause
        return f"{len(self.drifts)} of {total} calls are stale, most by {first.field}"


def survey(
    options: RunOptions, *, on_call: Callable[[PendingCall, Completion], None] | None = None
) -> Survey:
    """Replay a run by scope and ordinal, and list what it asks otherwise than the recording.

    Nothing is called and nothing is written.

    Args:
        options: What the user asked for; the mode is replay.
        on_call: Called after each call, for progress.

    Raises:
        SwarmReproError: Bad input, or a damaged cassette.
        ReplayMiss: A call that nothing recorded can stand in for.
    """
    plan = make_plan(replace(options, mode=Mode.REPLAY))
    store = open_recording(plan)
    with tempfile.TemporaryDirectory(prefix="swarm-repro-survey-") as folder:
        plan = replace(plan, out=Path(folder))
        hooks = SwarmHooks(event_log=plan.out / artifacts.EVENTS, served=plan.served)
        run = recorded_run(plan, store)
        expected = [call for call in store.calls().values() if run is None or call.id in run.calls]
        seed = next((known.seed for known in ([run] if run else store.runs())), None)
        session = _SurveySession(plan, store, expected, hooks, on_call, recorded_seed=seed)
        simulate(plan, session, hooks)
    return Survey(
        plan=plan,
        versions=version_notes(plan, store),
        same=session.ledger.hits - len(session.drifts),
        drifts=tuple(session.drifts),
        unplayed=len(session.places.keys() - session.asked),
        following=_following(session),
        groups=tuple(_group(session)),
    )


class _SurveySession(Session):
    """Answers by place, and notes what was asked otherwise."""

    def __init__(
        self,
        plan: Plan,
        store: CassetteStore,
        expected: list[CallRecord],
        hooks: SwarmHooks,
        on_call: Callable[[PendingCall, Completion], None] | None,
        *,
        recorded_seed: int | None,
    ) -> None:
        super().__init__(
            mode=Mode.REPLAY,
            header=plan.header,
            store=store,
            run_seed=plan.seed,
            trips=True,
            position=hooks.position,
            on_call=on_call,
        )
        self._recorded = store.base.header if store.base is not None else None
        self._recorded_seed = recorded_seed
        self.places = {(call.scope, call.i): call for call in expected}
        self.ordered = expected
        self.drifts: list[Drift] = []
        self.asked: set[tuple[str, int]] = set()

    @property
    def seed_causes(self) -> list[Cause]:
        """Why derived seeds differ; that they do is no cause itself."""
        if self._recorded is None:
            return []
        policies = (self._recorded.seed_policy, self.header.seed_policy)
        if policies[0] != policies[1]:
            return [Cause("seed policy", *policies)]
        if self._recorded_seed is not None and self._recorded_seed != self.run_seed:
            return [Cause("run seed", str(self._recorded_seed), str(self.run_seed))]
        return []

    def look_up(self, call: PendingCall) -> None:
        place = (call.caller.scope, call.i)
        self.asked.add(place)
        recorded = self.places.get(place)
        source = recorded or self._stand_in(call)
        self.serve(call, source)
        if recorded is None or recorded.sent != call.sent_key:
            self.drifts.append(Drift(_as_record(call, source), recorded))

    def _stand_in(self, call: PendingCall) -> CallRecord:
        """Another answer of the same agent, or kind of call, so that the survey goes on."""
        scope, kind = call.caller.scope, call.caller.kind
        same_kind = [one for one in self.ordered if one.kind == kind]
        if not same_kind:
            self.miss(
                f"call {call.i} of {scope}, a {kind or 'call'}, was never recorded, nor was one of "
                "its kind: there is nothing to survey with; record it with --auto"
            )
        mine = [one for one in same_kind if one.scope == scope]
        return (mine or same_kind)[-1]


def _as_record(call: PendingCall, source: CallRecord) -> CallRecord:
    """A call as it would be recorded with another call's answer."""
    return CallRecord.make(
        request=call.sent,
        completion=source.completion,
        scope=call.caller.scope,
        i=call.i,
        n=call.n,
        at=call.at,
        asked=call.asked,
        sent=call.sent_key,
        asked_seed=call.request.seed,
        env=source.env,
        prompt_sha256=None,
    )


def _following(session: _SurveySession) -> tuple[int, float]:
    """Recorded calls from the first drift on: how many, and how long they took."""
    if not session.drifts:
        return (0, 0.0)
    first = session.drifts[0].asked.at
    later = [
        call for call in session.ordered if first is None or call.at is None or call.at >= first
    ]
    return (len(later), sum(call.duration_s for call in later))


def _group(session: _SurveySession) -> Iterator[Group]:
    found: dict[object, list[tuple[Cause, CallRecord]]] = {}
    for drift in session.drifts:
        for identity, cause in _causes(session, drift):
            found.setdefault(identity, []).append((cause, drift.asked))
    for members in sorted(found.values(), key=len, reverse=True):
        cause, first = members[0]
        scopes = tuple(sorted({call.scope for _, call in members}))
        yield Group(cause=cause, first=first, scopes=scopes, calls=len(members))


def _causes(session: _SurveySession, drift: Drift) -> Iterator[tuple[object, Cause]]:
    """What differs in a call, with what makes two differences the same."""
    asked, recorded = drift.asked, drift.recorded
    if recorded is None:
        cause = Cause("call", ABSENT, f"call {asked.i} of {asked.scope}")
        yield ("call", asked.scope), cause
        return
    binding = session.store.binding(recorded.model) if session.store else None
    now = next(known for known in session.bindings if known.name == asked.model)
    causes = [] if binding is None else settings_causes(recorded, asked, (binding, now))
    if asked.asked_seed is None and asked.sent_seed != recorded.sent_seed:
        causes += session.seed_causes
    edits = text_edits(recorded, asked)
    for cause in causes:
        yield cause, cause
    for edit in edits:
        yield _kind_of(edit), edit.cause


def _kind_of(edit: Edit) -> object:
    """What two edits of one template have in common: their lines but for the numbers in them."""
    lines = (edit.removed, edit.added)
    return edit.field, tuple(frozenset(_NUMBER.sub("#", line) for line in side) for side in lines)
