"""Stand-ins for the modules that ids, clocks and random numbers come from.

Each is one object for the whole process, since modules keep what they imported. It asks the entropy
that is active at the moment, or the real module when none is.
"""

from __future__ import annotations

import base64
import concurrent.futures
import datetime as _datetime
import functools
import importlib
import random as _random
import time as _time
import uuid as _uuid
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, Final

from swarm_repro.simulation.entropy import NS_PER_S, START_NS, Entropy, active
from swarm_repro.simulation.event_loop import (
    InPlaceExecutor,
    as_completed_in_order,
    runs_in_place,
)


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
        entropy = active()
        if entropy is None:
            return super().now(tz)
        moment = entropy.now()
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
        entropy = active()
        if entropy is None:
            return super().today()
        return cls.fromordinal(entropy.now().toordinal())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(_datetime.date)


class _Random(_random.Random, metaclass=_StandIn):
    _real = _random.Random

    def seed(self, a: Any = None, version: int = 2) -> None:
        entropy = active()
        if a is None and entropy is not None:
            a = entropy.fresh_seed(128)
        super().seed(a, version)


class _SystemRandom(_random.SystemRandom, metaclass=_StandIn):
    _real = _random.SystemRandom

    def random(self) -> float:
        entropy = active()
        return super().random() if entropy is None else entropy.system_bits(53) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        entropy = active()
        return super().getrandbits(k) if entropy is None else entropy.system_bits(k)

    def randbytes(self, n: int) -> bytes:
        return self.getrandbits(n * 8).to_bytes(n, "big")


def _switch(real: Callable[..., Any], tame: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``tame(entropy, ...)`` where an entropy is active, else the real."""

    @functools.wraps(real)
    def switch(*args: Any, **kwargs: Any) -> Any:
        entropy = active()
        return real(*args, **kwargs) if entropy is None else tame(entropy, *args, **kwargs)

    return switch


def _uuid_names() -> dict[str, object]:
    return {
        "uuid4": _switch(_uuid.uuid4, Entropy.uuid4),
        "uuid1": _switch(_uuid.uuid1, Entropy.uuid1),
        "getnode": _switch(_uuid.getnode, lambda entropy: entropy.node),
    }


def _time_names() -> dict[str, object]:
    def wall_s(entropy: Entropy) -> float:
        return (START_NS + entropy.tick()) / NS_PER_S

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
        "time_ns": _switch(_time.time_ns, lambda entropy: START_NS + entropy.tick()),
        "sleep": _switch(_time.sleep, sleep),
        "strftime": filling_in(_time.strftime, parts, 1),
        "asctime": filling_in(_time.asctime, parts, 0),
    }
    for name in ("gmtime", "localtime", "ctime"):
        names[name] = filling_in(getattr(_time, name), wall_s, 0)
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        names[name] = _switch(getattr(_time, name), lambda entropy: entropy.tick() / NS_PER_S)
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
            lambda entropy, *args, **kwargs: entropy.draw(
                module, _GENERATORS[module], method, *args, **kwargs
            ),
        )

    return {name: shared(name) for name in names}


def _numpy_generator(entropy: Entropy) -> Any:
    seed = _random.Random(entropy.stream_seed("numpy")).getrandbits(32)  # noqa: S311
    return stand_in("numpy.random").RandomState(seed)


_GENERATORS: Final[Mapping[str, Callable[[Entropy], Any]]] = {
    "random": lambda entropy: _Random(entropy.stream_seed("random")),
    "numpy.random": _numpy_generator,
}


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


def _seed_of(seed: Any) -> Any:
    """The caller's seed, or one of the active entropy where there is none."""
    entropy = active()
    return entropy.fresh_seed(32) if seed is None and entropy is not None else seed


def _numpy_random_names() -> dict[str, object]:
    numpy_random: Any = importlib.import_module("numpy.random")

    def default_rng(entropy: Entropy, seed: Any = None) -> Any:
        return numpy_random.default_rng(entropy.fresh_seed(128) if seed is None else seed)

    class RandomState(numpy_random.RandomState, metaclass=_StandIn):  # type: ignore[misc]
        _real = numpy_random.RandomState

        def __init__(self, seed: Any = None) -> None:
            super().__init__(_seed_of(seed))

        def seed(self, seed: Any = None) -> None:
            super().seed(_seed_of(seed))

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
def stand_in(name: str) -> ModuleType:
    """The stand-in for a module: a copy with some names replaced, made once per process."""
    real = importlib.import_module(name)
    module = ModuleType(name, real.__doc__)
    names = {**vars(real), **REPLACEMENTS[name]()}
    if name == "time":  # these follow the time zone, so they are asked for anew
        for following in ("tzname", "timezone", "altzone", "daylight"):
            names.pop(following)
    vars(module).update(names, __getattr__=functools.partial(getattr, real))
    return module


REPLACEMENTS: Final[Mapping[str, Callable[[], dict[str, object]]]] = {
    "uuid": _uuid_names,
    "datetime": lambda: {"datetime": _Datetime, "date": _Date},
    "time": _time_names,
    "random": _random_names,
    "secrets": _secrets_names,
    "numpy": lambda: {"random": stand_in("numpy.random")},
    "numpy.random": _numpy_random_names,
    "concurrent": lambda: {"futures": stand_in("concurrent.futures")},
    "concurrent.futures": lambda: {
        "ThreadPoolExecutor": _ThreadPoolExecutor,
        "as_completed": as_completed_in_order,
    },
}

for _class, _name in ((_Datetime, "datetime"), (_Date, "date"), (_Random, "Random")):
    _class.__name__ = _name
