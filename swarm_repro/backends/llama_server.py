"""A llama-server over HTTP, through the openai client."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit

from swarm_repro import sampling
from swarm_repro.backends.base import Bound, DirectCalls
from swarm_repro.caller import own_traffic
from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.completion import Completion
from swarm_repro.environment import describe_environment
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    BackendUnreachableError,
    StrictModeError,
    UsageError,
)
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.request import Endpoint, Request
from swarm_repro.weights import hash_file, inspect_gguf, shards

if TYPE_CHECKING:
    from openai import OpenAI

#: What a server cannot show over HTTP and only the one who started it knows.
_HIDDEN = ("control_vectors", "draft", "kv_overrides", "mmproj", "rope_overrides")

#: Limit of requests that compute nothing, in seconds.
_SIDE_LIMIT_S = 10.0

#: Fields of a probe's settings that are the probe's own, not the server's defaults.
_PROBED = frozenset({"max_tokens", "n_predict", "n"})


class KnownServer(Protocol):
    """What is known of a server because it was started here, and HTTP does not show."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Its command line, without the program."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files whose bytes decide what it computes."""

    @property
    def declared_overrides(self) -> tuple[str, ...]:
        """Its flags that change what the model file means, as ``name=value``."""

    @property
    def variables(self) -> Mapping[str, str]:
        """The ``GGML_*``, ``LLAMA_*`` and ``OMP_*`` variables it was given."""


class LlamaServer(DirectCalls):
    """A llama-server that is already running."""

    paths: ClassVar[Mapping[Endpoint, str]] = {
        "chat": "/v1/chat/completions",
        "completion": "/v1/completions",
    }

    def __init__(
        self,
        base_url: str = "http://localhost:8080/v1",
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        started: Callable[[int], KnownServer | None] | None = None,
    ) -> None:
        """Make a client; nothing is contacted before the first call.

        Args:
            base_url: Root or ``/v1`` of the server, http or https.
            api_key: Sent as bearer token if given; llama-server asks for none by default.
            timeout_s: How long one call may take.
            started: Looks up, by port, what is known of servers we started.

        Raises:
            UsageError: The address is not http(s).
        """
        self._host, self._port = parse_address(base_url)
        self.root = base_url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._started = started
        self._pool: ThreadPoolExecutor | None = None

    @property
    def address(self) -> str:
        """Its root URL."""
        return self.root

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(
            base_url=f"{self.root}/v1",
            api_key=self._api_key or "none",
            timeout=self._timeout_s,
            max_retries=0,
        )

    @cached_property
    def _response_type(self) -> type:
        """``Response`` of the HTTP library that the installed openai client stands on."""
        import openai

        library = openai.DefaultHttpxClient.__base__.__module__.partition(".")[0]
        response: type = sys.modules[library].Response
        return response

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine's loopback interface."""
        return _is_loopback(self._host)

    def identify(self, name: str) -> Bound:
        """Ask the server which model it has, and for its sampling defaults.

        Args:
            name: The name the application uses for the model.

        Raises:
            BackendError: It cannot be reached, or does not answer like a llama-server.
        """
        props = self._get("/props")
        meta = _model_meta(self._get("/v1/models"), name)
        started = self._started(self._port) if self._started and self.is_local else None
        template = props.get("chat_template")
        binding = ModelBinding(
            name=name,
            backend="llama-server",
            identity=self._identity(props, meta, started),
            template={"sha256": text_sha256(template)} if isinstance(template, str) else None,
            defaults=self._defaults(props),
            undeclared=() if started else _HIDDEN,
        )
        settings = props.get("default_generation_settings")
        environment = describe_environment(
            backend="llama-server",
            build=_text(props.get("build_info")),
            binary_sha256=_digest_files(started.files) if started else None,
            local=self.is_local,
            flags=started.flags if started else None,
            variables=started.variables if started else {},
            settings={
                "total_slots": props.get("total_slots"),
                "n_ctx": settings.get("n_ctx") if isinstance(settings, dict) else None,
            },
        )
        return Bound(binding=binding, environment=environment)

    def _identity(
        self,
        props: Mapping[str, object],
        meta: Mapping[str, object],
        started: KnownServer | None,
    ) -> ModelIdentity:
        """The file's digest where the file can be believed to be the served one."""
        path = props.get("model_path")
        if self.is_local and isinstance(path, str) and Path(path).is_file():
            found = inspect_gguf(Path(path))
            if (found.n_params, found.size_bytes) == (meta.get("n_params"), meta.get("size")):
                content: dict[str, object] = {
                    "files": [hash_file(shard) for shard in shards(Path(path))]
                }
                adapters = self._adapters()
                if adapters:
                    content["lora"] = adapters
                if started is not None and started.declared_overrides:
                    content["overrides"] = [
                        _digest_value(flag) for flag in started.declared_overrides
                    ]
                return ModelIdentity(kind="gguf", content=content)
        stable = ("n_params", "size", "n_vocab", "n_embd", "n_ctx_train", "ftype")
        return ModelIdentity(
            kind="fingerprint", content={field: meta.get(field) for field in stable}
        )

    def _adapters(self) -> list[dict[str, object]]:
        """LoRA adapters by digest, in the order in which they are applied."""
        listed = self._exchange("GET", "/lora-adapters", None).documents[0]
        if not isinstance(listed, list):
            raise BackendResponseError(f"{self.root}/lora-adapters did not answer with a list")
        return [
            {"sha256": hash_file(Path(adapter["path"])), "scale": adapter["scale"]}
            for adapter in listed
        ]

    def _defaults(self, props: Mapping[str, object]) -> dict[str, dict[str, object]]:
        """Sampling defaults: from ``/props``, and from one probe for those it hides."""
        probe = self._exchange(
            "POST",
            self.paths["chat"],
            {
                "messages": [{"role": "user", "content": "."}],
                "max_tokens": 1,
                "seed": 1,
                "verbose": True,
                **self.strict_fields(),
            },
        )
        if probe.status != 200:
            raise BackendResponseError(
                f"{self.root} answered a probe with HTTP {probe.status}: "
                f"{probe.body[:300].decode('utf-8', 'replace')}",
                status=probe.status,
            )
        answer = probe.documents[0]
        verbose = answer.get("__verbose") if isinstance(answer, dict) else None
        probed = verbose.get("generation_settings") if isinstance(verbose, dict) else None
        shown = props.get("default_generation_settings")
        listed = shown.get("params") if isinstance(shown, dict) else None
        known = {
            **{
                field: value
                for field, value in (probed if isinstance(probed, dict) else {}).items()
                if field not in _PROBED
            },
            **(listed if isinstance(listed, dict) else {}),
        }
        defaults = {
            field: value
            for field, value in known.items()
            if field in sampling.CANONICAL_NAME or (field == "grammar" and value)
        }
        return {"chat": defaults, "completion": defaults}

    def strict_fields(self) -> dict[str, object]:
        """Request fields that strict mode sets on every call."""
        return {"cache_prompt": False}

    def check_strict(self) -> None:
        """Refuse a server that cannot give the same bits twice.

        Raises:
            StrictModeError: More than one slot, or a template that prints today's date.
        """
        props = self._get("/props")
        slots = props.get("total_slots")
        if slots != 1:
            raise StrictModeError(
                f"{self.root} has {slots} slots and strict mode needs one: start it with "
                "--parallel 1, or with: swarm-repro server start --profile cpu-strict"
            )
        if "strftime_now" in str(props.get("chat_template")):
            raise StrictModeError(
                f"the chat template of {self.root} prints today's date (strftime_now), so the same "
                "messages give another prompt tomorrow: start the server with a --chat-template-"
                "file that has the date pinned, or turn strict off"
            )

    def send(self, request: Request) -> Completion:
        """Call the model.

        Raises:
            BackendUnreachableError: No connection, or one that broke.
            BackendError: A time-out.
        """
        return self._exchange("POST", request.path, request.body)

    def render(self, request: Request) -> Callable[[], str | None]:
        """Ask for the rendered prompt while the model works on the call itself."""
        if request.endpoint != "chat":
            return lambda: None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="apply-template")
        return self._pool.submit(self._render, request.body).result

    def _render(self, body: Mapping[str, object]) -> str | None:
        """SHA-256 of the prompt; None where the server refuses to render the messages."""
        for wait_s in (0.2, 1.0, None):
            try:
                answer = self._exchange("POST", "/apply-template", body, limit_s=_SIDE_LIMIT_S)
            except BackendError as error:
                if wait_s is None or not error.transient:
                    raise
            else:
                if answer.status != 503 or wait_s is None:
                    break
            time.sleep(wait_s)
        if answer.status != 200:
            return None
        document = answer.documents[0]
        prompt = document.get("prompt") if isinstance(document, dict) else None
        return text_sha256(prompt) if isinstance(prompt, str) else None

    def _get(self, path: str) -> dict[str, object]:
        answer = self._exchange("GET", path, None, limit_s=_SIDE_LIMIT_S)
        document = answer.documents[0] if answer.status == 200 else None
        if not isinstance(document, dict):
            raise BackendResponseError(
                f"{self.root}{path} answered HTTP {answer.status}, not like a llama-server",
                status=answer.status,
            )
        return document

    def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        limit_s: float | None = None,
    ) -> Completion:
        """One HTTP exchange; any status is an answer."""
        import openai

        url = f"{self.root}{path}"
        response: Any
        limit_s = limit_s or self._timeout_s
        start = time.monotonic()
        with own_traffic():
            try:
                if method == "GET":
                    response = self._client.get(
                        url, cast_to=self._response_type, options={"timeout": limit_s}
                    )
                else:
                    # llama-server may close a connection it has streamed over just as the next
                    # request goes out on it: such a connection is not kept.
                    headers = {"Connection": "close"} if body and body.get("stream") else {}
                    response = self._client.post(
                        url,
                        cast_to=self._response_type,
                        body=body,
                        options={"timeout": limit_s, "headers": headers},
                    )
            except openai.APIStatusError as error:
                response = error.response
            except openai.APITimeoutError as error:
                raise BackendError(f"{url} did not answer within {limit_s:g} s") from error
            except openai.APIConnectionError as error:
                raise BackendUnreachableError(
                    f"no connection to {url} ({error.__cause__ or error}); start a llama-server "
                    "with: swarm-repro server start --model <file.gguf>"
                ) from error
        return Completion(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            body=response.content,
            duration_s=time.monotonic() - start,
        )

    def close(self) -> None:
        """Close connections and the helper thread."""
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def parse_address(base_url: str) -> tuple[str, int]:
    """Host and port of a server's address.

    Raises:
        UsageError: It is no http(s) address.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"base_url {base_url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"base_url {base_url!r} is no http(s) address; write http://localhost:8080/v1"
        )
    return parts.hostname, port


def _model_meta(listed: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Properties of the model with this name, or of the only one there is."""
    models = listed.get("data")
    if not isinstance(models, list) or not models:
        raise BackendResponseError("/v1/models lists no model; is this a llama-server?")
    chosen = next((m for m in models if m.get("id") == name), models[0])
    meta = chosen.get("meta")
    return meta if isinstance(meta, dict) else {}


def _digest_value(flag: str) -> str:
    """A flag whose files, with or without ``:scale``, are given by digest: names say nothing."""
    name, equals, value = flag.partition("=")
    shown: list[str] = []
    for item in value.split(","):
        file, colon, scale = item.partition(":")
        path = Path(file)
        if file and path.is_file():
            shown.append(f"sha256:{hash_file(path)}{colon}{scale}")
        else:
            shown.append(path.name + colon + scale)
    return name + equals + ",".join(shown)


def _digest_files(files: Sequence[Path]) -> str:
    """One digest over a program and its libraries."""
    return sha256_hex(encode_json([[file.name, sha256_hex(file.read_bytes())] for file in files]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
