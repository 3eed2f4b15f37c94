"""Where the runs of a study are recorded: each by itself, or those of one setting in one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from swarm_repro.cassette.archive import SUFFIX
from swarm_repro.cassette.merge import Conflict, merge_cassettes
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.store import open_recorded
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.study.file import Run, Study


@dataclass(frozen=True)
class Merged:
    """What became of the runs of one setting.

    Attributes:
        path: Their cassette.
        runs: How many runs it holds.
        calls: How many calls.
        conflicts: What two of them say in two ways, so that each stays in a cassette of its own:
            two seeds ask an agent the same, or repeats were answered otherwise.
    """

    path: Path
    runs: int
    calls: int
    conflicts: Sequence[Conflict]


def recording_of(study: Study, run: Run) -> Path | None:
    """The cassette that holds a run; None where nothing does."""
    own = study.cassette_of(run)
    if own.exists():
        return own
    for path in _merged_paths(study, run):
        if path.exists() and run.seed in _seeds_in(path):
            return path
    return None


def require_recordings(study: Study, runs: Iterable[Run]) -> None:
    """Refuse runs that were never recorded.

    Raises:
        CassetteAccessError: There are some.
    """
    missing = [run for run in runs if recording_of(study, run) is None]
    if missing:
        raise CassetteAccessError(
            f"{len(missing)} runs have no cassette, the first {study.cassette_of(missing[0])}; "
            f"record them with: swarm-repro study run {study.path} --record"
        )


def merge_recordings(study: Study, *, archive: bool, remove: bool) -> Iterator[Merged]:
    """Join the runs of each setting in one cassette, where they can be joined.

    Args:
        study: The study, recorded.
        archive: Write them compressed, and those that stay apart as well.
        remove: Remove what was joined or compressed, once it is in the new cassette.

    Yields:
        Each setting, in the order of the study.

    Raises:
        CassetteAccessError: A run was never recorded; nothing was written then.
        CassetteDamagedError: A recording is damaged.
    """
    require_recordings(study, study.runs)
    for group, members in groupby(study.runs, key=lambda run: run.group):
        runs = list(members)
        paths = dict.fromkeys(filter(None, (recording_of(study, run) for run in runs)))
        target = study.cassettes / f"{group}.jsonl{SUFFIX if archive else ''}"
        merged, conflicts = merge_cassettes([read_cassette(path) for path in paths])
        if not conflicts:
            _write(merged, target, instead_of=paths if remove else ())
        elif archive:
            for path in paths:
                packed = path.with_name(path.name.removesuffix(SUFFIX) + SUFFIX)
                _write(read_cassette(path), packed, instead_of=[path] if remove else ())
        yield Merged(target, len(runs), len(merged.calls), conflicts)


def _write(cassette: Cassette, target: Path, *, instead_of: Iterable[Path]) -> None:
    """Write a cassette, and remove others once it is there and whole."""
    write_cassette(replace(cassette, path=target), target)
    others = [path for path in instead_of if path != target]
    if others:
        written = read_cassette(target)
        if written.calls != cassette.calls or len(written.runs) != len(cassette.runs):
            raise CassetteDamagedError(target, "it is not what was written a moment ago")
        for path in others:
            path.unlink()


def _merged_paths(study: Study, run: Run) -> tuple[Path, Path]:
    plain = study.cassettes / f"{run.group}.jsonl"
    return plain, plain.with_name(plain.name + SUFFIX)


def _seeds_in(path: Path) -> frozenset[int | None]:
    """Seeds of the runs that a cassette holds."""
    state = path.stat()
    return _seeds(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _seeds(path: Path, *_state: int) -> frozenset[int | None]:
    return frozenset(run.seed for run in open_recorded(path).runs)
