"""The report on a terminal."""

from __future__ import annotations

from dataclasses import replace

from swarm_repro.audit.judge import price_list
from swarm_repro.audit.prompts import built_in_prompts
from swarm_repro.audit.report import AuditReport, Recommendation
from swarm_repro.audit.text import render
from swarm_repro.compare.parting import Parting
from tests.audit.making import cell, experiments, measured

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
