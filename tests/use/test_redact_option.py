"""``--redact``: a function of the user's own, for every command that stores what models say."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.command import swarm_repro
from tests.support.stub_server import StubServer, running_stub
from tests.support.studies import write_scenario, write_study

NAME = "Ada Lovelace"
RULES = f"""\
def hide(text):
    return text.replace({NAME!r}, "[name]")


def broken(text):
    return text.index("what is in no text")


limit = 3
"""
PROGRAM = """\
import sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
answer = client.chat.completions.create(
    model="stub", messages=[{"role": "user", "content": "Who wrote to Ada Lovelace?"}]
)
print(answer.choices[0].message.content)
"""
HIDE = ("--redact", "rules:hide")


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub(reply=lambda _body: f"It was {NAME} herself.") as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, stub: StubServer) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "ruined.py").write_text("import no_such_module\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    write_scenario(tmp_path, stub.base_url)
    return tmp_path


def run(
    project: Path, *words: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = swarm_repro(*words, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    return done


def stored(project: Path) -> str:
    """All that is under the folder's cassettes."""
    found = [path.read_text() for path in project.rglob("*.jsonl") if "runs" not in path.parts]
    assert found
    assert all(NAME not in text for text in found)
    assert any("[name]" in text for text in found)
    return "".join(found)


def test_exec_stores_what_it_gives_and_the_replay_finds_it(project: Path, stub: StubServer) -> None:
    recorded = run(project, "exec", "c.jsonl", "--record", *HIDE, "program.py", stub.base_url)
    assert recorded.stdout == "It was [name] herself.\n"
    assert "own rule" in recorded.stderr
    replayed = run(project, "exec", "c.jsonl", "program.py", stub.base_url)
    assert replayed.stdout == recorded.stdout
    assert "Who wrote to [name]?" in stored(project)


def test_a_command_beside_the_endpoint(project: Path, stub: StubServer) -> None:
    words = ("--", sys.executable, "-c", PROGRAM.replace("base_url=sys.argv[1], ", ""))
    upstream = ("--upstream", stub.base_url)
    recorded = run(project, "exec", "c.jsonl", "--record", *HIDE, *upstream, *words)
    assert recorded.stdout == "It was [name] herself.\n"
    assert stored(project)


def test_the_endpoint(project: Path, stub: StubServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "swarm_repro", "serve", "c.jsonl", "--record", *HIDE]
    with subprocess.Popen(
        [*command, "--port", str(port), "--upstream", stub.base_url],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": f"I am {NAME}."}]
            )
        server.terminate()
        assert server.wait(30) == 0
    assert "[name] herself" in str(answer.choices[0].message.content)
    assert "I am [name]." in stored(project)


def test_a_run(project: Path) -> None:
    run(project, "run", "scenario.yaml", "--record", *HIDE, "--out", "a")
    run(project, "run", "scenario.yaml", "--out", "b")
    assert stored(project)


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_study_on_its_workers(engine: str, project: Path) -> None:
    write_study(project)
    arguments = ("study", "run", "study.yaml", "--record", "--engine", engine, "--workers", 1)
    run(project, *arguments, *HIDE, env={"PYTHONHASHSEED": ""})
    assert stored(project)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rules", "name a function as MODULE:FUNCTION"),
        (":hide", "name a function as MODULE:FUNCTION"),
        ("rules:", "name a function as MODULE:FUNCTION"),
        ("rulez:hide", "rulez cannot be imported: ModuleNotFoundError"),
        ("ruined:hide", "ruined cannot be imported: ModuleNotFoundError"),
        ("rules:hidden", "rules has no function hidden"),
        ("rules:limit", "rules has no function limit"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("run", "scenario.yaml", "--record"),
        ("exec", "c.jsonl", "--record", "program.py"),
        ("serve", "c.jsonl", "--record"),
        ("study", "run", "study.yaml", "--record"),
    ],
    ids=lambda command: command[0],
)
def test_a_name_that_names_no_function(
    command: tuple[str, ...], name: str, shown: str, project: Path
) -> None:
    write_study(project)
    place = 2 if command[0] != "study" else 3
    done = swarm_repro(*command[:place], "--redact", name, *command[place:], cwd=project)
    assert done.returncode == 2, done.stderr
    assert f"--redact {name}: {shown}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(project.rglob("*.jsonl*"))


@pytest.mark.parametrize(
    "command",
    [("run", "scenario.yaml", "--record"), ("exec", "c.jsonl", "--record", "program.py", "URL")],
    ids=lambda command: command[0],
)
def test_a_function_that_fails_stores_nothing(
    command: tuple[str, ...], project: Path, stub: StubServer
) -> None:
    words = [stub.base_url if word == "URL" else word for word in command]
    done = swarm_repro(*words[:2], "--redact", "rules:broken", *words[2:], cwd=project)
    assert done.returncode == 2, done.stderr
    assert "redact" in done.stderr
    assert not list(project.rglob("cassettes/*.jsonl"))
    assert not (project / "c.jsonl").exists()
