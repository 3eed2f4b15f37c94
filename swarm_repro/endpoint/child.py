"""Running a command whose model calls go through the endpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from swarm_repro.errors import UsageError

#: Where clients look for a server: variables that take its ``/v1``, and those that take its root.
#: Source: the openai, anthropic, ollama, litellm and langchain-openai packages.
_BASE_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_ROOTS = ("ANTHROPIC_BASE_URL", "OLLAMA_HOST", "LLAMA_SERVER_URL")
#: Without one of these some clients do not start.
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_NO_PROXY = ("NO_PROXY", "no_proxy")
_LOOPBACK = "127.0.0.1,localhost"
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def child_environment(root: str, *, key: str | None) -> dict[str, str]:
    """The variables of a program whose clients shall find the endpoint.

    Args:
        root: The endpoint's root URL.
        key: API key for clients that want one, where none is set.
    """
    environment = dict(os.environ)
    environment.update(dict.fromkeys(_BASE_URLS, f"{root}/v1"))
    environment.update(dict.fromkeys(_ROOTS, root))
    for name in _KEYS:
        environment.setdefault(name, key or "none")
    for name in _NO_PROXY:
        environment[name] = ",".join(filter(None, [environment.get(name), _LOOPBACK]))
    return environment


def upstream_from_environment(variables: Mapping[str, str] = os.environ) -> str | None:
    """The server that the program's clients would ask without the endpoint, if one is named."""
    return next((variables[name] for name in _BASE_URLS if variables.get(name)), None)


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end; signals are the child's.

    Args:
        command: Program and arguments.
        environment: Its variables.

    Returns:
        Its exit code; 128 and the number of the signal that ended it.

    Raises:
        UsageError: It cannot be started.
    """
    try:
        child = subprocess.Popen(list(command), env=dict(environment))
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror or error}") from error
    with _forwarding(child):
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _forwarding(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        # What is typed on a terminal reaches the child as well.
        if number not in _FROM_TERMINAL or not os.isatty(0):
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    kept = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
