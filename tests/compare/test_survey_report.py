"""A survey of a small program in SWARM's place: stale calls, their causes and their cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro import __version__, survey
from swarm_repro.caller import calling_for, scope
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import ExitCode, ReplayMiss
from swarm_repro.mode import Mode
from swarm_repro.request import Request
from swarm_repro.session import Session
from swarm_repro.simulation.hooks import SwarmHooks
from swarm_repro.simulation.plan import Plan, RunOptions
from tests.support.recordings import Call, record
from tests.support.tiny_model import TinyModel, completion_of

SCENARIO = """
simulation: {seed: 7, n_epochs: 1, steps_per_epoch: 9}
scenario_id: scenes
agents: [{type: honest}]
repro: {seed_policy: POLICY}
"""


@dataclass
class Project:
    """A scenario, its cassette, and the calls of the program when it is surveyed."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    answers: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)

    @property
    def cassette(self) -> Path:
        return self.folder / "c.jsonl"

    def survey(
        self, calls: Sequence[Call], *, policy: str = "event", **options: Any
    ) -> survey.Survey:
        """Survey a program that makes these calls."""

        def simulate(plan: Plan, session: Session, hooks: SwarmHooks) -> None:
            assert plan.mode is session.mode is Mode.REPLAY
            assert plan.out.is_dir()
            self.answers = list(asked(session, hooks, calls))

        path = self.folder / "s.yaml"
        path.write_text(SCENARIO.replace("POLICY", policy))
        self.monkeypatch.setattr(survey, "simulate", simulate)
        before = sorted(self.folder.iterdir())
        found = survey.survey(
            RunOptions(scenario=path, cassette=self.cassette, **options), on_call=self.note
        )
        assert sorted(self.folder.iterdir()) == before, "nothing is written"
        return found

    def note(self, call: object, completion: Completion) -> None:
        self.noted.append(completion.text)


def asked(session: Session, hooks: SwarmHooks, calls: Iterable[Call]) -> Iterable[str]:
    """Make calls as a simulation does, and give what was answered."""

    def refuse(_request: Request) -> Completion:
        raise AssertionError("nothing is called")

    for call in calls:
        at = call.at
        hooks.orchestrator = at and SimpleNamespace(
            state=SimpleNamespace(current_epoch=at[0], current_step=at[1])
        )
        with scope(call.who), calling_for(call.kind) if call.kind else nullcontext():
            request = Request(
                endpoint=call.endpoint,
                binding=session.bind("tiny", TinyModel()).binding,
                path=call.path,
                body=call.body,
                kind=call.kind,
            )
            yield session.perform(request, refuse).text


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def lasting(text: str, milliseconds: int) -> Completion:
    """An answer that took a quarter of a second and some more."""
    return completion_of(text, number=milliseconds)


CALLS = [
    Call("ada 1", lasting("a1", 0), at=(0, 0)),
    Call("ben 1", lasting("b1", 750), "ben", (0, 0)),
    Call("ada 2", lasting("a2", 1750), at=(0, 1)),
    Call("ben 2", lasting("b2", 3750), "ben", (0, 2), "accept"),
]


def changed(number: int, **members: Any) -> list[Call]:
    """The calls, one of them with other members."""
    return [replace(call, **members) if n == number else call for n, call in enumerate(CALLS)]


def groups_of(found: survey.Survey) -> list[tuple[str, str, str, int, tuple[str, ...]]]:
    return [
        (group.cause.field, group.cause.a, group.cause.b, group.calls, group.scopes)
        for group in found.groups
    ]


def test_a_survey_calls_no_model_whatever_the_mode(project: Project) -> None:
    record(project.cassette, CALLS)
    found = project.survey(CALLS, mode=Mode.RECORD)
    assert found.exit_code is ExitCode.OK


def test_an_unchanged_program_is_not_stale(project: Project) -> None:
    record(project.cassette, CALLS)
    found = project.survey(CALLS)
    assert (found.exit_code, found.seconds, found.following) == (ExitCode.OK, 0.0, (0, 0.0))
    assert project.answers == project.noted == ["a1", "b1", "a2", "b2"]
    assert found.to_json() == {
        "report": "survey",
        "version": 1,
        "recorder": __version__,
        "verdict": "nothing is stale: all 4 calls ask what was recorded",
        "cassette": "c.jsonl",
        "scenario": "scenes",
        "versions": [],
        "counts": {"same": 4, "changed": 0, "unrecorded": 0, "unplayed": 0},
        "record_anew": {
            "calls": 0, "seconds": 0.0, "at_most_calls": 0, "at_most_seconds": 0.0,
        },
        "groups": [],
    }  # fmt: skip


def test_a_changed_prompt_is_answered_as_recorded_and_named(project: Project) -> None:
    record(project.cassette, CALLS)
    found = project.survey(changed(2, prompt="ada two"))
    assert project.answers == ["a1", "b1", "a2", "b2"], "the recorded way is taken"
    report = found.to_json()
    assert found.exit_code is ExitCode.MISS
    assert report["verdict"] == "1 of 4 calls are stale, most by messages[0].content"
    assert report["counts"] == {"same": 3, "changed": 1, "unrecorded": 0, "unplayed": 0}
    assert report["record_anew"] == {
        "calls": 1, "seconds": 2.0, "at_most_calls": 2, "at_most_seconds": 6.0,
    }  # fmt: skip
    assert report["groups"] == [
        {
            "field": "messages[0].content",
            "a": "'ada 2'",
            "b": "'ada two'",
            "character": 4,
            "calls": 1,
            "scopes": ["ada"],
            "first": {"scope": "ada", "i": 1, "at": [0, 1]},
        }
    ]


def test_texts_that_differ_in_numbers_alone_are_one_group(project: Project) -> None:
    record(project.cassette, CALLS)
    calls = [Call(f"round {call.prompt}.5", call.answer, call.who, call.at, call.kind)
             for call in CALLS]  # fmt: skip
    found = project.survey(calls)
    assert [(group.calls, group.scopes) for group in found.groups] == [
        (2, ("ada",)), (2, ("ben",)),
    ]  # fmt: skip
    assert found.groups[0].cause[1:3] == ("'ada 1'", "'round ada 1.5'"), "as the first shows it"


def test_settings_and_texts_of_a_call_are_groups_of_their_own(project: Project) -> None:
    record(project.cassette, CALLS)
    calls = [
        Call(call.prompt, "", call.who, call.at, call.kind, fields={"top_k": 3}) for call in CALLS
    ]
    calls[0] = Call("other", fields={"top_k": 3})
    assert groups_of(project.survey(calls)) == [
        ("top_k", "40", "3", 4, ("ada", "ben")),
        ("messages[0].content", "'ada 1'", "'other'", 1, ("ada",)),
    ]


def test_calls_that_were_never_recorded_are_answered_by_others_of_their_kind(
    project: Project,
) -> None:
    record(project.cassette, CALLS)
    more = [
        Call("ada 3", "", "ada", (0, 3)),
        Call("ben 3", "", "ben", (0, 3)),
        Call("cleo 1", "", "cleo", (0, 3)),
        Call("cleo 2", "", "cleo", (0, 4), "accept"),
        Call("cleo 3", "", "cleo", (0, 4), "accept"),
    ]
    found = project.survey([*CALLS, *more])
    assert project.answers[4:] == ["a2", "b1", "a2", "b2", "b2"], "an agent's own last one first"
    report = found.to_json()
    assert report["counts"] == {"same": 4, "changed": 0, "unrecorded": 5, "unplayed": 0}
    assert report["record_anew"] == {
        "calls": 5, "seconds": 0.0, "at_most_calls": 5, "at_most_seconds": 0.0,
    }  # fmt: skip
    assert groups_of(found) == [
        ("call", "(absent)", "call 0 of cleo", 3, ("cleo",)),
        ("call", "(absent)", "call 2 of ada", 1, ("ada",)),
        ("call", "(absent)", "call 2 of ben", 1, ("ben",)),
    ]


def test_calls_without_a_recording_take_as_long_as_the_others_on_average(project: Project) -> None:
    record(project.cassette, CALLS)
    found = project.survey([*changed(1, prompt="x", answer=""), Call("more", at=(0, 3))])
    assert found.seconds == 2.0, "one of a second, and one more"
    assert found.following == (4, 7.25), "all calls of the first drift's step, and later ones"
    assert found.to_json()["record_anew"] == {
        "calls": 2, "seconds": 2.0, "at_most_calls": 4, "at_most_seconds": 7.2,
    }  # fmt: skip
    quick = project.survey(changed(0, prompt="x", answer=""))
    assert quick.seconds == 0.25
    assert quick.to_json()["record_anew"] == {
        "calls": 1, "seconds": 0.2, "at_most_calls": 4, "at_most_seconds": 7.2,
    }  # fmt: skip


def test_without_steps_all_calls_may_follow_a_drift(project: Project) -> None:
    calls = [Call(f"{n}", lasting("x", 250), at=None) for n in range(3)]
    record(project.cassette, calls)
    found = project.survey([*calls[:2], Call("other", at=None)])
    assert found.following == (3, 1.5)
    assert found.to_json()["groups"][0]["first"]["at"] is None  # type: ignore[index]


def test_a_kind_of_call_that_was_never_recorded_ends_the_survey(project: Project) -> None:
    record(project.cassette, CALLS)
    for kind, shown in (("vote", "a vote"), (None, "a call")):
        with pytest.raises(ReplayMiss) as caught:
            project.survey([*CALLS, Call("x", "", "cleo", (0, 5), kind)])
        assert str(caught.value) == (
            f"call 0 of cleo, {shown}, was never recorded, nor was one of its kind: there is "
            "nothing to survey with; record it with --auto"
        )


def test_recorded_calls_that_are_not_asked_for_are_counted(project: Project) -> None:
    record(project.cassette, CALLS)
    found = project.survey(CALLS[:3])
    report = found.to_json()
    assert found.exit_code is ExitCode.MISS
    assert report["verdict"] == "1 recorded calls are not asked for any more"
    assert report["counts"] == {"same": 3, "changed": 0, "unrecorded": 0, "unplayed": 1}


def test_another_run_seed_is_one_group(project: Project) -> None:
    record(project.cassette, CALLS, seed=8)
    found = project.survey(CALLS)
    assert groups_of(found) == [("run seed", "8", "7", 4, ("ada", "ben"))]
    assert found.versions[-1] == "this run has seed 7, the recording has 8"


def test_another_seed_policy_is_named_and_no_seed(project: Project) -> None:
    record(project.cassette, CALLS, seed=8)
    assert groups_of(project.survey(CALLS, policy="content")) == [
        ("seed policy", "event", "content", 4, ("ada", "ben"))
    ]


def test_seeds_of_the_caller_are_compared_as_they_are(project: Project) -> None:
    record(project.cassette, [Call("1", fields={"seed": 5})], seed=8)
    assert groups_of(project.survey([Call("1", fields={"seed": 6})])) == [
        ("seed", "5", "6", 1, ("ada",))
    ]


def test_only_the_calls_of_this_runs_seed_are_expected(project: Project) -> None:
    record(project.cassette, [Call("7", "seven"), Call("77", "seven")], seed=7)
    record(project.cassette, [Call("8", "eight"), *[Call(f"{n}") for n in range(3)]], seed=8)
    found = project.survey([Call("7")])
    assert (project.answers, found.same, found.unplayed) == (["seven"], 1, 1)


def test_a_cassette_without_runs_is_surveyed_by_all_its_calls(project: Project) -> None:
    record(project.cassette, CALLS, run=False)
    found = project.survey([Call("ada 1")])
    assert (found.same, found.unplayed, found.versions) == (1, 3, ())


def test_versions_that_differ_from_the_recordings_are_reported(project: Project) -> None:
    record(project.cassette, CALLS)
    whole = read_cassette(project.cassette)
    runs = [made_with(run, "swarm-safety", "0.0.1") for run in whole.runs]
    write_cassette(replace(whole, runs=runs), project.cassette)
    (told,) = project.survey(CALLS).versions
    assert told.startswith("swarm-safety is ")
    assert told.endswith(", the recording was made with 0.0.1")


def made_with(run: RunRecord, name: str, version: str) -> RunRecord:
    return replace(run, versions={**run.versions, name: version})
