"""Where the endpoint sends what it does not replay."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from swarm_repro.backends.llama_server import parse_address
from swarm_repro.caller import own_traffic
from swarm_repro.errors import UsageError
from swarm_repro.intercept.routes import host_of

#: Limits of one exchange, in seconds: a model on a CPU may take long over one answer.
_TIMEOUTS_S = {"connect": 10.0, "read": 3600.0, "write": 60.0, "pool": None}


class Upstream:
    """A server behind the endpoint, or in replay the name of one."""

    def __init__(self, root: str) -> None:
        """Name it; nothing is contacted.

        Args:
            root: Its root URL, with or without ``/v1``.

        Raises:
            UsageError: No http(s) address.
        """
        parse_address(root)
        self.root = root.rstrip("/").removesuffix("/v1")
        self._transport: Any = None

    @property
    def host(self) -> str:
        """Its host and port, as a rule of what belongs wants it."""
        parts = urlsplit(self.root)
        return f"{host_of(parts)}:{parse_address(self.root)[1]}"

    @property
    def library(self) -> ModuleType:
        """Which of httpx2 and httpx is installed; the openai package brings one of them."""
        newer = importlib.util.find_spec("httpx2") is not None
        return importlib.import_module("httpx2" if newer else "httpx")

    @property
    def timeouts(self) -> dict[str, float | None]:
        """Limits of one exchange, in seconds, as the library takes them."""
        return dict(_TIMEOUTS_S)

    def url_of(self, path: str, query: str) -> str:
        """The address there of what a client asked for here."""
        return f"{self.root}{path}{'?' if query else ''}{query}"

    def require_other(self, host: str, port: int) -> None:
        """Refuse an upstream that is the endpoint itself.

        Args:
            host: Where the endpoint listens.
            port: Where it listens.

        Raises:
            UsageError: It is.
        """
        parts = urlsplit(self.root)
        own = host_of(urlsplit(f"//{_bracketed(host)}"))
        listens_everywhere = host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        if parse_address(self.root)[1] == port and (
            host_of(parts) == own or (listens_everywhere and host_of(parts) == "localhost")
        ):
            raise UsageError(
                f"the upstream {self.root} is this endpoint itself: name the server behind it "
                "with --upstream"
            )

    async def forward(self, request: Any) -> Any:
        """Send a request of the library, past any interception in this process."""
        with own_traffic():
            if self._transport is None:
                library = self.library
                # llama-server may close a connection it has streamed over just as the next
                # request goes out on it: none is kept.
                limits = library.Limits(max_connections=None, max_keepalive_connections=0)
                self._transport = library.AsyncHTTPTransport(limits=limits)
            return await self._transport.handle_async_request(request)

    async def close(self) -> None:
        """Close connections."""
        if self._transport is not None:
            with own_traffic():
                await self._transport.aclose()
            self._transport = None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
