"""Records of servers, and reports on them."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import orjson
import platformdirs
import pytest

from swarm_repro.errors import BackendError, SwarmReproError, UsageError
from swarm_repro.serving import llama_server, process
from swarm_repro.serving.binaries import ServerBinary, find_llama_server
from swarm_repro.serving.download import Fetched
from swarm_repro.serving.health import Probe
from swarm_repro.serving.llama_server import StoppedServer, running_server, start, stop
from swarm_repro.serving.models import KnownModel, WheelSource
from swarm_repro.serving.probe_http import Address
from swarm_repro.serving.process import ProcessIdentity, end, identify
from swarm_repro.serving.profiles import CPU_STRICT, METAL_1SLOT, Profile
from swarm_repro.serving.state import (
    Inventory,
    StartedServer,
    find_started_server,
    reachable_host,
    read_record,
    record_path,
    state_folder,
    take_inventory,
    url_host,
    verified_process,
    write_record,
)
from tests.support.server_records import this_process_as_a_server

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


def this_process(port: int = 8080, **others: Any) -> StartedServer:
    """The record of a server, with this process in its place."""
    known = {
        "files": (Path("/bin/llama-server"), Path("/lib/libllama.so")),
        "variables": {"GGML_A": "1"},
        "dropped_variables": ("LLAMA_ARG_X",),
    }
    return this_process_as_a_server(port, **{**known, **others})


# --- Records.


def test_a_record_is_read_as_it_was_written() -> None:
    server = this_process()
    write_record(server)
    path = state_folder() / "8080.json"
    assert path == record_path(8080)
    assert read_record(path) == server
    assert orjson.loads(path.read_bytes())["format"] == 1
    assert [file.name for file in state_folder().iterdir()] == ["8080.json"]
    changed = replace(server, ready=False, profile="metal-1slot")
    write_record(changed)
    assert read_record(path) == changed


@pytest.mark.parametrize("name", sorted(StartedServer.__dataclass_fields__))
def test_an_incomplete_record_is_ignored(name: str) -> None:
    write_record(this_process())
    content = orjson.loads(record_path(8080).read_bytes())
    del content[name]
    record_path(8080).write_bytes(orjson.dumps(content))
    assert read_record(record_path(8080)) is None


@pytest.mark.parametrize(
    "changed", [{"pid": "many"}, {"argv": 1}, {"more": 1}, {"format": 2}, {"model_path": None}]
)
def test_a_record_of_another_shape_is_ignored(changed: dict[str, object]) -> None:
    write_record(this_process())
    content = {**orjson.loads(record_path(8080).read_bytes()), **changed}
    record_path(8080).write_bytes(orjson.dumps(content))
    assert read_record(record_path(8080)) is None


def test_a_missing_record_is_none() -> None:
    assert read_record(record_path(8080)) is None
    assert find_started_server(8080) is None
    assert take_inventory() == Inventory(running=(), cleaned=())


def test_an_unwritable_record_is_named_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record_path(8080).mkdir()
    with pytest.raises(UsageError, match=f"^cannot write {record_path(8080)}: "):
        write_record(this_process())
    assert [file.name for file in state_folder().iterdir()] == ["8080.json"]


def test_a_record_under_the_name_of_another_port_is_not_believed() -> None:
    write_record(this_process(8080))
    record_path(8080).rename(record_path(8081))
    assert find_started_server(8081) is None


@pytest.mark.parametrize(
    ("ready", "changed", "found"),
    [
        (True, {}, True),
        (True, {"started": "before"}, False),
        (True, {"command": "another"}, False),
        # A wrapper's command line moves until it serves.
        (False, {"command": "another"}, True),
        (False, {"started": "before"}, False),
        (True, {"pid": 2**22 + 1}, False),
    ],
)
def test_a_record_is_believed_while_its_process_is_the_one_that_was_started(
    ready: bool, changed: dict[str, Any], found: bool
) -> None:
    server = this_process(ready=ready, **changed)
    write_record(server)
    assert (verified_process(server) == identify(os.getpid())) is found
    assert (find_started_server(8080) == server) is found


def test_servers_are_listed_by_port_and_ended_ones_removed() -> None:
    servers = [this_process(port) for port in (10000, 9000, 80)]
    for server in servers:
        write_record(server)
    write_record(this_process(70, started="before"))
    inventory = take_inventory()
    assert inventory.running == tuple(reversed(servers))
    assert inventory.cleaned == (
        (
            f"removed the record of process {os.getpid()} on port 70, which has ended; its log is"
            " /logs/8080.log"
        ),
    )
    assert not record_path(70).exists()
    assert record_path(80).exists()


def test_the_folder_is_the_users_unless_the_variable_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", "mine")
    assert state_folder() == tmp_path / "mine" / "servers"
    assert (tmp_path / "mine" / "servers").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("SWARM_REPRO_STATE_DIR")
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda name: tmp_path / "user" / name)
    assert state_folder() == tmp_path / "user" / "swarm_repro" / "servers"


def test_a_folder_that_cannot_be_created_is_named_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError) as raised:
        state_folder()
    assert str(raised.value) == (
        f"cannot make {tmp_path}/file/servers: {os.strerror(errno.ENOTDIR)}; name another folder in"
        " SWARM_REPRO_STATE_DIR"
    )


@pytest.mark.parametrize(
    ("host", "reachable", "url"),
    [
        ("0.0.0.0", "127.0.0.1", "http://127.0.0.1:9"),
        ("", "127.0.0.1", "http://127.0.0.1:9"),
        ("::", "::1", "http://[::1]:9"),
        ("::1", "::1", "http://[::1]:9"),
        ("localhost", "localhost", "http://localhost:9"),
        ("10.0.0.7", "10.0.0.7", "http://10.0.0.7:9"),
    ],
)
def test_a_server_on_all_addresses_is_reached_on_the_loopback(
    host: str, reachable: str, url: str
) -> None:
    assert reachable_host(host) == reachable
    assert f"http://{url_host(host)}:9" == url
    server = this_process(9, host=host)
    assert (server.root_url, server.base_url) == (url, f"{url}/v1")


@pytest.mark.parametrize(
    ("flags", "declared"),
    [
        ((), ()),
        (("-np", "1", "-m", "m.gguf"), ()),
        (("--mmproj", "p.gguf", "-np", "1"), ("--mmproj=p.gguf",)),
        (("-mm", "p.gguf"), ("-mm=p.gguf",)),
        (("--lora", "a.gguf"), ("--lora=a.gguf",)),
        (("--lora-scaled", "b.gguf:2"), ("--lora-scaled=b.gguf:2",)),
        (("--control-vector", "c.gguf"), ("--control-vector=c.gguf",)),
        (("--model-draft", "d.gguf"), ("--model-draft=d.gguf",)),
        (("-md", "d.gguf"), ("-md=d.gguf",)),
        (("--spec-type", "ngram", "--draft-max", "4"), ("--spec-type=ngram", "--draft-max=4")),
        (("--rope-scale=2", "-np", "1"), ("--rope-scale=2",)),
        (("--rope-freq-base", "-1"), ("--rope-freq-base=-1",)),
        (("--yarn-orig-ctx", "4"), ("--yarn-orig-ctx=4",)),
        (("--override-kv", "a=int:1"), ("--override-kv=a=int:1",)),
        (("-gan", "2", "-gaw", "4", "--grp-attn-n", "2"), ("-gan=2", "-gaw=4", "--grp-attn-n=2")),
        (("--no-mmproj", "--mmproj", "--no-warmup"), ("--mmproj",)),
        (("--mmproj",), ("--mmproj",)),
        (("--mmproj", "-"), ("--mmproj",)),
    ],
)  # fmt: skip
def test_flags_that_change_the_model_are_reported_with_their_values(
    flags: tuple[str, ...], declared: tuple[str, ...]
) -> None:
    assert this_process(flags=flags).declared_overrides == declared


# --- Starting and stopping, as far as it goes without a server.


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_an_invalid_port_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    for port in (-1, 65536):
        with pytest.raises(UsageError) as raised:
            start(tiny_gguf, port=port, binary=program)
        assert str(raised.value) == f"port {port} is out of range; give one from 1 to 65535"


def test_a_start_that_is_under_way_is_not_joined(tiny_gguf: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with listener() as sock:
        port = sock.getsockname()[1]
    with llama_server._sole_start(port):
        with pytest.raises(UsageError) as raised:
            start(tiny_gguf, port=port, binary=program)
        assert str(raised.value) == (
            f"another start on port {port} is under way; wait for it, or give another --port"
        )
    with pytest.raises(BackendError, match="exit code 3"):
        start(tiny_gguf, port=port, binary=program)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "llama-server ended while starting, exit code 3; its log LOG is empty"),
        ("kill -9 $$", "llama-server ended while starting, signal 9; its log LOG is empty"),
        (
            "echo one; echo; echo ' two '; echo three; echo four; echo five; exit 1",
            (
                "llama-server ended while starting, exit code 1; its log LOG ends:"
                " two | three | four | five"
            ),
        ),
        (
            f"echo {'x' * 300}; echo end; exit 1",
            f"llama-server ended while starting, exit code 1; its log LOG ends: {'x' * 200} | end",
        ),
    ],
)
def test_an_ended_server_is_reported_with_the_last_four_lines_of_its_log(
    script: str, said: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with listener() as sock:
        port = sock.getsockname()[1]
    with pytest.raises(BackendError) as raised:
        start(tiny_gguf, port=port, binary=program)
    assert str(raised.value) == said.replace("LOG", str(state_folder() / f"{port}.log"))
    assert not record_path(port).exists()


def test_a_program_that_cannot_be_run_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/nowhere/sh\n")
    program.chmod(0o755)
    with pytest.raises(BackendError) as raised:
        start(tiny_gguf, port=0, binary=program)
    assert str(raised.value) == f"{program} cannot be started: {os.strerror(errno.ENOENT)}"


def test_another_server_at_the_address_ends_the_start(
    http_server: Serve, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    url = http_server(lambda handler: handler.send_error(404))
    port = int(url.rsplit(":", 1)[1])
    # As if the other program had taken the port just after it was found free.
    monkeypatch.setattr(llama_server, "_require_free_port", lambda _host, _port: None)
    with pytest.raises(BackendError) as raised:
        start(tiny_gguf, port=port, binary=program)
    assert str(raised.value) == (
        f"what answers at {url} is no usable llama-server: /health answered 404 without"
        ' llama-server\'s {"status":"ok"}'
    )


def test_a_forbidden_port_is_named(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)

    class Forbidden(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(UsageError) as raised:
        start(tiny_gguf, port=81, binary=program)
    assert str(raised.value) == (
        f"cannot listen on 127.0.0.1 port 81: {os.strerror(errno.EACCES)}; give another --host or"
        " --port"
    )


def test_a_host_of_another_machine_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(UsageError, match=r"^cannot listen on no\.invalid: .*; give another --host"):
        start(tiny_gguf, host="no.invalid", port=0, binary=program)
    with pytest.raises(UsageError, match=r"^cannot listen on 192\.0\.2\.1 port 0: "):
        start(tiny_gguf, host="192.0.2.1", port=0, binary=program)


def test_stopping_a_foreign_server_names_it(http_server: Serve) -> None:
    with listener() as sock:
        free = sock.getsockname()[1]
    other = int(http_server(lambda handler: handler.send_error(404)).rsplit(":", 1)[1])
    begin = "no server on port {} was started by swarm-repro, so none is stopped; "
    for port, who in (
        (free, "nothing listens there"),
        (other, "another program listens there; give another --port"),
    ):
        with pytest.raises(UsageError) as raised:
            stop(port=port)
        assert str(raised.value) == begin.format(port) + who


def test_stopping_needs_a_port_where_several_run_and_names_them() -> None:
    write_record(this_process(9000))
    write_record(this_process(10000))
    with pytest.raises(UsageError) as raised:
        stop()
    assert (
        str(raised.value) == "servers run on ports 9000, 10000; say which one to stop with --port"
    )
    with pytest.raises(UsageError, match=r"^no server on port 80 was started"):
        stop(port=80)


# --- Processes.


@pytest.mark.parametrize(
    ("stat", "identity"),
    [
        ("7 (a b) c) S " + " ".join("x" * 18) + " 555 more", "boot 555"),
        ("7 (a) Z " + " ".join("x" * 18) + " 555 more", None),
        ("7 (a) X " + " ".join("x" * 18) + " 555 more", None),
    ],
)
def test_a_process_is_read_from_proc(
    stat: str, identity: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("self", "7", "sys/kernel/random"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "self/stat").write_text("")
    (tmp_path / "7/stat").write_text(stat)
    (tmp_path / "7/cmdline").write_bytes(b"llama-server\0-m\0a b\0\0")
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    monkeypatch.setattr(process, "_PROC", tmp_path)
    expected = identity and ProcessIdentity(pid=7, started=identity, command="llama-server -m a b")
    assert identify(7) == (expected or None)
    assert identify(8) is None
    assert identify(0) is None
    assert identify(-7) is None


def test_without_a_way_to_list_processes_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)

    def no_ps(*_arguments: object, **_more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_ps)
    with pytest.raises(SwarmReproError) as raised:
        identify(7)
    assert str(raised.value) == ("cannot tell which processes run: there is neither /proc nor ps")


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["Ss\n", "Mon Jan 1\n", "llama-server -m x\n"], True),
        (["Z+\n", "Mon Jan 1\n", "llama-server -m x\n"], False),
        (["Ss\n", None, None], False),
        ([None], False),
    ],
)
def test_a_process_is_read_from_ps(
    answers: list[str | None], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)
    asked: list[list[str]] = []

    class Answer:
        def __init__(self, said: str | None) -> None:
            self.returncode = 1 if said is None else 0
            self.stdout = (said or "").encode()

    def ps(command: list[str], *, env: dict[str, str], **_more: object) -> Answer:
        assert env == {"LC_ALL": "C", "TZ": "UTC"}
        asked.append(command)
        return Answer(answers[len(asked) - 1])

    monkeypatch.setattr(subprocess, "run", ps)
    expected = ProcessIdentity(pid=7, started="Mon Jan 1", command="llama-server -m x")
    assert identify(7) == (expected if found else None)
    columns = ["stat=", "lstart=", "command="][: len(asked)]
    assert asked == [["/bin/ps", "-ww", "-o", column, "-p", "7"] for column in columns]


class Deaths:
    """A process that is seen a number of times, and a clock that moves when somebody sleeps."""

    def __init__(self, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.now = seen, 0.0
        identity = ProcessIdentity(pid=7, started="then", command="x")
        monkeypatch.setattr(process, "identify", lambda _pid: self._look(identity))
        monkeypatch.setattr(process, "time", self)
        monkeypatch.setattr(os, "kill", lambda pid, number: self._kill(pid, number))
        self.fails: dict[int, Exception] = {}
        self.sent: list[tuple[int, int]] = []
        self.identity = identity

    def _look(self, identity: ProcessIdentity) -> ProcessIdentity | None:
        self.seen -= 1
        return identity if self.seen >= 0 else None

    def _kill(self, pid: int, number: int) -> None:
        self.sent.append((pid, number))
        if number in self.fails:
            raise self.fails[number]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("seen", "by_itself", "sent"),
    [
        (0, True, []),
        (1, True, [15]),
        (3, True, [15]),
        # Once before each signal; after SIGTERM four times in the second that it has.
        (5, True, [15]),
        (6, False, [15, 9]),
        (7, False, [15, 9]),
    ],
)
def test_a_process_is_asked_to_end_and_then_killed(
    seen: int, by_itself: bool, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_POLL_INTERVAL_S", 0.25)
    deaths = Deaths(seen, monkeypatch)
    assert end(deaths.identity, limit_s=1.0) is by_itself
    assert deaths.sent == [(7, number) for number in sent]


def test_a_process_that_survives_everything_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = Deaths(10**6, monkeypatch)
    with pytest.raises(SwarmReproError) as raised:
        end(deaths.identity)
    assert str(raised.value) == "process 7 is still there after SIGKILL; look at it with ps"
    assert deaths.sent == [(7, 15), (7, 9)]
    assert deaths.now == pytest.approx(15.0, abs=0.11), "ten seconds by itself, five when killed"


def test_a_process_that_ends_just_before_the_signal_has_ended_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaths = Deaths(10**6, monkeypatch)
    deaths.fails = {15: ProcessLookupError()}
    assert end(deaths.identity) is True
    assert deaths.sent == [(7, 15)]
    deaths.fails = {9: ProcessLookupError()}
    assert end(deaths.identity) is True


def test_another_users_process_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = Deaths(10**6, monkeypatch)
    deaths.fails = {15: PermissionError()}
    with pytest.raises(SwarmReproError) as raised:
        end(deaths.identity)
    assert str(raised.value) == "process 7 belongs to another user; end it as that user"


def test_a_process_with_the_id_that_started_at_another_time_is_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaths = Deaths(10**6, monkeypatch)
    assert end(replace(deaths.identity, started="before")) is True
    assert deaths.sent == []


# --- Programs.


def test_the_libraries_of_a_program_are_all_of_llama_cpp_in_its_folder_and_beside(
    tmp_path: Path,
) -> None:
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin" / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    names = ["bin/libggml-base.so", "bin/libmtmd.so.0", "lib/libggml.dylib", "lib/libllama.so.1.2"]
    for name in [*names, "bin/libother.so", "lib/libllama.a", "lib/llama.so"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "llama-server").symlink_to(program)
    found = find_llama_server(tmp_path / "llama-server")
    assert found == ServerBinary(
        command=(str(tmp_path / "llama-server"),),
        origin="given",
        files=(program, *(tmp_path / name for name in names)),
    )


def test_a_program_that_may_not_be_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    with pytest.raises(UsageError) as raised:
        find_llama_server(path)
    assert str(raised.value) == f"{path} is no program; give the path of a llama-server"


def test_the_variable_is_named_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_REPRO_LLAMA_SERVER", "none")
    with pytest.raises(UsageError) as raised:
        find_llama_server()
    assert str(raised.value) == (
        "none (from SWARM_REPRO_LLAMA_SERVER) is no program; give the path of a llama-server"
    )


def test_each_program_is_named_with_where_it_was_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_llama_server(program).origin == "given"
    assert find_llama_server().origin == "PATH"
    monkeypatch.setenv("SWARM_REPRO_LLAMA_SERVER", str(program))
    assert find_llama_server().origin == "SWARM_REPRO_LLAMA_SERVER"
    monkeypatch.setenv("SWARM_REPRO_LLAMA_SERVER", "")
    assert find_llama_server().origin == "PATH"


def test_the_library_is_run_as_a_program_and_known_by_its_extension(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    package = tmp_path / "xllamacpp"
    package.mkdir()
    for name in ("__init__.py", "xllamacpp.cpython-311.so", "xllamacpp.abi3.so", "other.so"):
        (package / name).write_text("")
    specs: dict[str, Any] = {
        "xllamacpp": importlib.util.spec_from_file_location("x", package / "__init__.py")
    }
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specs.get(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_llama_server() == ServerBinary(
        command=(sys.executable, "-m", "swarm_repro.serving.xllamacpp_server"),
        origin="xllamacpp",
        files=(package / "xllamacpp.abi3.so", package / "xllamacpp.cpython-311.so"),
    )
    specs["xllamacpp"].origin = None
    with pytest.raises(BackendError, match=r"^no llama-server on this machine; get one with"):
        find_llama_server()


@pytest.mark.parametrize(
    "kind",
    [
        *(StartedServer, Inventory, ServerBinary, Fetched, Probe, StoppedServer, KnownModel),
        *(WheelSource, Address, ProcessIdentity, Profile),
    ],
)
def test_values_about_servers_and_models_are_made_by_name_and_frozen(kind: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(1)
    with pytest.raises(FrozenInstanceError):
        object.__new__(kind).anything = 1


def test_a_record_is_replaced_in_one_step() -> None:
    path = record_path(8080)
    write_record(this_process(profile="cpu-strict"))
    before = path.read_bytes()
    with path.open("rb") as file:  # of somebody who reads it at this moment
        write_record(this_process(profile="metal-1slot"))
        assert file.read() == before
    assert read_record(path) == this_process(profile="metal-1slot")
    assert [one.name for one in path.parent.glob("8080.*")] == ["8080.json"]


# --- Starting and ending real processes.

SERVING = """\
#!{python}
import http.server, os, sys, time
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
print(os.getcwd(), os.getsid(0) == os.getpid(), repr(sys.stdin.read()), flush=True)
print("on stderr", file=sys.stderr, flush=True)
while "--wait-for" in flags and not os.path.exists(flags["--wait-for"]):
    time.sleep(0.01)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"status":"ok","default_generation_settings":{{}}}}')
    def log_message(self, *args):
        pass
http.server.HTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def serving_program(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(SERVING.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_a_server_gets_its_model_address_profile_and_further_flags_in_this_order(
    serving_program: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tiny_gguf.with_name("go-on")

    def note(waited_s: float) -> None:
        go_on.write_text(str(waited_s))

    link = tiny_gguf.with_name("link.gguf")
    link.symlink_to(tiny_gguf)
    monkeypatch.chdir(tiny_gguf.parent)
    with running_server(
        "link.gguf",
        binary=serving_program,
        profile="metal-1slot",
        threads=3,
        n_ctx=64,
        parallel=2,
        extra_flags=("--jinja", "--wait-for", str(go_on)),
        on_wait=note,
    ) as server:
        assert server.flags == (
            *("-m", str(link), "--alias", "link.gguf"),
            *("--host", "127.0.0.1", "--port", str(server.port)),
            *METAL_1SLOT.render(threads=3, n_ctx=64, parallel=2),
            *("--jinja", "--wait-for", str(go_on)),
        )
        assert server.argv == (str(serving_program), *server.flags)
        assert server.command.endswith(" ".join(server.flags)), "as the system shows it"
        assert (server.profile, server.origin) == ("metal-1slot", "given")
        assert server.files == (serving_program,)
        assert (server.model_path, server.ready) == (link, True)
        assert server.log_path == state_folder() / f"{server.port}.log"
        assert server.log_path.read_text() == f"{state_folder()} True ''\non stderr\n"
        assert read_record(record_path(server.port)) == server
        # Somebody else's record of that port, meanwhile, is not taken along.
        write_record(replace(server, started="later"))
    assert float(go_on.read_text()) >= 0
    assert not server.log_path.exists(), "nobody needs the log of a server that did well"
    assert record_path(server.port).exists()
    record_path(server.port).unlink()


def test_the_log_stays_when_the_block_was_left_by_an_error(
    serving_program: Path, tiny_gguf: Path
) -> None:
    with (
        pytest.raises(ValueError, match="no"),
        running_server(tiny_gguf, binary=serving_program, threads=1) as server,
    ):
        raise ValueError("no")
    assert server.log_path.exists()
    assert server.profile == "cpu-strict"
    assert server.flags[4:6] == ("--host", "127.0.0.1")
    assert server.flags[8:] == tuple(CPU_STRICT.render(threads=1, n_ctx=8192, parallel=1))
    assert identify(server.pid) is None
    assert not record_path(server.port).exists()


def test_a_server_that_is_not_ready_at_the_limit_is_ended(
    serving_program: Path, tiny_gguf: Path
) -> None:
    flags = ("--wait-for", str(tiny_gguf.with_name("never")))
    with (
        pytest.raises(BackendError) as raised,
        running_server(tiny_gguf, binary=serving_program, extra_flags=flags, loading_limit_s=0.05),
    ):
        pass
    said = rf"{serving_program} was not ready after \d+ s and has been ended; its log "
    assert re.match(said, str(raised.value))
    assert take_inventory().running == ()


def test_a_port_that_is_held_without_listening_is_taken(
    serving_program: Path, tiny_gguf: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(UsageError) as raised:
            start(tiny_gguf, port=port, binary=serving_program)
    assert str(raised.value) == f"port {port} is taken: nothing listens there"


def test_a_llama_server_of_someone_else_is_known_though_it_is_loading(
    http_server: Serve,
) -> None:
    def loading(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(503)
        handler.end_headers()
        handler.wfile.write(b'{"error":{"message":"Loading model"}}')

    port = int(http_server(loading).rsplit(":", 1)[1])
    with pytest.raises(UsageError) as raised:
        stop(port=port)
    assert str(raised.value) == (
        f"no server on port {port} was started by swarm-repro, so none is stopped; a llama-server"
        " that swarm-repro did not start listens there; end it where it runs"
    )


def test_a_server_is_started_on_port_8080_unless_another_is_given(
    serving_program: Path, tiny_gguf: Path
) -> None:
    with (
        llama_server._sole_start(8080),
        pytest.raises(UsageError, match="another start on port 8080 is under way"),
    ):
        start(tiny_gguf, binary=serving_program)


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_may_be_given(
    port: int, serving_program: Path, tiny_gguf: Path
) -> None:
    with (
        llama_server._sole_start(port),
        pytest.raises(UsageError, match=f"another start on port {port} is under way"),
    ):
        start(tiny_gguf, binary=serving_program, port=port)
