"""A stand-in for llama-cpp-python, for tests of this package's code around it.

What the real library answers is tested against the real one, in ``tests/live``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from swarm_repro.backends.llama_cpp import unload_models
from swarm_repro.caller import is_own_traffic


class Number:
    """As numpy's numbers are: no float, but with one inside."""

    def __init__(self, value: float) -> None:
        self._value = value

    def item(self) -> float:
        return self._value


class Llama:
    """Writes down what is done with it.

    Attributes:
        made: All that were made, in order.
        metadata: What the file says.
        chat_format: The format in use.
        answer: What calls return; an error is raised.
    """

    made: ClassVar[list[Llama]] = []
    metadata: ClassVar[dict[str, str]] = {"tokenizer.chat_template": "{{ messages }}"}
    chat_format: ClassVar[str] = "chat_template.default"
    answer: ClassVar[Any] = None
    refuses: ClassVar[Exception | None] = None

    def __init__(self, **settings: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.settings = settings
        self.n_threads = settings.get("n_threads") or 8
        self.n_threads_batch = settings.get("n_threads_batch") or 16
        self.done: list[Any] = []
        self.as_own_traffic = is_own_traffic()
        self.made.append(self)

    def reset(self) -> None:
        self.done.append("reset")

    def set_cache(self, cache: object) -> None:
        self.done.append(("set_cache", cache))

    def close(self) -> None:
        self.done.append("close")

    def create_chat_completion(
        self,
        messages: object = None,
        temperature: float = 0.2,
        top_k: int = 40,
        stop: list[str] = [],  # noqa: B006 - the real one has it
        seed: int | None = None,
        stream: bool = False,
        **more: object,
    ) -> Any:
        return self._answer(
            "create_chat_completion",
            {"messages": messages, "seed": seed, "stream": stream, **more},
        )

    def create_completion(self, prompt: object, top_p: float = 0.95, **more: object) -> Any:
        return self._answer("create_completion", {"prompt": prompt, **more})

    def create_embedding(self, **given: object) -> Any:
        return self._answer("create_embedding", given)

    def embed(self, **given: object) -> Any:
        return self._answer("embed", given)

    def _answer(self, name: str, given: dict[str, object]) -> Any:
        self.done.append((name, {k: v for k, v in given.items() if v is not None}))
        self.done.append(is_own_traffic())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        self.done.append((add_bos, special))
        return list(text)

    def detokenize(self, tokens: list[int]) -> bytes:
        return bytes(tokens)


class LlamaGrammar:
    def __init__(self, source: str) -> None:
        self.source = source

    @classmethod
    def from_json_schema(cls, schema: str, *, verbose: bool) -> LlamaGrammar:
        assert not verbose
        if "nowhere" in schema:
            raise KeyError("nowhere")
        return cls(schema)

    @classmethod
    def from_string(cls, source: str, *, verbose: bool) -> LlamaGrammar:
        assert not verbose
        return cls(source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LlamaGrammar) and other.source == self.source

    def __hash__(self) -> int:
        return hash(self.source)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Llama]]:
    """The stand-in, as if it were installed in a folder with two libraries beside it."""
    package = tmp_path / "site" / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    for name in ("libllama.so", "libggml.dylib", "readme.txt"):
        (package / "lib" / name).write_bytes(name.encode())
    module: Any = ModuleType("llama_cpp")
    module.__file__ = str(package / "__init__.py")
    module.__version__ = "9.8.7"
    module.Llama, module.LlamaGrammar = Llama, LlamaGrammar
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    for name in ("metadata", "chat_format", "answer", "refuses"):
        monkeypatch.setattr(Llama, name, getattr(Llama, name))
    Llama.made.clear()
    unload_models()
    yield Llama
    unload_models()
