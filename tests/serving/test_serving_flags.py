"""Every flag of llama-server's library form, and the default number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from swarm_repro.errors import UsageError
from swarm_repro.serving import profiles
from swarm_repro.serving.profiles import (
    CPU_STRICT,
    DEFAULT_1SLOT,
    DEFAULT_CTX_SIZE,
    METAL_1SLOT,
    PROFILES,
    common_params_fields,
    default_threads,
    get_profile,
)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("-m a", {"model.path": "a"}),
        ("--model a", {"model.path": "a"}),
        ("-a b,c", {"model_alias": "b,c"}),
        ("--alias b", {"model_alias": "b"}),
        ("--host h", {"hostnames": "h"}),
        ("--port 1", {"port": 1}),
        ("-c 1", {"n_ctx": 1}),
        ("--ctx-size 1", {"n_ctx": 1}),
        ("-np -1", {"n_parallel": -1}),
        ("--parallel 2", {"n_parallel": 2}),
        ("-t 2", {"cpuparams.n_threads": 2, "cpuparams_batch.n_threads": 2}),
        ("--threads 2 -tb 1", {"cpuparams.n_threads": 2, "cpuparams_batch.n_threads": 1}),
        ("--threads-batch 1", {"cpuparams_batch.n_threads": 1}),
        ("-b 1 -ub 2", {"n_batch": 1, "n_ubatch": 2}),
        ("--batch-size 1 --ubatch-size 2", {"n_batch": 1, "n_ubatch": 2}),
        ("--cache-prompt", {"cache_prompt": True}),
        ("--no-cache-prompt", {"cache_prompt": False}),
        ("-cram 3", {"cache_ram_mib": 3}),
        ("--cache-ram 3 --cache-reuse 4", {"cache_ram_mib": 3, "n_cache_reuse": 4}),
        ("-ctxcp 5", {"n_ctx_checkpoints": 5}),
        ("--ctx-checkpoints 5", {"n_ctx_checkpoints": 5}),
        ("-fa on", {"flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_ENABLED"}),
        ("--flash-attn off", {"flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_DISABLED"}),
        ("-fa auto", {"flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_AUTO"}),
        ("--repack", {"no_extra_bufts": False}),
        ("--no-repack", {"no_extra_bufts": True}),
        ("-nr", {"no_extra_bufts": True}),
        *(
            (f"{flag} {word}", {field: f"GGML_TYPE_{word.upper()}"})
            for flag, field in (
                *(("-ctk", "cache_type_k"), ("--cache-type-k", "cache_type_k")),
                *(("-ctv", "cache_type_v"), ("--cache-type-v", "cache_type_v")),
            )
            for word in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
        ),
        ("--context-shift", {"ctx_shift": True}),
        ("--no-context-shift", {"ctx_shift": False}),
        ("-fit on", {"fit_params": True}),
        ("--fit off", {"fit_params": False}),
        ("-ngl 9", {"n_gpu_layers": 9}),
        ("--gpu-layers auto", {"n_gpu_layers": -1}),
        ("--n-gpu-layers all", {"n_gpu_layers": -2}),
        ("-dev none", {"device": "none"}),
        ("--device none", {"device": "none"}),
        ("--op-offload", {"no_op_offload": False}),
        ("--no-op-offload", {"no_op_offload": True}),
        ("--warmup", {"warmup": True}),
        ("--no-warmup", {"warmup": False}),
        ("--jinja", {"use_jinja": True}),
        ("--no-jinja", {"use_jinja": False}),
        ("--embedding", {"embedding": True}),
        ("--embeddings", {"embedding": True}),
        *(
            (f"--pooling {word}", {"pooling_type": f"LLAMA_POOLING_TYPE_{word.upper()}"})
            for word in ("none", "mean", "cls", "last", "rank")
        ),
        ("--offline", {"offline": True}),
        ("--ui", {"ui": True}),
        ("--webui", {"ui": True}),
        ("--no-ui", {"ui": False}),
        ("--no-webui", {"ui": False}),
        ("", {}),
        ("-c 1 -c 2", {"n_ctx": 2}),
    ],
)
def test_a_flag_becomes_a_field(flags: str, fields: dict[str, object]) -> None:
    assert common_params_fields(flags.split()) == fields


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--mmproj x",
            (
                "xllamacpp's server is not given --mmproj by this package; use the llama-server"
                " program for it"
            ),
        ),
        ("-c", "-c needs a value"),
        ("-c many", "-c takes a number, not 'many'"),
        ("-ngl most", "-ngl takes a number, not 'most'"),
        ("-fa maybe", "-fa takes on, off, auto, not 'maybe'"),
        ("--device CUDA0", "--device takes none, not 'CUDA0'"),
    ],
)
def test_a_flag_that_cannot_be_honoured_is_refused_in_words(flags: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        common_params_fields(flags.split())
    assert str(raised.value) == said


def test_profiles_are_written_in_one_order() -> None:
    start = ["-c", "64", "-np", "2", "-t", "3", "-tb", "3"]
    assert DEFAULT_1SLOT.render(threads=3, n_ctx=64, parallel=2) == start
    none = ["--no-cache-prompt", "--cache-ram", "0", "--cache-reuse", "0", "--ctx-checkpoints", "0"]
    assert METAL_1SLOT.render(threads=3, n_ctx=64, parallel=2) == [
        *start,
        *none,
        *["-b", "512", "-ub", "512", "--no-context-shift", "--fit", "off", "-ngl", "999"],
    ]
    assert CPU_STRICT.render(threads=3, n_ctx=64, parallel=2) == [
        *start,
        *none,
        *[
            "-fa",
            "off",
            "--no-repack",
            "-b",
            "512",
            "-ub",
            "512",
            "-ctk",
            "f16",
            "-ctv",
            "f16",
            "--no-context-shift",
        ],
        *["--fit", "off", "-ngl", "0", "--device", "none", "--no-op-offload"],
    ]
    assert DEFAULT_1SLOT.render(n_ctx=1)[:4] == ["-c", "1", "-np", "1"]


def test_the_profiles_are_known_by_name_and_one_alone_is_strict() -> None:
    assert {name: profile.strict for name, profile in PROFILES.items()} == {
        "cpu-strict": True,
        "metal-1slot": False,
        "default-1slot": False,
    }
    assert all(get_profile(name) is profile for name, profile in PROFILES.items())
    with pytest.raises(UsageError) as raised:
        get_profile("fast")
    assert str(raised.value) == (
        "no profile 'fast'; there are cpu-strict, metal-1slot, default-1slot"
    )
    assert DEFAULT_CTX_SIZE == 8192


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threads": 0}, "--threads is 0; give a number of at least 1"),
        ({"n_ctx": 0}, "--ctx-size is 0; give a number of at least 1"),
        ({"parallel": 0}, "--parallel is 0; give a number of at least 1"),
        ({"n_ctx": 3, "parallel": 4}, "4 slots cannot share a context of 3 tokens"),
    ],
)
def test_a_number_that_is_too_small_is_named(given: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        DEFAULT_1SLOT.render(**{"threads": 1, "n_ctx": 8, **given})
    assert str(raised.value) == said
    assert DEFAULT_1SLOT.render(threads=1, n_ctx=4, parallel=4)


# --- Threads.


def cores(root: Path, *siblings: str) -> Path:
    for cpu, shared in enumerate(siblings):
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(shared, "latin-1")
    return root


def test_two_threads_on_one_core_are_one(tmp_path: Path) -> None:
    root = cores(tmp_path, "0,2\n", "1,3\n", "0,2\n", "1,3\n")
    assert profiles._linux_cores({0, 1, 2, 3}, root) == 2
    assert profiles._linux_cores({0, 2}, root) == 1
    assert profiles._linux_cores({0, 7}, root) is None, "one of them tells nothing"
    assert profiles._linux_cores({0}, cores(tmp_path / "odd", "é")) is None


def on(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)


@pytest.mark.parametrize(("physical", "taken"), [(3, 3), (None, 5)])
def test_on_linux_the_physical_cores_that_this_process_may_use_are_taken(
    physical: int | None, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "linux")
    seen: list[set[int]] = []

    def count(usable: set[int]) -> int | None:
        seen.append(usable)
        return physical

    monkeypatch.setattr(profiles, "_linux_cores", count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 2, 3, 5, 8}, raising=False)
    assert default_threads() == taken
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_threads() == (physical or 12)
    assert seen == [{1, 2, 3, 5, 8}, set(range(12))]


@pytest.mark.parametrize(
    ("answers", "threads"),
    [
        ({"hw.perflevel0.physicalcpu": "6\n", "hw.physicalcpu": "8\n"}, 6),
        ({"hw.physicalcpu": "8\n"}, 8),
        ({"hw.perflevel0.physicalcpu": "many\n", "hw.physicalcpu": "8\n"}, 8),
        ({"hw.perflevel0.physicalcpu": "0\n", "hw.physicalcpu": "8\n"}, 12),
        ({}, 12),
    ],
)
def test_on_a_mac_its_performance_cores_are_taken(
    answers: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "darwin")

    def sysctl(command: list[str], **more: object) -> object:
        assert command[:2] == ["/usr/sbin/sysctl", "-n"]
        assert more == {"capture_output": True, "text": True, "check": False}
        said = answers.get(command[2])
        return SimpleNamespace(returncode=0 if said else 1, stdout=said or "1")

    monkeypatch.setattr(subprocess, "run", sysctl)
    assert default_threads() == threads


def test_an_unknown_number_of_cores_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(profiles, "_mac_performance_cores", lambda: None)
    assert default_threads() == 1
