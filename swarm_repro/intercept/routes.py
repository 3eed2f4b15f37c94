"""Which HTTP requests are calls of a model, and which of them belong to a cassette.

Source: the OpenAI, Anthropic and Ollama API references; llama.cpp ``tools/server/README.md``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from swarm_repro.request import Endpoint

#: Endings of paths whose bodies are understood: ``/v1/chat/completions`` and the like.
_UNDERSTOOD: Mapping[str, Endpoint] = {
    "/chat/completions": "chat",
    "/completions": "completion",
    "/embeddings": "embedding",
}
#: Paths of llama-server's own that are understood.
_OWN: Mapping[str, Endpoint] = {
    "/completion": "completion",
    "/infill": "completion",
    "/embedding": "embedding",
}
#: Endings of paths of other APIs that ask a model: kept as they are, their fields unknown.
_OPAQUE = (
    "/v1/messages",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/rerank",
    "/rerank",
)
#: Endings of paths that ask a server something beside, by method.
_BESIDE: Mapping[str, tuple[str, ...]] = {
    "POST": (
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/api/show",
    ),
    "GET": (
        "/health",
        "/props",
        "/slots",
        "/models",
        "/lora-adapters",
        "/api/tags",
        "/api/version",
    ),
}
#: Services that are known to be no llama-server.
_SERVICES = frozenset({"api.openai.com", "api.anthropic.com"})
#: Names of a query that hold a secret.
_SECRET = frozenset({"key", "api_key", "api-key", "apikey", "token", "access_token"})
#: The port that is not written in a URL.
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Route:
    """Where a model call goes.

    Attributes:
        endpoint: The kind of call.
        root: Root URL of the server.
        host: Name of the host; of this machine always ``localhost``.
        path: What is recorded of the URL: the path, or of an ``opaque`` call method, path and
            query.
        asks_model: Whether a model works for it; else it is a question beside.
    """

    endpoint: Endpoint
    root: str
    host: str
    path: str
    asks_model: bool

    @property
    def is_opaque(self) -> bool:
        """Whether its body is kept as it is."""
        return self.endpoint == "opaque"

    def as_opaque(self, method: str) -> Route:
        """The same call of a host of which nothing is known."""
        return Route("opaque", self.root, self.host, f"{method} {self.path}", self.asks_model)


@dataclass(frozen=True)
class Belonging:
    """The rule that says which requests belong to a cassette.

    Attributes:
        hosts: Only requests to these belong, each a host name with or without a port; None: chat,
            completion and embedding calls to any host, and other calls to this machine, to
            ``hosted`` and to services known by name.
        hosted: Hosts that are no llama-server: what they answer is kept under their name alone.
    """

    hosts: tuple[str, ...] | None = None
    hosted: tuple[str, ...] = ()

    @classmethod
    def of(cls, *, hosts: Iterable[str] | None, hosted: Iterable[str]) -> Belonging:
        """A rule from what a user wrote."""
        return cls(
            None if hosts is None else tuple(map(_as_host, hosts)), tuple(map(_as_host, hosted))
        )

    def route(self, method: str, url: str) -> Route | None:
        """Where a request goes, or None for one that does not belong.

        Args:
            method: HTTP method.
            url: Its URL.
        """
        parts = urlsplit(url)
        found = _find(method, parts)
        if found is None:
            return None
        route, needs_known_host = found
        listed = _names(parts, self.hosted) or route.host in _SERVICES
        if self.hosts is not None:
            if not _names(parts, self.hosts):
                return None
        elif needs_known_host and not (listed or route.host == "localhost"):
            return None
        return route.as_opaque(method) if listed and not route.is_opaque else route


def _find(method: str, parts: SplitResult) -> tuple[Route, bool] | None:
    """The route of a URL, and whether its path is so common that the host must be known."""
    path = parts.path
    suffix = _ending(path, _BESIDE.get(method, ()))
    if suffix is not None:
        return _opaque_route(method, parts, suffix, asks_model=False), True
    if method == "GET" and "/models/" in path:
        return _opaque_route(method, parts, path[path.index("/models/") :], asks_model=False), True
    if method != "POST":
        return None
    suffix = _ending(path, _OPAQUE)
    if suffix is not None:
        return _opaque_route(method, parts, suffix, asks_model=True), True
    for table, is_common in ((_UNDERSTOOD, False), (_OWN, True)):
        suffix = _ending(path, table)
        if suffix is not None:
            root = _root(parts, suffix)
            return Route(table[suffix], root, host_of(parts), path, True), is_common
    return None


def _ending(path: str, suffixes: Iterable[str]) -> str | None:
    return next((suffix for suffix in suffixes if path.endswith(suffix)), None)


def _opaque_route(method: str, parts: SplitResult, suffix: str, *, asks_model: bool) -> Route:
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0].lower() not in _SECRET])
    path = f"{method} {parts.path}{'?' if query else ''}{query}"
    return Route("opaque", _root(parts, suffix), host_of(parts), path, asks_model)


def _root(parts: SplitResult, suffix: str) -> str:
    prefix = parts.path.removesuffix(suffix).removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{prefix}"


def host_of(parts: SplitResult) -> str:
    """The host's name; every name of this machine's loopback is ``localhost``."""
    host = (parts.hostname or "").lower()
    try:
        return "localhost" if ipaddress.ip_address(host).is_loopback else host
    except ValueError:
        return host


def _as_host(given: str) -> str:
    """A host with or without a port, from what may be a URL."""
    parts = urlsplit(given if "//" in given else f"//{given}")
    port = f":{parts.port}" if parts.port else ""
    return host_of(parts) + port


def _names(parts: SplitResult, listed: Iterable[str]) -> bool:
    host = host_of(parts)
    port = parts.port or _PORTS.get(parts.scheme)
    return any(one in (host, f"{host}:{port}") for one in listed)
