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
from swarm_repro.study.worker import Task, versions, worker_name
from tests.support.stub_server import running_stub
from tests.support.studies import study, write_scenario, write_study

HERE: Mapping[str, object] = {
    "swarm_repro": "0.1.0", "swarm_safety": "1.9.0", "python": "3.11.7", "hash_seed": True,
}  # fmt: skip
ENVIRONMENT: Mapping[str, object] = {"build": "b1", "cpu": "M2"}


def canary(name: str, **members: object) -> Canary:
    known = {"versions": HERE, "answers": {"tiny": ("a", ENVIRONMENT)}, **members}
    return Canary(name, **known)  # type: ignore[arg-type]


def wrong(canaries: list[Canary], *, here: Mapping[str, object] = HERE) -> str | None:
    """What is said against workers; None where they may begin."""
    try:
        require_alike(canaries, here=here)
    except (BackendError, NotComparableError, UsageError) as error:
        return str(error)
    return None


# Each of these is a change of one thing from workers that may not begin, as the same call shows.
OTHER = {"tiny": ("b", ENVIRONMENT)}


def test_workers_that_are_alike_may_begin() -> None:
    assert wrong([canary("one"), canary("two", answers=OTHER)]) is not None
    assert wrong([canary("one", answers=OTHER), canary("two", answers=OTHER)]) is None
    assert wrong([canary("one"), canary("two")]) is None


def test_one_worker_or_none_is_alike() -> None:
    assert wrong([]) is None
    assert wrong([canary("one")]) is None
    assert wrong([canary("one", failed=(2, "no"))]) is not None, "but it is looked at"
    assert wrong([canary("one", versions={})]) is not None


def test_workers_are_compared_in_the_models_that_both_have() -> None:
    both = {"tiny": ("a", ENVIRONMENT), "large": ("c", ENVIRONMENT)}
    assert wrong([canary("one", answers={}), canary("two")]) is None
    assert wrong([canary("one"), canary("two", answers={})]) is None
    assert wrong([canary("one"), canary("two", answers=both)]) is None
    assert wrong([canary("one", answers=both), canary("two")]) is None
    other = {**both, "tiny": ("b", ENVIRONMENT)}
    assert wrong([canary("one"), canary("two", answers={"large": both["large"], **OTHER})]) == (
        "two answers a seeded question to tiny otherwise than one: their environments look alike; "
        "record on workers of one kind"
    )
    said = wrong([canary("one"), canary("two"), canary("three", answers=other)])
    assert said is not None
    assert said.startswith("three answers a seeded question to tiny otherwise than one")


def test_who_asks_has_the_same_versions() -> None:
    # SWARM is missing on both sides alike; a hash seed here is not asked for.
    alike = {**HERE, "swarm_safety": None}
    assert wrong([canary("one", versions=alike)], here={**alike, "hash_seed": False}) is None
    assert wrong([canary("one")], here=alike) == (
        "worker one has swarm_safety 1.9.0, and None is here: install the same on all"
    )


def test_all_parts_in_which_environments_differ_are_named() -> None:
    there = {"cpu": "EPYC", "flags": ["-t"]}
    said = wrong([canary("one"), canary("two", answers={"tiny": ("b", there)})])
    assert said is not None
    assert "their environments differ in build, cpu, flags; record" in said


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
    environment = {**ENVIRONMENT, "cpu": "EPYC"}
    for answer, may in (("a", True), ("b", False)):
        other = canary("two", answers={"tiny": (answer, environment)})
        assert (wrong([canary("one"), other]) is None) is may


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


# --- What a worker is asked.


def task_of(folder: Path, base_url: str, mode: Mode = Mode.RECORD, **members: object) -> Task:
    write_scenario(folder, base_url)
    made = load_study(write_study(folder, seeds=[3], **members))
    return Task(made, made.runs[0], mode, folder / "out", 1)


def test_the_question_is_seeded_and_the_same_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_stub() as stub:
        said = sing(task_of(tmp_path, stub.base_url))
        (body,) = [orjson.loads(chat) for chat in stub.chats]
    assert said.failed is None
    assert said.worker == worker_name()
    assert said.versions == versions()
    assert said.port is None
    assert list(said.answers) == ["stub"]
    assert said.answers["stub"][1]["backend"] == "llama-server"
    assert body["messages"][0]["content"].startswith("Name three animals")
    members = ("model", "seed", "temperature", "max_tokens", "cache_prompt")
    assert {name: body[name] for name in members} == {
        "model": "stub", "seed": 7, "temperature": 0.8, "max_tokens": 32, "cache_prompt": False,
    }  # fmt: skip


def test_a_replay_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running_stub() as stub:
        said = sing(task_of(tmp_path, stub.base_url, Mode.REPLAY))
        assert (said.answers, said.failed, stub.chats) == ({}, None, [])
        said = sing(task_of(tmp_path, stub.base_url, Mode.VERIFY))
        assert list(said.answers) == ["stub"], "a comparison calls the model"


def test_every_model_is_asked_once_at_every_place_and_each_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_stub() as stub, running_stub() as other:
        blocks = [
            {"provider": "llama_cpp", "base_url": stub.base_url, "model": "one"},
            {"provider": "llama_cpp", "base_url": stub.base_url, "model": "one"},
            {"provider": "llama_cpp", "base_url": stub.base_url},
            {"provider": "llama_cpp", "base_url": other.base_url, "model": "one"},
        ]
        members = [{"llm": block} for block in blocks[2:]]
        write_scenario(
            tmp_path,
            agents=[
                {"type": "honest"},
                *({"type": "llm", "llm": block} for block in blocks[:2]),
                {"type": "council", "council": {"members": members}},
            ],
        )
        made = load_study(write_study(tmp_path, seeds=[3]))
        said = sing(Task(made, made.runs[0], Mode.RECORD, tmp_path / "out", 1))
        asked = [orjson.loads(chat)["model"] for chat in stub.chats]
        asked_there = [orjson.loads(chat)["model"] for chat in other.chats]
    assert said.failed is None
    assert (asked, asked_there) == (["one", "default"], ["one"])
    assert list(said.answers) == ["one", "default"]


def test_a_worker_says_why_it_cannot_take_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = task_of(tmp_path, "http://127.0.0.1:9/v1")
    said = sing(task)
    assert said.failed is not None
    assert (said.failed[0], said.answers) == (4, {})
    # The user's own redaction is looked for before any model is.
    said = sing(replace(task, redact="no_such_module:hide"))
    assert said.failed is not None
    assert said.failed[0] == 2
    assert "--redact no_such_module:hide" in said.failed[1]
    block = {"provider": "llama_cpp", "model_path": "models/none.gguf"}
    write_scenario(tmp_path, agents=[{"type": "llm", "llm": block}])
    made = load_study(write_study(tmp_path))
    said = sing(Task(made, made.runs[0], Mode.RECORD, tmp_path / "out", 1))
    assert said.failed is not None
    assert said.failed[0] == 2
    assert "there is no model at models/none.gguf" in said.failed[1]
