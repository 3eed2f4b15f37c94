"""A profile means the same to the llama-server program and to its library form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro.errors import ExitCode, UsageError
from swarm_repro.serving import xllamacpp_server
from swarm_repro.serving.profiles import (
    CPU_STRICT,
    DEFAULT_1SLOT,
    METAL_1SLOT,
    PROFILES,
    common_params_fields,
    default_threads,
    get_profile,
)

STRICT_FLAGS = (
    "-np 1 --no-cache-prompt --cache-ram 0 --cache-reuse 0 --ctx-checkpoints 0 -fa off"
    " --no-repack -t 3 -tb 3 -b 512 -ub 512 -ctk f16 -ctv f16 --no-context-shift --fit off"
    " -ngl 0 --device none --no-op-offload -c 8192"
)


def pairs(flags: list[str]) -> set[tuple[str, ...]]:
    """Group flags with their values, whatever order they have."""
    grouped: list[tuple[str, ...]] = []
    for word in flags:
        if word.startswith("-"):
            grouped.append((word,))
        else:
            grouped[-1] += (word,)
    return set(grouped)


def test_the_strict_profile_has_every_flag_that_makes_one_seed_one_answer() -> None:
    rendered = CPU_STRICT.render(threads=3, n_ctx=8192)
    assert pairs(rendered) == pairs(STRICT_FLAGS.split())
    assert CPU_STRICT.strict


def test_the_metal_profile_has_one_slot_no_cache_and_leaves_the_gpu_on() -> None:
    rendered = METAL_1SLOT.render(threads=1, n_ctx=100)
    assert {("-np", "1"), ("--no-cache-prompt",), ("-ngl", "999")} <= pairs(rendered)
    assert "--device" not in rendered
    assert not METAL_1SLOT.strict


def test_the_default_profile_fixes_slots_context_and_threads_only() -> None:
    assert pairs(DEFAULT_1SLOT.render(threads=2, n_ctx=64)) == {
        ("-np", "1"),
        ("-c", "64"),
        ("-t", "2"),
        ("-tb", "2"),
    }


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"n_ctx": 0}, {"parallel": 0}, {"n_ctx": 3, "parallel": 4}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        CPU_STRICT.render(**{"n_ctx": 8192, **wrong})


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match="cpu-strict, metal-1slot, default-1slot"):
        get_profile("strict")


def test_automatic_threads_are_at_most_the_logical_cores() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
    assert CPU_STRICT.render(n_ctx=8)[5] == str(default_threads())


def test_the_strict_profile_becomes_the_same_settings_of_the_library() -> None:
    fields = common_params_fields(["-m", "x.gguf", *CPU_STRICT.render(threads=3, n_ctx=8192)])
    assert fields == {
        "model.path": "x.gguf",
        "n_ctx": 8192,
        "n_parallel": 1,
        "cpuparams.n_threads": 3,
        "cpuparams_batch.n_threads": 3,
        "cache_prompt": False,
        "cache_ram_mib": 0,
        "n_cache_reuse": 0,
        "n_ctx_checkpoints": 0,
        "flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
        "no_extra_bufts": True,
        "n_batch": 512,
        "n_ubatch": 512,
        "cache_type_k": "GGML_TYPE_F16",
        "cache_type_v": "GGML_TYPE_F16",
        "ctx_shift": False,
        "fit_params": False,
        "n_gpu_layers": 0,
        "device": "none",
        "no_op_offload": True,
    }


def test_threads_alone_count_for_prompts_too_as_on_the_command_line() -> None:
    assert common_params_fields(["-t", "3"])["cpuparams_batch.n_threads"] == 3
    assert common_params_fields(["-t", "3", "-tb", "1"])["cpuparams_batch.n_threads"] == 1


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_every_profile_sets_fields_that_the_library_has(profile: object) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    assert profile in PROFILES.values()
    fields = common_params_fields(profile.render(threads=3, n_ctx=512))  # type: ignore[attr-defined]
    params = xllamacpp.CommonParams()
    for field, value in fields.items():
        if field != "device":
            xllamacpp_server._set_field(params, field, value)
    assert (params.n_ctx, params.n_parallel) == (512, 1)
    assert params.cpuparams_batch.n_threads == 3
    if profile is CPU_STRICT:
        assert params.flash_attn_type.name == "LLAMA_FLASH_ATTN_TYPE_DISABLED"
        assert params.cache_prompt is False


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--mmproj", "x"], "--mmproj"),
        (["-c"], "needs a value"),
        (["-c", "many"], "takes a number"),
        (["-fa", "maybe"], "on, off, auto"),
        (["--device", "CUDA0"], "none"),
    ],
)
def test_a_flag_the_library_is_not_given_is_refused_not_dropped(flags: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        common_params_fields(flags)


def test_the_library_server_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    for flags, code, why in (
        (["--nonsense"], 2, "--nonsense"),
        ([], 2, "give its file with -m"),
        (["-m", str(tmp_path / "none.gguf"), "--port", "0"], 2, "no model at"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "swarm_repro.serving.xllamacpp_server", *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        (line,) = ended.stderr.splitlines()
        assert (ended.returncode, line.startswith("error: "), why in line) == (code, True, True)


def test_the_library_server_says_that_a_broken_model_was_not_served(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing more")
    flags = ["-m", str(broken), "--port", "0"]
    ended = subprocess.run(
        [sys.executable, "-m", "swarm_repro.serving.xllamacpp_server", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    # The library's own log is written by a thread of its own, before and after that line.
    assert ended.returncode == ExitCode.BACKEND, ended.stderr
    assert f"error: llama.cpp could not serve {broken}: " in ended.stderr


def test_no_gpu_asked_where_there_is_one_is_refused_by_the_library_server() -> None:
    class Kind:
        name = "GGML_BACKEND_DEVICE_TYPE_GPU"

    with pytest.raises(UsageError, match="Metal unused"):
        xllamacpp_server._refuse_gpu([{"name": "Metal", "type": Kind()}])
    Kind.name = "GGML_BACKEND_DEVICE_TYPE_CPU"
    xllamacpp_server._refuse_gpu([{"name": "CPU", "type": Kind()}])
