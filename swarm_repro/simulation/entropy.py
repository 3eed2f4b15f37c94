"""The entropy of named packages, seeded: ids, clocks, random numbers and the time zone.

A simulation that asks for ``uuid4()`` or ``datetime.now()`` puts another text into every prompt,
and no recorded call is ever found again. `taming.tamed` gives the modules of named packages, and
only them, stand-ins for the modules such values come from. Other packages keep the real ones: HTTP
clients draw a uuid for each live request and none for a replayed one, so sharing a seeded stream
with them would move every id after it.

Recipe (a change of it changes every recorded prompt)::

    stream(name) = random.Random(int.from_bytes(SHA-256("sr1-entropy:<name>:<seed>"), "big"))

    stream    feeds
    uuid      uuid4: UUID(int=getrandbits(128), version=4)
    uuid1     the node, getrandbits(48) with the multicast bit set; then getrandbits(14) as the
              clock sequence of each id, whose time is a reading of the clock
    random    the functions of module random
    numpy     the functions of module numpy.random: RandomState(getrandbits(32))
    unseeded  the seed of each Random(), Random.seed() and default_rng(): getrandbits(128);
              of RandomState() and RandomState.seed(): getrandbits(32)
    system    SystemRandom and secrets

    clock     2025-01-01T00:00:00Z, 1 ms further after each reading by whatever function;
              monotonic clocks show the time since then; sleep(s) sleeps, and moves it by s
"""

from __future__ import annotations

import datetime as _datetime
import hashlib
import random as _random
import threading
import uuid as _uuid
from collections.abc import Callable
from typing import Any, Final

CLOCK_START: Final = _datetime.datetime(2025, 1, 1, tzinfo=_datetime.timezone.utc)
"""What the clock of a run shows first."""

TICK_NS: Final = 1_000_000
"""How far one reading moves the clock, in nanoseconds."""

NS_PER_S: Final = 1_000_000_000  # an integer, so that a quotient is rounded once
START_NS: Final = int(CLOCK_START.timestamp()) * NS_PER_S
# 100 ns units from 1582-10-15, where version 1 uuids count from, to 1970. Source: RFC 9562, 5.1.
_UUID1_EPOCH: Final = 0x01B21DD213814000


class Entropy:
    """The state behind the stand-ins: the random streams and the clock of one run.

    A run takes a fresh one; two with the same seed give the same values. Drawing is safe from
    several threads, though then the threads decide which of them gets which value.

    Args:
        seed: Any integer.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.RLock()
        self._elapsed_ns = 0
        self._uuid = _random.Random(self.stream_seed("uuid"))  # noqa: S311 - not for secrets
        self._uuid1 = _random.Random(self.stream_seed("uuid1"))  # noqa: S311
        self._unseeded = _random.Random(self.stream_seed("unseeded"))  # noqa: S311
        self._system = _random.Random(self.stream_seed("system"))  # noqa: S311
        self._shared: dict[str, Any] = {}
        self.node: Final = self._uuid1.getrandbits(48) | (1 << 40)
        """The hardware address in version 1 uuids; the multicast bit says that no card has it."""

    def stream_seed(self, stream: str) -> int:
        """Seed of an independent stream."""
        digest = hashlib.sha256(f"sr1-entropy:{stream}:{self._seed}".encode()).digest()
        return int.from_bytes(digest, "big")

    def uuid4(self) -> _uuid.UUID:
        """The next random uuid."""
        with self._lock:
            return _uuid.UUID(int=self._uuid.getrandbits(128), version=4)

    def uuid1(self, node: int | None = None, clock_seq: int | None = None) -> _uuid.UUID:
        """The next time-based uuid; a reading of the clock."""
        with self._lock:
            stamp = (START_NS + self.tick()) // 100 + _UUID1_EPOCH
            sequence = self._uuid1.getrandbits(14) if clock_seq is None else clock_seq
        fields = (
            stamp & 0xFFFFFFFF,
            (stamp >> 32) & 0xFFFF,
            (stamp >> 48) & 0x0FFF,
            (sequence >> 8) & 0x3F,
            sequence & 0xFF,
            self.node if node is None else node,
        )
        return _uuid.UUID(fields=fields, version=1)

    def tick(self) -> int:
        """Read the clock, in nanoseconds since its start, and move it by one tick."""
        with self._lock:
            reading = self._elapsed_ns
            self._elapsed_ns += TICK_NS
            return reading

    def advance(self, duration_s: float) -> None:
        """Move the clock by a duration in seconds."""
        with self._lock:
            self._elapsed_ns += round(duration_s * NS_PER_S)

    def now(self) -> _datetime.datetime:
        """Read the clock as an aware datetime in UTC."""
        return CLOCK_START + _datetime.timedelta(microseconds=self.tick() // 1000)

    def fresh_seed(self, bits: int) -> int:
        """A seed of so many bits for a generator that was given none."""
        with self._lock:
            return self._unseeded.getrandbits(bits)

    def system_bits(self, bits: int) -> int:
        """What stands in for so many bits from the operating system. Not for secrets."""
        with self._lock:
            return self._system.getrandbits(bits)

    def draw(
        self,
        module: str,
        make: Callable[[Entropy], Any],
        function: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a function of a module with a hidden generator on this run's generator.

        Args:
            module: Its name.
            make: Makes this run's generator.
            function: The generator's method.
            *args: Its arguments.
            **kwargs: Its arguments.
        """
        with self._lock:
            if module not in self._shared:
                self._shared[module] = make(self)
            return getattr(self._shared[module], function)(*args, **kwargs)


_active: Entropy | None = None


def active() -> Entropy | None:
    """What the stand-ins draw from at the moment; None gives them the real thing."""
    return _active


def activate(entropy: Entropy | None) -> None:
    """Let the stand-ins draw from another entropy, or from none."""
    global _active
    _active = entropy
