"""Reports as the commands make them, from the calls of the committed demo cassette."""

from __future__ import annotations

import functools
from typing import Any

from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallRecord
from tests.support.command import ROOT

Report = dict[str, Any]

#: Texts that try to act on the page, by what they try.
HOSTILE = {
    "script": "<script>window.pwned=1</script>",
    "end of script": '</script><script>window.pwned=2</script><!-- "<script>',
    "image": "<img src=x onerror=\"window.pwned=3\"><svg onload='window.pwned=4'>",
    "terminal": "\x1b[31mred\x1b[0m \x07 \x00 \x9b2J \x7f",
    "bidi": "user\u202etxt.exe\u202c \u2066isolated\u2069 \u200bzero\u200dwidth\ufeff",
    "separators": "line\u2028paragraph\u2029next\x85end",
    "surrogate": "half \ud83d of a pair",
    "tags": "\U000e0041 hidden \ufff9 annotation \u00ad soft \u00a0 space",
}
ALL_HOSTILE = "\n".join(HOSTILE.values())


@functools.cache
def demo() -> Cassette:
    return read_cassette(ROOT / "cassettes" / "demo.seed42.jsonl")


@functools.cache
def demo_calls() -> tuple[tuple[CallRecord, str], ...]:
    """Calls of the demo in order, with the text of each completion."""
    return tuple((call, _text(call)) for call in demo().calls.values())


def _text(call: CallRecord) -> str:
    documents: Any = call.completion.documents
    text: str = documents[0]["choices"][0]["message"]["content"]
    return text


def environment() -> Report:
    return dict(next(iter(demo().envs.values())).content)


def side(file: str, calls: int) -> Report:
    return {
        "file": file,
        "scenario": "demo",
        "calls": calls,
        "run_seeds": [42],
        "strict": True,
        "models": [{"name": "smollm2-135m", "label": "gguf b179c9523d0e…"}],
        "environments": [environment()],
        "tokens": {"prompt": 54_120, "completion": 2_481},
        "duration_s": 291.5,
    }


def parting(*, near_tie: bool | None = True) -> Report:
    return {
        "unit": "token",
        "index": 17,
        "character": 58,
        "a_before": '"action_type": "POST",\n  "reasoning": "',
        "a": "Implement a new behavior",
        "b": "Improve the way that we",
        "a_candidates": [
            {"token": "Im", "logprob": -0.61},
            {"token": "Create", "logprob": -0.614},
            {"token": "\n", "logprob": None},
        ],
        "b_candidates": [
            {"token": "Create", "logprob": -0.612},
            {"token": "Im", "logprob": -0.613},
        ],
        "margin": None if near_tie is None else 0.004,
        "drift": None if near_tie is None else 0.0011,
        "near_tie": near_tie,
    }


def call(number: int, kind: str = "identical", **members: Any) -> Report:
    """A call of the demo; beyond its end the demo begins again."""
    record, text = demo_calls()[number % len(demo_calls())]
    tokens = {
        "prompt": record.tokens["prompt"],
        "completion": record.tokens["completion"],
    }
    made = {
        "number": number,
        "scope": record.scope,
        "i": number // 3,
        "n": 0,
        "at": [number // 27, (number % 27) // 4],
        "kind": record.kind,
        "class": kind,
        "origins": [],
        "proven": None,
        "a": None if kind == "only_b" else number,
        "b": None if kind == "only_a" else number,
        "tokens": {
            "a": None if kind == "only_b" else tokens,
            "b": None if kind == "only_a" else tokens,
        },
        "duration_s": {"a": record.duration_s, "b": record.duration_s * 1.1},
        "differences": [],
        "completion": {
            "a": None if kind == "only_b" else text,
            "b": None if kind == "only_a" else text,
        },
    }
    return {**made, **members}


def diff_report(calls: list[Report], origins: list[Report], **members: Any) -> Report:
    classes = ("identical", "root", "fallout", "changed", "only_a", "only_b")
    made = {
        "report": "diff",
        "version": 1,
        "recorder": "0.1.0",
        "verdict": "call 7 (llm_2 #2, epoch 0, step 1) got another completion to the same request: "
        "near tie, the build of llama.cpp differs",
        "identical": False,
        "a": side("base.jsonl", len(calls)),
        "b": side("other.jsonl", len(calls)),
        "counts": {name: sum(one["class"] == name for one in calls) for name in classes},
        "origins": origins,
        "environment": [{"field": "build", "a": "b0-unknown", "b": "b6123"}],
        "metrics": [
            {"seed": 42, "epoch": 1, "metric": "toxicity_rate", "a": 0.2303, "b": 0.2511},
            {"seed": 42, "epoch": 1, "metric": "total_posts", "a": 18, "b": None},
        ],
        "calls": calls,
        "left_out": 0,
        "origins_left_out": 0,
    }
    return {**made, **members}


def root_origin(number: int, call_number: int, *, proven: int, assumed: int = 0) -> Report:
    return {
        "id": number,
        "kind": "root",
        "call": call_number,
        "parting": parting(),
        "environment": [{"field": "build", "a": "b0-unknown", "b": "b6123"}],
        "evidence": ["cached prompt tokens: 0 and 120"],
        "fallout": {"proven": proven, "assumed": assumed, "shared": 0},
        "calls": 1,
    }


def cause_origin(number: int, call_number: int, *, calls: int) -> Report:
    return {
        "id": number,
        "kind": "cause",
        "call": call_number,
        "field": "messages[0].content",
        "a": "You are a careful agent in a marketplace. Weigh every offer before you accept it.",
        "b": "You are a greedy agent in a marketplace. Weigh every offer before you accept it.",
        "character": 10,
        "scopes": ["llm_3"],
        "calls": calls,
        "fallout": {"proven": 0, "assumed": 0, "shared": 0},
    }


def small_diff() -> Report:
    """54 calls: a root at 7 with fallout 9, 10 and 16 (assumed), a changed persona at 20, 32."""
    calls = [call(number) for number in range(54)]
    prompt = "You see the feed:\n- llm_2 posted: " + calls[7]["completion"]["a"]
    other = calls[7]["completion"]["a"].replace("action", "Aktion") + "\nand one more line"
    calls[7] = call(7, "root", origins=[0], completion={**calls[7]["completion"], "b": other})
    for number, proven in ((9, True), (10, True), (16, False)):
        text = calls[number]["completion"]["a"]
        calls[number] = call(
            number,
            "fallout",
            origins=[0],
            proven=proven,
            differences=[
                {
                    "field": "messages[1].content",
                    "a": prompt,
                    "b": prompt.replace("action", "Aktion"),
                    "character": 41,
                }
            ],
            completion={"a": text, "b": text.replace("a", "o", 3)},
        )
    for number in (20, 32):
        calls[number] = call(number, "changed", origins=[1])
    calls[40] = call(40, "only_a")
    calls.append(call(54, "only_b"))
    origins = [root_origin(0, 7, proven=2, assumed=1), cause_origin(1, 20, calls=2)]
    return diff_report(calls, origins)


def identical_diff() -> Report:
    return diff_report(
        [call(number) for number in range(54)],
        [],
        verdict="identical: 54 calls, the same requests and the same completions",
        identical=True,
        environment=[],
        metrics=[],
    )


def large_diff(count: int = 10_000) -> Report:
    """Every thousandth call from 500 on is a root; the 300 after it alternate with its fallout."""
    calls = []
    origins = []
    for number in range(count):
        since = (number - 500) % 1000
        origin = (number - 500) // 1000
        if number >= 500 and since == 0:
            origins.append(root_origin(origin, number, proven=150))
            calls.append(call(number, "root", origins=[origin]))
        elif number >= 500 and since <= 300 and since % 2:
            calls.append(call(number, "fallout", origins=[origin], proven=True))
        else:
            calls.append(call(number))
    return diff_report(calls, origins)


def hostile_diff() -> Report:
    """A diff in which every text is hostile."""
    report = small_diff()
    for place in (7, 9):
        report["calls"][place].update(
            completion={"a": ALL_HOSTILE, "b": ALL_HOSTILE.replace("red", "blue")},
            kind=HOSTILE["image"],
            scope="llm_\u202e2" + HOSTILE["script"],
            differences=[
                {
                    "field": "messages[1].content" + HOSTILE["script"],
                    "a": ALL_HOSTILE,
                    "b": ALL_HOSTILE + HOSTILE["end of script"],
                    "character": 3,
                }
            ],
        )
    report["verdict"] = "call 7 parts: " + ALL_HOSTILE
    report["a"]["file"] = HOSTILE["image"] + ".jsonl"
    report["a"]["environments"] = [{"cpu": HOSTILE["script"], "variables": {"GGML_X": "<b>"}}]
    report["environment"] = [{"field": HOSTILE["bidi"], "a": HOSTILE["image"], "b": ALL_HOSTILE}]
    origin = report["origins"][0]
    origin["evidence"] = list(HOSTILE.values())
    origin["parting"].update(
        a_before=HOSTILE["end of script"],
        a=HOSTILE["script"],
        b=HOSTILE["bidi"],
        a_candidates=[{"token": text, "logprob": -0.5} for text in HOSTILE.values()],
    )
    return report


def verify_report(count: int = 54) -> Report:
    calls = []
    for number in range(count):
        one = call(number)
        group = {7: "change", 9: "near_tie", 13: "prompt", 20: "failed"}.get(number % 54, "same")
        text = one["completion"]["a"]
        calls.append(
            {name: one[name] for name in ("number", "scope", "i", "n", "at", "kind")}
            | {
                "group": group,
                "differing": 0 if group == "same" else 2,
                "of": 3,
                "distinct": 1 if group == "same" else 2,
                "parting": parting(near_tie=group == "near_tie")
                if group in {"change", "near_tie"}
                else None,
                "why": "the backend answered 500: context is full" if group == "failed" else None,
                "completion": {
                    "a": text,
                    "b": None if group in {"same", "failed"} else text.replace("a", "o", 2),
                },
            }
        )
    groups = ("same", "prompt", "near_tie", "change", "failed")
    return {
        "report": "verify",
        "version": 1,
        "recorder": "0.1.0",
        "verdict": "1 call of 54 really changed; 1 near tie",
        "cassette": "demo.seed42.jsonl",
        "repeat": 3,
        "order": "recorded",
        "environment": [{"field": "build", "a": "b0-unknown", "b": "b6123"}],
        "counts": {name: sum(one["group"] == name for one in calls) for name in groups},
        "calls": calls,
        "witness": None,
    }


def survey_report() -> Report:
    return {
        "report": "survey",
        "version": 1,
        "recorder": "0.1.0",
        "verdict": "14 of 54 calls would have to be recorded anew",
        "cassette": "cassettes/demo.seed42.jsonl",
        "scenario": "demo",
        "versions": ["swarm-safety is 1.9.1 here, the recording was made with 1.9.0"],
        "counts": {"same": 40, "changed": 13, "unrecorded": 1, "unplayed": 0},
        "record_anew": {
            "calls": 14,
            "seconds": 91.2,
            "at_most_calls": 40,
            "at_most_seconds": 251.0,
        },
        "groups": [
            {
                "field": "messages[0].content",
                "a": "You are a careful agent in a marketplace.",
                "b": "You are a greedy agent in a marketplace. " + HOSTILE["bidi"],
                "character": 10,
                "calls": 12,
                "scopes": ["llm_1"],
                "first": {"scope": "llm_1", "i": 0, "at": [0, 0]},
            },
            {
                "field": "temperature",
                "a": "0.8",
                "b": "0.2",
                "character": None,
                "calls": 1,
                "scopes": ["llm_2", "llm_3"],
                "first": {"scope": "llm_3", "i": 2, "at": None},
            },
        ],
    }


def audit_report() -> Report:
    settings = ["default", "one slot", "no cache", "no repack", "strict"]
    experiments = [
        "repeat", "restart", "prompt-cache", "order", "load", "stream",
        "threads", "batch", "flash-attention", "in-process", "seed-none",
    ]  # fmt: skip
    kinds = ["within"] * 6 + ["across"] * 4 + ["seed"]
    cells = []
    for row, setting in enumerate(settings):
        for column, experiment in enumerate(experiments):
            distinct = max(1, (8 - 2 * row) if column in {2, 3, 4} else 2 - row)
            if kinds[column] == "seed":
                distinct = 10
            status = "done"
            if column == 9:
                status = "skipped"
            elif (row, column) == (1, 8):
                status = "failed"
            done = status == "done"
            cells.append(
                {
                    "setting": setting,
                    "experiment": experiment,
                    "status": status,
                    "why": None
                    if done
                    else "llama-cpp-python is not installed"
                    if status == "skipped"
                    else "the server died: signal 9",
                    "distinct": distinct if done else None,
                    "of": (2 if kinds[column] == "across" else 10) if done else None,
                    "worst_prompt": "act" if done else None,
                    "divergence": parting() if done and distinct > 1 else None,
                    "logprob_drift": 0.0123 if done and (distinct > 1 or row == 3) else None,
                    "seconds": 12.3 if done else None,
                }
            )
    return {
        "report": "audit",
        "version": 1,
        "recorder": "0.1.0",
        "verdict": "default settings gave up to 8 of 10 different answers; strict gave one",
        "model": {"file": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "b179c952" * 8},
        "environment": environment(),
        "threads": 2,
        "n_ctx": 8192,
        "repeat": 10,
        "prompts": [{"name": "act", "tokens": 1046, "source": "built in"}],
        "settings": [
            {
                "name": name,
                "flags": ["-np", "1", "--no-cache-prompt"][: row + 1],
                "request": {"cache_prompt": False} if row else {},
                "what": f"what {name} means",
                "command": f"swarm-repro server start --model x.gguf --profile {name}",
            }
            for row, name in enumerate(settings)
        ],
        "experiments": [
            {"name": name, "what": f"what {name} does", "kind": kind}
            for name, kind in zip(experiments, kinds, strict=True)
        ],
        "cells": cells,
        "price": [
            {
                "setting": name,
                "seconds": 10.1 * (1 + row / 4),
                "relative": 1 + row / 4 if row else None,
            }
            for row, name in enumerate(settings)
        ],
        "recommended": {
            "setting": "strict",
            "flags": ["-np", "1", "--no-cache-prompt", "--alias", "it's mine"],
            "request": {"cache_prompt": False},
            "command": "swarm-repro server start --model x.gguf --profile strict",
            "relative_price": 2.0,
            "exact": True,
        },
        "notes": ["llama-server is the prebuilt one of xllamacpp"],
        "missing": ["one slot, flash-attention: the server died: signal 9"],
    }


PAGES = {
    "diff": small_diff,
    "identical": identical_diff,
    "hostile": hostile_diff,
    "verify": verify_report,
    "survey": survey_report,
    "audit": audit_report,
}
