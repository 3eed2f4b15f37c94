"""A loopback server made of pages, one for each path, and small GGUF files for it to serve."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    connection: int


@dataclass
class Pages:
    """What a server answers, by path: a JSON value, or a status with one; a list is taken in turn.

    Attributes:
        pages: The answers.
        asked: The requests, in order of arrival.
    """

    pages: dict[str, Any]
    port: int = 0
    asked: list[Request] = field(default_factory=list)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]


class Turns(list[Any]):
    """Answers that are given one after another; the last one stays."""


@contextmanager
def serving(pages: dict[str, Any]) -> Iterator[Pages]:
    known = Pages(pages)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(6, 1, 1)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _any(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(data) if data else None
            known.asked.append(
                Request(self.command, self.path, headers, body, self.client_address[1])
            )
            page = known.pages.get(self.path, (404, {"error": {"message": "no page"}}))
            if isinstance(page, Turns):
                page = page.pop(0) if len(page) > 1 else page[0]
            status, value = page if isinstance(page, tuple) else (200, page)
            if status is None:
                self.close_connection = True
                return
            answer = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _any

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    known.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_gguf(path: Path, *, n_params: int = 12) -> Path:
    """A GGUF file with one tensor of so many float32 numbers, and no metadata to speak of."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tensor("w", np.zeros(n_params, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PROBED = {"temperature": 0.5, "top_k": 7, "max_tokens": 1, "n_predict": 1, "n": 1, "strange": 1}


def about(path: Path | str, **more: Any) -> dict[str, Any]:
    """The pages of a llama-server with the model at a path: 12 numbers, 48 bytes."""
    return {
        "/props": {
            "default_generation_settings": {"params": {"temperature": 0.8}, "n_ctx": 4096},
            "total_slots": 1,
            "model_path": str(path),
            "chat_template": "{{ messages }}",
            "build_info": "b7",
        },
        "/v1/models": {"data": [{"id": "small", "meta": {"n_params": 12, "size": 48}}]},
        "/lora-adapters": [],
        "/v1/chat/completions": {
            "choices": [{"message": {"content": "."}}],
            "__verbose": {"generation_settings": PROBED},
        },
        **more,
    }
