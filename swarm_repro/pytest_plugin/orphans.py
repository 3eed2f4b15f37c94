"""Cassettes that belong to no test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from swarm_repro.pytest_plugin.names import default_folder, default_path, marked_path


def find_orphans(config: pytest.Config, items: Iterable[pytest.Item]) -> list[str]:
    """Cassettes in the folders of test files, of tests that are gone.

    Where single tests of a file were named, nothing is known of the others of that file.

    Args:
        config: Of this run.
        items: All tests that were collected, whether they are run or not.
    """
    partly = {
        (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        for argument in config.args
        if "::" in argument
    }
    used: set[Path] = set()
    files: set[Path] = set()
    for item in items:
        files.add(item.path)
        used.add(default_path(item).resolve())
        marked = marked_path(item)
        if marked is not None:
            used.add(marked.resolve())
    found: set[Path] = set()
    for file in files:
        folder = default_folder(file, config)
        if file.resolve() not in partly:
            found.update(folder.glob("*.jsonl"))
        for other in folder.parent.glob("*/*.jsonl"):
            if not (file.parent / f"{other.parent.name}.py").exists():
                found.add(other)
    return sorted(str(path) for path in found if path.resolve() not in used)


def remove(orphans: Iterable[str]) -> None:
    """Remove cassettes, and folders that are empty then."""
    for path in map(Path, orphans):
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
