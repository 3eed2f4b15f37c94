"""Who is calling: a context variable, which follows a call into tasks and ``asyncio.to_thread``.

A thread that is started without its caller's context begins in the scope ``main``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

#: The scope of calls that nobody gave another one.
MAIN_SCOPE = "main"


@dataclass(frozen=True)
class Caller:
    """Who calls the model, and why.

    Attributes:
        scope: The caller's name: calls are counted, found and seeded within it.
        kind: What the call is for (``act``, ``accept``, a council stage), if known.
        seed: The caller's own seed for calls that carry none, or None.
    """

    scope: str = MAIN_SCOPE
    kind: str | None = None
    seed: int | None = None


_MAIN = Caller()
_caller: ContextVar[Caller] = ContextVar("swarm_repro_caller", default=_MAIN)


def current_caller() -> Caller:
    """The caller of the code that runs now."""
    return _caller.get()


def is_within(scope: str, prefix: str) -> bool:
    """Whether a scope is one of those that a prefix keeps apart."""
    return scope == prefix or scope.startswith(f"{prefix}/")


@contextmanager
def scope(name: str, *, seed: int | None = None) -> Iterator[None]:
    """Make all model calls inside the block belong to a scope.

    Args:
        name: The caller's name, such as an agent's id; stable from run to run.
        seed: Seed for calls that carry none of their own.
    """
    token = _caller.set(replace(_caller.get(), scope=name, seed=seed))
    try:
        yield
    finally:
        _caller.reset(token)


@contextmanager
def calling_for(kind: str) -> Iterator[None]:
    """Say what the calls inside the block are for; the scope stays as it is."""
    token = _caller.set(replace(_caller.get(), kind=kind))
    try:
        yield
    finally:
        _caller.reset(token)


_own_traffic: ContextVar[bool] = ContextVar("swarm_repro_own_traffic", default=False)


def is_own_traffic() -> bool:
    """Whether the code that runs now talks to a backend on our own behalf."""
    return _own_traffic.get()


@contextmanager
def own_traffic() -> Iterator[None]:
    """Requests inside the block are ours: they are not intercepted."""
    token = _own_traffic.set(True)
    try:
        yield
    finally:
        _own_traffic.reset(token)
