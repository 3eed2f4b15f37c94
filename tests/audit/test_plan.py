"""The plan of an audit, from its options and this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.audit.experiments import EXPERIMENTS
from swarm_repro.audit.plan import AuditOptions, Plan, make_plan
from swarm_repro.errors import ModelFileError, UsageError
from swarm_repro.serving.profiles import default_threads
from swarm_repro.weights import hash_file
from tests.support.command import ROOT

NO_GPU = "llama.cpp sees no GPU here"
NO_LIBRARY = "llama-cpp-python is not installed; run: pip install 'swarm-repro[llama_cpp]'"
NOT_ASKED = "in-process: not asked for (--in-process)"
SERVERS = ["default", "no-cache", "one-slot", "one-slot-no-cache", "cpu-strict"]
ALL_WITHIN = [one.name for one in EXPERIMENTS if one.kind == "within"]
ALL_OTHERS = [one.name for one in EXPERIMENTS if one.kind != "within"]


@pytest.fixture
def lister(tmp_path: Path) -> Callable[..., Path]:
    """Make a program that lists devices as llama-server does, or fails to."""

    def make(*devices: str, fails: bool = False) -> Path:
        path = tmp_path / "llama-server"
        lines = "".join(f"echo '  {name}: a device (1 MiB, 1 MiB free)'\n" for name in devices)
        path.write_text(f"#!/bin/sh\n{lines}exit {3 if fails else 0}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether llama-cpp-python is there."""

    def make(there: bool) -> None:
        if there:
            monkeypatch.setattr("swarm_repro.audit.plan.find_spec", lambda name: name)
        else:
            monkeypatch.setitem(sys.modules, "llama_cpp", None)

    return make


def names(plan: Plan) -> tuple[list[str], list[str]]:
    return [one.name for one in plan.settings], [one.name for one in plan.experiments]


def plan_of(model: Path, binary: Path, **given: Any) -> Plan:
    return make_plan(AuditOptions(model_path=model, binary=binary, **given))


@pytest.mark.parametrize(
    ("given", "settings", "experiments", "untried"),
    [
        pytest.param(
            {},
            SERVERS,
            [one.name for one in EXPERIMENTS],
            [f"in-process: {NO_LIBRARY}", f"metal-1slot: {NO_GPU}"],
            id="everything",
        ),
        pytest.param(
            {"in_process": False},
            SERVERS,
            [one.name for one in EXPERIMENTS],
            [NOT_ASKED, f"metal-1slot: {NO_GPU}"],
            id="not in process",
        ),
        pytest.param(
            {"quick": True},
            ["default", "one-slot-no-cache", "cpu-strict"],
            ALL_WITHIN,
            [
                f"not asked for: experiments {', '.join(ALL_OTHERS)}",
                "not asked for: settings no-cache, one-slot, metal-1slot",
                NOT_ASKED,
            ],
            id="quick",
        ),
        pytest.param(
            {"quick": True, "settings": ("one-slot", "metal-1slot"), "experiments": ("batch",)},
            ["one-slot"],
            ["batch"],
            [
                "not asked for: experiments "
                + ", ".join(one.name for one in EXPERIMENTS if one.name != "batch"),
                "not asked for: settings default, no-cache, one-slot-no-cache, cpu-strict",
                NOT_ASKED,
                f"metal-1slot: {NO_GPU}",
            ],
            id="quick, but named",
        ),
    ],
)
def test_a_plan_lists_measured_and_skipped_settings(
    given: dict[str, Any],
    settings: list[str],
    experiments: list[str],
    untried: list[str],
    tiny_gguf: Path,
    lister: Callable[..., Path],
    library: Callable[[bool], None],
) -> None:
    library(False)
    plan = plan_of(tiny_gguf, lister(), **given)
    assert names(plan) == (settings, experiments)
    assert list(plan.untried) == untried
    assert plan.rounds == 2


def test_the_rest_of_a_plan(
    tiny_gguf: Path, lister: Callable[..., Path], library: Callable[[bool], None]
) -> None:
    library(False)
    binary = lister("CPU", "BLAS")
    bench = plan_of(tiny_gguf, binary).bench
    assert (bench.model_path, bench.binary, bench.second_binary) == (tiny_gguf, binary, None)
    assert (bench.repeat, bench.threads, bench.n_ctx) == (4, default_threads(), 8192)
    assert [one.name for one in bench.prompts] == ["act", "accept", "vote"]
    assert bench.devices == ()
    assert bench.in_process == NO_LIBRARY
    assert bench.seed_setting == "cpu-strict"
    binding = bench.binding
    assert (binding.name, binding.backend, binding.template) == ("tiny.gguf", "llama-server", None)
    assert binding.identity.kind == "gguf"
    assert binding.identity.content == {"files": [hash_file(tiny_gguf)]}
    assert (bench.environment, bench.unknown, bench.started) == (None, None, 0)


def test_quick_asks_fewer_prompts_fewer_times(tiny_gguf: Path, lister: Callable[..., Path]) -> None:
    bench = plan_of(tiny_gguf, lister(), quick=True).bench
    assert bench.repeat == 3
    assert [one.name for one in bench.prompts] == ["act", "vote"]


def test_three_calls_of_a_cassette_are_asked(tiny_gguf: Path, lister: Callable[..., Path]) -> None:
    cassette = ROOT / "cassettes" / "demo.seed42.jsonl"
    bench = plan_of(tiny_gguf, lister(), cassette=cassette, in_process=False).bench
    assert len(bench.prompts) == 3


def test_given_options_win(tiny_gguf: Path, lister: Callable[..., Path]) -> None:
    binary = lister()
    bench = plan_of(
        tiny_gguf,
        binary,
        quick=True,
        repeat=2,
        threads=1,
        n_ctx=1,
        second_binary=binary,
        cassette=ROOT / "cassettes" / "demo.seed42.jsonl",
        prompts_limit=1,
        in_process=False,
    ).bench
    assert (bench.repeat, bench.threads, bench.n_ctx) == (2, 1, 1)
    assert bench.second_binary == binary
    assert len(bench.prompts) == 1
    assert bench.prompts[0].source.startswith("demo.seed42.jsonl call ")
    assert bench.in_process == "not asked for (--in-process)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repeat": 1}, "--repeat is 1; give a number of at least 2"),
        ({"threads": 0}, "--threads is 0; give a number of at least 1"),
        ({"n_ctx": 0}, "--ctx-size is 0; give a number of at least 1"),
        ({"experiments": ()}, "nothing is left to measure on this machine; name other --settings"),
        ({"settings": ()}, "nothing is left to measure on this machine; name other --settings"),
    ],
)
def test_impossible_options_are_refused(
    given: dict[str, Any], said: str, tiny_gguf: Path, lister: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError) as raised:
        plan_of(tiny_gguf, lister(), **{"in_process": False, **given})
    assert str(raised.value) == said


def test_an_invalid_model_is_refused(tmp_path: Path, lister: Callable[..., Path]) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("no model")
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        plan_of(path, lister())


def test_with_a_gpu_its_settings_are_measured_too(
    tiny_gguf: Path, lister: Callable[..., Path]
) -> None:
    plan = plan_of(tiny_gguf, lister("CUDA0", "CPU"), in_process=False)
    assert names(plan)[0] == [*SERVERS[:4], "metal-1slot", "cpu-strict"]
    assert plan.bench.devices == ("CUDA0",)
    assert plan.untried == (NOT_ASKED,)


def test_a_server_that_cannot_list_devices_is_taken_to_have_none(
    tiny_gguf: Path, lister: Callable[..., Path]
) -> None:
    binary = lister("CUDA0", fails=True)
    plan = plan_of(tiny_gguf, binary, in_process=False)
    assert names(plan)[0] == SERVERS
    assert plan.bench.devices == ()
    why = f"{binary} could not list its devices, exit code 3"
    assert plan.untried == (NOT_ASKED, f"metal-1slot: {why}")


def test_odd_seeds_go_to_the_strictest_of_several_server_settings(
    tiny_gguf: Path, lister: Callable[..., Path], library: Callable[[bool], None]
) -> None:
    library(True)
    given = ("default", "one-slot", "in-process")
    plan = plan_of(tiny_gguf, lister(), settings=given)
    assert names(plan)[0] == list(given)
    assert plan.bench.seed_setting == "one-slot"


@pytest.mark.parametrize(
    ("there", "given", "in_process"),
    [
        (True, {}, None),
        (True, {"in_process": True}, None),
        (True, {"in_process": False}, "not asked for (--in-process)"),
        (True, {"quick": True}, "not asked for (--in-process)"),
        (True, {"quick": True, "in_process": True}, None),
        (True, {"settings": ("default",)}, "not asked for (--in-process)"),
        (True, {"settings": ("default",), "in_process": True}, None),
        (True, {"settings": ("default", "in-process")}, None),
        (True, {"quick": True, "settings": ("default", "in-process")}, None),
        (True, {"settings": ("default", "in-process"), "in_process": False}, "not asked for"),
        (False, {}, NO_LIBRARY),
        (False, {"quick": True}, "not asked for (--in-process)"),
        (False, {"settings": ("default",)}, "not asked for (--in-process)"),
        (False, {"in_process": False}, "not asked for (--in-process)"),
    ],
)
def test_when_llama_cpp_python_is_measured(
    there: bool,
    given: dict[str, Any],
    in_process: str | None,
    tiny_gguf: Path,
    lister: Callable[..., Path],
    library: Callable[[bool], None],
) -> None:
    library(there)
    plan = plan_of(tiny_gguf, lister(), **given)
    found = plan.bench.in_process
    assert (found is None) == (in_process is None)
    assert (found or "").startswith(in_process or "")
    measured = names(plan)[0]
    if in_process is not None:
        assert "in-process" not in measured
        assert f"in-process: {found}" in plan.untried
    else:
        assert not [line for line in plan.untried if line.startswith("in-process")]


@pytest.mark.parametrize("given", [{"in_process": True}, {"settings": ("default", "in-process")}])
def test_a_missing_llama_cpp_python_is_refused_when_requested(
    given: dict[str, Any],
    tiny_gguf: Path,
    lister: Callable[..., Path],
    library: Callable[[bool], None],
) -> None:
    library(False)
    with pytest.raises(UsageError) as raised:
        plan_of(tiny_gguf, lister(), **given)
    assert str(raised.value) == NO_LIBRARY


def test_in_process_alone_needs_no_server(
    tiny_gguf: Path, tmp_path: Path, library: Callable[[bool], None]
) -> None:
    library(True)
    plan = plan_of(tiny_gguf, tmp_path / "none", settings=("in-process",))
    assert names(plan)[0] == ["in-process"]
    assert (plan.bench.devices, plan.bench.seed_setting) == ((), "")


def test_a_split_model_has_the_digests_of_all_its_files(
    tmp_path: Path, lister: Callable[..., Path]
) -> None:
    files = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, file in enumerate(files):
        file.write_bytes(b"GGUF" + bytes([number]))
    bench = plan_of(files[0], lister()).bench
    assert bench.binding.identity.content == {"files": [hash_file(file) for file in files]}
