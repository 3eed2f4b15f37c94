"""Settings of a scenario by dotted path: ``governance.transaction_tax_rate``, ``agents.0.type``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from swarm_repro.errors import UsageError
from swarm_repro.simulation.defaults import swarm_defaults

#: What a study sets in another way.
_NOT_SETTINGS: Mapping[str, str] = {
    "scenario_id": "it names the scenario",
    "simulation.seed": "seeds are listed under 'seeds'",
    "repro.cassette": "a study names its cassettes itself",
}


def apply(document: Mapping[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    """A scenario with other settings.

    Args:
        document: The scenario, as YAML gives it.
        settings: Values by dotted path, which ``require_setting`` has passed.
    """
    changed = copy.deepcopy(dict(document))
    for path, value in settings.items():
        *parents, last = path.split(".")
        place: Any = changed
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return changed


def require_setting(
    document: Mapping[str, Any], path: str, values: Sequence[object], *, where: str
) -> None:
    """Refuse a setting that a scenario does not have, or values of another type.

    SWARM ignores members that it does not know, so that a misspelt one would vary nothing.

    Args:
        document: The scenario, as YAML gives it.
        path: The setting.
        values: What it will be set to.
        where: The scenario, for messages.

    Raises:
        UsageError: There is no such setting; it is not one for a study; a value has another type.
    """
    if path in _NOT_SETTINGS:
        raise UsageError(f"{path} is no setting of a study: {_NOT_SETTINGS[path]}")
    known = _value_of(document, path, where)
    for value in values:
        if not _is_like(value, known):
            raise UsageError(
                f"{path}: {value!r} is no value for it: {where} has {known!r} "
                f"({type(known).__name__})"
            )


def _value_of(document: Mapping[str, Any], path: str, where: str) -> object:
    place: Any = document
    passed: list[str] = []
    for name in path.split("."):
        if isinstance(place, list):
            if not name.isdecimal() or int(name) >= len(place):
                raise UsageError(
                    f"{path}: {'.'.join(passed)} of {where} is a list of {len(place)}: use 0 to "
                    f"{len(place) - 1}, not {name!r}"
                )
            place = place[int(name)]
        elif isinstance(place, dict) and name in place:
            place = place[name]
        else:
            return _default_of(path, passed, place, where)
        passed.append(name)
    if isinstance(place, (dict, list)) and place:
        raise UsageError(f"{path} of {where} holds several values: name one of them")
    return place


def _default_of(path: str, passed: Sequence[str], place: object, where: str) -> object:
    """SWARM's own default of a setting that the scenario leaves out.

    Raises:
        UsageError: SWARM has none.
    """
    section, _, name = path.partition(".")
    defaults = swarm_defaults(section)
    if name in defaults:
        return defaults[name]
    here = ".".join(passed)
    there = [f"{here}.{member}" if here else str(member) for member in _members(place)]
    near = get_close_matches(path, [*there, *(f"{section}.{one}" for one in defaults)], n=3)
    raise UsageError(
        f"{path} does not exist in {where}, and SWARM has no default for it"
        + (f"; near it are {', '.join(near)}" if near else "")
    )


def _members(place: object) -> Iterator[object]:
    if isinstance(place, dict):
        yield from place


def _is_like(value: object, known: object) -> bool:
    """Whether a value can stand where a known one stands."""
    if isinstance(value, (dict, list)) != isinstance(known, (dict, list)):
        return known is None
    if known is None:
        return True
    if isinstance(known, bool) or isinstance(value, bool):
        return isinstance(known, bool) and isinstance(value, bool)
    if isinstance(known, (int, float)):
        return isinstance(value, (int, float))
    return isinstance(value, type(known))
