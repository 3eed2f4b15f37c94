"""Whose words a later prompt repeats: proof that one difference follows from another.

A completion that differs is a *carrier*. Of every text in it that differs, the words around the
place where the two versions part are kept. Where one version's words stand in one prompt, and not
in the other, that prompt differs because of that completion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

from swarm_repro.compare.align import Pair, precedes
from swarm_repro.compare.causes import Edit
from swarm_repro.difference import first_difference

#: Characters on each side of the place where two texts part: enough to tell one agent's words from
#: another's that begin alike, few enough to survive a simulator that shows posts cut short.
_REACH = 64
#: Fewer characters than this prove nothing: ``trade`` stands in many prompts.
_MIN_CHARACTERS = 12
#: Carriers that are looked for: the first ones, which are the roots, and the latest, since a
#: simulation shows its agents what was said last. This bounds the work for each call.
_FIRST, _LATEST = 64, 64


class Carrier(NamedTuple):
    """A completion that differs.

    Attributes:
        pair: The calls.
        origins: Ids of the origins that made it differ.
        own: Whether it is an origin's own completion, so that repeating it proves something.
        marks: Words of both versions, each within a line; an empty string where they would be
            too short to prove anything.
    """

    pair: Pair
    origins: tuple[int, ...]
    own: bool
    marks: tuple[tuple[str, str], ...]


class Carriers:
    """The completions seen so far that differ."""

    def __init__(self) -> None:
        """Start with none."""
        self._first: list[Carrier] = []
        self._latest: deque[Carrier] = deque(maxlen=_LATEST)

    def add(self, pair: Pair, a: str, b: str, *, origins: tuple[int, ...], own: bool) -> None:
        """Note a completion that differs.

        Args:
            pair: The calls.
            a: What the model said in one recording.
            b: In the other.
            origins: Ids of the origins that made it differ.
            own: Whether it is an origin's own completion.
        """
        marks = tuple(
            (_mark(one, at), _mark(other, at))
            for one, other in differing_texts(a, b)
            for at in (first_difference(one, other),)
        )
        marks = tuple(both for both in marks if both != ("", ""))
        if not marks:
            return
        carrier = Carrier(pair, origins, own, marks)
        if len(self._first) < _FIRST:
            self._first.append(carrier)
        else:
            self._latest.append(carrier)

    def found_in(self, pair: Pair, edits: Iterable[Edit]) -> list[Carrier]:
        """The carriers whose words stand in one version of a text and not in the other.

        Args:
            pair: Whose texts these are: what came after it is not looked for.
            edits: The texts that differ.
        """
        # Marks are within a line, so they can only stand in the lines that differ.
        found: list[Carrier] = []
        for edit in edits:
            removed, added = "\n".join(edit.removed), "\n".join(edit.added)
            for carriers in (self._first, self._latest):
                for carrier in carriers:
                    for mark_a, mark_b in carrier.marks:
                        if (mark_a and mark_a in removed and mark_a not in edit.b) or (
                            mark_b and mark_b in added and mark_b not in edit.a
                        ):
                            found.append(carrier)
                            break
        return [carrier for carrier in found if precedes(carrier.pair, pair)]


def differing_texts(a: str, b: str) -> Iterator[tuple[str, str]]:
    """The texts in two completions that differ.

    Simulators ask for JSON and show other agents a string out of it: of two JSON completions these
    are the strings that differ, member by member; of others the completions themselves.
    """
    try:
        one, other = orjson.loads(a), orjson.loads(b)
    except orjson.JSONDecodeError:
        if a != b:
            yield a, b
        return
    # No recursion: a model may write a thousand brackets.
    waiting: list[tuple[object, object]] = [(one, other)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, (dict, list)) or isinstance(other, (dict, list)):
            members, others = _members(one), _members(other)
            names = list(dict.fromkeys((*members, *others)))
            waiting += [(members.get(name), others.get(name)) for name in reversed(names)]
        elif one != other:
            yield one if isinstance(one, str) else "", other if isinstance(other, str) else ""


def _members(value: object) -> Mapping[object, object]:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


def _mark(text: str, at: int) -> str:
    """The words around a place, within its line, if they are enough to prove anything."""
    if at >= len(text):
        return ""
    before = text[max(0, at - _REACH) : at].rpartition("\n")[2]
    after = text[at : at + _REACH].partition("\n")[0]
    mark = (before + after).strip()
    return mark if len(mark) >= _MIN_CHARACTERS else ""
