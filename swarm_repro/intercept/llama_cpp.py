"""``llama_cpp.Llama`` under a session: the real class where it is installed, else a stand-in."""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any

from swarm_repro.backends.llama_cpp import LlamaCpp
from swarm_repro.caller import own_traffic
from swarm_repro.errors import SwarmReproError, UsageError
from swarm_repro.intercept.present import present_interceptor
from swarm_repro.loaders import ImportHook
from swarm_repro.request import Endpoint, normalise_seed
from swarm_repro.session import Session

_NAME = "llama_cpp"
#: On an instance that was made in a block: sets it up when it is used outside one.
_WAITING = "_swarm_repro_waiting"
#: On an instance: what its calls become.
_CALLS = "_swarm_repro_calls"
#: ``llama_cpp.Llama``'s own default, in tokens.
_N_CTX = 512
#: A chat format that is the template in the file, which is found again there.
_FROM_FILE = "chat_template."


class LlamaCalls:
    """The calls of one ``Llama``: nothing is loaded before one needs it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Take the arguments of ``llama_cpp.Llama``.

        Args:
            settings: By name. ``seed`` is that of every call that has none of its own.

        Raises:
            UsageError: A setting that cannot be recorded.
        """
        known = {name: value for name, value in settings.items() if value is not None}
        known.pop("verbose", None)
        self.seed = normalise_seed(known.pop("seed", None))
        self._backend = LlamaCpp(known.pop("model_path"), n_ctx=known.pop("n_ctx", _N_CTX), **known)

    def ask(
        self, session: Session, endpoint: Endpoint, method: str, fields: Mapping[str, object]
    ) -> object:
        """Answer a call as the method would: a dict, or an iterator of dicts.

        Args:
            session: Decides.
            endpoint: The kind of call.
            method: Name of the method.
            fields: Its arguments by name.
        """
        body = _as_json(method, fields)
        completion = session.call(
            self._backend,
            endpoint=endpoint,
            model=self._backend.name,
            path=method,
            body=body,
            default_seed=self.seed,
        )
        if completion.is_stream:
            return iter(completion.documents)
        document = completion.documents[0]
        if isinstance(document, list) and body.get("return_count"):
            return tuple(document)
        return document


def _as_json(method: str, fields: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a method as a request's members, which mean the same."""
    body = dict(fields)
    grammar = body.get("grammar")
    if grammar is not None and not isinstance(grammar, str):
        body["grammar"] = getattr(grammar, "_grammar", grammar)
    bias = body.get("logit_bias")
    if isinstance(bias, dict):
        body["logit_bias"] = {str(token): value for token, value in bias.items()}
    if method == "create_completion" and "max_tokens" in body and body["max_tokens"] is None:
        body["max_tokens"] = -1  # here null is no default, but no limit
    return body


#: Methods that ask the model, and what kind of call they are.
_METHODS: Mapping[str, Endpoint] = {
    "create_chat_completion": "chat",
    "create_completion": "completion",
    "create_embedding": "embedding",
    "embed": "embedding",
}


def llama_cpp_module(find_session: Callable[[], Session]) -> ModuleType:
    """A module to hand to a program in place of ``llama_cpp``, which need not be installed.

    Args:
        find_session: Says whose the calls of a ``Llama`` made from it are.
    """
    module = ModuleType(_NAME, "swarm_repro's stand-in: calls go through a session.")

    class Llama(_StandIn):
        """``llama_cpp.Llama`` under a session."""

        _find_session = staticmethod(find_session)

    module.Llama = Llama  # type: ignore[attr-defined]
    module.LlamaGrammar = _Grammar  # type: ignore[attr-defined]
    return module


class _Grammar:
    """``llama_cpp.LlamaGrammar`` as far as it is known without llama.cpp: its text."""

    def __init__(self, source: str) -> None:
        self._grammar = source

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> _Grammar:
        """A grammar from GBNF."""
        del verbose
        return cls(grammar)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> _Grammar:
        """Not possible: llama-cpp-python has the converter.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "LlamaGrammar.from_json_schema needs llama-cpp-python, which is not installed: give "
            "the schema as response_format={'type': 'json_object', 'schema': …} instead"
        )

    @classmethod
    def from_file(cls, file: str | Path, verbose: bool = True) -> _Grammar:
        """A grammar from a GBNF file."""
        del verbose
        return cls(Path(file).read_text(encoding="utf-8"))


class _StandIn:
    """The part of ``llama_cpp.Llama`` that completes."""

    _find_session: Callable[[], Session]

    def __init__(self, model_path: str | Path, **settings: object) -> None:
        """Take the arguments of ``llama_cpp.Llama``."""
        self._calls = _made(self._find_session(), {"model_path": model_path, **settings})

    def create_chat_completion(
        self, messages: Sequence[Mapping[str, object]], **fields: object
    ) -> object:
        """As ``llama_cpp.Llama.create_chat_completion``."""
        return self._ask("create_chat_completion", messages=[dict(m) for m in messages], **fields)

    def create_completion(self, prompt: str | Sequence[int], **fields: object) -> object:
        """As ``llama_cpp.Llama.create_completion``."""
        given = prompt if isinstance(prompt, str) else list(prompt)
        return self._ask("create_completion", prompt=given, **fields)

    __call__ = create_completion

    def create_embedding(self, input: str | list[str], model: str | None = None) -> object:
        """As ``llama_cpp.Llama.create_embedding``."""
        return self._ask("create_embedding", input=input, model=model)

    def embed(self, input: str | list[str], **fields: object) -> object:
        """As ``llama_cpp.Llama.embed``."""
        return self._ask("embed", input=input, **fields)

    def set_seed(self, seed: int) -> None:
        """As ``llama_cpp.Llama.set_seed``."""
        self._calls.seed = normalise_seed(seed)

    def reset(self) -> None:
        """Nothing: every call begins anew."""

    def set_cache(self, cache: object) -> None:
        """Nothing: what was asked before never changes an answer."""

    def close(self) -> None:
        """Nothing: the model is shared."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name == "_calls":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._find_session().refuse(_needs_model(name))

    def _ask(self, method: str, **fields: object) -> object:
        session = self._find_session()
        return self._calls.ask(session, _METHODS[method], method, fields)


def _needs_model(name: str) -> str:
    return (
        f"the program used {name} of llama_cpp.Llama, which needs the model and is not recorded: "
        "use it outside the cassette, or install llama-cpp-python and do not replay"
    )


def _made(session: Session, settings: Mapping[str, Any]) -> LlamaCalls:
    try:
        return LlamaCalls(settings)
    except SwarmReproError as error:
        session.reject(error)


def _present_session() -> Session:
    interceptor = present_interceptor()
    if interceptor is None:
        raise UsageError(
            "llama-cpp-python is not installed, and no cassette is in use: run: pip install "
            "'swarm-repro[llama_cpp]'"
        )
    return interceptor.session


_lock = threading.RLock()
_blocks = 0
_patched: list[ModuleType] = []


@contextmanager
def intercept_llama_cpp() -> Iterator[None]:
    """Let every ``Llama`` ask the interceptor that is present, while the block runs.

    One that was imported before is changed once and for good: with no interceptor in place it does
    what it always did. One that is imported in the block is changed then; where llama-cpp-python
    is not installed a stand-in takes its place until the last block ends.
    """
    global _blocks
    with _lock:
        _blocks += 1
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        if _NAME in sys.modules:
            _patch(sys.modules[_NAME])
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                sys.meta_path.remove(_FINDER)
                if isinstance(getattr(sys.modules.get(_NAME), "__loader__", None), _StandInLoader):
                    del sys.modules[_NAME]


class _Finder(ImportHook):
    """Finds ``llama_cpp`` where it is installed and changes it, else the stand-in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See ``ImportHook``."""
        if fullname != _NAME or path is not None:
            return None
        found = super().find_spec(fullname, path, target)
        if found is not None and found.loader is not None:
            return found
        return importlib.machinery.ModuleSpec(_NAME, _StandInLoader())


def _load(real: Loader, module: ModuleType) -> None:
    real.exec_module(module)
    _patch(module)


class _StandInLoader(Loader):
    """Makes the stand-in."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The stand-in, for whichever session is present."""
        del spec
        return llama_cpp_module(_present_session)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is made."""


_FINDER = _Finder(_NAME.__eq__, _load)


def _patch(module: ModuleType) -> None:
    with _lock:
        if module in _patched or not hasattr(module, "Llama"):
            return
        if isinstance(getattr(module, "__loader__", None), _StandInLoader):
            return
        _patched.append(module)
    llama = module.Llama
    _patch_init(llama)
    for name, endpoint in _METHODS.items():
        setattr(llama, name, _asking(getattr(llama, name), name, endpoint))
    llama.__call__ = _asking(llama.__call__, "create_completion", "completion")
    for name in ("close", "reset", "set_cache"):
        setattr(llama, name, _idle_while_waiting(getattr(llama, name)))
    llama.set_seed = _seeding(llama.set_seed)


def _patch_init(llama: Any) -> None:
    original = llama.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: object, **kwargs: object) -> None:
        interceptor = present_interceptor()
        if interceptor is None:
            original(self, *args, **kwargs)
            return
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        settings = {**given.pop("kwargs", {}), **given}
        settings.pop("self", None)
        self.__dict__[_CALLS] = _made(interceptor.session, settings)
        self.__dict__[_WAITING] = lambda: original(self, *args, **kwargs)

    def missing(self: Any, name: str) -> object:
        """What the constructor makes, wanted of an instance that waits for it."""
        if name.startswith("__") or _WAITING not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        interceptor = present_interceptor()
        if interceptor is not None and not interceptor.session.mode.calls_model:
            interceptor.session.refuse(_needs_model(name.strip("_")))
        _complete(self)
        return getattr(self, name)

    llama.__init__ = init
    llama.__getattr__ = missing


def _complete(llama: Any) -> None:
    """Load a model that was made in a block and is used outside it."""
    with _lock:
        waiting = llama.__dict__.pop(_WAITING, None)
        if waiting is not None:
            with own_traffic():
                waiting()


def _calls_of(llama: Any, session: Session) -> LlamaCalls:
    calls = llama.__dict__.get(_CALLS)
    if calls is None:
        try:
            settings = _settings_of(llama)  # it was made before the block
        except AttributeError as error:
            session.reject(
                UsageError(
                    "this release of llama-cpp-python does not tell how a Llama was made "
                    f"({error}): make it inside the block"
                )
            )
        calls = llama.__dict__[_CALLS] = _made(session, settings)
    made: LlamaCalls = calls
    return made


def _settings_of(llama: Any) -> dict[str, Any]:
    """What an instance was made with, as far as it is no default."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(type(llama).__init__).parameters.items()
    }
    return {
        name: value
        for name, value in llama.__getstate__().items()
        if value != defaults.get(name)
        and not (name == "chat_format" and str(value).startswith(_FROM_FILE))
        and name in defaults
    }


def _asking(original: Any, method: str, endpoint: Endpoint) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def ask(self: Any, *args: object, **kwargs: object) -> object:
        interceptor = present_interceptor()
        if interceptor is None:
            _complete(self)
            return original(self, *args, **kwargs)
        fields = dict(signature.bind(self, *args, **kwargs).arguments)
        del fields["self"]
        calls = _calls_of(self, interceptor.session)
        return calls.ask(interceptor.session, endpoint, method, fields)

    return ask


def _idle_while_waiting(original: Any) -> Any:
    @functools.wraps(original)
    def idle(self: Any, *args: object, **kwargs: object) -> object:
        return None if _WAITING in self.__dict__ else original(self, *args, **kwargs)

    return idle


def _seeding(original: Any) -> Any:
    @functools.wraps(original)
    def set_seed(self: Any, seed: int) -> None:
        if _CALLS in self.__dict__:
            self.__dict__[_CALLS].seed = normalise_seed(seed)
        if _WAITING not in self.__dict__:
            original(self, seed)

    return set_seed
