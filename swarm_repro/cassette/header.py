"""The first record of a cassette as a value: what all of its calls have alike.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from swarm_repro.cassette.lines import LineError
from swarm_repro.request import KEY_VERSION

#: What is written; files keep the format they have.
FORMAT = 2
#: What is read. In format 2 a call leaves out what most calls have alike.
FORMATS = (1, 2)

SeedPolicy = Literal["event", "content", "as-is"]
SEED_POLICIES: tuple[SeedPolicy, ...] = ("event", "content", "as-is")


@dataclass(frozen=True)
class RequestRule:
    """Fields that are set on the requests that match.

    Attributes:
        match: ``scope`` and ``kind``; a member that is absent matches all.
        fields: Request fields to set.
    """

    match: Mapping[str, str]
    fields: Mapping[str, object]

    def applies(self, *, scope: str, kind: str | None) -> bool:
        """Whether a call of this scope and kind is meant."""
        return self.match.get("scope", scope) == scope and (
            "kind" not in self.match or self.match["kind"] == kind
        )

    def to_json(self) -> dict[str, object]:
        """As it stands in a scenario's ``repro.requests``."""
        return {"match": dict(self.match), "set": dict(self.fields)}


@dataclass(frozen=True)
class Header:
    """The first record: how the calls were made.

    Attributes:
        recorder: Version of swarm_repro that wrote the file.
        scenario: Id of the scenario, or None outside a simulation.
        seed_policy: How calls without a seed got one.
        strict: Whether strict mode was on.
        requests: Fields that were set on requests.
        format: How the file is written, which says nothing about its calls.
    """

    recorder: str
    scenario: str | None = None
    seed_policy: SeedPolicy = "event"
    strict: bool = False
    requests: tuple[RequestRule, ...] = ()
    format: int = field(default=FORMAT, compare=False)

    def to_json(self) -> dict[str, object]:
        """The record."""
        return {
            "record": "cassette",
            "format": self.format,
            "key": KEY_VERSION,
            "recorder": self.recorder,
            "scenario": self.scenario,
            "seed_policy": self.seed_policy,
            "strict": self.strict,
            "requests": [rule.to_json() for rule in self.requests],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Header:
        """Read a header whose format and key version are known.

        Raises:
            LineError: A member is missing or has the wrong type.
        """
        try:
            policy = record["seed_policy"]
            requests = record["requests"]
            if policy not in SEED_POLICIES or not isinstance(requests, list):
                raise TypeError("unknown seed policy or malformed requests")
            return cls(
                recorder=str(record["recorder"]),
                scenario=None if record["scenario"] is None else str(record["scenario"]),
                seed_policy=policy,
                strict=bool(record["strict"]),
                requests=tuple(
                    RequestRule(match=rule["match"], fields=rule["set"]) for rule in requests
                ),
                format=cast("int", record["format"]),
            )
        except (KeyError, TypeError) as error:
            raise LineError(f"the header cannot be read: {error}") from error
