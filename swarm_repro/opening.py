"""Opening a session on a cassette, and what is said at its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from swarm_repro import __version__
from swarm_repro.cache import AnswerCache
from swarm_repro.cassette.header import SEED_POLICIES, Header, RequestRule, SeedPolicy
from swarm_repro.cassette.store import CassetteStore, open_for_recording, open_for_replay
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    DifferenceError,
    ReplayMiss,
    UnplayedCallsError,
    UsageError,
)
from swarm_repro.masking import Redact
from swarm_repro.mode import Mode
from swarm_repro.session import RETRY_WAITS_S, Session

#: Anything but 0 switches the machine-wide cache on.
SWITCH_VARIABLE = "SWARM_REPRO_CACHE"
RETRY_VARIABLE = "SWARM_REPRO_RETRY_WAITS"
_MOST_WAIT_S = 3600.0


def header_of(
    *,
    seed_policy: str,
    strict: bool,
    requests: Iterable[Mapping[str, Mapping[str, object]]] = (),
) -> Header:
    """A header from what a user wrote.

    Args:
        seed_policy: ``as-is``, ``event`` or ``content``.
        strict: Whether strict mode is on.
        requests: Fields to set, as ``repro.requests`` in a scenario.

    Raises:
        UsageError: An unknown seed policy, or a rule that is none.
    """
    return Header(
        recorder=__version__,
        seed_policy=cast("SeedPolicy", one_of("seed_policy", seed_policy, SEED_POLICIES)),
        strict=strict,
        requests=tuple(_rule(rule) for rule in requests),
    )


def open_session(
    path: Path,
    *,
    mode: Mode | None,
    header: Header,
    seed: int,
    discard: bool = False,
    isolated: bool = False,
    owner: str = "",
    shared: bool = False,
    redact: Redact | None = None,
    cache: bool = False,
    fresh: bool = False,
) -> Session:
    """Open a cassette for a session.

    Args:
        path: The cassette.
        mode: What to do with calls; None replays a cassette that is there.
        header: How calls are made; a replay has the cassette's.
        seed: Run seed.
        discard: Throw away what an interrupted recording left.
        isolated: Whether what goes wrong with one call fails that call alone; see ``Session``.
        owner: Whose calls these are in a cassette that several share; see ``Session``.
        shared: Whether other processes use the cassette at the same time; see ``Session``.
        redact: The user's own redaction of what is stored; see ``Session``.
        cache: Take answers from the machine-wide cache while recording, and add to it.
        fresh: Add to it, and take none.

    Raises:
        UsageError: Processes that share a cassette would record each other's calls anew.
        CassetteAccessError: No cassette to replay; an interrupted or another recording is in the
            way; the file cannot be written.
        CassetteDamagedError: Not the bytes that were written.
    """
    if shared and mode is Mode.RECORD and not owner:
        raise UsageError(
            "who shares a cassette cannot record all of it anew: give each process a scope_prefix, "
            "whose calls are recorded anew, or use mode='auto' (--auto), which keeps all calls"
        )
    if mode is None:
        if not path.exists():
            raise CassetteAccessError(
                f"there is no cassette at {path}; record one with mode='record', or --record"
            )
        mode = Mode.REPLAY
    store: CassetteStore | None = None
    if mode.writes:
        store = open_for_recording(
            path,
            header,
            keep=mode is Mode.AUTO,
            discard_part=discard,
            shared=shared,
            replaces=owner if shared and mode is Mode.RECORD else None,
        )
    elif mode is not Mode.LIVE:
        store = open_for_replay(path)
    return Session(
        mode=mode,
        header=store.header if store is not None else header,
        store=store,
        run_seed=seed,
        isolated=isolated,
        owner=owner,
        shared=shared,
        redact=redact,
        cache=answer_cache(wanted=cache or fresh),
        fresh=fresh,
    )


def answer_cache(*, wanted: bool) -> AnswerCache | None:
    """The machine-wide cache, where it was asked for, here or with ``SWARM_REPRO_CACHE=1``."""
    return AnswerCache() if wanted or os.environ.get(SWITCH_VARIABLE, "0") != "0" else None


def retry_waits_s() -> Sequence[float]:
    """Seconds to wait before each retry of a hiccup, from ``SWARM_REPRO_RETRY_WAITS``.

    Raises:
        UsageError: The variable holds something else.
    """
    written = os.environ.get(RETRY_VARIABLE, "").strip()
    if not written:
        return RETRY_WAITS_S
    if written == "none":
        return ()
    try:
        waits = [float(word) for word in written.split()]
    except ValueError:
        waits = [-1.0]
    if not all(0 <= wait <= _MOST_WAIT_S for wait in waits):
        raise UsageError(
            f"{RETRY_VARIABLE} is {written!r}: give seconds from 0 to {_MOST_WAIT_S:.0f}, such as "
            "'0.2 1 3', or 'none'"
        )
    return waits


def conclude(session: Session) -> None:
    """Write the cassette, or say what the ledger says, whatever surfaced before.

    Raises:
        SessionTripped: A miss.
        SwarmReproError: What ended the session.
        BackendError: A call failed and never succeeded after, or has not ended.
        UnplayedCallsError: Not all recorded calls were asked for.
        DifferenceError: An answer is not the recorded one (mode ``verify``).
    """
    ledger, store = session.ledger, session.store
    if session.tripped is not None:
        raise session.tripped
    if session.cause is not None:
        raise session.cause
    if ledger.misses:
        raise ReplayMiss(f"{len(ledger.misses)} misses, the first: {ledger.misses[0]}")
    if ledger.failures:
        failures = "; ".join(str(failure) for failure in ledger.failures.values())
        raise BackendError(f"{len(ledger.failures)} calls failed: {failures}")
    waiting = session.waiting()
    if waiting is not None:
        raise BackendError(waiting)
    if store is None:
        return
    if session.mode.writes:
        store.finish(
            used=ledger.used,
            run=None,
            keep=session.mode is Mode.AUTO,
            owner=session.owner,
        )
        return
    unplayed = describe_unplayed(session)
    if unplayed is not None:
        raise UnplayedCallsError(f"{unplayed}; record it anew with mode='record', or --record")
    if ledger.differences:
        raise DifferenceError("; ".join(ledger.differences))


def describe_masked(session: Session) -> str | None:
    """Which credentials a recording holds as marks, in one line; None where there are none."""
    kinds = session.ledger.masked
    if not kinds or session.store is None:
        return None
    counts = ", ".join(f"{kinds[kind]} x {kind}" for kind in sorted(kinds))
    return f"credentials are masked in {session.store.path}: {counts}; keep them out of prompts"


def describe_unplayed(session: Session) -> str | None:
    """Which recorded calls were not asked for, in one line; None where all were, or others may."""
    store = session.store
    if store is None or session.is_shared:
        return None
    expected = store.ids()
    count, first = session.unplayed(expected)
    if first is None:
        return None
    where = f"first call {first.i} of {first.scope}"
    return f"{count} of {len(expected)} calls in {store.path} were not played, {where}"


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """A word of a list.

    Raises:
        UsageError: It is not in the list.
    """
    known = list(known)
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")
    return value


def _rule(rule: Mapping[str, Mapping[str, object]]) -> RequestRule:
    if set(rule) != {"match", "set"} or not set(rule["match"]) <= {"scope", "kind"}:
        raise UsageError(f"request rule {rule!r}: use {{'match': {{scope, kind}}, 'set': {{…}}}}")
    return RequestRule(
        match={name: str(value) for name, value in rule["match"].items()}, fields=rule["set"]
    )
