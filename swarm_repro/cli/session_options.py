"""The options of the commands that open a cassette for any program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from swarm_repro.cassette.header import SEED_POLICIES, SeedPolicy

if TYPE_CHECKING:
    from swarm_repro.cassette.header import Header
    from swarm_repro.masking import Redact
    from swarm_repro.mode import Mode


_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class SessionOptions:
    """How a session is opened, as the command line says it.

    Attributes:
        mode: A mode's name; None replays.
        seed: Run seed.
        seed_policy: How calls without a seed get one.
        strict: Refuse a server that would answer otherwise again.
        discard: Throw away what an interrupted recording left.
        cache: Take answers from the machine-wide cache while recording.
        fresh: Take none, but add to it.
        redact: The user's own redaction of what is stored.
    """

    mode: str | None
    seed: int
    seed_policy: SeedPolicy
    strict: bool
    discard: bool
    cache: bool
    fresh: bool
    redact: Redact | None

    @property
    def chosen_mode(self) -> Mode | None:
        """The mode itself."""
        from swarm_repro.mode import Mode

        return None if self.mode is None else Mode(self.mode)

    @property
    def header(self) -> Header:
        """How calls are made."""
        from swarm_repro.opening import header_of

        return header_of(seed_policy=self.seed_policy, strict=self.strict)


_CACHE_OPTIONS = (
    click.option(
        "--cache", is_flag=True, help="Record seeded answers from the machine-wide cache, and add."
    ),
    click.option("--fresh", is_flag=True, help="Ask the model, and keep its answers in the cache."),
)


def _redaction(
    _context: click.Context, _parameter: click.Parameter, name: str | None
) -> Redact | None:
    if name is None:
        return None
    from swarm_repro.masking import find_redaction

    return find_redaction(name)


def _redact_option(**how: Any) -> Callable[[_Command], _Command]:
    return click.option(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="A function of yours that gives what may be stored of a text.",
        **how,
    )


#: For commands whose workers find the function by its name.
redact_by_name = _redact_option()
_REDACT_OPTION = _redact_option(callback=_redaction)
_OPTIONS = (
    click.option(
        "--record", "mode", flag_value="record", help="Call the model, record every call."
    ),
    click.option("--replay", "mode", flag_value="replay", help="Call nothing; a miss is an error."),
    click.option(
        "--auto", "mode", flag_value="auto", help="Replay what is recorded, record the rest."
    ),
    click.option("--live", "mode", flag_value="live", help="Call the model, write no cassette."),
    click.option(
        "--verify", "mode", flag_value="verify", help="Call, and compare with the recording."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the run."),
    click.option(
        "--seed-policy",
        type=click.Choice(SEED_POLICIES),
        default="as-is",
        show_default=True,
        help="How calls without a seed get one.",
    ),
    click.option(
        "--strict", is_flag=True, help="Refuse a server that would answer otherwise again."
    ),
    click.option("--discard", is_flag=True, help="Throw away an interrupted recording."),
    *_CACHE_OPTIONS,
    _REDACT_OPTION,
)


def session_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command these options; it gets them as ``options``, a ``SessionOptions``."""

    @functools.wraps(command)
    def with_options(
        *args: Any,
        mode: str | None,
        seed: int,
        seed_policy: SeedPolicy,
        strict: bool,
        discard: bool,
        cache: bool,
        fresh: bool,
        redact: Redact | None,
        **others: Any,
    ) -> int:
        options = SessionOptions(mode, seed, seed_policy, strict, discard, cache, fresh, redact)
        return command(*args, options=options, **others)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


def storing_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command ``--cache``, ``--fresh`` and ``--redact``."""
    for option in reversed((*_CACHE_OPTIONS, _REDACT_OPTION)):
        command = option(command)
    return command
