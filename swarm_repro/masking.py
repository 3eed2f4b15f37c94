"""What is stored of a call that holds credentials: the same call, with marks in their place."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, cast

import orjson

from swarm_repro.canonical import encode_json
from swarm_repro.completion import Completion, is_streamed
from swarm_repro.credentials import Span, find_credentials, find_in_target, mark_of
from swarm_repro.errors import RequestError, UsageError
from swarm_repro.request import Request

#: A user's own redaction: takes a text of a request or an answer, gives what may be stored.
Redact: TypeAlias = Callable[[str], str]
#: What a text that it changed is counted as.
OWN_RULE = "own rule"

#: Members of an answer that spell its text in pieces, or as numbers.
_SPELLED = frozenset(
    {"logprobs", "completion_probabilities", "top_logprobs", "probs", "tokens", "token_ids"}
)
_TEXTS_AT_HAND = 256  # system prompts come call after call
_SHORTEST = 8  # characters; no rule knows a shorter credential

#: The members and places that lead to a value inside a document.
_Path: TypeAlias = tuple[str | int, ...]


def find_redaction(name: str) -> Redact:
    """A redaction of the user's own, by its name.

    Args:
        name: ``MODULE:FUNCTION``; the module is in the current folder, or installed.

    Raises:
        UsageError: There is none of this name, or its module cannot be imported.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"--redact {name}: name a function as MODULE:FUNCTION")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # whatever the module does when it is imported
        raise UsageError(f"--redact {name}: {module} cannot be imported: {error!r}") from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise UsageError(f"--redact {name}: {module} has no function {function}")
    return cast("Redact", found)


class Masker:
    """Masks credentials in what is about to be stored.

    The keys of a call are those of the request as it was sent, so that a replay still finds it.
    """

    def __init__(self, redact: Redact | None = None) -> None:
        """Make a masker.

        Args:
            redact: A redaction of the user's own, before the public rules.
        """
        self._redact = redact
        self._look = lru_cache(maxsize=_TEXTS_AT_HAND)(self._look_at)

    def request(self, request: Request) -> tuple[Request, Counter[str]]:
        """A request as it may be stored, and how many credentials of each kind it held.

        Args:
            request: As it was sent.
        """
        found: Counter[str] = Counter()
        document = _Document("", dict(request.body), "")
        self._mask([document], found)
        path = request.path
        if request.endpoint == "opaque":
            spans = find_in_target(path)
            found.update(span.kind for span in spans)
            (path,) = _marked([path], spans)
        if not found:
            return request, found
        body = document.value
        return replace(request, body=body, path=path), found  # type: ignore[arg-type]

    def completion(self, completion: Completion) -> tuple[Completion, Counter[str]]:
        """An answer as it may be stored, and how many credentials of each kind it held.

        The pieces of a stream are looked at together: a model says a credential token by token.
        Where there is one, members that spell the text otherwise, such as logprobs, become null.

        Args:
            completion: As it came.
        """
        found: Counter[str] = Counter()
        try:
            text = completion.body.decode("utf-8")
        except UnicodeDecodeError:
            return completion, found
        documents = list(_documents_of(text, streamed=is_streamed(completion.content_type)))
        self._mask(documents, found)
        if not found:
            return completion, found
        for document in documents:
            document.value = _without_spelling(document.value)
        return replace(completion, body=b"".join(one.encode() for one in documents)), found

    def _mask(self, documents: Sequence[_Document], found: Counter[str]) -> None:
        """Put marks into documents; what stands at one place of several is one text."""
        places: dict[_Path, list[_Document]] = {}
        for document in documents:
            for path in _texts_in(document.value):
                places.setdefault(path, []).append(document)
        for path, holders in places.items():
            parts = [str(_at(holder.value, path)) for holder in holders]
            # An id that every event repeats is no text that goes on.
            texts = [parts] if len(set(parts)) > 1 else [[part] for part in parts]
            masked = [part for text in texts for part in self._mask_text(text, found)]
            for holder, before, after in zip(holders, parts, masked, strict=True):
                if after != before:
                    holder.value = _with(holder.value, path, after)

    def _mask_text(self, parts: list[str], found: Counter[str]) -> list[str]:
        text = "".join(parts)
        if len(text) < _SHORTEST and self._redact is None:
            return parts
        redacted, spans = self._look(text)
        if redacted != text:
            found[OWN_RULE] += 1
            parts = [redacted, *("" for _ in parts[1:])]
        found.update(span.kind for span in spans)
        return _marked(parts, spans)

    def _look_at(self, text: str) -> tuple[str, list[Span]]:
        redacted = self._redacted(text)
        return redacted, find_credentials(redacted)

    def _redacted(self, text: str) -> str:
        if self._redact is None:
            return text
        try:
            redacted: object = self._redact(text)
        except Exception as error:
            # Its words could hold the text.
            why = f"redact failed with {type(error).__name__}; what it was given is not stored"
            raise UsageError(why) from error
        if not isinstance(redacted, str):
            raise UsageError(f"redact gave {type(redacted).__name__} for a text; it gives a text")
        return redacted


@dataclass
class _Document:
    """A JSON value of a body, or a part of it that is none, and what stands around it.

    Attributes:
        before: Bytes before it, as text.
        value: It; a text that is no JSON is itself.
        after: Bytes after it.
        raw: Its bytes as they came, as text, where it is JSON.
    """

    before: str
    value: object
    after: str
    raw: str | None = None

    def __post_init__(self) -> None:
        self._as_it_came = self.value

    def encode(self) -> bytes:
        """Its bytes; as they came if nothing in it was changed."""
        if self.raw is None:
            return f"{self.before}{self.value}{self.after}".encode()
        if self.value is self._as_it_came:
            return f"{self.before}{self.raw}{self.after}".encode()
        return self.before.encode() + encode_json(self.value) + self.after.encode()


def _documents_of(text: str, *, streamed: bool) -> Iterator[_Document]:
    if not streamed:
        yield _document(text)
        return
    for line in text.splitlines(keepends=True):
        content = line.rstrip("\r\n")
        before = "data: " if content.startswith("data: ") else ""
        yield _document(content[len(before) :], before, line[len(content) :])


def _document(text: str, before: str = "", after: str = "") -> _Document:
    if text.startswith(("{", "[")):
        try:
            value = orjson.loads(text)
            encode_json(value)
        except (orjson.JSONDecodeError, RequestError):
            pass  # not JSON, or nested more deeply than can be written: a text like any other
        else:
            return _Document(before, value, after, raw=text)
    return _Document(before, text, after)


def _texts_in(value: object, path: _Path = ()) -> Iterator[_Path]:
    """Where texts stand in a document."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _texts_in(member, (*path, name))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _texts_in(item, (*path, place))


def _at(value: object, path: _Path) -> object:
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


def _with(value: object, path: _Path, text: str) -> object:
    """The same value with another text at one place; what it is made of is left as it is."""
    if not path:
        return text
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, step: _with(value[step], rest, text)}
    items = list(value)  # type: ignore[call-overload]
    items[int(step)] = _with(items[int(step)], rest, text)
    return items


def _marked(parts: list[str], spans: Sequence[Span]) -> list[str]:
    """Texts that follow each other, with a mark where each credential begins."""
    if not spans:
        return parts
    text = "".join(parts)
    result: list[str] = []
    start = 0
    for part in parts:
        end = start + len(part)
        pieces: list[str] = []
        at = start
        for span in spans:
            if span.end <= start or span.start >= end:
                continue
            pieces.append(text[at : max(at, span.start)])
            if span.start >= start:
                pieces.append(mark_of(span.kind, text[span.start : span.end]))
            at = min(span.end, end)
        pieces.append(text[at:end])
        result.append("".join(pieces))
        start = end
    return result


def _without_spelling(value: object) -> object:
    """The same object if it has no such member."""
    if isinstance(value, dict):
        members = {
            name: None if name in _SPELLED else _without_spelling(member)
            for name, member in value.items()
        }
        return value if all(members[name] is value[name] for name in value) else members
    if isinstance(value, list):
        items = [_without_spelling(item) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value
