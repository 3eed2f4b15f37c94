"""``swarm-repro audit``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from swarm_repro.audit.experiments import EXPERIMENTS, Experiment
from swarm_repro.audit.settings import SETTINGS, Setting
from swarm_repro.canonical import encode_json
from swarm_repro.errors import ExitCode, UsageError
from swarm_repro.serving.profiles import DEFAULT_CTX_SIZE


def _list(named: Sequence[Experiment] | Sequence[Setting]) -> str:
    return ", ".join(one.name for one in named)


@click.command("audit")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The GGUF file.")
@click.option(
    "--binary",
    type=click.Path(path_type=Path),
    help="The llama-server to measure [default: found on this machine].",
)
@click.option(
    "--second-binary",
    type=click.Path(path_type=Path),
    help="Another build of llama-server to compare with.",
)
@click.option(
    "--prompts",
    "cassette",
    metavar="CASSETTE",
    type=click.Path(path_type=Path),
    help="Ask this cassette's recorded requests [default: built-in prompts].",
)
@click.option(
    "--prompts-limit",
    type=int,
    default=3,
    show_default=True,
    help="How many of them, those with the longest prompts first.",
)
@click.option("--repeat", type=int, help="Answers to compare [default: 4, with --quick 3].")
@click.option("--threads", type=int, help="Threads [default: physical cores].")
@click.option(
    "--ctx-size",
    type=int,
    default=DEFAULT_CTX_SIZE,
    show_default=True,
    help="Context in tokens, for all slots together.",
)
@click.option(
    "--settings", metavar="A,B", help=f"Settings to measure [default: all]: {_list(SETTINGS)}."
)
@click.option(
    "--experiments",
    metavar="X,Y",
    help=f"Experiments to make [default: all]: {_list(EXPERIMENTS)}.",
)
@click.option("--quick", is_flag=True, help="Only what decides, with three settings.")
@click.option(
    "--in-process/--no-in-process",
    "in_process",
    default=None,
    help="Measure llama-cpp-python, too [default: if installed].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one HTML file.")
def command(
    model: Path,
    binary: Path | None,
    second_binary: Path | None,
    cassette: Path | None,
    prompts_limit: int,
    repeat: int | None,
    threads: int | None,
    ctx_size: int,
    settings: str | None,
    experiments: str | None,
    quick: bool,
    in_process: bool | None,
    as_json: bool,
    html: Path | None,
) -> int:
    """Measure which settings give one answer to one seeded request here, and at what price.

    Starts and ends llama-servers of its own on free ports, one for each experiment. Exits with 0
    if a setting is recommended, with 1 if none gave one answer in every experiment.
    """
    from swarm_repro.audit.plan import AuditOptions
    from swarm_repro.audit.runner import run_audit

    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"{html.parent} is no folder; make it, or give another --html")
    options = AuditOptions(
        model_path=model,
        binary=binary,
        second_binary=second_binary,
        cassette=cassette,
        prompts_limit=prompts_limit,
        repeat=repeat,
        threads=threads,
        n_ctx=ctx_size,
        settings=_names(settings),
        experiments=_names(experiments),
        quick=quick,
        in_process=in_process,
    )
    with _ended_by_signals(), _display() as show:
        report = run_audit(options, on_progress=show)
    if as_json:
        click.echo(encode_json(report.to_json()))
    else:
        from swarm_repro.audit.text import render

        click.echo(render(report), nl=False)
    if html is not None:
        from swarm_repro.reporting.html import write_html

        write_html(report.to_json(), html)
        click.echo(f"report written to {html}", err=True)
    return int(ExitCode.OK if report.recommended is not None else ExitCode.DIFFERENCE)


def _names(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return tuple(name.strip() for name in given.split(",") if name.strip())


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave through the ``with`` blocks on SIGTERM and SIGHUP, so that no server stays behind."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display() -> Iterator[Callable[[str, float, float], None]]:
    """Progress with an estimate; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total
        )
