"""A study's model is found by its path or digest, and has the name used in recordings."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from swarm_repro.errors import ModelFileError
from swarm_repro.study.models import find_model, under_name


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWARM_REPRO_MODELS", raising=False)


def gguf(path: Path, rest: bytes = b"weights") -> str:
    """A file with the first bytes of GGUF, and its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + rest)
    return hashlib.sha256(b"GGUF" + rest).hexdigest()


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    gguf(Path("here/a.gguf"))
    assert find_model("here/a.gguf") == tmp_path / "here" / "a.gguf"
    Path("link.gguf").symlink_to("here/a.gguf")
    assert find_model("link.gguf") == tmp_path / "here" / "a.gguf"


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    Path("a.txt").write_text("text")
    with pytest.raises(ModelFileError, match=r"a\.txt is not a GGUF file"):
        find_model("a.txt")
    with pytest.raises(ModelFileError, match=r"there is no model at b\.gguf"):
        find_model("b.gguf")
    # Seven characters short of a digest, it is a path.
    with pytest.raises(ModelFileError, match=r"there is no model at 0{57}"):
        find_model("0" * 57)


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_a_digest_is_looked_for_in_models(prefix: str, tmp_path: Path) -> None:
    gguf(Path("models/a.gguf"), b"other")
    digest = gguf(Path("models/b.gguf"))
    gguf(Path("models/c.bin"))
    assert find_model(prefix + digest) == tmp_path / "models" / "b.gguf"


def test_folders_that_the_user_names_are_looked_in_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = gguf(Path("two/b.gguf"))
    named = os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")])
    monkeypatch.setenv("SWARM_REPRO_MODELS", named)
    assert find_model(digest) == tmp_path / "two" / "b.gguf"
    gguf(Path("models/z.gguf"))
    assert find_model(digest) == tmp_path / "models" / "z.gguf", "what is nearest comes first"


def test_a_digest_that_is_nowhere_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gguf(Path("models/a.gguf"))
    with pytest.raises(ModelFileError) as raised:
        find_model("0" * 64)
    assert str(raised.value) == (
        f"no GGUF file with SHA-256 {'0' * 64} is in models: put it there, or name its folder in "
        "SWARM_REPRO_MODELS"
    )
    monkeypatch.setenv("SWARM_REPRO_MODELS", os.pathsep.join(["x", "y"]))
    with pytest.raises(ModelFileError, match=f"{'0' * 64} is in models, x, y: put"):
        find_model("sha256:" + "0" * 64)


def test_a_model_of_the_name_in_the_scenario_is_taken_as_it_is(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    gguf(model)
    scenario = "agents: [{llm: {model_path: models/a.gguf}}]"
    assert under_name(model, scenario, tmp_path / "links") == model
    # A scenario that names none.
    for text in ("agents: [{llm: {base_url: x}}]", "agents: [{llm: {model_path: }}]"):
        assert under_name(model, text, tmp_path / "links") == model
    assert not (tmp_path / "links").exists()


@pytest.mark.parametrize(
    "scenario",
    [
        "agents: [{type: honest}, {llm: {model_path: models/tiny.gguf}}]",
        "agents: [{council: {members: [{llm: {model_path: /x/tiny.gguf}}]}}]",
        "{model_path: tiny.gguf}",
    ],
)
def test_a_model_of_another_name_gets_the_scenarios(scenario: str, tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    gguf(model)
    links = tmp_path / "links"
    links.mkdir()
    link = under_name(model, scenario, links)
    assert link == links / "tiny.gguf"
    assert link.resolve() == model
    assert under_name(model, scenario, links) == link, "a second run takes the same link"
