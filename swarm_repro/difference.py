"""Where two requests, or two texts, part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_CONTEXT = 24


@dataclass(frozen=True)
class Difference:
    """One place in which two requests differ.

    Attributes:
        field: Where, such as ``messages[1].content`` or ``temperature``.
        recorded: What was recorded there, shortened; ``(absent)`` if nothing was.
        asked: What is asked now, shortened.
        character: 0-based index of the first differing character of two texts, else None.
    """

    field: str
    recorded: str
    asked: str
    character: int | None = None

    def __str__(self) -> str:
        """One line."""
        where = self.field
        if self.character is not None:
            where += f", character {self.character}"
        return f"{where}: recorded {self.recorded}, asked {self.asked}"


def differences(recorded: object, asked: object, *, field: str = "") -> list[Difference]:
    """All places in which two JSON values differ, in the order of the recorded one.

    Args:
        recorded: One value.
        asked: The other.
        field: Name of the place of both.
    """
    if isinstance(recorded, Mapping) and isinstance(asked, Mapping):
        found: list[Difference] = []
        for name in dict.fromkeys((*recorded, *asked)):
            place = f"{field}.{name}" if field else str(name)
            if name not in asked:
                found.append(Difference(place, _shown(recorded[name]), "(absent)"))
            elif name not in recorded:
                found.append(Difference(place, "(absent)", _shown(asked[name])))
            else:
                found.extend(differences(recorded[name], asked[name], field=place))
        if not found and list(recorded) != list(asked):
            found.append(
                Difference(f"order of {field}", _shown(list(recorded)), _shown(list(asked)))
            )
        return found
    if isinstance(recorded, (list, tuple)) and isinstance(asked, (list, tuple)):
        found = []
        for index in range(max(len(recorded), len(asked))):
            place = f"{field}[{index}]"
            if index >= len(asked):
                found.append(Difference(place, _shown(recorded[index]), "(absent)"))
            elif index >= len(recorded):
                found.append(Difference(place, "(absent)", _shown(asked[index])))
            else:
                found.extend(differences(recorded[index], asked[index], field=place))
        return found
    if isinstance(recorded, str) and isinstance(asked, str):
        if recorded == asked:
            return []
        at = first_difference(recorded, asked)
        return [Difference(field, _around(recorded, at), _around(asked, at), character=at)]
    if recorded == asked and isinstance(recorded, bool) == isinstance(asked, bool):
        return []
    return [Difference(field, _shown(recorded), _shown(asked))]


def first_difference(one: str, other: str) -> int:
    """Index of the first character in which two texts differ; the length of the shorter if none."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def distance(found: Iterable[Difference]) -> float:
    """How far two requests are apart, for choosing the nearest recording; 0 is equal.

    Args:
        found: Their differences.
    """
    total = 0.0
    for difference in found:
        if difference.character is None:
            total += 1.0
        else:
            # The later two texts part, the nearer they are.
            total += 1.0 / (1.0 + difference.character / 100.0)
    return total


def _around(text: str, at: int) -> str:
    start, stop = max(0, at - _CONTEXT), at + _CONTEXT
    shown = text[start:stop]
    return f"{'…' if start else ''}{shown!r}{'…' if stop < len(text) else ''}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
