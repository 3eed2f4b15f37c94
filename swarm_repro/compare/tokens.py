"""The tokens of a completion, with their logprobs, wherever a backend puts them.

Sources: llama.cpp, tools/server/README.md (``logprobs``, ``completion_probabilities``, ``tokens``);
llama-cpp-python, ``llama_types.py`` (``CompletionLogprobs``, ``ChatCompletionLogprobs``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from swarm_repro.completion import Completion

#: llama-server writes the lowest float32 where it means minus infinity.
_NO_LOGPROB = -1e30


@dataclass(frozen=True)
class Token:
    """One token of a completion, or one that could have stood in its place.

    Attributes:
        text: What it says; empty for a part of a character; None where only the id is known.
        data: Its bytes in UTF-8, or None where the backend does not show them.
        id: Its number in the model's vocabulary, or None.
        logprob: Natural logarithm of its probability under the model, before sampling, or None.
        top: The most likely tokens of its place, best first, as far as they were recorded.
    """

    text: str | None
    data: bytes | None = None
    id: int | None = None
    logprob: float | None = None
    top: tuple[Token, ...] = ()

    def is_same(self, other: Token) -> bool:
        """Whether both are one token, by all that is known of both."""
        if self.id is not None and other.id is not None and self.id != other.id:
            return False
        if self.data is not None and other.data is not None:
            return self.data == other.data
        if self.text is not None and other.text is not None:
            return self.text == other.text
        return self.id is not None and other.id is not None

    def is_listed_as(self, other: Token) -> bool:
        """Whether a token of a list of likely ones is this one, whatever bytes came with it."""
        if self.id is not None and other.id is not None:
            return self.id == other.id
        return self.is_same(other)

    @property
    def swallowed(self) -> bytes | None:
        """Bytes of the tokens just before it that are shown together with it.

        llama-server shows a character that takes several tokens as the last of them. Lists of
        likely tokens hold its own bytes, so that the rest can be told.

        Returns:
            The bytes, or None where they cannot be told from its own.
        """
        if self.data is None or self.data.isascii():
            return b""
        listed = next((token for token in self.top if self.is_listed_as(token)), None)
        if listed is None or listed.data is None or not self.data.endswith(listed.data):
            return None
        return self.data[: len(self.data) - len(listed.data)]

    @property
    def shown(self) -> str:
        r"""Its text; bytes that are no whole character as ``\xf0``; a bare id as ``<id 57>``."""
        if self.data is not None:
            return self.data.decode("utf-8", "backslashreplace")
        return f"<id {self.id}>" if self.text is None else self.text

    @property
    def is_hidden(self) -> bool:
        """Whether nothing tells it apart: a part of a character, in process."""
        return not self.text and self.data is None and self.id is None

    @property
    def encoded(self) -> bytes | None:
        """Its bytes, or None where they cannot be told."""
        if self.data is not None:
            return self.data
        return self.text.encode("utf-8", "surrogatepass") if self.text else None


@dataclass(frozen=True)
class Written:
    """A completion's text within the bytes of its tokens.

    They can be more than the text: a chat answer leaves out reasoning, and the Markdown fence in
    which a model writes JSON.

    Attributes:
        tokens: The tokens.
        starts: The byte that each begins at.
        data: The bytes of all.
        lead: The byte that the text begins at.
    """

    tokens: tuple[Token, ...]
    starts: tuple[int, ...]
    data: bytes
    lead: int

    @classmethod
    def make(cls, text: str, tokens: Sequence[Token]) -> Written | None:
        """Find a text in its tokens.

        Args:
            text: What the completion says.
            tokens: Its tokens.

        Returns:
            The text's place, or None where it is not there as it is, or bytes are not shown.
        """
        parts = [token.encoded for token in tokens]
        known = [part for part in parts if part is not None]
        data = b"".join(known)
        lead = data.find(text.encode("utf-8", "surrogatepass"))
        if not tokens or len(known) < len(parts) or lead < 0:
            return None
        starts = accumulate(map(len, known[:-1]), initial=0)
        return cls(tuple(tokens), tuple(starts), data, lead)

    def token_after(self, before: bytes) -> int | None:
        """Index of the token that goes on past a beginning of the text, or ends the text there.

        Args:
            before: The beginning, in UTF-8.

        Returns:
            The index, or None: the text begins otherwise, or no token follows.
        """
        place = self.lead + len(before)
        if self.data[self.lead : place] != before:
            return None
        ends = (*self.starts[1:], len(self.data))
        last = len(ends) - 1
        for index, end in enumerate(ends):
            if end > place or (index == last and self.starts[last] == place):
                return index
        return None

    def character(self, index: int) -> int:
        """Index of the text's character that a token begins at, or in.

        Args:
            index: The token's index; that of no token stands for the end.
        """
        start = self.starts[index] if index < len(self.starts) else len(self.data)
        return len(self.data[self.lead : start].decode("utf-8", "ignore"))


def read_tokens(completion: Completion) -> tuple[Token, ...] | None:
    """The tokens a completion shows: logprobs of either API, llama-server's own, or bare ids.

    Of a stream all events together.

    Returns:
        The tokens in the order of the text, or None where the completion shows none.

    Raises:
        orjson.JSONDecodeError: The body is not JSON.
    """
    documents = [document for document in completion.documents if isinstance(document, dict)]
    found: list[Token] = []
    for document in documents:
        found.extend(_from_choices(document))
    for read in (_from_probabilities, _from_ids):
        for members in (documents, [_mapping(d.get("__verbose")) for d in documents]):
            if not found:
                found = [token for member in members for token in read(member)]
    return tuple(found) or None


def comparable(a: Iterable[Token], b: Iterable[Token]) -> bool:
    """Whether tokens of two completions can be told apart: by id, or by text."""
    both = (*a, *b)
    return all(token.id is not None for token in both) or all(
        token.text is not None for token in both
    )


def _from_choices(document: Mapping[str, object]) -> Iterable[Token]:
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        logprobs = _mapping(_mapping(choice).get("logprobs"))
        content = logprobs.get("content")
        if isinstance(content, list):
            yield from map(_token, content)
        elif isinstance(logprobs.get("tokens"), list):
            yield from _from_legacy(logprobs)


def _from_legacy(logprobs: Mapping[str, object]) -> Iterable[Token]:
    """The old completions form: one list a property, the most likely tokens as an object."""
    texts = _list(logprobs.get("tokens"))
    values = _list(logprobs.get("token_logprobs"))
    tops = _list(logprobs.get("top_logprobs"))
    for place, text in enumerate(texts):
        top = _mapping(tops[place]) if place < len(tops) else {}
        yield Token(
            text=str(text),
            logprob=_logprob(values[place]) if place < len(values) else None,
            top=_best_first(Token(text=name, logprob=_logprob(top[name])) for name in top),
        )


def _from_probabilities(document: Mapping[str, object]) -> Iterable[Token]:
    return map(_token, _list(document.get("completion_probabilities")))


def _from_ids(document: Mapping[str, object]) -> Iterable[Token]:
    return (
        Token(text=None, id=number)
        for number in _list(document.get("tokens"))
        if isinstance(number, int)
    )


def _token(item: object) -> Token:
    """A token of the form ``{id, token, bytes, logprob, top_logprobs}``, or with ``prob``."""
    members = _mapping(item)
    number, data = members.get("id"), members.get("bytes")
    top = members.get("top_logprobs", members.get("top_probs"))
    return Token(
        text=str(members.get("token", "")),
        data=bytes(data) if isinstance(data, list) else None,
        id=number if isinstance(number, int) else None,
        logprob=_logprob_of(members),
        top=_best_first(map(_token, _list(top))),
    )


def _logprob_of(members: Mapping[str, object]) -> float | None:
    if "prob" not in members:
        return _logprob(members.get("logprob"))
    probability = members["prob"]
    if not isinstance(probability, (int, float)) or not 0 < probability <= 1:
        return None
    return math.log(probability)


def _logprob(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if value > _NO_LOGPROB else None


def _best_first(tokens: Iterable[Token]) -> tuple[Token, ...]:
    known = [token for token in tokens if token.logprob is not None]
    return tuple(sorted(known, key=lambda token: -(token.logprob or 0.0)))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
