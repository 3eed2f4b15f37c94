"""Hooks into SWARM, in memory only: whose call it is, what for, where in the simulation.

SWARM 1.9.0 has no plugin system. The names wrapped here are listed in
docs/explanation/architecture.md; a release that renames one fails loudly at ``install``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from swarm_repro.caller import calling_for, scope
from swarm_repro.cassette.records import At
from swarm_repro.errors import ScenarioError
from swarm_repro.session import Session
from swarm_repro.simulation.plan import Served
from swarm_repro.simulation.scenario import caller_seed

_STAGES = {"_stage_collect": "collect", "_stage_rank": "rank", "_stage_synthesize": "synthesize"}
_KINDS = {
    "act": "act",
    "act_async": "act",
    "accept_interaction": "accept",
    "accept_interaction_async": "accept",
}
_CHECKED = ("_execute_action", "_complete_interaction")


class SwarmHooks:
    """What the hooks saw: the orchestrator of the run."""

    def __init__(self, event_log: Path, *, served: Served) -> None:
        """Make hooks that are not installed yet.

        Args:
            event_log: Where this run's event log goes.
            served: Where calls go, where that is not what the scenario says.
        """
        self.event_log = event_log
        self.served = served
        self.orchestrator: Any = None

    def position(self) -> At | None:
        """Epoch and step of the simulation, once there is one."""
        if self.orchestrator is None:
            return None
        state = self.orchestrator.state
        return (int(state.current_epoch), int(state.current_step))

    @contextmanager
    def install(self, session: Session) -> Iterator[None]:
        """Wrap SWARM's functions while the block runs.

        Args:
            session: Told apart by scope; checked before each action, since SWARM goes on after a
                call that raised.

        Raises:
            ScenarioError: This release of SWARM lacks a name that is wrapped.
        """
        loader = importlib.import_module("swarm.scenarios.loader")
        agent = importlib.import_module("swarm.agents.llm_agent").LLMAgent
        council = importlib.import_module("swarm.council.protocol").Council
        wrapped: list[tuple[object, str, Any]] = []

        def wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
            original = getattr(owner, name, None)
            if original is None:
                raise ScenarioError(f"this swarm-safety has no {name}; install swarm-safety==1.9.0")
            wrapped.append((owner, name, original))
            setattr(owner, name, functools.wraps(original)(wrapper(original)))

        try:
            wrap(loader, "load_scenario", self._with_event_log)
            wrap(loader, "build_orchestrator", lambda f: self._noting(f, session))
            wrap(loader, "parse_llm_config", self._configuring)
            wrap(agent, "_call_llm_async", _in_scope)
            for name, kind in _KINDS.items():
                wrap(agent, name, _for(kind, asynchronous=name.endswith("_async")))
            for name, kind in _STAGES.items():
                wrap(council, name, _for(kind, asynchronous=True))
            yield
        finally:
            for owner, name, original in reversed(wrapped):
                setattr(owner, name, original)

    def _with_event_log(self, load: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def load_scenario(path: Path) -> Any:
            scenario = load(path)
            # SWARM appends to its event log, so each run starts its own.
            scenario.orchestrator_config.log_path = self.event_log
            scenario.orchestrator_config.log_events = True
            return scenario

        return load_scenario

    def _configuring(self, parse: Callable[[Mapping[str, object]], Any]) -> Callable[..., Any]:
        def parse_llm_config(data: Mapping[str, object]) -> Any:
            config = parse(self._as_served(data))
            # SWARM drops ``llm.seed`` without a word: carry it on the configuration it builds.
            config.caller_seed = caller_seed(data, "llm")
            return config

        return parse_llm_config

    def _as_served(self, data: Mapping[str, object]) -> Mapping[str, object]:
        served = self.served
        if not data.get("model_path"):
            return data if served.base_url is None else {**data, "base_url": served.base_url}
        here = {} if served.model_path is None else {"model_path": str(served.model_path)}
        threads = {} if served.threads is None else {"n_threads": served.threads}
        return {**data, **here, **threads}

    def _noting(self, build: Callable[[Any], Any], session: Session) -> Callable[[Any], Any]:
        def build_orchestrator(scenario: Any) -> Any:
            orchestrator = build(scenario)
            for name in _CHECKED:
                method = getattr(orchestrator, name)
                setattr(orchestrator, name, _unless_tripped(method, session))
            self.orchestrator = orchestrator
            return orchestrator

        return build_orchestrator


def _unless_tripped(method: Callable[..., Any], session: Session) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if session.tripped is not None:
            raise session.tripped
        return method(*args, **kwargs)

    return checked


def _in_scope(call: Callable[..., Any]) -> Callable[..., Any]:
    """A model call belongs to the agent that makes it: a council member has its own name."""

    async def _call_llm_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        seed = getattr(self.llm_config, "caller_seed", None)
        with scope(self.agent_id, seed=seed):
            return await call(self, *args, **kwargs)

    return _call_llm_async


def _for(kind: str, *, asynchronous: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def block() -> AbstractContextManager[None]:
        return calling_for(kind)

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        if asynchronous:

            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with block():
                    return await method(*args, **kwargs)

            return call_async

        def call(*args: Any, **kwargs: Any) -> Any:
            with block():
                return method(*args, **kwargs)

        return call

    return wrap
