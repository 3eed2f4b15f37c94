"""The child that a Dask worker keeps: it answers one thing at a time, and goes with its worker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest

from swarm_repro.canonical import encode_json
from swarm_repro.errors import BackendError
from swarm_repro.mode import Mode
from swarm_repro.study import child
from swarm_repro.study.canary import sing
from swarm_repro.study.child import (
    end_child,
    perform_in_child,
    sing_in_child,
    task_from_json,
    task_to_json,
)
from swarm_repro.study.file import StudyBackend, load_study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.worker import Task, versions
from tests.support.studies import write_scenario, write_study


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A replay without a recording."""
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    settings = {"governance.transaction_tax_rate": [0.5]}
    study = load_study(write_study(tmp_path, seeds=[3], settings=settings))
    StudyFolder(study).open()
    return Task(replace(study, runs=()), study.runs[0], Mode.REPLAY, study.out, 2)


@pytest.fixture(autouse=True)
def _no_child_before_or_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    end_child()
    monkeypatch.setattr(child, "_child", None)
    yield
    end_child()


def process() -> subprocess.Popen[bytes]:
    assert child._child is not None
    return child._child


def test_a_child_answers_and_a_lost_one_is_replaced(
    task: Task, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hide = "def hide(text):\n    return text\n"
    (tmp_path / "noisy.py").write_text(f"print('what a library prints')\n{hide}")
    (tmp_path / "fatal.py").write_text("import os\nos._exit(7)\n")
    said = sing_in_child(replace(task, redact="noisy:hide"))
    assert said.failed is None
    assert (said.answers, said.port) == ({}, None)
    assert said.versions == {**versions(), "hash_seed": True}
    first = process()
    assert said.worker.rpartition(":")[2] == str(first.pid)
    assert "what a library prints" in capfd.readouterr().err
    report = perform_in_child(task)
    assert process() is first, "one child does all that is asked"
    assert (report.run, report.exit_code) == (task.run.name, 2)
    assert isinstance(report.messages, tuple)
    assert "there is no cassette at" in report.messages[0]
    failed = sing_in_child(replace(task, redact="noisy:none"))
    assert failed.failed == (2, "--redact noisy:none: noisy has no function none")
    # It ends over what it does.
    with pytest.raises(BackendError) as raised:
        sing_in_child(replace(task, redact="fatal:hide"))
    assert str(raised.value) == f"the process that made {task.run.name} ended with 7"
    again = sing_in_child(task)
    second = process()
    assert second is not first
    assert again.worker.rpartition(":")[2] == str(second.pid)
    # It has ended since, and is not looked at before it is asked.
    second.kill()
    second.wait()
    poll, second.poll = second.poll, lambda: None  # type: ignore[method-assign]
    with pytest.raises(BackendError) as raised:
        perform_in_child(task)
    assert str(raised.value) == f"the process that made {task.run.name} ended with -9"
    second.poll = poll  # type: ignore[method-assign]
    for lost in (first, second):
        assert lost.stdin is not None
        assert lost.stdin.closed
        assert lost.stdout is not None
        assert lost.stdout.closed


def test_a_child_ends_well_when_its_worker_does(task: Task) -> None:
    assert sing_in_child(task).failed is None
    end_child()
    assert process().returncode == 0
    end_child()  # it is gone, and that is no error


def test_without_a_child_there_is_nothing_to_end() -> None:
    end_child()
    assert child._child is None


def test_every_member_of_a_task_arrives(task: Task) -> None:
    def sent(one: Task) -> Task:
        return task_from_json(orjson.loads(encode_json(task_to_json(one))))

    assert sent(task) == task
    assert isinstance(sent(task).study.cassettes, Path)
    assert isinstance(sent(task).run.source, Path)
    assert isinstance(sent(task).study.settings, tuple)
    assert sent(task).mode is Mode.REPLAY
    full = replace(
        task,
        mode=Mode.VERIFY,
        workers=7,
        redact="a:b",
        out=Path("elsewhere"),
        study=replace(
            task.study,
            backend=StudyBackend("llama-server", "m.gguf", "gpu", 3),
            epochs=4,
            steps=5,
        ),
        run=replace(task.run, repeat=2, number=9),
    )
    assert sent(full) == full
    # Runs are many, and a worker has its own.
    many = replace(task, study=replace(task.study, runs=(task.run, task.run)))
    assert sent(many) == task


def test_a_canary_with_answers_is_the_same_from_a_child(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = replace(sing(task), answers={"m": ("digest", {"cpu": "x"})}, failed=(4, "why"), port=80)
    answer = orjson.loads(encode_json(asdict(said)))
    monkeypatch.setattr(child, "_ask", lambda _what, _task: answer)
    assert sing_in_child(task) == said
