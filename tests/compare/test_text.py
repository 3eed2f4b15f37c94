"""Diff and survey reports as a terminal shows them."""

from __future__ import annotations

from typing import Any

from swarm_repro.compare.text import diff_lines, survey_lines

Report = dict[str, Any]

NOTHING = {"proven": 0, "assumed": 0, "shared": 0}


def side(file: str, **members: Any) -> Report:
    return {
        "file": file,
        "calls": 3,
        "run_seeds": [7],
        "models": [{"name": "tiny", "label": "gguf aaa…"}],
        "strict": False,
        "tokens": {"prompt": 10, "completion": 6},
        "duration_s": 0.54,
        **members,
    }


def diff(**members: Any) -> Report:
    return {
        "verdict": "cause: \x1b",
        "identical": False,
        "a": side("a.jsonl"),
        "b": side("b\x1b.jsonl", run_seeds=[], strict=True, duration_s=12.0),
        "counts": {
            "identical": 1, "root": 2, "changed": 3, "fallout": 4, "only_a": 5, "only_b": 0,
        },
        "origins": [],
        "origins_left_out": 0,
        "environment": [],
        "metrics": [],
        "calls": [],
        **members,
    }  # fmt: skip


def parting(**members: Any) -> Report:
    return {
        "unit": "character",
        "index": 4,
        "a_before": "at \x1b",
        "a": "mill",
        "b": "well",
        "a_candidates": [],
        "b_candidates": [],
        "margin": None,
        "near_tie": None,
        **members,
    }


def root(**members: Any) -> Report:
    return {
        "id": 0,
        "kind": "root",
        "call": 2,
        "parting": parting(),
        "environment": [],
        "evidence": [],
        "fallout": NOTHING,
        "calls": 1,
        **members,
    }


def call(**members: Any) -> Report:
    completion = {"a": "at \x1bmill", "b": "at \x1bwell"}
    return {"number": 2, "scope": "ada", "i": 1, "at": [0, 3], "completion": completion, **members}


def lines_of_origins(*origins: Report, calls: tuple[Report, ...] = (), left_out: int = 0) -> str:
    """The lines between the title of the origins and the table of tokens."""
    report = diff(origins=list(origins), calls=list(calls), origins_left_out=left_out)
    text = "\n".join(diff_lines(report))
    return text.partition("where they part, in causal order\n")[2].partition("\n\ntokens ")[0]


def test_a_report_without_origins_as_a_whole() -> None:
    assert "\n".join(diff_lines(diff())) == (
        r"""cause: \x1b

A  a.jsonl: 3 calls, run seed 7, model tiny (gguf aaa…)
B  b\x1b.jsonl: 3 calls, run seed none, model tiny (gguf aaa…), strict

       1  identical
       2  roots: same request, other completion
       3  other requests, by a cause of their own
       4  fallout: other prompts that followed
       5  only in A

where they part, in causal order

tokens           prompt  completion   seconds
A                    10           6       0.5
B                    10           6      12.0"""
    )


def test_calls_of_b_alone_are_counted_too() -> None:
    counts = dict.fromkeys(("identical", "root", "changed", "fallout", "only_a"), 0)
    assert "       9  only in B" in list(diff_lines(diff(counts={**counts, "only_b": 9})))


def test_several_seeds_and_models_are_listed() -> None:
    models = [{"name": "tiny", "label": "gguf a"}, {"name": "big\x1b", "label": "gguf b"}]
    report = diff(a=side("a.jsonl", run_seeds=[1, 2], models=models))
    assert list(diff_lines(report))[2] == (
        r"A  a.jsonl: 3 calls, run seed 1, 2, model tiny (gguf a), big\x1b (gguf b)"
    )


def test_identical_recordings_end_with_what_differs_in_their_environments() -> None:
    changed = {"field": "cpu", "a": "x\x1b", "b": "y"}
    report = diff(identical=True, environment=[changed])
    assert list(diff_lines(report))[-3:] == [
        "",
        "the environments differ all the same:",
        r"  cpu: x\x1b in A, y in B",
    ]
    assert list(diff_lines(diff(identical=True)))[-1] == "       5  only in A"


def test_a_root_shows_where_the_texts_part_and_what_followed() -> None:
    origin = root(
        environment=[{"field": f"f{n}\x1b", "a": "x", "b": "y"} for n in range(11)],
        evidence=["seconds: 1.0 and 2.0"],
        fallout={"proven": 2, "assumed": 3, "shared": 1},
    )
    environment = "\n".join(rf"    environment: f{n}\x1b: x in A, y in B" for n in range(10))
    assert lines_of_origins(origin, calls=(call(),)) == (
        rf"""
  root 1: call 1 of ada at epoch 0, step 3: same request, other completion
    they part at character 4, after 'at \x1b'
    A: 'mill'
    B: 'well'
{environment}
    seconds: 1.0 and 2.0
    5 later calls followed: 2 repeat its words, 3 are assumed, 1 of these may follow from another"""
    )


def test_a_root_whose_call_is_not_listed_is_named_by_its_number() -> None:
    assert lines_of_origins(root(parting=None)) == (
        "\n  root 1: call 2: same request, other completion\n    nothing followed"
    )


def test_a_root_whose_call_is_not_listed_shows_where_its_tokens_part() -> None:
    """The texts are not at hand then, so the place where they part is not shown."""
    told = lines_of_origins(root(parting=parting(unit="token", a="same", b="same")))
    assert told.splitlines()[1:3] == [
        "  root 1: call 2: same request, other completion",
        "    they part at token 4, after 'at \\x1b'",
    ]


def test_a_call_outside_of_a_simulation_has_no_epoch() -> None:
    told = lines_of_origins(root(parting=None), calls=(call(at=None),))
    assert told.splitlines()[1] == "  root 1: call 1 of ada: same request, other completion"


def test_tokens_that_part_before_their_texts_do_are_explained() -> None:
    same = parting(unit="token", a="mill, and so on", b="mill, and so on")
    texts = call(completion={"a": "mill, and so on, ada", "b": "mill, and so on, ben"})
    told = lines_of_origins(root(parting=same), calls=(texts,)).splitlines()
    assert told[2] == (
        "    the texts part at character 17: 'mill, and so on, ada' in A, "
        "'mill, and so on, ben' in B; their tokens part before, at the same text:"
    )
    assert told[3] == "    they part at token 4, after 'at \\x1b'"
    for other in (parting(unit="token"), parting(a="x", b="x")):
        told = lines_of_origins(root(parting=other), calls=(texts,)).splitlines()
        assert told[2].startswith("    they part at ")


def test_three_likely_tokens_are_shown_with_their_logprobs() -> None:
    likely = [
        {"token": "mi", "logprob": -0.5},
        {"token": "no\x1b", "logprob": -1.23456},
        {"token": "none", "logprob": None},
        {"token": "fourth", "logprob": -9.0},
    ]
    told = lines_of_origins(
        root(parting=parting(a_candidates=likely, margin=0.25, near_tie=False))
    ).splitlines()
    assert told[3:6] == [
        r"    A: 'mill'    logprobs: 'mi' -0.500  'no\x1b' -1.235",
        "    B: 'well'",
        "    margin of the two tokens: 0.2500 nats, no near tie",
    ]


def test_a_margin_says_whether_it_is_a_near_tie_where_that_is_known() -> None:
    for near_tie, end in ((True, ", a near tie"), (False, ", no near tie"), (None, "")):
        told = lines_of_origins(root(parting=parting(margin=0.00004, near_tie=near_tie)))
        assert f"    margin of the two tokens: 0.0000 nats{end}" in told.splitlines()
    assert "margin" not in lines_of_origins(root())


def cause(number: int = 0, **members: Any) -> Report:
    return {
        "id": number,
        "kind": "cause",
        "call": 2,
        "field": "temperature",
        "a": "0.5\x1b",
        "b": "0.7",
        "character": None,
        "scopes": ["ada", "ben"],
        "fallout": {"proven": 0, "assumed": 1, "shared": 0},
        "calls": 4,
        **members,
    }


def test_a_cause_shows_both_values_and_whose_calls_it_shows_in() -> None:
    assert lines_of_origins(cause(), calls=(call(),)) == (
        r"""
  cause 1: call 1 of ada at epoch 0, step 3: temperature, in 4 calls of ada, ben
    A: 0.5\x1b
    B: 0.7
    1 later calls followed: 0 repeat its words, 1 are assumed"""
    )


def test_a_cause_in_a_text_shows_the_character() -> None:
    told = lines_of_origins(cause(3, character=0)).splitlines()
    assert told[1:4] == [
        "  cause 4: call 2: temperature, in 4 calls of ada, ben",
        "    A (character 0): 0.5\\x1b",
        "    B (character 0): 0.7",
    ]


def test_ten_origins_are_shown_and_the_rest_counted() -> None:
    many = [cause(number) for number in range(12)]
    told = lines_of_origins(*many, left_out=5)
    assert told.count("  cause ") == 10
    assert told.endswith("\n  and 7 more")
    assert lines_of_origins(*many[:10], left_out=1).endswith("\n  and 1 more")
    assert "more" not in lines_of_origins(*many[:10])


def test_environments_tokens_and_metrics_follow_the_origins() -> None:
    report = diff(
        environment=[{"field": "cpu", "a": "x", "b": "y"}],
        metrics=[
            {"seed": 7, "epoch": n, "metric": "welfare\x1b", "a": 1, "b": None} for n in range(12)
        ],
    )
    lines = list(diff_lines(report))
    after = lines[lines.index("environments") :]
    assert after[:3] == ["environments", "  cpu: x in A, y in B", ""]
    assert after[3].startswith("tokens ")
    place = after.index("metrics that moved")
    assert after[place - 1] == ""
    moved = after[place:]
    assert moved[1] == r"  epoch 0, welfare\x1b: 1 in A, None in B"
    assert (len(moved), moved[-1]) == (12, "  and 2 more")


def test_ten_metrics_are_all_shown() -> None:
    metrics = [{"seed": 7, "epoch": n, "metric": "m", "a": 1, "b": 2} for n in range(10)]
    lines = list(diff_lines(diff(metrics=metrics)))
    assert lines[-11:-9] == ["metrics that moved", "  epoch 0, m: 1 in A, 2 in B"]
    assert lines[-1] == "  epoch 9, m: 1 in A, 2 in B"


# --- Surveys.


def group(number: int, **members: Any) -> Report:
    return {
        "field": f"field {number}\x1b",
        "character": None,
        "calls": 3,
        "scopes": ["ada", "ben"],
        "first": {"scope": "ben", "i": 2},
        "a": "x\x1b",
        "b": "y",
        **members,
    }


def surveyed(**members: Any) -> Report:
    return {
        "verdict": "3 of 9 calls are stale\x1b",
        "versions": [],
        "counts": {"same": 6, "changed": 2, "unrecorded": 1, "unplayed": 0},
        "record_anew": {
            "calls": 0, "seconds": 4.6, "at_most_calls": 8, "at_most_seconds": 19.4,
        },
        "groups": [],
        **members,
    }  # fmt: skip


def test_a_survey_as_a_whole() -> None:
    report = surveyed(
        versions=["swarm 1\x1b, recorded with 2"],
        groups=[group(0), group(1, character=0)],
        record_anew={"calls": 3, "seconds": 4.6, "at_most_calls": 8, "at_most_seconds": 19.4},
    )
    assert "\n".join(survey_lines(report)) == (
        r"""3 of 9 calls are stale\x1b
  swarm 1\x1b, recorded with 2

       6  ask what was recorded
       2  ask something else at their place
       1  have no recording at their place

  field 0\x1b: 3 calls of ada, ben, first call 2 of ben
    recorded: x\x1b
    asked:    y

  field 1\x1b, character 0: 3 calls of ada, ben, first call 2 of ben
    recorded: x\x1b
    asked:    y

to record anew: 3 calls, about 5 s at the recorded speed; since other answers lead to other """
        "prompts, up to 8 calls, 19 s"
    )


def test_a_survey_without_drift_ends_with_its_counts() -> None:
    counts = {"same": 0, "changed": 0, "unrecorded": 0, "unplayed": 4}
    assert list(survey_lines(surveyed(counts=counts))) == [
        r"3 of 9 calls are stale\x1b",
        "",
        "       4  recorded, and not asked for any more",
    ]


def test_twenty_groups_are_shown_and_the_rest_counted() -> None:
    lines = list(survey_lines(surveyed(groups=[group(n) for n in range(23)])))
    assert sum(line.startswith("  field ") for line in lines) == 20
    assert lines[-1] == "  and 3 more kinds of difference"
    lines = list(survey_lines(surveyed(groups=[group(n) for n in range(20)])))
    assert lines[-1] == "    asked:    y"
