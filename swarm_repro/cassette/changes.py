"""What a new recording changes, and when it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from swarm_repro.cassette.call_sets import all_of, joined, those_in
from swarm_repro.cassette.reader import Cassette, reading
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.completion import same_but_volatile


@dataclass
class Changes:
    """What a recording did to a cassette.

    Attributes:
        unchanged: Calls whose answer was the recorded one; their entries are kept as they are.
        replaced: Calls that had another answer before.
        added: Calls that were not there.
        dropped: Calls that no run uses any more.
    """

    unchanged: list[CallId] = field(default_factory=list)
    replaced: list[CallId] = field(default_factory=list)
    added: list[CallId] = field(default_factory=list)
    dropped: Set[CallId] = frozenset()


@dataclass(frozen=True)
class Settled:
    """What a cassette holds once a recording has ended.

    Attributes:
        changes: What became of each call.
        calls: Those that are kept.
        witnesses: By environment: calls that it answered alike.
    """

    changes: Changes
    calls: Mapping[CallId, CallRecord]
    witnesses: dict[str, Set[CallId]]


def settle(
    base: Cassette,
    fresh: Mapping[CallId, CallRecord],
    *,
    used: Set[CallId],
    kept: Set[CallId],
    ordered: bool,
) -> Settled:
    """Choose, for each call that is kept, between the old entry and the new one.

    Args:
        base: What was recorded before.
        fresh: What was recorded since.
        used: Calls that are kept, old or new.
        kept: Calls of the base that are kept too, in its old entry or a new one.
        ordered: Whether a call's place among those of its scope counts, though neither came nor
            went.

    Raises:
        CassetteDamagedError: An answer is not the recorded one.
    """
    kept = those_in(base.calls, kept, used)
    changes = Changes(dropped=all_of(base.calls) - kept)
    new = sorted(call_id for call_id in fresh if call_id in used or call_id in kept)
    # Calls at once have no order of their own: which came first is nothing to record anew.
    changed_scopes = {call_id[0] for call_id in new if call_id not in base.calls}
    if not ordered:
        changed_scopes.update(call_id[0] for call_id in changes.dropped)
    chosen: dict[CallId, CallRecord] = {}
    seen_by: dict[str, set[CallId]] = {env: set() for env in base.witnesses}
    for call_id in new:
        call, old = fresh[call_id], base.calls.get(call_id)
        in_place = ordered or call_id[0] in changed_scopes
        if old is not None:
            with reading(base.path, old):
                is_same = same_recording(old, call, ordered=in_place)
            if is_same:
                changes.unchanged.append(call_id)
                if call.env != old.env:
                    seen_by.setdefault(call.env, set()).add(call_id)
                continue
        chosen[call_id] = call
        (changes.added if old is None else changes.replaced).append(call_id)
    witnesses: dict[str, Set[CallId]] = {
        env: those_in(base.calls, base.witnesses.get(env, frozenset()), ids) - chosen.keys()
        for env, ids in seen_by.items()
    }
    return Settled(changes, joined(base.calls, kept - chosen.keys(), chosen), witnesses)


def same_recording(a: CallRecord, b: CallRecord, *, ordered: bool) -> bool:
    """Whether two recordings of a call differ at most in what is volatile.

    Args:
        a: One.
        b: The other.
        ordered: Whether the call's place among those of its scope counts.

    Raises:
        LineError: The bytes of an answer are not the recorded ones.
    """
    return _without_volatile(a, ordered=ordered) == _without_volatile(
        b, ordered=ordered
    ) and same_but_volatile(a.decode_completion(), b.decode_completion())


def _without_volatile(call: CallRecord, *, ordered: bool) -> CallRecord:
    return replace(
        call,
        i=call.i if ordered else 0,
        env="",
        duration_s=0.0,
        stored_response={},
        shared=False,
        from_cache=False,
    )
