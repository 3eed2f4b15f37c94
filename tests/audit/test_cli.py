"""``swarm-repro audit``, run as a user does, of a program that answers by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.cli import main
from tests.support.command import ROOT, swarm_repro

Program = Callable[..., Path]
FEW = ("--experiments", "repeat,load", "--repeat", "3", "--threads", "1", "--no-in-process")


def test_with_a_recommendation_it_exits_with_0_and_shows_what_to_copy(
    tiny_gguf: Path, program: Program, tmp_path: Path
) -> None:
    done = swarm_repro(
        *("audit", "--model", tiny_gguf, "--binary", program(), *FEW),
        *("--settings", "default,one-slot-no-cache"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "one-slot-no-cache gave one answer in the 2 tried of 7 experiments" in done.stdout
    assert "  llama-server -c 8192 -np 1 -t 1 -tb 1\n" in done.stdout
    assert done.stderr == "", "no progress where there is no terminal"


def test_without_one_it_exits_with_1(tiny_gguf: Path, program: Program, tmp_path: Path) -> None:
    done = swarm_repro(
        *("audit", "--model", tiny_gguf, "--binary", program(), *FEW, "--json"),
        *("--settings", "default, one-slot"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["recommended"] is None


def test_the_page_is_written_beside_the_json(
    tiny_gguf: Path, program: Program, tmp_path: Path
) -> None:
    done = swarm_repro(
        *("audit", "--model", tiny_gguf, "--binary", program(), *FEW, "--json"),
        *("--settings", "one-slot-no-cache", "--html", "audit.html"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"] == "audit"
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "one-slot-no-cache" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--settings", "best"], 2, "no setting 'best'; there are default,"),
        (["--experiments", "luck"], 2, "no experiment 'luck'; there are repeat,"),
        (["--settings", ","], 2, "nothing is left to measure"),
        (["--repeat", "1"], 2, "--repeat is 1; give a number of at least 2"),
        (["--prompts", "none.jsonl"], 2, "there is no cassette at none.jsonl"),
        (["--prompts", ROOT / "README.md"], 5, "README.md"),
        (["--html", "nowhere/a.html"], 2, "nowhere is no folder"),
        (["--model", "none.gguf"], 2, "there is no model at none.gguf"),
        (["--binary", "none"], 2, "none is no program"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(
    arguments: list[object],
    code: int,
    said: str,
    tiny_gguf: Path,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["audit", "--model", tiny_gguf, "--binary", program(), *FEW, *arguments]
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in given])
    out, err = capsys.readouterr()
    assert stop.value.code == code, err
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_server_that_never_starts_exits_with_4(
    tiny_gguf: Path, program: Program, tmp_path: Path
) -> None:
    done = swarm_repro(
        *("audit", "--model", tiny_gguf, "--binary", program("--refused"), *FEW), cwd=tmp_path
    )
    assert done.returncode == 4
    assert "error: no server could be started: llama-server ended while starting" in done.stderr
