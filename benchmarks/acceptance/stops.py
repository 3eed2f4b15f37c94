"""A study that is stopped at random moments, and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.acceptance.calls import Lost
from swarm_repro.cassette.reader import read_cassette
from tests.support.stub_server import running_stub
from tests.support.studies import command, environment, tables_of, write_scenario, write_study

#: What is ended: with the study its workers, one of its workers, or both by the terminal's Ctrl-C.
KINDS = ("the study", "a worker", "an interrupt")
_WORKERS = 2


def stops(count: int) -> dict[str, object]:
    """Stop a study this many times in each way, and go on with it.

    Raises:
        Lost: Its tables are not those of a study that was never stopped, a call was asked again
            that was on the disk, or a worker outlived its study.
    """
    moments = random.Random(1)
    seen = {"studies": 0, "stops": 0, "while calls were made": 0, "calls": 0}
    with running_stub(delay_s=0.05) as stub, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_scenario(folder, stub.base_url)
        write_study(folder, settings={"governance.transaction_tax_rate": [0.0, 0.5]})
        _finish(folder)
        expected, calls = tables_of(folder / "studies" / "small"), _recorded(folder)
        for kind in KINDS:
            for name in ("cassettes", "studies"):
                shutil.rmtree(folder / name)
            stub.chats.clear()
            # Early enough that a study which goes on well is stopped as often as was asked for.
            latest = min(calls - 1, 2 * calls // (count + 1))
            for _ in range(count):
                seen["while calls were made"] += _stop(
                    folder, kind, stub.chats, moments.randint(1, latest)
                )
            _finish(folder)
            if tables_of(folder / "studies" / "small") != expected:
                raise Lost(f"other tables after {kind} was stopped")
            asked = sum(map(_is_of_a_run, stub.chats))
            if _recorded(folder) != calls or asked > calls + count * _WORKERS:
                raise Lost(f"{asked} calls were made and {_recorded(folder)} recorded of {calls}")
            if left := [*folder.rglob("*.part"), *folder.glob("studies/small/runs/.*")]:
                raise Lost(f"something is left: {left}")
            seen["studies"] += 1
            seen["stops"] += count
            seen["calls"] += calls
    return dict(seen)


def _recording(folder: Path) -> list[str]:
    return command("run", folder / "study.yaml", "--record", "--workers", _WORKERS)


def _finish(folder: Path) -> None:
    done = subprocess.run(
        _recording(folder),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Lost(done.stdout + done.stderr)


def _stop(folder: Path, kind: str, chats: Sequence[bytes], after: int) -> bool:
    """Stop a study once its agents have made some calls; whether it was still making them."""
    running = subprocess.Popen(
        _recording(folder),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    before = sum(map(_is_of_a_run, chats))
    while running.poll() is None and sum(map(_is_of_a_run, list(chats))) < before + after:
        time.sleep(0.005)
    was_running = running.poll() is None
    workers: Sequence[psutil.Process] = ()
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        workers = _workers_of(running.pid)
        if kind == "the study":
            running.kill()
        elif kind == "an interrupt":
            os.killpg(running.pid, signal.SIGINT)
        elif workers:
            workers[0].kill()
    running.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    if alive:
        raise Lost(f"workers outlive their study: {alive}")
    return was_running


def _workers_of(study: int) -> Sequence[psutil.Process]:
    """The pool's processes, without helpers of the standard library."""
    return [
        child
        for child in psutil.Process(study).children(recursive=True)
        if "spawn_main" in (words := " ".join(child.cmdline()))
        # The process that workers are forked from is the study's own child, and looks like them.
        or ("forkserver" in words and child.ppid() != study)
    ]


def _is_of_a_run(body: bytes) -> bool:
    """Whether a call was an agent's: not the canary's, nor what asks for a model's settings."""
    return len(json.loads(body)["messages"]) > 1


def _recorded(folder: Path) -> int:
    return sum(len(read_cassette(path).calls) for path in (folder / "cassettes").rglob("*.jsonl"))
