"""The composite action's and the workflow's steps, run with bash on real cassettes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from swarm_repro.cassette.alter import alter
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.project.init import init_project
from tests.support.command import ROOT, swarm_repro
from tests.support.stub_server import running_stub
from tests.support.workflow_steps import Runner, load, require_sound_steps

ACTION = ROOT / "action.yml"
DRIFT = ROOT / "tests" / "data" / "drift"


def git(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git("add", "-A", cwd=folder)
    git("commit", "-qm", "one", cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project with one committed scenario and cassette."""
    folder = tmp_path / "project"
    (folder / "cassettes").mkdir(parents=True)
    (folder / "scenarios").mkdir()
    git("init", "-q", "-b", "main", cwd=folder)
    shutil.copy(ROOT / "scenarios" / "council.yaml", folder / "scenarios")
    shutil.copy(ROOT / "cassettes" / "council.seed42.jsonl", folder / "cassettes")
    commit(folder)
    return folder


def action_steps() -> dict[str, dict[str, object]]:
    return {step["name"]: step for step in load(ACTION)["runs"]["steps"] if "run" in step}


def runner_of(folder: Path, tmp_path: Path, **inputs: str) -> Runner:
    """A job that uses the action with these inputs, the others at their defaults."""
    defaults = {name: str(i.get("default", "")) for name, i in load(ACTION)["inputs"].items()}
    assert inputs.keys() <= defaults.keys()
    values = {f"inputs.{name}": value for name, value in {**defaults, **inputs}.items()}
    runner = Runner(folder, tmp_path / "runner", values)
    prepared = runner.run(action_steps()["Prepare"])
    assert prepared.returncode == 0, prepared.stderr
    return runner


def replay(runner: Runner, *, base: str = "") -> int:
    """The action's steps on a pull request; the exit code of the replay."""
    runner.values["github.event.pull_request.base.sha"] = base
    done = runner.run(action_steps()["Replay"])
    summarised = runner.run(action_steps()["Summary"])
    assert summarised.returncode == 0, summarised.stderr
    assert runner.summary.endswith(summarised.stdout)
    return done.returncode


def test_the_action_is_sound() -> None:
    action = load(ACTION)
    assert action["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "outputs", "runs"} == set(action)
    for given in action["inputs"].values():
        assert set(given) == {"description", "default"}
    for step in action["runs"]["steps"]:
        assert "run" not in step or step["shell"] == "bash"
    require_sound_steps(action["runs"]["steps"])
    assert "secrets." not in ACTION.read_text()


def test_a_replay_is_green_and_leaves_the_project_as_it_was(
    repository: Path, tmp_path: Path
) -> None:
    runner = runner_of(repository, tmp_path)
    assert replay(runner, base=git("rev-parse", "HEAD", cwd=repository)) == 0
    assert "passed" in runner.summary
    assert "| 28 + 0 |" in runner.summary
    assert "identical" in runner.summary
    assert git("status", "--short", cwd=repository) == ""


def test_a_changed_cassette_on_a_branch_shows_its_root(repository: Path, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD", cwd=repository)
    git("checkout", "-qb", "branch", cwd=repository)
    path = repository / "cassettes" / "council.seed42.jsonl"
    call = list(read_cassette(path).calls)[3]
    alter(path, tmp_path / "altered.jsonl", call=call, text="ALTERED | <b>here</b>")
    shutil.copy(tmp_path / "altered.jsonl", path)
    commit(repository)
    runner = runner_of(repository, tmp_path)
    assert replay(runner, base=base) != 0
    page = runner.summary
    assert "cassettes&#47;council&#46;seed42&#46;jsonl" in page
    assert "Where they part" in page
    assert page.count("\n| root | ") == 1
    assert "ALTERED &#124; &#60;b&#62;here" in page
    assert "Changed completions" in page
    assert "**failed**" in page


def test_an_unplayed_scenario_fails_and_says_why(repository: Path, tmp_path: Path) -> None:
    scenario = repository / "scenarios" / "council.yaml"
    scenario.write_text(scenario.read_text().replace("temperature: 0.8", "temperature: 0.7"))
    runner = runner_of(repository, tmp_path)
    assert replay(runner) == 3
    assert "**failed**, exit code 3" in runner.summary
    assert "temperature" in runner.summary


def test_inputs_reach_the_command_and_cannot_reach_the_shell(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "my scenarios").mkdir()
    shutil.move(repository / "scenarios" / "council.yaml", repository / "my scenarios" / "a b.yaml")
    shutil.move(repository / "cassettes" / "council.seed42.jsonl", repository / "x y.jsonl")
    runner = runner_of(
        repository, tmp_path, scenario="my scenarios/*.yaml\n\n", seed="42", cassette="x y.jsonl"
    )
    assert replay(runner) == 0
    hostile = 'x"; touch owned; $(touch owned) `touch owned`'
    runner = runner_of(
        repository, tmp_path, scenario=f"{hostile}\n{hostile}*", seed="--help", cassettes=hostile
    )
    assert replay(runner, base=git("rev-parse", "HEAD", cwd=repository)) == 2
    told = runner.results["Replay"].stderr
    assert "no scenario matches" in told
    assert "'--help' is not a valid integer" in told
    assert "The command printed no report" in runner.summary
    assert not (repository / "owned").exists()


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    runner = Runner(tmp_path, tmp_path / "runner", {"inputs.mode": "::set-env::"})
    done = runner.run(action_steps()["Prepare"])
    assert (done.returncode, done.stdout) == (2, "::error::mode must be replay or verify\n")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, ["install", "--disable-pip-version-check", f"{ROOT}[swarm]"]),
        (
            {"version": "0.1.0"},
            ["install", "--disable-pip-version-check", "swarm-repro[swarm]==0.1.0"],
        ),
        (
            {"version": "git+https://x.example/r@v1", "mode": "verify", "constraints": "a b.lock"},
            [
                "install", "--disable-pip-version-check", "--constraint", "a b.lock",
                "swarm-repro[server] @ git+https://x.example/r@v1",
            ],
        ),
    ],
)  # fmt: skip
def test_pip_is_asked_for_what_was_named(
    inputs: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    runner = runner_of(tmp_path, tmp_path, **inputs)
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    runner.env["PATH"] = f"{stand_in.parent}:/usr/bin:/bin"
    done = runner.run(action_steps()["Install"])
    assert done.stdout.splitlines() == ["-m", "pip", *expected]


def test_a_shallow_checkout_fetches_what_it_compares_with(repository: Path, tmp_path: Path) -> None:
    base = git("rev-parse", "HEAD", cwd=repository)
    git("checkout", "-qb", "branch", cwd=repository)
    shutil.copy(DRIFT / "base.jsonl", repository / "cassettes" / "new.jsonl")
    commit(repository)
    clone = tmp_path / "clone"
    git("clone", "-q", "--depth=1", "-b", "branch", f"file://{repository}", clone, cwd=tmp_path)
    runner = runner_of(clone, tmp_path)
    replay(runner, base=base)
    assert "A new cassette, of 12 calls" in runner.summary
    replay(runner, base="1" * 40)
    assert "fetch&#45;depth" in runner.summary


def test_what_init_writes_runs_from_record_to_replay(tmp_path: Path) -> None:
    """Recorded from a stand-in server, then replayed by the workflow's own steps."""
    project = tmp_path / "project"
    project.mkdir()
    git("init", "-q", "-b", "main", cwd=project)
    init_project(project)
    scenario = project / "scenarios" / "example.yaml"
    with running_stub() as stub:
        text = scenario.read_text().replace("localhost:8080", f"localhost:{stub.port}")
        scenario.write_text(text.replace("strict: true", "strict: false"))
        recorded = swarm_repro("run", scenario, "--record", cwd=project)
        assert recorded.returncode == 0, recorded.stderr
    base = commit(project)
    workflow = load(project / ".github" / "workflows" / "swarm-repro.yml")
    steps = {s["name"]: s for s in workflow["jobs"]["replay"]["steps"] if "run" in s}
    runner = Runner(project, tmp_path / "runner", {"github.event.before": base})
    assert runner.run(steps["Replay"]).returncode == 0, runner.results["Replay"].stderr
    summarised = runner.run(steps["Summary"])
    assert summarised.returncode == 0, summarised.stderr
    assert "example" in runner.summary
    assert "passed" in runner.summary
    report = json.loads((runner.temp / "reports" / "example.yaml.json").read_text())
    assert report["called"] == 0
    assert report["hits"] > 4


@pytest.mark.slow
def test_verify_asks_a_live_model_and_stops_it(
    repository: Path, tmp_path: Path, model_path: Path
) -> None:
    shutil.copy(DRIFT / "base.jsonl", repository / "cassettes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runner = runner_of(
        repository, tmp_path, mode="verify", cassettes="cassettes/b*.jsonl", model=str(model_path)
    )
    step = dict(action_steps()["Verify"])
    script = str(step["run"]).replace("localhost:8080", f"localhost:{port}")
    step["run"] = script.replace("server start", f"server start --threads 1 --port {port}")
    assert script != step["run"]
    verified = runner.run(step)
    stop = dict(action_steps()["Stop the server"])
    stop["run"] = str(stop["run"]).replace("8080", str(port))
    stopped = runner.run(stop)
    runner.run(action_steps()["Summary"])
    assert verified.returncode in (0, 1), verified.stderr
    assert "**verify:** " in runner.summary
    assert "### <code>base&#46;jsonl</code>" in runner.summary
    assert "each asked 1 x" in runner.summary
    assert f"on port {port}" in stopped.stdout
