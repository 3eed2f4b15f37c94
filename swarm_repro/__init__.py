"""Record multi-agent LLM simulations on llama.cpp once, replay them bit for bit.

The names below are public; each is imported when it is first used, so that
``import swarm_repro`` costs next to nothing and pulls in neither openai nor llama_cpp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from swarm_repro.backends.llama_cpp import LlamaCpp
    from swarm_repro.backends.llama_server import LlamaServer
    from swarm_repro.caller import scope
    from swarm_repro.completion import Completion, TokenUsage
    from swarm_repro.errors import ExitCode, ReplayMiss, SessionTripped, SwarmReproError
    from swarm_repro.mode import Mode
    from swarm_repro.serving.health import check_llama_server, require_llama_server
    from swarm_repro.session import Session
    from swarm_repro.use import use_cassette

_HOMES = {
    "Completion": "completion",
    "ExitCode": "errors",
    "LlamaCpp": "backends.llama_cpp",
    "LlamaServer": "backends.llama_server",
    "Mode": "mode",
    "ReplayMiss": "errors",
    "Session": "session",
    "SessionTripped": "errors",
    "SwarmReproError": "errors",
    "TokenUsage": "completion",
    "check_llama_server": "serving.health",
    "require_llama_server": "serving.health",
    "scope": "caller",
    "use_cassette": "use",
}

__all__ = [
    "Completion",
    "ExitCode",
    "LlamaCpp",
    "LlamaServer",
    "Mode",
    "ReplayMiss",
    "Session",
    "SessionTripped",
    "SwarmReproError",
    "TokenUsage",
    "check_llama_server",
    "require_llama_server",
    "scope",
    "use_cassette",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
