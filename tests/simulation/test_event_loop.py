"""In-place execution: order, context, exceptions, time-outs, and what is put back afterwards."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent import futures

import pytest

from swarm_repro.errors import SessionTripped, UsageError
from swarm_repro.simulation.event_loop import (
    InPlaceEventLoop,
    InPlaceExecutor,
    as_completed_in_order,
    in_place_event_loop,
    runs_in_place,
)

scope: contextvars.ContextVar[str] = contextvars.ContextVar("scope", default="nobody")


def test_an_executor_call_runs_in_the_loops_thread_before_the_next_line() -> None:
    done: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, lambda: done.append(threading.get_ident()))
        assert future.done()
        assert done == [threading.get_ident()]

    with in_place_event_loop() as loop:
        loop.run_until_complete(main())


def test_gathered_calls_run_in_the_order_they_were_gathered() -> None:
    order: list[int] = []

    def call(number: int) -> int:
        time.sleep(0.002 * (5 - number))  # in threads, the last one would be done first
        order.append(number)
        return number

    async def one(number: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, call, number)

    async def main() -> list[int]:
        return await asyncio.gather(*(one(number) for number in range(5)))

    with in_place_event_loop():
        assert asyncio.run(main()) == order == [0, 1, 2, 3, 4]


def test_the_function_sees_its_callers_context_and_cannot_change_it() -> None:
    def call() -> str:
        seen = scope.get()
        scope.set("changed below")
        return seen

    async def agent(name: str) -> tuple[str, str]:
        scope.set(name)
        seen = await asyncio.get_running_loop().run_in_executor(None, call)
        return seen, scope.get()

    async def main() -> list[tuple[str, str]]:
        return list(await asyncio.gather(agent("a"), agent("b")))

    with in_place_event_loop():
        assert asyncio.run(main()) == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize("error", [ValueError("x"), SessionTripped("x"), StopAsyncIteration("x")])
def test_what_the_function_raises_is_raised_by_the_await(error: BaseException) -> None:
    def call() -> None:
        raise error

    async def main() -> None:
        future = asyncio.get_running_loop().run_in_executor(None, call)
        with pytest.raises(type(error)) as caught:
            await future
        assert caught.value is error

    with in_place_event_loop() as loop:
        loop.run_until_complete(main())


def test_a_keyboard_interrupt_in_the_function_leaves_the_loop() -> None:
    def call() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, call)

    with in_place_event_loop() as loop, pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main())


def test_stop_iteration_becomes_a_runtime_error_with_its_cause() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, next, iter(()))

    with in_place_event_loop() as loop, pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(main())
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_closed_loop_refuses_calls() -> None:
    loop = InPlaceEventLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, int)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass at once, for the clock that loops go by."""
    real, passed_s = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(passed_s))
    return passed_s.append


def test_a_timeout_does_not_count_the_time_of_calls_in_place(
    pass_time: Callable[[float], None],
) -> None:
    async def member(number: int) -> int:
        for _ in range(5):
            await asyncio.get_running_loop().run_in_executor(None, pass_time, 500)
            await asyncio.sleep(0)  # gives a due time-out its chance
        return number

    async def main() -> list[int]:
        return await asyncio.gather(
            *(asyncio.wait_for(member(number), timeout=800) for number in range(3))
        )

    with in_place_event_loop():
        assert asyncio.run(main()) == [0, 1, 2]


def test_a_timeout_still_ends_what_never_comes() -> None:
    async def main() -> None:
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), timeout=0.01)

    with in_place_event_loop(), pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())


def test_the_loops_clock_stands_still_meanwhile_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    loop = InPlaceEventLoop()
    assert loop.time() == 1000
    for gone_s in (0.5, 30.0):
        before = loop.time()
        with loop.clock_stopped():
            now_s[0] += gone_s
            assert loop.time() == before
            with loop.clock_stopped():
                now_s[0] += gone_s
            now_s[0] += gone_s
            assert loop.time() == before, "the outer block goes on"
        assert loop.time() == before
        now_s[0] += 0.25
        assert loop.time() == before + 0.25
    with pytest.raises(ZeroDivisionError), loop.clock_stopped():
        now_s[0] += 1 / 0
    now_s[0] += 1
    assert loop.time() == 1001.5
    loop.close()


def test_every_way_to_a_loop_gives_an_in_place_one_also_in_threads() -> None:
    async def kind() -> type:
        return type(asyncio.get_running_loop())

    with in_place_event_loop() as loop:
        assert asyncio.get_event_loop() is loop
        assert asyncio.run(kind()) is InPlaceEventLoop
        new = asyncio.new_event_loop()
        assert type(new) is InPlaceEventLoop
        new.close()
        with futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(asyncio.run, kind()).result() is InPlaceEventLoop


def test_the_policy_and_the_current_loop_from_before_come_back() -> None:
    def fail() -> None:
        assert runs_in_place()
        raise ZeroDivisionError

    policy = asyncio.get_event_loop_policy()
    outer = asyncio.new_event_loop()
    asyncio.set_event_loop(outer)
    try:
        with pytest.raises(ZeroDivisionError), in_place_event_loop() as loop:
            fail()
        assert loop.is_closed()
        assert not runs_in_place()
        assert asyncio.get_event_loop_policy() is policy
        assert asyncio.get_event_loop() is outer
    finally:
        asyncio.set_event_loop(None)
        outer.close()


def test_tasks_left_on_the_loop_are_cancelled() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        left.append(asyncio.ensure_future(forever()))
        await asyncio.sleep(0)

    left: list[asyncio.Future[None]] = []
    with in_place_event_loop() as loop:
        loop.run_until_complete(main())
    assert ended == ["cancelled"]


def test_it_neither_nests_nor_starts_inside_a_running_loop() -> None:
    async def inside() -> None:
        with in_place_event_loop():
            pass

    with pytest.raises(UsageError, match="running event loop"):
        asyncio.run(inside())
    with in_place_event_loop(), pytest.raises(UsageError, match="nest"), in_place_event_loop():
        pass
    assert not runs_in_place()


def test_a_pool_has_finished_a_call_when_submit_returns() -> None:
    with InPlaceExecutor(max_workers=4, thread_name_prefix="x") as pool:
        future = pool.submit(threading.get_ident)
        assert future.done()
        assert future.result() == threading.get_ident()
        assert list(pool.map(str, [3, 1, 2])) == ["3", "1", "2"]
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)


def test_a_pool_inside_a_running_loop_can_run_another_loop_in_the_callers_context(
    pass_time: Callable[[float], None],
) -> None:
    async def below() -> tuple[str, bool]:
        return scope.get(), runs_in_place()

    async def main() -> tuple[str, bool]:
        scope.set("llm_1")
        loop = asyncio.get_running_loop()
        before = loop.time()
        with InPlaceExecutor() as pool:
            pool.submit(pass_time, 500).result()
            assert loop.time() - before < 500
            return pool.submit(asyncio.run, below()).result()

    with in_place_event_loop():
        assert asyncio.run(main()) == ("llm_1", True)


def test_a_pool_passes_on_whatever_was_raised_and_runs_its_initializer_first() -> None:
    def trip() -> None:
        raise SessionTripped(scope.get())

    with InPlaceExecutor(initializer=scope.set, initargs=("initialized",)) as pool:
        future = pool.submit(trip)
        with pytest.raises(SessionTripped, match="initialized"):
            future.result()
    assert scope.get() == "nobody"


def test_finished_futures_complete_in_the_order_given() -> None:
    with InPlaceExecutor() as pool:
        given = [pool.submit(int, text) for text in "3145926"]
    assert list(as_completed_in_order([*given, given[0]])) == given


def test_unfinished_futures_complete_as_they_do() -> None:
    first: futures.Future[int] = futures.Future()
    second: futures.Future[int] = futures.Future()
    second.set_result(2)
    completed = as_completed_in_order([first, second], timeout=5)
    assert next(completed) is second
    first.set_result(1)
    assert next(completed) is first
