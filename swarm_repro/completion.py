"""What came back: bytes, token usage, and equality but for what is volatile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import orjson

from swarm_repro import dialects
from swarm_repro.canonical import encode_canonical, sha256_hex
from swarm_repro.errors import BackendResponseError, RequestError

#: Content type of an answer that never was HTTP: the JSON form of the dict that was returned.
IN_PROCESS = "application/json; in-process"

_EVENT_STREAM = "text/event-stream"
#: Content type of a stream that never was HTTP: an event for each dict that was returned.
IN_PROCESS_STREAM = f"{_EVENT_STREAM}; in-process"
#: Content type of a body that is one JSON document a line, as Ollama's streams are.
_NDJSON = "application/x-ndjson"
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


@dataclass(frozen=True, init=False)
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

    def __init__(
        self, status: int, content_type: str, body: bytes, duration_s: float = 0.0
    ) -> None:
        """Describe an answer; as for a request, a frozen class's own way takes far longer."""
        members = self.__dict__
        members["status"], members["content_type"] = status, content_type
        members["body"], members["duration_s"] = body, duration_s

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.content_type.startswith(_EVENT_STREAM)

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
        if self.is_stream:
            return [orjson.loads(data) for data in dialects.documents_of_events(self.body)]
        if self.content_type.startswith(_NDJSON):
            return [orjson.loads(line) for line in self.body.split(b"\n") if line.strip()]
        return [orjson.loads(self.body)]

    @cached_property
    def usage(self) -> TokenUsage:
        """Token counts, from wherever the backend put them; unknown where it is not JSON."""
        try:
            documents = self.documents
        except orjson.JSONDecodeError:
            return TokenUsage()
        for document in reversed(documents):
            counts = dialects.token_counts(document)
            if counts is not None:
                return TokenUsage(**counts)
        return TokenUsage()

    @cached_property
    def text(self) -> str:
        """What the model said: the message, the completion, or the joined deltas of a stream."""
        return dialects.said(self.documents)

    @cached_property
    def stable_sha256(self) -> str:
        """SHA-256 of what a repeat of the same computation gives again.

        Volatile fields (ids, dates, timings, the echoed model name) are left out.
        """
        try:
            stable = [dialects.stable_document(document) for document in self.documents]
            return sha256_hex(encode_canonical([self.status, self.is_stream, stable]))
        except (orjson.JSONDecodeError, RequestError):
            return self.sha256  # not JSON, or nested too deeply to tell its members apart


def same_but_volatile(one: Completion, other: Completion) -> bool:
    """Whether two answers differ at most in ids, dates, timings and the echoed model name."""
    return one.stable_sha256 == other.stable_sha256


def is_streamed(content_type: str) -> bool:
    """Whether a body of this type comes piece by piece, each of them a document."""
    return content_type.startswith((_EVENT_STREAM, _NDJSON))


def require_completion(completion: Completion, *, url: str) -> None:
    """Refuse an answer that is no completion, so that it is never recorded as one.

    Args:
        completion: The answer.
        url: Where it came from, for the message.

    Raises:
        BackendResponseError: A status other than 200, a body that is not JSON, a stream that
            broke off, an error object.
    """
    documents = _require_whole(completion, url=url)
    for document in documents or [None]:
        if not isinstance(document, dict) or "error" in document or not _MARKS & document.keys():
            raise BackendResponseError(
                f"{url} answered with no completion: {_shown(completion)}",
                status=completion.status,
            )


def require_answer(completion: Completion, *, url: str) -> None:
    """Refuse an answer of an API of which nothing is known but how it reports errors.

    Arguments and errors as for ``require_completion``; any status from 200 to 299 and any JSON, or
    text that does not call itself JSON, will do.
    """
    for document in _require_whole(completion, url=url, of_any_api=True):
        if dialects.has_error(document):
            raise BackendResponseError(
                f"{url} answered with an error: {_shown(completion)}", status=completion.status
            )


def _require_whole(completion: Completion, *, url: str, of_any_api: bool = False) -> list[object]:
    """The documents of an answer that succeeded and came to its end."""
    shown = _shown(completion)
    if completion.status != 200 and not (of_any_api and 200 < completion.status < 300):
        raise BackendResponseError(
            f"{url} answered HTTP {completion.status}: {shown}", status=completion.status
        )
    try:
        documents = completion.documents
    except orjson.JSONDecodeError as error:
        if of_any_api and "json" not in completion.content_type:
            return []
        raise BackendResponseError(
            f"{url} answered with a broken body: {error}", status=completion.status
        ) from error
    if is_streamed(completion.content_type) and (
        not dialects.is_whole_stream(completion.body, documents)
        or completion.body.startswith(_ERROR_EVENT)
        or _EVENT_END + _ERROR_EVENT in completion.body
    ):
        raise BackendResponseError(
            f"the stream from {url} broke off: {shown}", status=completion.status
        )
    return documents


def _shown(completion: Completion) -> str:
    return _printable(completion.body[:300].decode("utf-8", "replace"))


def _printable(text: str) -> str:
    """What a server said, on one line and without what could drive a terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()
