"""One setting under measurement: its servers, its reference answers, and the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from swarm_repro.audit.askers import Asker, InProcessAsker, OnAnswer, ServerAsker
from swarm_repro.audit.prompts import Prompt
from swarm_repro.audit.settings import IN_PROCESS, Setting, Variant
from swarm_repro.backends.llama_cpp import LlamaCpp, unload_models
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.errors import BackendError, SwarmReproError, UsageError
from swarm_repro.model import ModelBinding
from swarm_repro.request import Request
from swarm_repro.serving.llama_server import running_server
from swarm_repro.serving.state import StartedServer, find_started_server

#: Prompt batch in process; the servers' physical batch by default.
_IN_PROCESS_BATCH: Final = 512


class NotStartedError(BackendError):
    """A server, or the model in process, could not be started."""


@dataclass
class Bench:
    """What all settings of one audit share.

    Attributes:
        model_path: The GGUF.
        binding: The model, by its digest.
        threads: Threads of every server, but where an experiment changes them.
        n_ctx: Context of every server, in tokens.
        repeat: Answers to compare in an experiment that repeats.
        prompts: What is asked, the longest first.
        binary: The llama-server; None to find one.
        second_binary: Another llama-server to compare with.
        devices: GPUs that llama.cpp sees.
        in_process: None, or why there is no measuring in process.
        seed_setting: Name of the setting with which odd seeds are tried.
        on_answer: Told of each answer.
        on_server: Told of each server that is ready.
        environment: This machine and the first server's build, once one has answered.
        unknown: Why the environment could not be found out, if so.
        started: How many servers have become ready.
    """

    model_path: Path
    binding: ModelBinding
    threads: int
    n_ctx: int
    repeat: int
    prompts: tuple[Prompt, ...]
    binary: Path | None = None
    second_binary: Path | None = None
    devices: tuple[str, ...] = ()
    in_process: str | None = None
    seed_setting: str = ""
    on_answer: OnAnswer = lambda _weight: None
    on_server: Callable[[StartedServer], None] = lambda _server: None
    environment: Environment | None = None
    unknown: str | None = None
    started: int = 0
    _labs: dict[str, Lab] = field(default_factory=dict)

    def lab(self, setting: Setting) -> Lab:
        """The lab of a setting, the same one each time."""
        return self._labs.setdefault(setting.name, Lab(self, setting))

    @property
    def labs(self) -> Sequence[Lab]:
        """The labs there are so far."""
        return list(self._labs.values())

    def learn(self, server: StartedServer) -> None:
        """Take note of the build and the machine, once; it costs the server a small request."""
        if self.environment is not None or self.unknown is not None:
            return
        try:
            with closing(LlamaServer(server.base_url, started=find_started_server)) as client:
                found = client.identify(self.model_path.name).environment
        except SwarmReproError as error:
            self.unknown = str(error)
            return
        if found is not None:
            # Flags and slots differ from setting to setting, and are told with each.
            self.environment = replace(
                found,
                content={
                    **found.content,
                    "devices": list(self.devices),
                    "flags": None,
                    "settings": {},
                },
            )


class Lab:
    """A setting, and what experiments need to measure it.

    Attributes:
        bench: What it shares with other settings.
        setting: The setting.
        seconds: Spent between a server's readiness and its end, since ``take_seconds``.
    """

    def __init__(self, bench: Bench, setting: Setting) -> None:
        """Begin with nothing known."""
        self.bench = bench
        self.setting = setting
        self.seconds = 0.0
        self._reference: Mapping[str, Completion] | None = None
        self._failed_starts = 0
        self._has_started = False
        self._why_not_started = ""

    @property
    def longest(self) -> Prompt:
        """The longest prompt."""
        return self.bench.prompts[0]

    @property
    def shortest(self) -> Prompt:
        """The shortest prompt."""
        return self.bench.prompts[-1]

    @property
    def is_in_process(self) -> bool:
        """Whether the model runs in this process."""
        return self.setting.profile is None

    @property
    def flags(self) -> tuple[str, ...]:
        """The setting's flags for llama-server."""
        return self.setting.flags(threads=self.bench.threads, n_ctx=self.bench.n_ctx)

    @property
    def known_reference(self) -> Mapping[str, Completion]:
        """The reference answers, if they have been asked for; empty else."""
        return self._reference or {}

    def take_seconds(self) -> float:
        """The seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def reference(self) -> Mapping[str, Completion]:
        """The answers of a fresh server to all prompts in order, by the prompt's name.

        Asked once; asked again if that failed.

        Raises:
            BackendError: A server could not be started, or gave no completion.
        """
        if self._reference is None:
            before = self.seconds
            with self.open() as asker:
                self._reference = {prompt.name: asker.ask(prompt) for prompt in self.bench.prompts}
            self.seconds = before
        return self._reference

    @contextmanager
    def open(self, variant: Variant | None = None) -> Iterator[Asker]:
        """Start a server, or load the model, for the length of a ``with`` block.

        Args:
            variant: What is changed in the setting.

        Raises:
            NotStartedError: It could not be started.
        """
        # Once may be another program that took the port; twice is the flags, or the model.
        if self._failed_starts >= 2:
            raise NotStartedError(self._why_not_started)
        with ExitStack() as stack:
            try:
                asker = stack.enter_context(
                    self._loaded() if self.is_in_process else self._served(variant)
                )
            except SwarmReproError as error:
                if variant is None and not self._has_started:
                    self._failed_starts += 1
                    self._why_not_started = str(error)
                raise NotStartedError(str(error)) from error
            self._has_started = True
            began = time.monotonic()
            try:
                yield asker
            finally:
                self.seconds += time.monotonic() - began

    @contextmanager
    def _served(self, variant: Variant | None) -> Iterator[Asker]:
        bench, setting = self.bench, self.setting
        changed = variant or Variant(what="nothing")
        if setting.profile is None:
            raise UsageError(f"{setting.name} is no setting of a server")
        with running_server(
            bench.model_path,
            profile=setting.profile,
            threads=changed.threads or bench.threads,
            n_ctx=bench.n_ctx,
            binary=changed.binary or bench.binary,
            extra_flags=(*setting.more_flags, *changed.flags),
        ) as server:
            bench.started += 1
            bench.on_server(server)
            asker = ServerAsker(
                server,
                binding=bench.binding,
                request=setting.request,
                on_answer=bench.on_answer,
            )
            with closing(asker):
                yield asker
                # Last, since it asks the server something.
                if changed.binary is None:
                    bench.learn(server)

    @contextmanager
    def _loaded(self) -> Iterator[Asker]:
        bench = self.bench
        if bench.in_process is not None:
            raise UsageError(bench.in_process)
        model = LlamaCpp(
            bench.model_path,
            n_ctx=bench.n_ctx,
            n_threads=bench.threads,
            n_batch=_IN_PROCESS_BATCH,
            flash_attn=False,
        )
        try:
            # Loads the model, so that loading is not counted as answering.
            model.send(
                Request(
                    "completion",
                    bench.binding,
                    model.paths["completion"],
                    {"prompt": ".", "max_tokens": 1, "seed": 1},
                )
            )
            yield InProcessAsker(model, binding=bench.binding, on_answer=bench.on_answer)
        finally:
            unload_models()


def in_process_reference(bench: Bench) -> Mapping[str, Completion]:
    """The answers of llama-cpp-python to all prompts.

    Raises:
        BackendError: It could not be loaded, or gave no completion.
    """
    return bench.lab(IN_PROCESS).reference()
