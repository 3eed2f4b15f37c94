"""Cassettes that changed since a revision, each compared with what it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.compare.diff import comparing
from swarm_repro.errors import SwarmReproError
from swarm_repro.project.git import ChangedFile, Repository
from swarm_repro.project.summary import Named

#: Calls of a report that are looked at: more than are ever shown.
_CALLS = 200
#: What a push event says of a branch that did not exist before.
_NO_COMMIT = "0" * 40


def changed_cassettes(folder: Path, *, since: str, pathspec: str) -> list[Named]:
    """Compare every cassette that differs from a revision.

    Args:
        folder: Where in the repository the pathspec begins.
        since: The revision. All zeros, for a branch that is new, compare nothing.
        pathspec: Which files.

    Raises:
        UsageError: No repository, or a revision that the clone does not have.
    """
    if since == _NO_COMMIT:
        return []
    repository = Repository(folder)
    base = repository.base_of(since)
    return [_compare(repository, base, file) for file in repository.changed(base, pathspec)]


def _compare(repository: Repository, base: str, file: ChangedFile) -> Named:
    now = repository.top / file.path
    if file.status == "deleted":
        return Named(file.path, None, "This cassette was deleted.")
    try:
        if file.status == "added":
            with CassetteIndex(now) as index:
                return Named(file.path, None, f"A new cassette, of {len(index.entries)} calls.")
        with tempfile.TemporaryDirectory(prefix="swarm-repro-base.") as temporary:
            before = Path(temporary) / now.name
            before.write_bytes(repository.content(base, file.path))
            with comparing(before, now) as found:
                report = found.to_json(limit=_CALLS)
        return Named(file.path, report)
    except SwarmReproError as error:
        return Named(file.path, None, f"It could not be compared: {error}")
