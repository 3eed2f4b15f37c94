"""The entropy of named packages, seeded: ids, clocks, random numbers and the time zone.

A simulation that asks for ``uuid4()`` or ``datetime.now()`` puts another text into every prompt,
and no recorded call is ever found again. `tamed` gives the modules of named packages, and only
them, stand-ins for the modules such values come from. Other packages keep the real ones: HTTP
clients draw a uuid for each live request and none for a replayed one, so sharing a seeded stream
with them would move every id after it.

How: while the block runs, `builtins.__import__` hands importing modules of those packages the
stand-ins. Replacing attributes after the import would be too late, as dataclasses and pydantic
models bind ``datetime.now`` when their class is made. Modules keep what they imported, so each
stand-in is one object for the whole process and asks the entropy that is active at the moment, or
the real module when none is.

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

import base64
import builtins
import concurrent.futures
import datetime as _datetime
import functools
import hashlib
import importlib
import os
import random as _random
import sys
import threading
import time as _time
import uuid as _uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any, Final

from swarm_repro.errors import UsageError
from swarm_repro.simulation.event_loop import (
    InPlaceExecutor,
    as_completed_in_order,
    runs_in_place,
)

__all__ = ["CLOCK_START", "TICK_NS", "Entropy", "tamed"]

CLOCK_START: Final = _datetime.datetime(2025, 1, 1, tzinfo=_datetime.timezone.utc)
"""What the clock of a run shows first."""

TICK_NS: Final = 1_000_000
"""How far one reading moves the clock, in nanoseconds."""

_NS_PER_S: Final = 1_000_000_000  # an integer, so that a quotient is rounded once
_START_NS: Final = int(CLOCK_START.timestamp()) * _NS_PER_S
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
        self._uuid = _random.Random(self._seed_of("uuid"))  # noqa: S311 - not for secrets
        self._uuid1 = _random.Random(self._seed_of("uuid1"))  # noqa: S311
        self._unseeded = _random.Random(self._seed_of("unseeded"))  # noqa: S311
        self._system = _random.Random(self._seed_of("system"))  # noqa: S311
        self._shared: dict[str, Any] = {"random": _Random(self._seed_of("random"))}
        self.node: Final = self._uuid1.getrandbits(48) | (1 << 40)
        """The hardware address in version 1 uuids; the multicast bit says that no card has it."""

    def _seed_of(self, stream: str) -> int:
        digest = hashlib.sha256(f"sr1-entropy:{stream}:{self._seed}".encode()).digest()
        return int.from_bytes(digest, "big")

    def uuid4(self) -> _uuid.UUID:
        """The next random uuid."""
        with self._lock:
            return _uuid.UUID(int=self._uuid.getrandbits(128), version=4)

    def uuid1(self, node: int | None = None, clock_seq: int | None = None) -> _uuid.UUID:
        """The next time-based uuid; a reading of the clock."""
        with self._lock:
            stamp = (_START_NS + self.tick()) // 100 + _UUID1_EPOCH
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
            self._elapsed_ns += round(duration_s * _NS_PER_S)

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

    def draw(self, module: str, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of module `random` or `numpy.random` on this run's generator."""
        with self._lock:
            if module == "numpy.random" and module not in self._shared:
                seed = _random.Random(self._seed_of("numpy")).getrandbits(32)  # noqa: S311
                self._shared[module] = _stand_in(module).RandomState(seed)
            return getattr(self._shared[module], function)(*args, **kwargs)


_active: Entropy | None = None
_tamed_modules: weakref.WeakSet[ModuleType] = weakref.WeakSet()


@contextmanager
def tamed(
    packages: Sequence[str],
    entropy: Entropy,
    *,
    modules: Mapping[str, ModuleType] = MappingProxyType({}),
) -> Iterator[None]:
    """Give the modules of some packages seeded ids, clocks and random numbers while a block runs.

    They see stand-ins for `uuid`, `datetime`, `time`, `random`, `secrets`, `numpy.random` and
    `concurrent.futures` (whose thread pool runs in place where `in_place_event_loop` is in force)
    by whatever import statement, `importlib.import_module` excepted. For the whole process the
    time zone is UTC meanwhile, as the methods of a naive datetime ask the C library for it.

    Args:
        packages: Import names; their submodules are meant too.
        entropy: What the stand-ins draw from.
        modules: Further stand-ins by top-level import name, installed or not, for these packages
            only.

    Raises:
        UsageError: The block is nested or in two threads; a module of the packages was imported
            outside such a block before, so it holds the real clock; a name in `modules` has a
            dot; the system cannot set a time zone.
    """
    global _active
    if _active is not None:
        raise UsageError("entropy is already tamed; end that run before starting another")
    if dotted := [name for name in modules if "." in name]:
        raise UsageError(f"stand-ins go by top-level name: not {dotted[0]!r}")
    for name, module in _imported(packages):
        if module not in _tamed_modules:
            raise UsageError(
                f"{name} was imported before its ids and clock could be fixed; "
                f"start the run in a fresh process, before anything imports {packages[0]}"
            )
    real_import = builtins.__import__
    wrapper = _import_wrapper(real_import, frozenset(packages), dict(modules))
    with _utc():
        _active = entropy
        builtins.__import__ = wrapper
        try:
            yield
        finally:
            builtins.__import__ = real_import
            _active = None
            _tamed_modules.update(module for _, module in _imported(packages))


def _imported(packages: Sequence[str]) -> list[tuple[str, ModuleType]]:
    inside = tuple(f"{package}." for package in packages)
    modules: dict[str, object] = dict(sys.modules)  # an entry can be None
    return [
        (name, module)
        for name, module in modules.items()
        if (name in packages or name.startswith(inside)) and isinstance(module, ModuleType)
    ]


def _import_wrapper(
    real_import: Callable[..., ModuleType],
    packages: frozenset[str],
    given: Mapping[str, ModuleType],
) -> Callable[..., ModuleType]:
    """What stands in for `builtins.__import__`; all other imports pay for one look-up."""
    inside = tuple(f"{package}." for package in packages)
    roots = frozenset(name.partition(".")[0] for name in _REPLACEMENTS) | frozenset(given)

    def is_tamed(importer: Mapping[str, object] | None) -> bool:
        name = (importer or {}).get("__name__")
        if name == "__main__":  # python -m package
            name = (importer or {}).get("__package__")
        return isinstance(name, str) and (name in packages or name.startswith(inside))

    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        root = name.partition(".")[0]
        if root not in roots or level != 0 or not is_tamed(globals):
            return real_import(name, globals, locals, fromlist, level)
        if root in given:
            part = _part_of(given[root], name)
            return part if fromlist else given[root]
        module = real_import(name, globals, locals, fromlist, level)
        wanted = name if fromlist else root
        return _stand_in(wanted) if wanted in _REPLACEMENTS else module

    return import_


def _part_of(module: ModuleType, name: str) -> ModuleType:
    """The module ``a.b.c`` where one is given for ``a``."""
    try:
        return functools.reduce(getattr, name.split(".")[1:], module)
    except AttributeError as error:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name) from error


@contextmanager
def _utc() -> Iterator[None]:
    if not hasattr(_time, "tzset"):
        raise UsageError("this system cannot set a process's time zone; use macOS or Linux")
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    _time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        _time.tzset()


class _StandIn(type):
    """Metaclass of classes that pass for another one in isinstance and issubclass."""

    _real: type

    def __instancecheck__(cls, instance: object) -> bool:
        real = cls.__dict__.get("_real")
        return super().__instancecheck__(instance) if real is None else isinstance(instance, real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = cls.__dict__.get("_real")
        return super().__subclasscheck__(subclass) if real is None else issubclass(subclass, real)


class _StandInMakingReal(_StandIn):
    """Such a class whose instances are those of the real one, and behave so everywhere."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        real = cls.__dict__.get("_real")
        return super().__call__(*args, **kwargs) if real is None else real(*args, **kwargs)


class _Datetime(_datetime.datetime, metaclass=_StandInMakingReal):
    _real = _datetime.datetime

    @classmethod
    def now(cls, tz: _datetime.tzinfo | None = None) -> Any:
        if _active is None:
            return super().now(tz)
        moment = _active.now()
        moment = moment.replace(tzinfo=None) if tz is None else moment.astimezone(tz)
        return cls.combine(moment.date(), moment.timetz())

    @classmethod
    def today(cls) -> Any:
        return cls.now()

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(_datetime.timezone.utc).replace(tzinfo=None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(_datetime.datetime)


class _Date(_datetime.date, metaclass=_StandInMakingReal):
    _real = _datetime.date

    @classmethod
    def today(cls) -> Any:
        if _active is None:
            return super().today()
        return cls.fromordinal(_active.now().toordinal())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(_datetime.date)


class _Random(_random.Random, metaclass=_StandIn):
    _real = _random.Random

    def seed(self, a: Any = None, version: int = 2) -> None:
        if a is None and _active is not None:
            a = _active.fresh_seed(128)
        super().seed(a, version)


class _SystemRandom(_random.SystemRandom, metaclass=_StandIn):
    _real = _random.SystemRandom

    def random(self) -> float:
        return super().random() if _active is None else _active.system_bits(53) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        return super().getrandbits(k) if _active is None else _active.system_bits(k)

    def randbytes(self, n: int) -> bytes:
        return self.getrandbits(n * 8).to_bytes(n, "big")


def _switch(real: Callable[..., Any], tame: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``tame(entropy, ...)`` where an entropy is active, else the real."""

    @functools.wraps(real)
    def switch(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if _active is None else tame(_active, *args, **kwargs)

    return switch


def _uuid_names() -> dict[str, object]:
    return {
        "uuid4": _switch(_uuid.uuid4, Entropy.uuid4),
        "uuid1": _switch(_uuid.uuid1, Entropy.uuid1),
        "getnode": _switch(_uuid.getnode, lambda entropy: entropy.node),
    }


def _time_names() -> dict[str, object]:
    def wall_s(entropy: Entropy) -> float:
        return (_START_NS + entropy.tick()) / _NS_PER_S

    def sleep(entropy: Entropy, duration_s: float) -> None:
        _time.sleep(duration_s)
        entropy.advance(duration_s)

    def filling_in(real: Callable[..., Any], make: Callable[[Entropy], Any], at: int) -> Any:
        """`real` with the current time where its argument at index `at` is left out or None."""

        def tame(entropy: Entropy, *args: Any) -> Any:
            missing = len(args) <= at or args[at] is None
            return real(*args[:at], make(entropy)) if missing else real(*args)

        return _switch(real, tame)

    def parts(entropy: Entropy) -> _time.struct_time:
        return _time.localtime(wall_s(entropy))

    names: dict[str, object] = {
        "time": _switch(getattr(_time, "time"), wall_s),  # noqa: B009 - the one place for it
        "time_ns": _switch(_time.time_ns, lambda entropy: _START_NS + entropy.tick()),
        "sleep": _switch(_time.sleep, sleep),
        "strftime": filling_in(_time.strftime, parts, 1),
        "asctime": filling_in(_time.asctime, parts, 0),
    }
    for name in ("gmtime", "localtime", "ctime"):
        names[name] = filling_in(getattr(_time, name), wall_s, 0)
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        names[name] = _switch(getattr(_time, name), lambda entropy: entropy.tick() / _NS_PER_S)
        names[f"{name}_ns"] = _switch(getattr(_time, f"{name}_ns"), Entropy.tick)
    return names


def _shared_functions(
    module: str, names: Sequence[str], *, renamed: Mapping[str, str] = MappingProxyType({})
) -> dict[str, object]:
    """Functions of a module that draw from its hidden generator, handed to the entropy's."""
    real = importlib.import_module(module)

    def shared(name: str) -> Callable[..., Any]:
        method = renamed.get(name, name)
        return _switch(
            getattr(real, name),
            lambda entropy, *args, **kwargs: entropy.draw(module, method, *args, **kwargs),
        )

    return {name: shared(name) for name in names}


def _random_names() -> dict[str, object]:
    classes: dict[str, object] = {"Random": _Random, "SystemRandom": _SystemRandom}
    return classes | _shared_functions("random", sorted({*_random.__all__} - {*classes}))


def _secrets_names() -> dict[str, object]:
    system = _SystemRandom()

    def token_bytes(nbytes: int | None = None) -> bytes:
        return system.randbytes(32 if nbytes is None else nbytes)

    def token_hex(nbytes: int | None = None) -> str:
        return token_bytes(nbytes).hex()

    def token_urlsafe(nbytes: int | None = None) -> str:
        return base64.urlsafe_b64encode(token_bytes(nbytes)).rstrip(b"=").decode("ascii")

    return {
        "SystemRandom": _SystemRandom,
        "choice": system.choice,
        "randbelow": system.randrange,
        "randbits": system.getrandbits,
        "token_bytes": token_bytes,
        "token_hex": token_hex,
        "token_urlsafe": token_urlsafe,
    }


def _numpy_random_names() -> dict[str, object]:
    numpy_random: Any = importlib.import_module("numpy.random")

    def default_rng(entropy: Entropy, seed: Any = None) -> Any:
        return numpy_random.default_rng(entropy.fresh_seed(128) if seed is None else seed)

    class RandomState(numpy_random.RandomState, metaclass=_StandIn):  # type: ignore[misc]
        _real = numpy_random.RandomState

        def __init__(self, seed: Any = None) -> None:
            super().__init__(_active.fresh_seed(32) if seed is None and _active else seed)

        def seed(self, seed: Any = None) -> None:
            super().seed(_active.fresh_seed(32) if seed is None and _active else seed)

    renamed = {"ranf": "random_sample", "sample": "random_sample"}
    functions = [
        name for name in numpy_random.__all__ if hasattr(RandomState, renamed.get(name, name))
    ]
    return _shared_functions("numpy.random", functions, renamed=renamed) | {
        "RandomState": RandomState,
        "default_rng": _switch(numpy_random.default_rng, default_rng),
    }


class _ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A thread pool, or what runs in place where that is in force."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if runs_in_place():
            return InPlaceExecutor(*args, **kwargs)
        return concurrent.futures.ThreadPoolExecutor(*args, **kwargs)


@functools.cache
def _stand_in(name: str) -> ModuleType:
    """The stand-in for a module: a copy with some names replaced, made once per process."""
    real = importlib.import_module(name)
    module = ModuleType(name, real.__doc__)
    names = {**vars(real), **_REPLACEMENTS[name]()}
    if name == "time":  # these follow the time zone, so they are asked for anew
        for following in ("tzname", "timezone", "altzone", "daylight"):
            names.pop(following)
    vars(module).update(names, __getattr__=functools.partial(getattr, real))
    return module


_REPLACEMENTS: Final[Mapping[str, Callable[[], dict[str, object]]]] = {
    "uuid": _uuid_names,
    "datetime": lambda: {"datetime": _Datetime, "date": _Date},
    "time": _time_names,
    "random": _random_names,
    "secrets": _secrets_names,
    "numpy": lambda: {"random": _stand_in("numpy.random")},
    "numpy.random": _numpy_random_names,
    "concurrent": lambda: {"futures": _stand_in("concurrent.futures")},
    "concurrent.futures": lambda: {
        "ThreadPoolExecutor": _ThreadPoolExecutor,
        "as_completed": as_completed_in_order,
    },
}

for _class, _name in ((_Datetime, "datetime"), (_Date, "date"), (_Random, "Random")):
    _class.__name__ = _name
