"""The first line of a comparison: what made two recordings differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from swarm_repro.cassette.entries import Entries
from swarm_repro.cassette.records import CallRecord
from swarm_repro.compare.causes import Cause
from swarm_repro.compare.environments import Changed, environment_changes, explanation
from swarm_repro.compare.judge import Comparison, Origin
from swarm_repro.compare.judged import Class
from swarm_repro.environment import Environment

#: A call that took this many times as long did not have the machine for itself.
_SLOWER = 1.5


def describe(comparison: Comparison) -> str:
    """One line: the cause, or that there is none."""
    if not comparison.origins:
        count = len(comparison.judged)
        where = ""
        if environment_differences(comparison):
            where = ", in two environments"
        return f"identical: {count} calls, the same requests and the same completions{where}"
    origin = comparison.origins[0]
    if origin.cause is not None:
        return _describe_cause(origin, origin.cause)
    return _describe_root(comparison, origin)


def _describe_cause(origin: Origin, cause: Cause) -> str:
    entry = origin.pair.entry
    more = f" and {origin.calls - 1} more" if origin.calls > 1 else ""
    if cause.character is None:
        values = f"{cause.a} in A, {cause.b} in B"
    else:
        values = f"character {cause.character}: {cause.a} in A, {cause.b} in B"
    return f"cause: {cause.field}: {values} (call {entry.i} of {entry.scope}{more})"


def _describe_root(comparison: Comparison, origin: Origin) -> str:
    counts = count_classes(comparison)
    roots, same = counts[Class.ROOT.value], counts[Class.IDENTICAL.value]
    entry = origin.pair.entry
    where = (
        f"{roots} of {roots + same} same requests got another completion, "
        f"first call {entry.i} of {entry.scope}"
    )
    if origin.pair.a is None or origin.pair.b is None:
        raise ValueError("a root has two calls")
    one, other = comparison.a.call(origin.pair.a), comparison.b.call(origin.pair.b)
    found = root_environment(comparison, one, other)
    if found:
        first = found[0]
        values = f"{first.recorded} in A, {first.now} in B"
        return f"cause: {explanation(first)}: {first.field}: {values}; {where}"
    slots = _slots(comparison.a.cassette.envs[one.env]) or 1
    signs = evidence(comparison, one, other)
    if signs and slots > 1:
        return (
            f"cause: concurrent requests: the server has {slots} slots, so a second client, or "
            f"what it was asked before, changes its answers ({'; '.join(signs)}); {where}"
        )
    if one.tokens.get("cached") != other.tokens.get("cached"):
        return f"cause: prompt cache: {signs[0]}; {where}"
    several = f" ({slots} slots, which can change answers)" if slots > 1 else ""
    return f"cause: not in what was recorded: same environment, same settings{several}; {where}"


def root_environment(comparison: Comparison, one: CallRecord, other: CallRecord) -> list[Changed]:
    """How the environments of two calls differ, what explains most first."""
    if one.env == other.env:
        return []
    return environment_changes(
        comparison.a.cassette.envs[one.env], comparison.b.cassette.envs[other.env]
    )


def environment_differences(comparison: Comparison) -> list[Changed]:
    """How the environments of two recordings differ: those that made the most calls."""
    used = [_most_used(index.entries) for index in (comparison.a, comparison.b)]
    if None in used or used[0] == used[1]:
        return []
    return environment_changes(
        comparison.a.cassette.envs[str(used[0])], comparison.b.cassette.envs[str(used[1])]
    )


def _most_used(entries: Entries) -> str | None:
    counts = Counter(entries.column("env"))
    return max(counts, key=lambda env: (counts[env], env), default=None)


def evidence(comparison: Comparison, one: CallRecord, other: CallRecord) -> list[str]:
    """What the records of a root say about the server at that moment."""
    found: list[str] = []
    cached = (one.tokens.get("cached"), other.tokens.get("cached"))
    if cached[0] != cached[1]:
        found.append(f"cached prompt tokens: {cached[0]} and {cached[1]}")
    short, long = sorted((one.duration_s, other.duration_s))
    if short > 0 and long / short >= _SLOWER:
        found.append(f"seconds: {one.duration_s:.1f} and {other.duration_s:.1f}")
    return found


def _slots(environment: Environment) -> int | None:
    settings = environment.content.get("settings")
    slots = settings.get("total_slots") if isinstance(settings, Mapping) else None
    return slots if isinstance(slots, int) else None


def count_classes(comparison: Comparison) -> dict[str, int]:
    """How many pairs there are of each class."""
    counts = Counter(comparison.judged.classes())
    return {cls.value: counts[cls] for cls in Class}
