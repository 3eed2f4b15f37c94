"""The record of a run as a value, and how it names its calls.

Source: docs/reference/cassette.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import cast

from swarm_repro.cassette.lines import LineError
from swarm_repro.cassette.records import CallId


@dataclass(frozen=True)
class Artifact:
    """Digests of a file that a run wrote.

    Attributes:
        sha256: Of the file's bytes.
        rounded_sha256: Of the same with its numbers rounded to 12 significant digits.
    """

    sha256: str
    rounded_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """One simulation that used the cassette.

    Attributes:
        scenario: The scenario's id.
        scenario_sha256: Digest of the scenario file.
        seed: The run's seed.
        epochs: Number of epochs that were asked for.
        steps: Steps per epoch.
        versions: Versions of Python and of the packages that matter.
        calls: The calls it used.
        artifacts: What it wrote, by file name.
        metrics: SWARM's metrics, one object an epoch.
    """

    scenario: str
    scenario_sha256: str
    seed: int | None
    epochs: int
    steps: int
    versions: Mapping[str, str]
    calls: Set[CallId]
    artifacts: Mapping[str, Artifact]
    metrics: tuple[Mapping[str, object], ...]

    @property
    def id(self) -> tuple[object, ...]:
        """What makes two runs the same run, recorded again."""
        return (self.scenario, self.seed, self.epochs, self.steps)

    def to_json(self, positions: Iterable[int]) -> dict[str, object]:
        """The record.

        Args:
            positions: Of its calls among the call records of the file.
        """
        return {
            "record": "run",
            "scenario": self.scenario,
            "scenario_sha256": self.scenario_sha256,
            "seed": self.seed,
            "epochs": self.epochs,
            "steps": self.steps,
            "versions": dict(self.versions),
            "calls": to_ranges(positions),
            "artifacts": {
                name: {"sha256": artifact.sha256, "rounded_sha256": artifact.rounded_sha256}
                for name, artifact in sorted(self.artifacts.items())
            },
            "metrics": [dict(epoch) for epoch in self.metrics],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, object], ids: list[CallId]) -> RunRecord:
        """Read a run record.

        Args:
            record: The record.
            ids: The ids of the call records before it, in file order.

        Raises:
            LineError: A member is missing or has the wrong type.
        """
        try:
            artifacts = cast("dict[str, dict[str, str]]", record["artifacts"])
            run = cls(
                scenario=cast("str", record["scenario"]),
                scenario_sha256=cast("str", record["scenario_sha256"]),
                seed=cast("int | None", record["seed"]),
                epochs=cast("int", record["epochs"]),
                steps=cast("int", record["steps"]),
                versions=cast("dict[str, str]", record["versions"]),
                calls=from_ranges(record["calls"], ids),
                artifacts={
                    name: Artifact(digests["sha256"], digests["rounded_sha256"])
                    for name, digests in artifacts.items()
                },
                metrics=tuple(cast("list[dict[str, object]]", record["metrics"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LineError(f"the run cannot be read: {error!r}") from error
        run._require_types()
        return run

    def _require_types(self) -> None:
        versions: object = self.versions
        metrics: tuple[object, ...] = self.metrics
        texts: list[object] = [self.scenario, self.scenario_sha256]
        for artifact in self.artifacts.values():
            texts += [artifact.sha256, artifact.rounded_sha256]
        if not (
            isinstance(versions, dict)
            and all(isinstance(text, str) for text in (*texts, *versions.values()))
            and all(isinstance(epoch, dict) for epoch in metrics)
            and all(type(number) is int for number in (self.epochs, self.steps))
            and (self.seed is None or type(self.seed) is int)
        ):
            raise LineError("the run has a member of the wrong type")


def to_ranges(positions: Iterable[int]) -> list[list[int]]:
    """Positions as ``[start, stop)`` pairs in ascending order."""
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return ranges


def from_ranges(ranges: object, ids: list[CallId]) -> frozenset[CallId]:
    """The ids at the positions that ``to_ranges`` wrote.

    Raises:
        LineError: Malformed, or beyond the calls of the file.
    """
    spans = spans_of(ranges, len(ids))
    return frozenset(call_id for span in spans for call_id in ids[span.start : span.stop])


def spans_of(ranges: object, count: int) -> list[range]:
    """The positions that ``to_ranges`` wrote.

    Args:
        ranges: What it wrote.
        count: How many calls there are.

    Raises:
        LineError: Malformed, or beyond the calls of the file.
    """
    if not isinstance(ranges, list):
        raise LineError("calls is not a list of ranges")
    stop = 0
    for pair in ranges:
        # One after the other, so that a short line cannot stand for more than the file holds.
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(place) is int for place in pair)
            and stop <= pair[0] < pair[1] <= count
        ):
            raise LineError(f"a range of calls that the file does not hold: {pair}")
        stop = pair[1]
    return [range(*pair) for pair in ranges]
