"""The place of a call: its ordinal and repeat number in its scope, and the seed that follows."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm_repro.cassette.header import Header
from swarm_repro.errors import RequestError
from swarm_repro.request import SAMPLED, Request, content_seed, event_seed


@dataclass
class ScopeCounter:
    """What is counted within one scope.

    Attributes:
        next_i: Ordinal of its next call.
        in_flight: Calls that wait for their answer.
        repeats: How many repeat numbers of an asked key were handed out.
        released: Repeat numbers that failed calls gave back.
    """

    next_i: int = 0
    in_flight: int = 0
    repeats: Counter[str] = field(default_factory=Counter)
    released: dict[str, list[int]] = field(default_factory=dict)

    def take(self, asked: str) -> int:
        """The lowest repeat number of this key that is free."""
        released = self.released.get(asked)
        if released:
            return heapq.heappop(released)
        self.repeats[asked] += 1
        return self.repeats[asked] - 1

    def release(self, asked: str, n: int) -> None:
        """Give a repeat number back: the client's retry takes it again."""
        heapq.heappush(self.released.setdefault(asked, []), n)


class Places:
    """Places of all scopes of a session; not safe for threads by itself."""

    def __init__(self, header: Header, *, run_seed: int) -> None:
        """Begin to count.

        Args:
            header: Seed policy and strict flag.
            run_seed: What seeds are derived from.
        """
        self._header = header
        self._run_seed = run_seed
        self._scopes: dict[str, ScopeCounter] = {}

    def take(self, scope_name: str, asked: str) -> tuple[int, int]:
        """Ordinal and repeat number for a call that starts.

        Raises:
            RequestError: Calls of the scope overlap, and under the policy ``event`` their order
                decides their seeds.
        """
        scope = self._scopes.setdefault(scope_name, ScopeCounter())
        if scope.in_flight and self._header.seed_policy == "event":
            raise RequestError(
                f"two calls of scope {scope_name!r} overlap, so their order is not defined: give "
                "each its own scope, or use seed_policy 'content'"
            )
        i, n = scope.next_i, scope.take(asked)
        scope.next_i += 1
        scope.in_flight += 1
        return i, n

    def release(self, scope_name: str, asked: str, *, i: int, n: int) -> None:
        """Free the place of a call that failed."""
        scope = self._scopes[scope_name]
        scope.in_flight -= 1
        scope.release(asked, n)
        if scope.next_i == i + 1:
            scope.next_i = i

    def keep(self, scope_name: str) -> None:
        """Note that a call was answered."""
        self._scopes[scope_name].in_flight -= 1

    def in_flight(self) -> Iterator[tuple[str, int]]:
        """Scopes with calls that wait for their answer, and how many."""
        return ((name, scope.in_flight) for name, scope in self._scopes.items() if scope.in_flight)

    def seed_for(self, request: Request, scope: str, asked: str, *, i: int, n: int) -> int | None:
        """The caller's seed, or one by the seed policy; None for calls that draw nothing.

        Raises:
            RequestError: In strict mode, a call that would go out without a seed.
        """
        if request.seed is not None or request.endpoint not in SAMPLED:
            return request.seed
        if self._header.seed_policy == "event":
            return event_seed(run_seed=self._run_seed, scope=scope, i=i)
        if self._header.seed_policy == "content":
            return content_seed(run_seed=self._run_seed, scope=scope, asked_key=asked, n=n)
        if self._header.strict:
            raise RequestError(
                f"call {i} of {scope} has no seed, which strict mode does not allow: give it one, "
                "or use seed_policy 'event'"
            )
        return None
