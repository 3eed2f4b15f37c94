"""What was asked: the identity of a call, its key, and the seeds derived from it.

Source: docs/reference/key.md, which publishes the recipe with test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from swarm_repro import sampling
from swarm_repro.canonical import encode_canonical, encode_json, in_order
from swarm_repro.errors import RequestError
from swarm_repro.model import ModelBinding
from swarm_repro.once import once

if TYPE_CHECKING:
    _Hash: TypeAlias = "hashlib._Hash"

KEY_VERSION = "sr1"
_KEY_BEGINS = f"{KEY_VERSION}:"

Endpoint = Literal["chat", "completion", "embedding", "opaque"]

#: Seeds that llama.cpp takes to mean "draw one": they never leave this package.
RANDOM_SEEDS = (-1, 0xFFFFFFFF)

_CAPTURE = frozenset(
    {
        "stream",
        "stream_options",
        "logprobs",
        "n_probs",
        "top_logprobs",
        "verbose",
        "timings_per_token",
        "return_progress",
        "return_tokens",
    }
)
_INPUT = frozenset(
    {
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "grammar",
        "json_schema",
        "add_generation_prompt",
        "continue_final_message",
        "reasoning_format",
        "reasoning_effort",
        "reasoning_budget",
        "prompt",
        "suffix",
        "input",
    }
)
#: Member order changes the completion: llama-server answers in the schema's order.
_ORDERED = frozenset({"tools", "functions", "response_format", "json_schema"})
#: Members that are no part of the key. The model is there by its identity.
OUTSIDE_KEY = frozenset({"model", "user", "seed", "metadata", "safety_identifier", "store"})
#: Of these calls a seed decides the answer; others get none, and no fields of a cassette.
SAMPLED: frozenset[Endpoint] = frozenset({"chat", "completion"})
#: The part of the key that a member is in, None for none; what is not here is in ``unknown``.
_PART: Mapping[str, str | None] = {
    **dict.fromkeys(sampling.CANONICAL_NAME, "sampling"),
    **dict.fromkeys(_CAPTURE, "capture"),
    **dict.fromkeys(_INPUT - _ORDERED, "input"),
    **dict.fromkeys(_ORDERED, "ordered"),
    **dict.fromkeys(OUTSIDE_KEY, None),
    "chat_template_kwargs": "template",
}
#: Not hashed where it holds nothing.
_ABSENT: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True, init=False)
class Request:
    """One call as the caller asked it, with the fields of the scenario or cassette applied.

    Attributes:
        endpoint: The kind of call.
        binding: The model it goes to.
        path: The URL path (``/v1/chat/completions``), or the method called in process. Of an
            ``opaque`` call method, path and query (``POST /v1/messages?beta=true``).
        body: The request's members, in the caller's order. In process: the keyword arguments.
        kind: What the call is for (``act``, ``accept``, a council stage), if known.
    """

    endpoint: Endpoint
    binding: ModelBinding
    path: str
    body: Mapping[str, object]
    kind: str | None = field(default=None, compare=False)

    def __init__(
        self,
        endpoint: Endpoint,
        binding: ModelBinding,
        path: str,
        body: Mapping[str, object],
        kind: str | None = None,
    ) -> None:
        """Describe a call. Every call makes one, and a frozen class's own way takes far longer."""
        members = self.__dict__
        members["endpoint"], members["binding"], members["path"] = endpoint, binding, path
        members["body"], members["kind"] = body, kind

    @once
    def seed(self) -> int | None:
        """The caller's seed, or None where none was given (unset, -1 or 4294967295).

        What another API takes a seed to be is not known: in an ``opaque`` body it is like any
        other member.

        Raises:
            RequestError: A seed that is no uint32.
        """
        given = None if self.endpoint == "opaque" else self.body.get("seed")
        return None if given is None else normalise_seed(given)

    @property
    def sampling(self) -> dict[str, object]:
        """The fields that can change tokens; see ``ModelBinding.effective_sampling``."""
        return self.binding.effective_sampling(self.endpoint, self.body)

    def with_seed(self, seed: int) -> Request:
        """The same call with another seed: what is sent."""
        return Request(
            endpoint=self.endpoint,
            binding=self.binding,
            path=self.path,
            body={**self.body, "seed": seed},
            kind=self.kind,
        )

    def key(self, *, seed: int | None) -> str:
        """The key of this call with a given seed.

        Args:
            seed: The caller's seed gives the asked key, the seed that goes out the sent key.

        Returns:
            ``sr1:`` and 64 hexadecimal digits.

        Raises:
            RequestError: The request has no canonical form.
        """
        begun, after = self._begun
        hashed = begun.copy()
        hashed.update((b"null" if seed is None else b"%d" % seed) + after)
        return _KEY_BEGINS + hashed.hexdigest()

    @property
    def asked_key(self) -> str:
        """The key with the caller's seed: what a recording is found by, within its scope."""
        return self.key(seed=self.seed if "seed" in self.body else None)

    def identity(self, *, seed: int | None) -> bytes:
        """The canonical JSON that is hashed."""
        before, after = self._encode()
        return before + (b"null" if seed is None else b"%d" % seed) + after

    # The members of the identity are sorted, so that all but the seed is encoded and hashed once
    # and serves both keys: capture, endpoint, input, model, sampling | seed | template, unknown.

    @once
    def _begun(self) -> tuple[_Hash, bytes]:
        """The hash of what comes before the seed, and what comes after it."""
        before, after = self._encode()
        return hashlib.sha256(before), after

    def _encode(self) -> tuple[bytes, bytes]:
        """What comes before the seed, and what comes after it."""
        frame = self.binding.frame(self.endpoint)
        if self.endpoint == "opaque":
            asked = encode_canonical(self._opaque_input())
            return b"".join((frame.before_input, asked, frame.sampling({}))), frame.after_seed
        capture: dict[str, object] = {}
        given: dict[str, object] = {}
        sampled: dict[str, object] = {}
        unknown: dict[str, object] = {}
        template_kwargs: object = None
        finite = True
        for name, value in self.body.items():
            part = _PART.get(name, "unknown")
            if part is None:
                continue
            if part == "input":
                if name == "messages" and _are_plain(value):
                    given[name] = value
                elif value or value not in _ABSENT:
                    finite = False
                    given[name] = _ordered_inside(value) if name == "messages" else value
            elif part == "sampling":
                sampled[name] = value
            elif part == "unknown":
                unknown[name] = in_order(value)
            elif part == "capture":
                if value is not None and value is not False:
                    capture[name] = value
            elif part == "ordered":
                if value or value not in _ABSENT:
                    given[name] = in_order(value)
            elif part == "template":
                template_kwargs = value
        if frame.grammar is not None and "grammar" not in given and "json_schema" not in given:
            given["grammar"] = frame.grammar
        before = frame.before(encode_canonical(capture)) if capture else frame.before_input
        asked = encode_canonical(given, finite=finite)
        after = frame.after_seed
        if template_kwargs is not None or unknown:
            after = frame.after(template_kwargs, encode_canonical(unknown))
        return b"".join((before, asked, frame.sampling(sampled))), after

    def _opaque_input(self) -> dict[str, object]:
        method, _, target = self.path.partition(" ")
        path, _, query = target.partition("?")
        body = {name: _in_order_where_named(name, value) for name, value in self.body.items()}
        return {"body": body, "method": method, "path": path, "query": query}


#: Members of other APIs' bodies, wherever they stand, in which the order can change an answer:
#: schemas, tools, and what a model called tools with.
_ORDERED_IN_OPAQUE = _ORDERED | {
    "arguments",
    "format",
    "input_schema",
    "output_config",
    "output_format",
    "parameters",
    "schema",
    "text",
    "tool_calls",
}
#: Whose ``input`` holds a tool call's arguments.
_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


def _in_order_where_named(name: str, value: object) -> object:
    if not isinstance(value, (dict, list)):
        return value
    if name in _ORDERED_IN_OPAQUE:
        return in_order(value)
    if isinstance(value, list):
        return [_in_order_where_named("", item) for item in value]
    if value.get("type") in _TOOL_USES and "input" in value:
        value = {**value, "input": in_order(value["input"])}
    return {member: _in_order_where_named(member, inner) for member, inner in value.items()}


def _are_plain(messages: object) -> bool:
    """Whether there are messages, all of them of members that are texts, as most are."""
    if type(messages) is not list or not messages:
        return False
    for message in messages:
        if type(message) is not dict:
            return False
        for member in message.values():
            if type(member) is not str:
                return False
    return True


def _ordered_inside(messages: object) -> object:
    """Keep the member order of tool-call arguments, which a client may send as an object."""
    if not isinstance(messages, list):
        return messages
    if not any(isinstance(message, dict) and message.get("tool_calls") for message in messages):
        return messages
    return [
        {**message, "tool_calls": in_order(message["tool_calls"])}
        if isinstance(message, dict) and message.get("tool_calls")
        else message
        for message in messages
    ]


def normalise_seed(value: object) -> int | None:
    """A seed as llama.cpp reads it: uint32, or None for "draw one".

    Raises:
        RequestError: Neither a uint32 nor -1.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value in RANDOM_SEEDS:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise RequestError(f"seed {value!r} is no seed: use 0 to 4294967294, or -1 for random")
    return value


def event_seed(*, run_seed: int, scope: str, i: int) -> int:
    """The seed of the i-th call of a scope: the same whatever the prompt says.

    Args:
        run_seed: Seed of the run.
        scope: Who calls, such as an agent's id.
        i: Ordinal of the call in its scope, from 0.

    Returns:
        1 to 4294967294. Source: docs/reference/key.md, "Derived seeds".
    """
    return _derive(["event", run_seed, scope, i])


def content_seed(*, run_seed: int, scope: str, asked_key: str, n: int) -> int:
    """The seed of the n-th repeat of a call in its scope, for scopes whose calls overlap.

    Args:
        run_seed: Seed of the run.
        scope: Who calls.
        asked_key: The call's asked key.
        n: How many equal calls the scope has made before.

    Returns:
        1 to 4294967294. Source: docs/reference/key.md, "Derived seeds".
    """
    return _derive(["content", run_seed, scope, asked_key, n])


def _derive(parts: list[str | int]) -> int:
    digest = hashlib.sha256(encode_json([KEY_VERSION, *parts])).digest()
    # 0 turns random in llama-cpp-python, 4294967295 in llama.cpp: neither may come out.
    return int.from_bytes(digest[:8], "big") % 0xFFFFFFFE + 1
