"""Bringing results together that were made in several folders."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from swarm_repro.errors import NotComparableError
from swarm_repro.study.file import Study
from swarm_repro.study.folder import StudyFolder


def collect_into(study: Study, folder: StudyFolder, sources: Sequence[StudyFolder]) -> int:
    """Take the finished runs of other folders.

    Args:
        study: The study.
        folder: Takes them; what it has stays.
        sources: Folders of the same study.

    Returns:
        How many were taken.

    Raises:
        UsageError: A folder is not this study's.
        NotComparableError: Two folders have other results of one run.
    """
    for source in sources:
        source.require()
    folder.open()
    taken = 0
    with folder.held(None):
        for source in sources:
            for run in study.runs:
                found, known = source.any_result(run), folder.any_result(run)
                if found is None:
                    continue
                if known is not None:
                    if {**known, "mode": ""} != {**found, "mode": ""}:
                        raise NotComparableError(
                            f"{source.path} has another result of {run.name} than {folder.path}"
                        )
                    continue
                with folder.begun(run) as place:
                    shutil.copytree(source.folder_of(run), place, dirs_exist_ok=True)
                    folder.take(run, place)
                taken += 1
    return taken
