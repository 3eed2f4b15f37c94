"""A Dask scheduler that is there already: real processes, some of which say they are others."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ROOT
from tests.support.studies import TAX, recorded_runs, rows_of, study


@contextlib.contextmanager
def dask(*arguments: str, version: str | None, folder: Path) -> Iterator[None]:
    """A part of a cluster, of another version by what its packages say."""
    path = []
    folder = folder / arguments[0]
    folder.mkdir(exist_ok=True)
    if version is not None:
        installed = importlib.metadata.distribution("distributed")
        claimed = folder / f"distributed-{version}.dist-info"
        claimed.mkdir(exist_ok=True)
        for name in ("METADATA", "entry_points.txt"):
            text = installed.read_text(name) or ""
            true = f"\nVersion: {installed.version}\n"
            (claimed / name).write_text(text.replace(true, f"\nVersion: {version}\n"))
        path = [str(folder)]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])},
            cwd=folder,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def cluster(
    folder: Path, *, scheduler: str | None = None, worker: str | None = None, workers: int = 1
) -> Iterator[str]:
    """A scheduler and its workers.

    Yields:
        The scheduler's address.
    """
    found = folder / "scheduler.json"
    with contextlib.ExitStack() as stack:
        arguments = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(found))
        stack.enter_context(dask("scheduler", *arguments, version=scheduler, folder=folder))
        address = str(_read(found)["address"])
        joining = (address, "--nthreads", "1", "--no-nanny", "--name")
        for number in range(workers):
            stack.enter_context(
                dask("worker", *joining, str(number), version=worker, folder=folder)
            )
        yield address


def _read(path: Path, *, limit_s: float = 60.0) -> dict[str, object]:
    """What a process writes once it is there."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            document: dict[str, object] = json.loads(path.read_bytes())
            return document
        time.sleep(0.05)
    raise TimeoutError(f"{path} was not written")


def wait_for_workers(address: str, count: int) -> None:
    import distributed

    client_of: Any = distributed.Client  # it has no types
    with client_of(address) as client:
        client.wait_for_workers(count, timeout=60)


def test_a_study_goes_to_a_scheduler_that_is_there(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=2) as address:
        wait_for_workers(address, 2)
        arguments = ("--shard", "1/3", "--scheduler", address, "--out", tmp_path / "out")
        study("run", TAX, *arguments, cwd=ROOT)
    recorded = recorded_runs()
    made = rows_of((tmp_path / "out" / "runs.csv").read_bytes())
    assert made == [recorded[0], *recorded[1::3]]


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("scheduler", "the scheduler at tcp://127.0.0.1:"),
        ("worker", "worker tcp://127.0.0.1:"),
    ],
)
@pytest.mark.filterwarnings("ignore:Mismatched versions")
def test_another_version_of_dask_is_refused(who: str, said: str, tmp_path: Path) -> None:
    with cluster(tmp_path, **{who: "2000.1"}) as address:  # type: ignore[arg-type]
        wait_for_workers(address, 1)
        arguments = ("run", TAX, "--scheduler", address, "--out", tmp_path / "out")
        done = study(*arguments, cwd=ROOT, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line
    assert "has distributed 2000.1, and 20" in line
    assert "install the same on all" in line
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_scheduler_without_workers_is_refused(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=0) as address:
        arguments = ("run", TAX, "--scheduler", address, "--out", tmp_path / "out")
        done = study(*arguments, cwd=ROOT, code=4)
    assert f"the scheduler {address} has no workers: start one with: dask worker" in done.stderr
