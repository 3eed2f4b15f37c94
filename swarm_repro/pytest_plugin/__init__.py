"""The pytest plugin: a ``cassette`` marker and fixture.

It is loaded by every pytest run of an environment, so that this module imports nothing but pytest;
the rest is loaded when the first test wants a cassette.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from swarm_repro.pytest_plugin.block import CassetteBlock
    from swarm_repro.session import Session

_MARKER = "cassette"
_MODES = ("record", "replay", "auto", "verify")
_MODE_HELP = {
    "record": "call the model, record the calls of each test anew",
    "replay": "call nothing (the default); a call that is not recorded fails its test",
    "auto": "replay what is recorded, record the rest",
    "verify": "call the model, and compare with what is recorded",
}
_block: pytest.StashKey[CassetteBlock] = pytest.StashKey()
_deselected: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()
_orphans: pytest.StashKey[list[str]] = pytest.StashKey()
#: What a worker of pytest-xdist sends under this name.
_ORPHANS = "swarm_repro_orphans"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Modes, and what becomes of orphans."""
    group = parser.getgroup("swarm_repro", "recorded model calls (swarm_repro)")
    for mode in _MODES:
        group.addoption(
            f"--{mode}",
            action="append_const",
            const=mode,
            dest="cassette_modes",
            help=_MODE_HELP[mode],
        )
    group.addoption(
        "--remove-orphan-cassettes",
        action="store_true",
        help="remove cassettes that belong to no test",
    )
    parser.addini(
        "cassette_dir",
        "folder of cassettes beside each test file",
        default="cassettes",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker.

    Raises:
        pytest.UsageError: Two modes at once.
    """
    config.addinivalue_line(
        "markers",
        "cassette(path=None, **options): record or replay the test's model calls; options as for "
        "swarm_repro.use_cassette",
    )
    modes = sorted(set(config.getoption("cassette_modes") or ()))
    if len(modes) > 1:
        raise pytest.UsageError(f"give one of {', '.join(f'--{mode}' for mode in modes)}")


def _wants_cassette(item: pytest.Item) -> bool:
    return item.get_closest_marker(_MARKER) is not None or _MARKER in getattr(
        item, "fixturenames", ()
    )


@pytest.fixture(autouse=True)
def _cassette_block(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """The block of a test that wants a cassette: from its fixtures to its end."""
    item = request.node
    if not _wants_cassette(item):
        yield
        return
    from swarm_repro.pytest_plugin.block import CassetteBlock

    block = CassetteBlock(item)
    block.begin()
    item.stash[_block] = block
    try:
        yield
    finally:
        del item.stash[_block]
        block.close()


@pytest.fixture
def cassette(request: pytest.FixtureRequest, _cassette_block: None) -> Session:
    """The session of this test's cassette; its ``ledger`` tells what happened."""
    item: pytest.Item = request.node
    return item.stash[_block].session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Judge the calls of a test together with the test itself."""
    block = item.stash.get(_block, None)
    if block is None:
        return (yield)
    with block.judging():
        return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look for cassettes that belong to no test."""
    if session.config.getoption("collectonly") or not any(map(_wants_cassette, session.items)):
        return
    from swarm_repro.pytest_plugin.orphans import find_orphans

    everything = [*session.items, *session.config.stash.get(_deselected, [])]
    session.config.stash[_orphans] = find_orphans(session.config, everything)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember whose cassettes are not to be taken for orphans."""
    for item in items[:1]:
        item.config.stash.setdefault(_deselected, []).extend(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, under pytest-xdist."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_ORPHANS] = session.config.stash.get(_orphans, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Take over what a worker found; all of them have found the same."""
    del error
    found = getattr(node, "workeroutput", {}).get(_ORPHANS)
    if found is not None:
        config: pytest.Config = node.config  # type: ignore[attr-defined]
        config.stash[_orphans] = found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List the orphans, or remove them."""
    orphans = config.stash.get(_orphans, [])
    if not orphans:
        return
    from swarm_repro.pytest_plugin.orphans import remove

    terminalreporter.section("orphan cassettes")
    if config.getoption("remove_orphan_cassettes"):
        remove(orphans)
        terminalreporter.write_line(f"removed {len(orphans)} cassettes that belong to no test:")
    else:
        terminalreporter.write_line(
            f"{len(orphans)} cassettes belong to no test; --remove-orphan-cassettes removes them:"
        )
    for path in orphans:
        terminalreporter.write_line(f"  {path}")
