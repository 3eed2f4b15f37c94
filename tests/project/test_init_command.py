"""``swarm-repro init``: its output, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.cli import main

Call = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line in this process; gives its exit code and what it printed."""

    def called(*arguments: object) -> tuple[int, list[str], str]:
        with pytest.raises(SystemExit) as stop:
            main(["init", *map(str, arguments)])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out.splitlines(), said.err

    return called


NEXT = [
    "",
    "Next:",
    "  swarm-repro model pull smollm2-135m",
    ("  swarm-repro server start --model models/SmolLM2-135M-Instruct.Q4_1.gguf "
    "--profile cpu-strict"),
    "  swarm-repro run scenarios/example.yaml --record",
    "  git add .gitattributes .gitignore .github scenarios cassettes",
    "and once in each clone, so that git shows cassettes and merges them:",
    '  git config diff.swarm-repro.textconv "swarm-repro textconv"',
    '  git config merge.swarm-repro.driver "swarm-repro merge %A %A %B --base %O"',
]  # fmt: skip


def test_every_file_is_listed_with_its_outcome(call: Call, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    code, out, err = call("--dir", tmp_path)
    assert code == 0
    assert sorted(out[:4]) == [
        "extended   .gitignore",
        "written    .gitattributes",
        "written    .github/workflows/swarm-repro.yml",
        "written    scenarios/example.yaml",
    ]
    assert [line.split()[0] for line in out[:4]] == ["written"] * 3 + ["extended"]
    assert out[4:] == NEXT
    assert err.startswith("note: ")
    code, out, _ = call("--dir", tmp_path)
    assert code == 0
    assert {line.split()[0] for line in out[:4]} == {"unchanged"}
    assert "unchanged  .gitignore" in out


def test_the_folder_is_this_one_unless_another_is_named(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call()[0] == 0
    assert Path("scenarios/example.yaml").is_file()


def test_differing_files_are_replaced_only_with_force(call: Call, tmp_path: Path) -> None:
    scenario = tmp_path / "scenarios" / "example.yaml"
    scenario.parent.mkdir()
    scenario.write_text("mine")
    code, out, err = call("--dir", tmp_path)
    assert (code, out) == (2, [])
    assert err.startswith("error: scenarios/example.yaml is there already")
    assert scenario.read_text() == "mine"
    code, out, _ = call("--dir", tmp_path, "--force")
    assert code == 0
    assert "written    scenarios/example.yaml" in out
    assert scenario.read_text() != "mine"
