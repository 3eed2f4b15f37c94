"""What came back: bytes, token usage, and equality but for what is volatile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import orjson

from swarm_repro.canonical import encode_canonical, sha256_hex
from swarm_repro.errors import BackendResponseError, RequestError

#: Content type of an answer that never was HTTP: the JSON form of the dict that was returned.
IN_PROCESS = "application/json; in-process"

_VOLATILE = frozenset({"id", "created", "timings", "system_fingerprint", "model", "id_slot"})
_EVENT = b"data: "
_EVENT_END = b"\n\n"
_ERROR_EVENT = b"error: "
#: Members of which every completion, event and embedding has one.
_MARKS = frozenset({"choices", "content", "data", "embedding"})


@dataclass(frozen=True)
class TokenUsage:
    """Token counts of one completion.

    Attributes:
        prompt: Tokens of the rendered prompt, or None where the backend does not say.
        completion: Tokens generated.
        total: Sum of both.
        cached: Prompt tokens taken from a cache instead of computed; 0 in strict mode.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None

    def to_json(self) -> dict[str, int | None]:
        """The ``tokens`` member of a call record."""
        return {
            "prompt": self.prompt,
            "completion": self.completion,
            "total": self.total,
            "cached": self.cached,
        }


@dataclass(frozen=True)
class Completion:
    """One answer of a backend.

    Attributes:
        status: HTTP status; 200 for an answer given in process.
        content_type: As the server sent it, or ``IN_PROCESS``.
        body: The bytes as they came. A stream: its events, joined. In process: JSON of the dict.
        duration_s: Seconds from sending the request to the last byte.
    """

    status: int
    content_type: str
    body: bytes
    duration_s: float = 0.0

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.content_type.startswith("text/event-stream")

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the body's bytes."""
        return sha256_hex(self.body)

    @cached_property
    def documents(self) -> list[object]:
        """The JSON values in the body: one, or one for each event of a stream.

        Raises:
            orjson.JSONDecodeError: The body is not JSON.
        """
        if not self.is_stream:
            return [orjson.loads(self.body)]
        return [
            orjson.loads(event[len(_EVENT) :])
            for event in self.body.split(_EVENT_END)
            if event.startswith(_EVENT) and event != b"data: [DONE]"
        ]

    @cached_property
    def usage(self) -> TokenUsage:
        """Token counts, from wherever the backend put them."""
        for document in reversed(self.documents):
            if not isinstance(document, dict):
                continue
            usage = document.get("usage")
            if isinstance(usage, dict):
                details = usage.get("prompt_tokens_details")
                return TokenUsage(
                    prompt=_count(usage, "prompt_tokens"),
                    completion=_count(usage, "completion_tokens"),
                    total=_count(usage, "total_tokens"),
                    cached=(
                        _count(details, "cached_tokens")
                        if isinstance(details, dict)
                        else _count(document.get("timings"), "cache_n")
                    ),
                )
            if "tokens_predicted" in document:
                prompt = _count(document, "tokens_evaluated")
                predicted = _count(document, "tokens_predicted")
                return TokenUsage(
                    prompt=prompt,
                    completion=predicted,
                    total=None if prompt is None or predicted is None else prompt + predicted,
                    cached=_count(document.get("timings"), "cache_n"),
                )
        return TokenUsage()

    @cached_property
    def text(self) -> str:
        """What the model said: the message, the completion, or the joined deltas of a stream."""
        parts: list[str] = []
        for document in self.documents:
            if not isinstance(document, dict):
                continue
            if isinstance(document.get("content"), str):
                parts.append(document["content"])
            choices = document.get("choices")
            parts.extend(map(_said, choices if isinstance(choices, list) else ()))
        return "".join(parts)

    @cached_property
    def stable_sha256(self) -> str:
        """SHA-256 of what a repeat of the same computation gives again.

        Volatile fields (ids, dates, timings, the echoed model name) are left out.
        """
        try:
            stable = [stable_document(document) for document in self.documents]
            return sha256_hex(encode_canonical([self.status, self.is_stream, stable]))
        except (orjson.JSONDecodeError, RequestError):
            return self.sha256  # not JSON, or nested too deeply to tell its members apart


def same_but_volatile(one: Completion, other: Completion) -> bool:
    """Whether two answers differ at most in ids, dates, timings and the echoed model name."""
    return one.stable_sha256 == other.stable_sha256


def require_completion(completion: Completion, *, url: str) -> None:
    """Refuse an answer that is no completion, so that it is never recorded as one.

    Args:
        completion: The answer.
        url: Where it came from, for the message.

    Raises:
        BackendResponseError: A status other than 200, a body that is not JSON, a stream that
            broke off, an error object.
    """
    shown = _printable(completion.body[:300].decode("utf-8", "replace"))
    if completion.status != 200:
        raise BackendResponseError(
            f"{url} answered HTTP {completion.status}: {shown}", status=completion.status
        )
    try:
        documents = completion.documents
    except orjson.JSONDecodeError as error:
        raise BackendResponseError(
            f"{url} answered with a broken body: {error}", status=completion.status
        ) from error
    if completion.is_stream and (
        not completion.body.rstrip().endswith(b"data: [DONE]")
        or completion.body.startswith(_ERROR_EVENT)
        or _EVENT_END + _ERROR_EVENT in completion.body
    ):
        raise BackendResponseError(
            f"the stream from {url} broke off: {shown}", status=completion.status
        )
    for document in documents or [None]:
        if not isinstance(document, dict) or "error" in document or not _MARKS & document.keys():
            raise BackendResponseError(
                f"{url} answered with no completion: {shown}", status=completion.status
            )


def _printable(text: str) -> str:
    """What a server said, on one line and without what could drive a terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _said(choice: object) -> str:
    """The text of a choice, of its message or of its delta; servers differ in their forms."""
    if not isinstance(choice, dict):
        return ""
    message = choice.get("message") or choice.get("delta")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        pieces = [piece.get("text") for piece in content if isinstance(piece, dict)]
        return "".join(piece for piece in pieces if isinstance(piece, str))
    text = content or choice.get("text")
    return text if isinstance(text, str) else ""


def _count(container: object, name: str) -> int | None:
    value = container.get(name) if isinstance(container, Mapping) else None
    return value if isinstance(value, int) else None


def stable_document(value: object) -> object:
    """A document without volatile members, and without the ids of its tool calls.

    Volatile are ids, dates, timings, the fingerprint and the echoed model name.
    """
    if not isinstance(value, dict):
        return value
    kept = {name: member for name, member in value.items() if name not in _VOLATILE}
    if isinstance(kept.get("__verbose"), dict):
        kept["__verbose"] = stable_document(kept["__verbose"])
    if isinstance(kept.get("choices"), list):
        kept["choices"] = [_stable_choice(choice) for choice in kept["choices"]]
    return kept


def _stable_choice(choice: object) -> object:
    if not isinstance(choice, dict):
        return choice
    kept = dict(choice)
    for part in ("message", "delta"):
        message = kept.get(part)
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
            kept[part] = {
                **message,
                "tool_calls": [
                    {k: v for k, v in call.items() if k != "id"} if isinstance(call, dict) else call
                    for call in message["tool_calls"]
                ],
            }
    return kept
