"""A stand-in for the module ``llama_cpp``: the real one need not be installed to replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import orjson

from swarm_repro.backends.llama_cpp import LlamaCpp
from swarm_repro.errors import SwarmReproError
from swarm_repro.request import Endpoint, normalise_seed
from swarm_repro.session import Session


def llama_cpp_module(session: Session) -> ModuleType:
    """A module to hand to a program in place of ``llama_cpp``.

    Args:
        session: Decides about the calls of every ``Llama`` made from it.
    """
    module = ModuleType("llama_cpp", "swarm_repro's stand-in: calls go through a session.")

    class Llama(InterceptedLlama):
        """``llama_cpp.Llama`` under a session."""

        _session = session

    module.Llama = Llama  # type: ignore[attr-defined]
    return module


class InterceptedLlama:
    """The part of ``llama_cpp.Llama`` that completes: nothing is loaded before a call needs it."""

    _session: Session

    def __init__(
        self,
        model_path: str | Path,
        *,
        seed: int | None = None,
        n_ctx: int = 512,
        verbose: bool = True,
        **settings: object,
    ) -> None:
        """Take the arguments of ``llama_cpp.Llama``.

        Args:
            model_path: The GGUF file; its base name is the model's name in the cassette.
            seed: Seed of every call that has none of its own.
            n_ctx: Context window, in tokens.
            verbose: Ignored: llama.cpp stays silent.
            **settings: Other context settings.
        """
        del verbose
        try:
            self._seed = normalise_seed(seed)
            self._backend = LlamaCpp(model_path, n_ctx=n_ctx, **settings)  # type: ignore[arg-type]
        except SwarmReproError as error:
            self._session.reject(error)

    def create_chat_completion(
        self, messages: Sequence[Mapping[str, object]], **fields: object
    ) -> object:
        """As ``llama_cpp.Llama.create_chat_completion``."""
        return self._ask("chat", {"messages": [dict(m) for m in messages], **fields})

    def create_completion(self, prompt: str | Sequence[int], **fields: object) -> object:
        """As ``llama_cpp.Llama.create_completion``."""
        given = prompt if isinstance(prompt, str) else list(prompt)
        return self._ask("completion", {"prompt": given, **fields})

    __call__ = create_completion

    def _ask(self, endpoint: Endpoint, body: dict[str, object]) -> object:
        completion = self._session.call(
            self._backend,
            endpoint=endpoint,
            model=self._backend.name,
            path=LlamaCpp.paths[endpoint],
            body=body,
            default_seed=self._seed,
        )
        return orjson.loads(completion.body)
