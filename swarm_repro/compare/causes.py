"""What made two calls at one place different requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from swarm_repro import sampling
from swarm_repro.cassette.index import TEXT_MEMBERS
from swarm_repro.cassette.lines import resolve
from swarm_repro.cassette.records import CallRecord
from swarm_repro.difference import differences, first_difference
from swarm_repro.model import ModelBinding
from swarm_repro.request import OUTSIDE_KEY

Texts: TypeAlias = Mapping[str, str]

ABSENT = "(absent)"
#: What a call is for is no setting: where it differs, an agent's calls are shifted.
KIND = "kind of call"
_SHOWN = 60


class Cause(NamedTuple):
    """A difference between two requests.

    Attributes:
        field: What differs: ``temperature``, ``model``, ``system prompt, messages[0].content``.
        a: The first cassette's value, as shown.
        b: The second's.
        character: Where two texts part, 0-based, or None.
    """

    field: str
    a: str
    b: str
    character: int | None = None


class Edit(NamedTuple):
    """A text of a request that is another one in the other cassette.

    Attributes:
        field: Which text.
        role: The message's role, or an empty string.
        a: The text in the first cassette.
        b: In the second.
        removed: Lines that only the first has, where the two differ.
        added: Lines that only the second has.
    """

    field: str
    role: str
    a: str
    b: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def cause(self) -> Cause:
        """As a cause, with the words around the place where the texts part."""
        at = first_difference(self.a, self.b)
        return Cause(self.field, around(self.a, at), around(self.b, at), at)


def settings_causes(
    a: CallRecord, b: CallRecord, models: tuple[ModelBinding, ModelBinding]
) -> list[Cause]:
    """Differences that no completion can have caused: all but texts and derived seeds.

    Args:
        a: One call.
        b: The call at the same place of the other cassette.
        models: The models they went to.
    """
    one, other = models
    found: list[Cause] = []
    if one.encoded_identity != other.encoded_identity:
        found.append(Cause("model", one.identity.label, other.identity.label))
    if one.template != other.template:
        found.append(Cause("chat template", _template(one), _template(other)))
    if a.kind != b.kind:
        found.append(Cause(KIND, _shown(a.kind), _shown(b.kind)))
    if (a.endpoint, a.path) != (b.endpoint, b.path):
        found.append(Cause("endpoint", a.path, b.path))
    if a.asked_seed != b.asked_seed:
        found.append(Cause("seed", _shown(a.asked_seed), _shown(b.asked_seed)))
    found += _sampling_causes(a, b, models)
    found += [
        Cause(difference.field, difference.recorded, difference.asked, difference.character)
        for difference in differences(_other_members(a.body), _other_members(b.body))
    ]
    return found


def _sampling_causes(
    a: CallRecord, b: CallRecord, models: tuple[ModelBinding, ModelBinding]
) -> list[Cause]:
    """Sampling fields whose effective values differ, whoever set them."""
    one = models[0].effective_sampling(a.endpoint, a.body)
    other = models[1].effective_sampling(b.endpoint, b.body)
    return [
        Cause(name, _value(name, one, a.body), _value(name, other, b.body))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def _value(name: str, effective: Mapping[str, object], body: Mapping[str, object]) -> str:
    """A sampling value as the caller wrote it, or as the backend's default."""
    for alias in sampling.ALIASES.get(name, (name,)):
        if body.get(alias) is not None:
            return _shown(body[alias])
    return _shown(effective[name]) if name in effective else "(no effect)"


def _other_members(body: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value
        for name, value in body.items()
        if name not in TEXT_MEMBERS
        and name not in OUTSIDE_KEY
        and name not in sampling.CANONICAL_NAME
        and value is not None
    }


def text_edits(a: CallRecord, b: CallRecord) -> list[Edit]:
    """The texts in which two requests differ.

    Stored forms are compared first: equal ones need not be read.

    Args:
        a: One call.
        b: The other.

    Raises:
        LineError: A text is missing.
    """
    edits: list[Edit] = []
    for name in sorted(TEXT_MEMBERS & {*a.stored_body, *b.stored_body}):
        one, other = a.stored_body.get(name), b.stored_body.get(name)
        if one == other:
            continue
        if name == "messages" and isinstance(one, list) and isinstance(other, list):
            edits += _message_edits(one, a.texts, other, b.texts)
        else:
            edits.append(_edit(name, "", resolve(one, a.texts), resolve(other, b.texts)))
    return edits


def _message_edits(
    a: Sequence[object], texts_a: Texts, b: Sequence[object], texts_b: Texts
) -> list[Edit]:
    edits: list[Edit] = []
    for index in range(max(len(a), len(b))):
        one = a[index] if index < len(a) else None
        other = b[index] if index < len(b) else None
        if one == other:
            continue
        one, other = resolve(one, texts_a), resolve(other, texts_b)
        role = _role(one) or _role(other)
        place = f"messages[{index}]"
        contents = (_content(one), _content(other))
        if None not in contents and _rest(one) == _rest(other):
            shown = "system prompt, " if role == "system" else ""
            edits.append(_edit(f"{shown}{place}.content", role, *contents))
        else:
            edits.append(_edit(place, role, one, other))
    return edits


def _role(message: object) -> str:
    return str(message.get("role", "")) if isinstance(message, dict) else ""


def _content(message: object) -> str | None:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None


def _rest(message: object) -> dict[str, object]:
    if not isinstance(message, dict):
        return {}
    return {name: value for name, value in message.items() if name != "content"}


def _edit(field: str, role: str, one: object, other: object) -> Edit:
    a, b = _as_text(one), _as_text(other)
    lines_a, lines_b = a.splitlines(), b.splitlines()
    known_a, known_b = set(lines_a), set(lines_b)
    return Edit(
        field=field,
        role=role,
        a=a,
        b=b,
        removed=tuple(line for line in lines_a if line not in known_b),
        added=tuple(line for line in lines_b if line not in known_a),
    )


def _as_text(value: object) -> str:
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else repr(value)


def around(text: str, at: int) -> str:
    """The words around a place of a text, quoted."""
    start, stop = max(0, at - _SHOWN // 2), at + _SHOWN
    return f"{'…' if start else ''}{text[start:stop]!r}{'…' if stop < len(text) else ''}"


def _template(binding: ModelBinding) -> str:
    template = binding.template or {}
    return template.get("name") or template.get("sha256", "unknown")[:12]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"  # what float32 can tell apart
    text = ABSENT if value is None else str(value)
    return text if len(text) <= 2 * _SHOWN else text[: 2 * _SHOWN - 1] + "…"
