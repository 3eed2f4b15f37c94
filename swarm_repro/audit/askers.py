"""Asking a model: one real llama-server, or a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import Final, Protocol

from swarm_repro.audit.prompts import Prompt
from swarm_repro.backends.base import DirectCalls
from swarm_repro.backends.llama_cpp import LlamaCpp
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.completion import Completion, require_completion
from swarm_repro.errors import BackendError, BackendUnreachableError
from swarm_repro.model import ModelBinding
from swarm_repro.request import Request
from swarm_repro.serving.state import StartedServer, verified_process

#: Top candidates a place is asked for: they show how near a tie was.
TOP_LOGPROBS: Final = 5

#: Called with the weight of each request that was answered.
OnAnswer = Callable[[float], None]


class Asker(Protocol):
    """Something that answers prompts."""

    def ask(self, prompt: Prompt, **fields: object) -> Completion:
        """Ask one prompt.

        Args:
            prompt: The prompt.
            **fields: Request fields to set; None leaves one out.

        Raises:
            BackendError: There was no completion.
        """

    def ask_together(self, prompts: Sequence[Prompt], *, threads: int) -> list[Completion]:
        """Ask several prompts from several threads; answers in the order of the prompts.

        Raises:
            BackendError: One of them got no completion.
        """


class ServerAsker:
    """Asks a llama-server that was started for it."""

    def __init__(
        self,
        server: StartedServer,
        *,
        binding: ModelBinding,
        request: Mapping[str, object],
        on_answer: OnAnswer,
    ) -> None:
        """Make a client.

        Args:
            server: The server.
            binding: The model it has.
            request: Fields that every request has.
            on_answer: Told of each answer.
        """
        self._server = server
        self._binding = binding
        self._request = dict(request)
        self._on_answer = on_answer
        self._client = LlamaServer(server.base_url)

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def ask(self, prompt: Prompt, **fields: object) -> Completion:
        """See ``Asker``."""
        return self._ask(self._client, prompt, fields)

    def ask_together(self, prompts: Sequence[Prompt], *, threads: int) -> list[Completion]:
        """See ``Asker``."""
        with ExitStack() as stack:
            clients: SimpleQueue[LlamaServer] = SimpleQueue()
            for _ in range(threads):
                clients.put(stack.enter_context(closing(LlamaServer(self._server.base_url))))

            def ask_alone(prompt: Prompt) -> Completion:
                client = clients.get()
                try:
                    return self._ask(client, prompt, {})
                finally:
                    clients.put(client)

            return _together(ask_alone, prompts, threads)

    def _ask(self, client: LlamaServer, prompt: Prompt, fields: Mapping[str, object]) -> Completion:
        body = {**prompt.body, **self._request, **_with_logprobs(prompt), **fields}
        try:
            answer = _send(client, self._binding, prompt, body)
        except BackendError as error:
            if verified_process(self._server) is None:
                raise BackendError(
                    f"llama-server (process {self._server.pid}) ended while it was asked; its log"
                    f" is {self._server.log_path}"
                ) from error
            if isinstance(error, BackendUnreachableError):
                raise BackendError(
                    f"llama-server (process {self._server.pid}) broke the connection, but is"
                    f" still there; its log is {self._server.log_path}"
                ) from error
            raise
        if answer.is_stream:
            # llama-server may end a connection that it has streamed over just when the next
            # request goes out on it.
            client.close()
        self._on_answer(prompt.weight)
        return answer


class InProcessAsker:
    """Asks llama-cpp-python, without logprobs: they need another way of computing there."""

    def __init__(self, model: LlamaCpp, *, binding: ModelBinding, on_answer: OnAnswer) -> None:
        """Use a model.

        Args:
            model: The model; it is loaded at the first call.
            binding: Its identity.
            on_answer: Told of each answer.
        """
        self._model = model
        self._binding = binding
        self._on_answer = on_answer

    def ask(self, prompt: Prompt, **fields: object) -> Completion:
        """See ``Asker``."""
        answer = _send(self._model, self._binding, prompt, {**prompt.body, **fields})
        self._on_answer(prompt.weight)
        return answer

    def ask_together(self, prompts: Sequence[Prompt], *, threads: int) -> list[Completion]:
        """See ``Asker``; calls take turns, as all calls in process do."""
        return _together(self.ask, prompts, threads)


def _with_logprobs(prompt: Prompt) -> dict[str, object]:
    if prompt.endpoint == "chat":
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return {"logprobs": TOP_LOGPROBS}


def _send(
    backend: DirectCalls, binding: ModelBinding, prompt: Prompt, body: Mapping[str, object]
) -> Completion:
    path = backend.paths[prompt.endpoint]
    given = {name: value for name, value in body.items() if value is not None}
    answer = backend.send(Request(prompt.endpoint, binding, path, given))
    require_completion(answer, url=path)
    return answer


def _together(
    ask: Callable[[Prompt], Completion], prompts: Sequence[Prompt], threads: int
) -> list[Completion]:
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="audit")
    try:
        return list(pool.map(ask, prompts))
    finally:
        # Not waited for: when this ends early, the server is about to be ended, and with it they.
        pool.shutdown(wait=False, cancel_futures=True)
