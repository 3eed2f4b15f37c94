"""The requests an audit asks: built in, or drawn from a cassette."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from swarm_repro.audit.built_in import PROMPTS
from swarm_repro.canonical import encode_canonical
from swarm_repro.cassette.reader import read_cassette, reading
from swarm_repro.cassette.records import CallRecord
from swarm_repro.errors import UsageError
from swarm_repro.request import normalise_seed

#: Tokens of a completion to the built-in prompts: enough for a flip to show, cheap beside a prompt.
MAX_TOKENS: Final = 48

#: Every sampling field that llama-server and llama-cpp-python share, at llama-server's defaults:
#: the two libraries' own differ.
SAMPLING: Final[Mapping[str, object]] = {
    "max_tokens": MAX_TOKENS,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}

#: Seed of the first built-in prompt; of a recorded call that had none, too.
FIRST_SEED: Final = 42

#: What the audit sets itself, as an experiment wants it.
_SET_HERE: Final = frozenset(
    {"cache_prompt", "stream", "stream_options", "logprobs", "top_logprobs", "n_probs", "model"}
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request that is asked again and again.

    Attributes:
        name: How reports call it.
        source: "built in", or the cassette and the call it was taken from.
        endpoint: The kind of call.
        body: The request's members, but for those an experiment sets.
        tokens: Tokens of the rendered prompt, or None while unknown.
    """

    name: str
    source: str
    endpoint: Literal["chat", "completion"]
    body: Mapping[str, object] = field(repr=False)
    tokens: int | None = None

    @property
    def weight(self) -> float:
        """A rough cost, for estimates of the time left: characters of prompt and completion."""
        asked = self.body.get("max_tokens")
        answer = asked if isinstance(asked, int) and asked > 0 else MAX_TOKENS
        return len(encode_canonical(dict(self.body))) + 20.0 * answer

    def sharing_its_prefix(self) -> Prompt:
        """Another request that begins as this one does: the last message breaks off halfway."""
        name = "messages" if self.endpoint == "chat" else "prompt"
        return replace(
            self, name=f"half of {self.name}", body={**self.body, name: _halved(self.body[name])}
        )

    def of_another_turn(self, turn: int) -> Prompt:
        """The same call a turn later: the last message begins with other words."""
        name = "messages" if self.endpoint == "chat" else "prompt"
        value = _preceded(self.body[name], f"Turn {turn}.\n")
        return replace(self, name=f"{self.name}, turn {turn}", body={**self.body, name: value})


def built_in_prompts() -> tuple[Prompt, ...]:
    """The audit's own prompts, the longest first."""
    return tuple(
        Prompt(
            name=name,
            source="built in",
            endpoint="chat",
            body={
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": user},
                ],
                **SAMPLING,
                "seed": FIRST_SEED + number,
            },
        )
        for number, (name, system, user) in enumerate(PROMPTS)
    )


def prompts_of(cassette: Path, *, limit: int) -> tuple[Prompt, ...]:
    """Recorded requests, those with the longest prompts first, each body once.

    Args:
        cassette: The cassette.
        limit: How many at most.

    Raises:
        CassetteAccessError: Missing, or not to be read.
        CassetteDamagedError: Its bytes are not those that were written.
        UsageError: It holds no chat or text completion, or the limit is below one.
    """
    if limit < 1:
        raise UsageError(f"--prompts-limit is {limit}; give a number of at least 1")
    found: dict[bytes, Prompt] = {}
    for number, call in enumerate(read_cassette(cassette).calls.values()):
        with reading(cassette, call):
            prompt = _recorded(call, number, cassette.name)
        if prompt is not None:
            found.setdefault(encode_canonical(dict(prompt.body)), prompt)
    if not found:
        raise UsageError(
            f"{cassette} holds no chat or text completion to ask again; give another cassette, or"
            " leave --prompts out"
        )
    longest = sorted(found.values(), key=lambda prompt: (-(prompt.tokens or 0), -prompt.weight))
    return tuple(longest[:limit])


def _recorded(call: CallRecord, number: int, cassette: str) -> Prompt | None:
    if call.endpoint not in ("chat", "completion"):
        return None
    body = {name: value for name, value in call.body.items() if name not in _SET_HERE}
    if call.endpoint == "completion" and not isinstance(body.get("prompt"), str):
        return None  # token ids: no text to cut in half
    if normalise_seed(body.get("seed")) is None:
        body["seed"] = FIRST_SEED
    return Prompt(
        name=f"call {number}",
        source=f"{cassette} call {number}",
        endpoint=call.endpoint,
        body=body,
        tokens=call.tokens.get("prompt"),
    )


def _halved(value: object) -> object:
    if isinstance(value, str):
        return value[: len(value) // 2] or "."
    *before, last = _messages(value)
    content = last.get("content")
    return [*before, {**last, "content": _halved(content if isinstance(content, str) else "")}]


def _preceded(value: object, words: str) -> object:
    if isinstance(value, str):
        return words + value
    *before, last = _messages(value)
    content = last.get("content")
    return [*before, {**last, "content": words + (content if isinstance(content, str) else "")}]


def _messages(value: object) -> list[dict[str, object]]:
    messages = value if isinstance(value, list) else []
    return [*messages] or [{"role": "user", "content": ""}]
