"""Every example, recorded from a real llama-server and replayed without it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.serving.state import StartedServer
from tests.support.command import ROOT, swarm_repro

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
NOWHERE = "http://127.0.0.1:9/v1"
#: Example, the package it needs, options of exec, and how many calls it makes.
PYTHON = [
    ("langchain_chat.py", "langchain_openai", (), 4),
    ("litellm_chat.py", "litellm", (), 3),
    ("agents_sdk.py", "agents", (), 2),
    ("town.py", "openai", ("--tame", "__main__", "--seed-policy", "event", "--seed", "3"), 4),
]


def run(folder: Path, url: str, *arguments: str) -> str:
    env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-secret", "OPENAI_API_BASE": url}
    done = swarm_repro("exec", "c.jsonl", *arguments, cwd=folder, env=env, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("name", "package", "options", "count"), PYTHON, ids=[name for name, *_ in PYTHON]
)
def test_an_example_says_the_same_without_the_model(
    tmp_path: Path,
    llama_server: StartedServer,
    name: str,
    package: str,
    options: tuple[str, ...],
    count: int,
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it is in the extra frameworks")
    program = str(EXAMPLES / name)
    recorded = run(tmp_path, llama_server.base_url, "--record", *options, program)
    assert recorded.strip()
    assert run(tmp_path, NOWHERE, *options, program) == recorded
    assert len(read_cassette(tmp_path / "c.jsonl").calls) == count
    assert b"sk-secret" not in (tmp_path / "c.jsonl").read_bytes()


def test_a_simulator_with_ids_and_dates_needs_taming(
    tmp_path: Path, llama_server: StartedServer
) -> None:
    program = str(EXAMPLES / "town.py")
    run(tmp_path, llama_server.base_url, "--record", program)
    env = {"OPENAI_BASE_URL": NOWHERE, "OPENAI_API_KEY": "none"}
    done = swarm_repro("exec", "c.jsonl", program, cwd=tmp_path, env=env)
    assert done.returncode == 3
    assert "nearest recorded call" in done.stderr


@pytest.fixture(scope="session")
def node_example(pytestconfig: pytest.Config) -> Path:
    """The Node example with its package installed, once."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node.js on this machine")
    folder = Path(pytestconfig.cache.mkdir("node-example"))
    for source in (EXAMPLES / "node").iterdir():
        if source.is_file():
            shutil.copy2(source, folder / source.name)
    if not (folder / "node_modules" / "openai").is_dir():
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=folder,
            check=True,
            timeout=300,
            stdout=sys.stderr,
        )
    return folder / "chat.mjs"


def test_the_node_client_is_recorded_and_replayed_through_the_endpoint(
    tmp_path: Path, llama_server: StartedServer, node_example: Path
) -> None:
    command = ("--", "node", str(node_example))
    recorded = run(tmp_path, llama_server.base_url, "--record", *command)
    assert len(recorded.splitlines()) >= 2
    assert run(tmp_path, NOWHERE, *command) == recorded
    calls = read_cassette(tmp_path / "c.jsonl").calls.values()
    assert [call.scope for call in calls] == ["node", "node"]
    assert b"sk-secret" not in (tmp_path / "c.jsonl").read_bytes()


def test_curl_is_recorded_and_replayed_through_the_endpoint(
    tmp_path: Path, llama_server: StartedServer
) -> None:
    script = """
for stream in false true; do
  curl -sSN "$OPENAI_BASE_URL/chat/completions" -H 'content-type: application/json' -d '{
    "model": "smollm2", "seed": 7, "max_tokens": 8, "stream": '$stream',
    "messages": [{"role": "user", "content": "Name a colour."}]
  }'
done
curl -sS "${OPENAI_BASE_URL%/v1}/tokenize" -d '{"content": "hello"}'
curl -sS "$OPENAI_BASE_URL/models"
"""
    command = ("--", "bash", "-euc", script)
    recorded = run(tmp_path, llama_server.base_url, "--record", *command)
    assert "data: [DONE]" in recorded
    assert '"tokens"' in recorded
    assert run(tmp_path, NOWHERE, *command) == recorded
