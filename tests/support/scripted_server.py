"""A loopback server whose every answer a test writes itself, piece by piece if it must.

For other APIs' shapes, and for the moment between two pieces of a stream, which no real server
holds still.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request, and the means to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    _handler: BaseHTTPRequestHandler = field(repr=False)

    def json(self, value: object, *, status: int = 200) -> None:
        data = json.dumps(value, separators=(",", ":")).encode()
        self.answer(data, "application/json", status=status)

    def answer(self, data: bytes, content_type: str, *, status: int = 200) -> None:
        self._begin(status, content_type, ("content-length", str(len(data))))
        self._handler.wfile.write(data)

    def begin_stream(self, content_type: str = "text/event-stream") -> None:
        self._begin(200, content_type, ("transfer-encoding", "chunked"))

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def die(self) -> None:
        """Close the connection in the middle of an answer."""
        self._handler.close_connection = True

    def reset(self) -> None:
        """Abort the connection before an answer."""
        at_once = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._handler.close_connection = True

    def _begin(self, status: int, content_type: str, header: tuple[str, str]) -> None:
        self._handler.send_response(status)
        self._handler.send_header("content-type", content_type)
        self._handler.send_header(*header)
        self._handler.end_headers()


@dataclass
class ScriptedServer:
    """A running server, and what it was asked."""

    port: int
    asked: list[Asked] = field(default_factory=list)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.partition("?")[0] == path]


@contextmanager
def scripted_server(answer: Callable[[Asked], None]) -> Iterator[ScriptedServer]:
    """Run a server that answers as a function says, while the block runs.

    What llama-server answers about itself (``/props`` and the like) is answered here.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(6, 1, 1)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has gone, as some tests want

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body, self)
            if not _about_itself(asked):
                running.asked.append(asked)
                answer(asked)

        do_GET = do_POST = _any

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # more clients than any test has come at once

        def shutdown_request(self, request: Any) -> None:
            self.close_request(request)  # an orderly end would come before a reset

    server = Server(("127.0.0.1", 0), Handler)
    running = ScriptedServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _about_itself(asked: Asked) -> bool:
    """Answer what a session asks a llama-server before the first call."""
    own = "python" in asked.headers.get("user-agent", "").lower()
    if asked.path == "/props" and own:
        asked.json({"default_generation_settings": {"params": {}}, "total_slots": 1})
    elif asked.path == "/v1/models" and own:
        asked.json({"data": [{"id": "any", "meta": {"n_params": 1}}]})
    elif asked.path == "/lora-adapters":
        asked.json([])
    elif asked.path == "/apply-template":
        asked.json({"prompt": "rendered"})
    elif asked.body and json.loads(asked.body).get("verbose"):
        asked.json({"choices": [], "__verbose": {"generation_settings": {}}})
    else:
        return False
    return True


def chat_event(text: str, **members: Any) -> bytes:
    """One event of a streamed chat completion."""
    document = {"choices": [{"index": 0, "delta": {"content": text}}], **members}
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
