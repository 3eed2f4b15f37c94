"""GGUF files: reading them, and the errors for other files."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from swarm_repro import weights
from swarm_repro.errors import ModelFileError
from swarm_repro.weights import GGUFProperties, hash_file, inspect_gguf, require_gguf, shards
from tests.core.test_parts import write_gguf


@pytest.mark.parametrize("size", [4, 10, 11, 20, 25])
def test_a_digest_is_of_the_whole_file_and_progress_adds_up(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_CHUNK_BYTES", 10)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(size - 4))
    steps: list[int] = []
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hash_file(path, progress=steps.append) == expected
    assert hash_file(path) == expected
    assert steps == [10] * (size // 10) + ([size % 10] if size % 10 else [])


def test_an_invalid_model_is_named_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelFileError) as raised:
        require_gguf(path)
    assert str(raised.value) == (
        f"there is no model at {path}; fetch one with: swarm-repro model pull smollm2-135m"
    )
    with pytest.raises(ModelFileError) as raised:
        require_gguf(tmp_path)
    assert str(raised.value) == f"model {tmp_path} is a folder; name the .gguf file in it"
    path.write_bytes(b"<html>")
    with pytest.raises(ModelFileError) as raised:
        require_gguf(path)
    assert str(raised.value) == f"{path} is not a GGUF file (it begins with b'<htm')"
    path.write_bytes(b"GGUF")
    require_gguf(path)


class Unreadable(type(Path())):  # type: ignore[misc]
    """A file that can be opened a limited number of times, and not be read after that."""

    opens = 0

    def open(self, *given: object, **more: object) -> object:
        Unreadable.opens -= 1
        if Unreadable.opens < 0:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return super().open(*given, **more)


@pytest.mark.parametrize("opens", [0, 1])
def test_an_unreadable_model_is_named(opens: int, tmp_path: Path) -> None:
    path = Unreadable(tmp_path / "m.gguf")
    Path(path).write_bytes(b"GGUF")
    Unreadable.opens = opens
    with pytest.raises(ModelFileError) as raised:
        hash_file(path)
    assert str(raised.value) == f"model {path} cannot be read: {os.strerror(errno.EACCES)}"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("m.gguf", ["m.gguf"]),
        ("m-1-of-2.gguf", ["m-1-of-2.gguf"]),
        ("m-00001-of-00002.gguf.part", ["m-00001-of-00002.gguf.part"]),
        ("m-00001-of-00001.gguf", ["m-00001-of-00001.gguf"]),
        (
            "a-00009-of-00009-00002-of-00002.gguf",
            [
                "a-00009-of-00009-00001-of-00002.gguf",
                "a-00009-of-00009-00002-of-00002.gguf",
            ],
        ),
    ],
)
def test_the_files_of_a_split_model_follow_from_its_name(
    name: str, names: list[str], tmp_path: Path
) -> None:
    for one in names:
        (tmp_path / one).write_bytes(b"GGUF")
    assert shards(tmp_path / name) == [tmp_path / one for one in names]


def test_metadata_covers_all_shards(tmp_path: Path) -> None:
    names = [f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    write_gguf(tmp_path / names[0], template="first")
    write_gguf(tmp_path / names[1])
    found = inspect_gguf(tmp_path / names[1])
    assert found == GGUFProperties(n_params=24, size_bytes=96, chat_template="first")
    write_gguf(tmp_path / "alone.gguf")
    assert inspect_gguf(tmp_path / "alone.gguf").chat_template is None
    with pytest.raises(FrozenInstanceError):
        found.n_params = 1  # type: ignore[misc]
