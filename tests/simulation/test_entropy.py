"""Seeded ids, clocks and random numbers for named packages, and for nobody else."""

# Generators are compared here, nothing is kept secret with them.
# ruff: noqa: S311

from __future__ import annotations

import asyncio
import copy
import datetime
import hashlib
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm_repro.errors import UsageError
from swarm_repro.simulation.entropy import CLOCK_START, TICK_NS, Entropy, active
from swarm_repro.simulation.event_loop import InPlaceExecutor, in_place_event_loop
from swarm_repro.simulation.taming import tamed

Package = Callable[..., str]
_numbers = count()

START = CLOCK_START.replace(tzinfo=None)
TICK = datetime.timedelta(microseconds=TICK_NS // 1000)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Writes an importable package of a name of its own, from its modules' sources."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(**modules: str) -> str:
        name = f"simulated_{next(_numbers)}"
        made.append(name)
        folder = tmp_path / name
        folder.mkdir()
        for module, source in {"__init__": "", **modules}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return name

    yield write
    for name in list(sys.modules):
        if name.partition(".")[0] in made:
            del sys.modules[name]


def load(name: str) -> Any:
    __import__(name)
    return sys.modules[name]


DRAWS = """
    import datetime as dt
    import random
    import secrets
    import time
    import uuid
    from random import SystemRandom, choice
    from time import monotonic
    from uuid import uuid4

    def draws():
        import random as inside
        return [
            uuid.uuid4(), uuid4(), uuid.uuid1(), uuid.getnode(),
            dt.datetime.now(), dt.datetime.now(dt.timezone.utc), dt.datetime.utcnow(),
            dt.datetime.today(), dt.date.today(),
            time.time(), time.time_ns(), monotonic(), time.perf_counter(), time.monotonic_ns(),
            time.process_time(), time.localtime(), time.gmtime(), time.ctime(), time.asctime(),
            time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            random.random(), choice("abcdef"), inside.randint(0, 10**9), random.gauss(0, 1),
            random.Random().random(), random.Random().random(), SystemRandom().random(),
            SystemRandom().randrange(10**9), SystemRandom().randbytes(4),
            secrets.token_hex(), secrets.token_bytes(4), secrets.token_urlsafe(),
            secrets.randbelow(10**9), secrets.randbits(64), secrets.choice(range(10**9)),
        ]
"""


def test_one_seed_gives_one_run_and_another_seed_another(package: Package) -> None:
    name = package(a=DRAWS)
    runs = []
    for seed in (1, 1, 2):
        with tamed([name], Entropy(seed)):
            runs.append(load(f"{name}.a").draws())
    assert runs[0] == runs[1]
    same = [one == other for one, other in zip(runs[0], runs[2], strict=True)]
    # Times do not depend on the seed; everything else does.
    assert same == [False] * 4 + [True] * 16 + [False] * 15


def test_outside_the_block_a_tamed_module_sees_the_real_world(package: Package) -> None:
    name = package(a=DRAWS)
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        inside = module.draws()
    first, second = module.draws(), module.draws()
    assert first[0] not in {inside[0], second[0]}
    assert first[4] > datetime.datetime(2025, 6, 1)  # noqa: DTZ001 - what naive code gets
    assert abs(first[9] - time.time()) < 60
    assert first[20] != inside[20]
    assert first[24] != second[24]
    assert first[29] != second[29]


def test_the_published_recipe_of_the_streams(package: Package) -> None:
    def stream(name: str) -> random.Random:
        digest = hashlib.sha256(f"sr1-entropy:{name}:42".encode()).digest()
        return random.Random(int.from_bytes(digest, "big"))

    name = package(a="import random, secrets, uuid; from numpy import random as numpy_random")
    with tamed([name], Entropy(42)):
        module = load(f"{name}.a")
        assert module.uuid.uuid4() == uuid.UUID(int=stream("uuid").getrandbits(128), version=4)
        assert module.random.random() == stream("random").random()
        seed = stream("unseeded").getrandbits(128)
        assert module.random.Random().random() == random.Random(seed).random()
        assert module.secrets.randbits(64) == stream("system").getrandbits(64)
        node = stream("uuid1").getrandbits(48) | 1 << 40
        assert module.uuid.uuid1().node == module.uuid.getnode() == node
        import numpy

        state = numpy.random.RandomState(stream("numpy").getrandbits(32))
        assert module.numpy_random.rand() == state.rand()


def test_the_values_of_seed_42_never_change(package: Package) -> None:
    name = package(a="import random, uuid; from datetime import datetime")
    with tamed([name], Entropy(42)):
        module = load(f"{name}.a")
        assert str(module.uuid.uuid4()) == "52ca8da9-2253-41d9-82f2-c87239111320"
        assert str(module.uuid.uuid1()) == "57fd0000-c7d3-11ef-8c54-7d3901b776e1"
        assert module.random.randrange(10**6) == 566732
        assert module.datetime.now().isoformat() == "2025-01-01T00:00:00.001000"


def test_the_clock_starts_at_a_fixed_instant_and_moves_by_one_tick_a_reading(
    package: Package,
) -> None:
    name = package(a="import time; from datetime import date, datetime, timedelta, timezone")
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        assert module.datetime.now() == START
        assert module.time.monotonic() == TICK_NS / 1e9
        assert module.time.time() == CLOCK_START.timestamp() + 2 * TICK_NS / 1e9
        east = datetime.timezone(datetime.timedelta(hours=5))
        moment = module.datetime.now(east)
        assert moment == CLOCK_START + 3 * TICK
        assert moment.utcoffset() == datetime.timedelta(hours=5)
        assert module.date.today() == START.date()


def test_a_sleep_moves_the_clock_so_that_waiting_loops_end(package: Package) -> None:
    name = package(a="import time")
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        before, really = module.time.monotonic_ns(), time.monotonic()
        module.time.sleep(0.02)
        assert module.time.monotonic_ns() - before == 20_000_000 + TICK_NS
        assert time.monotonic() - really >= 0.02


def test_defaults_bound_when_a_class_is_made_are_tamed(package: Package) -> None:
    pytest.importorskip("pydantic")
    name = package(
        a="""
        from dataclasses import dataclass, field
        from datetime import date, datetime
        from typing import Optional
        from uuid import uuid4

        from pydantic import BaseModel, Field

        @dataclass
        class Plain:
            id: str = field(default_factory=lambda: str(uuid4()))
            at: datetime = field(default_factory=datetime.now)

        class Model(BaseModel):
            at: datetime = Field(default_factory=datetime.now)
            day: Optional[date] = None
        """
    )
    with tamed([name], Entropy(1)):
        first = load(f"{name}.a").Plain()
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        assert module.Plain() == first
        assert first.at == START
        model = module.Model(day="2024-02-29")
        assert model.at == START + TICK
        assert model.day == datetime.date(2024, 2, 29)
        assert module.Model.model_validate_json(model.model_dump_json()) == model
        assert module.Model(at=datetime.datetime(2024, 1, 1)).at.year == 2024  # noqa: DTZ001
        at = module.Model.model_json_schema()["properties"]["at"]
        assert (at["type"], at["format"]) == ("string", "date-time")


def test_datetimes_are_real_ones_and_the_stand_in_passes_for_the_real_class(
    package: Package,
) -> None:
    name = package(
        a="""
        from datetime import date, datetime, timezone

        class Stamp(datetime):
            pass
        """
    )
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        made = [
            module.datetime.now(),
            module.datetime.now(module.timezone.utc),
            module.datetime(2024, 1, 2),
            module.datetime.fromisoformat("2024-01-02T03:04:05"),
            module.datetime.strptime("2024", "%Y"),
            module.datetime.fromtimestamp(0),
            module.datetime.combine(module.date.today(), datetime.time()),
            module.datetime.min,
        ]
        assert {type(value) for value in made} == {datetime.datetime}
        assert type(module.date.today()) is type(module.date(2024, 1, 2)) is datetime.date
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own bytes
        assert all(isinstance(value, module.datetime) for value in made)
        assert all(isinstance(value, module.date) for value in made)
        assert not isinstance(module.date.today(), module.datetime)
        assert issubclass(datetime.datetime, module.datetime)
        assert issubclass(module.datetime, datetime.date)
        assert type(module.Stamp.now()) is module.Stamp
        assert isinstance(module.Stamp.now(), module.datetime)
        assert not isinstance(module.datetime.now(), module.Stamp)


def test_seeded_generators_are_what_they_always_were(package: Package) -> None:
    name = package(a="import random\nclass Loaded(random.Random): pass")
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        for seed in (0, 7, "text", b"bytes"):
            expected = random.Random(seed)
            given = module.random.Random(seed)
            assert [given.random(), given.gauss(0, 1), given.sample(range(99), 5)] == [
                expected.random(),
                expected.gauss(0, 1),
                expected.sample(range(99), 5),
            ]
        module.random.seed(7)
        assert module.random.randint(0, 10**9) == random.Random(7).randint(0, 10**9)
        state = module.random.getstate()
        again = module.random.random()
        module.random.setstate(state)
        assert module.random.random() == again
        assert isinstance(random.Random(1), module.random.Random)
        assert isinstance(module.random.Random(1), random.Random)
        assert not isinstance(random.Random(1), module.Loaded)
        one = module.random.Random(3)
        assert copy.deepcopy(one).random() == one.random()


def test_reseeding_without_a_seed_is_seeded_too(package: Package) -> None:
    name = package(a="import random")
    drawn = []
    for _ in range(2):
        with tamed([name], Entropy(1)):
            module = load(f"{name}.a")
            generator = module.random.Random(5)
            generator.seed()
            module.random.seed()
            drawn.append((generator.random(), module.random.random()))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != random.Random(5).random()


def test_numpy_without_a_seed_is_seeded_and_its_own_state_untouched(package: Package) -> None:
    numpy: Any = pytest.importorskip("numpy")
    name = package(
        a="""
        import numpy as np
        import numpy.linalg
        from numpy.random import default_rng

        def draws():
            np.random.seed(3)
            reset = np.random.rand()
            np.random.seed()
            return [
                reset, np.random.rand(), float(np.random.normal()), np.random.sample(),
                np.random.default_rng().random(), default_rng(None).random(),
                np.random.RandomState().rand(), numpy.random.default_rng().random(),
                default_rng(5).random(), np.random.RandomState(5).rand(),
            ]
        """
    )
    before = numpy.random.get_state()[1].tolist()
    runs = []
    for _ in range(2):
        with tamed([name], Entropy(1)):
            module = load(f"{name}.a")
            runs.append(module.draws())
            assert module.np.ndarray is numpy.ndarray
            assert module.np.linalg.norm is numpy.linalg.norm
            assert isinstance(numpy.random.default_rng(1), module.np.random.Generator)
    assert numpy.random.get_state()[1].tolist() == before
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 10
    assert runs[0][0] == numpy.random.RandomState(3).rand()
    assert runs[0][8:] == [
        numpy.random.default_rng(5).random(),
        numpy.random.RandomState(5).rand(),
    ]


def test_other_packages_keep_the_real_modules(package: Package) -> None:
    other = package(a="import uuid, datetime, time, random, secrets, concurrent.futures")
    name = package(a="import uuid", b=f"import {other}.a\nfrom . import a\n")
    similar = package(a="import uuid")
    with tamed([name, similar[:-1]], Entropy(1)):  # a name's beginning is not the name
        module = load(f"{name}.b")
        assert module.a.uuid is not uuid
        foreign = sys.modules[f"{other}.a"]
        for real in ("uuid", "datetime", "time", "random", "secrets", "concurrent"):
            assert getattr(foreign, real) is sys.modules[real]
        assert load(f"{similar}.a").uuid is uuid
        assert uuid.uuid4() != Entropy(1).uuid4()


def test_every_import_statement_gets_the_stand_in(package: Package) -> None:
    name = package(
        a="""
        import concurrent.futures
        import concurrent.futures as aliased
        from concurrent import futures
        from concurrent.futures import ThreadPoolExecutor, as_completed, Future

        pools = [concurrent.futures, aliased, futures]
        """
    )
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        assert {pool.ThreadPoolExecutor for pool in module.pools} == {module.ThreadPoolExecutor}
        assert module.ThreadPoolExecutor is not futures.ThreadPoolExecutor
        assert module.Future is futures.Future
        assert module.concurrent.__name__ == "concurrent"


def test_a_thread_pool_is_in_place_only_where_that_is_in_force(package: Package) -> None:
    name = package(
        a="""
        import asyncio
        import concurrent.futures
        import threading

        async def below():
            with concurrent.futures.ThreadPoolExecutor() as pool:
                return pool.submit(asyncio.run, asyncio.sleep(0, "done")).result()
        """
    )
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        with module.concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            assert type(pool) is futures.ThreadPoolExecutor
            assert pool.submit(threading.get_ident).result() != threading.get_ident()
        with in_place_event_loop():
            with module.concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
                assert type(pool) is InPlaceExecutor
            assert asyncio.run(module.below()) == "done"


def test_given_modules_stand_in_for_the_packages_only_installed_or_not(package: Package) -> None:
    name = package(
        a="""
        def load():
            import absent
            from absent import Llama
            from absent.part import thing
            import absent.part as part
            return absent, Llama, thing, part

        def missing():
            import absent.nothing
        """
    )
    given = ModuleType("absent")
    part = ModuleType("absent.part")
    vars(given).update(Llama="stand-in", part=part)
    vars(part).update(thing=1)
    with tamed([name], Entropy(1), modules={"absent": given}):
        module = load(f"{name}.a")
        assert module.load() == (given, "stand-in", 1, part)
        with pytest.raises(ModuleNotFoundError, match=r"absent\.nothing"):
            module.missing()
        with pytest.raises(ModuleNotFoundError, match="absent"):
            __import__("absent")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        module.load()
    assert "absent" not in sys.modules


def test_a_module_imported_too_early_is_named(package: Package) -> None:
    name = package(a="import uuid", b="import uuid")
    with tamed([name], Entropy(1)):
        load(f"{name}.a")
    with tamed([name], Entropy(1)):
        pass  # what an earlier block imported is fine
    load(f"{name}.b")
    with (
        pytest.raises(UsageError, match=rf"{name}\.b was imported before"),
        tamed([name], Entropy(1)),
    ):
        pass
    assert active() is None


def test_blocks_do_not_nest_and_end_whatever_happens(package: Package) -> None:
    def nest() -> None:
        with pytest.raises(UsageError, match="already"), tamed(["nothing"], Entropy(1)):
            pass
        assert active() is not None
        assert sys.meta_path != finders
        raise ZeroDivisionError

    finders = list(sys.meta_path)
    with pytest.raises(ZeroDivisionError), tamed(["nothing"], Entropy(1)):
        nest()
    assert active() is None
    assert sys.meta_path == finders
    with tamed(["nothing"], Entropy(1)):
        pass


def test_a_stand_in_goes_by_a_top_level_name() -> None:
    with (
        pytest.raises(UsageError, match=r"a\.b"),
        tamed(["nothing"], Entropy(1), modules={"a.b": ModuleType("b")}),
    ):
        pass


@pytest.fixture
def new_york() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_the_time_zone_is_utc_inside_and_what_it_was_outside(package: Package) -> None:
    name = package(a="import time; from datetime import date, datetime")
    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        assert module.datetime.now().timestamp() == CLOCK_START.timestamp()
        assert module.datetime.fromtimestamp(0) == datetime.datetime(1970, 1, 1)  # noqa: DTZ001
        assert module.date.fromtimestamp(0) == datetime.date(1970, 1, 1)
        assert module.datetime.now().astimezone().utcoffset() == datetime.timedelta(0)
        assert module.time.localtime(0).tm_hour == 0
        assert module.time.strftime("%H %Z") == "00 UTC"
        assert module.time.ctime() == "Wed Jan  1 00:00:00 2025"
        assert (module.time.timezone, module.time.tzname[0]) == (0, "UTC")
    assert os.environ["TZ"] == "America/New_York"
    assert time.localtime(0).tm_hour == 19
    assert module.time.timezone == 5 * 3600


def test_draws_from_many_threads_lose_and_repeat_nothing(package: Package) -> None:
    name = package(a="import time, uuid")
    drawn: list[tuple[uuid.UUID, int]] = []

    def draw(module: Any) -> None:
        drawn.extend((module.uuid.uuid4(), module.time.monotonic_ns()) for _ in range(500))

    with tamed([name], Entropy(1)):
        module = load(f"{name}.a")
        threads = [threading.Thread(target=draw, args=(module,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    alone = Entropy(1)
    assert {one for one, _ in drawn} == {alone.uuid4() for _ in range(2000)}
    assert sorted(reading for _, reading in drawn) == [TICK_NS * n for n in range(2000)]


SWARM_RUN = '''
"""Run unmodified SWARM with a model that answers from the prompt's digest."""

import asyncio
import contextlib
import hashlib
import json
import sys
import time

from swarm_repro.simulation.entropy import Entropy
from swarm_repro.simulation.event_loop import in_place_event_loop
from swarm_repro.simulation.swarm import DEFERRED
from swarm_repro.simulation.taming import tamed

SCENARIO, WAY, TAMED = sys.argv[1], sys.argv[2], sys.argv[3] == "tamed"


def answer(system, user):
    digest = hashlib.sha256((system + user).encode()).digest()
    with open("calls.txt", "a", encoding="utf-8") as calls:
        calls.write(digest.hex() + "\\n")
    action, to = digest[0] % 3, ["llm_1", "llm_2", "honest_1", "deceptive_1"][digest[1] % 4]
    return json.dumps({
        "action_type": ["NOOP", "POST", "PROPOSE_INTERACTION"][action],
        "params": {"content": digest.hex()[:9], "counterparty_id": to},
        "accept": bool(digest[2] % 2),
        "reasoning": digest.hex()[9:20],
    })


async def call_llm(agent, system, user):
    text = await asyncio.get_event_loop().run_in_executor(None, answer, system, user)
    return text, len(user), len(text)


def run_async(orchestrator):
    return asyncio.run(orchestrator.run_async())


def main():
    from swarm.agents.llm_agent import LLMAgent
    from swarm.council.config import CouncilConfig
    from swarm.council.protocol import Council
    from swarm.core.orchestrator import Orchestrator

    LLMAgent._call_llm_async = call_llm
    run = Orchestrator.run

    async def within_a_loop(orchestrator):
        return run(orchestrator)

    if WAY == "async":
        Orchestrator.run = run_async
    if WAY == "below":
        Orchestrator.run = lambda orchestrator: asyncio.run(within_a_loop(orchestrator))

    async def slow(system, user):
        return await asyncio.get_event_loop().run_in_executor(None, time.sleep, 0.05) or "1. A"

    if TAMED:
        council = Council(CouncilConfig(timeout_per_member=0.08), {name: slow for name in "abc"})
        assert asyncio.run(council.deliberate("", "")).members_responded == 3
    from swarm.__main__ import main as swarm

    sys.argv = ["swarm", "run", SCENARIO, "--export-json", "history.json", "--export-csv", "csv"]
    sys.argv += ["--prompt-audit", "audit.jsonl", "--prompt-audit-include-system"]
    return swarm()


with contextlib.ExitStack() as stack:
    if TAMED:
        stack.enter_context(in_place_event_loop())
        stack.enter_context(tamed(["swarm"], Entropy(42), deferred=DEFERRED))
    sys.exit(main())
'''

SWARM_SCENARIO = """
scenario_id: features
simulation: {n_epochs: 2, steps_per_epoch: 3, seed: 42, observation_noise_probability: 0.3}
network: {topology: small_world, dynamic: true}
marketplace: {enabled: true}
memory_tiers: {enabled: true, initial_entries: 20}
governance:
  audit_enabled: true
  staking_enabled: true
  council_lever_enabled: true
  circuit_breaker_enabled: true
outputs: {event_log: events.jsonl}
agents:
  - {type: llm, llm: &llm {provider: llama_cpp, model: m}}
  - {type: llm, llm: {<<: *llm, persona: adversarial}}
  - type: council
    council:
      members: [{member_id: a, llm: *llm}, {member_id: b, llm: *llm}, {member_id: c, llm: *llm}]
  - {type: honest, count: 2}
  - {type: deceptive}
  - {type: rlm}
  - {type: diligent_recorder}
  - {type: memory_poisoner}
"""


def run_swarm(folder: Path, way: str, taming: str, hash_seed: str, zone: str) -> dict[str, bytes]:
    if find_spec("swarm") is None:  # importing it here would keep others from taming it
        pytest.skip("swarm-safety is not installed")
    folder.mkdir(parents=True)
    scenario = folder.parent / f"{folder.name}.yaml"
    scenario.write_text(SWARM_SCENARIO, encoding="utf-8")
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", SWARM_RUN, str(scenario), way, taming],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


SWARM_OUTPUTS = {
    "audit.jsonl",
    "calls.txt",
    "csv/features_agents.csv",
    "csv/features_epochs.csv",
    "events.jsonl",
    "history.json",
}


@pytest.mark.parametrize("way", ["sync", "async", "below"])
def test_unmodified_swarm_writes_the_same_bytes_in_any_process(tmp_path: Path, way: str) -> None:
    one = run_swarm(tmp_path / "one", way, "tamed", "1", "America/New_York")
    two = run_swarm(tmp_path / "deep" / "er" / "two", way, "tamed", "2", "Asia/Kolkata")
    assert set(one) == SWARM_OUTPUTS
    assert [name for name in one if one[name] != two[name]] == []
    assert len(one["calls.txt"].split()) > 30


def test_swarm_left_alone_asks_and_writes_something_else_each_time(tmp_path: Path) -> None:
    one = run_swarm(tmp_path / "one", "sync", "wild", "0", "UTC")
    two = run_swarm(tmp_path / "two", "sync", "wild", "0", "UTC")
    assert one["calls.txt"] != two["calls.txt"]
    assert one["history.json"] != two["history.json"]
