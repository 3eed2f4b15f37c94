"""Which model a name stands for: weights, chat template, and the backend's sampling defaults.

In modes that call, a binding is found out from the GGUF file and the backend. In replay it comes
from the cassette, so that a machine without the model computes the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast, get_args

from swarm_repro import sampling
from swarm_repro.canonical import encode_canonical, encode_json, in_order, text_sha256
from swarm_repro.errors import ModelConflictError

BackendName = Literal["llama-server", "llama-cpp-python", "hosted"]


@dataclass(frozen=True)
class ModelIdentity:
    """What makes two models the same model.

    Attributes:
        kind: ``gguf``: SHA-256 of whole files. ``fingerprint``: properties a server reports, which
            two different files can share; labelled weak wherever it is shown. ``hosted``: nothing
            but whose answers they are.
        content: What goes into the key. For ``gguf``: ``files`` (SHA-256 of every shard, in
            order) and, where present, ``lora`` (objects with ``sha256`` and ``scale``),
            ``mmproj``, ``draft``. For ``fingerprint``: stable fields of ``/props`` and
            ``/v1/models``. For ``hosted``: ``host``.
    """

    kind: Literal["gguf", "fingerprint", "hosted"]
    content: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """The ``model`` field of a key."""
        return {"kind": self.kind, **self.content}

    @property
    def label(self) -> str:
        """A short name for messages: the digest of the first file, or a weak fingerprint."""
        files = self.content.get("files")
        if self.kind == "gguf" and isinstance(files, (list, tuple)) and files:
            return f"gguf {str(files[0])[:12]}…"
        if self.kind == "hosted":
            return f"hosted by {self.content.get('host')}"
        return f"fingerprint {text_sha256(encode_canonical(self.to_json()).decode())[:12]}… (weak)"


class KeyFrame:
    """What the keys of one model's calls of one endpoint have alike, encoded once.

    Attributes:
        grammar: What constrains a call that brings no grammar of its own, or None.
        before_input: Canonical JSON up to ``input``, for a call that captures nothing more.
        after_seed: From ``template`` on, for a call without template arguments and unknown members.
    """

    def __init__(self, binding: ModelBinding, endpoint: str) -> None:
        """Encode it."""
        self._binding = binding
        self._endpoint = endpoint
        self._known: dict[bytes, bytes] = {}
        self.grammar = binding.defaults.get(endpoint, {}).get("grammar") or None
        self.before_input = self.before(b"{}")
        self.after_seed = self.after(None, b"{}")

    def before(self, capture: bytes) -> bytes:
        """Canonical JSON up to ``input``.

        Args:
            capture: Canonical JSON of ``capture``.
        """
        return b'{"capture":%b,"endpoint":"%b","input":' % (capture, self._endpoint.encode())

    def sampling(self, given: Mapping[str, object]) -> bytes:
        """Canonical JSON from ``model`` up to ``seed``.

        Agents repeat their parameters call after call, so results are remembered.

        Args:
            given: The members of the request that are sampling fields.

        Raises:
            RequestError: A number that float32 cannot hold.
        """
        key = encode_json(given)
        known = self._known.get(key)
        if known is None:
            effective: dict[str, object] = {}
            if self._endpoint != "opaque":
                effective = self._binding.effective_sampling(self._endpoint, given)
            identity = self._binding.encoded_identity
            known = b',"model":%b,"sampling":%b,"seed":' % (identity, encode_canonical(effective))
            self._known[key] = known
        return known

    def after(self, kwargs: object, unknown: bytes) -> bytes:
        """Canonical JSON from ``template`` on.

        Args:
            kwargs: ``chat_template_kwargs`` of the request, or None.
            unknown: Canonical JSON of ``unknown``.
        """
        template: dict[str, object] | None = None
        if self._endpoint == "chat":
            template = None if self._binding.template is None else {**self._binding.template}
            if kwargs is not None:
                template = {**(template or {}), "kwargs": in_order(kwargs)}
        return b',"template":%b,"unknown":%b}' % (encode_canonical(template), unknown)


@dataclass(frozen=True)
class ModelBinding:
    """A model record: a name the application uses, bound to one model.

    Attributes:
        name: ``llama-3.2-3b-instruct``, or the base name of ``model_path``.
        backend: Which backend was asked; its answers have that backend's form.
        identity: The weights.
        template: ``{"sha256": …}`` of the effective chat template, ``{"name": …}`` of a
            template built into the backend, or None where it could not be known.
        defaults: Sampling fields the backend fills in, by endpoint; what could not be known is
            absent.
        undeclared: What the backend did not show (``mmproj``, ``draft``, …).
    """

    name: str
    backend: BackendName
    identity: ModelIdentity
    template: Mapping[str, str] | None
    defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    undeclared: tuple[str, ...] = ()

    @cached_property
    def encoded_identity(self) -> bytes:
        """Canonical JSON of the key's ``model`` field."""
        return encode_canonical(self.identity.to_json())

    @cached_property
    def _normalised_defaults(self) -> dict[str, dict[str, object]]:
        return {endpoint: sampling.normalise(fields) for endpoint, fields in self.defaults.items()}

    def sampling_defaults(self, endpoint: str) -> Mapping[str, object]:
        """Normalised defaults of one endpoint; empty where none are known."""
        return self._normalised_defaults.get(endpoint, {})

    @cached_property
    def _frames(self) -> dict[str, KeyFrame]:
        return {}

    def frame(self, endpoint: str) -> KeyFrame:
        """What the keys of an endpoint's calls have alike."""
        known = self._frames.get(endpoint)
        if known is None:
            known = self._frames[endpoint] = KeyFrame(self, endpoint)
        return known

    def effective_sampling(self, endpoint: str, body: Mapping[str, object]) -> dict[str, object]:
        """The fields of a request that can change tokens: the key's ``sampling`` field.

        Canonical names, this model's defaults filled in, neutral values left out.

        Args:
            endpoint: The kind of call.
            body: The request's members.

        Raises:
            RequestError: A number that float32 cannot hold.
        """
        asked = sampling.normalise(body)
        return sampling.effective({**self.sampling_defaults(endpoint), **asked}, asked=asked)

    def same_model(self, other: ModelBinding) -> bool:
        """Whether both name the same weights and template on the same kind of backend."""
        return (
            self.backend == other.backend
            and self.encoded_identity == other.encoded_identity
            and self.template == other.template
        )

    def to_json(self) -> dict[str, object]:
        """The record's members, in the order in which they are written."""
        return {
            "name": self.name,
            "backend": self.backend,
            "identity": self.identity.to_json(),
            "template": None if self.template is None else dict(self.template),
            "defaults": {endpoint: dict(fields) for endpoint, fields in self.defaults.items()},
            "undeclared": list(self.undeclared),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> ModelBinding:
        """Read a model record.

        Raises:
            KeyError: A member is missing.
            TypeError: A member has the wrong type.
        """
        identity = _mapping(record["identity"])
        kind = identity["kind"]
        backend = record["backend"]
        if kind not in ("gguf", "fingerprint", "hosted") or backend not in get_args(BackendName):
            raise TypeError("unknown kind of model identity or backend")
        template = record["template"]
        undeclared = record["undeclared"]
        if not isinstance(undeclared, list):
            raise TypeError("undeclared is not a list")
        return cls(
            name=str(record["name"]),
            backend=cast("BackendName", backend),
            identity=ModelIdentity(
                kind=kind, content={k: v for k, v in identity.items() if k != "kind"}
            ),
            template=(
                None if template is None else {k: str(v) for k, v in _mapping(template).items()}
            ),
            defaults={
                endpoint: _mapping(fields)
                for endpoint, fields in _mapping(record["defaults"]).items()
            },
            undeclared=tuple(str(name) for name in undeclared),
        )


def hosted_name(host: str) -> str:
    """The name of the model record that stands for all that a host answers."""
    return f"host:{host}"


def hosted_binding(host: str) -> ModelBinding:
    """A host whose weights, template and defaults nobody here can know.

    Args:
        host: Its name, without a port.
    """
    return ModelBinding(
        name=hosted_name(host),
        backend="hosted",
        identity=ModelIdentity(kind="hosted", content={"host": host}),
        template=None,
    )


def require_same_model(known: ModelBinding, found: ModelBinding, *, defaults: bool = False) -> None:
    """Refuse two models under one name.

    Args:
        known: The recorded one.
        found: The one that answers now.
        defaults: Refuse other sampling defaults too, which recorded calls were keyed with.

    Raises:
        ModelConflictError: The bindings differ in weights, template or backend.
    """
    if known.same_model(found):
        if defaults and known.defaults != found.defaults:
            raise ModelConflictError(
                f"model {known.name!r} has other sampling defaults than when it was recorded; "
                "record it anew with --record"
            )
        return
    raise ModelConflictError(
        f"two models are called {known.name!r}: {describe(known)} and {describe(found)}; "
        "give them different names, or use another cassette"
    )


def describe(binding: ModelBinding) -> str:
    """A binding in a few words, for messages."""
    template = binding.template or {}
    shown = template.get("name") or template.get("sha256", "unknown")[:12]
    return f"{binding.identity.label} on {binding.backend}, template {shown}"


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value
