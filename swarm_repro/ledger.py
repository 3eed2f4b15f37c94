"""What a session keeps of its calls, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from swarm_repro.caller import Caller
from swarm_repro.cassette.records import At, CallId, CallRecord
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.inflight import InFlightKey
from swarm_repro.request import Request


@dataclass(frozen=True)
class Failure:
    """A call that failed.

    Attributes:
        scope: Who called.
        i: Ordinal in the scope.
        why: One line.
    """

    scope: str
    i: int
    why: str

    def __str__(self) -> str:
        """One line."""
        return f"call {self.i} of {self.scope}: {self.why}"


@dataclass(frozen=True)
class Verified:
    """A recorded call that was asked again (``--verify``).

    Attributes:
        request: As it was sent.
        recorded: The recorded call.
        answer: What came now.
        prompt_differs: Whether the backend renders another prompt.
        environment: Where it answered.
    """

    request: Request
    recorded: CallRecord
    answer: Completion
    prompt_differs: bool
    environment: Environment


@dataclass
class Ledger:
    """What happened, whatever the simulation made of it.

    Attributes:
        used: Calls that were replayed or recorded, in order.
        hits: How many came from the cassette.
        called: How many went to the model and succeeded.
        rejected: How many requests could not be keyed, where that fails them alone.
        shared: How many were answered with an identical one that was in flight.
        cached: How many were answered from the machine-wide cache.
        dropped: How many answers of others had to leave the cache.
        masked: Credentials that are stored as marks, by kind.
        failures: Calls that failed and never succeeded after, by id.
        misses: Calls and models that the cassette does not hold, explained.
        differences: Calls whose answer was not the recorded one (``--verify``), a line each.
        verified: Recorded calls that were asked again (``--verify``).
        usage: Calls and token counts by scope.
    """

    used: dict[CallId, None] = field(default_factory=dict)
    hits: int = 0
    called: int = 0
    rejected: int = 0
    shared: int = 0
    cached: int = 0
    dropped: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    failures: dict[CallId, Failure] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    usage: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, scope: str, tokens: Mapping[str, int | None]) -> None:
        """Add a completion's tokens to its scope.

        Args:
            scope: Whose.
            tokens: Counts as a call record has them: ``prompt``, ``completion``.
        """
        counter = self.usage.setdefault(scope, Counter())
        counter["calls"] += 1
        counter["prompt_tokens"] += tokens.get("prompt") or 0
        counter["completion_tokens"] += tokens.get("completion") or 0


@dataclass
class PendingCall:
    """A call that has its place, and either its answer or a request to send.

    Attributes:
        request: As asked.
        caller: Who calls.
        i: Ordinal in the scope.
        n: Repeat of the asked key in the scope.
        at: Epoch and step.
        asked: Asked key.
        seed: The seed that goes out, or None.
        sent_key: Key with that seed.
        recorded: The recorded call, or None.
        answer: What to give back without calling, or None.
        leads: What identical calls wait for it by, if they do.
        open: Whether it still waits for its answer.
    """

    request: Request
    caller: Caller
    i: int
    n: int
    at: At | None
    asked: str
    seed: int | None
    sent_key: str
    recorded: CallRecord | None = None
    answer: Completion | None = None
    leads: InFlightKey | None = None
    open: bool = True

    @property
    def id(self) -> CallId:
        """What the call is stored and found by."""
        return (self.caller.scope, self.asked, self.n)

    @cached_property
    def sent(self) -> Request:
        """The request as it goes out, with its seed."""
        if self.seed is None or self.seed == self.request.seed:
            return self.request
        return self.request.with_seed(self.seed)
