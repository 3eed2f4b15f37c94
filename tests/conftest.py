"""What several test folders share."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from swarm_repro.serving.llama_server import running_server
from swarm_repro.serving.pull import pull
from swarm_repro.serving.state import StartedServer

if TYPE_CHECKING:
    from selenium import webdriver

# Some containers ask Python to write no bytecode. Each of the hundreds of processes of the tests
# would compile the package anew, and each worker rewrite all assertions: half of the CPU.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Time on a shared machine says nothing about correctness.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


#: For tests with a real model: the longest, a page whose commands record, takes some ten minutes.
_SLOW_TIMEOUT_S = 2400


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless ``-m`` names them: they fetch a model."""
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    if not re.search(r"\bslow\b", config.option.markexpr):
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
    for item in slow:
        item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT_S), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests with the garbage collector off, which takes a fourth off that time.

    What was collected stays, and need not be looked through again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' servers out of the user's state folder, and the user's out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("SWARM_REPRO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _half_of_the_cores(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep what a test with a model starts to one half of the cores, another worker's to the other.

    A server takes all cores by itself. Its threads spin while they wait for each other, so that two
    such servers at once take several times as long as one after the other.
    """
    if request.node.get_closest_marker("slow") is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, sorted(cores)[number % 2 :: 2] or cores)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def model_path(pytestconfig: pytest.Config) -> Path:
    """The real small model: from SWARM_REPRO_TEST_MODEL, else fetched once."""
    given = os.environ.get("SWARM_REPRO_TEST_MODEL")
    if given:
        return Path(given)
    folder = pytestconfig.cache.mkdir("models")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for the workers of one run, one fetches it
        return pull("smollm2-135m", folder=folder)


@pytest.fixture(scope="session")
def llama_server(model_path: Path) -> Iterator[StartedServer]:
    """A real llama-server in strict mode on a free loopback port."""
    with running_server(model_path, n_ctx=4096, threads=threads()) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One headless Chromium for all tests."""
    from tests.support.browser import running_browser

    with running_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def threads() -> int:
    """Half the cores: a strict server spins, and tests need a core too."""
    return max(1, (os.cpu_count() or 2) // 2)
