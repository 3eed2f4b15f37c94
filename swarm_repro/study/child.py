"""A Python of its own for a Dask worker's runs.

Sets must have one order in all runs (``PYTHONHASHSEED=0``), and Dask's nannies start their workers
with another one. So each worker keeps one child, which takes tasks as lines of JSON, and ends with
its model as soon as the worker is gone, whatever ended it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from swarm_repro.canonical import encode_json
from swarm_repro.errors import BackendError
from swarm_repro.mode import Mode
from swarm_repro.study.canary import Canary, sing
from swarm_repro.study.file import Run, Study, StudyBackend
from swarm_repro.study.worker import Report, Task, at_end, end_own, perform

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def perform_in_child(task: Task) -> Report:
    """As ``perform``, in this worker's child."""
    answer = _ask("perform", task)
    return Report(**{**answer, "messages": tuple(answer["messages"])})


def sing_in_child(task: Task) -> Canary:
    """As ``sing``, in this worker's child."""
    answer = _ask("sing", task)
    answers = {name: (digest, env) for name, (digest, env) in answer["answers"].items()}
    failed = None if answer["failed"] is None else tuple(answer["failed"])
    return Canary(**{**answer, "answers": answers, "failed": failed})


def _ask(what: str, task: Task) -> dict[str, Any]:
    """Let the child do something; one thing at a time.

    Raises:
        BackendError: It ended on the way.
    """
    global _child
    with _lock:
        if _child is not None and _child.poll() is not None:
            _release(_child)
            _child = None
        if _child is None:
            _child = subprocess.Popen(
                [sys.executable, "-m", "swarm_repro.study.child"],
                env={**os.environ, "PYTHONHASHSEED": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            at_end(end_child)
        if _child.stdin is None or _child.stdout is None:
            raise RuntimeError("a child without its pipes")
        try:
            _child.stdin.write(encode_json({"what": what, "task": task_to_json(task)}) + b"\n")
            _child.stdin.flush()
            line = _child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = _release(_child)
            raise BackendError(f"the process that made {task.run.name} ended with {code}")
    answer: dict[str, Any] = orjson.loads(line)
    return answer


def end_child() -> None:
    """End this worker's child, if it has one, and wait for it."""
    if _child is not None:
        _release(_child)


def _release(process: subprocess.Popen[bytes]) -> int:
    """Let a child end, and close its pipes; its exit code."""
    if process.stdin is not None:
        # What a lost child did not take is in the buffer still, and goes nowhere.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    code = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return code


def task_to_json(task: Task) -> dict[str, object]:
    """A task as JSON values."""
    content = asdict(task)
    for part in (content["study"], content["run"]):
        part.update({name: str(value) for name, value in part.items() if isinstance(value, Path)})
    content["study"]["runs"] = []
    return {**content, "mode": task.mode.value, "out": str(task.out)}


def task_from_json(content: Mapping[str, Any]) -> Task:
    """The reverse of ``task_to_json``."""
    study, run = content["study"], content["run"]
    members = {
        **study,
        "runs": (),
        "settings": tuple(study["settings"]),
        "backend": StudyBackend(**study["backend"]),
        **{name: Path(study[name]) for name in ("path", "cassettes", "out")},
    }
    parts = {
        "study": Study(**members),
        "run": Run(**{**run, "source": Path(run["source"])}),
        "mode": Mode(content["mode"]),
        "out": Path(content["out"]),
    }
    return Task(**{**content, **parts})


def main() -> None:
    """Do what the worker asks for, until it is gone."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model's library prints is no answer
    asked: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    while True:
        request = orjson.loads(asked.get())
        task = task_from_json(request["task"])
        answer = perform(task) if request["what"] == "perform" else sing(task)
        out.write(encode_json(asdict(answer)) + b"\n")
        out.flush()


def _listen(asked: queue.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        asked.put(line)
    # The worker is gone: what is under way stays as a crash would leave it, for another to go on.
    end_own(limit_s=0.0)
    os._exit(0)


if __name__ == "__main__":
    main()
