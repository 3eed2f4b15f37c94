"""The public names: those and no others, and each loads what it needs only when it is used."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import swarm_repro
from swarm_repro import errors

PUBLIC = {
    "Completion",
    "ExitCode",
    "LlamaCpp",
    "LlamaServer",
    "Mode",
    "ReplayMiss",
    "Session",
    "SessionTripped",
    "SwarmReproError",
    "TokenUsage",
    "check_llama_server",
    "require_llama_server",
    "scope",
    "use_cassette",
}
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and value.__module__ == errors.__name__
}


def test_the_public_names_are_these() -> None:
    assert set(swarm_repro.__all__) == PUBLIC
    assert len(swarm_repro.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", [*sorted(PUBLIC), "__version__"])
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(swarm_repro, name) is not None
    assert name in dir(swarm_repro)


@pytest.mark.parametrize("name", sorted(PUBLIC & ERRORS))
def test_a_public_error_is_the_one_that_is_raised(name: str) -> None:
    assert getattr(swarm_repro, name) is getattr(errors, name)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("Session", "swarm_repro.session"),
        ("Mode", "swarm_repro.session"),
        ("scope", "swarm_repro.caller"),
        ("LlamaServer", "swarm_repro.backends.llama_server"),
        ("LlamaCpp", "swarm_repro.backends.llama_cpp"),
    ],
)
def test_a_public_name_is_its_modules_own(name: str, module: str) -> None:
    assert getattr(swarm_repro, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        swarm_repro.nonsense  # noqa: B018


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_can_be_the_first_thing_that_is_imported(name: str) -> None:
    found = run(
        f"import sys; from swarm_repro import {name}; "
        "print(sorted({'openai', 'llama_cpp', 'swarm'} & set(sys.modules)), "
        f"type({name}).__name__)"
    )
    assert found.startswith("[]"), "a name alone loads no model library"
    assert not found.endswith("module"), f"{name} is a module and not what it names"


def test_no_public_name_is_also_a_module_that_would_take_its_place() -> None:
    for name in PUBLIC:
        assert importlib.util.find_spec(f"swarm_repro.{name}") is None


# --- The error tree.


def test_every_error_has_a_place_in_the_tree_that_is_drawn() -> None:
    drawn = errors.__doc__ or ""
    for name in ERRORS - {"ExitCode"}:
        assert name in drawn


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("ScenarioError", 2),
        ("RequestError", 2),
        ("ModelFileError", 2),
        ("ModelConflictError", 2),
        ("CassetteAccessError", 2),
        ("DifferenceError", 1),
        ("UnplayedCallsError", 3),
        ("BackendError", 4),
        ("BackendUnreachableError", 4),
        ("BackendResponseError", 4),
        ("StrictModeError", 4),
        ("CassetteDamagedError", 5),
        ("NotComparableError", 6),
        ("SessionTripped", 4),
        ("ReplayMiss", 3),
    ],
)
def test_each_error_has_its_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_what_stops_a_run_is_no_exception_and_all_else_is() -> None:
    for name in ERRORS - {"ExitCode"}:
        error = getattr(errors, name)
        stops = issubclass(error, errors.SessionTripped)
        assert issubclass(error, Exception) is not stops
        assert stops or issubclass(error, (errors.SwarmReproError, UserWarning))
