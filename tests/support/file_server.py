"""A file served over HTTP, as well or as badly as a test wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

BODY = b"GGUF" + bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class FileServer:
    """Serves one body, as well or as badly as it is told to, and remembers what was asked."""

    body: bytes = BODY
    ranges: bool = True
    etag: str | None = '"v1"'
    linked_etag: str | None = None
    cut_at: int | None = None
    claimed_bytes: int | None = None
    asked: list[str | None] = field(default_factory=list)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        condition = handler.headers.get("If-Range")
        start = 0
        if wanted and self.ranges and condition in (None, self.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(self.body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.body)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            end = len(self.body) - 1
            handler.send_header("Content-Range", f"bytes {start}-{end}/{len(self.body)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.linked_etag:
            handler.send_header("X-Linked-Etag", self.linked_etag)
        size_bytes = self.claimed_bytes or len(self.body) - start
        handler.send_header("Content-Length", str(size_bytes))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(self.body[start : self.cut_at])


def redirect_to(target: str, linked_etag: str | None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target + handler.path)
        if linked_etag:
            handler.send_header("X-Linked-Etag", linked_etag)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
