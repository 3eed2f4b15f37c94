"""``export`` where inspect-ai is missing, and where the arguments are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, swarm_repro

DEMO = ROOT / "cassettes" / "demo.seed42.jsonl"


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['inspect_ai'] = None\n"
        "from swarm_repro.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "export", str(DEMO)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'swarm-repro[inspect]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "log.json"], "does not end in .eval"),
        (["--out", "folder.eval"], "is a folder"),
        (["--out", "there.eval"], "replace it with --force"),
        (["--format", "csv"], "'csv' is not"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "folder.eval").mkdir()
    (tmp_path / "there.eval").write_text("mine")
    done = swarm_repro("export", DEMO, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert (tmp_path / "there.eval").read_text() == "mine"
