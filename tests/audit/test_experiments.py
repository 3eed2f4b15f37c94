"""The requests of each experiment, its servers, and its comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.audit.experiments import EXPERIMENTS, Experiment, experiments_named
from swarm_repro.audit.settings import IN_PROCESS, Setting
from swarm_repro.serving.profiles import CPU_STRICT, DEFAULT_1SLOT
from tests.support.scripted_audit import (
    PROMPTS,
    ScriptedBench,
    prompt,
    scripted_bench,
    setting,
    texts,
)

Strs = list[str]
REFERENCE = ["1: act", "1: accept", "1: vote"]


def experiment(name: str) -> Experiment:
    return next(one for one in EXPERIMENTS if one.name == name)


def run(
    monkeypatch: pytest.MonkeyPatch, name: str, setting_: str = "one-slot", **given: Any
) -> tuple[ScriptedBench, dict[str, Strs]]:
    bench = scripted_bench(monkeypatch, **given)
    return bench, texts(experiment(name).run(bench.lab(setting(setting_))))


@pytest.mark.parametrize(
    ("name", "asked", "compared"),
    [
        (
            "repeat",
            [
                *("1: act", "1: act", "1: act", "1: accept", "1: accept", "1: accept"),
                *("1: vote", "1: vote", "1: vote"),
            ],
            {"act": [1, 2, 3], "accept": [4, 5, 6], "vote": [7, 8, 9]},
        ),
        (
            "restart",
            [*REFERENCE, "2: act", "2: accept", "2: vote"],
            {"act": [1, 4], "accept": [2, 5], "vote": [3, 6]},
        ),
        (
            "stream",
            [*REFERENCE, "2: act stream=True", "2: accept stream=True", "2: vote stream=True"],
            {"act": [1, 4], "accept": [2, 5], "vote": [3, 6]},
        ),
        (
            "logprobs",
            [
                *REFERENCE,
                "2: act logprobs=None top_logprobs=None",
                "2: accept logprobs=None top_logprobs=None",
                "2: vote logprobs=None top_logprobs=None",
            ],
            {"act": [1, 4], "accept": [2, 5], "vote": [3, 6]},
        ),
        ("prompt-cache", [*REFERENCE, "2: half of act", "2: act"], {"act": [1, 5]}),
        (
            "order",
            [*REFERENCE, "2: vote", "2: accept", "2: act", "2: accept", "2: act", "2: vote"],
            {"act": [1, 6, 8], "accept": [2, 5, 7], "vote": [3, 4, 9]},
        ),
        (
            "load",
            [
                *REFERENCE,
                *("2: act (4 threads)", "2: accept (4 threads)", "2: vote (4 threads)") * 2,
            ],
            {"act": [1, 4, 7], "accept": [2, 5, 8], "vote": [3, 6, 9]},
        ),
    ],
)
def test_an_experiment_within_a_setting_asks_and_compares(
    name: str, asked: Strs, compared: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, answers = run(monkeypatch, name)
    assert bench.script.log == asked
    assert answers == {
        prompt: [f"answer {number}" for number in numbers] for prompt, numbers in compared.items()
    }
    assert bench.script.ended == sorted({one.server for one in bench.script.asked})
    assert {variant for _, variant in bench.script.starts} == {None}


def test_orders_go_on_with_each_prompt_first_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = run(monkeypatch, "order", repeat=6)
    firsts = [one.prompt.name for one in bench.script.asked[3::3]]
    assert firsts == ["vote", "accept", "act", "vote", "accept"]
    assert len(bench.script.asked) == 3 + 5 * 3


def test_the_request_before_the_cached_one_begins_as_it_does_and_breaks_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, _ = run(monkeypatch, "prompt-cache")
    half, whole = (one.prompt for one in bench.script.asked[3:])
    assert whole is PROMPTS[0]
    assert half.body == {**whole.body, "prompt": "x" * 150}


@pytest.mark.parametrize(
    ("setting_", "turned"), [("one-slot", False), ("one-slot-no-cache", True), ("default", False)]
)
def test_the_cache_field_is_turned_round_for_both_requests(
    setting_: str, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, answers = run(monkeypatch, "cache-field", setting_)
    # The reference is asked last, of a server of its own.
    assert sorted(bench.script.log) == sorted(
        [
            f"1: half of act cache_prompt={turned}",
            f"1: act cache_prompt={turned}",
            *("2: act", "2: accept", "2: vote"),
        ]
    )
    assert bench.script.log[:2] == [
        f"1: half of act cache_prompt={turned}",
        f"1: act cache_prompt={turned}",
    ]
    assert answers == {"act": ["answer 3", "answer 2"]}


SECOND = Path("/second/llama-server")


@pytest.mark.parametrize(
    ("name", "setting_", "given", "variants"),
    [
        ("slots", "default", {}, ["-np 1"]),
        ("slots", "one-slot", {}, ["-np 4"]),
        ("batch", "one-slot", {}, ["-b 256 -ub 256"]),
        ("flash-attention", "one-slot", {}, ["-fa on", "-fa off"]),
        ("flash-attention", "cpu-strict", {}, ["-fa on"]),
        ("repack", "one-slot", {}, ["--no-repack"]),
        ("repack", "cpu-strict", {}, ["--repack"]),
        ("device", "one-slot", {"devices": ("CUDA0", "CUDA1")}, [
            "-ngl 0 --device none --no-op-offload"
        ]),
        ("device", "cpu-strict", {"devices": ("CUDA0", "CUDA1")}, ["-ngl 999 --device CUDA0"]),
        ("op-offload", "one-slot", {"devices": ("CUDA0",)}, ["--no-op-offload"]),
        ("op-offload", "cpu-strict", {"devices": ("CUDA0",)}, ["--op-offload"]),
    ],
)  # fmt: skip
def test_an_experiment_changes_only_its_own_flags(
    name: str,
    setting_: str,
    given: dict[str, Any],
    variants: Strs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, answers = run(monkeypatch, name, setting_, **given)
    changed = [variant for _, variant in bench.script.starts[1:]]
    assert [variant.what for variant in changed if variant] == variants
    assert [" ".join(variant.flags) for variant in changed if variant] == variants
    assert {(one.threads, one.binary) for one in changed if one} == {(None, None)}
    # One question to each changed server, beside the reference.
    assert bench.script.log == [
        *REFERENCE,
        *(f"{number}: act" for number in range(2, len(variants) + 2)),
    ]
    assert answers == {
        "act": ["answer 1", *(f"answer {number}" for number in range(4, len(variants) + 4))]
    }


@pytest.mark.parametrize(
    ("threads", "others"),
    [(1, [2]), (2, [1]), (3, [1]), (4, [1, 2]), (8, [1, 4])],
)
def test_other_numbers_of_threads(
    threads: int, others: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _ = run(monkeypatch, "threads", threads=threads)
    changed = [variant for _, variant in bench.script.starts[1:] if variant]
    assert [variant.threads for variant in changed] == others
    assert [variant.what for variant in changed] == [f"{number} threads" for number in others]
    assert {variant.flags for variant in changed} == {()}


def test_another_build_is_asked_with_the_same_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = run(monkeypatch, "build", second_binary=SECOND)
    changed = [variant for _, variant in bench.script.starts[1:] if variant]
    assert [(one.binary, one.flags, one.threads) for one in changed] == [(SECOND, (), None)]
    assert changed[0].what == "the second build"


def test_the_model_in_process_is_compared_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, answers = run(monkeypatch, "in-process")
    assert sorted(name for name, _ in bench.script.starts) == ["in-process", "one-slot"]
    there = [one for one in bench.script.asked if one.setting == "in-process"]
    here = [one for one in bench.script.asked if one.setting == "one-slot"]
    assert [one.prompt.name for one in there] == ["act", "accept", "vote"]
    assert answers == {"act": [f"answer {here[0].number}", f"answer {there[0].number}"]}


@pytest.mark.parametrize(("name", "seed"), [("seed-none", None), ("seed-0", 0)])
def test_an_odd_seed_goes_with_the_shortest_prompt(
    name: str, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, answers = run(monkeypatch, name)
    assert bench.script.log == [f"1: vote cache_prompt=False seed={seed}"] * 3
    assert answers == {"vote": ["answer 1", "answer 2", "answer 3"]}


def test_in_process_an_odd_seed_comes_without_a_field_that_is_not_known_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, _ = run(monkeypatch, "seed-minus-1", "in-process")
    assert bench.script.log == ["1: vote seed=-1"] * 3


SERVERS_ONLY = "asked of llama-server only"
NO_GPU = "llama.cpp sees no GPU here"
NO_SECOND = "no second build given (--second-binary)"
NEEDS_A_SEED = "refused in process: a call needs a seed"
IT_IS = "it is the one in process"
ELSEWHERE = "tried with cpu-strict only"


@pytest.mark.parametrize(
    ("setting_", "given", "left_out"),
    [
        (
            "default",
            {},
            {
                "device": NO_GPU,
                "op-offload": NO_GPU,
                "build": NO_SECOND,
                "seed-none": ELSEWHERE,
                "seed-0": ELSEWHERE,
                "seed-minus-1": ELSEWHERE,
            },
        ),
        (
            "cpu-strict",
            {"devices": ("CUDA0",), "second_binary": SECOND, "in_process": "not asked for"},
            {"in-process": "not asked for"},
        ),
        (
            "cpu-strict",
            {"prompts": PROMPTS[:1], "devices": ("CUDA0",), "second_binary": SECOND},
            {"order": "there is only one prompt"},
        ),
        (
            "in-process",
            {"devices": ("CUDA0",), "second_binary": SECOND},
            {
                "stream": SERVERS_ONLY,
                "logprobs": SERVERS_ONLY,
                "cache-field": SERVERS_ONLY,
                "slots": SERVERS_ONLY,
                "threads": SERVERS_ONLY,
                "batch": SERVERS_ONLY,
                "flash-attention": SERVERS_ONLY,
                "repack": SERVERS_ONLY,
                "device": SERVERS_ONLY,
                "op-offload": SERVERS_ONLY,
                "build": SERVERS_ONLY,
                "in-process": IT_IS,
                "seed-none": NEEDS_A_SEED,
                "seed-minus-1": NEEDS_A_SEED,
            },
        ),
    ],
)
def test_an_impossible_experiment_says_why(
    setting_: str,
    given: dict[str, Any],
    left_out: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch, **{"seed_setting": "cpu-strict", **given})
    lab = bench.lab(setting(setting_))
    why = {one.name: one.why_not(lab) for one in EXPERIMENTS}
    assert {name: reason for name, reason in why.items() if reason is not None} == left_out


def test_the_number_of_requests_is_known_in_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    # A prompt of n characters weighs n, 200 for its ten tokens, and 38 for the rest of its body.
    bench = scripted_bench(monkeypatch, second_binary=SECOND, devices=("CUDA0",))
    lab = bench.lab(setting("one-slot"))
    act, accept, vote = 538.0, 438.0, 338.0
    everything = act + accept + vote
    assert {one.name: one.weight(lab) for one in EXPERIMENTS} == {
        "repeat": 3 * everything,
        "restart": everything,
        "prompt-cache": 1.5 * act,
        "order": 2 * everything,
        "load": 2 * everything,
        "stream": everything,
        "logprobs": everything,
        "cache-field": 1.5 * act,
        "slots": act,
        "threads": act,
        "batch": act,
        "flash-attention": 2 * act,
        "repack": act,
        "device": act,
        "op-offload": act,
        "build": act,
        "in-process": 0.0,
        "seed-none": 3 * vote,
        "seed-0": 3 * vote,
        "seed-minus-1": 3 * vote,
    }


def test_kinds_and_names_are_the_published_ones() -> None:
    assert [(one.name, one.kind) for one in EXPERIMENTS] == [
        *((name, "within") for name in ("repeat", "restart", "prompt-cache", "order", "load")),
        *((name, "within") for name in ("stream", "logprobs")),
        *((name, "across") for name in ("cache-field", "slots", "threads", "batch")),
        *((name, "across") for name in ("flash-attention", "repack", "device", "op-offload")),
        *((name, "across") for name in ("build", "in-process")),
        *((name, "seed") for name in ("seed-none", "seed-0", "seed-minus-1")),
    ]
    what = {one.name: one.what for one in EXPERIMENTS}
    assert what["load"] == "the same requests from 4 threads at a time"
    assert what["seed-minus-1"] == "the shortest prompt N times with seed -1"
    assert what["seed-none"] == "the shortest prompt N times with no seed"


def test_named_experiments_keep_the_standard_order() -> None:
    named = experiments_named(("seed-0", "load", "repeat"))
    assert [one.name for one in named] == ["repeat", "load", "seed-0"]
    assert experiments_named(()) == ()


def test_a_prompt_with_an_empty_half_breaks_off_with_a_full_stop() -> None:
    assert prompt("tiny", length=1).sharing_its_prefix().body["prompt"] == "."


def test_the_longest_prompt_is_the_first_and_the_shortest_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = scripted_bench(monkeypatch).lab(setting("one-slot"))
    assert (lab.longest.name, lab.shortest.name) == ("act", "vote")
    assert (lab.is_in_process, lab.bench.lab(IN_PROCESS).is_in_process) == (False, True)


def test_a_bench_has_one_lab_for_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    lab = bench.lab(setting("one-slot"))
    assert bench.lab(replace(setting("one-slot"))) is lab
    bench.lab(setting("default"))
    assert [one.setting.name for one in bench.labs] == ["one-slot", "default"]


def test_a_labs_flags_are_those_of_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    start = ("-c", "4096", "-np", "1", "-t", "2", "-tb", "2")
    assert bench.lab(setting("one-slot")).flags == start
    assert bench.lab(setting("cpu-strict")).flags == (*start, *CPU_STRICT.flags)
    auto = Setting(name="a", what="", profile=DEFAULT_1SLOT.name, auto_slots=True)
    assert bench.lab(auto).flags == ("-c", "4096", "-np", "-1", "-t", "2", "-tb", "2")
    assert bench.lab(IN_PROCESS).flags == ()
