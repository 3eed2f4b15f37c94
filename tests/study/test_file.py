"""What a study file may say, and what is refused before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_repro.errors import ScenarioError, UsageError
from swarm_repro.study.file import load_study
from tests.support.studies import TAX, write_scenario, write_study


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)


def test_runs_are_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    settings = {"governance.transaction_tax_rate": [0.0, 0.5], "agents.0.llm.temperature": [0.2, 1]}
    study = load_study(write_study(tmp_path, settings=settings, seeds={"from": 3, "count": 2}))
    assert [run.name for run in study.runs] == [
        f"small.transaction_tax_rate={tax}.temperature={heat}.seed{seed}"
        for tax in ("0.0", "0.5")
        for heat in ("0.2", "1")
        for seed in (3, 4)
    ]
    assert [run.number for run in study.runs] == list(range(8))


def test_settings_reach_the_scenario_and_nothing_else_changes(tmp_path: Path) -> None:
    import yaml

    plain = yaml.safe_load((tmp_path / "scenario.yaml").read_text())
    settings = {"governance.audit_probability": [0.25], "agents.0.llm.temperature": [0.9]}
    (run,) = load_study(write_study(tmp_path, settings=settings, seeds=[1])).runs
    changed = yaml.safe_load(run.document)
    assert changed["governance"].pop("audit_probability") == 0.25, "SWARM's own, not in the file"
    assert changed["agents"][0]["llm"]["temperature"] == 0.9
    changed["agents"][0]["llm"]["temperature"] = plain["agents"][0]["llm"]["temperature"]
    assert changed == plain


def test_without_settings_the_scenario_is_the_file_itself(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    assert {run.document for run in study.runs} == {(tmp_path / "scenario.yaml").read_text()}


def test_repeats_are_runs_of_their_own(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, seeds=[7], repeats=2))
    assert [run.name for run in study.runs] == ["small.seed7.repeat0", "small.seed7.repeat1"]


def test_values_that_no_folder_can_be_called_by_have_a_digest(tmp_path: Path) -> None:
    settings = {"agents.0.llm.model": ["a/b", "c d"]}
    study = load_study(write_study(tmp_path, settings=settings, seeds=[1]))
    assert len({run.name for run in study.runs}) == 2
    assert all("/" not in run.name and " " not in run.name for run in study.runs)


def test_the_committed_study_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TAX.parents[1])
    study = load_study(TAX)
    assert (study.name, len(study.runs)) == ("tax", 12)


BAD: list[tuple[dict[str, object], str]] = [
    ({"settings": {"governance.transaction_tax": [1]}}, "near it are governance.transaction_tax_r"),
    ({"settings": {"nowhere.at.all": [1]}}, "does not exist"),
    ({"settings": {"agents.7.llm.temperature": [1]}}, "a list of 2: use 0 to 1"),
    ({"settings": {"agents.0.llm": [{}]}}, "holds several values"),
    ({"settings": {"agents.0.llm.temperature": ["hot"]}}, "'hot' is no value for it"),
    ({"settings": {"agents.0.llm.temperature": [True]}}, "True is no value for it"),
    ({"settings": {"governance.staking_enabled": [1]}}, "1 is no value for it"),
    ({"settings": {"governance.transaction_tax_rate": [0, 0.0]}}, "has 0 twice"),
    ({"settings": {"governance.transaction_tax_rate": []}}, "needs a list of one value or more"),
    ({"settings": {"governance.transaction_tax_rate": 0.5}}, "needs a list of one value or more"),
    ({"settings": {"governance.transaction_tax_rate": [float("nan")]}}, "no JSON form"),
    ({"settings": {"simulation.seed": [1]}}, "seeds are listed under 'seeds'"),
    ({"settings": {"agents": [[]], "agents.0.type": ["llm"]}}, "is a part of agents"),
    ({"settings": []}, "not a mapping"),
    ({"seeds": []}, "one seed or more"),
    ({"seeds": None}, "one seed or more"),
    ({"seeds": [-1]}, "out of range"),
    ({"seeds": [2**32 - 1]}, "out of range"),
    ({"seeds": [True]}, "out of range"),
    ({"seeds": [1, 2, 1]}, "has 1 twice"),
    ({"seeds": {"from": 0}}, "use a list of seeds"),
    ({"seeds": {"from": 0, "count": 10**9}}, "too many"),
    ({"seeds": {"count": 0}}, "whole numbers"),
    ({"seeds": {"count": 10_000}, "repeats": 1000}, "runs are too many"),
    ({"repeats": 0}, "positive whole number"),
    ({"epochs": "two"}, "positive whole number"),
    ({"scenarios": []}, "one scenario file or more"),
    ({"scenarios": ["scenario.yaml", "scenario.yaml"]}, "both called 'small'"),
    ({"name": "a/b"}, "cannot name a folder"),
    ({"sedes": [1]}, "'sedes' is unknown"),
    ({"backend": {"kind": "vllm"}}, "is unknown; use one of"),
    ({"backend": {"kind": "llama-server"}}, "needs 'model'"),
    ({"backend": {"model": "x.gguf"}}, "takes no other member"),
    ({"backend": {"kind": "llama-cpp-python"}}, "cannot serve agents[0].llm"),
    ({"backend": {"profil": "x"}}, "'profil' is unknown"),
    ({"backend": "local"}, "not a mapping"),
]


@pytest.mark.parametrize(("members", "said"), BAD, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said_in_one_line(
    members: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        load_study(write_study(tmp_path, **members))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_scenario_that_is_not_there_or_no_scenario_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no scenario at elsewhere"):
        load_study(write_study(tmp_path, scenarios=["elsewhere.yaml"]))
    (tmp_path / "broken.yaml").write_text("agents: {")
    with pytest.raises(ScenarioError, match="not YAML"):
        load_study(write_study(tmp_path, scenarios=["broken.yaml"]))


@pytest.mark.parametrize("text", ["- a list", "a: [", "2026-99-99", ""])
def test_a_study_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UsageError, match="is not"):
        load_study(tmp_path / "study.yaml")
    with pytest.raises(UsageError, match="there is no study"):
        load_study(tmp_path / "missing.yaml")
