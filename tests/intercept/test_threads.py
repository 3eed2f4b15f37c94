"""Blocking work beside an event loop: any number at once, or one at a time in order of arrival."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from swarm_repro.caller import current_caller, scope
from swarm_repro.intercept.threads import current_flow, in_thread, in_turn, pause

COUNT = 50  # more than anyio's own limit of 40 threads


def run(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    import anyio

    return anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", [in_thread, in_turn])
def test_work_is_done_in_another_thread_in_the_callers_context(
    backend: str, way: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> None:
    async def main() -> tuple[int, str]:
        with scope("alice"):
            return await way(lambda: (threading.get_ident(), current_caller().scope))  # type: ignore[no-any-return]

    thread, who = run(backend, main)
    assert thread != threading.get_ident()
    assert who == "alice"


def test_any_number_waits_at_once() -> None:
    """One may wait for another: with a limit all could wait for one without a thread."""
    all_here = threading.Barrier(COUNT)

    async def main() -> None:
        await asyncio.gather(*(in_thread(lambda: all_here.wait(60)) for _ in range(COUNT)))

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_gives_up_does_not_wait_for_the_work(backend: str) -> None:
    may_end = threading.Event()

    async def main() -> None:
        import anyio

        with anyio.move_on_after(0.05):
            await in_thread(lambda: may_end.wait(10))
        assert not may_end.is_set()
        may_end.set()

    def let_it_end() -> None:
        # Later than who gave up, unless that one waits.
        if not may_end.wait(5):
            may_end.set()

    helper = threading.Thread(target=let_it_end)
    helper.start()
    run(backend, main)
    helper.join()


def test_in_turn_is_one_at_a_time_in_the_order_of_arrival() -> None:
    at_work: list[int] = []
    done: list[int] = []

    def work(number: int) -> None:
        at_work.append(number)
        assert at_work == [number]
        done.append(number)
        at_work.remove(number)

    async def main() -> None:
        await asyncio.gather(*(in_turn(lambda number=n: work(number)) for n in range(COUNT)))  # type: ignore[misc]

    for _ in range(2):  # each event loop has a limit of its own
        asyncio.run(main())
    assert done == [*range(COUNT), *range(COUNT)]


def test_a_task_can_be_cancelled_while_its_thread_blocks() -> None:
    release = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(in_thread(lambda: release.wait(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_is_distinguished_from_others(backend: str) -> None:
    import anyio

    async def main() -> list[object]:
        flows: list[object] = [current_flow(), current_flow()]

        async def note() -> None:
            flows.append(current_flow())

        async with anyio.create_task_group() as group:
            group.start_soon(note)
        return flows

    first, again, other = run(backend, main)
    assert first == again != other


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_event_loop_goes_on_during_a_pause_and_may_end_it(backend: str) -> None:
    import anyio

    async def main() -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pause, 3600)
            await pause(0)
            tasks.cancel_scope.cancel()
        return True

    assert run(backend, main)
