"""An event loop that runs what it is given for a thread in place, so that order is fixed.

asyncio code hands blocking calls (here: model calls) to a thread pool. Which call arrives first
then depends on the machine, context variables stay behind, and wall-clock time-outs fire on a slow
model. `InPlaceEventLoop` runs such a call where it stands: one at a time, in the order the
program asked, in the caller's context, and with the loop's clock stopped meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from swarm_repro.errors import UsageError

__all__ = [
    "InPlaceEventLoop",
    "InPlaceExecutor",
    "as_completed_in_order",
    "in_place_event_loop",
    "runs_in_place",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class InPlaceEventLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose `run_in_executor` runs the function at once.

    The function sees the caller's context variables (in a copy, as with `asyncio.to_thread`).
    The returned future is finished, therefore ``await`` goes on without a turn of the loop.

    The loop's clock stands still while a function runs in place: ``asyncio.wait_for`` measures
    what the program waits for, never how long a model took, so a slow machine takes no other
    branch than a fast one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stopped_at_s: float | None = None
        self._behind_s = 0.0

    def time(self) -> float:
        """The loop's clock in seconds: monotonic time without that spent in place."""
        if self._stopped_at_s is not None:
            return self._stopped_at_s
        return time.monotonic() - self._behind_s

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Keep `time` where it is while the block runs; nests."""
        if self._stopped_at_s is not None:
            yield
            return
        self._stopped_at_s = self.time()
        try:
            yield
        finally:
            self._behind_s = time.monotonic() - self._stopped_at_s
            self._stopped_at_s = None

    def run_in_executor(
        self, executor: futures.Executor | None, func: Callable[..., _T], *args: object
    ) -> asyncio.Future[_T]:
        """Run ``func(*args)`` now and return its finished future.

        Args:
            executor: Ignored; there for the signature of the base class.
            func: Called with `args` in a copy of the caller's context.
            *args: Positional arguments of `func`.

        Returns:
            A finished future with the result, or with whatever was raised: a BaseException that
            ends a run reaches the ``await`` too. StopIteration, which no future can hold, becomes
            a RuntimeError with it as cause, as in Python 3.12.

        Raises:
            RuntimeError: The loop is closed.
        """
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        future: asyncio.Future[_T] = self.create_future()
        try:
            with self.clock_stopped():
                result = contextvars.copy_context().run(func, *args)
        except StopIteration as stop:
            error = RuntimeError("StopIteration cannot be raised into a Future")
            error.__cause__ = stop
            future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - the await raises it
            future.set_exception(error)
        else:
            future.set_result(result)
        return future


class _InPlacePolicy(asyncio.DefaultEventLoopPolicy):
    """Makes `asyncio.run` and `asyncio.new_event_loop` use in-place loops, in every thread."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return InPlaceEventLoop()


def runs_in_place() -> bool:
    """Whether `in_place_event_loop` is in force."""
    return isinstance(asyncio.get_event_loop_policy(), _InPlacePolicy)


@contextmanager
def in_place_event_loop() -> Iterator[InPlaceEventLoop]:
    """Make in-place loops the only ones asyncio hands out while the block runs.

    A new loop is current in this thread, and `asyncio.run` and `asyncio.new_event_loop` make such
    loops in every thread. Afterwards the loop is closed, tasks left on it are cancelled, and the
    policy and current loop from before are back.

    Yields:
        The loop that is current in this thread.

    Raises:
        UsageError: An event loop runs in this thread already, or the block is nested.
    """
    if _running_loop() is not None:
        raise UsageError(
            "in-place execution cannot start inside a running event loop; "
            "call it from synchronous code"
        )
    if runs_in_place():
        raise UsageError("in-place execution is already on; it does not nest")
    before = asyncio.get_event_loop_policy()
    policy = _InPlacePolicy()
    loop = InPlaceEventLoop()
    asyncio.set_event_loop_policy(policy)
    policy.set_event_loop(loop)
    try:
        yield loop
    finally:
        try:
            _close(loop)
        finally:
            policy.set_event_loop(None)
            asyncio.set_event_loop_policy(before)


def _close(loop: InPlaceEventLoop) -> None:
    """Cancel what is left on a loop, then close it, as `asyncio.run` does."""
    if loop.is_closed():
        return
    try:
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class InPlaceExecutor(futures.Executor):
    """A thread pool that has finished every call when `submit` returns, in the caller's context.

    Synchronous code inside a running loop can only start another loop in another thread, so there
    a thread runs the call and is joined at once; without a running loop no thread is started.
    Takes the arguments of `concurrent.futures.ThreadPoolExecutor`; only `initializer` and
    `initargs` matter.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
    ) -> None:
        self._initialize = (
            None if initializer is None else functools.partial(initializer, *initargs)
        )
        self._is_shut_down = False

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> futures.Future[_T]:
        """Run ``fn(*args, **kwargs)`` now.

        Returns:
            A finished future with the result or with whatever was raised.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: futures.Future[_T] = futures.Future()
        future.set_running_or_notify_cancel()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                if self._initialize is not None:
                    context.run(self._initialize)
                result = context.run(fn, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - Future.result() raises it
                future.set_exception(error)
            else:
                future.set_result(result)

        loop = _running_loop()
        if loop is None:
            work()
        elif isinstance(loop, InPlaceEventLoop):
            with loop.clock_stopped():
                _run_in_thread(work)
        else:
            _run_in_thread(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; none can be pending."""
        self._is_shut_down = True


def _run_in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def as_completed_in_order(
    fs: Iterable[futures.Future[_T]], timeout: float | None = None
) -> Iterator[futures.Future[_T]]:
    """`concurrent.futures.as_completed` for finished futures: in the order given.

    The original yields finished futures in the order of a set, which differs between processes.

    Args:
        fs: Futures; repeats are yielded once.
        timeout: Seconds to wait for futures that are not finished; as in the original.
    """
    ordered = list(dict.fromkeys(fs))
    if all(future.done() for future in ordered):
        return iter(ordered)
    return futures.as_completed(ordered, timeout)
