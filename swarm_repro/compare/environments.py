"""What is otherwise in another environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from swarm_repro.environment import Environment

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Members of an environment, as what they are named when they explain another completion, the one
#: that explains most first.
EXPLANATIONS: Mapping[str, str] = {
    "backend": "another backend",
    "build": "another llama.cpp build",
    "binary_sha256": "another llama.cpp build",
    "devices": "other devices",
    "cpu": "another CPU",
    "machine": "another machine",
    "system": "another operating system",
    "flags": "other server flags",
    "settings": "other server settings",
    "variables": "other environment variables",
}


@dataclass(frozen=True)
class Changed:
    """Something of the recording's environment or model that is otherwise now.

    Attributes:
        field: What, such as ``build`` or ``settings.n_ctx``.
        recorded: Its value then, as shown.
        now: Its value now, as shown.
    """

    field: str
    recorded: str
    now: str

    def to_json(self) -> dict[str, str]:
        """As it stands in the report."""
        return {"field": self.field, "a": self.recorded, "b": self.now}


def explanation(changed: Changed) -> str:
    """What a change is, in a few words."""
    return EXPLANATIONS.get(changed.field.partition(".")[0], "another environment")


def _rank(changed: Changed) -> int:
    names = list(EXPLANATIONS)
    name = changed.field.partition(".")[0]
    return names.index(name) if name in names else len(names)


def environment_changes(then: Environment, now: Environment) -> list[Changed]:
    """The fields in which two environments differ, what explains most first.

    Objects are compared by member, command lines by flag.

    Args:
        then: One environment.
        now: The other.
    """
    old, new = _flat(then.content), _flat(now.content)
    if isinstance(old.get("flags"), list) and isinstance(new.get("flags"), list):
        flags, other = _by_flag(old["flags"]), _by_flag(new["flags"])
        old["flags"] = [flag for flag in flags if flag not in other]
        new["flags"] = [flag for flag in other if flag not in flags]
    found = [
        Changed(name, shown(old.get(name)), shown(new.get(name)))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    return sorted(found, key=_rank)


def _flat(content: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{member}": inner for member, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _by_flag(words: object) -> list[str]:
    """A command line with each flag and its values as one."""
    flags: list[str] = []
    for word in words if isinstance(words, list) else ():
        begins = str(word).startswith("-") and not str(word)[1:2].isdigit()
        if begins or not flags:
            flags.append(str(word))
        else:
            flags[-1] += f" {word}"
    return flags


def shown(value: object) -> str:
    """A recorded value in words."""
    if value is None:
        return "unknown"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {member}" for name, member in value.items())
    text = str(value)
    return f"{text[:12]}…" if _DIGEST.fullmatch(text) else text
