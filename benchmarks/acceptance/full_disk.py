"""Disks that are full at some point of a recording by several threads."""

from __future__ import annotations

import os
import resource
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.acceptance.calls import THREADS, Answered, Lost, record_all, require_kept
from swarm_repro.cassette.part import part_path
from swarm_repro.errors import CassetteAccessError


def full_disk(count: int) -> dict[str, object]:
    """Record on this many disks, each with room for some bytes more of one file than the last.

    A process may limit the size of its own files: a disk that is full for it alone.

    Raises:
        Lost: An answered call was lost, or the recording ended in something else.
    """
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        record_all(path, lambda _answered: None)
        # The .part is longer than what is made of it.
        most = path.stat().st_size * 3 // 2
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c.jsonl"
            if number % 2:
                record_all(path, lambda _answered: None, wording="old")
            before = path.read_bytes() if number % 2 else None
            answered, said = _recorded(path, room=most * number // count)
            if said == "whole":
                seen["disks with room enough"] += 1
            elif said == "refused" and (path.read_bytes() if path.exists() else None) == before:
                seen["full disks"] += 1
            else:
                raise Lost(f"the recording on disk {number} ended so: {said}")
            seen["answered calls"] += require_kept(path, answered)
    return {"disks": count, "threads": THREADS, **seen}


def _recorded(path: Path, *, room: int) -> tuple[list[Answered], str]:
    """Record in a child that has room for so many bytes in a file.

    Returns:
        What it had acknowledged, and how it ended.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        said = "nothing"
        try:
            said = _record(path, theirs, room=room)
        finally:
            os.write(theirs, f"{said}\n".encode())
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as told:
        *lines, said = told.read().splitlines()
    os.waitpid(child, 0)
    fields = [line.split("\t") for line in lines]
    return [(who, int(number), text) for who, number, text in fields], said


def _record(path: Path, theirs: int, *, room: int) -> str:
    def acknowledge(one: Answered) -> None:
        os.write(theirs, ("\t".join(map(str, one)) + "\n").encode())

    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        record_all(path, acknowledge)
    except CassetteAccessError:
        return "refused"
    except BaseException as error:  # noqa: BLE001 - told to the parent
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if part_path(path).exists():
        return "a .part is left"
    return "whole"
