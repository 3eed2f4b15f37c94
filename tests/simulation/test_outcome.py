"""The outcome of a finished run: its calls, its artifacts and its criteria."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import Artifact, RunRecord
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.errors import CassetteAccessError, ExitCode
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from swarm_repro.simulation import artifacts
from swarm_repro.simulation.artifacts import (
    clear,
    digest_artifacts,
    moved_metrics,
    round_numbers,
)
from swarm_repro.simulation.outcome import (
    Outcome,
    judge,
    judge_criteria,
    make_run_record,
    versions,
)
from swarm_repro.simulation.plan import Plan
from swarm_repro.simulation.run import open_recording, recorded_run, version_notes
from swarm_repro.simulation.scenario import Scenario
from tests.support.tiny_model import HEADER, TinyModel, ask, make_run, recording, replaying

# --- Artifacts.


@pytest.mark.parametrize(
    ("text", "rounded"),
    [
        ("0.1234567890123456", "0.123456789012"),
        ("-12345.678901234567", "-12345.6789012"),
        ("1.0", "1"),
        ("2.50,3.5", "2.5,3.5"),
        ("1.5e-300 1.5E+20", "1.5e-300 1.5e+20"),
        ("12345678901234567890", "12345678901234567890"),
        ("a1.5", "a1.5"),
        ("1.5a", "1.5a"),
        ("1.2.3", "1.2.3"),
        ("2024-01-02T03:04:05.123456Z", "2024-01-02T03:04:05.123456Z"),
        ("[0.30000000000000004]", "[0.3]"),
        ("", ""),
    ],
)
def test_decimal_numbers_are_rounded_and_nothing_else(text: str, rounded: str) -> None:
    assert round_numbers(text.encode()) == rounded.encode()


def test_an_earlier_runs_files_are_removed_and_nobody_elses(tmp_path: Path) -> None:
    ours = {"history.json", "events.jsonl", "prompts.jsonl", "town_epochs.csv", "town_agents.csv"}
    others = {"city_epochs.csv", "town.csv", "notes.txt", "history.json.bak"}
    for name in ours | others | {"session.json"}:
        (tmp_path / name).write_text(name)
    (tmp_path / "inner").mkdir()
    found = digest_artifacts(tmp_path, "town", known={})
    assert found.keys() == ours
    assert list(found) == sorted(ours)
    for name, artifact in found.items():
        assert artifact.sha256 == hashlib.sha256(name.encode()).hexdigest()
    clear(tmp_path, "town")
    assert {one.name for one in tmp_path.iterdir()} == others | {"inner"}
    clear(tmp_path, "town")  # where nothing is left
    assert digest_artifacts(tmp_path, "town", known={}) == {}


def test_artifacts_are_digested_as_they_are_and_with_their_numbers_rounded(tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    digests = []
    for text in ("[0.30000000000000004]", "[0.3]", "[0.4]"):
        history.write_text(text)
        digests.append(digest_artifacts(tmp_path, "town", known={})["history.json"])
    assert len({one.sha256 for one in digests}) == 3
    assert digests[0].rounded_sha256 == digests[1].rounded_sha256
    assert digests[1].rounded_sha256 == hashlib.sha256(b"[0.3]").hexdigest()
    assert digests[2].rounded_sha256 != digests[1].rounded_sha256
    # What is known of the same bytes need not be found out again.
    known = Artifact(digests[2].sha256, "known")
    assert digest_artifacts(tmp_path, "town", known={"history.json": known}) == {
        "history.json": known
    }
    other = Artifact("0" * 64, "known")
    assert digest_artifacts(tmp_path, "town", known={"history.json": other}) == {
        "history.json": digests[2]
    }
    assert digest_artifacts(tmp_path, "town", known={"events.jsonl": known}) == {
        "history.json": digests[2]
    }


def run_of(
    files: Mapping[str, tuple[str, str]], python: str = "3.11.7", metrics: Any = ()
) -> RunRecord:
    return replace(
        make_run({}),
        versions={"python": python},
        artifacts={name: Artifact(*digests) for name, digests in files.items()},
        metrics=tuple(metrics),
    )


@pytest.mark.parametrize(
    ("recorded", "fresh", "python", "differing", "rounded"),
    [
        ({"a": ("1", "r")}, {"a": ("1", "r")}, "3.11.9", (), ()),
        ({"a": ("1", "r")}, {"a": ("2", "r")}, "3.11.9", ("a",), ()),
        ({"a": ("1", "r")}, {"a": ("2", "r")}, "3.12.1", (), ("a",)),
        ({"a": ("1", "r")}, {"a": ("2", "s")}, "3.12.1", ("a",), ()),
        ({"a": ("1", "r")}, {"a": ("1", "s")}, "3.12.1", (), ()),
        ({"a": ("1", "r")}, {}, "3.12.1", ("a",), ()),
        ({}, {"a": ("1", "r")}, "3.11.7", ("a",), ()),
        (
            {"a": ("1", "r"), "b": ("1", "r"), "c": ("1", "r")},
            {"c": ("2", "s"), "b": ("2", "r"), "a": ("9", "s")},
            "4.11.7",
            ("a", "c"),
            ("b",),
        ),
        ({}, {}, "3.11.7", (), ()),
    ],
)
def test_artifacts_are_compared_by_name_leniently_under_another_python(
    recorded: dict[str, tuple[str, str]],
    fresh: dict[str, tuple[str, str]],
    python: str,
    differing: tuple[str, ...],
    rounded: tuple[str, ...],
) -> None:
    before = run_of(recorded, metrics=[{"welfare": 1.0}])
    now = run_of(fresh, python, metrics=[{"welfare": 2.0}])
    found = artifacts.judge(before, now)
    assert (found.differing, found.rounded) == (differing, rounded)
    assert found.identical == (not differing)
    moved = ("welfare: recorded 1.0, now 2.0 (epoch 0)",) if differing else ()
    assert found.metrics == moved, "metrics explain a difference"


def test_a_run_of_unknown_python_counts_as_another_python() -> None:
    before = replace(run_of({"a": ("1", "r")}), versions={})
    assert artifacts.judge(before, run_of({"a": ("2", "r")})).rounded == ("a",)
    assert artifacts.judge(before, replace(run_of({"a": ("2", "r")}), versions={})).differing == (
        "a",
    )


@pytest.mark.parametrize(
    ("recorded", "fresh", "moved"),
    [
        ([], [], []),
        ([{"a": 1}], [{"a": 1}], []),
        ([{"a": 1.0}], [{"a": 1.00000000000001}], []),
        ([{"a": 1.0}], [{"a": 1.00000000001}], ["a: recorded 1.0, now 1.00000000001 (epoch 0)"]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 3}], ["a: recorded 2, now 3 (epoch 1)"]),
        ([{"a": 1}, {"a": 2}], [{"a": 9}, {"a": 8}], ["a: recorded 1, now 9 (epoch 0)"]),
        ([{"a": 1}], [{"b": 2}], ["a: recorded 1, now None (epoch 0)",
                                  "b: recorded None, now 2 (epoch 0)"]),
        ([{"a": [1.0, {"b": 0.1}]}], [{"a": [1.0, {"b": 0.1 + 1e-15}]}], []),
        ([{"a": [0.5]}], [{"a": [0.6]}], ["a: recorded [0.5], now [0.6] (epoch 0)"]),
        ([{"a": {"b": 0.5}}], [{"a": {"b": 0.6}}],
         ["a: recorded {'b': 0.5}, now {'b': 0.6} (epoch 0)"]),
        ([{"a": 1}], [{"a": 1}, {"a": 2}], ["epochs: recorded 1, now 2"]),
        ([{"a": 1}, {}], [{"a": 2}],
         ["epochs: recorded 2, now 1", "a: recorded 1, now 2 (epoch 0)"]),
        ([{"a": None}], [{}], []),
    ],
)  # fmt: skip
def test_metrics_that_moved_are_named_once_with_their_first_epoch(
    recorded: list[Mapping[str, object]], fresh: list[Mapping[str, object]], moved: list[str]
) -> None:
    assert moved_metrics(recorded, fresh) == moved


# --- The judgement.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    places = iter([(0, 0), (0, 1), (2, 1)])
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(
        mode=Mode.RECORD, header=HEADER, store=store, run_seed=7, position=lambda: next(places)
    )
    for who in ("alice", "bob", "carol"):
        ask(session, TinyModel(), "hello", who=who)
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    return path


def plan_of(path: Path, mode: Mode = Mode.REPLAY, scenario: str = "test") -> Plan:
    found = Scenario(
        path=path.with_name("town.yaml"), sha256="c" * 64, id=scenario, seed=7, epochs=1, steps=2,
        llms=(), cassette=None, seed_policy="event", strict=False, requests=(),
    )  # fmt: skip
    return Plan(
        scenario=found, mode=mode, seed=7, epochs=1, steps=2, cassette=path, out=path.parent
    )


def replayed(path: Path, *who: str) -> Session:
    session = replaying(path)
    for one in who:
        ask(session, TinyModel(), "hello", who=one)
    return session


ALL = ("alice", "bob", "carol")


def judged(
    path: Path, *who: str, recorded: RunRecord | None, fresh: RunRecord, update: bool = False
) -> Outcome:
    session = replayed(path, *who)
    outcome = Outcome(plan_of(path), ExitCode.OK, session)
    judge(outcome, session.store, recorded, fresh, update=update)
    return outcome


@pytest.fixture
def recorded(path: Path) -> RunRecord:
    (run,) = read_cassette(path).runs
    return run


def test_a_replay_that_gives_the_same_is_as_recorded(path: Path, recorded: RunRecord) -> None:
    outcome = judged(path, *ALL, recorded=recorded, fresh=recorded)
    assert (outcome.exit_code, outcome.messages, outcome.notes) == (ExitCode.OK, [], [])
    assert outcome.verdict == artifacts.ArtifactVerdict()
    assert (outcome.changes, outcome.unplayed) == (None, 0)


def test_calls_that_were_not_played_are_counted_and_the_first_is_named(
    path: Path, recorded: RunRecord
) -> None:
    outcome = judged(path, "alice", recorded=recorded, fresh=recorded)
    assert outcome.exit_code is ExitCode.MISS
    assert outcome.messages == [
        "2 of 3 recorded calls were not played, first call 0 of bob at epoch 0, step 1"
    ]
    assert outcome.unplayed == 2
    assert outcome.verdict is None
    outcome = judged(path, "alice", "bob", recorded=None, fresh=recorded)
    assert outcome.messages == [
        "1 of 3 recorded calls were not played, first call 0 of carol at epoch 2, step 1"
    ]


def test_calls_of_other_runs_are_not_missed(path: Path, recorded: RunRecord) -> None:
    first = {call_id for call_id in recorded.calls if call_id[0] == "alice"}
    outcome = judged(path, "alice", recorded=replace(recorded, calls=first), fresh=recorded)
    assert (outcome.exit_code, outcome.messages) == (ExitCode.OK, [])


def test_a_place_that_is_not_known_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello")
    (run,) = read_cassette(path).runs
    outcome = judged(path, recorded=run, fresh=run)
    assert outcome.messages == ["1 of 1 recorded calls were not played, first call 0 of alice"]


def changed(run: RunRecord, python: str = "3.11") -> RunRecord:
    return replace(
        run,
        versions={"python": python},
        artifacts={"history.json": Artifact("0" * 64, "e" * 64), "new.csv": Artifact("1", "2")},
        metrics=({"welfare": 0.75},),
    )


def test_other_artifacts_are_a_difference_with_the_metrics_that_moved(
    path: Path, recorded: RunRecord
) -> None:
    outcome = judged(path, *ALL, recorded=recorded, fresh=changed(recorded))
    assert outcome.exit_code is ExitCode.DIFFERENCE
    assert outcome.messages == [
        "history.json is not what was recorded",
        "new.csv is not what was recorded",
        "welfare: recorded 0.5, now 0.75 (epoch 0)",
    ]
    assert outcome.notes == []
    assert read_cassette(path).runs == [recorded]


def test_under_another_python_what_is_the_same_to_12_digits_is_noted(
    path: Path, recorded: RunRecord
) -> None:
    before = path.read_bytes()
    fresh = changed(recorded, "3.13.0")
    del cast("dict[str, Artifact]", fresh.artifacts)["new.csv"]
    outcome = judged(path, *ALL, recorded=recorded, fresh=fresh, update=True)
    assert (outcome.exit_code, outcome.messages) == (ExitCode.OK, [])
    assert outcome.notes == [
        "recorded under another Python; the same to 12 significant digits: history.json"
    ]
    assert path.read_bytes() == before, "what is the same is not written anew"


def test_other_artifacts_can_be_accepted(path: Path, recorded: RunRecord) -> None:
    fresh = changed(recorded)
    outcome = judged(path, *ALL, recorded=recorded, fresh=fresh, update=True)
    assert (outcome.exit_code, outcome.messages) == (ExitCode.OK, [])
    assert outcome.notes == [f"accepted the new artifacts into {path}"]
    assert read_cassette(path).runs == [fresh]


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_run_that_was_not_recorded_has_nothing_to_be_compared_with(
    is_recorded: bool, path: Path, recorded: RunRecord
) -> None:
    other = replace(recorded, steps=99)
    known = other if is_recorded else None
    outcome = judged(path, *ALL, recorded=known, fresh=changed(recorded), update=True)
    assert (outcome.exit_code, outcome.messages, outcome.verdict) == (ExitCode.OK, [], None)
    assert outcome.notes == ["the cassette has no artifacts of this run to compare with"]
    assert read_cassette(path).runs == [recorded]


def test_without_a_cassette_only_the_ledger_speaks(path: Path, recorded: RunRecord) -> None:
    session = replayed(path)
    session.ledger.differences.append("call 0 of alice: another answer")
    outcome = Outcome(plan_of(path, Mode.LIVE), ExitCode.OK, session)
    judge(outcome, None, None, recorded, update=False)
    assert outcome.exit_code is ExitCode.DIFFERENCE
    assert outcome.messages == ["call 0 of alice: another answer"]


def test_a_difference_of_an_answer_stays_one_where_artifacts_differ_too(
    path: Path, recorded: RunRecord
) -> None:
    session = replayed(path, *ALL)
    session.ledger.differences.append("call 0 of alice: another answer")
    outcome = Outcome(plan_of(path, Mode.VERIFY), ExitCode.OK, session)
    judge(outcome, session.store, recorded, changed(recorded), update=False)
    assert outcome.exit_code is ExitCode.DIFFERENCE
    assert outcome.messages[:2] == [
        "call 0 of alice: another answer",
        "history.json is not what was recorded",
    ]


@pytest.fixture
def fresh_session(path: Path) -> Iterator[Session]:
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        yield Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=8)


def test_a_recording_is_written_at_its_end_with_its_run(
    path: Path, recorded: RunRecord, fresh_session: Session
) -> None:
    session = fresh_session
    ask(session, TinyModel(), "my key is sk-ant-api03-" + "aB3x" * 20, who="dave")
    fresh = replace(recorded, seed=8, calls=frozenset(session.ledger.used))
    outcome = Outcome(plan_of(path, Mode.AUTO), ExitCode.OK, session)
    judge(outcome, session.store, None, fresh, update=False)
    assert outcome.exit_code is ExitCode.OK
    assert outcome.changes is not None
    assert len(outcome.changes.added) == 1
    assert {run.seed for run in read_cassette(path).runs} == {7, 8}, "the other run is kept"
    (note,) = outcome.notes
    assert note.startswith(f"credentials are masked in {path}: 1 x ")


def test_a_recording_with_a_failed_call_is_not_finished(
    path: Path, recorded: RunRecord, fresh_session: Session
) -> None:
    before = path.read_bytes()

    def refuse(_number: int) -> None:
        raise ConnectionError("nobody is there")

    with pytest.raises(ConnectionError):
        ask(fresh_session, TinyModel(trouble=refuse), "hello", who="dave")
    outcome = Outcome(plan_of(path, Mode.AUTO), ExitCode.OK, fresh_session)
    judge(outcome, fresh_session.store, None, recorded, update=False)
    assert outcome.exit_code is ExitCode.BACKEND
    assert outcome.changes is None
    (message,) = outcome.messages
    assert "nobody is there" in message
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("report", "before", "after", "messages"),
    [
        ("all is well\n[PASS] a\n", ExitCode.OK, ExitCode.OK, []),
        ("x\n  [FAIL] welfare > 1 \n", ExitCode.OK, ExitCode.DIFFERENCE,
         ["success criterion [FAIL] welfare > 1"]),
        ("[FAIL] a\n[FAIL] b", ExitCode.MISS, ExitCode.MISS,
         ["success criterion [FAIL] a", "success criterion [FAIL] b"]),
        ("it says [FAIL] inside", ExitCode.OK, ExitCode.OK, []),
        ("", ExitCode.MISS, ExitCode.MISS, []),
    ],
)  # fmt: skip
def test_a_criterion_that_failed_fails_the_run(
    report: str, before: ExitCode, after: ExitCode, messages: list[str], path: Path
) -> None:
    outcome = Outcome(plan_of(path), before, replayed(path), report=report)
    judge_criteria(outcome)
    assert (outcome.exit_code, outcome.messages) == (after, messages)


# --- The record of a run.


def test_a_run_is_described_with_its_calls_files_and_metrics(
    path: Path, recorded: RunRecord, tmp_path: Path
) -> None:
    (tmp_path / "history.json").write_text("[1.5]")
    epochs = [
        {"welfare": np.float64(0.5), "n": np.int64(3), "nested": {1: (np.float32(0.25), "x")}},
        {"bad": float("nan"), "worse": float("-inf"), "none": None, "yes": True},
    ]
    history = [SimpleNamespace(to_dict=lambda epoch=epoch: epoch) for epoch in epochs]
    hooks: Any = SimpleNamespace(orchestrator=SimpleNamespace(get_metrics_history=lambda: history))
    session = replayed(path, "alice")
    plan = replace(plan_of(path), seed=9, epochs=3, steps=4)
    found = make_run_record(plan, session, hooks, None)
    assert found.id == ("test", 9, 3, 4)
    assert found.scenario_sha256 == "c" * 64
    assert found.versions == versions()
    assert {scope for scope, _, _ in found.calls} == {"alice"}
    assert list(found.artifacts) == ["history.json"]
    assert found.metrics == (
        {"welfare": 0.5, "n": 3, "nested": {"1": [0.25, "x"]}},
        {"bad": "nan", "worse": "-inf", "none": None, "yes": True},
    )
    assert type(found.metrics[0]["welfare"]) is float
    known = {"history.json": Artifact(found.artifacts["history.json"].sha256, "known")}
    again = make_run_record(plan, session, hooks, replace(recorded, artifacts=known))
    assert again.artifacts == known


def test_the_versions_that_can_change_prompts_are_noted() -> None:
    import importlib.metadata
    import platform

    assert versions()["python"] == platform.python_version()
    assert set(versions()) <= {"python", "swarm-safety", "openai"}
    assert versions().get("openai") == importlib.metadata.version("openai")


# --- Which recording is meant.


def store_of(*runs: RunRecord) -> Any:
    return SimpleNamespace(runs=lambda: list(runs))


def test_the_run_of_the_same_length_is_chosen_among_runs_of_a_seed(path: Path) -> None:
    plan = plan_of(path)
    exact = replace(make_run({}), epochs=1, steps=2)
    longer, shorter = replace(exact, steps=9), replace(exact, epochs=9)
    other = replace(exact, seed=8)
    assert recorded_run(plan, None) is None
    assert recorded_run(plan, store_of()) is None
    assert recorded_run(plan, store_of(other)) is None
    assert recorded_run(plan, store_of(other, longer, exact)) is exact
    assert recorded_run(plan, store_of(shorter, longer)) is shorter


def test_a_miss_first_names_how_the_environments_differ(path: Path) -> None:
    plan = plan_of(path)
    same = replace(make_run({}), versions={**versions(), "python": "2.7"})
    assert version_notes(plan, None) == ()
    assert version_notes(plan, store_of()) == ()
    assert version_notes(plan, store_of(same)) == (), "Python itself changes no prompt"
    older = replace(same, versions={"openai": "0.1", "swarm-safety": "0.2", "numpy": "1"})
    assert version_notes(plan, store_of(older)) == tuple(
        f"{name} is {versions().get(name, 'not installed')} here, the recording was made with "
        f"{version}"
        for name, version in older.versions.items()
        if name != "numpy"
    )
    other = replace(same, seed=3)
    assert version_notes(plan, store_of(other)) == ("this run has seed 7, the recording has 3",)
    assert version_notes(plan, store_of(other, same)) == ()


def test_another_scenarios_cassette_is_refused(path: Path) -> None:
    assert open_recording(plan_of(path)).path == path
    with pytest.raises(CassetteAccessError) as caught:
        open_recording(plan_of(path, scenario="city"))
    assert str(caught.value) == (
        f"{path} belongs to scenario 'test', not 'city'; name its own with --cassette"
    )
