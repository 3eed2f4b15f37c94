"""``swarm-repro server``, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.serving import llama_server
from swarm_repro.serving.llama_server import StoppedServer
from swarm_repro.serving.state import StartedServer, record_path, write_record
from tests.support.server_records import ended_server, this_process_as_a_server
from tests.support.stub_server import running_stub
from tests.support.terminal import on_a_terminal, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each start; no server really starts."""
    given: list[dict[str, Any]] = []

    def start(model: Path, *, on_wait: Callable[[float], None], **more: Any) -> StartedServer:
        on_wait(2.4)
        given.append({"model": model, **more})
        return replace(this_process_as_a_server(8123), dropped_variables=more.get("dropped", ()))

    monkeypatch.setattr(llama_server, "start", start)
    return given


def test_a_server_is_started_with_the_defaults(
    starts: list[dict[str, Any]], capsys: Capture
) -> None:
    done = run(capsys, "server", "start", "--model", "m.gguf")
    pid = this_process_as_a_server(1).pid
    assert done.code == 0
    assert done.out == "http://127.0.0.1:8123/v1 is ready: m.gguf, profile cpu-strict\n"
    assert done.err == (
        f"process {pid}, log /logs/8080.log; end it with `swarm-repro server stop --port 8123`\n"
    )
    assert starts == [
        {
            "model": Path("m.gguf"),
            "profile": "cpu-strict",
            "host": "127.0.0.1",
            "port": 8080,
            "threads": None,
            "n_ctx": 8192,
            "parallel": 1,
            "binary": None,
            "extra_flags": (),
        }
    ]


def test_a_server_is_started_with_all_that_is_given(
    starts: list[dict[str, Any]], capsys: Capture
) -> None:
    done = run(
        capsys,
        *("server", "start", "--model", "m.gguf", "--profile", "metal-1slot", "--port", "9"),
        *("--host", "::1", "--threads", "2", "--ctx-size", "100", "--parallel", "3"),
        *("--binary", "llama", "--", "--jinja", "-v"),
    )
    assert starts == [
        {
            "model": Path("m.gguf"),
            "profile": "metal-1slot",
            "host": "::1",
            "port": 9,
            "threads": 2,
            "n_ctx": 100,
            "parallel": 3,
            "binary": Path("llama"),
            "extra_flags": ("--jinja", "-v"),
        }
    ]
    assert done.err.splitlines()[0] == (
        "note: with 3 slots an answer depends on what else is asked at the time; each slot has 33"
        " tokens of context, longer requests fail"
    )
    assert len(done.err.splitlines()) == 2


def test_several_slots_break_the_strict_profiles_promise(
    starts: list[dict[str, Any]], capsys: Capture
) -> None:
    done = run(capsys, "server", "start", "--model", "m.gguf", "--parallel", "2")
    assert done.err.splitlines()[0] == (
        "note: with 2 slots an answer depends on what else is asked at the time, and the profile's"
        " promise of the same bits is void; each slot has 4096 tokens of context, longer requests"
        " fail"
    )


@pytest.mark.parametrize(
    ("host", "noted"),
    [
        *((name, False) for name in ("127.0.0.1", "::1", "localhost")),
        *((name, True) for name in ("0.0.0.0", "10.0.0.1")),
    ],
)
def test_a_server_reachable_from_outside_is_a_warning(
    host: str, noted: bool, starts: list[dict[str, Any]], capsys: Capture
) -> None:
    done = run(capsys, "server", "start", "--model", "m.gguf", "--host", host)
    note = f"note: {host} is not loopback; whoever can reach it can use the model"
    assert (note in done.err.splitlines()) is noted


def test_variables_that_were_kept_from_the_server_are_named(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = replace(this_process_as_a_server(8123), dropped_variables=("LLAMA_A", "LLAMA_B"))
    monkeypatch.setattr(llama_server, "start", lambda *_given, **_more: server)
    done = run(capsys, "server", "start", "--model", "m.gguf")
    assert done.err.splitlines()[0] == (
        "note: kept from the server, which has the flags of its profile: LLAMA_A, LLAMA_B"
    )


def test_a_terminal_shows_how_long_the_model_has_been_loading(
    starts: list[dict[str, Any]], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert run(capsys, "server", "start", "--model", "m.gguf").code == 0
    assert "loading the model, 2 s of at most 300" in terminal.text


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_server_is_named(
    killed: bool, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = this_process_as_a_server(8123)
    ports: list[int | None] = []

    def stop(*, port: int | None) -> StoppedServer:
        ports.append(port)
        return StoppedServer(server=server, killed=killed)

    monkeypatch.setattr(llama_server, "stop", stop)
    how = " (it did not end by itself and was killed)" if killed else ""
    done = run(capsys, "server", "stop", "--port", "8123")
    assert (done.code, done.out) == (0, f"ended process {server.pid} on port 8123{how}\n")
    run(capsys, "server", "stop")
    assert ports == [8123, None]


def test_ended_servers_are_noted_by_stop_and_by_status(capsys: Capture) -> None:
    for command, code in (("stop", 2), ("status", 0)):
        write_record(ended_server(70))
        done = run(capsys, "server", command)
        assert done.code == code
        assert done.err.splitlines()[0] == (
            f"note: removed the record of process {os.getpid()} on port 70, which has ended; its"
            " log is /logs/8080.log"
        )
        assert not record_path(70).exists()


def test_the_status_of_no_server_says_so(capsys: Capture) -> None:
    done = run(capsys, "server", "status")
    assert (done.code, done.err) == (0, "")
    assert done.out == "no server that swarm-repro started is running\n"
    assert run(capsys, "server", "status", "--json").out == "[]\n"


def test_the_status_of_servers_for_people_and_for_scripts(capsys: Capture) -> None:
    with running_stub() as ready, running_stub(loading=10**6) as loading:
        servers = [this_process_as_a_server(one.port) for one in (ready, loading)]
        for server in servers:
            write_record(server)
        states = sorted([(ready.port, "ready"), (loading.port, "loading")])
        done = run(capsys, "server", "status")
        as_json = run(capsys, "server", "status", "--json")
    pid = servers[0].pid
    assert done.out.splitlines() == [
        f"http://127.0.0.1:{port}/v1  {state}  m.gguf  profile cpu-strict  process {pid}"
        "  log /logs/8080.log"
        for port, state in states
    ]
    assert json.loads(as_json.out) == [
        {
            "base_url": f"http://127.0.0.1:{port}/v1",
            "health": state,
            "host": "127.0.0.1",
            "port": port,
            "pid": pid,
            "model_path": "/models/m.gguf",
            "profile": "cpu-strict",
            "origin": "PATH",
            "argv": ["llama-server", "-np", "1"],
            "log_path": "/logs/8080.log",
        }
        for port, state in states
    ]
