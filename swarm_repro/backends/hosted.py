"""A host of which nothing is known but its name: hosted services, and questions beside."""

from __future__ import annotations

from collections.abc import Callable

from swarm_repro.backends.base import Bound
from swarm_repro.completion import Completion
from swarm_repro.environment import describe_environment
from swarm_repro.errors import BackendError, StrictModeError
from swarm_repro.model import hosted_binding
from swarm_repro.request import Request


class Hosted:
    """A backend that is only ever asked over the program's own connection."""

    def __init__(self, host: str, *, asks_model: bool) -> None:
        """Name a host.

        Args:
            host: Its name, without a port.
            asks_model: Whether it is asked for completions, which strict mode cannot promise
                anything of.
        """
        self._host = host
        self._asks_model = asks_model

    @property
    def address(self) -> str:
        """Its name."""
        return f"{'model' if self._asks_model else 'host'}:{self._host}"

    def identify(self, name: str) -> Bound:
        """Nothing is contacted: a host has its name."""
        del name
        return Bound(
            binding=hosted_binding(self._host),
            environment=describe_environment(
                backend="hosted", build=None, binary_sha256=None, local=False
            ),
        )

    def strict_fields(self) -> dict[str, object]:
        """None: another API may not know them."""
        return {}

    def check_strict(self) -> None:
        """Refuse completions of which nothing is known.

        Raises:
            StrictModeError: It is asked for completions.
        """
        if self._asks_model:
            raise StrictModeError(
                f"what computes behind {self._host} is not known, so strict mode can promise "
                "nothing of it: turn strict off, or use a llama-server's own endpoints"
            )

    def send(self, request: Request) -> Completion:
        """Not possible: keys and headers are the program's own.

        Raises:
            BackendError: Always.
        """
        raise BackendError(
            f"{request.path} of {self._host} can only be asked by the program that recorded it"
        )

    def render(self, request: Request) -> Callable[[], str | None]:
        """The prompt is not shown."""
        del request
        return lambda: None

    def close(self) -> None:
        """Nothing to close."""
