"""A loopback server with llama-server's HTTP interface and faults on demand.

For what a real llama-server cannot be made to do: answer 400 to the tenth call, die mid-body, take
a fixed time. Everything that a real one can do is tested against a real one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What to do with the n-th chat call (from 0): an HTTP status, or the name of a fault.
Fault = int | str | None

_SETTINGS = {
    "temperature": 0.800000011920929,
    "top_k": 40,
    "top_p": 0.949999988079071,
    "min_p": 0.05000000074505806,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
}
_META = {
    "n_params": 134515008,
    "size": 96576768,
    "n_vocab": 49152,
    "n_embd": 576,
    "n_ctx_train": 8192,
    "ftype": "Q4_1",
}


@dataclass
class StubServer:
    """A running stub.

    Attributes:
        fault: Says what goes wrong with the n-th chat call; None means nothing.
        reply: Makes the completion's text from the request's body.
        delay_s: How long a completion takes.
        cached_tokens: What it reports as prompt tokens taken from a cache.
        slots: What it reports as number of slots.
        template: Its chat template.
        loading: How many times it still says that it is loading.
        api_key: The bearer token without which it answers 401 to all but ``/health``.
        fault_headers: Headers of an answer whose fault is an HTTP status.
        gzips: Whether its answers are compressed.
        hangs_everywhere: Whether it does not render prompts any more either.
        hung: Ends the wait of calls that hang, and lets those that are held be answered; set at the
            end of the block at the latest.
        chats: Bodies of the chat calls, in the order of their arrival.
    """

    port: int = 0
    fault: Callable[[int], Fault] = lambda _n: None
    reply: Callable[[dict[str, Any]], str] = lambda _body: '{"action_type": "NOOP"}'
    delay_s: float = 0.0
    cached_tokens: int = 0
    slots: int = 1
    template: str = "{{ messages }}"
    loading: int = 0
    api_key: str | None = None
    fault_headers: dict[str, str] = field(default_factory=dict)
    gzips: bool = False
    hangs_everywhere: bool = False
    chats: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    hung: threading.Event = field(default_factory=threading.Event)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"


@contextmanager
def running_stub(**settings: Any) -> Iterator[StubServer]:
    """Run a stub on a free loopback port while the block runs."""
    stub = StubServer(**settings)

    class Handler(_Handler):
        server_stub = stub

    server = ThreadingHTTPServer(("127.0.0.1", stub.port), Handler)
    server.daemon_threads = True
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        stub.hung.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_stub: StubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # Headers and body in one segment: else Nagle's delay is measured, not the client.
        self.connection.setsockopt(6, 1, 1)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        stub = self.server_stub
        if self.path != "/health" and not self._may():
            return
        if self.path == "/health":
            if stub.loading > 0:
                stub.loading -= 1
                self._json({"error": {"message": "Loading model", "code": 503}}, status=503)
            else:
                self._json({"status": "ok"})
        elif self.path == "/props":
            self._json(
                {
                    "default_generation_settings": {"params": _SETTINGS, "n_ctx": 4096},
                    "total_slots": stub.slots,
                    "model_path": "/nowhere/model.gguf",
                    "chat_template": stub.template,
                    "build_info": "stub",
                }
            )
        elif self.path == "/v1/models":
            self._json({"object": "list", "data": [{"id": "stub", "meta": _META}]})
        elif self.path == "/lora-adapters":
            self._json([])
        else:
            self._json({"error": {"message": "not found", "code": 404}}, status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self._may():
            return
        if self.path == "/apply-template":
            if self.server_stub.hangs_everywhere:
                self.server_stub.hung.wait(60)
                self.close_connection = True
                return
            self._json({"prompt": json.dumps(json.loads(body)["messages"])})
            return
        document = json.loads(body)
        if document.get("verbose"):
            self._json(
                self._completion(document) | {"__verbose": {"generation_settings": _SETTINGS}}
            )
            return
        stub = self.server_stub
        with stub.lock:
            number = len(stub.chats)
            stub.chats.append(body)
        time.sleep(stub.delay_s)
        self._answer(stub.fault(number), document)

    def _may(self) -> bool:
        key = self.server_stub.api_key
        may = key is None or self.headers["authorization"] == f"Bearer {key}"
        if not may:
            self._json({"error": {"message": "Invalid API Key", "code": 401}}, status=401)
        return may

    def _answer(self, fault: Fault, document: dict[str, Any]) -> None:
        if isinstance(fault, int):
            self._json(
                {"error": {"message": "told to fail", "code": fault}},
                status=fault,
                headers=self.server_stub.fault_headers,
            )
        elif fault == "hang":
            self.server_stub.hung.wait(60)
            self.close_connection = True
        elif fault == "held":
            self.server_stub.hung.wait(120)
            self._json(self._completion(document))
        elif fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif fault == "cut":
            self.send_response(200)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", "4096")
            self.end_headers()
            self.wfile.write(b'{"choices":[{"message":{"role":"assistant","content":"half an ans')
            self.close_connection = True
        elif fault == "garbage":
            self._bytes(b"<html>proxy error</html>", "text/html")
        elif fault == "error-body":
            self._json({"error": {"message": "out of memory", "code": 500}})
        else:
            self._json(self._completion(document))

    def _completion(self, document: dict[str, Any]) -> dict[str, Any]:
        stub = self.server_stub
        digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
        return {
            "choices": [
                {
                    "finish_reason": "stop",
                    "index": 0,
                    "message": {"role": "assistant", "content": stub.reply(document)},
                }
            ],
            "created": int(time.time()),
            "model": "stub",
            "system_fingerprint": "stub",
            "object": "chat.completion",
            "usage": {
                "completion_tokens": 8,
                "prompt_tokens": 100,
                "total_tokens": 108,
                "prompt_tokens_details": {"cached_tokens": stub.cached_tokens},
            },
            "id": f"chatcmpl-{digest[:20]}{time.monotonic_ns()}",
            "timings": {
                "cache_n": 0,
                "prompt_n": 100,
                "prompt_ms": 3058.387,
                "prompt_per_token_ms": 98.65764516129033,
                "prompt_per_second": 10.136061917605588,
                "predicted_n": 8,
                "predicted_ms": 9147.418,
                "predicted_per_token_ms": 3049.139333333333,
                "predicted_per_second": 0.32796139850611394,
            },
        }

    def _json(
        self, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self._bytes(
            json.dumps(value, separators=(",", ":")).encode(),
            "application/json; charset=utf-8",
            status=status,
            headers=headers,
        )

    def _bytes(
        self,
        body: bytes,
        content_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server_stub.gzips:
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
