"""Whole reports of scripted servers: every line of an audit, from the servers' answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from swarm_repro import __version__
from swarm_repro.audit import runner
from swarm_repro.audit.experiments import experiments_named
from swarm_repro.audit.plan import AuditOptions, Plan
from swarm_repro.audit.report import AuditReport
from swarm_repro.audit.runner import run_audit
from swarm_repro.audit.text import render
from swarm_repro.canonical import encode_json
from swarm_repro.environment import Environment
from swarm_repro.errors import BackendError
from swarm_repro.serving.state import StartedServer
from tests.support.command import ROOT
from tests.support.scripted_audit import Asked, ScriptedBench, scripted_bench, setting

SCHEMA = json.loads((ROOT / "docs/reference/schemas/audit.schema.json").read_text("utf-8"))


def plan_of(
    bench: ScriptedBench, settings: tuple[str, ...], experiments: tuple[str, ...], *untried: str
) -> Plan:
    return Plan(
        bench=bench,
        settings=tuple(setting(name) for name in settings),
        experiments=experiments_named(experiments),
        rounds=2,
        untried=untried,
    )


def audit(monkeypatch: pytest.MonkeyPatch, plan: Plan, **given: Any) -> AuditReport:
    monkeypatch.setattr(runner, "make_plan", lambda _options: plan)
    report = run_audit(AuditOptions(model_path=plan.bench.model_path), **given)
    Draft202012Validator(SCHEMA).validate(json.loads(encode_json(report.to_json())))
    return report


def moving_by_default(asked: Asked) -> str:
    """With the default settings every answer differs; small batches change the answers."""
    if asked.setting == "default":
        return f"answer {asked.number}"
    return "small" if asked.variant is not None else f"steady {asked.fields.get('seed', 7)}"


def settings_json() -> list[dict[str, object]]:
    start = "swarm-repro server start --model m.gguf --profile default-1slot"
    return [
        {
            "name": "default",
            "what": "llama.cpp's own defaults: four slots, prompts cached",
            "flags": ["-c", "4096", "-np", "-1", "-t", "2", "-tb", "2"],
            "request": {},
            "command": f"{start} --threads 2 --ctx-size 4096 -- -np -1",
        },
        {
            "name": "one-slot-no-cache",
            "what": "one slot, each request with cache_prompt off",
            "flags": ["-c", "4096", "-np", "1", "-t", "2", "-tb", "2"],
            "request": {"cache_prompt": False},
            "command": f"{start} --threads 2 --ctx-size 4096",
        },
    ]


def blank(name: str, experiment: str, status: str, why: str | None) -> dict[str, object]:
    return {
        "setting": name,
        "experiment": experiment,
        "status": status,
        "why": why,
        "distinct": None,
        "of": None,
        "worst_prompt": None,
        "divergence": None,
        "logprob_drift": None,
        "seconds": None,
    }


def parting(after: str, a: str, b: str) -> dict[str, object]:
    return {
        "unit": "character",
        "index": len(after),
        "character": len(after),
        "a_before": after,
        "a": a,
        "b": b,
        "a_candidates": [],
        "b_candidates": [],
        "margin": None,
        "drift": None,
        "near_tie": None,
    }


def test_all_that_an_audit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch, seed_setting="one-slot-no-cache")
    bench.script.reply = moving_by_default
    bench.environment = Environment({"cpu": "A CPU", "build": "b1"})
    plan = plan_of(
        bench,
        ("default", "one-slot-no-cache"),
        ("repeat", "batch", "build", "seed-none"),
        "not asked for: experiments restart",
    )
    report = audit(monkeypatch, plan)
    no_second = "no second build given (--second-binary)"
    done = {"status": "done", "why": None, "divergence": None}
    assert report.to_json() == {
        "report": "audit",
        "version": 1,
        "recorder": __version__,
        "verdict": (
            "one-slot-no-cache gave one answer in the 1 tried of 7 experiments, at 1.00 times the"
            " default's time; the default gave 3 different answers in 3 (repeat)"
        ),
        "model": {"file": "m.gguf", "sha256": "ab" * 32},
        "environment": {"cpu": "A CPU", "build": "b1"},
        "threads": 2,
        "n_ctx": 4096,
        "repeat": 3,
        "prompts": [
            {"name": name, "tokens": None, "source": "built in"}
            for name in ("act", "accept", "vote")
        ],
        "settings": settings_json(),
        "experiments": [
            {"name": "repeat", "what": "the same request N times in a row", "kind": "within"},
            {"name": "batch", "what": "batches of 256 tokens", "kind": "across"},
            {"name": "build", "what": "another build of llama.cpp", "kind": "across"},
            {
                "name": "seed-none",
                "what": "the shortest prompt N times with no seed",
                "kind": "seed",
            },
        ],
        "cells": [
            {
                **blank("default", "repeat", "done", None),
                "distinct": 3,
                "of": 3,
                "worst_prompt": "act",
                "divergence": parting("answer ", "1", "2"),
                "seconds": 9.0,
            },
            {
                **blank("default", "batch", "done", None),
                "distinct": 2,
                "of": 2,
                "worst_prompt": "act",
                "divergence": parting("answer 1", "0", "3"),
                "seconds": 1.0,
            },
            blank("default", "build", "skipped", no_second),
            blank("default", "seed-none", "skipped", "tried with one-slot-no-cache only"),
            {
                **blank("one-slot-no-cache", "repeat", "done", None),
                **done,
                "distinct": 1,
                "of": 3,
                "worst_prompt": "act",
                "seconds": 9.0,
            },
            {
                **blank("one-slot-no-cache", "batch", "done", None),
                "distinct": 2,
                "of": 2,
                "worst_prompt": "act",
                "divergence": parting("s", "teady 7", "mall"),
                "seconds": 1.0,
            },
            blank("one-slot-no-cache", "build", "skipped", no_second),
            {
                **blank("one-slot-no-cache", "seed-none", "done", None),
                **done,
                "distinct": 1,
                "of": 3,
                "worst_prompt": "vote",
                "seconds": 3.0,
            },
        ],
        "price": [
            {"setting": "default", "seconds": 6.0, "relative": 1.0},
            {"setting": "one-slot-no-cache", "seconds": 6.0, "relative": 1.0},
        ],
        "recommended": {
            "setting": "one-slot-no-cache",
            "flags": ["-c", "4096", "-np", "1", "-t", "2", "-tb", "2"],
            "request": {"cache_prompt": False},
            "command": settings_json()[1]["command"],
            "relative_price": 1.0,
            "exact": True,
        },
        "notes": ["seed-none, one-slot-no-cache: one answer in 3: it is a seed like others"],
        "missing": [f"build: {no_second}", "not asked for: experiments restart"],
    }
    assert render(report) == (
        f"model m.gguf, sha256 {'ab' * 6}…\n"
        "on A CPU, b1\n"
        "2 threads, context 4096, 3 answers to compare\n"
        "prompts: act, accept, vote\n"
        "\n"
        "              default  one-slot-no-cache\n"
        "within a setting: distinct answers in N; one everywhere makes it deterministic\n"
        "  repeat      3 of 3   1 of 3\n"
        "a setting against itself changed: must two machines have this in common?\n"
        "  batch       other    other\n"
        "  build       -        -\n"
        "seeds\n"
        "  seed-none   -        1 of 3\n"
        "price: the same requests, one after another\n"
        "  seconds     6.0      6.0\n"
        "  to default  1.00     1.00\n"
        "\n"
        "where answers part first:\n"
        '  default, repeat, act: character 7, after "answer ": "1" or "2"\n'
        "\n"
        f"{report.verdict}\n"
        f"  {settings_json()[1]['command']}\n"
        "  llama-server -c 4096 -np 1 -t 2 -tb 2\n"
        '  in every request: {"cache_prompt":false,"seed":"<yours>"}\n'
        "note: seed-none, one-slot-no-cache: one answer in 3: it is a seed like others\n"
        f"missing: build: {no_second}\n"
        "missing: not asked for: experiments restart\n"
    )


def test_a_setting_is_timed_with_each_prompt_in_two_other_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    audit(monkeypatch, plan_of(bench, ("one-slot",), ("seed-0",)))
    assert bench.script.log == [
        *("1: act, turn 1", "1: accept, turn 1", "1: vote, turn 1"),
        *("1: act, turn 2", "1: accept, turn 2", "1: vote, turn 2"),
    ]
    begins = {str(one.prompt.body["prompt"])[:8] for one in bench.script.asked}
    assert begins == {"Turn 1.\n", "Turn 2.\n"}


def test_the_cheaper_setting_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)

    def slow_by_default(asked: Asked) -> str:
        bench.script.clock.now += 2.0 if asked.setting == "default" else 0.5
        return "steady"

    bench.script.reply = slow_by_default
    report = audit(monkeypatch, plan_of(bench, ("default", "one-slot"), ("repeat",)))
    assert [one.name for one in report.settings] == ["one-slot", "default"]
    assert [(one.setting, one.seconds, one.relative) for one in report.prices] == [
        ("one-slot", 9.0, 0.5),
        ("default", 18.0, 1.0),
    ]
    assert report.cell("default", "repeat").seconds == 27.0
    assert report.recommended is not None
    assert report.recommended.setting.name == "one-slot"


def test_a_failed_experiment_is_missing_with_its_reason_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)

    def reply(asked: Asked) -> str | BackendError:
        if asked.together:
            return BackendError("it went\n  wrong")
        return BackendError("too\tslow") if "turn" in asked.prompt.name else "steady"

    bench.script.reply = reply
    bench.unknown = "it did not say"
    plan = plan_of(bench, ("one-slot",), ("repeat", "load", "restart"), "left out")
    report = audit(monkeypatch, plan)
    assert [(one.experiment, one.status, one.why) for one in report.cells] == [
        ("repeat", "done", None),
        ("restart", "done", None),
        ("load", "failed", "it went wrong"),
    ]
    assert report.missing == (
        "one-slot, load: it went wrong",
        "one-slot, price: too slow",
        "environment: it did not say",
        "left out",
    )
    assert report.prices == ()
    assert report.environment == {}
    assert report.recommended is None
    assert report.cell("one-slot", "restart").seconds == 3.0, "a failure's seconds are not carried"


def test_seconds_of_a_failed_experiment_do_not_count_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.reply = lambda asked: (
        BackendError("cut") if len(bench.script.starts) == 1 and asked.number > 2 else "steady"
    )
    report = audit(monkeypatch, plan_of(bench, ("one-slot",), ("repeat", "restart")))
    assert report.cell("one-slot", "repeat").status == "failed"
    assert report.cell("one-slot", "restart").seconds == 3.0


def test_prompts_have_the_tokens_that_a_backend_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    plan = plan_of(bench, ("one-slot",), ("restart",))
    counted = {"usage": {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13}}
    lab = bench.lab(setting("one-slot"))
    reference = {
        name: replace_body(one, counted) for name, one in lab.reference().items() if name != "vote"
    }
    monkeypatch.setattr(lab, "_reference", reference)
    bench.prompts = tuple(replace(one, tokens=99) for one in bench.prompts)
    assert [one.tokens for one in runner._with_tokens(plan.bench)] == [12, 12, 99]


def replace_body(completion: Any, members: Mapping[str, object]) -> Any:
    body = {**json.loads(completion.body), **members}
    return type(completion)(200, "application/json", json.dumps(body).encode())


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ("repeat", "start 1 failed"),
        # Nothing but the price was tried.
        ("device", "one-slot, price: start 1 failed"),
    ],
)
def test_when_nothing_could_be_started_that_is_the_error_and_its_first_reason(
    experiment: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.start = lambda number: BackendError(f"start {number} failed")
    with pytest.raises(BackendError) as raised:
        audit(monkeypatch, plan_of(bench, ("one-slot",), (experiment,)))
    assert str(raised.value) == f"no server could be started: {said}"


def test_one_server_that_started_is_enough_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.start = lambda number: BackendError("gone") if number != 2 else None
    report = audit(monkeypatch, plan_of(bench, ("one-slot",), ("repeat",)))
    assert report.cell("one-slot", "repeat").status == "failed"
    assert [one.setting for one in report.prices] == ["one-slot"]


def test_progress_tells_what_is_measured_and_reaches_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch, repeat=2)
    bench.prompts = bench.prompts[:2]  # of weights 538 and 438
    bench.script.reply = lambda asked: (
        BackendError("cut") if asked.number == 2 else f"answer {asked.number}"
    )
    told: list[tuple[str, float, float]] = []
    plan = plan_of(bench, ("one-slot",), ("repeat", "batch", "device"))
    audit(monkeypatch, plan, on_progress=lambda *news: told.append(news))
    total = 2 * 976.0 + 538.0 + 2 * 976.0
    assert told == [
        ("one-slot, repeat", 0.0, total),
        ("one-slot, repeat", 538.0, total),
        ("one-slot, repeat", 1952.0, total),  # it failed: what is left of it is over, too
        ("one-slot, batch", 1952.0, total),
        ("one-slot, batch", 2490.0, total),  # the reference is asked for, beyond the plan
        ("one-slot, batch", 2490.0, total),
        ("one-slot, batch", 2490.0, total),
        ("one-slot, batch", 2490.0, total),
        ("one-slot, device", 2490.0, total),
        ("one-slot, device", 2490.0, total),
        ("one-slot, price", 2490.0, total),
        *(
            ("one-slot, price", 2490.0 + done, total)
            for done in (547.0, 994.0, 1541.0, 1952.0, 1952.0)  # a turn adds nine characters
        ),
    ]  # fmt: skip


def test_the_caller_is_told_of_each_server(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    seen: list[StartedServer] = []
    audit(monkeypatch, plan_of(bench, ("one-slot",), ("repeat",)), on_server=seen.append)
    assert bench.on_server == seen.append


def test_a_cell_is_found_by_its_names_and_a_missing_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    report = audit(monkeypatch, plan_of(bench, ("one-slot", "default"), ("repeat", "restart")))
    found = report.cell("default", "restart")
    assert (found.setting, found.experiment) == ("default", "restart")
    with pytest.raises(KeyError):
        report.cell("default", "load")
