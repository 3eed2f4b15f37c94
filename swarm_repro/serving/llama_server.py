"""Starting and stopping llama-server."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from swarm_repro.environment import llama_variables
from swarm_repro.errors import BackendError, UsageError
from swarm_repro.serving.binaries import find_llama_server
from swarm_repro.serving.health import Health, probe_llama_server
from swarm_repro.serving.probe_http import connect
from swarm_repro.serving.process import ProcessIdentity, end, identify
from swarm_repro.serving.profiles import DEFAULT_CTX_SIZE, get_profile
from swarm_repro.serving.state import (
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
from swarm_repro.weights import require_gguf

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8080
#: Seconds a model may take to load.
LOADING_LIMIT_S = 300.0

_POLL_INTERVAL_S = 0.1
_TAIL_LINES = 4
_TAIL_LINE_CHARACTERS = 200

#: Started by this process, kept so that they are reaped and never warned about.
_children: dict[int, subprocess.Popen[bytes]] = {}


def start(
    model_path: str | Path,
    *,
    profile: str = "cpu-strict",
    host: str = LOOPBACK,
    port: int = DEFAULT_PORT,
    threads: int | None = None,
    n_ctx: int = DEFAULT_CTX_SIZE,
    parallel: int = 1,
    binary: str | Path | None = None,
    extra_flags: Sequence[str] = (),
    loading_limit_s: float = LOADING_LIMIT_S,
    on_wait: Callable[[float], None] | None = None,
) -> StartedServer:
    """Start a llama-server that outlives this process, and wait until it is ready.

    Args:
        model_path: The GGUF.
        profile: Name of a profile; see ``swarm_repro.serving.profiles``.
        host: Address to listen on. Whoever can reach it can use the model.
        port: TCP port; 0 for any that is free.
        threads: Threads; None for the number of physical cores.
        n_ctx: Context size in tokens, for all slots together.
        parallel: Number of slots. With more than one, answers depend on what else is asked.
        binary: Path of a llama-server; None to find one, see ``find_llama_server``.
        extra_flags: More llama-server flags, after those of the profile.
        loading_limit_s: Seconds the model may take to load.
        on_wait: Called with the seconds waited so far, while the model is loading.

    Returns:
        The running server.

    Raises:
        ModelFileError: the model is missing, a folder, or not GGUF.
        UsageError: an unknown profile, a number out of range, a port that is taken.
        BackendError: no llama-server on this machine, it ended while loading (with the end of its
            log), or it was not ready in time.
    """
    # Links stay as they are: in a cache, what they lead to has a digest for a name.
    model = Path(model_path).expanduser().absolute()
    require_gguf(model)
    rendered = get_profile(profile).render(threads=threads, n_ctx=n_ctx, parallel=parallel)
    found = find_llama_server(binary)
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} is out of range; give one from 1 to 65535")
    if port == 0:
        port = _free_port(host)
    with _sole_start(port):
        _require_free_port(host, port)
        # Answers echo the alias; without one they echo the absolute path of this machine's file.
        named = ("-m", str(model), "--alias", model.name)
        flags = (*named, "--host", host, "--port", str(port), *rendered, *extra_flags)
        argv = (*found.command, *flags)
        dropped = tuple(sorted(filter(_is_flag_in_disguise, os.environ)))
        variables = {name: text for name, text in os.environ.items() if name not in dropped}
        log_path = state_folder() / f"{port}.log"
        child = _launch(argv, variables, log_path)
        try:
            process = _identify_child(child, log_path)
            server = StartedServer(
                pid=process.pid,
                started=process.started,
                command=process.command,
                argv=argv,
                flags=flags,
                host=host,
                port=port,
                model_path=model,
                profile=profile,
                origin=found.origin,
                files=found.files,
                variables=llama_variables(variables),
                dropped_variables=dropped,
                log_path=log_path,
                ready=False,
            )
            write_record(server)
            _wait_until_ready(server, child, loading_limit_s, on_wait)
            # By now a wrapper script has become the program that serves.
            process = _identify_child(child, log_path)
            server = replace(server, command=process.command, ready=True)
            write_record(server)
        except BaseException:
            child.kill()
            child.wait()
            record_path(port).unlink(missing_ok=True)
            raise
    _children[child.pid] = child
    return server


@dataclass(frozen=True, kw_only=True)
class StoppedServer:
    """A server that was ended.

    Attributes:
        server: Its record.
        killed: Whether it had to be killed, since it did not end by itself.
    """

    server: StartedServer
    killed: bool


def stop(*, port: int | None = None, limit_s: float = 10.0) -> StoppedServer:
    """End a server that this package started; never any other process.

    Args:
        port: Its port; None for the only one that runs.
        limit_s: Seconds it has to end by itself before it is killed.

    Raises:
        UsageError: none was started (on that port), or several were and no port is given.
        SwarmReproError: the process cannot be ended.
    """
    running = take_inventory().running
    if port is not None:
        server = next((one for one in running if one.port == port), None)
        if server is None:
            raise UsageError(
                f"no server on port {port} was started by swarm-repro, so none is stopped;"
                f" {_who_has(LOOPBACK, port)}"
            )
    elif not running:
        raise UsageError("no server that swarm-repro started is running")
    elif len(running) > 1:
        ports = ", ".join(str(one.port) for one in running)
        raise UsageError(f"servers run on ports {ports}; say which one to stop with --port")
    else:
        server = running[0]
    return StoppedServer(server=server, killed=not _end_server(server, limit_s))


@contextmanager
def running_server(
    model_path: str | Path,
    *,
    profile: str = "cpu-strict",
    host: str = LOOPBACK,
    port: int = 0,
    threads: int | None = None,
    n_ctx: int = DEFAULT_CTX_SIZE,
    parallel: int = 1,
    binary: str | Path | None = None,
    extra_flags: Sequence[str] = (),
    loading_limit_s: float = LOADING_LIMIT_S,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[StartedServer]:
    """Run a llama-server for the length of a ``with`` block.

    Takes what ``start`` takes, but picks a free port by default. The server is ended however the
    block is left; its log goes with it, unless it ended by itself or the block raised.

    Yields:
        The running server.

    Raises:
        SwarmReproError: as for ``start``.
    """
    server = start(
        model_path,
        profile=profile,
        host=host,
        port=port,
        threads=threads,
        n_ctx=n_ctx,
        parallel=parallel,
        binary=binary,
        extra_flags=extra_flags,
        loading_limit_s=loading_limit_s,
        on_wait=on_wait,
    )
    log_wanted = True
    try:
        yield server
        log_wanted = verified_process(server) is None
    finally:
        _end_server(server, 10.0)
        if not log_wanted:
            server.log_path.unlink(missing_ok=True)


def _end_server(server: StartedServer, limit_s: float) -> bool:
    process = verified_process(server)
    ended_itself = True if process is None else end(process, limit_s=limit_s)
    child = _children.pop(server.pid, None)
    if child is not None:
        child.wait()
    # Another server may have been started on the port since.
    known = read_record(record_path(server.port))
    if known is not None and known.started == server.started:
        record_path(server.port).unlink(missing_ok=True)
    return ended_itself


def _is_flag_in_disguise(variable: str) -> bool:
    # llama-server reads every flag from the environment too: the record of its flags would be
    # untrue. And a key would lock out the clients, which send none.
    return variable.startswith("LLAMA_ARG_") or variable == "LLAMA_API_KEY"


def _launch(
    argv: Sequence[str], variables: Mapping[str, str], log_path: Path
) -> subprocess.Popen[bytes]:
    try:
        with log_path.open("wb") as log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=log_path.parent,
                env=variables,
                start_new_session=True,
            )
    except OSError as error:
        raise BackendError(f"{argv[0]} cannot be started: {error.strerror}") from error


def _identify_child(child: subprocess.Popen[bytes], log_path: Path) -> ProcessIdentity:
    process = identify(child.pid)
    if process is None:
        raise _died(child, log_path)
    return process


def _wait_until_ready(
    server: StartedServer,
    child: subprocess.Popen[bytes],
    limit_s: float,
    on_wait: Callable[[float], None] | None,
) -> None:
    began = time.monotonic()
    while True:
        probe = probe_llama_server(server.root_url)
        if child.poll() is not None:
            raise _died(child, server.log_path)
        if probe.health is Health.READY:
            return
        if probe.health is Health.WRONG_SERVICE:
            raise BackendError(
                f"what answers at {server.root_url} is no usable llama-server: {probe.detail}"
            )
        waited_s = time.monotonic() - began
        if waited_s >= limit_s:
            raise BackendError(
                f"{server.argv[0]} was not ready after {waited_s:.0f} s and has been ended"
                f"{_log_tail(server.log_path)}"
            )
        if on_wait is not None:
            on_wait(waited_s)
        time.sleep(_POLL_INTERVAL_S)


def _died(child: subprocess.Popen[bytes], log_path: Path) -> BackendError:
    code = child.wait()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return BackendError(f"llama-server ended while starting, {how}{_log_tail(log_path)}")


def _log_tail(log_path: Path) -> str:
    text = log_path.read_text("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    if not lines:
        return f"; its log {log_path} is empty"
    shown = " | ".join(line[:_TAIL_LINE_CHARACTERS] for line in lines)
    return f"; its log {log_path} ends: {shown}"


@contextmanager
def _sole_start(port: int) -> Iterator[None]:
    """Let one start at a time look at a port and take it."""
    with (state_folder() / f"{port}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another start on port {port} is under way; wait for it, or give another --port"
            ) from error
        yield


def _free_port(host: str) -> int:
    with _bind(host, 0) as sock:
        return int(sock.getsockname()[1])


def _require_free_port(host: str, port: int) -> None:
    ours = find_started_server(port)
    if ours is None:
        try:
            # A server on all addresses does not stop one from binding a single one on every
            # system; a connection tells.
            connect("http", reachable_host(host), port, time.monotonic() + 1.0).close()
        except OSError:
            with _bind(host, port):
                return
    raise UsageError(f"port {port} is taken: {_who_has(host, port)}")


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}: {error.strerror}; give another --host"
        ) from error
    try:
        # Connections that a former server closed linger on the port; they do not hold it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is taken: {_who_has(host, port)}") from error
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port"
        ) from error
    return sock


def _who_has(host: str, port: int) -> str:
    ours = find_started_server(port)
    if ours is not None:
        return (
            f"swarm-repro started a server there (process {ours.pid}, model"
            f" {ours.model_path.name}); end it with `swarm-repro server stop --port {port}`,"
            " or give another --port"
        )
    health = probe_llama_server(f"http://{url_host(host)}:{port}").health
    if health in (Health.READY, Health.LOADING):
        return "a llama-server that swarm-repro did not start listens there; end it where it runs"
    if health is Health.REFUSED:
        return "nothing listens there"
    return "another program listens there; give another --port"
