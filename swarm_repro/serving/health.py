"""Is there a llama-server at this address, and is it ready?

One probe asks ``/health`` and ``/props`` over plain sockets: no proxy (a loopback address must not
go through one), no redirects, a bounded body, and one deadline for everything, name resolution
included. Source: llama.cpp, tools/server/README.md, ``GET /health`` and ``GET /props``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPException
from urllib.parse import urlsplit

import orjson

from swarm_repro.errors import BackendUnreachableError, UsageError
from swarm_repro.serving.probe_http import Address, AnswerTooLongError, get

DEFAULT_URL = "http://localhost:8080"

_POLL_INTERVAL_S = 0.1
#: Sent as bytes in a request line, so nothing that could end it.
_PATH_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%/!$&'()*+,;=:@"
)


class Health(Enum):
    """What a probe found."""

    READY = "ready"
    LOADING = "loading"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    WRONG_SERVICE = "wrong service"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The outcome of one look at an address.

    Attributes:
        health: What was found.
        detail: Why, as part of a sentence; empty when ready.
        model_path: The GGUF the server says it has loaded, when ready and told.
        total_slots: Number of slots, when ready and told.
    """

    health: Health
    detail: str = ""
    model_path: str | None = None
    total_slots: int | None = None


class _WrongServiceError(Exception):
    """An answer that llama-server does not give."""


def check_llama_server(base_url: str = DEFAULT_URL, *, timeout_s: float = 2.0) -> bool:
    """Say whether a llama-server is ready at an address.

    Args:
        base_url: Its root, or the root with ``/v1``.
        timeout_s: Seconds for the whole check.

    Returns:
        True if it is ready for requests. False for whatever is wrong: a bad URL, nothing there,
        no answer in time, a model still loading, another service.
    """
    try:
        address = _parse(base_url)
    except UsageError:
        return False
    return _probe(address, timeout_s).health is Health.READY


def probe_llama_server(base_url: str = DEFAULT_URL, *, timeout_s: float = 2.0) -> Probe:
    """Look once at an address, and say what is there.

    Args:
        base_url: The server's root, or the root with ``/v1``.
        timeout_s: Seconds for the whole look.

    Raises:
        UsageError: the URL is not one of an HTTP server.
    """
    return _probe(_parse(base_url), timeout_s)


def require_llama_server(
    base_url: str = DEFAULT_URL,
    *,
    timeout_s: float = 2.0,
    loading_limit_s: float = 300.0,
    model_hint: str | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> None:
    """Return once a llama-server is ready at an address, or say why there is none.

    Args:
        base_url: Its root, or the root with ``/v1``.
        timeout_s: Seconds for one look. Where nothing answers, the error comes within it.
        loading_limit_s: Seconds to wait while the server says that its model is loading.
        model_hint: A GGUF to name in the advice on how to start a server.
        on_wait: Called with the seconds waited so far, at each look while the model is loading.

    Raises:
        UsageError: the URL is not one of an HTTP server.
        BackendUnreachableError: nothing answers, another service does, the model did not finish
            loading in time, or the server went away while it was loading.
    """
    address = _parse(base_url)
    advice = (
        f"start one with `swarm-repro server start --model {model_hint or '<gguf>'}`"
        " or `scripts/llama-server-setup.sh start`"
    )
    began = time.monotonic()
    probe = _probe(address, timeout_s)
    loading_seen = False
    while probe.health is not Health.READY:
        waited_s = time.monotonic() - began
        if probe.health is Health.WRONG_SERVICE:
            raise BackendUnreachableError(
                f"{address.url} is not a llama-server that can be used: {probe.detail};"
                f" give the right address, or {advice}"
            )
        if probe.health is not Health.LOADING and not loading_seen:
            raise BackendUnreachableError(
                f"no llama-server at {address.url}: {probe.detail}; {advice}"
            )
        if probe.health is Health.REFUSED:
            raise BackendUnreachableError(
                f"the llama-server at {address.url} ended while it was loading its model; its log"
                " says why, `swarm-repro server status` says where the log is"
            )
        loading_seen = True
        if waited_s >= loading_limit_s:
            raise BackendUnreachableError(
                f"the llama-server at {address.url} was still loading its model after"
                f" {waited_s:.0f} s; wait until it is done, or give it a smaller model"
            )
        if on_wait is not None:
            on_wait(waited_s)
        time.sleep(_POLL_INTERVAL_S)
        probe = _probe(address, timeout_s)


def _parse(base_url: str) -> Address:
    bad = "not the address of a llama-server; write it as http://localhost:8080"
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
        host = parts.hostname
    except ValueError as error:
        raise UsageError(f"{base_url!r} is {bad}") from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"an address with a user name or password in it is {bad}")
    prefix = parts.path.rstrip("/")
    if prefix == "/v1" or prefix.endswith("/v1"):
        prefix = prefix[: -len("/v1")].rstrip("/")
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not host.isprintable()
        or port == 0
        or parts.query
        or parts.fragment
        or not _PATH_CHARACTERS.issuperset(prefix)
    ):
        raise UsageError(f"{base_url!r} is {bad}")
    try:
        host.encode("idna" if ":" not in host else "ascii")
    except UnicodeError as error:
        raise UsageError(f"{base_url!r} is {bad}") from error
    default_port = 443 if parts.scheme == "https" else 80
    return Address(scheme=parts.scheme, host=host, port=port or default_port, prefix=prefix)


def _probe(address: Address, timeout_s: float) -> Probe:
    deadline = time.monotonic() + timeout_s
    try:
        status, body = get(address, "/health", deadline)
        health = _json_object(body)
        if status == 503 and health is not None and ("error" in health or "status" in health):
            return Probe(health=Health.LOADING, detail="its model is still loading")
        if status != 200 or health is None or health.get("status") != "ok":
            raise _WrongServiceError(
                f'/health answered {status} without llama-server\'s {{"status":"ok"}}'
            )
        status, body = get(address, "/props", deadline)
        return _judge_props(status, _json_object(body))
    except ConnectionRefusedError:
        return Probe(health=Health.REFUSED, detail="the connection was refused")
    except ConnectionError:
        detail = "it closed the connection without an answer"
    except TimeoutError:
        detail = f"no answer within {timeout_s:g} s"
    except OSError as error:
        detail = error.strerror or str(error)
    except (_WrongServiceError, AnswerTooLongError) as error:
        return Probe(health=Health.WRONG_SERVICE, detail=str(error))
    except HTTPException:
        return Probe(health=Health.WRONG_SERVICE, detail="it does not answer in HTTP")
    return Probe(health=Health.UNREACHABLE, detail=detail)


def _judge_props(status: int, props: dict[str, object] | None) -> Probe:
    if status in (401, 403):
        raise _WrongServiceError(
            f"/props answered {status}, it was started with --api-key; start it without one"
        )
    if status == 503:
        return Probe(health=Health.LOADING, detail="its model is still loading")
    if status != 200 or props is None or "default_generation_settings" not in props:
        raise _WrongServiceError(f"/props answered {status} without llama-server's settings")
    if props.get("role") == "router":
        raise _WrongServiceError("it runs as a router of models; start it with one --model")
    model_path = props.get("model_path")
    total_slots = props.get("total_slots")
    return Probe(
        health=Health.READY,
        model_path=model_path if isinstance(model_path, str) else None,
        total_slots=total_slots if isinstance(total_slots, int) else None,
    )


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
