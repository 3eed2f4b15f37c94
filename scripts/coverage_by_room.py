"""Print how much of each room the tests run: statements, and branches where they were measured.

    export COVERAGE_PROCESS_START=$PWD/pyproject.toml COVERAGE_FILE=$PWD/build/coverage/data
    .venv/bin/python -m pytest -n logical
    .venv/bin/python scripts/coverage_by_room.py build/coverage

The two variables measure every Python process that inherits them: the workers of the tests, and the
commands that tests start. Each process leaves a file of its own in the folder.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
import orjson
from coverage import Coverage
from coverage.exceptions import CoverageException
from mutation.rooms import room_of

ROOT = Path(__file__).resolve().parents[1]
_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True))
def main(data: tuple[str, ...]) -> None:
    """Print statements and branches by room, of the DATA files, or of those in a folder."""
    try:
        summaries = _summaries(data)
    except CoverageException as error:
        raise click.ClickException(str(error)) from error
    for line in table(summaries):
        click.echo(line)


def table(summaries: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Lines of a table with a row a room, the least covered first, and one for all.

    Args:
        summaries: What coverage.py counts in each file, by its path from the root.
    """
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for file, summary in summaries.items():
        for name in _COUNTS:
            rooms[room_of(file)][name] += summary.get(name, 0)
    total = sum(rooms.values(), Counter())
    has_branches = total["num_branches"] > 0
    yield "room               statements" + "        branches" * has_branches
    for room in sorted(rooms, key=lambda room: _shares(rooms[room])):
        yield _row(room, rooms[room], has_branches)
    yield _row("all", total, has_branches)


def _row(name: str, counts: Counter[str], has_branches: bool) -> str:
    statements, branches = _shares(counts)
    row = f"{name:18} {counts['num_statements']:5} {statements:6.1%}"
    return row + f"   {counts['num_branches']:5} {branches:6.1%}" * has_branches


def _shares(counts: Counter[str]) -> tuple[float, float]:
    statements = counts["covered_lines"] / (counts["num_statements"] or 1)
    return statements, counts["covered_branches"] / (counts["num_branches"] or 1)


def _summaries(paths: Iterable[str]) -> dict[str, Mapping[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        measured = Coverage(
            data_file=str(Path(folder, "data")), config_file=str(ROOT / "pyproject.toml")
        )
        measured.combine(list(paths), keep=True)
        report = Path(folder, "report.json")
        measured.json_report(outfile=str(report))
        files = orjson.loads(report.read_bytes())["files"]
    return {
        Path(ROOT, name).relative_to(ROOT).as_posix(): entry["summary"]
        for name, entry in files.items()
    }


if __name__ == "__main__":
    main()
