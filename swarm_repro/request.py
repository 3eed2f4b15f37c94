"""What was asked: the identity of a call, its key, and the seeds derived from it.

Source: docs/reference/key.md, which publishes the recipe with test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from swarm_repro import sampling
from swarm_repro.canonical import embed, encode_canonical, encode_json, in_order
from swarm_repro.errors import RequestError
from swarm_repro.model import ModelBinding

KEY_VERSION = "sr1"

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
#: Not hashed where it holds nothing.
_ABSENT: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True)
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

    @cached_property
    def seed(self) -> int | None:
        """The caller's seed, or None where none was given (unset, -1 or 4294967295).

        What another API takes a seed to be is not known: in an ``opaque`` body it is like any
        other member.

        Raises:
            RequestError: A seed that is no uint32.
        """
        if self.endpoint == "opaque":
            return None
        return normalise_seed(self.body.get("seed"))

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
        digest = self._digest_before_seed.copy()
        digest.update(encode_canonical(seed) + self._after_seed)
        return f"{KEY_VERSION}:{digest.hexdigest()}"

    @property
    def asked_key(self) -> str:
        """The key with the caller's seed: what a recording is found by, within its scope."""
        return self.key(seed=self.seed)

    def identity(self, *, seed: int | None) -> bytes:
        """The canonical JSON that is hashed."""
        return self._before_seed + encode_canonical(seed) + self._after_seed

    @cached_property
    def _digest_before_seed(self) -> hashlib._Hash:
        return hashlib.sha256(self._before_seed)

    # The members of the identity are sorted, so that all but the seed can be encoded once and
    # serve both keys: capture, endpoint, input, model, sampling | seed | template, unknown.

    @cached_property
    def _before_seed(self) -> bytes:
        if self.endpoint == "opaque":
            return self._before_seed_of({}, self._opaque_input(), sampling={})
        capture: dict[str, object] = {}
        given: dict[str, object] = {}
        for name, value in self.body.items():
            if name in _CAPTURE:
                if value is not None and value is not False:
                    capture[name] = value
            elif name in _INPUT and value not in _ABSENT:
                given[name] = in_order(value) if name in _ORDERED else _ordered_inside(name, value)
        grammar = self.binding.defaults.get(self.endpoint, {}).get("grammar")
        if grammar and not any(name in given for name in ("grammar", "json_schema")):
            given["grammar"] = grammar
        return self._before_seed_of(capture, given, sampling=self.sampling)

    def _before_seed_of(
        self, capture: dict[str, object], given: dict[str, object], *, sampling: dict[str, object]
    ) -> bytes:
        encoded = encode_canonical(
            {
                "capture": capture,
                "endpoint": self.endpoint,
                "input": given,
                "model": embed(self.binding.encoded_identity),
                "sampling": sampling,
            }
        )
        return encoded[:-1] + b',"seed":'

    def _opaque_input(self) -> dict[str, object]:
        method, _, target = self.path.partition(" ")
        path, _, query = target.partition("?")
        body = {name: _in_order_where_named(name, value) for name, value in self.body.items()}
        return {"body": body, "method": method, "path": path, "query": query}

    @cached_property
    def _after_seed(self) -> bytes:
        if self.endpoint == "opaque":
            return b',"template":null,"unknown":{}}'
        unknown = {
            name: in_order(value) for name, value in self.body.items() if not _is_known(name)
        }
        template = (
            self.binding.encoded_template(self.body.get("chat_template_kwargs"))
            if self.endpoint == "chat"
            else b"null"
        )
        return b',"template":' + template + b',"unknown":' + encode_canonical(unknown) + b"}"


def _is_known(name: str) -> bool:
    return (
        name in _CAPTURE
        or name in _INPUT
        or name in OUTSIDE_KEY
        or name in sampling.CANONICAL_NAME
        or name == "chat_template_kwargs"
    )


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


def _ordered_inside(name: str, value: object) -> object:
    """Keep the member order of tool-call arguments, which a client may send as an object."""
    if name != "messages" or not isinstance(value, list):
        return value
    if not any(isinstance(message, dict) and message.get("tool_calls") for message in value):
        return value
    return [
        {**message, "tool_calls": in_order(message["tool_calls"])}
        if isinstance(message, dict) and message.get("tool_calls")
        else message
        for message in value
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
