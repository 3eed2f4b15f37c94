"""Where a test's cassette is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swarm_repro.canonical import text_sha256

_UNSAFE = re.compile(r"[^a-z0-9_.]+")
_LONGEST = 100
MARKER = "cassette"


def name_of(item: pytest.Item) -> str:
    """A test's name within its file: classes, function and parameters."""
    return item.nodeid.partition("::")[2]


def default_folder(path: Path, config: pytest.Config) -> Path:
    """Where the cassettes of a test file are.

    Args:
        path: The test file.
        config: Says how the folder is called.
    """
    return path.parent / str(config.getini("cassette_dir")) / path.stem


def default_path(item: pytest.Item) -> Path:
    """Where the cassette of a test is that names none.

    Names that differ are files that differ, whatever letters they have and wherever they are kept:
    what a file name cannot hold, capitals included, is told apart by a digest.
    """
    name = name_of(item).replace("::", ".")
    safe = _UNSAFE.sub("_", name.lower()).strip("_.")[:_LONGEST]
    if safe != name:
        safe = f"{safe}-{text_sha256(name)[:12]}"
    return default_folder(item.path, item.config) / f"{safe}.jsonl"


def marked_path(item: pytest.Item) -> Path | None:
    """The cassette that a test's marker names, or None."""
    for mark in item.iter_markers(MARKER):
        named = mark.args[0] if mark.args else mark.kwargs.get("path")
        if named is not None:
            return item.path.parent / str(named)
    return None
