"""What a new recording changes, and when it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    dropped: list[CallId] = field(default_factory=list)


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
