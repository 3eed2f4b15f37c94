"""What is remembered of a server that was started, with this process in the server's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swarm_repro.serving.process import identify
from swarm_repro.serving.state import StartedServer


def this_process_as_a_server(port: int = 8080, **others: Any) -> StartedServer:
    """The record of a server at a port, other fields by their names."""
    process = identify(os.getpid())
    assert process is not None
    known: dict[str, Any] = {
        "pid": process.pid,
        "started": process.started,
        "command": process.command,
        "argv": ("llama-server", "-np", "1"),
        "flags": ("-np", "1"),
        "host": "127.0.0.1",
        "port": port,
        "model_path": Path("/models/m.gguf"),
        "profile": "cpu-strict",
        "origin": "PATH",
        "files": (),
        "variables": {},
        "dropped_variables": (),
        "log_path": Path("/logs/8080.log"),
        "ready": True,
    }
    return StartedServer(**{**known, **others})


def ended_server(port: int) -> StartedServer:
    """The record of a server whose process has ended; another one has its id now."""
    return this_process_as_a_server(port, started="another time")
