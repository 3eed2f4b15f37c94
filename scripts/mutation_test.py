"""Mutation testing: put small faults into the package, and see whether a test notices.

    python scripts/mutation_test.py map                         # which test touches which line
    python scripts/mutation_test.py run --room merge --count 20 --seed 1

`map` runs the tests once and keeps what they touch in .mutation/; a file of tests is measured again
with `map tests/cassette/test_merge.py`. `run` draws mutants, tries each in a copy of the tree with
the tests that touch it, and prints the share that was noticed and what was not.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
from mutation.copies import Copy
from mutation.equivalent import read_equivalents
from mutation.mutants import mutants_of
from mutation.report import as_json, progress, report
from mutation.rooms import ROOMS, room_of, unused_patterns
from mutation.touched import Touched, measure, package_files
from mutation.trying import Outcome, changed_lines, draw, try_mutant

_Item = TypeVar("_Item")
_WORKERS = max(1, (os.cpu_count() or 2) - 1)
_repository = click.option(
    "--repo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(__file__).resolve().parents[1],
    help="Root of the repository; this one if not given.",
)
_workers = click.option(
    "--workers", type=click.IntRange(min=1), default=_WORKERS, show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Put small faults into the package, and see whether a test notices."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command("map")
@click.argument("paths", nargs=-1)
@_workers
@_repository
def map_tests(paths: tuple[str, ...], workers: int, repo: Path) -> None:
    """Measure which test touches which line; of PATHS only, or of all tests."""
    repo = repo.resolve()
    touched = Touched(repo)
    lock = threading.Lock()
    done = 0
    files = _test_files(repo, paths or ("tests",))
    if not paths:
        touched.tests.clear()

    def measure_one(copy: Copy, file: str) -> None:
        nonlocal done
        started = time.monotonic()
        try:
            entries = measure(copy, file)
        except RuntimeError as error:
            click.echo(f"{error}\n{file} cannot be run, and is left out", err=True)
            return
        took_s = time.monotonic() - started
        failed = sum(not entry["passed"] for entry in entries.values())
        ill = f", {failed} fail by themselves and are left out" if failed else ""
        with lock:
            done += 1
            touched.replace(file, entries)
            touched.save()
            click.echo(f"{done}/{len(files)} {file}: {len(entries)} tests, {took_s:.0f} s{ill}")

    _in_copies(repo, files, measure_one, workers=workers)
    click.echo(f"{len(touched.tests)} tests in {repo / '.mutation'}")


@main.command("run")
@click.option("--room", "rooms", multiple=True, type=click.Choice(sorted(ROOMS)))
@click.option("--changed", metavar="COMMIT", help="Only lines that differ from this commit.")
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--budget",
    "budget_s",
    type=float,
    default=100,
    show_default=True,
    metavar="SECONDS",
    help="How long the tests of one mutant may take, by what they took when measured.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE")
@_workers
@_repository
def run_mutants(
    rooms: tuple[str, ...],
    changed: str | None,
    count: int,
    seed: int,
    budget_s: float,
    json_path: Path | None,
    workers: int,
    repo: Path,
) -> None:
    """Draw COUNT mutants a room, and try each with the tests that touch it."""
    repo = repo.resolve()
    touched = Touched(repo)
    if not touched.tests:
        raise click.UsageError("it is not known which test touches what; use `map` first")
    equivalents = read_equivalents()
    try:
        lines = changed_lines(repo, changed) if changed else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    drawn = draw(repo, rooms or tuple(ROOMS), count=count, seed=seed, lines=lines)
    stale = {mutant.file for mutant in drawn if touched.is_stale(mutant.file)}
    if stale:
        click.echo(
            f"{len(stale)} files have changed since `map` ran; tests are chosen by file there",
            err=True,
        )
    found: dict[int, Outcome] = {}

    def try_one(copy: Copy, number: int) -> None:
        started = time.monotonic()
        outcome = try_mutant(drawn[number], copy, touched, equivalents, budget_s=budget_s)
        found[number] = outcome
        took_s = time.monotonic() - started
        click.echo(f"{len(found)}/{len(drawn)} {progress(outcome)} ({took_s:.1f} s)")

    started = time.monotonic()
    _in_copies(repo, range(len(drawn)), try_one, workers=workers)
    took_s = time.monotonic() - started
    outcomes = [found[number] for number in sorted(found)]
    click.echo(f"\n{len(drawn)} mutants in {took_s:.0f} s, seed {seed}\n")
    for line in report(outcomes):
        click.echo(line)
    if json_path is not None:
        json_path.write_bytes(as_json(outcomes))


@main.command("check")
@_repository
def check(repo: Path) -> None:
    """Say what is in no room, and which equivalent mutants there are no more; 1 if any."""
    repo = repo.resolve()
    files = package_files(repo)
    wrong = [f"no file fits the pattern {pattern}" for pattern in unused_patterns(files)]
    wrong += filter(None, map(_why_no_room, files))
    for entry in read_equivalents():
        path = repo / entry.file
        found = mutants_of(path.read_bytes(), entry.file) if path.exists() else []
        if not any(entry.is_of(mutant) for mutant in found):
            wrong.append(f"no such mutant: {entry.file} {entry.function}: {entry.after}")
    for line in wrong:
        click.echo(line, err=True)
    raise SystemExit(1 if wrong else 0)


def _in_copies(
    repository: Path,
    items: Sequence[_Item],
    work: Callable[[Copy, _Item], None],
    *,
    workers: int,
) -> None:
    """Do something for each item, each worker in a copy of its own."""
    waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    errors: list[BaseException] = []
    copies: list[Copy] = []

    def take(folder: Path) -> None:
        try:
            with Copy(repository, folder) as copy:
                copies.append(copy)
                while not errors:
                    work(copy, waiting.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
        threads = [
            threading.Thread(target=take, args=(Path(folder, f"copy{number}"),), daemon=True)
            for number in range(min(workers, len(items)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C, or a signal
            for copy in copies:
                copy.end()
            raise
    if errors:
        raise errors[0]


def _why_no_room(file: str) -> str:
    try:
        room_of(file)
    except ValueError as error:
        return str(error)
    return ""


def _test_files(repository: Path, paths: Sequence[str]) -> list[str]:
    files: dict[str, None] = {}
    for path in paths:
        found = repository / path
        if not found.exists():
            raise click.UsageError(f"there is no {path}")
        some = sorted(found.rglob("test_*.py")) if found.is_dir() else [found]
        files.update(dict.fromkeys(one.relative_to(repository).as_posix() for one in some))
    return [file for file in files if not file.startswith("tests/live/")]


if __name__ == "__main__":
    main()
