"""``swarm-repro model`` and ``swarm-repro server``, as a user or a script calls them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import orjson
import pytest

from swarm_repro.serving.process import identify
from swarm_repro.serving.state import take_inventory
from tests.support.command import swarm_repro as run_command
from tests.support.file_server import BODY, SHA256, FileServer

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]

STAND_IN = """\
#!{python}
import http.server, sys
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"status":"ok","default_generation_settings":{{}}}}')
http.server.HTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
"""


def swarm_repro(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=Path.cwd())


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    """A program with llama-server's flags but without a model; what it became is ended."""
    path = tmp_path / "llama-server"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    yield path
    for server in take_inventory().running:
        swarm_repro("server", "stop", "--port", str(server.port))


def test_a_model_is_pulled_and_its_path_printed(http_server: Serve, tmp_path: Path) -> None:
    url = f"{http_server(FileServer())}/m.gguf"
    for word in ("SHA-256", "was there already"):
        done = swarm_repro("model", "pull", url, "--folder", tmp_path, "--sha256", SHA256)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'm.gguf'}\n"
        assert word in done.stderr
    assert (tmp_path / "m.gguf").read_bytes() == BODY


def test_a_known_model_can_come_from_another_url(http_server: Serve, tmp_path: Path) -> None:
    url = http_server(FileServer(linked_etag=f'"{SHA256}"'))
    done = swarm_repro(
        "model", "pull", "llama-3.2-3b-instruct", "--folder", tmp_path, "--url", f"{url}/x"
    )
    assert done.returncode == 0, done.stderr
    assert "X-Linked-Etag" in done.stderr
    assert (tmp_path / "Llama-3.2-3B-Instruct-Q4_K_M.gguf").read_bytes() == BODY


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["pull", "gpt-5"], 2, "smollm2-135m"),
        (["pull", "http://127.0.0.1:9/m.gguf", "--sha256", SHA256], 4, "127.0.0.1:9"),
        (["hash", "none.gguf"], 2, "no model at none.gguf"),
        (["hash", "."], 2, "folder"),
    ],
)
def test_what_cannot_be_pulled_or_hashed_is_one_line_and_a_code(
    arguments: list[str], code: int, why: str, tmp_path: Path
) -> None:
    folder = ["--folder", str(tmp_path)] if arguments[0] == "pull" else []
    done = swarm_repro("model", *arguments, *folder)
    assert done.returncode == code
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_is_hashed_for_people_and_for_scripts(tiny_gguf: Path) -> None:
    digest = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert swarm_repro("model", "hash", tiny_gguf).stdout == f"{digest}  {tiny_gguf}\n"
    as_json = orjson.loads(swarm_repro("model", "hash", tiny_gguf, "--json").stdout)
    size_bytes = tiny_gguf.stat().st_size
    assert as_json == {"file": str(tiny_gguf), "sha256": digest, "size_bytes": size_bytes}


def test_the_known_models_are_listed() -> None:
    assert "smollm2-135m" in swarm_repro("model", "list").stdout
    names = [model["name"] for model in orjson.loads(swarm_repro("model", "list", "--json").stdout)]
    assert names == ["smollm2-135m", "llama-3.2-3b-instruct"]


def test_a_server_outlives_the_command_that_started_it(program: Path, tiny_gguf: Path) -> None:
    started = swarm_repro(
        *("server", "start", "--model", tiny_gguf, "--binary", program, "--port", "0"),
        *("--threads", "1", "--ctx-size", "100"),
    )
    assert started.returncode == 0, started.stderr
    (status,) = orjson.loads(swarm_repro("server", "status", "--json").stdout)
    assert status["health"] == "ready"
    assert status["argv"][:3] == [str(program), "-m", str(tiny_gguf)]
    assert started.stdout == f"{status['base_url']} is ready: tiny.gguf, profile cpu-strict\n"
    assert str(status["pid"]) in swarm_repro("server", "status").stdout
    stopped = swarm_repro("server", "stop")
    assert stopped.stdout == f"ended process {status['pid']} on port {status['port']}\n"
    assert identify(status["pid"]) is None
    assert orjson.loads(swarm_repro("server", "status", "--json").stdout) == []
    assert swarm_repro("server", "stop").returncode == 2


def test_more_slots_say_what_they_cost(program: Path, tiny_gguf: Path) -> None:
    done = swarm_repro(
        *("server", "start", "--model", tiny_gguf, "--binary", program, "--port", "0"),
        *("--parallel", "4", "--ctx-size", "8192"),
    )
    assert done.returncode == 0, done.stderr
    assert "an answer depends on what else is asked" in done.stderr
    assert "promise of the same bits is void" in done.stderr
    assert "2048 tokens of context" in done.stderr


def test_a_server_that_cannot_start_is_one_line_and_a_code(
    program: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    program.write_text("#!/bin/sh\necho no luck\nexit 1\n")
    done = swarm_repro("server", "start", "--model", tiny_gguf, "--binary", program, "--port", "0")
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1
    assert "no luck" in done.stderr
    missing = swarm_repro("server", "start", "--model", tmp_path / "none.gguf", "--port", "0")
    assert missing.returncode == 2
