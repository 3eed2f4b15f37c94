"""The content of a bundle, and refusals: in this process, of runs one step long."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro import __version__
from swarm_repro.bundle.crate import MANIFEST
from swarm_repro.bundle.make import Bundle, BundleOptions, make_bundle
from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.archive import pack
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import Artifact
from swarm_repro.errors import CassetteAccessError, UsageError
from tests.support.bundles import contents_of, record, rewrite
from tests.support.studies import runs_in_this_process

ARTIFACTS = [
    "events.jsonl", "history.json", "prompts.jsonl", "tiny_agents.csv", "tiny_epochs.csv",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _runs_in_this_process() -> Iterator[None]:
    with runs_in_this_process():
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scenario and a cassette of two seeds."""
    folder = tmp_path_factory.mktemp("recorded")
    record(folder, seeds=(1, 2))
    return folder


@pytest.fixture
def here(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the test is."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCENARIO = Path("scenarios/tiny.yaml")
CASSETTE = Path("cassettes/tiny.seed1.jsonl")
TARGET = Path("paper.zip")


def make(**members: object) -> Bundle:
    known = {"scenarios": [SCENARIO], "title": "T", "authors": ["A"], "cassettes": [CASSETTE]}
    return make_bundle(BundleOptions(**{**known, **members}), TARGET)  # type: ignore[arg-type]


def refused(**members: object) -> str:
    with pytest.raises((UsageError, CassetteAccessError)) as raised:
        make(**members)
    assert not TARGET.exists()
    assert list(Path().glob(".paper*")) == []
    return str(raised.value)


@pytest.mark.usefixtures("here")
def test_every_recorded_run_is_in_it_with_what_it_needs_and_gives() -> None:
    made = make(title='On "trade"', authors=["Ada", "Ben"])
    runs = [f"artifacts/tiny.seed1.jsonl/seed{seed}-1x1" for seed in (1, 2)]
    assert sorted(made.files) == sorted(
        [
            "CITATION.cff", "METHODS.md", "README.md", "requirements.lock",
            "scenarios/tiny.yaml", "cassettes/tiny.seed1.jsonl",
            *(f"{run}/{name}" for run in runs for name in ARTIFACTS),
        ]
    )  # fmt: skip
    assert list(made.runs) == [
        {
            "scenario": "scenarios/tiny.yaml",
            "cassette": "cassettes/tiny.seed1.jsonl",
            "seed": seed,
            "epochs": 1,
            "steps": 1,
        }
        for seed in (1, 2)
    ]
    assert made.files["scenarios/tiny.yaml"] == SCENARIO.read_bytes()
    assert made.files["cassettes/tiny.seed1.jsonl"] == CASSETTE.read_bytes()
    for run, path in zip(read_cassette(CASSETTE).runs, runs, strict=True):
        for name, artifact in run.artifacts.items():
            assert sha256_hex(made.files[f"{path}/{name}"]) == artifact.sha256
    packed = contents_of(TARGET)
    assert {name: data for name, data in packed.items() if name != MANIFEST} == made.files
    assert list(packed) == sorted(packed)
    assert json.loads(packed[MANIFEST])["@graph"][1]["name"] == 'On "trade"'
    assert packed[MANIFEST].endswith(b"}\n")
    readme = packed["README.md"].decode()
    assert readme.startswith('# On "trade"\n')
    assert f"pip install 'swarm-repro[swarm]=={__version__}'" in readme
    assert "swarm-repro bundle check paper.zip" in readme
    assert f"`{MANIFEST}` lists every file" in readme
    assert packed["METHODS.md"].endswith(b"seed 1, 2.\n")
    lock = packed["requirements.lock"].decode().splitlines()
    assert f"pytest=={importlib.metadata.version('pytest')}" in lock
    assert lock == sorted(lock, key=str.lower)
    assert b'  - name: "Ada"\n  - name: "Ben"\n' in packed["CITATION.cff"]


@pytest.mark.usefixtures("here")
def test_two_bundles_of_the_same_are_the_same_bytes_and_readable_by_all() -> None:
    make()
    first = TARGET.read_bytes()
    with zipfile.ZipFile(TARGET) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o644}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}
    TARGET.unlink()
    make()
    assert TARGET.read_bytes() == first
    assert list(Path().glob(".*")) == [], "nothing is left beside it"
    assert stat.S_ISREG(TARGET.stat().st_mode)


def test_a_lock_and_sources_that_are_given_are_taken(here: Path) -> None:
    Path("my.lock").write_text("numpy==2.0\n")
    made = make(lock=Path("my.lock"), sources={"a" * 64: "https://example.org"})
    assert made.files["requirements.lock"] == b"numpy==2.0\n"


# --- What is refused.


def test_a_run_that_does_not_replay_is_in_no_bundle(here: Path) -> None:
    (first, *_) = read_cassette(CASSETTE).runs
    history = Artifact("0" * 64, "0" * 64)
    rewrite(CASSETTE, CASSETTE, artifacts={**first.artifacts, "history.json": history})
    said = refused()
    assert said.startswith(
        "seed 1 of scenarios/tiny.yaml does not replay: history.json is not what was recorded"
    )


@pytest.mark.parametrize("folder", ["scenarios", "cassettes"])
def test_two_files_of_one_name_are_not_put_over_each_other(folder: str, here: Path) -> None:
    other = here / "elsewhere"
    other.mkdir()
    if folder == "scenarios":
        text = SCENARIO.read_text().replace("scenario_id: tiny", "scenario_id: other")
        (other / "tiny.yaml").write_text(text)
        said = refused(scenarios=[SCENARIO, other / "tiny.yaml"])
        assert said == "two files would be scenarios/tiny.yaml in the bundle: rename one of them"
    else:
        moved = rewrite(CASSETTE, other / CASSETTE.name, metrics=())
        said = refused(cassettes=[CASSETTE, moved])
        name = "cassettes/tiny.seed1.jsonl"
        assert said == f"two files would be {name} in the bundle: rename one of them"


def test_the_same_file_twice_is_one(here: Path) -> None:
    shutil.copytree(here / "cassettes", here / "copy")
    made = make(cassettes=[CASSETTE, Path("copy") / CASSETTE.name])
    assert len([name for name in made.files if name.startswith("cassettes/")]) == 1


def test_a_bundle_has_an_author_a_scenario_and_a_name_that_is_free(here: Path) -> None:
    assert refused(authors=[]) == "name at least one author with --author, for CITATION.cff"
    assert refused(scenarios=[], cassettes=[]) == ("name a scenario, or a cassette with --cassette")
    assert refused(scenarios=[]) == (f"{CASSETTE} holds a run of scenario tiny: name its file too")
    assert "none.lock cannot be read: No such file" in refused(lock=Path("none.lock"))
    TARGET.write_text("precious")
    with pytest.raises(UsageError) as raised:
        make()
    assert str(raised.value) == ("paper.zip is there already: move it away, or name another file")
    assert TARGET.read_text() == "precious"


def test_another_scenario_than_the_recorded_one_is_named(here: Path) -> None:
    SCENARIO.write_text(SCENARIO.read_text() + "# changed\n")
    assert refused() == (
        f"{SCENARIO} is not the file that {CASSETTE} was recorded with; name the one that was, "
        "or record it anew"
    )


def test_a_bundle_that_cannot_be_written_leaves_nothing(here: Path) -> None:
    options = BundleOptions(scenarios=[SCENARIO], title="T", authors=["A"], cassettes=[CASSETTE])
    with pytest.raises(UsageError, match=r"none/p\.zip cannot be written: No such file"):
        make_bundle(options, Path("none/p.zip"))
    assert not Path("none").exists()
    made = replace(options, title="U")
    make_bundle(made, here / "p.zip")
    assert (here / "p.zip").exists()


# --- Which cassettes are meant where none is named.


def test_the_cassettes_of_a_scenario_are_found_where_run_puts_them(here: Path) -> None:
    shutil.copy(CASSETTE, "cassettes/other.seed1.jsonl")
    shutil.copy(CASSETTE, "cassettes/tiny.seed1.jsonl.part")
    shutil.copy(CASSETTE, "cassettes/tiny.jsonl")
    made = make(cassettes=())
    assert {run["cassette"] for run in made.runs} == {"cassettes/tiny.seed1.jsonl"}
    assert len([name for name in made.files if name.startswith("cassettes/")]) == 1


def test_a_compressed_cassette_of_a_scenario_is_found_too(here: Path) -> None:
    archive = Path("cassettes/tiny.seed2.jsonl.zst")
    with archive.open("wb") as file:
        pack(CASSETTE.read_bytes().splitlines(keepends=True), file)
    CASSETTE.unlink()
    made = make(cassettes=())
    assert {run["cassette"] for run in made.runs} == {str(archive)}


def test_the_cassette_that_a_scenario_names_is_taken(here: Path) -> None:
    own = Path("tapes/own.jsonl")
    SCENARIO.write_text(SCENARIO.read_text() + "repro:\n  cassette: tapes/own.jsonl\n")
    rewrite(CASSETTE, own, scenario_sha256=sha256_hex(SCENARIO.read_bytes()))
    made = make(cassettes=())
    assert {run["cassette"] for run in made.runs} == {"cassettes/own.jsonl"}
    assert made.files["cassettes/own.jsonl"] == own.read_bytes()
    assert "cassettes/tiny.seed1.jsonl" not in made.files
    # Beside one that names none: each has its own.
    other = Path("scenarios/other.yaml")
    other.write_text(SCENARIO.read_text().partition("repro:")[0].replace("id: tiny", "id: other"))
    TARGET.unlink()
    assert refused(scenarios=[SCENARIO, other], cassettes=()) == (
        "there is no cassette of scenario other in cassettes; name it with --cassette"
    )


def test_a_cassette_of_two_names_is_read_once(here: Path) -> None:
    made = make(scenarios=[SCENARIO, SCENARIO], cassettes=())
    assert len(made.runs) == 2
