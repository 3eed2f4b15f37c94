"""Finding a study's model on a machine: by its path, or by its SHA-256."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from swarm_repro.errors import ModelFileError
from swarm_repro.weights import hash_file, require_gguf

#: Folders with GGUF files, separated as in ``PATH``, beside ``models/``.
MODELS_VARIABLE: Final = "SWARM_REPRO_MODELS"
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def find_model(named: str) -> Path:
    """The file of a model.

    Args:
        named: A path, or the SHA-256 of the file, by which it is looked for in ``models/`` and in
            the folders that SWARM_REPRO_MODELS names.

    Raises:
        ModelFileError: It is not there, or no GGUF.
    """
    digest = _DIGEST.fullmatch(named)
    if digest is None:
        require_gguf(Path(named))
        return Path(named).resolve()
    for path in _candidates():
        if hash_file(path) == digest.group(1):
            return path.resolve()
    looked = ", ".join(str(folder) for folder in _folders())
    raise ModelFileError(
        f"no GGUF file with SHA-256 {digest.group(1)} is in {looked}: put it there, or name its "
        f"folder in {MODELS_VARIABLE}"
    )


def _folders() -> list[Path]:
    named = os.environ.get(MODELS_VARIABLE, "")
    return [Path("models"), *(Path(one) for one in named.split(os.pathsep) if one)]


def _candidates() -> Iterator[Path]:
    for folder in _folders():
        yield from sorted(folder.glob("*.gguf"))


def under_name(model: Path, scenario: str, folder: Path) -> Path:
    """A model under the name that a scenario calls it by: recordings know a model by that name.

    Args:
        model: The file.
        scenario: The scenario, as YAML text.
        folder: Where a link to it may be made.
    """
    name = next(_named(yaml.safe_load(scenario)), model.name)
    if name == model.name:
        return model
    link = folder / name
    if not link.exists():
        link.symlink_to(model)
    return link


def _named(value: Any) -> Iterator[str]:
    """The base names of all ``model_path`` members."""
    if isinstance(value, dict):
        if isinstance(value.get("model_path"), str):
            yield Path(value["model_path"]).name
        for member in value.values():
            yield from _named(member)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
