"""Workers that would not give one another's results are named before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from swarm_repro.canonical import encode_json
from swarm_repro.errors import BackendError, NotComparableError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.study.canary import Canary, require_alike, sing
from swarm_repro.study.child import end_child, sing_in_child, task_from_json, task_to_json
from swarm_repro.study.file import load_study
from swarm_repro.study.worker import Task, versions
from tests.study.making import study, write_scenario, write_study
from tests.support.stub_server import running_stub

HERE: Mapping[str, object] = {
    "swarm_repro": "0.1.0", "swarm_safety": "1.9.0", "python": "3.11.7", "hash_seed": True,
}  # fmt: skip
ENVIRONMENT: Mapping[str, object] = {"build": "b1", "cpu": "M2"}


def canary(name: str, **members: object) -> Canary:
    known = {"versions": HERE, "answers": {"tiny": ("a", ENVIRONMENT)}, **members}
    return Canary(name, **known)  # type: ignore[arg-type]


def test_workers_that_are_alike_may_begin() -> None:
    require_alike([canary("one"), canary("two")], here=HERE)
    require_alike([canary("one", answers={})], here=HERE)


@pytest.mark.parametrize(
    ("members", "error", "said"),
    [
        ({"failed": (4, "no connection")}, BackendError, "worker two cannot take part: no conn"),
        ({"failed": (2, "no GGUF")}, UsageError, "worker two cannot take part: no GGUF"),
        ({"versions": {**HERE, "hash_seed": False}}, UsageError, "two was started without PYTHONH"),
        (
            {"versions": {**HERE, "swarm_repro": "0.2"}},
            UsageError,
            "two has swarm_repro 0.2, and 0",
        ),
        ({"versions": {**HERE, "python": "3.12.1"}}, UsageError, "two has python 3.12.1"),
        ({"versions": {**HERE, "swarm_safety": None}}, UsageError, "two has swarm_safety None"),
        (
            {"answers": {"tiny": ("b", {**ENVIRONMENT, "cpu": "EPYC"})}},
            NotComparableError,
            "otherwise than one: their environments differ in cpu; record on workers of one kind",
        ),
        (
            {"answers": {"tiny": ("b", ENVIRONMENT)}},
            NotComparableError,
            "their environments look alike",
        ),
    ],
    ids=str,
)
def test_a_worker_that_is_not_alike_is_named(
    members: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        require_alike([canary("one"), canary("two", **members)], here=HERE)
    assert type(raised.value) is error
    assert said in str(raised.value)


def test_another_environment_with_the_same_answer_may_take_part() -> None:
    other = {"tiny": ("a", {**ENVIRONMENT, "cpu": "EPYC"})}
    require_alike([canary("one"), canary("two", answers=other)], here=HERE)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    settings = {"governance.transaction_tax_rate": [0.5]}
    made = load_study(write_study(tmp_path, settings=settings, seeds=[3]))
    return Task(made, made.runs[0], Mode.RECORD, tmp_path / "out", 2)


def test_a_task_is_the_same_for_a_child(task: Task) -> None:
    task = replace(task, study=replace(task.study, runs=()), redact="rules:hide")
    assert task_from_json(orjson.loads(encode_json(task_to_json(task)))) == task


def test_a_child_has_one_order_of_sets_and_says_what_a_worker_says(task: Task) -> None:
    try:
        said = sing_in_child(task)
    finally:
        end_child()
    assert said.versions == {**versions(), "hash_seed": True}
    assert said.failed is not None
    assert said.failed[0] == 4
    assert "no connection to http://127.0.0.1:9" in said.failed[1]


def test_models_are_asked_the_same_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = []
    for wording in ("one", "one", "other"):
        with running_stub(reply=lambda _body, said=wording: said) as stub:
            write_scenario(tmp_path, stub.base_url)
            made = load_study(write_study(tmp_path, seeds=[3]))
            task = Task(made, made.runs[0], Mode.RECORD, tmp_path / "out", 1)
            answers.append(sing(task).answers["stub"][0])
    assert answers[0] == answers[1] != answers[2]


def test_a_model_that_a_worker_does_not_have_is_said_before_anything_is_spent(
    tmp_path: Path,
) -> None:
    write_scenario(tmp_path)
    backend = {"kind": "llama-server", "model": "0" * 64}
    path = write_study(tmp_path, backend=backend)
    done = study("run", path, "--record", cwd=tmp_path, code=2)
    assert f"cannot take part: no GGUF file with SHA-256 {'0' * 64} is in models" in done.stderr
    assert list((tmp_path / "studies" / "small" / "runs").iterdir()) == []
