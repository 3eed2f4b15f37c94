"""``init``: what it writes, what it leaves alone, and that what it writes works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro import __version__
from swarm_repro.project.init import init_project
from swarm_repro.simulation.scenario import load_scenario
from tests.support.command import swarm_repro
from tests.support.workflow_steps import load, require_sound_steps

FILES = [
    ".gitattributes",
    ".github/workflows/swarm-repro.yml",
    ".gitignore",
    "scenarios/example.yaml",
]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git/" not in str(path)
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def test_a_fresh_project_gets_its_files_and_next_steps(repository: Path) -> None:
    done = swarm_repro("init", cwd=repository)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(files(repository)) == FILES
    assert "swarm-repro run scenarios/example.yaml --record" in done.stdout
    assert 'git config diff.swarm-repro.textconv "swarm-repro textconv"' in done.stdout
    assert (
        'git config merge.swarm-repro.driver "swarm-repro merge %A %A %B --base %O"' in done.stdout
    )


def test_a_second_time_changes_nothing(repository: Path) -> None:
    swarm_repro("init", cwd=repository)
    before = files(repository)
    done = swarm_repro("init", cwd=repository)
    assert done.returncode == 0, done.stderr
    assert files(repository) == before
    assert done.stdout.count("unchanged") == len(FILES)


def test_a_file_that_differs_is_named_and_nothing_is_written(repository: Path) -> None:
    workflow = repository / FILES[1]
    workflow.parent.mkdir(parents=True)
    workflow.write_text("mine\n")
    done = swarm_repro("init", cwd=repository)
    assert done.returncode == 2
    assert FILES[1] in done.stderr
    assert "--force" in done.stderr
    assert files(repository) == {FILES[1]: b"mine\n"}
    assert swarm_repro("init", "--force", cwd=repository).returncode == 0
    assert b"mine" not in workflow.read_bytes()
    assert list(files(repository)) == FILES


def test_attributes_and_ignored_files_are_extended_not_replaced(repository: Path) -> None:
    (repository / ".gitattributes").write_text("*.png binary")
    (repository / ".gitignore").write_text("runs/\n")
    assert "extended   .gitattributes" in swarm_repro("init", cwd=repository).stdout
    attributes = (repository / ".gitattributes").read_text().splitlines()
    assert attributes[0] == "*.png binary"
    assert attributes[-2:] == [
        "cassettes/**/*.jsonl -text diff=swarm-repro merge=swarm-repro",
        "cassettes/**/*.jsonl.zst -text diff=swarm-repro merge=swarm-repro",
    ]
    assert (repository / ".gitignore").read_text().splitlines() == [
        "runs/",
        "models/",
        "*.part",
        "*.part.lock",
    ]


def test_git_reads_the_attributes_as_meant(repository: Path) -> None:
    init_project(repository)
    told = subprocess.run(
        ["git", "check-attr", "text", "diff", "--", "cassettes/a.jsonl", "data/a.jsonl"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert told == [
        "cassettes/a.jsonl: text: unset",
        "cassettes/a.jsonl: diff: swarm-repro",
        "data/a.jsonl: text: unspecified",
        "data/a.jsonl: diff: unspecified",
    ]


def test_outside_a_repository_and_inside_a_folder_of_one_it_says_so(
    tmp_path: Path, repository: Path
) -> None:
    inner = repository / "inner"
    inner.mkdir()
    assert "GitHub reads workflows only there" in swarm_repro("init", cwd=inner).stderr


def test_outside_a_repository_a_note_says_what_to_do(tmp_path: Path) -> None:
    done = swarm_repro("init", "--dir", tmp_path, cwd=Path.home())
    assert done.returncode == 0, done.stderr
    assert "run git init" in done.stderr
    assert list(files(tmp_path)) == FILES


@pytest.mark.parametrize("blocked", ["scenarios", ".github", "scenarios/example.yaml/x"])
def test_what_is_in_the_way_is_named(blocked: str, tmp_path: Path) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    done = swarm_repro("init", cwd=tmp_path)
    assert done.returncode == 2
    assert blocked.partition("/")[0] in done.stderr
    assert "Traceback" not in done.stderr
    missing = swarm_repro("init", "--dir", "nowhere", cwd=tmp_path)
    assert missing.returncode == 2
    assert "nowhere is not a folder" in missing.stderr


def test_the_scenario_loads_and_is_strict(tmp_path: Path) -> None:
    init_project(tmp_path)
    scenario = load_scenario(tmp_path / "scenarios" / "example.yaml")
    assert (scenario.id, scenario.strict, scenario.seed) == ("example", True, 42)
    assert len(scenario.llms) == 2


def test_the_workflow_is_sound(tmp_path: Path) -> None:
    init_project(tmp_path)
    workflow = load(tmp_path / FILES[1])
    assert workflow["permissions"] == {"contents": "read"}
    triggers = workflow[True]
    assert set(triggers) == {"push", "pull_request", "schedule", "workflow_dispatch"}
    assert workflow["env"]["SWARM_REPRO_VERSION"] == __version__
    for job in workflow["jobs"].values():
        require_sound_steps(job["steps"])
        (python,) = [
            step["with"]["python-version"] for step in job["steps"]
            if "setup-python" in str(step.get("uses"))
        ]  # fmt: skip
        assert python == f"{sys.version_info.major}.{sys.version_info.minor}"
    text = (tmp_path / FILES[1]).read_text()
    assert "secrets." not in text
    assert "@VERSION@" not in text
