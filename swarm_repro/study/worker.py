"""What a worker of a study does: one run at a time, with a model of its own if it needs one."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import Any

from swarm_repro import __version__
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.part_file import is_held
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.errors import ExitCode, SessionTripped, SwarmReproError, UsageError
from swarm_repro.masking import find_redaction
from swarm_repro.mode import Mode
from swarm_repro.serving.llama_server import start, stop
from swarm_repro.simulation import artifacts, outcome
from swarm_repro.simulation.outcome import Outcome
from swarm_repro.simulation.plan import RunOptions, Served
from swarm_repro.simulation.run import run_scenario
from swarm_repro.study.file import Run, Study, StudyBackend
from swarm_repro.study.folder import ARTIFACTS, SERVERS, StudyFolder, write_whole
from swarm_repro.study.models import find_model, under_name
from swarm_repro.study.recordings import recording_of

#: Seconds that the process of a lost worker may take to end.
_LONGEST_END_S = 60.0
#: SWARM prints to one standard output and has one set of modules.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Task:
    """One run for a worker.

    Attributes:
        study: The study, with no runs in it.
        run: The run.
        mode: What to do with calls.
        out: Folder of the study's results.
        workers: How many share a machine's cores.
        redact: Name of the user's own redaction of what is stored (``find_redaction``).
    """

    study: Study
    run: Run
    mode: Mode
    out: Path
    workers: int
    redact: str | None = None


@dataclass(frozen=True)
class Report:
    """What came of a task; the rest is in the study's folder.

    Attributes:
        run: The run's name.
        exit_code: 0 for a finished run, else the code that the run alone would end with.
        messages: Why it failed.
        cpu_s: CPU seconds of the simulation.
    """

    run: str
    exit_code: int
    messages: tuple[str, ...] = ()
    cpu_s: float = 0.0


def perform(task: Task) -> Report:
    """Make a run, and keep what came of it in the study's folder."""
    folder = StudyFolder(task.study, task.out)
    with _one_at_a_time:
        try:
            return _perform(task, folder)
        except (SwarmReproError, SessionTripped) as error:
            code, message = int(error.exit_code), str(error)
        folder.keep_failure(task.run, exit_code=code, messages=[message])
        return Report(task.run.name, code, (message,))


def _perform(task: Task, folder: StudyFolder) -> Report:
    run, study = task.run, task.study
    cassette, mode = _recorded_in(study, run, task.mode)
    _wait_until_free(cassette)
    with folder.begun(run) as place:
        scenario = place / f"{run.scenario}.yaml"
        write_whole(scenario, run.document.encode())
        began, cpu = time.monotonic(), _cpu_s()
        outcome = run_scenario(
            RunOptions(
                scenario=scenario,
                seed=run.seed,
                mode=mode,
                cassette=cassette,
                out=place / ARTIFACTS,
                epochs=study.epochs,
                steps=study.steps,
                served=served_by(run, task) if mode.calls_model else Served(),
                redact=None if task.redact is None else find_redaction(task.redact),
            )
        )
        cpu_s = _cpu_s() - cpu
        if not _is_finished(outcome):
            exit_code, messages = int(outcome.exit_code), outcome.messages
            folder.keep_failure(run, exit_code=exit_code, messages=messages)
            return Report(run.name, exit_code, tuple(messages), cpu_s)
        recorded = _recorded(outcome, cassette)
        used = [recorded.calls[call] for call in outcome.session.ledger.used]
        folder.keep(
            run,
            place,
            mode=task.mode,
            result=_result(outcome, recorded, used),
            times={
                "duration_s": round(time.monotonic() - began, 3),
                "cpu_s": round(cpu_s, 3),
                "model_s": round(sum(call.duration_s for call in used), 3),
                "peak_mb": round(_peak_mb(), 1),
                "worker": worker_name(),
            },
        )
        return Report(run.name, 0, (), cpu_s)


def _wait_until_free(cassette: Path) -> None:
    """Wait for a lost worker's process to be gone: its run is given to another one at once."""
    until = time.monotonic() + _LONGEST_END_S
    while is_held(part_path(cassette)) and time.monotonic() < until:
        time.sleep(0.05)


def _recorded_in(study: Study, run: Run, mode: Mode) -> tuple[Path, Mode]:
    """Where a run is recorded, or will be, and what to do with its calls."""
    own = study.cassette_of(run)
    if part_path(own).exists() or own.exists():
        # A recording that was ended on the way goes on from what it has.
        return own, Mode.AUTO if mode is Mode.RECORD else mode
    merged = recording_of(study, run)
    if merged is None:
        return own, mode
    return merged, Mode.REPLAY if mode.writes else mode


def _is_finished(outcome: Outcome) -> bool:
    """Whether a run is whole; a failed success criterion is one of its results."""
    if outcome.exit_code is not ExitCode.DIFFERENCE:
        return outcome.exit_code is ExitCode.OK
    is_same = outcome.verdict is None or outcome.verdict.identical
    return is_same and all(line.startswith("success criterion") for line in outcome.messages)


def _recorded(outcome: Outcome, cassette: Path) -> Cassette:
    """The cassette as it is after the run."""
    store = outcome.session.store
    if store is not None and not outcome.plan.mode.writes and store.base is not None:
        return store.base
    return read_cassette(cassette)


def _result(outcome: Outcome, recorded: Cassette, used: Sequence[CallRecord]) -> dict[str, object]:
    """What the tables are made of: nothing that differs by nature."""
    usage = outcome.session.ledger.usage.values()
    history = outcome.plan.out / artifacts.HISTORY
    return {
        "criteria": "failed" if outcome.messages else "passed",
        "calls": sum(counter["calls"] for counter in usage),
        "prompt_tokens": sum(counter["prompt_tokens"] for counter in usage),
        "completion_tokens": sum(counter["completion_tokens"] for counter in usage),
        "environments": sorted({call.env for call in used}),
        "models": sorted({recorded.models[call.model].identity.label for call in used}),
        "artifacts": {
            name: artifact.sha256
            for name, artifact in sorted(
                artifacts.digest_artifacts(
                    history.parent, outcome.plan.scenario.id, known=_known(recorded, outcome)
                ).items()
            )
        },
        "metrics": _metrics(outcome, recorded),
    }


def _known(recorded: Cassette, outcome: Outcome) -> Mapping[str, Any]:
    runs = [run for run in recorded.runs if run.seed == outcome.plan.seed]
    return runs[0].artifacts if runs else {}


def _metrics(outcome: Outcome, recorded: Cassette) -> list[Mapping[str, object]]:
    """SWARM's metrics, one object an epoch, as the run record has them."""
    plan = outcome.plan
    runs = [
        run
        for run in recorded.runs
        if (run.seed, run.epochs, run.steps) == (plan.seed, plan.epochs, plan.steps)
    ]
    return [dict(epoch) for epoch in runs[0].metrics] if runs else []


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_mb() -> float:
    """The most memory this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS gives bytes


def worker_name() -> str:
    """What a worker is called in messages and times."""
    return f"{socket.gethostname()}:{os.getpid()}"


# --- The model of a worker.


@dataclass
class _Own:
    """What a worker process has of its own, from its first recording to its end."""

    port: int | None = None
    base_url: str | None = None
    model: Path | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None


_own = _Own()


def served_by(run: Run, task: Task) -> Served:
    """Where the calls of a recording go.

    Raises:
        ModelFileError: The model is not on this machine.
        BackendError: Its server does not come up.
    """
    backend = task.study.backend
    if backend.kind == "as-written":
        return Served()
    threads = backend.threads or max(1, (os.cpu_count() or 1) // task.workers)
    if backend.kind == "llama-server":
        return Served(base_url=own_server(backend, threads, task.out))
    named = None
    if backend.model is not None:
        if _own.model is None:
            _own.model = find_model(backend.model)
        named = under_name(_own.model, run.document, _scratch())
    return Served(model_path=named, threads=threads)


def _scratch() -> Path:
    if _own.folder is None:
        _own.folder = tempfile.TemporaryDirectory(prefix="swarm-repro-")
        at_end(_own.folder.cleanup)
    return Path(_own.folder.name)


def own_server(backend: StudyBackend, threads: int, out: Path) -> str:
    """The address of this worker's own llama-server, which is started once.

    Raises:
        ModelFileError: The model is not on this machine.
        BackendError: The server does not come up.
    """
    if _own.base_url is None:
        if backend.model is None:
            raise UsageError("a server of a worker's own needs a model")
        model = find_model(backend.model)
        server = start(model, profile=backend.profile, port=0, threads=threads)
        _own.port, _own.base_url = server.port, server.base_url
        note = out / SERVERS / f"{worker_name()}.json"
        note.parent.mkdir(exist_ok=True)
        write_whole(note, encode_json({"host": socket.gethostname(), "port": server.port}))
        at_end(end_own)
    return _own.base_url


def own_port() -> int | None:
    """The port of this worker's own server, if it has one."""
    return _own.port


def at_end(function: Callable[[], None]) -> None:
    """Call a function when this process ends, whoever started it."""
    # Processes of multiprocessing end without atexit's functions, others without these.
    util.Finalize(_own, function, exitpriority=10)
    atexit.register(function)


def end_own(*, limit_s: float = 10.0) -> None:
    """End this worker's own server, if it has one.

    Args:
        limit_s: Seconds it has to end by itself before it is killed.
    """
    port, _own.port, _own.base_url = _own.port, None, None
    if port is not None:
        with contextlib.suppress(SwarmReproError):
            stop(port=port, limit_s=limit_s)


def end_servers(ports: Iterable[int]) -> None:
    """End the servers that lost workers of this machine have left behind."""
    for port in ports:
        with contextlib.suppress(SwarmReproError):
            stop(port=port)


def versions() -> dict[str, object]:
    """What a worker must have alike with the others."""
    return {
        "swarm_repro": __version__,
        "swarm_safety": outcome.versions().get("swarm-safety"),
        "python": platform.python_version(),
        "hash_seed": not sys.flags.hash_randomization,
    }
