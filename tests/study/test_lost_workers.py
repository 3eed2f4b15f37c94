"""A Dask cluster of our own, whose workers are killed over a question."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from swarm_repro.errors import UsageError
from swarm_repro.study import engine as engines
from swarm_repro.study.engine import DaskEngine


def answering(name: str) -> str:
    """A canary that takes no model."""
    return name


def killing(engine: DaskEngine, times: int) -> Callable[..., object]:
    """Asks as the engine does, but kills the worker that is asked, a number of times."""
    ask = engine._ask
    killed: list[str] = []

    def asking(address: str, function: Callable[..., object], *arguments: object) -> object:
        if function is not answering or len(killed) == times:
            return ask(address, function, *arguments)
        killed.append(address)
        (pid,) = engine._client.run(os.getpid, workers=[address]).values()
        psutil.Process(pid).send_signal(signal.SIGKILL)
        return ask(address, time.sleep, 60)

    return asking


@pytest.mark.parametrize("times", [1, engines._MOST_LOST + 1])
def test_a_worker_that_is_killed_while_the_canary_sings_is_done_without(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "sing_in_child", answering)
    task: Any = "alive"
    engine = DaskEngine(None, 2)
    try:
        monkeypatch.setattr(engine, "_ask", killing(engine, times))
        if times == 1:
            sung: list[Any] = [*engine.canaries(task)]
            assert sung
            assert set(sung) == {"alive"}
        else:
            with pytest.raises(UsageError, match="was lost when it was asked"):
                engine.canaries(task)
    finally:
        engine.close(abandon=True)
