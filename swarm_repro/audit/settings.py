"""What is measured: settings of a llama-server, from its defaults to the strict profile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swarm_repro.errors import UsageError
from swarm_repro.serving.profiles import CPU_STRICT, DEFAULT_1SLOT, METAL_1SLOT, get_profile

#: Slots that llama-server's "auto" makes, and that its parallel requests share.
#: Source: llama.cpp, tools/server/server.cpp.
AUTO_SLOTS: Final = 4

_NO_CACHE_FIELD: Final[Mapping[str, object]] = {"cache_prompt": False}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of running the model.

    Attributes:
        name: What ``--settings`` takes.
        what: One line on it.
        profile: The profile of ``swarm-repro server start``; None for a model in process.
        auto_slots: Whether llama-server chooses the number of slots, instead of one.
        request: Fields that every request has.
        needs_device: Whether it is only for machines with a GPU.
    """

    name: str
    what: str
    profile: str | None
    auto_slots: bool = False
    request: Mapping[str, object] = field(default_factory=dict)
    needs_device: bool = False

    @property
    def more_flags(self) -> tuple[str, ...]:
        """Flags after those of the profile."""
        return ("-np", "-1") if self.auto_slots else ()

    def flags(self, *, threads: int, n_ctx: int) -> tuple[str, ...]:
        """llama-server's flags, to copy; empty in process."""
        if self.profile is None:
            return ()
        flags = get_profile(self.profile).render(threads=threads, n_ctx=n_ctx, parallel=1)
        if self.auto_slots:
            flags[flags.index("-np") + 1] = "-1"
        return tuple(flags)

    def start_command(self, *, model: str, threads: int, n_ctx: int) -> str:
        """The ``swarm-repro`` command that starts such a server; empty in process."""
        if self.profile is None:
            return ""
        after = f" -- {' '.join(self.more_flags)}" if self.more_flags else ""
        return (
            f"swarm-repro server start --model {shlex.quote(model)} --profile {self.profile}"
            f" --threads {threads} --ctx-size {n_ctx}{after}"
        )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A setting with something changed.

    Attributes:
        what: What is changed, as reports say it.
        flags: Flags after those of the setting.
        threads: Another number of threads.
        binary: Another llama-server.
    """

    what: str
    flags: tuple[str, ...] = ()
    threads: int | None = None
    binary: Path | None = None


IN_PROCESS: Final = Setting(
    name="in-process",
    what="llama-cpp-python in this process: reset and seeded before every call",
    profile=None,
)

#: From the fewest changes to the strictest.
SETTINGS: Final = (
    Setting(
        name="default",
        what="llama.cpp's own defaults: four slots, prompts cached",
        profile=DEFAULT_1SLOT.name,
        auto_slots=True,
    ),
    Setting(
        name="no-cache",
        what="the defaults, each request with cache_prompt off",
        profile=DEFAULT_1SLOT.name,
        auto_slots=True,
        request=_NO_CACHE_FIELD,
    ),
    Setting(
        name="one-slot",
        what="the defaults, but one slot",
        profile=DEFAULT_1SLOT.name,
    ),
    Setting(
        name="one-slot-no-cache",
        what="one slot, each request with cache_prompt off",
        profile=DEFAULT_1SLOT.name,
        request=_NO_CACHE_FIELD,
    ),
    Setting(
        name=METAL_1SLOT.name,
        what=METAL_1SLOT.description,
        profile=METAL_1SLOT.name,
        request=_NO_CACHE_FIELD,
        needs_device=True,
    ),
    Setting(
        name=CPU_STRICT.name,
        what=CPU_STRICT.description,
        profile=CPU_STRICT.name,
        request=_NO_CACHE_FIELD,
    ),
    IN_PROCESS,
)

#: What ``--quick`` measures.
QUICK: Final = ("default", "one-slot-no-cache", CPU_STRICT.name)


def settings_named(names: tuple[str, ...]) -> tuple[Setting, ...]:
    """Settings by name, in the order of ``SETTINGS``.

    Raises:
        UsageError: There is none of that name.
    """
    known = {setting.name for setting in SETTINGS}
    for name in names:
        if name not in known:
            raise UsageError(
                f"no setting {name!r}; there are {', '.join(s.name for s in SETTINGS)}"
            )
    return tuple(setting for setting in SETTINGS if setting.name in names)
