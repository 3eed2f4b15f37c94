"""Seeded requests that are being answered: one that is identical waits instead of asking again."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from swarm_repro.completion import Completion

#: Name of the model record, and sent key.
InFlightKey: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Answered:
    """What the model answered to the request that went out.

    Attributes:
        completion: The answer.
        prompt_sha256: Digest of the rendered prompt.
    """

    completion: Completion
    prompt_sha256: str | None


class InFlight:
    """Which requests wait for their answer, and who waits with them."""

    def __init__(self) -> None:
        self._leaders: dict[InFlightKey, tuple[Future[Answered | None], object]] = {}
        self._lock = threading.Lock()

    def join(self, key: InFlightKey, flow: object) -> tuple[Future[Answered | None] | None, bool]:
        """Wait with an identical request, or lead those that come.

        Args:
            key: The request.
            flow: The thread or task it belongs to. One that has a stream open and asks for the
                same again cannot wait for itself.

        Returns:
            What becomes of the one in flight, None in it if it failed, or None where there is none
            to wait for; and whether the caller leads, and must ``leave`` when its own has ended.
        """
        with self._lock:
            leader = self._leaders.get(key)
            if leader is None:
                self._leaders[key] = (Future(), flow)
                return None, True
            future, leading = leader
            return (None if leading == flow else future), False

    def leave(self, key: InFlightKey, answered: Answered | None) -> None:
        """Tell those who wait what came.

        Args:
            key: As it was joined with.
            answered: None where it failed: one of those who wait asks itself.
        """
        with self._lock:
            leader, _ = self._leaders.pop(key)
        leader.set_result(answered)
