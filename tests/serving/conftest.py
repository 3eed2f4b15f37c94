"""Local HTTP servers, a state folder of its own for every test, and a real small model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own servers, models and settings out of the tests."""
    for name in list(os.environ):
        if name.startswith("SWARM_REPRO_") and name != "SWARM_REPRO_TEST_MODEL":
            monkeypatch.delenv(name)
        if name.startswith("LLAMA_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "state"
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def small_model(model_path: Path) -> Path:
    """SmolLM2-135M."""
    return model_path


@pytest.fixture
def http_server() -> Iterator[Callable[[Answer], str]]:
    """Start HTTP servers that answer GET and HEAD by a function; returns their root URL."""
    with ExitStack() as stack:

        def serve(answer: Answer) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    answer(self)

                do_HEAD = do_GET

                def log_message(self, format: str, *args: Any) -> None:
                    pass

            class Server(ThreadingHTTPServer):
                # A client that goes away is what some tests are about.
                def handle_error(self, request: Any, client_address: Any) -> None:
                    pass

            server = stack.enter_context(Server(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield serve


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A file that begins as GGUF does, and can be served by nothing."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 40)
    return path
