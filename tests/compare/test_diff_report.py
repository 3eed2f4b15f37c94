"""Reports of two small recordings, pinned whole, and each kind of cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro import __version__
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.compare.diff import DiffReport
from swarm_repro.compare.diff import comparing as comparing_files
from swarm_repro.errors import NotComparableError
from tests.support.diff_reports import (
    Recording,
    Report,
    calls_of,
    causes_of,
    followed,
    of,
    report_of,
)
from tests.support.recordings import Call, record
from tests.support.society import comparing
from tests.support.tiny_model import DEFAULTS, TinyModel, completion_of, make_binding


def counted(prompt: int, completion: int) -> Report:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


MODELS = [{"name": "tiny", "label": "gguf aaaaaaaaaaaa…"}]
ENVIRONMENTS = [{"backend": "llama-server", "build": "b1", "cpu": "a CPU"}]


def test_a_root_and_what_followed_as_a_whole_report(tmp_path: Path) -> None:
    first = Call("begin", "the fair is open", who="cleo")
    a = of(
        first,
        Call("go on", completion_of("we meet at the mill", usage=counted(7, 4)), at=(0, 1)),
        Call("ada: we meet at the mill", "fine", "ben", (1, 0), kind="accept"),
        metrics=[{"welfare": 0.5, "trades": 3}],
    )
    b = of(
        first,
        Call(
            "go on",
            completion_of("we meet at the well, ben", number=500, usage=counted(7, 6)),
            at=(0, 1),
        ),
        Call("ada: we meet at the well, ben", "no", "ben", (1, 0), kind="accept"),
        metrics=[{"welfare": 0.25, "trades": 3}],
    )
    report = report_of(tmp_path, a, b, identical_too=True)
    side = {
        "scenario": "scenes",
        "calls": 3,
        "run_seeds": [7],
        "strict": False,
        "models": MODELS,
        "environments": ENVIRONMENTS,
    }
    assert report == {
        "report": "diff",
        "version": 1,
        "recorder": __version__,
        "verdict": "cause: not in what was recorded: same environment, same settings; "
        "1 of 2 same requests got another completion, first call 0 of ada",
        "identical": False,
        "a": {
            "file": "a.jsonl",
            **side,
            "tokens": {"prompt": 17, "completion": 10},
            "duration_s": 0.75,
        },
        "b": {
            "file": "b.jsonl",
            **side,
            "tokens": {"prompt": 17, "completion": 12},
            "duration_s": 1.25,
        },
        "counts": {
            "identical": 1, "root": 1, "fallout": 1, "changed": 0, "only_a": 0, "only_b": 0,
        },
        "origins": [
            {
                "id": 0,
                "kind": "root",
                "call": 1,
                "parting": {
                    "unit": "character",
                    "index": 15,
                    "character": 15,
                    "a_before": "we meet at the ",
                    "a": "mill",
                    "b": "well, ben",
                    "a_candidates": [],
                    "b_candidates": [],
                    "margin": None,
                    "drift": None,
                    "near_tie": None,
                },
                "environment": [],
                "evidence": ["seconds: 0.2 and 0.8"],
                "fallout": followed(proven=1),
                "calls": 1,
            }
        ],
        "origins_left_out": 0,
        "environment": [],
        "metrics": [{"seed": 7, "epoch": 0, "metric": "welfare", "a": 0.5, "b": 0.25}],
        "calls": [
            {
                "number": 0,
                "scope": "cleo",
                "i": 0,
                "n": 0,
                "at": [0, 0],
                "kind": "act",
                "class": "identical",
                "origins": [],
                "proven": None,
                "a": 0,
                "b": 0,
                "tokens": {
                    "a": {"prompt": 5, "completion": 3},
                    "b": {"prompt": 5, "completion": 3},
                },
                "duration_s": {"a": 0.25, "b": 0.25},
                "differences": [],
                "completion": {"a": "the fair is open", "b": "the fair is open"},
            },
            {
                "number": 1,
                "scope": "ada",
                "i": 0,
                "n": 0,
                "at": [0, 1],
                "kind": "act",
                "class": "root",
                "origins": [0],
                "proven": None,
                "a": 1,
                "b": 1,
                "tokens": {
                    "a": {"prompt": 7, "completion": 4},
                    "b": {"prompt": 7, "completion": 6},
                },
                "duration_s": {"a": 0.25, "b": 0.75},
                "differences": [],
                "completion": {"a": "we meet at the mill", "b": "we meet at the well, ben"},
            },
            {
                "number": 2,
                "scope": "ben",
                "i": 0,
                "n": 0,
                "at": [1, 0],
                "kind": "accept",
                "class": "fallout",
                "origins": [0],
                "proven": True,
                "a": 2,
                "b": 2,
                "tokens": {
                    "a": {"prompt": 5, "completion": 3},
                    "b": {"prompt": 5, "completion": 3},
                },
                "duration_s": {"a": 0.25, "b": 0.25},
                "differences": [
                    {
                        "field": "messages[0].content",
                        "a": "'ada: we meet at the mill'",
                        "b": "'ada: we meet at the well, ben'",
                        "character": 20,
                    }
                ],
                "completion": {"a": "fine", "b": "no"},
            },
        ],
        "left_out": 0,
    }  # fmt: skip


def test_a_changed_setting_and_a_call_of_one_side_as_a_whole_report(tmp_path: Path) -> None:
    a = of(Call("1", fields={"temperature": 0.5}), Call("2"), run=False)
    b = of(Call("1", fields={"temperature": 0.75}), run=False)
    report = report_of(tmp_path, a, b)
    assert report["verdict"] == (
        "cause: temperature: 0.5 in A, 0.75 in B (call 0 of ada)"
    )  # fmt: skip
    assert (report["identical"], report["metrics"]) == (False, [])
    assert (report["a"]["run_seeds"], report["b"]["calls"]) == ([], 1)
    assert report["counts"] == {
        "identical": 0, "root": 0, "fallout": 0, "changed": 1, "only_a": 1, "only_b": 0,
    }  # fmt: skip
    assert report["origins"] == [
        {
            "id": 0,
            "kind": "cause",
            "call": 0,
            "field": "temperature",
            "a": "0.5",
            "b": "0.75",
            "character": None,
            "scopes": ["ada"],
            "fallout": followed(assumed=1),
            "calls": 1,
        }
    ]
    changed, alone = report["calls"]
    assert changed["differences"] == [
        {"field": "temperature", "a": "0.5", "b": "0.75", "character": None}
    ]
    assert (changed["class"], changed["origins"], changed["proven"]) == ("changed", [0], None)
    assert alone == {
        "number": 1,
        "scope": "ada",
        "i": 1,
        "n": 0,
        "at": [0, 0],
        "kind": "act",
        "class": "only_a",
        "origins": [0],
        "proven": False,
        "a": 1,
        "b": None,
        "tokens": {"a": {"prompt": 5, "completion": 3}, "b": None},
        "duration_s": {"a": 0.25, "b": None},
        "differences": [],
        "completion": {"a": "fine", "b": None},
    }


# --- Each kind of cause.

GIVEN = {"seed": 5}
OTHER_WEIGHTS = TinyModel(binding=make_binding(weights="c" * 64))
NAMED_TEMPLATE = TinyModel(binding=make_binding(template={"name": "chatml", "sha256": "f" * 64}))
NO_TEMPLATE = TinyModel(binding=make_binding(template={}))
OTHER_DEFAULTS = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 20}))
LONG_PATTERN = "0123456789" * 20


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        pytest.param(
            of(Call("1")),
            of(Call("1"), model=OTHER_WEIGHTS),
            [("model", "gguf aaaaaaaaaaaa…", "gguf cccccccccccc…")],
            id="model",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1"), model=NAMED_TEMPLATE),
            [("chat template", "bbbbbbbbbbbb", "chatml")],
            id="template with a name",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1"), model=NO_TEMPLATE),
            [("chat template", "bbbbbbbbbbbb", "unknown")],
            id="template that nobody knows",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1"), model=OTHER_DEFAULTS),
            [("top_k", "40", "20")],
            id="default of the backend",
        ),
        pytest.param(
            of(Call("1", kind=None)),
            of(Call("2", kind="accept")),
            [("kind of call", "(absent)", "accept")],
            id="kind",
        ),
        pytest.param(
            of(Call("1", fields=GIVEN)),
            of(
                Call("1", endpoint="completion", path="/v1/completions", fields=GIVEN),
            ),
            [("endpoint", "/v1/chat/completions", "/v1/completions")],
            id="endpoint",
        ),
        pytest.param(
            of(Call("1", fields={"seed": 5})),
            of(Call("1", fields={"seed": 6})),
            [("seed", "5", "6")],
            id="seed of the caller",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1", fields={"max_completion_tokens": 7, "top_p": 0.9, "min_p": 0.1})),
            [
                ("max_tokens", "(no effect)", "7"),
                ("min_p", "0.05", "0.1"),
                ("top_p", "0.95", "0.9"),
            ],
            id="sampling by any name",
        ),
        pytest.param(
            of(Call("1", fields={"response_format": {"type": "text"}, "user": "x"})),
            of(Call("1", fields={"response_format": {"type": "json"}, "user": "y"})),
            [("response_format.type", "'text'", "'json'")],
            id="other members, and none that is outside of the key",
        ),
        pytest.param(
            of(Call("1", fields={"grammar": LONG_PATTERN + "a"})),
            of(Call("1", fields={"grammar": LONG_PATTERN + "b"})),
            [("grammar", "…'678901234567890123456789a'", "…'678901234567890123456789b'")],
            id="long member",
        ),
        pytest.param(
            of(Call("1", system="You are kind.")),
            of(Call("1", system="You are cruel.")),
            [("system prompt, messages[0].content", "'You are kind.'", "'You are cruel.'")],
            id="persona",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1", system="You are cruel.")),
            [
                (
                    "messages[0]",
                    "\"{'role': 'user', 'content': '1'}\"",
                    "\"{'role': 'system', 'content': 'You are cruel.'}\"",
                ),
                ("messages[1]", "'(absent)'", "\"{'role': 'user', 'content': '1'}\""),
            ],
            id="message more",
        ),
        pytest.param(
            of(Call("x", endpoint="embedding", path="/v1/embeddings")),
            of(Call("y", endpoint="embedding", path="/v1/embeddings")),
            [("input", "'x'", "'y'")],
            id="input",
        ),
        pytest.param(
            of(Call("1")),
            of(Call("1"), policy="content"),
            [("seed policy", "event", "content")],
            id="seed policy",
        ),
        pytest.param(of(Call("1")), of(Call("1"), seed=8), [("run seed", "7", "8")], id="run seed"),
        pytest.param(
            of(Call("1"), run=False),
            of(Call("1"), seed=8, run=False),
            [("run seed", "(not recorded)", "(not recorded)")],
            id="run seed that only the seeds show",
        ),
        pytest.param(
            of(Call("1"), run=False, policy="content"),
            of(Call("1"), seed=8, run=False, policy="content"),
            [("run seed", "(not recorded)", "(not recorded)")],
            id="run seed that only seeds of one content show",
        ),
        pytest.param(
            of(Call("1"), run=False, policy="content"),
            of(Call("2"), seed=8, run=False, policy="content"),
            [("messages[0].content", "'1'", "'2'")],
            id="seeds of another content say nothing of the run's",
        ),
        pytest.param(
            of(Call("1"), Call("2"), steps=2),
            of(Call("1"), steps=1),
            [("steps", "2", "1")],
            id="steps",
        ),
        pytest.param(
            of(Call("1"), epochs=3),
            of(Call("1"), Call("2"), epochs=4, steps=1),
            [("epochs", "3", "4")],
            id="epochs",
        ),
        pytest.param(
            of(Call("1"), Call("2", who="ben")),
            of(Call("1")),
            [("call", "call 0 of ben", "(absent)")],
            id="call",
        ),
        pytest.param(
            of(Call("1", rendered="a" * 64)),
            of(Call("1", "so so", rendered="b" * 64)),
            [("rendered prompt", "sha256 aaaaaaaaaaaa", "sha256 bbbbbbbbbbbb")],
            id="rendered prompt",
        ),
        pytest.param(
            of(Call("1", rendered="a" * 64)),
            of(Call("1", "so so", rendered=None)),
            [("root",)],
            id="rendered prompt that one side does not know",
        ),
        pytest.param(
            of(Call("1", rendered="a" * 64)),
            of(Call("1", "so so", rendered="a" * 64)),
            [("root",)],
            id="the same rendered prompt",
        ),
    ],
)
def test_a_cause_is_named_with_both_values(
    tmp_path: Path, a: Recording, b: Recording, shown: list[tuple[str, ...]]
) -> None:
    report = report_of(tmp_path, a, b)
    assert causes_of(report) == shown
    first = shown[0]
    if first != ("root",):
        assert report["verdict"].startswith(f"cause: {first[0]}: ")
        assert f"{first[1]} in A, {first[2]} in B (call " in report["verdict"]


def test_the_rendered_prompt_of_many_calls_is_one_cause(tmp_path: Path) -> None:
    pair = [
        of(*(Call(f"{n}", f"{n} {name}", rendered=name * 64) for n in range(3)))
        for name in ("a", "b")
    ]
    report = report_of(tmp_path, *pair)
    assert report["verdict"].endswith("in B (call 0 of ada and 2 more)")
    assert [origin["calls"] for origin in report["origins"]] == [3]
    assert {call["class"] for call in report["calls"]} == {"changed"}


def test_a_key_that_nothing_else_explains_is_a_cause_by_itself(tmp_path: Path) -> None:
    a = record(tmp_path / "a.jsonl", [Call("1")])
    whole = read_cassette(a)
    (call,) = whole.calls.values()
    other = replace(call, sent="sr1:" + "0" * 64)
    write_cassette(replace(whole, calls={other.id: other}), tmp_path / "b.jsonl")
    with comparing(a, tmp_path / "b.jsonl") as found:
        report = DiffReport(found).to_json()
    assert causes_of(report) == [("key", call.sent[4:16], "0" * 12)]


def test_seeds_of_the_caller_hide_another_policy(tmp_path: Path) -> None:
    a = of(Call("1", fields=GIVEN), policy="content")
    report = report_of(tmp_path, a, of(Call("1", fields=GIVEN)))
    assert report["identical"]
    assert report["calls"] == report["origins"] == []


def test_a_seed_that_only_one_side_gives_is_named_and_no_policy(tmp_path: Path) -> None:
    report = report_of(tmp_path, of(Call("1", fields=GIVEN), policy="content"), of(Call("1")))
    assert causes_of(report) == [("seed", "5", "(absent)")]


def test_another_kind_of_call_is_a_cause_only_where_nothing_shifted_it(tmp_path: Path) -> None:
    a = of(Call("1", "yes"), Call("2", fields={"top_k": 3}))
    b = of(Call("1", "no"), Call("3", kind="accept"))
    report = report_of(tmp_path, a, b)
    assert causes_of(report) == [("root",)]
    assert calls_of(report) == [("ada 0", "root", [0], None), ("ada 1", "fallout", [0], False)]
    assert [one["field"] for one in report["calls"][1]["differences"]] == [
        "kind of call", "top_k", "messages[0].content",
    ]  # fmt: skip


def test_settings_count_beside_an_origin_as_well(tmp_path: Path) -> None:
    a = of(Call("1", "yes"), Call("2"))
    b = of(Call("1", "no"), Call("2", fields={"top_k": 3}))
    report = report_of(tmp_path, a, b)
    assert causes_of(report) == [("root",), ("top_k", "40", "3")]
    assert calls_of(report) == [("ada 0", "root", [0], None), ("ada 1", "changed", [1], None)]


def test_settings_of_the_same_name_and_two_models_are_compared_by_the_models(
    tmp_path: Path,
) -> None:
    other = TinyModel(binding=make_binding(weights="c" * 64))
    a = of(Call("1"), Call("2"))
    report = report_of(tmp_path, a, of(Call("1"), Call("2"), model=other))
    (origin,) = report["origins"]
    assert (origin["field"], origin["calls"], origin["scopes"]) == ("model", 2, ["ada"])


# --- What a report lists.


def many(word: str) -> Recording:
    """Three calls alike, then two roots, of which the first has fallout."""
    said = f"{word} is what ada said to all of them"
    return of(
        *(Call(f"{n}", who="eve", at=(0, n)) for n in range(3)),
        Call("1", said, at=(1, 0)),
        Call(said, who="ben", at=(1, 1)),
        Call("1", word, "dan", at=(1, 2)),
    )


def numbers_of(report: Report) -> list[int]:
    return [call["number"] for call in report["calls"]]


def test_without_a_limit_all_that_differs_is_listed(tmp_path: Path) -> None:
    report = report_of(tmp_path, many("yes"), many("no"))
    assert (numbers_of(report), report["left_out"]) == ([3, 4, 5], 0)
    assert [origin["call"] for origin in report["origins"]] == [3, 5]


def test_a_limit_keeps_the_calls_of_origins_then_what_differs_then_the_rest(
    tmp_path: Path,
) -> None:
    paths = [record(tmp_path / f"{word}.jsonl", many(word).calls) for word in ("yes", "no")]
    with comparing(*paths) as found:
        report = DiffReport(found)
        one: Report = report.to_json(limit=1)
        assert (numbers_of(one), one["left_out"], one["origins_left_out"]) == ([3], 2, 1)
        assert [origin["id"] for origin in one["origins"]] == [0]
        two: Report = report.to_json(limit=2)
        assert (numbers_of(two), two["left_out"], two["origins_left_out"]) == ([3, 5], 1, 0)
        three = report.to_json(limit=3, identical_too=True)
        assert (numbers_of(three), three["left_out"]) == ([3, 4, 5], 3)
        four = report.to_json(limit=4, identical_too=True)
        assert (numbers_of(four), four["left_out"]) == ([0, 3, 4, 5], 2)
        assert numbers_of(report.to_json(identical_too=True)) == [0, 1, 2, 3, 4, 5]


def test_metrics_are_compared_run_by_run_and_epoch_by_epoch(tmp_path: Path) -> None:
    runs: dict[str, list[tuple[int, int, list[Report]]]] = {
        "a.jsonl": [
            (1, 2, [{"welfare": 1, "trades": 3}, {"welfare": 2}]),
            (2, 2, [{"welfare": 5}]),
            (3, 2, [{"welfare": 6}]),
        ],
        "b.jsonl": [
            (1, 2, [{"welfare": 1, "trades": None}, {"welfare": 3, "harm": 0.5}, {"welfare": 9}]),
            (2, 3, [{"welfare": 7}]),
            (3, 2, [{"welfare": 6}]),
        ],
    }
    for name, made in runs.items():
        for seed, epochs, metrics in made:
            calls = [Call(f"{seed}")]
            record(tmp_path / name, calls, seed=seed, epochs=epochs, metrics=metrics)
    with comparing(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as found:
        moved = DiffReport(found).metrics()
    assert moved == [
        {"seed": 1, "epoch": 0, "metric": "trades", "a": 3, "b": None},
        {"seed": 1, "epoch": 1, "metric": "harm", "a": None, "b": 0.5},
        {"seed": 1, "epoch": 1, "metric": "welfare", "a": 2, "b": 3},
    ]


# --- Files.


def test_the_context_gives_the_report_with_its_tokenizer_and_tells_each_phase(
    tmp_path: Path,
) -> None:
    a = record(tmp_path / "a.jsonl", [Call("1", "one two three")])
    b = record(tmp_path / "b.jsonl", [Call("1", "one two four")])
    told: list[tuple[str, int, int]] = []
    with comparing_files(
        a,
        b,
        tokenize=lambda text: text.replace(" ", "| ").split("|"),
        phase=lambda name: lambda done, of_all: told.append((name, done, of_all)),
    ) as report:
        parting = report.to_json()["origins"][0]["parting"]  # type: ignore[index]
    assert (parting["unit"], parting["index"], parting["character"]) == ("token", 2, 7)
    assert {name for name, *_ in told} == {"reading A", "reading B", "comparing"}
    assert told[-1] == ("comparing", 1, 1)


def test_the_older_of_two_keys_is_the_one_to_record_anew(tmp_path: Path) -> None:
    now = record(tmp_path / "now.jsonl", [Call("1")])
    old = tmp_path / "old.jsonl"
    old.write_bytes(now.read_bytes().replace(b'"key":"sr1"', b'"key":"sr0"', 1))
    for sides in ((now, old), (old, now)):
        with pytest.raises(NotComparableError) as caught, comparing_files(*sides):
            pass
        keys = ["sr1" if side is now else "sr0" for side in sides]
        assert str(caught.value) == (
            f"{sides[0]} has keys {keys[0]}, {sides[1]} has keys {keys[1]}: record {old} anew "
            "with this version of swarm-repro"
        )


def test_two_scenarios_are_named(tmp_path: Path) -> None:
    one = record(tmp_path / "one.jsonl", [Call("1")])
    other = tmp_path / "other.jsonl"
    other.write_bytes(one.read_bytes().replace(b'"scenario":"scenes"', b'"scenario":"acts"', 1))
    with pytest.raises(NotComparableError) as caught, comparing_files(one, other):
        pass
    assert str(caught.value) == (
        f"{one} belongs to scenario 'scenes', {other} to 'acts': compare recordings of one scenario"
    )


def test_each_compared_step_is_reported(tmp_path: Path) -> None:
    calls = [Call("1"), Call("1", who="ben"), Call("2", at=(0, 1)), Call("3", at=(1, 0))]
    a = record(tmp_path / "a.jsonl", calls)
    told: list[tuple[int, int]] = []

    def phase(name: str) -> Callable[[int, int], None] | None:
        return (lambda *steps: told.append(steps)) if name == "comparing" else None

    with comparing_files(a, a, phase=phase) as report:
        assert report.identical
    assert told == [(2, 4), (3, 4), (4, 4)]
