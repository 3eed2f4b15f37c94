"""The cassette of a call: the innermost of the context, the only one of the process, or none."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from swarm_repro.caller import own_traffic
from swarm_repro.errors import RequestError
from swarm_repro.intercept.present import Interceptor, intercepting, present_interceptor
from swarm_repro.mode import Mode
from swarm_repro.opening import header_of
from swarm_repro.session import Session


class Named:
    """An interceptor that is never asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = Session(mode=Mode.LIVE, header=header_of(seed_policy="as-is", strict=False))

    def answer(self, *_: Any) -> Any:
        raise AssertionError(self.name)

    async def answer_async(self, *_: Any) -> Any:
        raise AssertionError(self.name)


A, B, C = Named("a"), Named("b"), Named("c")


def in_a_thread_without_context() -> Interceptor | Exception | None:
    found: list[Interceptor | Exception | None] = []

    def look() -> None:
        try:
            found.append(present_interceptor())
        except RequestError as error:
            found.append(error)

    thread = threading.Thread(target=contextvars.Context().run, args=(look,))
    thread.start()
    thread.join()
    return found[0]


def test_the_innermost_block_answers_until_it_ends() -> None:
    assert present_interceptor() is None
    with intercepting(A):
        assert present_interceptor() is A
        with intercepting(B):
            assert present_interceptor() is B
        assert present_interceptor() is A
    assert present_interceptor() is None


def test_a_failed_block_answers_no_more() -> None:
    with pytest.raises(ZeroDivisionError), intercepting(A):
        raise ZeroDivisionError
    assert present_interceptor() is None
    assert in_a_thread_without_context() is None


def test_own_traffic_belongs_to_no_block() -> None:
    with intercepting(A), own_traffic():
        assert present_interceptor() is None


def test_a_thread_without_context_belongs_to_the_only_block() -> None:
    assert in_a_thread_without_context() is None
    with intercepting(A):
        assert in_a_thread_without_context() is A
        with intercepting(B):
            error = in_a_thread_without_context()
            assert isinstance(error, RequestError)
            assert str(error).startswith("2 cassettes are in use and this thread belongs to none")
        assert in_a_thread_without_context() is A


def test_one_that_answers_everywhere_answers_where_there_is_none() -> None:
    with intercepting(A, everywhere=True):
        assert in_a_thread_without_context() is A
        with intercepting(B):
            assert present_interceptor() is B
            assert in_a_thread_without_context() is A
            with intercepting(C, everywhere=True):
                assert in_a_thread_without_context() is C
            assert in_a_thread_without_context() is A
        assert present_interceptor() is A
    assert in_a_thread_without_context() is None


@contextmanager
def ended_elsewhere() -> Iterator[contextvars.Context]:
    """A context in which a block began that has ended in another one since."""
    stack, context = ExitStack(), contextvars.copy_context()
    context.run(stack.enter_context, intercepting(A))
    assert context.run(present_interceptor) is A
    stack.close()
    yield context


def test_a_block_that_ended_in_another_context_answers_no_more() -> None:
    with ended_elsewhere() as context:
        assert context.run(present_interceptor) is None
        with intercepting(B):
            assert context.run(present_interceptor) is None, "it never was B's"
        with intercepting(B, everywhere=True):
            assert context.run(present_interceptor) is B


def test_a_block_begins_anew_where_one_has_ended_elsewhere() -> None:
    with ended_elsewhere() as context, ExitStack() as stack:
        context.run(stack.enter_context, intercepting(C))
        assert context.run(present_interceptor) is C


def test_the_outer_block_answers_after_the_inner_one_ended_in_another_context() -> None:
    with intercepting(B):
        inner, context = ExitStack(), contextvars.copy_context()
        context.run(inner.enter_context, intercepting(A))
        assert context.run(present_interceptor) is A
        inner.close()
        assert context.run(present_interceptor) is B
        assert present_interceptor() is B
