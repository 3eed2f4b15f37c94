"""Replaying the committed cassettes: same bytes anywhere, and every change is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from swarm_repro.cassette.reader import read_cassette
from tests.support.command import ROOT, artifact_bytes, swarm_repro
from tests.support.warm import run_python

SCENARIOS = ["demo", "demo_in_process", "council"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the committed scenarios and cassettes, and nothing else."""
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    shutil.copytree(ROOT / "cassettes", tmp_path / "cassettes")
    return tmp_path


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_committed_cassette_replays_to_its_artifacts(project: Path, name: str) -> None:
    result = swarm_repro(
        "run", f"scenarios/{name}.yaml", "--seed", 42, "--out", "out", "--json", cwd=project
    )
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["called"] == 0
    assert outcome["hits"] == len(
        read_cassette(project / "cassettes" / f"{name}.seed42.jsonl").calls
    )
    assert outcome["artifacts"]["identical"]


def test_any_hash_seed_time_zone_and_folder_gives_the_same_bytes(project: Path) -> None:
    elsewhere = project / "else where"
    elsewhere.mkdir()
    written = []
    for number, (cwd, env) in enumerate(
        [
            (project, {"PYTHONHASHSEED": "0", "TZ": "UTC"}),
            (elsewhere, {"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland"}),
            (project, {"PYTHONHASHSEED": "4242", "TZ": "America/Lima"}),
        ]
    ):
        out = project / f"out{number}"
        result = swarm_repro(
            *("run", project / "scenarios/demo.yaml", "--seed", 42, "--replay", "--out", out),
            *("--cassette", project / "cassettes/demo.seed42.jsonl"),
            cwd=cwd,
            env=env,
        )
        assert result.returncode == 0, result.stderr
        written.append(artifact_bytes(out))
    assert {"history.json", "events.jsonl", "prompts.jsonl"} < written[0].keys()
    assert written[0] == written[1] == written[2]


def test_the_demo_has_agents_that_act() -> None:
    """At least 40 calls by 3 agents, 3 kinds of action, 5 interactions a model proposed or took."""
    cassette = read_cassette(ROOT / "cassettes" / "demo.seed42.jsonl")
    assert len(cassette.calls) >= 40
    assert {call.scope for call in cassette.calls.values()} == {"llm_1", "llm_2", "llm_3"}
    kinds, interactions = set(), 0
    for call in cassette.calls.values():
        answer = json.loads(call.completion.text)
        if call.kind == "act":
            kinds.add(answer["action_type"])
            interactions += answer["action_type"] == "PROPOSE_INTERACTION"
        else:
            interactions += answer["accept"]
    assert len(kinds) >= 3
    assert interactions >= 5


@pytest.mark.parametrize(
    ("arguments", "edit", "shown"),
    [
        (("--seed", "43"), None, "this run has seed 43, the recording has 42"),
        (("--seed", "42", "--epochs", "1"), None, "recorded calls were not played"),
        (
            ("--seed", "42"),
            ("persona: strategic", "persona: strategic\n      system_prompt: You trade fairly."),
            "messages[0].content, character",
        ),
        (
            ("--seed", "42"),
            ("temperature: 0.8", "temperature: 0.7"),
            "temperature: recorded 0.8, asked 0.7",
        ),
        (("--seed", "42"), ("model: smollm2-135m", "model: other"), "knows no model 'other'"),
        (("--seed", "42"), ("strict: true", "strict: false"), "repro settings are not those"),
    ],
)
def test_a_changed_experiment_is_a_miss_that_says_what_changed(
    project: Path, arguments: tuple[str, ...], edit: tuple[str, str] | None, shown: str
) -> None:
    scenario = project / "scenarios" / "demo.yaml"
    if edit is not None:
        text = scenario.read_text()
        assert edit[0] in text
        scenario.write_text(text.replace(*edit))
    result = swarm_repro(
        *("run", scenario, *arguments, "--replay", "--out", "out"),
        *("--cassette", "cassettes/demo.seed42.jsonl"),
        cwd=project,
    )
    assert result.returncode == 3, result.stderr
    assert shown in result.stderr


def test_a_recorded_run_of_another_length_does_not_pass_for_this_one(project: Path) -> None:
    result = swarm_repro(
        *("run", "scenarios/demo.yaml", "--seed", 42, "--steps", 8, "--replay"), cwd=project
    )
    assert result.returncode == 3
    assert "is not in cassettes" in result.stderr


EDITED_METRIC = """\
import sys
import swarm_repro.simulation.swarm as run
original = run._import_swarm

def with_edited_metric():
    main = original()
    from swarm.core.orchestrator import Orchestrator
    compute = Orchestrator._compute_epoch_metrics

    def edited(self):
        metrics = compute(self)
        metrics.toxicity_rate += 0.25
        return metrics

    Orchestrator._compute_epoch_metrics = edited
    return main

run._import_swarm = with_edited_metric
from swarm_repro.cli import main
main(sys.argv[1:])
"""


def run_script(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python(
        ["-c", code, *arguments],
        cwd=cwd,
        environment={**os.environ, "PYTHONHASHSEED": "0"},
        timeout_s=120,
    )


def test_an_edited_metric_is_named_and_can_be_accepted(project: Path) -> None:
    arguments = ("run", "scenarios/demo.yaml", "--seed", "42", "--replay", "--out", "out")
    changed = run_script(EDITED_METRIC, *arguments, cwd=project)
    assert changed.returncode == 1, changed.stderr
    assert "events.jsonl is not what was recorded" in changed.stderr
    assert "toxicity_rate: recorded" in changed.stderr
    assert "history.json is not what was recorded" not in changed.stderr, "it is not edited"
    session = json.loads((project / "out" / "session.json").read_text())
    assert list(session) == [
        "recorder", "scenario", "seed", "mode", "cassette", "exit_code", "hits", "called", "misses",
        "unplayed", "failures", "messages", "usage", "duration_s", "versions",
    ]  # fmt: skip
    assert session["misses"] == 0
    assert session["hits"] >= 40

    accepted = run_script(EDITED_METRIC, *arguments, "--update-artifacts", cwd=project)
    assert accepted.returncode == 0, accepted.stderr
    again = run_script(EDITED_METRIC, *arguments, cwd=project)
    assert again.returncode == 0, again.stderr
    assert "artifacts identical" in again.stdout
    unedited = swarm_repro(*arguments, cwd=project)
    assert unedited.returncode == 1, "the new artifacts are what counts now"


ASYNC = """\
import asyncio, sys
import swarm_repro.simulation.swarm as run
original = run._import_swarm

def with_run_async():
    main = original()
    from swarm.core.orchestrator import Orchestrator
    Orchestrator.run = lambda self: asyncio.run(self.run_async())
    return main

run._import_swarm = with_run_async
from swarm_repro.cli import main
main(sys.argv[1:])
"""


def test_run_async_replays_too_and_a_miss_in_an_accept_call_does_not_accept(
    tmp_path: Path,
) -> None:
    from tests.support.stub_server import running_stub

    def reply(body: dict[str, object]) -> str:
        prompt = str(body["messages"])
        if '"accept"' in prompt:
            return '{"accept": true, "reasoning": "fair"}'
        peer = "llm_2" if "Your ID: llm_1" in prompt else "llm_1"
        params = {"counterparty_id": peer, "interaction_type": "trade", "content": "a trade"}
        return json.dumps({"action_type": "PROPOSE_INTERACTION", "params": params})

    scenario = tmp_path / "s.yaml"
    with running_stub(reply=reply) as stub:
        text = (
            "scenario_id: s\nsimulation: {n_epochs: 1, steps_per_epoch: 2, seed: 7}\n"
            "agents: [{type: honest}, {type: llm, count: 2, llm: {provider: llama_cpp, "
            f"model: stub, base_url: '{stub.base_url}', max_tokens: 64}}}}]\n"
        )
        scenario.write_text(text)
        arguments = ("run", "s.yaml", "--out", "a")
        recorded = run_script(ASYNC, *arguments, "--record", cwd=tmp_path)
        assert recorded.returncode == 0, recorded.stderr
    cassette = read_cassette(tmp_path / "cassettes" / "s.seed7.jsonl")
    kinds = [call.kind for call in cassette.calls.values()]
    assert kinds.count("accept") >= 2
    replayed = run_script(ASYNC, "run", "s.yaml", "--out", "b", cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert artifact_bytes(tmp_path / "a") == artifact_bytes(tmp_path / "b")

    # The reply to a proposal is asked with another rule than was recorded: its call is a miss.
    only_accept = ASYNC.replace(
        "from swarm_repro.cli import main",
        "import swarm_repro.session as s\n"
        "fields_for = s.Session.fields_for\n"
        "def other(self, strict):\n"
        "    kind = s.current_caller().kind\n"
        "    extra = {'top_k': 7} if kind == 'accept' else {}\n"
        "    return {**fields_for(self, strict), **extra}\n"
        "s.Session.fields_for = other\n"
        "from swarm_repro.cli import main",
    )
    missed = run_script(only_accept, "run", "s.yaml", "--out", "c", cwd=tmp_path)
    assert missed.returncode == 3, missed.stderr
    assert "top_k: recorded (absent), asked 7" in missed.stderr
    events = (tmp_path / "c" / "events.jsonl").read_text()
    assert '"interaction_completed"' not in events


@pytest.mark.parametrize("survey", [(), ("--survey",)])
def test_a_replay_that_connects_a_socket_is_refused(survey: tuple[str, ...], project: Path) -> None:
    code = (
        "import sys\n"
        "import swarm_repro.simulation.swarm as run\n"
        "original = run._import_swarm\n"
        "def meddle():\n"
        "    import socket, contextlib\n"
        "    with contextlib.suppress(Exception):\n"
        "        socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "    return original()\n"
        "run._import_swarm = meddle\n"
        "from swarm_repro.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ("run", "scenarios/demo.yaml", "--seed", "42", *survey)
    refused = run_script(code, *arguments, cwd=project)
    assert refused.returncode == 3, refused.stderr
    assert "must not touch the network" in refused.stderr


@pytest.mark.parametrize("survey", [(), ("--survey",)])
def test_damage_that_is_found_during_a_run_ends_it(survey: tuple[str, ...], project: Path) -> None:
    path = project / "cassettes" / "demo.seed42.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    place = [at for at, line in enumerate(lines) if line.startswith(b'{"record":"call"')][20]
    lines[place] = lines[place].replace(b'"kind":"a', b'"kind":"A', 1)
    path.write_bytes(b"".join(lines))
    done = run_script(
        "import sys, swarm_repro.cassette.store as store\n"
        "store.MAPPED_FROM_BYTES = 0  # as for a recording that is too large to be read at once\n"
        "from swarm_repro.cli import main\nmain(sys.argv[1:])",
        *("run", "scenarios/demo.yaml", "--seed", "42", *survey),
        cwd=project,
    )
    assert done.returncode == 5, done.stderr
    assert "swarm-repro check" in done.stderr
    if not survey:
        assert "calls from the cassette" in done.stdout, "it had begun"


def test_a_model_file_that_is_there_can_be_compared(project: Path) -> None:
    other = project / "other.gguf"
    other.write_bytes(b"GGUF, but of another model")
    arguments = ("run", "scenarios/demo.yaml", "--seed", 42, "--replay", "--check-model")
    differs = swarm_repro(*arguments, other, cwd=project)
    assert differs.returncode == 1
    assert "was recorded with gguf b179c9523d0e" in differs.stderr
    (model,) = read_cassette(project / "cassettes" / "demo.seed42.jsonl").models.values()
    digest = cast("list[str]", model.identity.content["files"])[0]
    # The file itself is too large for these tests.
    recorded = f"sys.modules['swarm_repro.simulation.run'].hash_file = lambda path: {digest!r}"
    same = run_script(
        f"import sys, swarm_repro.simulation.run\n{recorded}\n"
        "from swarm_repro.cli import main\nmain(sys.argv[1:])",
        *map(str, (*arguments, other)),
        cwd=project,
    )
    assert same.returncode == 0, same.stderr
    missing = swarm_repro(*arguments, "no.gguf", cwd=project)
    assert missing.returncode == 2
    assert "there is no model at no.gguf" in missing.stderr


def test_the_demo_needs_nothing_but_the_package(tmp_path: Path) -> None:
    result = swarm_repro("demo", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "artifacts identical" in result.stdout
    assert list(tmp_path.iterdir()) == []
