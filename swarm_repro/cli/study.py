"""``swarm-repro study``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.cli.progress import StudyProgress
from swarm_repro.cli.session_options import redact_by_name
from swarm_repro.errors import ExitCode, UsageError
from swarm_repro.mode import Mode
from swarm_repro.printable import printable

if TYPE_CHECKING:
    from swarm_repro.study.conduct import Conducted
    from swarm_repro.study.file import Study
    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.recordings import Merged

_PATH = click.Path(path_type=Path)
_OUT = click.option("--out", type=_PATH, help="Folder of the results; the study's if not given.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
#: Failures that are listed; the rest is counted.
_SHOWN = 10


@click.group("study")
def command() -> None:
    """Run a study: scenarios times seeds times settings."""


@command.command("run")
@click.argument("file", type=_PATH)
@click.option("--record", "mode", flag_value="record", help="Record the runs that are not there.")
@click.option("--replay", "mode", flag_value="replay", help="Call nothing; a miss fails a run.")
@click.option("--auto", "mode", flag_value="auto", help="Replay what is recorded, record the rest.")
@click.option("--verify", "mode", flag_value="verify", help="Call, and compare with the recording.")
@click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes [default: half of the cores]."
)
@click.option("--scheduler", help="Address of a Dask scheduler, such as tcp://host:8786.")
@click.option("--shard", metavar="I/N", help="Make only every N-th run, beginning with the I-th.")
@click.option("--fail-fast", is_flag=True, help="Begin no further run after one has failed.")
@redact_by_name
@click.option("--dry-run", is_flag=True, help="Check the study, and say what it takes.")
@click.option(
    "--probe", is_flag=True, help="With --dry-run: try a step of what was never recorded."
)
@_OUT
@_JSON
def run(
    file: Path,
    mode: str | None,
    engine: str,
    workers: int | None,
    scheduler: str | None,
    shard: str | None,
    fail_fast: bool,
    redact: str | None,
    dry_run: bool,
    probe: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Make the runs of a study FILE that are not finished yet, and write its tables.

    Without a mode the cassettes are replayed if there are any. What was ended on the way is gone on
    with; a run that is finished is not made again.
    """
    pin_hash_seed()
    _require_installed("pyarrow")
    if probe and not dry_run:
        raise UsageError("--probe goes with --dry-run")
    from swarm_repro.study.conduct import Orders, conduct
    from swarm_repro.study.file import load_study
    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.tables import write_tables

    study = load_study(file)
    orders = Orders(
        mode=Mode(mode) if mode else None,
        engine=engine,
        workers=workers,
        scheduler=scheduler,
        shard=_shard(shard),
        fail_fast=fail_fast,
        redact=redact,
    )
    if not as_json:
        click.echo(f"{printable(study.name)}: {_size(study, probe=probe)}", err=True)
    if dry_run:
        return int(ExitCode.OK)
    with StudyProgress(study.name) as progress:
        conducted = conduct(
            study, orders, out=out, on_begin=progress.on_begin, on_report=progress.on_report
        )
    folder = StudyFolder(study, out)
    tables = write_tables(study, folder)
    if as_json:
        click.echo(encode_json(_report(study, conducted, tables)))
    else:
        _tell(conducted, folder)
    return conducted.exit_code


@command.command("status")
@click.argument("file", type=_PATH)
@_OUT
@_JSON
def status(file: Path, out: Path | None, as_json: bool) -> int:
    """Say which runs of a study FILE are finished, under way or failed."""
    from swarm_repro.study.file import load_study
    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.status import status_of

    study = load_study(file)
    folder = StudyFolder(study, out)
    folder.require()
    found = status_of(study, folder)
    if as_json:
        click.echo(encode_json(found.to_json()))
        return int(ExitCode.OK)
    click.echo(f"{found.finished} of {len(study.runs)} runs are finished")
    for name, calls in found.begun:
        click.echo(f"begun   {printable(name)}: {calls} calls are recorded")
    _list_failures(found.failed)
    return int(ExitCode.OK)


@command.command("report")
@click.argument("file", type=_PATH)
@click.option("--html", type=_PATH, help="Where to write it [default: report.html in the folder].")
@click.option("--metric", "metrics", multiple=True, help="A metric to show [default: all of them].")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True)
@_OUT
@_JSON
def report(
    file: Path,
    html: Path | None,
    metrics: tuple[str, ...],
    confidence: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Compare the settings of a study FILE, seed by seed, and write it as one HTML file."""
    _require_installed("pyarrow", "scipy", "matplotlib")
    from swarm_repro.study.file import load_study
    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.page import write_page
    from swarm_repro.study.statistics import summarise

    study = load_study(file)
    folder = StudyFolder(study, out)
    folder.require()
    summary = summarise(study, folder, metrics=metrics, confidence=confidence)
    if as_json:
        click.echo(encode_json(summary.to_json()))
    if html is not None or not as_json:
        path = html or folder.path / "report.html"
        write_page(summary, path)
        click.echo(f"wrote {printable(str(path))}", err=as_json)
    return int(ExitCode.OK)


@command.command("collect")
@click.argument("file", type=_PATH)
@click.argument("folders", nargs=-1, required=True, type=_PATH)
@_OUT
def collect(file: Path, folders: tuple[Path, ...], out: Path | None) -> int:
    """Bring the results of a study FILE from several FOLDERS together, and write its tables.

    For shards that ran on machines without a common disk.
    """
    _require_installed("pyarrow")
    from swarm_repro.study.collect import collect_into
    from swarm_repro.study.file import load_study
    from swarm_repro.study.folder import StudyFolder
    from swarm_repro.study.tables import write_tables

    study = load_study(file)
    folder = StudyFolder(study, out)
    taken = collect_into(study, folder, [StudyFolder(study, one) for one in folders])
    write_tables(study, folder)
    there = sum(folder.any_result(run) is not None for run in study.runs)
    click.echo(
        f"took {taken} runs; {there} of {len(study.runs)} are in {printable(str(folder.path))}"
    )
    return int(ExitCode.OK)


@command.command("merge")
@click.argument("file", type=_PATH)
@click.option("--archive", is_flag=True, help="Write .jsonl.zst: a tenth of the size.")
@click.option("--remove", is_flag=True, help="Remove what is in another cassette then.")
@_JSON
def merge(file: Path, archive: bool, remove: bool, as_json: bool) -> int:
    """Join the recordings of a study FILE, those of all seeds of one setting in one cassette.

    The study is replayed from these, too. Runs of which one says something in another way stay in
    cassettes of their own: two seeds ask an agent the same, or a repeat was answered otherwise.
    """
    from swarm_repro.study.file import load_study
    from swarm_repro.study.recordings import merge_recordings

    study = load_study(file)
    done = list(merge_recordings(study, archive=archive, remove=remove))
    if as_json:
        click.echo(encode_json([_joined(one) for one in done]))
    else:
        for one in done:
            said = f"{one.runs} runs, {one.calls} calls"
            if one.conflicts:
                first = one.conflicts[0]
                said = f"{one.runs} runs stay apart: {first.what}: {first.why}"
            click.echo(printable(f"{one.path}: {said}"))
    return int(ExitCode.OK)


def _joined(one: Merged) -> dict[str, Any]:
    return {
        "cassette": str(one.path),
        "joined": not one.conflicts,
        "runs": one.runs,
        "calls": one.calls,
        "conflicts": [{"what": found.what, "why": found.why} for found in one.conflicts],
    }


def _require_installed(*packages: str) -> None:
    """See that what will be needed is there, before anything is spent.

    Raises:
        UsageError: It is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"studies need {package}, which is not installed; run: pip install "
                "'swarm-repro[study]'"
            )


def _shard(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    first, _, second = given.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--shard {given!r} is none: use I/N, such as 1/4 for the first of four")
    return int(first), int(second)


def _size(study: Study, *, probe: bool) -> str:
    from swarm_repro.study.estimate import estimate

    count = len(study.runs)
    found = estimate(study, probe=probe)
    if found is None:
        return f"{count} runs; how long they take is told once one is recorded, or by --probe"
    hours = found.model_s / 3600
    total = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
    source = "as a first step took just now" if found.tried else "as recorded"
    each = found.model_s / count
    return f"{count} runs, about {total} of a model to record ({each:.0f} s each, {source})"


def _report(study: Study, conducted: Conducted, tables: list[Path]) -> dict[str, Any]:
    return {
        "study": study.name,
        "mode": conducted.mode.value,
        "runs": len(study.runs),
        "before": conducted.before,
        "finished": conducted.finished,
        "failed": [
            {"run": one.run, "exit_code": one.exit_code, "messages": list(one.messages)}
            for one in conducted.failed
        ],
        "lost_workers": conducted.lost,
        "left": conducted.left,
        "cpu_s": round(conducted.cpu_s, 3),
        "tables": [str(path) for path in tables],
    }


def _tell(conducted: Conducted, folder: StudyFolder) -> None:
    done = len(conducted.finished)
    before = f", {conducted.before} were finished before" if conducted.before else ""
    click.echo(
        f"{conducted.mode.value}: {done} runs finished{before}, {len(conducted.failed)} failed"
    )
    if conducted.lost:
        click.echo(f"workers were lost {conducted.lost} times; their runs were made by others")
    if conducted.left:
        click.echo(f"{conducted.left} runs were not begun")
    _list_failures([(one.run, list(one.messages)) for one in conducted.failed])
    click.echo(f"tables in {printable(str(folder.path))}")


def _list_failures(failed: list[tuple[str, list[str]]]) -> None:
    for name, messages in failed[:_SHOWN]:
        click.echo(f"failed  {printable(name)}: {printable(messages[0] if messages else '')}")
    if len(failed) > _SHOWN:
        click.echo(f"and {len(failed) - _SHOWN} more")
