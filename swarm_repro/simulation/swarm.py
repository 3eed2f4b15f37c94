"""Letting unmodified SWARM run under a session."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from swarm_repro.errors import ScenarioError, SwarmReproError, UsageError
from swarm_repro.intercept.http import intercept_http
from swarm_repro.intercept.llama_cpp import llama_cpp_module
from swarm_repro.intercept.network import refuse_network
from swarm_repro.serving.health import require_llama_server
from swarm_repro.session import Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.entropy import Entropy
from swarm_repro.simulation.event_loop import in_place_event_loop
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.plan import Plan, Served
from swarm_repro.simulation.reexports import deferred_reexports
from swarm_repro.simulation.scenario import Scenario
from swarm_repro.simulation.taming import tamed
from swarm_repro.weights import require_gguf

_PACKAGE = "swarm"
#: SWARM's exports import `swarm.analysis`, which re-exports plotting functions that no run
#: calls. Importing matplotlib, which these two do, takes as long as the simulation.
DEFERRED = ("swarm.analysis.enhanced_dashboard", "swarm.analysis.trust_network")

#: A simulation uses some fifty of the 650 models that these packages of openai 3 define.
_OPENAI_TYPES = "openai.types"


def require_backends(
    scenario: Scenario, on_wait: Callable[[float], None] | None, *, served: Served
) -> None:
    """Look for what will be called before anything is."""
    for block in scenario.llms:
        if block.model_path is not None:
            require_gguf(served.model_path or Path(block.model_path))
    written = [block.base_url for block in scenario.llms if block.base_url]
    for url in dict.fromkeys(served.base_url or url for url in written):
        require_llama_server(url, on_wait=on_wait)


def simulate(plan: Plan, session: Session, hooks: SwarmHooks) -> str:
    """Let SWARM run the scenario.

    Returns:
        What SWARM printed.

    Raises:
        SessionTripped: A miss or a failed call.
        ScenarioError: SWARM refused the scenario.
    """
    printed, complaints = io.StringIO(), io.StringIO()
    modules = {"llama_cpp": llama_cpp_module(lambda: session)}
    arguments = argparse.Namespace(
        scenario=str(plan.scenario.path),
        seed=plan.seed,
        epochs=plan.epochs,
        steps=plan.steps,
        export_json=str(plan.out.resolve() / artifacts.HISTORY),
        export_csv=str(plan.out.resolve()),
        export_dolt=None,
        prompt_audit=str(plan.out.resolve() / artifacts.PROMPTS),
        prompt_audit_include_system=True,
        quiet=False,
    )
    with contextlib.ExitStack() as stack:
        if not plan.mode.calls_model:
            stack.enter_context(refuse_network(session))
        stack.enter_context(intercept_http(session))
        stack.enter_context(deferred_reexports(_OPENAI_TYPES))
        stack.enter_context(
            tamed([_PACKAGE], Entropy(plan.seed), modules=modules, deferred=DEFERRED)
        )
        swarm = _import_swarm()
        stack.enter_context(hooks.install(session))
        stack.enter_context(in_place_event_loop())
        stack.enter_context(_quiet_logging())
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(complaints))
        try:
            status = swarm.cmd_run(arguments)
        except SwarmReproError:
            raise
        except Exception as error:
            if session.tripped is not None:
                raise session.tripped from error
            raise ScenarioError(
                f"SWARM failed on {plan.scenario.path}: {type(error).__name__}: {error}"
            ) from error
    if session.tripped is not None:
        raise session.tripped
    if status != 0:
        raise ScenarioError(complaints.getvalue().strip().removeprefix("Error: "))
    return printed.getvalue()


def import_for_runs() -> None:
    """Import what every run imports, as a run does, so that processes forked later need not.

    Raises:
        ImportError: SWARM, or what it needs, is not installed.
    """
    importlib.import_module("pandas")
    with deferred_reexports(_OPENAI_TYPES), tamed([_PACKAGE], Entropy(0), deferred=DEFERRED):
        importlib.import_module("openai.resources.chat.completions")
        for name in ("__main__", "scenarios.loader", "agents.llm_agent", "analysis.export"):
            importlib.import_module(f"{_PACKAGE}.{name}")


def _import_swarm() -> Any:
    try:
        return importlib.import_module("swarm.__main__")
    except ImportError as error:
        raise UsageError(
            f"SWARM is not installed ({error}); run: pip install 'swarm-repro[swarm]'"
        ) from error


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """SWARM logs each call that raised; the ledger has them, with their causes."""
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
