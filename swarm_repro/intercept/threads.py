"""What blocks, beside an event loop: of asyncio or trio, whichever runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from anyio.lowlevel import RunVar

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run what blocks in a thread; any number at once, since one may wait for another."""
    from anyio import to_thread

    return await to_thread.run_sync(work, limiter=_limiter("any", math.inf), abandon_on_cancel=True)


async def in_turn(work: Callable[[], _T]) -> _T:
    """As ``in_thread``, in the order of arrival: threads at once would shuffle the calls."""
    from anyio import to_thread

    return await to_thread.run_sync(work, limiter=_limiter("turn", 1))


async def pause(seconds: float) -> None:
    """Wait, and let the event loop go on; who is cancelled waits no longer."""
    from anyio import sleep

    await sleep(seconds)


def current_flow() -> object:
    """What tells the task that runs now from others."""
    from anyio import get_current_task

    return get_current_task().id


def _limiter(name: str, total: float) -> CapacityLimiter:
    from anyio import CapacityLimiter

    variable = _limiters(name)
    limiter = variable.get(None)
    if limiter is None:
        limiter = CapacityLimiter(total)
        variable.set(limiter)
    return limiter


@functools.cache
def _limiters(name: str) -> RunVar[CapacityLimiter | None]:
    """One limiter for each event loop."""
    from anyio.lowlevel import RunVar

    return RunVar(f"swarm_repro_{name}")
