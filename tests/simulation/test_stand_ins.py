"""Each name that the stand-ins replace: its results at a seed, and the cases left unchanged."""

# Generators are compared here, nothing is kept secret with them; what naive code gets is naive.
# ruff: noqa: S311, DTZ001

from __future__ import annotations

import datetime
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

from swarm_repro.simulation.entropy import START_NS, TICK_NS, Entropy, activate, active
from swarm_repro.simulation.event_loop import InPlaceExecutor, in_place_event_loop
from swarm_repro.simulation.stand_ins import REPLACEMENTS, stand_in
from swarm_repro.simulation.taming import tamed

np: Any = pytest.importorskip("numpy")

START_S = START_NS / 1e9
NEW_YEAR = time.struct_time((2025, 1, 1, 0, 0, 0, 2, 1, 0))
EPOCH = time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0))


def stream(name: str, seed: int = 42) -> random.Random:
    """As the recipe in the docstring of ``entropy`` says."""
    return random.Random(Entropy(seed).stream_seed(name))


@pytest.fixture
def entropy() -> Iterator[Entropy]:
    entropy = Entropy(42)
    with tamed(["nothing"], entropy):
        yield entropy


def module(name: str) -> Any:
    return stand_in(name)


# --- The clock.

READINGS: dict[str, tuple[Callable[[Any], object], object, object]] = {
    # What is asked; the answer at the start; the answer one tick later.
    "time": (lambda t: t.time(), START_S, START_S + 0.001),
    "time_ns": (lambda t: t.time_ns(), START_NS, START_NS + TICK_NS),
    **{
        name: (lambda t, name=name: getattr(t, name)(), 0.0, 0.001)  # type: ignore[misc]
        for name in ("monotonic", "perf_counter", "process_time", "thread_time")
    },
    **{
        name: (lambda t, name=name: getattr(t, name)(), 0, TICK_NS)  # type: ignore[misc]
        for name in ("monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns")
    },
    **{
        f"{name}({given})": (
            lambda t, name=name, given=given: getattr(t, name)(*given),  # type: ignore[misc]
            expected,
            expected,
        )
        for name, expected in (
            ("localtime", NEW_YEAR), ("gmtime", NEW_YEAR), ("ctime", "Wed Jan  1 00:00:00 2025"),
        )
        for given in ((), (None,))
    },
    "asctime": (lambda t: t.asctime(), "Wed Jan  1 00:00:00 2025", "Wed Jan  1 00:00:00 2025"),
    "strftime": (
        lambda t: t.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "2025-01-01 00:00:00 UTC",
        "2025-01-01 00:00:00 UTC",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_a_clock_shows_the_start_and_moves_by_one_tick(name: str, entropy: Entropy) -> None:
    read, first, second = READINGS[name]
    assert read(module("time")) == first
    assert read(module("time")) == second
    assert entropy.tick() == 2 * TICK_NS, "each reading is one"


@pytest.mark.parametrize("name", ["localtime", "gmtime", "ctime", "asctime", "strftime"])
def test_these_show_the_clock_as_far_as_it_has_moved(name: str, entropy: Entropy) -> None:
    entropy.advance(3 * 86_400 + 5 * 3600)
    args = ("%d %H",) if name == "strftime" else ()
    shown = getattr(module("time"), name)(*args)
    if isinstance(shown, time.struct_time):
        shown = (shown.tm_mday, shown.tm_hour)
    assert shown in ((4, 5), "04 05", "Sat Jan  4 05:00:00 2025")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("localtime", (0,), EPOCH),
        ("gmtime", (0.0,), EPOCH),
        ("ctime", (0,), "Thu Jan  1 00:00:00 1970"),
        ("asctime", (EPOCH,), "Thu Jan  1 00:00:00 1970"),
        ("strftime", ("%Y %j", EPOCH), "1970 001"),
    ],
)
def test_a_moment_that_is_given_is_shown_and_no_clock_read(
    name: str, given: tuple[object, ...], expected: object, entropy: Entropy
) -> None:
    assert getattr(module("time"), name)(*given) == expected
    assert entropy.tick() == 0


def test_a_sleep_takes_its_time_and_moves_the_clock_by_it(
    entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    module("time").sleep(1.5)
    assert slept == [1.5]
    assert entropy.tick() == 1_500_000_000


@pytest.mark.parametrize("name", [*REPLACEMENTS["time"]()])
def test_without_an_entropy_a_clock_is_the_real_one(name: str) -> None:
    given: dict[str, tuple[object, ...]] = {"sleep": (0,), "strftime": ("%Y",)}
    real, tame = getattr(time, name), getattr(module("time"), name)
    assert tame.__name__ == name
    before, shown, after = (one(*given.get(name, ())) for one in (real, tame, real))
    if name in {"asctime", "ctime"}:
        before, shown, after = (time.strptime(str(one)) for one in (before, shown, after))
    if name != "sleep":
        assert before <= shown <= after


def test_the_names_of_the_time_zone_follow_it(
    entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (module("time").timezone, module("time").altzone, module("time").daylight) == (0, 0, 0)
    assert module("time").tzname == ("UTC", "UTC")
    monkeypatch.setenv("TZ", "Etc/GMT+3")
    time.tzset()
    assert module("time").timezone == 3 * 3600
    monkeypatch.undo()


def test_datetimes_show_the_clock(entropy: Entropy) -> None:
    dt = module("datetime")
    east = datetime.timezone(datetime.timedelta(hours=14))
    tick = datetime.timedelta(milliseconds=1)
    start = datetime.datetime(2025, 1, 1)
    assert dt.datetime.now() == start
    assert dt.datetime.today() == start + tick
    assert dt.datetime.utcnow() == start + 2 * tick
    assert dt.datetime.utcnow().tzinfo is None
    there = dt.datetime.now(tz=east)
    assert (there.hour, there.utcoffset()) == (14, datetime.timedelta(hours=14))
    assert there == (start + 4 * tick).replace(tzinfo=datetime.timezone.utc)
    assert dt.datetime.now(datetime.timezone.utc).hour == 0
    assert dt.date.today() == datetime.date(2025, 1, 1)
    assert entropy.tick() == 7 * TICK_NS
    entropy.advance(40 * 86_400)
    assert dt.date.today() == datetime.date(2025, 2, 10)


def test_without_an_entropy_datetimes_show_the_real_clock() -> None:
    dt = module("datetime")
    utc = datetime.timezone.utc
    reads: tuple[Callable[[Any], Any], ...] = (
        lambda one: one.datetime.now(),
        lambda one: one.datetime.now(utc),
        lambda one: one.datetime.today(),
        lambda one: one.datetime.now(utc).replace(tzinfo=None),
        lambda one: one.date.today(),
    )
    for read in reads:
        before, shown, after = read(datetime), read(dt), read(datetime)
        assert before <= shown <= after
        assert type(shown) is type(before)
    shown = dt.datetime.utcnow()
    assert abs(shown - datetime.datetime.now(utc).replace(tzinfo=None)) < datetime.timedelta(1)


# --- Ids.


def test_ids_come_from_their_streams_in_turn(entropy: Entropy) -> None:
    expected = stream("uuid")
    for _ in range(3):
        assert module("uuid").uuid4() == uuid.UUID(int=expected.getrandbits(128), version=4)
    known = stream("uuid1")
    node = known.getrandbits(48) | 1 << 40
    assert module("uuid").getnode() == node
    for number in range(3):
        one = module("uuid").uuid1()
        assert (one.version, one.node, one.clock_seq) == (1, node, known.getrandbits(14))
        moment = datetime.datetime(1582, 10, 15) + datetime.timedelta(microseconds=one.time // 10)
        assert moment == datetime.datetime(2025, 1, 1) + number * datetime.timedelta(milliseconds=1)
    assert entropy.tick() == 3 * TICK_NS


def test_a_time_based_id_may_be_given_its_parts(entropy: Entropy) -> None:
    one = module("uuid").uuid1(5, 0x1234)
    assert (one.node, one.clock_seq) == (5, 0x1234)
    assert module("uuid").uuid1(clock_seq=0).clock_seq == 0
    assert module("uuid").uuid1(node=0).node == 0
    # A sequence that was given takes none from the stream.
    known = stream("uuid1")
    known.getrandbits(48)
    expected = [known.getrandbits(14) for _ in range(2)]
    assert module("uuid").uuid1().clock_seq == expected[1]
    assert entropy.tick() == 4 * TICK_NS


def test_deterministic_ids_are_left_unchanged(entropy: Entropy) -> None:
    for make in ("uuid3", "uuid5", "NAMESPACE_DNS", "UUID"):
        assert getattr(module("uuid"), make) is getattr(uuid, make)
    assert entropy.uuid4() == Entropy(42).uuid4()


def test_without_an_entropy_ids_are_real() -> None:
    assert module("uuid").uuid4() != module("uuid").uuid4()
    assert module("uuid").getnode() == uuid.getnode()
    assert abs(module("uuid").uuid1().time - uuid.uuid1().time) < 10**9


# --- Random numbers.

FUNCTIONS: dict[str, tuple[object, ...]] = {
    "random": (), "uniform": (2, 5), "randint": (1, 10**9), "randrange": (10**9,),
    "choice": (range(10**9),), "choices": (range(10**9),), "sample": (range(10**9), 3),
    "getrandbits": (64,), "randbytes": (8,), "gauss": (0, 1), "normalvariate": (0, 1),
    "lognormvariate": (0, 1), "expovariate": (1,), "vonmisesvariate": (0, 1),
    "gammavariate": (1, 1), "betavariate": (1, 1), "paretovariate": (1,),
    "weibullvariate": (1, 1), "triangular": (0, 1, 0.5), "binomialvariate": (50, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if hasattr(random, name)])
def test_a_function_of_random_draws_from_the_runs_generator(name: str, entropy: Entropy) -> None:
    state = random.getstate()
    expected = stream("random")
    for _ in range(2):
        drawn = getattr(module("random"), name)(*FUNCTIONS[name])
        assert drawn == getattr(expected, name)(*FUNCTIONS[name])
    assert random.getstate() == state, "nobody else's generator is touched"


def test_all_functions_of_random_are_known_here() -> None:
    others = {"Random", "SystemRandom", "seed", "getstate", "setstate", "shuffle"}
    assert {*random.__all__} - others <= FUNCTIONS.keys()


def test_a_shuffle_follows_the_runs_generator(entropy: Entropy) -> None:
    given, expected = list(range(20)), list(range(20))
    module("random").shuffle(given)
    stream("random").shuffle(expected)
    assert given == expected != sorted(given)


def test_a_generator_without_a_seed_has_one_of_the_run(entropy: Entropy) -> None:
    seeds = stream("unseeded")
    for given in ((), (None,)):
        generator = module("random").Random(*given)
        assert generator.random() == random.Random(seeds.getrandbits(128)).random()
    assert module("random").Random(5).random() == random.Random(5).random()
    assert module("random").Random(0).random() == random.Random(0).random()
    again = module("random").Random(5)
    again.seed("text", version=1)
    plain = random.Random(5)
    plain.seed("text", version=1)
    assert again.random() == plain.random()


def test_system_randomness_comes_from_the_run(entropy: Entropy) -> None:
    bits = stream("system")
    system = module("random").SystemRandom()
    assert system.random() == bits.getrandbits(53) * 2.0**-53
    assert system.getrandbits(17) == bits.getrandbits(17)
    assert system.randbytes(5) == bits.getrandbits(40).to_bytes(5, "big")
    secrets = module("secrets")
    assert secrets.token_bytes() == bits.getrandbits(256).to_bytes(32, "big")
    assert secrets.token_bytes(3) == bits.getrandbits(24).to_bytes(3, "big")
    assert secrets.token_bytes(0) == bits.getrandbits(0).to_bytes(0, "big")
    assert secrets.token_hex(4) == f"{bits.getrandbits(32):08x}"
    assert len(secrets.token_hex()) == 64
    bits.getrandbits(256)
    assert secrets.randbits(9) == bits.getrandbits(9)
    known, other = Entropy(1), Entropy(1)
    activate(known)
    first = [secrets.randbelow(1000), secrets.choice("abcdef"), secrets.token_urlsafe(7)]
    activate(other)
    assert [secrets.randbelow(1000), secrets.choice("abcdef"), secrets.token_urlsafe(7)] == first
    assert len(str(first[2])) == 10, "base64 of 7 bytes, without its padding"
    assert "=" not in str(first[2])
    assert issubclass(secrets.SystemRandom, random.SystemRandom)
    assert isinstance(random.SystemRandom(), secrets.SystemRandom)
    activate(entropy)


def test_urls_get_no_signs_that_have_a_meaning_in_them(entropy: Entropy) -> None:
    token = module("secrets").token_urlsafe(3000)
    assert set(token) >= {"-", "_"}
    assert not set(token) & {"+", "/", "="}


def test_without_an_entropy_system_randomness_is_real() -> None:
    draws: tuple[Callable[[], object], ...] = (
        module("random").SystemRandom().random,
        lambda: module("random").SystemRandom().getrandbits(64),
        module("secrets").token_hex,
        module("random").Random().random,
        lambda: module("numpy.random").RandomState().rand(),
        lambda: module("numpy.random").default_rng().random(),
    )
    for draw in draws:
        assert draw() != draw()
    assert 0 <= module("random").SystemRandom().random() < 1


def test_without_an_entropy_functions_draw_from_the_hidden_generator() -> None:
    state = random.getstate()
    try:
        module("random").seed(5)
        drawn = random.random()
        assert drawn == random.Random(5).random()
    finally:
        random.setstate(state)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("rand", ()), ("randn", ()), ("random", ()), ("random_sample", ()), ("normal", ()),
        ("randint", (10**9,)), ("uniform", ()), ("choice", (10**6,)), ("permutation", (10,)),
        ("standard_normal", ()), ("bytes", (4,)), ("beta", (1, 2)), ("poisson", (50,)),
    ],
)  # fmt: skip
def test_a_function_of_numpy_draws_from_the_runs_state(
    name: str, args: tuple[object, ...], entropy: Entropy
) -> None:
    expected = np.random.RandomState(stream("numpy").getrandbits(32))
    for _ in range(2):
        drawn = getattr(module("numpy.random"), name)(*args)
        np.testing.assert_array_equal(drawn, getattr(expected, name)(*args))


@pytest.mark.parametrize("name", ["ranf", "sample"])
def test_old_names_of_numpy_are_the_function_that_they_were(name: str, entropy: Entropy) -> None:
    expected = np.random.RandomState(stream("numpy").getrandbits(32))
    assert getattr(module("numpy.random"), name)() == expected.random_sample()


def test_generators_of_numpy_without_a_seed_have_one_of_the_run(entropy: Entropy) -> None:
    seeds = stream("unseeded")
    numpy_random = module("numpy").random
    assert numpy_random is module("numpy.random")
    rng = np.random.default_rng(seeds.getrandbits(128))
    assert numpy_random.default_rng().random() == rng.random()
    rng = np.random.default_rng(seeds.getrandbits(128))
    assert numpy_random.default_rng(seed=None).random() == rng.random()
    state = np.random.RandomState(seeds.getrandbits(32))
    assert numpy_random.RandomState().rand() == state.rand()
    given = numpy_random.RandomState(3)
    assert given.rand() == np.random.RandomState(3).rand()
    given.seed()
    assert given.rand() == np.random.RandomState(seeds.getrandbits(32)).rand()
    given.seed(0)
    assert given.rand() == np.random.RandomState(0).rand()
    assert numpy_random.default_rng(0).random() == np.random.default_rng(0).random()
    assert isinstance(np.random.RandomState(1), numpy_random.RandomState)


# --- The modules.


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_stand_in_has_all_names_of_the_module_and_is_made_once(name: str) -> None:
    __import__(name)
    real: Any = futures if name == "concurrent.futures" else __import__(name, fromlist=["x"])
    assert stand_in(name) is stand_in(name)
    assert stand_in(name) is not real
    assert (stand_in(name).__name__, stand_in(name).__doc__) == (name, real.__doc__)
    replaced = REPLACEMENTS[name]()
    assert replaced.keys() <= {*dir(real)}
    for known in [known for known in dir(real) if not known.startswith("_")]:
        told = getattr(stand_in(name), known)
        if known in replaced:
            assert told is not getattr(real, known), known
        elif name != "time":
            assert told is getattr(real, known), known
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = stand_in(name).nothing_of_the_kind


def test_classes_go_by_their_names() -> None:
    assert module("datetime").datetime.__name__ == "datetime"
    assert module("datetime").date.__name__ == "date"
    assert module("random").Random.__name__ == "Random"


def test_a_stand_in_class_is_distinguished_from_its_subclasses() -> None:
    class Stamp(module("datetime").datetime):  # type: ignore[misc]
        pass

    class Dice(module("random").Random):  # type: ignore[misc]
        pass

    assert type(Stamp(2025, 1, 1)) is Stamp
    assert issubclass(Stamp, module("datetime").datetime)
    assert not issubclass(datetime.datetime, Stamp)
    assert not isinstance(datetime.datetime(2025, 1, 1), Stamp)
    assert isinstance(Stamp(2025, 1, 1), Stamp)
    assert issubclass(random.Random, module("random").Random)
    assert not issubclass(int, module("random").Random)
    assert not isinstance(5, module("datetime").date)
    assert not issubclass(random.Random, Dice)
    assert isinstance(Dice(1), Dice)


def test_a_pool_runs_in_place_where_that_is_in_force_with_its_arguments() -> None:
    ran: list[str] = []
    make = module("concurrent").futures.ThreadPoolExecutor
    with make(1, "named", initializer=ran.append, initargs=("begun",)) as pool:
        assert type(pool) is futures.ThreadPoolExecutor
        pool.submit(ran.append, "done").result()
    with (
        in_place_event_loop(),
        make(1, "named", initializer=ran.append, initargs=("begun",)) as pool,
    ):
        assert type(pool) is InPlaceExecutor
        pool.submit(ran.append, "done").result()
    assert ran == ["begun", "done"] * 2
    with make() as pool:
        given = [pool.submit(int, text) for text in "31452"]
        futures.wait(given)
    assert list(module("concurrent.futures").as_completed(given)) == given


def test_the_time_zone_is_put_back_where_there_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    with tamed(["nothing"], Entropy(1)):
        assert os.environ["TZ"] == "UTC"
        assert active() is not None
    assert "TZ" not in os.environ
