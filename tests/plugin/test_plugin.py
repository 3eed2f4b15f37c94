"""The pytest plugin, as the suites of its users see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from tests.plugin.conftest import Suite
from tests.support.stub_server import StubServer


def test_each_test_has_a_cassette_of_its_own(suite: Suite, stub: StubServer) -> None:
    suite.write("""
import unittest

@pytest.mark.cassette
def test_plain():
    assert ask("one") == "heard one"

def test_fixture(cassette):
    assert ask("two") == "heard two"
    assert cassette.ledger.hits + cassette.ledger.called == 1

@pytest.mark.cassette
@pytest.mark.parametrize("word", ["a/b", "a b", "A B", "x" * 200])
def test_words(word):
    assert ask(word) == f"heard {word}"

@pytest.mark.cassette(seed_policy="event", seed=5)
class TestClass:
    def test_method(self):
        assert ask("three") == "heard three"

@pytest.mark.cassette
class TestCase(unittest.TestCase):
    def test_method(self):
        self.assertEqual(ask("four"), "heard four")

@pytest.fixture
def greeting(cassette):
    return ask("from a fixture")

def test_a_fixture_that_asks(greeting):
    assert greeting == "heard from a fixture"

def test_without():
    pass
""")
    suite.run("--record").assert_outcomes(passed=10)
    names = list(suite.cassettes)
    assert len(names) == 9
    assert all(name.startswith("cassettes/test_it/test") for name in names)
    assert "cassettes/test_it/test_plain.jsonl" in names
    assert len({name.lower() for name in names}) == 9
    recorded = suite.cassettes
    again = suite.run("--record")
    again.assert_outcomes(passed=10)
    assert suite.cassettes == recorded
    suite.run(without_model=True).assert_outcomes(passed=10)
    suite.run("--replay").assert_outcomes(passed=10)
    event = next(name for name in names if "testclass" in name)
    (call,) = read_cassette(suite.pytester.path / event).calls.values()
    assert (call.asked_seed, call.sent_seed is None) == (None, False)


def test_async_tests_of_either_plugin_have_their_cassettes(suite: Suite, stub: StubServer) -> None:
    suite.write("""
import asyncio, threading

@pytest.mark.asyncio
@pytest.mark.cassette
async def test_asyncio():
    both = await asyncio.gather(ask_async("one"), ask_async("two"))
    assert both == ["heard one", "heard two"]

@pytest.mark.anyio
async def test_anyio(cassette, anyio_backend_name):
    assert await ask_async("three") == "heard three"

@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.cassette
async def test_first_in_a_loop_for_all():
    assert await ask_async("four") == "heard four"

@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.cassette
async def test_second_in_a_loop_for_all():
    assert await ask_async("five") == "heard five"

@pytest.mark.cassette
def test_a_thread_without_context():
    said = []
    thread = threading.Thread(target=lambda: said.append(ask("six")))
    thread.start()
    thread.join()
    assert said == ["heard six"]
""")
    suite.run("--record").assert_outcomes(passed=6)
    assert len(suite.cassettes) == 6
    suite.run(without_model=True).assert_outcomes(passed=6)


def test_what_is_wrong_fails_the_test_in_a_few_lines(suite: Suite, stub: StubServer) -> None:
    suite.write("""
WORDS = os.environ.get("WORDS", "one two").split()

@pytest.mark.cassette
def test_asks():
    for word in WORDS:
        try:
            ask(word)
        except Exception:
            pass

def test_after():
    pass
""")
    missing = suite.run()
    missing.assert_outcomes(passed=1, errors=1)
    missing.stdout.fnmatch_lines(
        [
            "*there is no cassette at *test_asks.jsonl; record it with: pytest 'test_it.py::*",
        ]
    )
    suite.run("--record").assert_outcomes(passed=2)
    suite._monkeypatch.setenv("WORDS", "one other")
    missed = suite.run(without_model=True)
    missed.assert_outcomes(passed=1, failed=1)
    missed.stdout.fnmatch_lines(
        [
            "call 1 of main is not in *",
            "*nearest recorded call: 1 of main*",
            "*messages[[]0[]].content, character 0: recorded 'two', asked 'other'*",
        ]
    )
    assert "Traceback" not in missed.stdout.str()
    assert "session.py" not in missed.stdout.str()
    suite._monkeypatch.setenv("WORDS", "one")
    unplayed = suite.run()
    unplayed.assert_outcomes(passed=1, failed=1)
    unplayed.stdout.fnmatch_lines(["*1 of 2 calls in *test_asks.jsonl were not played*"])


def test_modes_are_one_at_a_time_and_win_over_the_marker(suite: Suite, stub: StubServer) -> None:
    suite.write("""
@pytest.mark.cassette(mode="record")
def test_asks():
    ask("one")
""")
    both = suite.run("--record", "--auto")
    assert both.ret == pytest.ExitCode.USAGE_ERROR
    both.stderr.fnmatch_lines(["*give one of --auto, --record*"])
    suite.run().assert_outcomes(passed=1)
    assert len(stub.chats) == 1
    suite.run("--replay").assert_outcomes(passed=1)
    suite.run("--auto").assert_outcomes(passed=1)
    assert len(stub.chats) == 1
    stub.reply = lambda _body: "something else"
    verified = suite.run("--verify")
    verified.assert_outcomes(failed=1)
    verified.stdout.fnmatch_lines(["*call 0 of main: completion*"])


def test_a_failing_test_records_nothing_and_may_be_recorded_again(
    suite: Suite, stub: StubServer
) -> None:
    suite.write("""
@pytest.mark.cassette
def test_asks():
    assert ask("one") == os.environ.get("EXPECTED")
""")
    suite.run("--record").assert_outcomes(failed=1)
    assert suite.cassettes == {}
    suite._monkeypatch.setenv("EXPECTED", "heard one")
    suite.run("--record").assert_outcomes(passed=1)
    suite.run(without_model=True).assert_outcomes(passed=1)


def test_the_network_is_refused_in_a_replay_unless_it_is_allowed(
    suite: Suite, stub: StubServer
) -> None:
    suite.write("""
import socket, urllib.parse

def knock():
    parts = urllib.parse.urlsplit(os.environ["OTHER"])
    socket.create_connection((parts.hostname, parts.port)).close()

@pytest.mark.cassette
def test_refused():
    ask("one")
    try:
        knock()
    except Exception:
        pass

@pytest.mark.cassette(allow_network=True)
def test_allowed():
    ask("one")
    knock()

def test_of_no_cassette():
    knock()
""")
    suite._monkeypatch.setenv("OTHER", stub.root)
    suite.run("--record").assert_outcomes(passed=3)
    refused = suite.run(without_model=True)
    refused.assert_outcomes(passed=2, failed=1)
    refused.stdout.fnmatch_lines(["*a replay must not touch the network*"])


def test_tests_that_share_a_cassette_are_kept_apart(suite: Suite, stub: StubServer) -> None:
    suite.ask_by_http()
    suite.write("""
pytestmark = pytest.mark.cassette("shared.jsonl")

@pytest.mark.parametrize("number", range(8))
def test_asks(number):
    assert ask("the same") == "heard the same"
    with scope("other"):
        assert ask(f"of {number}") == f"heard of {number}"
""")
    suite.run("--record", "-n", "3").assert_outcomes(passed=8)
    assert list(suite.cassettes) == ["shared.jsonl"]
    path = suite.pytester.path / "shared.jsonl"
    assert len(read_cassette(path).calls) == 16
    recorded = suite.cassettes
    suite.run("--record", "-k", "3 or 4").assert_outcomes(passed=2, deselected=6)
    assert suite.cassettes == recorded
    assert len(stub.chats) == 20
    suite.run("-n", "2", without_model=True).assert_outcomes(passed=8)
    suite.run("-k", "5").assert_outcomes(passed=1, deselected=7)


def test_a_suite_recorded_by_three_workers_is_replayed_by_two_and_in_any_order(
    suite: Suite, stub: StubServer
) -> None:
    suite.ask_by_http()
    suite.write("""
@pytest.mark.parametrize("number", range(12))
def test_asks(number, cassette):
    with scope(f"agent {number % 2}"):
        assert ask(f"{number}") == f"heard {number}"
    assert ask("all") == "heard all"
""")
    suite.pytester.makeconftest("""
import os, random

def pytest_collection_modifyitems(items):
    if "ORDER" in os.environ:
        random.Random(os.environ["ORDER"]).shuffle(items)
""")
    suite.run("--record", "-n", "3").assert_outcomes(passed=12)
    recorded = suite.cassettes
    suite.run("-n", "2", without_model=True).assert_outcomes(passed=12)
    for order in ("1", "2"):
        suite._monkeypatch.setenv("ORDER", order)
        suite.run().assert_outcomes(passed=12)
    assert suite.cassettes == recorded
    assert len(recorded) == 12


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_orphans_are_listed_and_removed_when_asked(
    suite: Suite, stub: StubServer, workers: tuple[str, ...]
) -> None:
    suite.ask_by_http()
    source = """
@pytest.mark.cassette
def test_stays():
    ask("one")

@pytest.mark.cassette
def test_NAME():
    ask("two")
"""
    suite.write(source.replace("NAME", "old"))
    suite.write(source.replace("NAME", "other"), name="test_gone")
    suite.run("--record").assert_outcomes(passed=4)
    suite.write(source.replace("NAME", "new"))
    (suite.pytester.path / "test_gone.py").unlink()
    recorded = suite.run("--auto", *workers)
    recorded.stdout.fnmatch_lines(
        [
            "*3 cassettes belong to no test*",
            "*test_gone/test_other.jsonl",
            "*test_gone/test_stays.jsonl",
            "*test_it/test_old.jsonl",
        ]
    )
    some = suite.run("-k", "stays")
    some.stdout.fnmatch_lines(["*3 cassettes belong to no test*"])
    one = suite.run("test_it.py::test_stays")
    assert "test_old" not in one.stdout.str()
    suite.run("--remove-orphan-cassettes", *workers).stdout.fnmatch_lines(["removed 3 cassettes*"])
    assert sorted(suite.cassettes) == [
        "cassettes/test_it/test_new.jsonl",
        "cassettes/test_it/test_stays.jsonl",
    ]
    assert "belong to no test" not in suite.run().stdout.str()


def test_a_marker_with_an_unknown_option_says_which_there_are(suite: Suite) -> None:
    suite.write("""
@pytest.mark.cassette(mod="record")
def test_asks():
    pass
""")
    done = suite.run()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*the cassette marker has no option 'mod'; it has *mode*"])


def test_unused_the_plugin_loads_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("def test_nothing():\n    pass\n", "utf-8")
    program = (
        "import sys, pytest\n"
        "names = ['anyio', 'asyncio', 'hypothesispytest', 'langsmith_plugin', 'cacheprovider']\n"
        "others = [word for name in names for word in ('-p', f'no:{name}')]\n"
        "code = pytest.main(['-q', *others, '.'])\n"
        "print(sorted(name for name in sys.modules if name.startswith('swarm_repro')))\n"
        "print(sorted({'openai', 'httpx', 'httpx2', 'orjson', 'llama_cpp'} & set(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, heavy = done.stdout.splitlines()[-2:]
    assert ours == "['swarm_repro', 'swarm_repro.pytest_plugin']"
    assert heavy == "[]"
