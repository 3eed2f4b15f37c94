"""A study's file: every member, its default, and every refusal in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from swarm_repro.canonical import encode_canonical, sha256_hex
from swarm_repro.errors import UsageError
from swarm_repro.study.file import StudyBackend, load_study
from tests.support.studies import write_scenario, write_study

TAX = "governance.transaction_tax_rate"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)


def in_process_scenario(folder: Path) -> None:
    """The scenario with its models in process."""
    block = {"provider": "llama_cpp", "model_path": "models/a.gguf"}
    write_scenario(folder, agents=[{"type": "llm", "llm": block}, {"type": "honest"}])


def test_omitted_members_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tiny.study.yaml"
    path.write_text("scenarios: [scenario.yaml]\nseeds: [5]\nsettings:\nbackend:\n")
    study = load_study(path)
    assert study.path == path
    assert study.name == "tiny.study"
    assert (study.epochs, study.steps, study.settings) == (None, None, ())
    assert study.backend == StudyBackend("as-written", None, "cpu-strict", None)
    assert study.cassettes == Path("cassettes/tiny.study")
    assert study.out == Path("studies/tiny.study")
    (run,) = study.runs
    assert (run.number, run.name, run.group, run.scenario) == (0, "small.seed5", "small", "small")
    assert (run.seed, run.repeat, run.settings) == (5, 0, {})
    assert run.source == Path("scenario.yaml")


def test_given_members_are_read(tmp_path: Path) -> None:
    path = write_study(
        tmp_path, name="said", seeds=[0, 2**32 - 2], epochs=3, steps=4, repeats=1,
        cassettes="tapes", out="results", settings={TAX: [0.5]},
    )  # fmt: skip
    study = load_study(path)
    assert (study.name, study.epochs, study.steps) == ("said", 3, 4)
    assert (study.cassettes, study.out) == (Path("tapes"), Path("results"))
    assert study.settings == (TAX,)
    assert [run.seed for run in study.runs] == [0, 2**32 - 2]
    assert {run.group for run in study.runs} == {"small.transaction_tax_rate=0.5"}
    assert {run.repeat for run in study.runs} == {0}
    assert study.runs[0].settings == {TAX: 0.5}


def test_seeds_count_from_the_given_start(tmp_path: Path) -> None:
    def seeds(value: object) -> list[int]:
        return [run.seed for run in load_study(write_study(tmp_path, seeds=value)).runs]

    assert seeds({"from": 7, "count": 3}) == [7, 8, 9]
    assert seeds({"count": 2}) == [0, 1]
    assert seeds({"count": 1}) == [0]


def test_runs_of_two_scenarios_follow_one_another(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "scenario.yaml").read_text().replace("id: small", "id: other"))
    study = load_study(
        write_study(tmp_path, scenarios=["other.yaml", "scenario.yaml"], seeds=[1], repeats=2)
    )
    assert [(run.number, run.name, run.scenario, str(run.source)) for run in study.runs] == [
        (0, "other.seed1.repeat0", "other", "other.yaml"),
        (1, "other.seed1.repeat1", "other", "other.yaml"),
        (2, "small.seed1.repeat0", "small", "scenario.yaml"),
        (3, "small.seed1.repeat1", "small", "scenario.yaml"),
    ]
    assert [run.repeat for run in study.runs] == [0, 1, 0, 1]
    assert yaml.safe_load(study.runs[0].document)["scenario_id"] == "other"


@pytest.mark.parametrize(
    ("settings", "group"),
    [
        ({"agents.0.llm.model": ["tiny"]}, "small.model=tiny"),
        ({TAX: [0.1]}, "small.transaction_tax_rate=0.1"),
        ({"governance.audit_enabled": [True]}, "small.audit_enabled=true"),
        ({"governance.audit_probability": [1e-7]}, None),
        ({"agents.0.llm.model": ["m" * 88]}, f"small.model={'m' * 88}"),
        ({"agents.0.llm.model": ["m" * 89]}, None),
        ({"agents.0.llm.model": ["a b"]}, None),
        # Two settings of one last name could not be told apart by it.
        ({"agents.0.llm.model": ["a"], "agents.0.llm.base_url": ["b"]}, None),
        ({"agents.0.type": ["llm"], "agents.1.type": ["honest"]}, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_group_is_called_by_its_settings_or_by_their_digest(
    settings: dict[str, list[object]], group: str | None, tmp_path: Path
) -> None:
    if "agents.0.llm.base_url" in settings:
        settings = {**settings, "agents.0.llm.base_url": ["http://127.0.0.1:9/v1"]}
    (run,) = load_study(write_study(tmp_path, seeds=[1], settings=settings)).runs
    values = {path: one for path, (one,) in settings.items()}
    if "governance.audit_probability" in settings:
        group = "small.audit_probability=1e-7"
    digest = sha256_hex(encode_canonical(values))[:12]
    assert run.group == (group or f"small.{digest}")
    assert run.name == f"{run.group}.seed1"


def test_the_scenario_of_a_run_is_written_as_a_person_would(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(path.read_text() + "motto: größer\n", encoding="utf-8")
    (run,) = load_study(write_study(tmp_path, seeds=[1], settings={TAX: [0.5]})).runs
    names = list(yaml.safe_load(run.document))
    assert names == list(yaml.safe_load(path.read_text(encoding="utf-8"))), "in their order"
    assert "motto: größer\n" in run.document


def test_long_texts_of_a_runs_scenario_are_folded_at_100_characters(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(path.read_text() + f"motto: xxx {'word ' * 60}\n", encoding="utf-8")
    (run,) = load_study(write_study(tmp_path, seeds=[1], settings={TAX: [0.5]})).runs
    # The digest of a run is of these bytes: a line goes on until a word reaches beyond the limit.
    assert max(map(len, run.document.splitlines())) == 105


def test_the_digest_of_a_study_is_of_what_decides_its_results(tmp_path: Path) -> None:
    def digest(**members: object) -> str:
        return load_study(write_study(tmp_path, **members)).sha256

    plain = digest()
    assert digest(name="other", out="elsewhere") == plain
    changed = [
        digest(seeds=[1, 3]),
        digest(repeats=2),
        digest(epochs=1),
        digest(steps=1),
        digest(settings={TAX: [0.0]}),
        digest(settings={TAX: [0.5]}),
    ]
    write_scenario(tmp_path, motto="another")
    changed.append(digest())
    assert len({plain, *changed}) == 8


# --- Where calls go.


def test_servers_of_the_workers_own(tmp_path: Path) -> None:
    backend = {"kind": "llama-server", "model": "m.gguf", "profile": "gpu", "threads": 3}
    study = load_study(write_study(tmp_path, backend=backend))
    assert study.backend == StudyBackend("llama-server", "m.gguf", "gpu", 3)


def test_models_in_the_workers_processes(tmp_path: Path) -> None:
    in_process_scenario(tmp_path)
    study = load_study(write_study(tmp_path, backend={"kind": "llama-cpp-python"}))
    assert study.backend == StudyBackend("llama-cpp-python", None, "cpu-strict", None)
    as_written = load_study(write_study(tmp_path, backend={"kind": "as-written"}))
    assert as_written.backend == StudyBackend()


BAD: list[tuple[dict[str, object], str]] = [
    ({"backend": {"kind": "llama-cpp-python"}},
     "backend: llama-cpp-python cannot serve agents[0].llm of scenario.yaml: give it model_path"),
    ({"backend": {"kind": "llama-server"}},
     "backend: a server of each worker's own needs 'model', a path or SHA-256"),
    ({"backend": {"kind": "vllm"}},
     "backend: kind 'vllm' is unknown; use one of as-written, llama-server, llama-cpp-python"),
    ({"backend": {"kind": "as-written", "threads": 2}},
     "backend: as-written takes no other member: the scenarios say it all"),
    ({"backend": {"profil": 1}}, "backend: 'profil' is unknown; use kind, model, profile, threads"),
    ({"backend": {"kind": "llama-server", "model": "m", "threads": 0}},
     "threads must be a positive whole number, not 0"),
    ({"backend": []}, "backend is not a mapping"),
    ({"settings": 0}, "settings is not a mapping of paths to lists of values"),
    ({"settings": {TAX: []}}, f"settings: {TAX} needs a list of one value or more, not []"),
    ({"settings": {TAX: [0.5, 0.5]}},
     f"settings: {TAX} has 0.5 twice: the same run would be made again"),
    ({"settings": {TAX: [1.0, 1]}},
     f"settings: {TAX} has 1 twice: the same run would be made again"),
    ({"seeds": [4, 4]}, "seeds has 4 twice: the same run would be made again"),
    ({"seeds": {"from": 0, "count": 1, "step": 2}},
     "seeds: use a list of seeds, or {from: 0, count: 100}"),
    ({"seeds": {"from": 0.5, "count": 2}}, "seeds: from and count are whole numbers, not 0.5, 2"),
    ({"seeds": {"count": True}}, "seeds: from and count are whole numbers, not 0, True"),
    ({"seeds": {"count": "9"}}, "seeds: from and count are whole numbers, not 0, '9'"),
    ({"seeds": {"count": 1_000_001}}, "seeds: 1000001 of them are too many"),
    ({"seeds": {"count": 500_001}, "repeats": 2},
     "1000002 runs are too many; a study has at most 1000000"),
    ({"seeds": 3}, "seeds: give a list of one seed or more, or {from: 0, count: 100}"),
    ({"seeds": ["1"]}, "seeds: '1' is out of range: use 0 to 4294967294"),
    ({"scenarios": "scenario.yaml"}, "scenarios: give a list of one scenario file or more"),
    ({"repeats": True}, "repeats must be a positive whole number, not True"),
    ({"steps": -1}, "steps must be a positive whole number, not -1"),
    ({"epochs": 1.5}, "epochs must be a positive whole number, not 1.5"),
    ({"name": ""}, "name '' cannot name a folder"),
    ({"name": ".x"}, "name '.x' cannot name a folder"),
    ({"name": "a\\b"}, "name 'a\\\\b' cannot name a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "said"), BAD, ids=lambda value: str(value)[:60])
def test_every_refusal_names_the_file_and_what_to_do(
    members: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = write_study(tmp_path, **members)
    with pytest.raises(UsageError) as raised:
        load_study(path)
    assert str(raised.value) == f"study {path}: {said}"


def test_a_server_cannot_serve_a_model_in_process(tmp_path: Path) -> None:
    in_process_scenario(tmp_path)
    backend = {"kind": "llama-server", "model": "m.gguf"}
    with pytest.raises(UsageError) as raised:
        load_study(write_study(tmp_path, backend=backend))
    assert str(raised.value).endswith(
        "backend: llama-server cannot serve agents[0].llm of scenario.yaml: give it base_url, "
        "without model_path"
    )


def test_two_scenarios_of_one_id_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_bytes((tmp_path / "scenario.yaml").read_bytes())
    path = write_study(tmp_path, scenarios=["scenario.yaml", "copy.yaml"])
    with pytest.raises(UsageError) as raised:
        load_study(path)
    assert str(raised.value) == (
        f"study {path}: scenarios: scenario.yaml and copy.yaml are both called 'small': give each "
        "a scenario_id of its own"
    )


def test_an_unknown_member_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write_study(tmp_path, zeal=1, sedes=[1])
    with pytest.raises(UsageError) as raised:
        load_study(path)
    assert str(raised.value) == (
        f"study {path}: 'sedes' is unknown; use backend, cassettes, epochs, name, out, repeats, "
        "scenarios, seeds, settings, steps"
    )


def test_a_group_that_would_be_called_as_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        (tmp_path / "scenario.yaml").read_text().replace("id: small", "id: small.seed1")
    )
    with pytest.raises(UsageError, match=r"the study has small\.seed1 twice"):
        load_study(write_study(tmp_path, scenarios=["scenario.yaml", "b.yaml"], seeds=[1]))


def test_a_study_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"study {tmp_path} cannot be read: Is a directory"):
        load_study(tmp_path)
    with pytest.raises(UsageError, match=f"there is no study at {tmp_path / 'x.yaml'}"):
        load_study(tmp_path / "x.yaml")
    path = tmp_path / "study.yaml"
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match=f"study {path} is not a YAML mapping"):
        load_study(path)
    path.write_text("a: [\nb: {")
    with pytest.raises(UsageError, match=f"study {path} is not YAML: while parsing") as raised:
        load_study(path)
    assert "\n" not in str(raised.value)


def test_a_scenario_is_looked_for_before_settings_are(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").unlink()
    (tmp_path / "scenario.yaml").mkdir()
    with pytest.raises(UsageError, match=r"scenario scenario\.yaml cannot be read"):
        load_study(write_study(tmp_path, settings={TAX: [1]}))


# --- Where a run is recorded.


def test_a_run_is_recorded_in_a_file_of_its_name_or_in_its_archive(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, seeds=[1]))
    (run,) = study.runs
    plain = Path("cassettes/small/small.seed1.jsonl")
    archive = Path("cassettes/small/small.seed1.jsonl.zst")
    assert study.cassette_of(run) == plain
    plain.parent.mkdir(parents=True)
    archive.write_bytes(b"")
    assert study.cassette_of(run) == archive
    plain.write_bytes(b"")
    assert study.cassette_of(run) == plain
