"""The report on a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swarm_repro.audit.judge import price_list
from swarm_repro.audit.prompts import built_in_prompts
from swarm_repro.audit.report import AuditReport, Recommendation
from swarm_repro.audit.text import render
from swarm_repro.compare.parting import Parting
from tests.support.audit_reports import cell, experiments, measured

HOSTILE = Parting(
    unit="token",
    index=7,
    character=20,
    a_before="say \x1b[31m",
    a="\u202egniht",
    b="\x07bell\r\n",
    margin=0.012,
    near_tie=True,
)


def report() -> AuditReport:
    settings = (measured("default"), measured("cpu-strict"))
    return AuditReport(
        recorder="0.1.0",
        verdict="cpu-strict gave one answer",
        model_file="m.gguf",
        model_sha256="ab" * 32,
        environment={"cpu": "A CPU", "system": "Linux", "binary_sha256": "cd" * 32},
        threads=2,
        n_ctx=8192,
        repeat=5,
        prompts=(replace(built_in_prompts()[0], tokens=1234),),
        settings=settings,
        experiments=tuple(experiments("repeat", "load", "batch", "seed-none")),
        cells=(
            cell("default", "repeat", 3, divergence=HOSTILE, logprob_drift=0.01),
            cell("default", "load", None, status="failed", why="it \x1b[2J died"),
            cell("default", "batch", 2),
            cell("default", "seed-none", None, status="skipped", why="tried elsewhere"),
            cell("cpu-strict", "repeat", 1, logprob_drift=0.0),
            cell("cpu-strict", "load", 1, logprob_drift=0.0125),
            cell("cpu-strict", "batch", 1, logprob_drift=0.5),
            cell("cpu-strict", "seed-none", 5),
        ),
        prices=price_list({"default": 10.0, "cpu-strict": 17.0}),
        recommended=Recommendation(setting=settings[1], relative_price=1.7, is_exact=False),
        notes=("a note",),
        missing=("default, load: it \x1b[2J died",),
    )


def test_the_table_has_a_row_for_each_experiment_and_a_column_for_each_setting() -> None:
    lines = render(report()).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["repeat"] == ["3", "of", "5", "1", "of", "5"]
    assert rows["load"] == ["failed", "1", "of", "5", "±0.013"]
    assert rows["batch"] == ["other", "same", "±0.5"]
    assert rows["seed-none"] == ["-", "5", "of", "5"]
    assert rows["seconds"] == ["10.0", "17.0"]
    head = next(line for line in lines if line.split() == ["default", "cpu-strict"])
    assert head.index("cpu-strict") == next(
        line.index("1 of 5") for line in lines if line.startswith("  repeat")
    )


def test_it_ends_with_what_to_copy() -> None:
    text = render(report())
    assert "  swarm-repro server start --profile cpu-strict\n" in text
    assert "  llama-server -np 1\n" in text
    assert '  in every request: {"cache_prompt":false,"seed":"<yours>"}\n' in text


def test_nothing_a_model_or_a_log_said_can_drive_the_terminal() -> None:
    text = render(report())
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"\x1b[31m" in text
    assert r"\u202egniht" in text
    assert r'"\x07bell\r\n"' in text
    assert "token 7" in text
    assert "a near tie" in text


def test_without_a_recommendation_there_is_nothing_to_copy() -> None:
    text = render(replace(report(), recommended=None))
    assert "llama-server -np" not in text


def test_the_whole_report_as_it_is_printed() -> None:
    assert render(report()) == (
        "model m.gguf, sha256 abababababab…\n"
        "on A CPU, Linux, binary cdcdcdcdcdcd…\n"
        "2 threads, context 8192, 5 answers to compare\n"
        "prompts: act of 1234 tokens\n"
        "\n"
        "              default  cpu-strict\n"
        "within a setting: distinct answers in N; one everywhere makes it deterministic\n"
        "  repeat      3 of 5   1 of 5\n"
        "  load        failed   1 of 5 ±0.013\n"
        "a setting against itself changed: must two machines have this in common?\n"
        "  batch       other    same ±0.5\n"
        "seeds\n"
        "  seed-none   -        5 of 5\n"
        "price: the same requests, one after another\n"
        "  seconds     10.0     17.0\n"
        "  to default  1.00     1.70\n"
        "\n"
        "where answers part first:\n"
        r'  default, repeat, act: token 7, after "say \x1b[31m": "\u202egniht" or "\x07bell\r\n"'
        " (margin 0.012 nats, a near tie)\n"
        "\n"
        "cpu-strict gave one answer\n"
        "  swarm-repro server start --profile cpu-strict\n"
        "  llama-server -np 1\n"
        '  in every request: {"cache_prompt":false,"seed":"<yours>"}\n'
        "note: a note\n"
        "missing: default, load: it \\x1b[2J died\n"
    )


def test_what_is_not_known_is_left_out() -> None:
    little = replace(
        report(),
        environment={"system": None, "machine": "arm64", "build": "b7"},
        threads=1,
        prompts=(
            *(replace(one, tokens=None) for one in built_in_prompts()[:2]),
            replace(built_in_prompts()[2], name="call 3", source="c.jsonl call 3", tokens=9),
        ),
        prices=(),
        recommended=None,
        notes=(),
        missing=(),
    )
    lines = render(little).splitlines()
    assert lines[1:4] == [
        "on arm64, b7",
        "1 thread, context 8192, 5 answers to compare",
        "prompts: act, accept, call 3 (c.jsonl call 3) of 9 tokens",
    ]
    assert lines[-2:] == ["", "cpu-strict gave one answer"]
    assert not [line for line in lines if line.startswith(("price", "note", "missing"))]
    assert render(replace(little, environment={})).splitlines()[1] == "on this machine"


def test_a_setting_that_was_not_timed_has_no_price() -> None:
    prices = price_list({"cpu-strict": 17.04})
    lines = render(replace(report(), prices=prices)).splitlines()
    assert "  seconds     -        17.0" in lines
    assert "  to default  -        -" in lines
    nearly = price_list({"default": 3.0, "cpu-strict": 2.0})
    lines = render(replace(report(), prices=nearly)).splitlines()
    assert "  to default  1.00     0.67" in lines


def test_of_each_setting_the_first_parting_within_it_is_shown() -> None:
    def parting(word: str, **more: object) -> Parting:
        given: dict[str, Any] = {
            "unit": "character",
            "index": 3,
            "character": 3,
            "a_before": f"before {word} " + "x" * 30,
            "a": "a" * 30,
            "b": "b",
            **more,
        }
        return Parting(**given)

    cells = (
        cell("default", "repeat", 1),
        cell("default", "load", 2, divergence=parting("one", margin=1.5)),
        cell("default", "batch", 2, divergence=parting("two")),
        cell("default", "seed-none", 2, divergence=parting("three")),
        cell("cpu-strict", "repeat", 2, divergence=parting("four")),
        cell("cpu-strict", "load", 2, divergence=parting("five")),
        cell("cpu-strict", "batch", 2, divergence=parting("six")),
        cell("cpu-strict", "seed-none", 2),
    )
    lines = render(replace(report(), cells=cells)).splitlines()
    begin = lines.index("where answers part first:")
    where = f'character 3, after "{"x" * 24}": "{"a" * 24}" or "b"'
    assert lines[begin - 1 : begin + 4] == [
        "",
        "where answers part first:",
        f"  default, load, act: {where} (margin 1.5 nats)",
        f"  cpu-strict, repeat, act: {where}",
        "",
    ]
    none = replace(report(), cells=tuple(replace(one, divergence=None) for one in cells))
    assert "where answers part first:" not in render(none)


def test_experiments_of_one_kind_alone_have_one_heading() -> None:
    text = render(replace(report(), experiments=tuple(experiments("batch"))))
    assert "a setting against itself changed" in text
    assert "within a setting:" not in text
    assert "\nseeds\n" not in text
