"""What a run writes, and whether it is what an earlier run wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.runs import Artifact, RunRecord

HISTORY = "history.json"
EVENTS = "events.jsonl"
PROMPTS = "prompts.jsonl"
#: What differs from run to run by nature: mode, hits, durations. It has no digest.
SESSION = "session.json"

#: Digits to which numbers must agree between Python versions (3.12 changed ``sum`` of floats).
SIGNIFICANT_DIGITS = 12

_FLOAT = re.compile(rb"(?<![\w.])-?\d+\.\d+(?:[eE][+-]?\d+)?(?![\w.])")


@dataclass(frozen=True)
class ArtifactVerdict:
    """How artifacts compare with a run record.

    Attributes:
        differing: Names of files that differ, are missing, or are new.
        rounded: Names that agree only to 12 significant digits, under another Python.
        metrics: Metrics that moved, one line each.
    """

    differing: tuple[str, ...] = ()
    rounded: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether nothing differs but what another Python explains."""
        return not self.differing


def clear(folder: Path, scenario_id: str) -> None:
    """Remove what an earlier run wrote to a folder: SWARM appends to its event log."""
    for path in _artifact_paths(folder, scenario_id):
        path.unlink()
    (folder / SESSION).unlink(missing_ok=True)


def digest_artifacts(
    folder: Path, scenario_id: str, *, known: Mapping[str, Artifact]
) -> dict[str, Artifact]:
    """Digests of the artifacts in a folder, by file name.

    Args:
        folder: Where a run wrote them.
        scenario_id: It names the CSV files.
        known: Digests of an earlier run: the same bytes need not be rounded again.
    """
    found: dict[str, Artifact] = {}
    for path in _artifact_paths(folder, scenario_id):
        data = path.read_bytes()
        digest = sha256_hex(data)
        before = known.get(path.name)
        found[path.name] = (
            before
            if before is not None and before.sha256 == digest
            else Artifact(sha256=digest, rounded_sha256=sha256_hex(round_numbers(data)))
        )
    return found


def _artifact_paths(folder: Path, scenario_id: str) -> list[Path]:
    """Files that SWARM wrote, and none of the user's own beside them."""
    tables = (f"{scenario_id}_epochs.csv", f"{scenario_id}_agents.csv")
    paths = (folder / name for name in sorted((HISTORY, EVENTS, PROMPTS, *tables)))
    return [path for path in paths if path.is_file()]


def round_numbers(data: bytes) -> bytes:
    """Round the decimal numbers of a text file to 12 significant digits.

    Integers, and digits inside words such as ids and dates, stay as they are.
    """
    return _FLOAT.sub(lambda match: b"%.12g" % float(match.group()), data)


def judge(recorded: RunRecord, fresh: RunRecord) -> ArtifactVerdict:
    """Compare a run's artifacts with the recorded ones.

    Args:
        recorded: The record in the cassette.
        fresh: The record of the run that has just ended.
    """
    lenient = _minor(recorded.versions) != _minor(fresh.versions)
    differing: list[str] = []
    rounded: list[str] = []
    for name in sorted({*recorded.artifacts, *fresh.artifacts}):
        before, now = recorded.artifacts.get(name), fresh.artifacts.get(name)
        if before is not None and now is not None:
            if before.sha256 == now.sha256:
                continue
            if lenient and before.rounded_sha256 == now.rounded_sha256:
                rounded.append(name)
                continue
        differing.append(name)
    metrics = moved_metrics(recorded.metrics, fresh.metrics) if differing else []
    return ArtifactVerdict(tuple(differing), tuple(rounded), tuple(metrics))


def moved_metrics(
    recorded: Sequence[Mapping[str, object]], fresh: Sequence[Mapping[str, object]]
) -> list[str]:
    """Metrics that differ beyond 12 significant digits, one line for each name.

    Args:
        recorded: Metrics of each epoch, as recorded.
        fresh: The same, of the new run.
    """
    moved: dict[str, str] = {}
    if len(recorded) != len(fresh):
        moved["epochs"] = f"epochs: recorded {len(recorded)}, now {len(fresh)}"
    for epoch, (before, now) in enumerate(zip(recorded, fresh, strict=False)):
        for name in dict.fromkeys((*before, *now)):
            if name in moved or _rounded(before.get(name)) == _rounded(now.get(name)):
                continue
            moved[name] = (
                f"{name}: recorded {before.get(name)!r}, now {now.get(name)!r} (epoch {epoch})"
            )
    return list(moved.values())


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.{SIGNIFICANT_DIGITS}g}"
    if isinstance(value, Mapping):
        return {name: _rounded(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def _minor(versions: Mapping[str, str]) -> str:
    return ".".join(versions.get("python", "").split(".")[:2])
