"""The record of a call as a value, in both formats.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, cast

from swarm_repro.cassette.header import FORMAT
from swarm_repro.cassette.lines import (
    LineError,
    decode_response,
    encode_response,
    intern,
    references,
    resolve,
)
from swarm_repro.completion import Completion
from swarm_repro.request import KEY_VERSION, Endpoint, Request

_KEY = re.compile(rf"{KEY_VERSION}:[0-9a-f]{{64}}")

#: What a call is stored and found by: scope, asked key, and which repeat of it this is.
CallId: TypeAlias = tuple[str, str, int]
#: Epoch and step of the simulation.
At: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class CallRecord:
    """One recorded call, with its texts kept apart.

    Attributes:
        scope: Who called.
        i: Ordinal of the call in its scope.
        n: Which repeat of the asked key in its scope.
        at: Epoch and step, or None outside a simulation.
        kind: What the call was for, if known.
        asked: Key with the caller's seed.
        sent: Key with the seed that went out.
        asked_seed: The caller's seed, or None.
        sent_seed: The seed that went out, or None under the policy ``as-is``.
        model: Name of the model record.
        env: SHA-256 of the environment record.
        endpoint: The kind of call.
        path: URL path, or method in process.
        stored_body: The request as sent, long texts replaced by references.
        stored_response: The response, likewise.
        tokens: Token counts.
        prompt_sha256: Digest of the rendered prompt, where the backend shows it.
        duration_s: How long the backend took.
        texts: All texts of the file, by digest.
        shared: Whether it was answered with an identical call that was in flight.
        from_cache: Whether it was answered from the machine-wide cache.
        masked: Kinds of the credentials that marks stand for, in ``request`` and ``response``.
    """

    scope: str
    i: int
    n: int
    at: At | None
    kind: str | None
    asked: str
    sent: str
    asked_seed: int | None
    sent_seed: int | None
    model: str
    env: str
    endpoint: Endpoint
    path: str
    stored_body: Mapping[str, object]
    stored_response: Mapping[str, object]
    tokens: Mapping[str, int | None]
    prompt_sha256: str | None
    duration_s: float
    texts: Mapping[str, str] = field(repr=False, compare=False)
    shared: bool = False
    from_cache: bool = False
    masked: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        *,
        request: Request,
        completion: Completion,
        scope: str,
        i: int,
        n: int,
        at: At | None,
        asked: str,
        sent: str,
        asked_seed: int | None,
        env: str,
        prompt_sha256: str | None,
        shared: bool = False,
        from_cache: bool = False,
        masked: Mapping[str, Sequence[str]] | None = None,
    ) -> CallRecord:
        """Record a call.

        Args:
            request: As it was sent, but for masked credentials.
            completion: As it came, likewise.
            scope: Who called.
            i: Ordinal in the scope.
            n: Repeat of the asked key in the scope.
            at: Epoch and step.
            asked: Asked key.
            sent: Sent key.
            asked_seed: The caller's seed.
            env: SHA-256 of the environment record.
            prompt_sha256: Digest of the rendered prompt.
            shared: Whether it was answered with an identical call that was in flight.
            from_cache: Whether it was answered from the machine-wide cache.
            masked: Kinds of the credentials that were masked.
        """
        texts: dict[str, str] = {}
        body = cast("dict[str, object]", intern(dict(request.body), texts))
        response = encode_response(completion, texts)
        return cls(
            scope=scope,
            i=i,
            n=n,
            at=at,
            kind=request.kind,
            asked=asked,
            sent=sent,
            asked_seed=asked_seed,
            sent_seed=request.seed,
            model=request.binding.name,
            env=env,
            endpoint=request.endpoint,
            path=request.path,
            stored_body=body,
            stored_response=response,
            tokens=completion.usage.to_json(),
            prompt_sha256=prompt_sha256,
            duration_s=round(completion.duration_s, 6),
            texts=texts,
            shared=shared,
            from_cache=from_cache,
            masked=masked or {},
        )

    def require_types(self) -> None:
        """Refuse members that no recorder writes.

        Raises:
            LineError: One has the wrong type.
        """
        texts: tuple[object, ...] = (
            self.scope,
            self.asked,
            self.sent,
            self.model,
            self.env,
            self.path,
            self.endpoint,
        )
        numbers = (self.i, self.n, *(self.at or (0, 0)))
        or_none = (self.asked_seed, self.sent_seed, *self.tokens.values())
        objects: tuple[object, ...] = (self.stored_body, self.stored_response)
        known: tuple[object, ...] = (self.kind, self.prompt_sha256)
        duration: object = self.duration_s
        keys = (self.asked, self.sent)
        if not (
            all(isinstance(member, str) for member in texts)
            and all(type(member) is int and member >= 0 for member in numbers)
            and all(member is None or type(member) is int for member in or_none)
            and all(isinstance(member, dict) for member in objects)
            and all(member is None or isinstance(member, str) for member in known)
            and isinstance(duration, (int, float))
            and isinstance(self.masked, dict)
            and all(isinstance(kinds, list) for kinds in self.masked.values())
            and all(_KEY.fullmatch(key) for key in keys)
        ):
            raise LineError("the call has a member of the wrong type")

    @property
    def id(self) -> CallId:
        """What the call is found by."""
        return (self.scope, self.asked, self.n)

    @property
    def order(self) -> tuple[object, ...]:
        """Where the call stands in a canonical file: by (at, scope, i)."""
        return (self.at is not None, self.at or (0, 0), self.scope, self.i, self.asked, self.n)

    @cached_property
    def body(self) -> dict[str, object]:
        """The request as sent.

        Raises:
            LineError: A text is missing.
        """
        return cast("dict[str, object]", resolve(dict(self.stored_body), self.texts))

    @cached_property
    def completion(self) -> Completion:
        """The answer, its bytes checked; kept once it was asked for.

        Raises:
            LineError: The bytes are not the recorded ones.
        """
        return self.decode_completion()

    def decode_completion(self) -> Completion:
        """The answer, its bytes checked.

        Raises:
            LineError: The bytes are not the recorded ones.
        """
        return decode_response(self.stored_response, self.texts, duration_s=self.duration_s)

    @cached_property
    def text_digests(self) -> tuple[str, ...]:
        """Digests of the texts the call uses, in order of use."""
        used = (*references(dict(self.stored_body)), *references(dict(self.stored_response)))
        return tuple(dict.fromkeys(used))

    def to_json(self, *, env: int, format: int = FORMAT) -> dict[str, object]:
        """The record.

        Args:
            env: Place of the environment's record among those of the file, from 0.
            format: Of the file.
        """
        record: dict[str, object] = {
            "record": "call",
            "scope": self.scope,
            "i": self.i,
            "n": self.n,
            "at": None if self.at is None else list(self.at),
            "kind": self.kind,
            "asked": self.asked,
            "sent": self.sent,
            "seed": {"asked": self.asked_seed, "sent": self.sent_seed},
            "model": self.model,
            "env": env,
            "endpoint": self.endpoint,
            "request": {"path": self.path, "body": self.stored_body},
            "response": self.stored_response,
            "tokens": self.tokens,
            "prompt_sha256": self.prompt_sha256,
            "duration_s": self.duration_s,
            **({"shared": True} if self.shared else {}),
            **({"from_cache": True} if self.from_cache else {}),
            **({"masked": self.masked} if self.masked else {}),
        }
        return record if format == 1 else _shortened(record)

    @classmethod
    def from_json(
        cls, record: Mapping[str, object], *, texts: Mapping[str, str], envs: Sequence[str]
    ) -> CallRecord:
        """Read a call record.

        Args:
            record: The record.
            texts: Texts of the file so far, by digest.
            envs: Digests of the environment records of the file so far, in order.

        Raises:
            LineError: A member is missing or has the wrong type.
        """
        try:
            record = _lengthened(record)
            at = cast("list[int] | None", record["at"])
            seed = cast("dict[str, int | None]", record["seed"])
            request = cast("dict[str, object]", record["request"])
            call = cls(
                scope=cast("str", record["scope"]),
                i=cast("int", record["i"]),
                n=cast("int", record["n"]),
                at=None if at is None else (at[0], at[1]),
                kind=cast("str | None", record["kind"]),
                asked=cast("str", record["asked"]),
                sent=cast("str", record["sent"]),
                asked_seed=seed["asked"],
                sent_seed=seed["sent"],
                model=cast("str", record["model"]),
                env=env_at(envs, record["env"]),
                endpoint=cast("Endpoint", record["endpoint"]),
                path=cast("str", request["path"]),
                stored_body=cast("dict[str, object]", request["body"]),
                stored_response=cast("dict[str, object]", record["response"]),
                tokens=cast("dict[str, int | None]", record["tokens"]),
                prompt_sha256=cast("str | None", record["prompt_sha256"]),
                duration_s=cast("float", record["duration_s"]),
                texts=texts,
                shared=record.get("shared") is True,
                from_cache=record.get("from_cache") is True,
                masked=cast("dict[str, list[str]]", record.get("masked", {})),
            )
            call.require_types()
        except LineError:
            raise  # says what is wrong already
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise LineError(f"the call cannot be read: {error!r}") from error
        return call


#: Token counts of a call, in the order of format 2.
COUNTED = ("prompt", "completion", "total", "cached")
#: Members whose absence means what is given here, in a request and in a response.
_IMPLIED_IN_REQUEST: Mapping[str, object] = {"path": "/v1/chat/completions"}
IMPLIED_IN_RESPONSE: Mapping[str, object] = {
    "status": 200,
    "type": "application/json; charset=utf-8",
}


def _implied(record: Mapping[str, Any]) -> dict[str, object]:
    """What the absence of members of a call means."""
    return {
        "n": 0,
        "at": None,
        "kind": None,
        "sent": record["asked"],
        "seed": None,
        "model": record["request"]["body"].get("model"),
        "endpoint": "chat",
        "prompt_sha256": None,
    }


def _shortened(record: Mapping[str, Any]) -> dict[str, object]:
    """A call as format 2 writes it, from how format 1 does."""
    seed, response = record["seed"], record["response"]
    plain = IMPLIED_IN_RESPONSE.items() <= response.items()
    short = {
        **record,
        "seed": seed["sent"] if seed["asked"] == seed["sent"] else seed,
        "request": _without(_IMPLIED_IN_REQUEST, record["request"]),
        "response": _without(IMPLIED_IN_RESPONSE, response) if plain else response,
        "tokens": [record["tokens"][name] for name in COUNTED],
    }
    return _without(_implied(record), short)


def _without(implied: Mapping[str, object], record: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value
        for name, value in record.items()
        if name not in implied or value != implied[name]
    }


def _lengthened(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The reverse of ``_shortened``; a call of format 1 as it is."""
    tokens = record["tokens"]
    if isinstance(tokens, dict):
        return record
    full = {**_implied(record), **record}
    seed = full["seed"]
    return {
        **full,
        "seed": seed if isinstance(seed, dict) else {"asked": seed, "sent": seed},
        "request": {**_IMPLIED_IN_REQUEST, **record["request"]},
        "response": {**IMPLIED_IN_RESPONSE, **record["response"]},
        "tokens": dict(zip(COUNTED, tokens, strict=True)),
    }


def env_at(envs: Sequence[str], place: object) -> str:
    """The digest of the environment record at a place.

    Raises:
        LineError: There is none.
    """
    if not isinstance(place, int) or not 0 <= place < len(envs):
        raise LineError(f"refers to environment record {place}, which is not in the file before it")
    return envs[place]
