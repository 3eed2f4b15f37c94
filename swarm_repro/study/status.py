"""How far a study is."""

from __future__ import annotations

from dataclasses import dataclass

from swarm_repro.cassette.part import part_path
from swarm_repro.study.file import Study
from swarm_repro.study.folder import StudyFolder

_CALL = b'{"record":"call",'


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        runs: How many there are.
        finished: How many are finished.
        begun: Runs whose recording has begun, and how many calls it holds.
        failed: Runs that failed, and why.
    """

    runs: int
    finished: int
    begun: list[tuple[str, int]]
    failed: list[tuple[str, list[str]]]

    def to_json(self) -> dict[str, object]:
        """For a script."""
        return {
            "runs": self.runs,
            "finished": self.finished,
            "begun": [{"run": name, "calls": calls} for name, calls in self.begun],
            "failed": [{"run": name, "messages": messages} for name, messages in self.failed],
        }


def status_of(study: Study, folder: StudyFolder) -> Status:
    """Look at the folder, without keeping anybody from working in it."""
    finished = 0
    begun: list[tuple[str, int]] = []
    failed: list[tuple[str, list[str]]] = []
    for run in study.runs:
        part = part_path(study.cassette_of(run))
        if folder.any_result(run) is not None:
            finished += 1
        elif (failure := folder.failure(run)) is not None:
            failed.append((run.name, list(failure["messages"])))
        elif part.exists():
            with part.open("rb") as file:
                begun.append((run.name, sum(line.startswith(_CALL) for line in file)))
    return Status(len(study.runs), finished, begun, failed)
