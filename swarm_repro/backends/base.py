"""What a backend is, and how one is used directly."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from swarm_repro.completion import Completion, require_completion
from swarm_repro.environment import Environment
from swarm_repro.model import ModelBinding
from swarm_repro.request import Endpoint, Request


@dataclass(frozen=True)
class Bound:
    """A model name, bound: which model answers, and where.

    Attributes:
        binding: The model.
        environment: The machine and build; None in replay, where nothing answers.
    """

    binding: ModelBinding
    environment: Environment | None


class Backend(Protocol):
    """Calls a real model, and says which one it is."""

    @property
    def address(self) -> str:
        """What tells this backend from another one, within a session."""

    def identify(self, name: str) -> Bound:
        """Find out which model answers.

        Args:
            name: The name the application uses for it.

        Raises:
            BackendError: The backend cannot be reached or does not answer as it should.
            ModelFileError: The model's file is missing or is not GGUF.
        """

    def strict_fields(self) -> dict[str, object]:
        """Request fields that strict mode sets on every call."""

    def check_strict(self) -> None:
        """Refuse a backend that cannot keep what strict mode promises.

        Raises:
            StrictModeError: It has several slots, or a template that prints today's date.
        """

    def send(self, request: Request) -> Completion:
        """Call the model. Any answer is a completion here; the session judges it.

        Raises:
            BackendError: There was no answer.
        """

    def render(self, request: Request) -> Callable[[], str | None]:
        """Begin to find out the rendered prompt.

        Returns:
            A function that waits for its SHA-256; None where the backend does not show it.
        """

    def close(self) -> None:
        """Let go of connections and models."""


class Recorder(Protocol):
    """The part of a session that a backend used directly needs."""

    def call(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
    ) -> Completion:
        """Answer a call from the cassette, or by calling the model."""


class DirectCalls(ABC):
    """Chat and completion calls on a backend, with or without a session."""

    #: Path, or method in process, of each endpoint.
    paths: ClassVar[Mapping[Endpoint, str]]

    @property
    @abstractmethod
    def address(self) -> str:
        """See ``Backend``."""

    @abstractmethod
    def identify(self, name: str) -> Bound:
        """See ``Backend``."""

    @abstractmethod
    def strict_fields(self) -> dict[str, object]:
        """See ``Backend``."""

    @abstractmethod
    def check_strict(self) -> None:
        """See ``Backend``."""

    @abstractmethod
    def close(self) -> None:
        """See ``Backend``."""

    @abstractmethod
    def send(self, request: Request) -> Completion:
        """See ``Backend``."""

    @abstractmethod
    def render(self, request: Request) -> Callable[[], str | None]:
        """See ``Backend``."""

    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        model: str = "default",
        session: Recorder | None = None,
        **fields: object,
    ) -> Completion:
        """Ask for a chat completion.

        Args:
            messages: OpenAI chat messages.
            model: The model's name, which the cassette binds.
            session: Records or replays the call; without one the model is called.
            **fields: Any field the backend knows, such as ``temperature`` or ``seed``.

        Raises:
            BackendError: The call failed.
            ReplayMiss: The cassette does not hold it.
        """
        body = {"messages": [dict(message) for message in messages], **fields}
        return self._ask("chat", model, body, session)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        model: str = "default",
        session: Recorder | None = None,
        **fields: object,
    ) -> Completion:
        """Continue a prompt; arguments and errors as for ``chat``.

        Args:
            prompt: Text, or token ids.
            model: The model's name.
            session: Records or replays the call.
            **fields: Any field the backend knows.
        """
        given = prompt if isinstance(prompt, str) else list(prompt)
        return self._ask("completion", model, {"prompt": given, **fields}, session)

    async def chat_async(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        model: str = "default",
        session: Recorder | None = None,
        **fields: object,
    ) -> Completion:
        """As ``chat``, in a thread, so that the event loop is not blocked."""
        return await asyncio.to_thread(self.chat, messages, model=model, session=session, **fields)

    async def complete_async(
        self,
        prompt: str | Sequence[int],
        *,
        model: str = "default",
        session: Recorder | None = None,
        **fields: object,
    ) -> Completion:
        """As ``complete``, in a thread, so that the event loop is not blocked."""
        return await asyncio.to_thread(
            self.complete, prompt, model=model, session=session, **fields
        )

    def _ask(
        self,
        endpoint: Endpoint,
        model: str,
        body: dict[str, object],
        session: Recorder | None,
    ) -> Completion:
        path = self.paths[endpoint]
        if session is None:
            bound = self.identify(model)
            completion = self.send(Request(endpoint, bound.binding, path, body))
            require_completion(completion, url=path)
            return completion
        return session.call(self, endpoint=endpoint, model=model, path=path, body=body)
