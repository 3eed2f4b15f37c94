"""What is remembered of the servers that were started: one small file a port.

A record is believed only while the process it names is the one that was started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

import orjson
import platformdirs

from swarm_repro.canonical import encode_json
from swarm_repro.errors import UsageError
from swarm_repro.serving.process import ProcessIdentity, identify

#: Moves the folder that holds records and logs.
STATE_VARIABLE: Final = "SWARM_REPRO_STATE_DIR"

_FORMAT: Final = 1
#: Flags that put something beside the weights of the file, or bend them. HTTP shows none of them
#: but the LoRA adapters. Source: llama.cpp, ``llama-server --help``.
_OVERRIDING: Final = (
    "--mmproj",
    "-mm",
    "--lora",
    "--control-vector",
    "--model-draft",
    "--spec-",
    "--draft",
    "-md",
    "--rope-",
    "--yarn-",
    "--override-kv",
    "--grp-attn",
    "-gan",
    "-gaw",
)


@dataclass(frozen=True, kw_only=True)
class StartedServer:
    """A llama-server that this package started.

    Attributes:
        pid: Process id.
        started: When the process started, as the system writes it.
        command: Its command line as the system shows it, which for a wrapper differs from ``argv``.
        argv: What was run, program included.
        flags: llama-server's flags alone.
        host: The address it listens on.
        port: The port it listens on.
        model_path: The GGUF, an absolute path.
        profile: Name of the profile it was started with.
        origin: Where the program was found; see ``ServerBinary.origin``.
        files: Files whose bytes decide what it computes; see ``ServerBinary.files``.
        variables: The ``GGML_*``, ``LLAMA_*`` and ``OMP_*`` variables it was given.
        dropped_variables: Names of the variables kept from it: ``LLAMA_ARG_*`` are flags in
            disguise, and would make the record of its flags untrue.
        log_path: Where its output goes.
        ready: Whether its model had been loaded when the record was written.
    """

    pid: int
    started: str
    command: str
    argv: tuple[str, ...]
    flags: tuple[str, ...]
    host: str
    port: int
    model_path: Path
    profile: str
    origin: str
    files: tuple[Path, ...]
    variables: Mapping[str, str]
    dropped_variables: tuple[str, ...]
    log_path: Path
    ready: bool

    @property
    def root_url(self) -> str:
        """The server's root, such as ``http://127.0.0.1:8080``."""
        return f"http://{url_host(self.host)}:{self.port}"

    @property
    def base_url(self) -> str:
        """The root of its OpenAI-compatible API, such as ``http://127.0.0.1:8080/v1``."""
        return f"{self.root_url}/v1"

    @property
    def declared_overrides(self) -> tuple[str, ...]:
        """Its flags that change what the model file means: mmproj, LoRA, draft, RoPE and so on.

        Each with its value, as ``name=value``.

        Empty says that there is none, since the process has no other flags than the recorded ones.
        """
        found: list[str] = []
        for flag, following in zip_longest(self.flags, self.flags[1:], fillvalue="-"):
            if not flag.startswith(_OVERRIDING):
                continue
            is_flag = following.startswith("-") and not following[1:2].isdigit()
            has_value = "=" not in flag and not is_flag
            found.append(f"{flag}={following}" if has_value else flag)
        return tuple(found)


def reachable_host(host: str) -> str:
    """The address under which a server that listens on ``host`` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def url_host(host: str) -> str:
    """How the host of a server that listens on ``host`` is written in a URL."""
    reachable = reachable_host(host)
    return f"[{reachable}]" if ":" in reachable else reachable


def state_folder() -> Path:
    """The folder of records and logs, made if it is missing.

    Raises:
        UsageError: it cannot be made.
    """
    named = os.environ.get(STATE_VARIABLE)
    base = Path(named).absolute() if named else Path(platformdirs.user_state_dir("swarm_repro"))
    folder = base / "servers"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make {folder}: {error.strerror}; name another folder in {STATE_VARIABLE}"
        ) from error
    return folder


def record_path(port: int) -> Path:
    """The file that remembers the server on a port."""
    return state_folder() / f"{port}.json"


def write_record(server: StartedServer) -> None:
    """Remember a server, replacing what was known of its port.

    Raises:
        UsageError: the file cannot be written.
    """
    content: dict[str, object] = {"format": _FORMAT, **asdict(server)}
    content["model_path"] = str(server.model_path)
    content["log_path"] = str(server.log_path)
    content["files"] = [str(file) for file in server.files]
    path = record_path(server.port)
    # Starts on one port exclude each other, so nobody else writes this file.
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(encode_json(content))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def read_record(path: Path) -> StartedServer | None:
    """Read what is remembered of a server, whether or not it is still there.

    Returns:
        The record; None if there is none, or if it is not one this version wrote.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        return None
    try:
        return StartedServer(
            pid=int(content.pop("pid")),
            port=int(content.pop("port")),
            argv=tuple(content.pop("argv")),
            flags=tuple(content.pop("flags")),
            model_path=Path(content.pop("model_path")),
            log_path=Path(content.pop("log_path")),
            files=tuple(Path(file) for file in content.pop("files")),
            dropped_variables=tuple(content.pop("dropped_variables")),
            **content,
        )
    except (KeyError, TypeError, ValueError):
        return None


def verified_process(server: StartedServer) -> ProcessIdentity | None:
    """The process of a record, if it still is the one that was started."""
    process = identify(server.pid)
    if process is None or process.started != server.started:
        return None
    # A wrapper script becomes another program before it serves: until then its command line moves.
    if server.ready and process.command != server.command:
        return None
    return process


def find_started_server(port: int) -> StartedServer | None:
    """The server this package started on a port, if that process is alive and verified.

    Args:
        port: TCP port.

    Returns:
        Its record, or None: nothing was started there, it has ended, or another process has its id.
    """
    server = read_record(record_path(port))
    if server is None or server.port != port or verified_process(server) is None:
        return None
    return server


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The servers that were started from here.

    Attributes:
        running: Those that are alive, by port.
        cleaned: A sentence for each record that was removed because its process is gone.
    """

    running: tuple[StartedServer, ...]
    cleaned: tuple[str, ...]


def take_inventory() -> Inventory:
    """List the servers that run, and remove the records of those that do not."""
    running, cleaned = [], []
    for path in sorted(state_folder().glob("*.json")):
        server = read_record(path)
        if server is not None and verified_process(server) is not None:
            running.append(server)
            continue
        path.unlink(missing_ok=True)
        if server is None:
            cleaned.append(f"removed {path}, which is no record of a server")
        else:
            cleaned.append(
                f"removed the record of process {server.pid} on port {server.port}, which has"
                f" ended; its log is {server.log_path}"
            )
    return Inventory(
        running=tuple(sorted(running, key=lambda server: server.port)), cleaned=tuple(cleaned)
    )
