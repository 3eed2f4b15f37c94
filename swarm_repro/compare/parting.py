"""Where two completions part: by token where tokens are known, else by character."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm_repro.compare.tokens import Token, Written, comparable, read_tokens
from swarm_repro.completion import Completion
from swarm_repro.difference import first_difference

#: Characters shown on each side of a parting.
_CONTEXT = 40

#: What noise of the arithmetic is taken to move at least, in nats: it may begin at the very place
#: where two completions part, with a second client or at the edge of a batch, so that nothing of it
#: is seen before. This is the median movement of the margin between the two likeliest tokens of a
#: place between servers whose arithmetic differs: SmolLM2-135M in Q4_1, flash attention on and off,
#: two builds; 0.095 to 0.112 over 450 places. Threads, repacking and micro-batches moved nothing
#: there. Source: docs/explanation/nondeterminism.md.
NOISE_FLOOR = 0.1
#: The most that it is taken to move, in nats: the largest movement seen there was 0.737. Logprobs
#: that differ by more have another reason, such as another model. Source: the same.
NOISE_CEILING = 0.75

Tokenize = Callable[[str], list[str]]


@dataclass(frozen=True)
class Candidate:
    r"""A token that stood, or could have stood, where two completions part.

    Attributes:
        token: Its text; bytes that are no whole character as ``\xf0``.
        logprob: Natural logarithm of its probability under the model, before sampling.
    """

    token: str
    logprob: float | None

    def to_json(self) -> dict[str, object]:
        """As it stands in reports."""
        return {"token": self.token, "logprob": self.logprob}


@dataclass(frozen=True)
class Parting:
    """The place at which two completions part.

    Attributes:
        unit: What ``index`` counts.
        index: The first token, or character, in which they differ, from 0.
        character: Index of the character at which the place begins, from 0; both texts are the
            same before it.
        a_before: What both say before, at most 40 characters.
        a: How the first goes on, at most 40 characters.
        b: How the second goes on, at most 40 characters.
        a_candidates: The most likely tokens of the place as the first recorded them, the chosen
            one among them, best first; empty without logprobs.
        b_candidates: The same of the second.
        margin: Difference of the logprobs of the two chosen tokens, the larger of what both sides
            show, in nats; None where neither side shows both.
        drift: Largest difference of a token's logprob on both sides before the place, in nats;
            None without logprobs.
        near_tie: Whether arithmetic can have turned the one token into the other; None where the
            logprobs at hand do not tell. See ``is_near_tie``.
    """

    unit: Literal["token", "character"]
    index: int
    character: int
    a_before: str
    a: str
    b: str
    a_candidates: tuple[Candidate, ...] = ()
    b_candidates: tuple[Candidate, ...] = ()
    margin: float | None = None
    drift: float | None = None
    near_tie: bool | None = None

    def to_json(self) -> dict[str, object]:
        """As it stands in reports."""
        return {
            "unit": self.unit,
            "index": self.index,
            "character": self.character,
            "a_before": self.a_before,
            "a": self.a,
            "b": self.b,
            "a_candidates": [candidate.to_json() for candidate in self.a_candidates],
            "b_candidates": [candidate.to_json() for candidate in self.b_candidates],
            "margin": self.margin,
            "drift": self.drift,
            "near_tie": self.near_tie,
        }


def part(a: Completion, b: Completion, *, tokenize: Tokenize | None = None) -> Parting | None:
    """Find where two completions part.

    Tokens are those the completions show. Where only one shows them, or their kinds cannot be
    compared, both texts are cut by ``tokenize``, or compared by character.

    Args:
        a: One completion.
        b: The other.
        tokenize: Cuts a text into the texts of its tokens.

    Returns:
        The place, or None: the same tokens, or, where tokens are not known, the same text. What is
        no text, such as a tool call, is not looked at.

    Raises:
        orjson.JSONDecodeError: A body is not JSON.
    """
    by_token: Parting | None = None
    a_tokens, b_tokens = read_tokens(a), read_tokens(b)
    if a_tokens and b_tokens and comparable(a_tokens, b_tokens):
        by_token = _part_by_tokens(a.text, b.text, a_tokens, b_tokens)
    elif tokenize is not None and a.text != b.text:
        by_token = _part_by_tokens(
            a.text,
            b.text,
            [Token(text=text) for text in tokenize(a.text)],
            [Token(text=text) for text in tokenize(b.text)],
        )
    if by_token is None and a.text != b.text:
        return _part_by_characters(a.text, b.text)
    return by_token


def logprob_drift(a: Completion, b: Completion) -> float | None:
    """How far two backends' logprobs are apart where their texts agree.

    Args:
        a: One completion.
        b: The other.

    Returns:
        The largest difference of the logprobs of one token, over the tokens both begin with, in
        nats; None where there is no such token, or no logprobs.

    Raises:
        orjson.JSONDecodeError: A body is not JSON.
    """
    a_tokens, b_tokens = read_tokens(a) or (), read_tokens(b) or ()
    if not comparable(a_tokens, b_tokens):
        return None
    return _drift(a_tokens, b_tokens, _shared(a_tokens, b_tokens))


def is_near_tie(margin: float, noise: float | None) -> bool:
    """Whether noise of the arithmetic suffices to swap two tokens.

    Args:
        margin: Difference of the two tokens' logprobs, in nats.
        noise: How far noise was seen to move such a margin, in nats; None where nothing is known
            of it. Taken as no less than ``NOISE_FLOOR`` and no more than ``NOISE_CEILING``.
    """
    return margin <= min(max(noise or 0.0, NOISE_FLOOR), NOISE_CEILING)


def part_beside(a: Completion, b: Completion, witness: Completion) -> Parting | None:
    """Find where two texts part, with the logprobs of a third answer to the same request.

    For recordings without logprobs: a live backend is asked once more, with them.

    Args:
        a: One completion.
        b: The other.
        witness: A completion with tokens that begins as both do; its candidates are given as
            those of ``b``.

    Returns:
        The place by tokens of the witness, or as ``part`` finds it where the witness does not
        reach it; None where the texts are the same.

    Raises:
        orjson.JSONDecodeError: A body is not JSON.
    """
    plain = part(a, b)
    if plain is None or plain.b_candidates:
        return plain
    a_data, b_data = _encoded(a.text), _encoded(b.text)
    common = _shared_bytes(a_data, b_data)
    written = Written.make(witness.text, read_tokens(witness) or ())
    index = None if written is None else written.token_after(a_data[:common])
    if written is None or index is None:
        return plain
    token = written.tokens[index]
    listed = _listed(token)
    place = written.lead + common
    start = written.starts[index]
    character = min(written.character(index), plain.character)
    margin: float | None = None
    if token.swallowed is not None and start + len(token.swallowed) <= place:
        shared = written.data[start + len(token.swallowed) : place]
        one = _begins(listed, shared, a_data[common:])
        other = _begins(listed, shared, b_data[common:])
        margin = None if one is None or other is None else abs(one - other)
    return _parting(
        a.text,
        b.text,
        unit="token",
        index=index,
        character=character,
        b_candidates=listed,
        margin=margin,
        near_tie=None if margin is None else is_near_tie(margin, None),
    )


def _begins(listed: Sequence[Token], shared: bytes, rest: bytes) -> float | None:
    """Logprob of the likeliest token by which a text can go on past where it parts.

    A text that ends there ends with a token without text.

    Args:
        listed: The tokens.
        shared: What the token covers of the text before the place.
        rest: The text from the place on.
    """
    for token in listed:
        data = token.encoded
        if data is not None and (
            ((shared + rest).startswith(data) and len(data) > len(shared))
            or not (shared or rest or data)
        ):
            return token.logprob
    return None


def _part_by_characters(a: str, b: str) -> Parting:
    at = first_difference(a, b)
    return _parting(a, b, unit="character", index=at, character=at)


def _part_by_tokens(
    a: str, b: str, a_tokens: Sequence[Token], b_tokens: Sequence[Token]
) -> Parting | None:
    """The first place where tokens differ; None where none does, or the place cannot be told."""
    index = _shared(a_tokens, b_tokens)
    if index == len(a_tokens) == len(b_tokens):
        return None
    if a != b and any(token.is_hidden for token in (*a_tokens[:index], *b_tokens[:index])):
        return None  # among the tokens taken for equal is one whose bytes are not shown
    one = a_tokens[index] if index < len(a_tokens) else None
    other = b_tokens[index] if index < len(b_tokens) else None
    drift = _drift(a_tokens, b_tokens, index)
    noise = max(2 * (drift or 0.0), _margin_noise(a_tokens[:index], b_tokens[:index]))
    margin, at_least = _margin(one, other)
    near_tie: bool | None = None
    if margin is not None:
        near_tie = is_near_tie(margin, noise)
    elif at_least is not None and not is_near_tie(at_least, noise):
        near_tie = False
    return _parting(
        a,
        b,
        unit="token",
        index=index,
        character=_character(a, b, a_tokens, b_tokens, index),
        a_candidates=_listed(one),
        b_candidates=_listed(other),
        margin=margin,
        drift=drift,
        near_tie=near_tie,
    )


def _parting(
    a: str,
    b: str,
    *,
    unit: Literal["token", "character"],
    index: int,
    character: int,
    a_candidates: Iterable[Token] = (),
    b_candidates: Iterable[Token] = (),
    margin: float | None = None,
    drift: float | None = None,
    near_tie: bool | None = None,
) -> Parting:
    return Parting(
        unit=unit,
        index=index,
        character=character,
        a_before=a[max(0, character - _CONTEXT) : character],
        a=a[character : character + _CONTEXT],
        b=b[character : character + _CONTEXT],
        a_candidates=tuple(Candidate(token.shown, token.logprob) for token in a_candidates),
        b_candidates=tuple(Candidate(token.shown, token.logprob) for token in b_candidates),
        margin=margin,
        drift=drift,
        near_tie=near_tie,
    )


def _shared(a: Sequence[Token], b: Sequence[Token]) -> int:
    """How many tokens both begin with."""
    shared = 0
    for one, other in zip(a, b, strict=False):
        if not one.is_same(other):
            break
        shared += 1
    return shared


def _drift(a: Sequence[Token], b: Sequence[Token], shared: int) -> float | None:
    return max(
        (
            abs(one.logprob - other.logprob)
            for one, other in zip(a[:shared], b[:shared], strict=True)
            if one.logprob is not None and other.logprob is not None
        ),
        default=None,
    )


def _margin_noise(a: Sequence[Token], b: Sequence[Token]) -> float:
    """How far the margin of two tokens moved between the sides where both still agree.

    Looked at are the two likeliest tokens of each place on either side. Where few tokens are shared
    or all were all but certain, twice the drift says too little: a likely token's logprob hardly
    moves.
    """
    largest = 0.0
    for one, other in zip(a, b, strict=True):
        for pair in (one.top[:2], other.top[:2]):
            then, now = _gap(one, pair), _gap(other, pair)
            if then is not None and now is not None:
                largest = max(largest, abs(then - now))
    return largest


def _gap(place: Token, pair: Sequence[Token]) -> float | None:
    """Difference of two tokens' logprobs at a place, or None where it does not list both."""
    found = [listed.logprob for token in pair for listed in place.top if token.is_listed_as(listed)]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    return found[0] - found[1]


def _margin(one: Token | None, other: Token | None) -> tuple[float | None, float | None]:
    """The margin of two tokens; where no side lists both, what it is at least."""
    if one is None or other is None:
        return None, None
    if one.swallowed is None or one.swallowed != other.swallowed:
        return None, None  # they part before the tokens whose logprobs are shown
    margins: list[float] = []
    bounds: list[float] = []
    for chosen, rival in ((one, other), (other, one)):
        if chosen.logprob is None:
            continue
        listed = next((token for token in chosen.top if rival.is_listed_as(token)), None)
        if listed is not None and listed.logprob is not None:
            margins.append(abs(chosen.logprob - listed.logprob))
        elif chosen.top:
            # What is not listed is no likelier than the last that is.
            bounds.append(chosen.logprob - (chosen.top[-1].logprob or 0.0))
    return max(margins, default=None), max(bounds, default=None)


def _listed(token: Token | None) -> tuple[Token, ...]:
    """The most likely tokens of a place, with the chosen one."""
    if token is None or token.logprob is None:
        return ()
    if any(token.is_listed_as(listed) for listed in token.top):
        return token.top
    return tuple(sorted((*token.top, token), key=lambda listed: -(listed.logprob or 0.0)))


def _character(
    a: str, b: str, a_tokens: Sequence[Token], b_tokens: Sequence[Token], index: int
) -> int:
    """Where the token begins in the text, if the tokens add up to it; else where texts part."""
    at = first_difference(a, b)
    for text, tokens in ((a, a_tokens), (b, b_tokens)):
        written = Written.make(text, tokens)
        if written is not None:
            at = min(at, written.character(index))
    return at


def _shared_bytes(a: bytes, b: bytes) -> int:
    shared = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
