"""``run --survey`` tells what an upgrade made stale, and changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from tests.support.command import ROOT, swarm_repro

SCHEMA = ROOT / "docs" / "reference" / "schemas" / "survey.schema.json"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "cassettes").mkdir()
    shutil.copy(ROOT / "cassettes" / "demo.seed42.jsonl", tmp_path / "cassettes")
    shutil.copy(ROOT / "scenarios" / "demo.yaml", tmp_path / "s.yaml")
    return tmp_path


def survey(project: Path, *options: object) -> tuple[int, dict[str, object]]:
    before = sorted(path for path in project.rglob("*"))
    done = swarm_repro("run", "s.yaml", "--survey", "--json", *options, cwd=project)
    assert done.stdout, done.stderr
    assert sorted(path for path in project.rglob("*")) == before, "a survey writes nothing"
    report = json.loads(done.stdout)
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return done.returncode, report


def edit(project: Path, old: str, new: str) -> None:
    scenario = project / "s.yaml"
    text = scenario.read_text()
    assert old in text
    scenario.write_text(text.replace(old, new, 1))


def groups(report: dict[str, object]) -> list[tuple[str, int, list[str]]]:
    found = report["groups"]
    assert isinstance(found, list)
    return [(group["field"], group["calls"], group["scopes"]) for group in found]


def test_an_unchanged_experiment_is_not_stale(project: Path) -> None:
    code, report = survey(project)
    assert code == 0
    assert report["counts"] == {"same": 54, "changed": 0, "unrecorded": 0, "unplayed": 0}
    assert report["groups"] == []


def test_a_changed_persona_is_one_group_of_one_agents_calls(project: Path) -> None:
    edit(project, "persona: strategic", "persona: honest")
    code, report = survey(project)
    assert code == 3
    ((field, calls, scopes),) = groups(report)
    assert (field, scopes) == ("system prompt, messages[0].content", ["llm_2"])
    counts, anew = report["counts"], report["record_anew"]
    assert isinstance(counts, dict)
    assert isinstance(anew, dict)
    assert counts["changed"] == anew["calls"] == calls
    assert counts["same"] + calls == 54
    assert 0 < anew["seconds"] <= anew["at_most_seconds"]
    assert anew["at_most_calls"] == 54, "llm_2 speaks in the first step"


def test_changed_sampling_is_named_with_both_values(project: Path) -> None:
    edit(project, "temperature: 0.8", "temperature: 0.7")
    code, report = survey(project)
    assert code == 3
    assert groups(report) == [("temperature", 54, ["llm_1", "llm_2", "llm_3"])]
    found = report["groups"]
    assert isinstance(found, list)
    assert (found[0]["a"], found[0]["b"]) == ("0.8", "0.7")


def test_another_seed_is_named_by_the_runs_seed(project: Path) -> None:
    code, report = survey(
        project, "--seed", 7, "--cassette", "cassettes/demo.seed42.jsonl", "--epochs", 1
    )
    assert code == 3
    assert groups(report)[0][0] == "run seed"


def test_another_seed_policy_is_named_and_no_seed_is(project: Path) -> None:
    edit(project, "  strict: true", "  strict: true\n  seed_policy: content")
    code, report = survey(project)
    assert code == 3
    assert groups(report) == [("seed policy", 54, ["llm_1", "llm_2", "llm_3"])]


def test_a_longer_run_has_calls_without_a_recording(project: Path) -> None:
    code, report = survey(project, "--steps", 9)
    assert code == 3
    counts = report["counts"]
    assert isinstance(counts, dict)
    assert counts["unrecorded"] > 0


def test_a_shorter_run_leaves_calls_unasked(project: Path) -> None:
    code, report = survey(project, "--epochs", 1)
    assert code == 3
    counts = report["counts"]
    assert isinstance(counts, dict)
    assert counts["changed"] == 0
    assert counts["same"] + counts["unplayed"] == 54


def test_the_text_lists_groups_and_what_recording_anew_takes(project: Path) -> None:
    edit(project, "persona: strategic", "persona: honest")
    done = swarm_repro("run", "s.yaml", "--survey", cwd=project)
    assert done.returncode == 3
    assert "calls are stale, most by system prompt" in done.stdout.splitlines()[0]
    assert "to record anew: " in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--record",), "leave --record out"),
        (("--out", "x"), "leave --out out"),
        (("--check-model", "x.gguf"), "leave --check-model out"),
        (("--cassette", "none.jsonl"), "there is no cassette"),
    ],
)
def test_a_survey_goes_with_no_other_mode(
    project: Path, options: tuple[str, ...], shown: str
) -> None:
    done = swarm_repro("run", "s.yaml", "--survey", *options, cwd=project)
    assert done.returncode == 2
    assert shown in done.stderr


def test_a_page_goes_with_a_survey_only(project: Path) -> None:
    done = swarm_repro("run", "s.yaml", "--html", "x.html", cwd=project)
    assert done.returncode == 2
    assert "--html goes with --survey" in done.stderr
    done = swarm_repro("run", "s.yaml", "--survey", "--html", "x.html", cwd=project)
    assert done.returncode == 0, done.stderr
    assert b"<!doctype html>" in (project / "x.html").read_bytes().lower()
