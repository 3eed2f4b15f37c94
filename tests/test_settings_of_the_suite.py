"""The tests that run by default, their time limits, and how they are measured."""

from __future__ import annotations

import pytest
from coverage import Coverage

from tests.support.command import ROOT

SUITE = """\
import pytest

@pytest.mark.slow
def test_with_a_model(): ...

@pytest.mark.browser
def test_in_a_browser(): ...

def test_quick(): ...
"""
HANGING = """\
import threading

def waits_in_a_thread(done):
    done.wait(30)

def test_that_hangs():
    done = threading.Event()
    thread = threading.Thread(target=waits_in_a_thread, args=(done,), daemon=True)
    thread.start()
    thread.join()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, pytestconfig: pytest.Config) -> pytest.Pytester:
    """A suite with the settings of this one."""
    settings = (pytestconfig.rootpath / "pyproject.toml").read_text("utf-8")
    pytester.makepyprojecttoml(settings)
    pytester.makeconftest("from tests.conftest import pytest_collection_modifyitems")
    pytester.syspathinsert(pytestconfig.rootpath)
    return pytester


@pytest.mark.parametrize(
    ("expression", "passed"),
    [
        ([], 2),
        (["-m", "not browser"], 1),
        (["-m", "browser"], 1),
        (["-m", "slow"], 1),
        (["-m", "slow or browser"], 2),
        (["-m", "not slow"], 2),
        (["-k", "model"], 0),
    ],
)
def test_slow_tests_run_only_where_they_are_named(
    suite: pytest.Pytester, expression: list[str], passed: int
) -> None:
    suite.makepyfile(**{"tests/test_suite": SUITE})
    suite.runpytest_inprocess(*expression).assert_outcomes(passed=passed, deselected=3 - passed)


def test_a_test_that_hangs_fails_and_shows_what_all_threads_do(suite: pytest.Pytester) -> None:
    suite.makepyfile(**{"tests/test_suite": HANGING})
    result = suite.runpytest_subprocess("--timeout", "0.5", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    said = result.stdout.str() + result.stderr.str()
    assert "Timeout" in said
    assert "in waits_in_a_thread" in said
    assert "thread.join()" in said


def test_each_test_has_a_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) > 0


def test_ci_measures_as_one_does_by_hand_but_for_branches() -> None:
    in_ci, by_hand = (
        Coverage(config_file=str(ROOT / name)) for name in (".ci/coverage.toml", "pyproject.toml")
    )
    for option in ("parallel", "source", "patch", "disable_warnings"):
        assert in_ci.get_option(f"run:{option}") == by_hand.get_option(f"run:{option}")
    assert [one.get_option("run:branch") for one in (in_ci, by_hand)] == [False, True]
