"""``swarm-repro diff``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cli.progress import Bar
from swarm_repro.errors import ExitCode

if TYPE_CHECKING:
    from swarm_repro.compare.diff import DiffReport

#: Calls that a page or a JSON report lists unless told otherwise.
_LISTED = 10_000
#: Origins a terminal shows, and some to spare.
_SHOWN = 20


@click.command("diff")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one HTML file.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=_LISTED,
    show_default=True,
    help="Calls that --json and --html list.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="A GGUF whose vocabulary says by token where texts part [default: by character, unless "
    "logprobs were recorded].",
)
def command(
    a: Path, b: Path, as_json: bool, html: Path | None, limit: int, tokenizer: Path | None
) -> int:
    """Say where two recordings, A and B, part, and why.

    Calls are aligned by agent and ordinal. Roots got the same request and another completion;
    causes are requests that differ by themselves; all else followed. Exit code 0: identical, 1:
    not.
    """
    from swarm_repro.compare.diff import comparing

    with ExitStack() as files:
        with Bar() as bar:
            report = files.enter_context(
                comparing(a, b, tokenize=_tokenizer(tokenizer), phase=bar.phase)
            )
        if html is not None:
            from swarm_repro.reporting.html import write_html

            write_html(report.to_json(identical_too=True, limit=limit), html)
        if as_json:
            click.echo(encode_json(report.to_json(limit=limit)))
        else:
            _print(report, same_file=a.samefile(b))
    return int(ExitCode.OK if report.identical else ExitCode.DIFFERENCE)


def _print(report: DiffReport, *, same_file: bool) -> None:
    from swarm_repro.compare.text import diff_lines

    if same_file:
        click.echo("A and B are the same file")
    for line in diff_lines(report.to_json(limit=_SHOWN)):
        click.echo(line)


def _tokenizer(path: Path | None) -> Callable[[str], list[str]] | None:
    if path is None:
        return None
    from swarm_repro.backends.llama_cpp import load_tokenizer

    return load_tokenizer(path)
