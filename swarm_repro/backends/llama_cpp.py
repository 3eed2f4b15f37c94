"""llama-cpp-python in process: one shared model for each file and context settings."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swarm_repro import sampling
from swarm_repro.backends.base import Bound, DirectCalls
from swarm_repro.caller import own_traffic
from swarm_repro.canonical import encode_canonical, encode_json, sha256_hex, text_sha256
from swarm_repro.completion import IN_PROCESS, IN_PROCESS_STREAM, Completion
from swarm_repro.environment import describe_environment
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    RequestError,
    StrictModeError,
    UsageError,
)
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.request import SAMPLED, Endpoint, Request
from swarm_repro.weights import hash_file, require_gguf, shards

if TYPE_CHECKING:
    from llama_cpp import Llama, LlamaGrammar

#: Settings of a ``Llama`` that are objects, hold state, or cannot be told apart by value.
_REFUSED = frozenset({"chat_handler", "draft_model", "tokenizer", "kv_overrides", "lora_base"})
#: Arguments of a call that are functions and so have no key.
_REFUSED_FIELDS = frozenset({"logits_processor", "stopping_criteria"})
#: Settings that change what the file means.
_OVERRIDING = ("rope_", "yarn_", "pooling_type", "attention_type")
#: The one method that takes no model name.
_EMBED = "embed"
#: A chat format that is the template in the GGUF file.
_FROM_FILE = "chat_template."


@dataclass
class _Shared:
    """A loaded model and the lock that calls take turns by."""

    settings: Mapping[str, object]
    lock: threading.Lock = field(default_factory=threading.Lock)
    llama: Llama | None = None

    def load(self) -> Llama:
        """Load the model, once."""
        if self.llama is None:
            self.llama = _load(self.settings)
        return self.llama


def _load(settings: Mapping[str, Any]) -> Llama:
    """Load a model.

    Raises:
        UsageError: llama-cpp-python is not installed.
        BackendError: llama.cpp cannot load the file.
    """
    try:
        with own_traffic():
            from llama_cpp import Llama
    except ImportError as error:
        raise UsageError(
            "llama-cpp-python is not installed; run: pip install 'swarm-repro[llama_cpp]'"
        ) from error
    try:
        with own_traffic():
            return Llama(**settings, verbose=False)
    except ValueError as error:
        raise BackendError(f"llama.cpp cannot load {settings['model_path']}: {error}") from error


def load_tokenizer(model_path: Path) -> Callable[[str], list[str]]:
    """A function that splits a text into a model's tokens; only its vocabulary is loaded.

    Args:
        model_path: The GGUF file.

    Raises:
        ModelFileError: Missing, a folder, or not GGUF.
        UsageError: llama-cpp-python is not installed.
        BackendError: llama.cpp cannot load the file.
    """
    require_gguf(model_path)
    llama = _load({"model_path": str(model_path), "vocab_only": True})

    def tokenize(text: str) -> list[str]:
        pieces: list[str] = []
        waiting = b""
        for token in llama.tokenize(text.encode("utf-8"), add_bos=False, special=False):
            waiting += llama.detokenize([token])
            # A character can be several tokens: they are one piece.
            with contextlib.suppress(UnicodeDecodeError):
                pieces.append(waiting.decode("utf-8"))
                waiting = b""
        return pieces

    return tokenize


_shared: dict[str, _Shared] = {}
_shared_lock = threading.Lock()


def unload_models() -> None:
    """Free all shared models; the next call loads again."""
    with _shared_lock:
        for shared in _shared.values():
            with shared.lock:
                if shared.llama is not None:
                    shared.llama.close()
                    shared.llama = None
        _shared.clear()


class LlamaCpp(DirectCalls):
    """A GGUF model in this process.

    The model is loaded on the first call and shared by all objects with the same file and context
    settings, however many agents make one: weights and KV cache are held once, and which agent
    asked before cannot change a completion, since every call begins with ``reset()`` and an
    explicit seed.
    """

    paths: ClassVar[Mapping[Endpoint, str]] = {
        "chat": "create_chat_completion",
        "completion": "create_completion",
        "embedding": "create_embedding",
    }

    def __init__(
        self,
        model_path: str | Path,
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        **settings: object,
    ) -> None:
        """Describe a model; nothing is loaded before the first call.

        Args:
            model_path: The GGUF file.
            n_ctx: Context window, in tokens.
            n_threads: CPU threads; None lets llama-cpp-python choose.
            **settings: Other settings of ``llama_cpp.Llama`` (``n_batch``, ``flash_attn``, …).

        Raises:
            UsageError: A setting that cannot be recorded.
        """
        refused = sorted(_REFUSED & {k for k, v in settings.items() if v})
        if refused:
            raise UsageError(f"llama_cpp.Llama({refused[0]}=…) cannot be recorded; leave it out")
        self.model_path = Path(model_path)
        self.name = self.model_path.name
        self._settings: dict[str, object] = {
            "n_ctx": n_ctx,
            "n_threads": n_threads,
            "n_threads_batch": n_threads,
            "flash_attn": False,
            **{k: v for k, v in settings.items() if v is not None and k != "verbose"},
        }

    @property
    def address(self) -> str:
        """A digest of file and settings: those that share it share the model."""
        return sha256_hex(encode_canonical(self._loading))

    @property
    def _loading(self) -> dict[str, object]:
        return {"model_path": str(self.model_path.resolve()), **self._settings}

    def _model(self) -> _Shared:
        """The shared model of this file and these settings."""
        with _shared_lock:
            return _shared.setdefault(self.address, _Shared(self._loading))

    def identify(self, name: str | None = None) -> Bound:
        """Digest the file, load the model, and read its template and the library's defaults.

        Args:
            name: The name in the cassette; the file's base name if none is given.

        Raises:
            ModelFileError: Missing, a folder, or not GGUF.
            UsageError: llama-cpp-python is not installed.
            BackendError: llama.cpp cannot load the file.
        """
        require_gguf(self.model_path)
        content: dict[str, object] = {
            "files": [hash_file(shard) for shard in shards(self.model_path)]
        }
        lora = self._settings.get("lora_path")
        if lora:
            content["lora"] = [
                {
                    "sha256": hash_file(Path(str(lora))),
                    "scale": self._settings.get("lora_scale", 1.0),
                }
            ]
        overrides = {
            name: value for name, value in self._settings.items() if name.startswith(_OVERRIDING)
        }
        if overrides:
            content["overrides"] = overrides
        shared = self._model()
        with shared.lock:
            llama = shared.load()
            template = _template_of(llama)
        import llama_cpp

        binding = ModelBinding(
            name=name or self.name,
            backend="llama-cpp-python",
            identity=ModelIdentity(kind="gguf", content=content),
            template=template,
            defaults={
                "chat": _defaults_of(llama.create_chat_completion),
                "completion": _defaults_of(llama.create_completion),
            },
        )
        environment = describe_environment(
            backend="llama-cpp-python",
            build=str(llama_cpp.__version__),
            binary_sha256=_library_sha256(Path(llama_cpp.__file__).parent),
            local=True,
            settings={
                **{k: v for k, v in self._settings.items() if k != "lora_path"},
                "n_threads": llama.n_threads,
                "n_threads_batch": llama.n_threads_batch,
            },
        )
        return Bound(binding=binding, environment=environment)

    def strict_fields(self) -> dict[str, object]:
        """Nothing: every call is reset and seeded, in any mode."""
        return {}

    def check_strict(self) -> None:
        """Refuse a template that prints today's date.

        Raises:
            StrictModeError: It calls ``strftime_now``.
        """
        shared = self._model()
        with shared.lock:
            source = shared.load().metadata.get("tokenizer.chat_template", "")
        if "strftime_now" in source and "chat_format" not in self._settings:
            raise StrictModeError(
                f"the chat template in {self.model_path.name} prints today's date (strftime_now), "
                "so the same messages give another prompt tomorrow: give a chat_format, or turn "
                "strict off"
            )

    def send(self, request: Request) -> Completion:
        """Call the model, with nothing left of the calls before.

        Raises:
            RequestError: No seed where one decides, or an argument that cannot be recorded.
            BackendResponseError: llama.cpp refused the call.
        """
        if request.seed is None and request.endpoint in SAMPLED:
            raise RequestError("an in-process call needs a seed: without one it depends on order")
        refused = sorted(name for name in _REFUSED_FIELDS if request.body.get(name) is not None)
        if refused:
            raise RequestError(f"{refused[0]} is a function and cannot be recorded; leave it out")
        # A member that is null means the default, as it does in the key.
        arguments = {name: value for name, value in request.body.items() if value is not None}
        if request.path != _EMBED:
            # Without a name the answer would echo the absolute path of this machine's file.
            arguments.setdefault("model", self.name)
        shared = self._model()
        with shared.lock, own_traffic():
            llama = shared.load()
            llama.reset()
            llama.set_cache(None)
            start = time.monotonic()
            try:
                _require_convertible(arguments.get("response_format"))
                if isinstance(arguments.get("grammar"), str):
                    arguments["grammar"] = _grammar(str(arguments["grammar"]))
                answer = getattr(llama, request.path)(**arguments)
                if arguments.get("stream"):
                    answer = list(answer)
            except (ValueError, RuntimeError, TypeError) as error:
                raise BackendResponseError(f"llama.cpp refused the call: {error}") from error
            duration_s = time.monotonic() - start
        streams = bool(arguments.get("stream"))
        return Completion(
            status=200,
            content_type=IN_PROCESS_STREAM if streams else IN_PROCESS,
            body=_events(answer) if streams else encode_json(_plain(answer)),
            duration_s=duration_s,
        )

    def render(self, request: Request) -> Callable[[], str | None]:
        """The prompt is not shown in process."""
        del request
        return lambda: None

    def close(self) -> None:
        """Nothing to close: the model is shared; see ``unload_models``."""


def _events(chunks: Iterable[object]) -> bytes:
    """A stream that was taken whole, as a server would have sent it."""
    events = [b"data: " + encode_json(_plain(chunk)) + b"\n\n" for chunk in chunks]
    return b"".join([*events, b"data: [DONE]\n\n"])


def _plain(value: object) -> object:
    """An answer with Python's numbers where llama-cpp-python leaves numpy's, as in logprobs."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _require_convertible(response_format: object) -> None:
    """Refuse a schema that llama-cpp-python cannot turn into a grammar.

    It would silently let any JSON pass instead.

    Raises:
        RequestError: The schema cannot be converted.
    """
    schema = response_format.get("schema") if isinstance(response_format, dict) else None
    if schema is None:
        return
    from llama_cpp import LlamaGrammar

    try:
        LlamaGrammar.from_json_schema(encode_json(schema).decode(), verbose=False)
    except Exception as error:  # its converter raises whatever it trips over
        raise RequestError(
            f"llama-cpp-python cannot constrain a reply to this schema: {error!r}"
        ) from error


def _grammar(source: str) -> LlamaGrammar:
    """A GBNF grammar as llama-cpp-python takes it."""
    from llama_cpp import LlamaGrammar

    return LlamaGrammar.from_string(source, verbose=False)


def _template_of(llama: Llama) -> dict[str, str]:
    """The chat template in use: the file's, or one built into llama-cpp-python."""
    chat_format = str(llama.chat_format)
    if chat_format.startswith(_FROM_FILE):
        name = chat_format.removeprefix(_FROM_FILE)
        key = "tokenizer.chat_template" + ("" if name == "default" else f".{name}")
        return {"sha256": text_sha256(llama.metadata[key])}
    return {"name": chat_format}


def _defaults_of(method: Callable[..., object]) -> dict[str, object]:
    """The sampling defaults in a method's signature."""
    return {
        name: list(parameter.default) if parameter.default == [] else parameter.default
        for name, parameter in inspect.signature(method).parameters.items()
        if name in sampling.CANONICAL_NAME
        and parameter.default is not inspect.Parameter.empty
        and parameter.default is not None
    }


@lru_cache(maxsize=1)
def _library_sha256(package: Path) -> str:
    """One digest over the package's shared libraries."""
    libraries = sorted(
        path for path in (package / "lib").glob("*") if path.suffix in {".so", ".dylib", ".dll"}
    )
    return sha256_hex(
        encode_json([[path.name, sha256_hex(path.read_bytes())] for path in libraries])
    )
