"""Joining recordings: what both have, what one changed since a common ancestor, and conflicts.

Two recordings of one experiment never merge as text: their ``end`` records differ. Joined by
records they do, unless they answer one call in two ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

from swarm_repro.cassette.changes import same_recording
from swarm_repro.cassette.reader import Cassette, reading
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.errors import NotComparableError
from swarm_repro.model import ModelBinding, describe

_K = TypeVar("_K")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Conflict:
    """Something that two cassettes say in two ways.

    Attributes:
        what: Which record.
        why: How the two differ.
    """

    what: str
    why: str


def merge_cassettes(
    sides: Sequence[Cassette], *, base: Cassette | None = None
) -> tuple[Cassette, list[Conflict]]:
    """Join cassettes of one experiment.

    A record of one of them is taken; of several that agree the first; of several that do not, the
    one that changed since the base. A call that one side dropped since the base goes, unless a run
    that stays uses it. Where another environment gave the same answer, it becomes a witness.

    Args:
        sides: The cassettes, one or more.
        base: Their common ancestor, where there is one and it is known.

    Returns:
        The joined cassette, at the first one's path, and what they disagree on. With a conflict
        the cassette is not one that may be written.

    Raises:
        NotComparableError: They belong to different scenarios, or were recorded with different
            settings.
        CassetteDamagedError: An answer is not the recorded one.
    """
    if len(sides) == 1:
        return sides[0], []
    # By halves: each call is looked at a few times, however many sides there are.
    middle = len(sides) // 2
    ours, found_there = merge_cassettes(sides[:middle], base=base)
    theirs, found_here = merge_cassettes(sides[middle:], base=base)
    _require_same_experiment(ours, theirs)
    joined, found = _Merge(ours, theirs, base).result()
    return joined, [*found_there, *found_here, *found]


def _require_same_experiment(ours: Cassette, theirs: Cassette) -> None:
    if ours.header.scenario != theirs.header.scenario:
        raise NotComparableError(
            f"{ours.path} belongs to scenario {ours.header.scenario!r}, {theirs.path} to "
            f"{theirs.header.scenario!r}: they do not merge"
        )
    if replace(ours.header, recorder="") != replace(theirs.header, recorder=""):
        raise NotComparableError(
            f"{ours.path} and {theirs.path} were recorded with other seed policies, strict "
            "settings or request fields: they do not merge; record one of them anew"
        )


class _Merge:
    """Two cassettes, perhaps with an ancestor, becoming one."""

    def __init__(self, ours: Cassette, theirs: Cassette, base: Cassette | None) -> None:
        self._ours = ours
        self._theirs = theirs
        self._base = base
        self._ordered = ours.header.seed_policy == "event"

    def result(self) -> tuple[Cassette, list[Conflict]]:
        """The joined cassette, and what the two disagree on."""
        ours, theirs, base = self._ours, self._theirs, self._base
        models, bad_models = _three_way(
            base.models if base else {}, ours.models, theirs.models, _same_binding
        )
        calls, bad_calls = _three_way(
            base.calls if base else {}, ours.calls, theirs.calls, self._same_call
        )
        runs, bad_runs = _three_way(_by_id(base), _by_id(ours), _by_id(theirs), _same_run)
        for run in runs.values():
            for call_id in run.calls - calls.keys() - set(bad_calls):
                calls[call_id] = ours.calls.get(call_id) or theirs.calls[call_id]
        conflicts = [
            *(self._about_model(name) for name in bad_models),
            *(self._about_call(call_id) for call_id in bad_calls),
            *(self._about_run(run_id) for run_id in bad_runs),
            *self._of_other_models(calls.values(), models),
        ]
        joined = Cassette(
            path=ours.path,
            header=ours.header,
            models=models,
            envs={**ours.envs, **theirs.envs},
            texts={**ours.texts, **theirs.texts},
            calls=calls,
            runs=list(runs.values()),
            witnesses=self._witnesses(calls),
        )
        return joined, conflicts

    def _same_call(self, a: CallRecord, b: CallRecord) -> bool:
        with reading(self._ours.path, a):
            return same_recording(a, b, ordered=self._ordered)

    def _witnesses(self, calls: Mapping[CallId, CallRecord]) -> dict[str, Set[CallId]]:
        """Environments that are known to have given the answers that are kept."""
        seen: dict[str, set[CallId]] = {}
        for side in (self._ours, self._theirs):
            for call_id, kept in calls.items():
                recorded = side.calls.get(call_id)
                if recorded is None or not self._same_call(kept, recorded):
                    continue
                witnesses = [env for env, ids in side.witnesses.items() if call_id in ids]
                for env in {recorded.env, *witnesses} - {kept.env}:
                    seen.setdefault(env, set()).add(call_id)
        return {env: frozenset(ids) for env, ids in seen.items()}

    def _of_other_models(
        self, calls: Iterable[CallRecord], models: Mapping[str, ModelBinding]
    ) -> Iterable[Conflict]:
        """Calls whose key is of a model that the joined cassette calls by that name no more."""
        for call in calls:
            side = self._ours if self._ours.calls.get(call.id) is call else self._theirs
            kept = models.get(call.model)
            if kept is not None and not _same_binding(kept, side.models[call.model]):
                yield Conflict(_called(call), f"{call.model!r} is another model by now")

    def _about_model(self, name: str) -> Conflict:
        ours, theirs = self._ours.models.get(name), self._theirs.models.get(name)
        said = " and ".join(describe(one) if one else "none" for one in (ours, theirs))
        if ours and theirs and ours.same_model(theirs):
            said = "other sampling defaults"
        return Conflict(f"model {name!r}", said)

    def _about_call(self, call_id: CallId) -> Conflict:
        ours, theirs = self._ours.calls.get(call_id), self._theirs.calls.get(call_id)
        if ours is None or theirs is None:
            one = ours or theirs
            what = _called(one) if one else f"a call of {call_id[0]}"
            return Conflict(what, "one side changed it, the other has dropped it")
        return Conflict(_called(ours), _difference(ours, theirs))

    def _about_run(self, run_id: tuple[object, ...]) -> Conflict:
        scenario, seed, epochs, steps = run_id
        return Conflict(
            f"the run of {scenario} with seed {seed}, {epochs} epochs of {steps} steps",
            "other artifacts, calls or versions",
        )


def _three_way(
    base: Mapping[_K, _T],
    ours: Mapping[_K, _T],
    theirs: Mapping[_K, _T],
    same: Callable[[_T, _T], bool],
) -> tuple[dict[_K, _T], list[_K]]:
    """What both have, or one of them changed; and the keys that both changed in two ways."""

    def agree(a: _T | None, b: _T | None) -> bool:
        return a is b if a is None or b is None else same(a, b)

    joined: dict[_K, _T] = {}
    conflicts: list[_K] = []
    for key in dict.fromkeys((*ours, *theirs)):
        old, a, b = base.get(key), ours.get(key), theirs.get(key)
        if agree(a, b) or agree(old, b):
            chosen = a
        elif agree(old, a):
            chosen = b
        else:
            conflicts.append(key)
            continue
        if chosen is not None:
            joined[key] = chosen
    return joined, conflicts


def _by_id(cassette: Cassette | None) -> dict[tuple[object, ...], RunRecord]:
    return {} if cassette is None else {run.id: run for run in cassette.runs}


def _same_run(a: RunRecord, b: RunRecord) -> bool:
    return a == b


def _same_binding(a: ModelBinding, b: ModelBinding) -> bool:
    return a.same_model(b) and a.defaults == b.defaults


def _called(call: CallRecord) -> str:
    at = "" if call.at is None else f", epoch {call.at[0]}, step {call.at[1]}"
    return f"call {call.i} of {call.scope} (repeat {call.n} of {call.asked[:16]}…{at})"


def _difference(ours: CallRecord, theirs: CallRecord) -> str:
    if ours.sent_seed != theirs.sent_seed:
        return f"sent with seed {ours.sent_seed} and with {theirs.sent_seed}"
    a, b = ours.completion.text, theirs.completion.text
    if a != b:
        place = next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )
        return f"the answers part at character {place}"
    return "the same text, with another rest of the answer or another place"
