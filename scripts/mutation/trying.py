"""Drawing mutants, and trying each in a copy of the tree."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from .copies import Copy
from .equivalent import Equivalent
from .forker import Job
from .mutants import Mutant, mutants_of, parses
from .rooms import room_of
from .touched import Touched, package_files

# Faster tests first, a process for each step: most faults are seen before the slow ones are read.
_STEPS_S = (0.0, 0.15, 2.0, float("inf"))


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        mutant: It.
        room: Its room.
        status: ``killed``, ``timeout`` (killed too: the test hung), ``survived``, ``untouched``
            (survived, as no test touches it) or ``equivalent``.
        test: The test that noticed.
        tests: How many tests touch it.
        left_out: How many of these were not run, as they would take too long.
    """

    mutant: Mutant
    room: str
    status: str
    test: str = ""
    tests: int = 0
    left_out: int = 0

    @property
    def is_killed(self) -> bool:
        """Whether a test noticed."""
        return self.status in ("killed", "timeout")


def draw(
    repository: Path,
    rooms: Iterable[str],
    *,
    count: int,
    seed: int,
    lines: Mapping[str, set[int]] | None = None,
) -> list[Mutant]:
    """Mutants of some rooms, drawn evenly from all that each room has.

    More of them with the same seed begin with the same ones.

    Args:
        repository: Root of the repository.
        rooms: The rooms.
        count: How many a room.
        seed: Any number.
        lines: Only mutants on these lines of these files.
    """
    by_room: dict[str, list[Mutant]] = {room: [] for room in rooms}
    for file in package_files(repository):
        room = room_of(file)
        if room in by_room and (lines is None or file in lines):
            by_room[room] += [
                mutant
                for mutant in mutants_of((repository / file).read_bytes(), file)
                if lines is None or mutant.line in lines[file]
            ]
    drawn: list[Mutant] = []
    for room, mutants in by_room.items():
        random.Random(f"{seed} {room}").shuffle(mutants)  # noqa: S311
        valid = (one for one in mutants if parses(one.apply((repository / one.file).read_bytes())))
        drawn += islice(valid, count)
    return drawn


def changed_lines(repository: Path, base: str) -> dict[str, set[int]]:
    """Lines of each file of the package that differ from a commit.

    Raises:
        ValueError: git does not know the commit.
    """
    done = subprocess.run(
        ["git", "diff", "--unified=0", "--no-color", base, "--", "swarm_repro"],  # noqa: S607
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip())
    found: dict[str, set[int]] = {}
    file = ""
    for line in done.stdout.splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ ").removeprefix("b/")
        elif line.startswith("@@ "):
            first, _, length = line.split()[2].removeprefix("+").partition(",")
            numbers = range(int(first), int(first) + int(length or 1))
            found.setdefault(file, set()).update(numbers)
    return found


def try_mutant(
    mutant: Mutant,
    copy: Copy,
    touched: Touched,
    equivalents: Iterable[Equivalent],
    *,
    budget_s: float,
) -> Outcome:
    """Put a mutant into a copy, run the tests that touch it, and take it out again.

    Args:
        mutant: It.
        copy: Where it is tried.
        touched: Which tests touch it.
        equivalents: Mutants that are not tried.
        budget_s: How long its tests may take in all, by what they took when they were measured.
    """
    room = room_of(mutant.file)
    if any(entry.is_of(mutant) for entry in equivalents):
        return Outcome(mutant, room, "equivalent")
    tests = touched.tests_of(mutant)
    if not tests:
        return Outcome(mutant, room, "untouched")
    picked = touched.pick(tests, budget_s)
    path = copy.root / mutant.file
    source = path.read_bytes()
    path.write_bytes(mutant.apply(source))
    try:
        for least_s, most_s in pairwise(_STEPS_S):
            step = [name for name in picked if least_s <= touched.tests[name]["seconds"] < most_s]
            if not step:
                continue
            result = copy.run(_job(copy, step, touched))
            if result["status"] in ("failed", "timeout"):
                status = "killed" if result["status"] == "failed" else "timeout"
                return Outcome(mutant, room, status, result["test"], len(tests))
        return Outcome(mutant, room, "survived", "", len(tests), len(tests) - len(picked))
    finally:
        path.write_bytes(source)


def _job(copy: Copy, tests: list[str], touched: Touched) -> Job:
    files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    place = {file: number for number, file in enumerate(files)}
    return Job(
        files=files,
        tests=sorted(tests, key=lambda name: place[name.partition("::")[0]]),
        limits_s={name: 20 + 8 * touched.tests[name]["seconds"] for name in tests},
        limit_s=240,
        stops=True,
        folder=str(copy.new_folder()),
        coverage="",
    )
