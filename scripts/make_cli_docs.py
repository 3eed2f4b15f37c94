"""Put each command's ``--help`` into docs/reference/cli.md.

    python scripts/make_cli_docs.py            # write the page
    python scripts/make_cli_docs.py --check    # write nothing; exit with 1 if the page is stale

The page is written by hand but for the fences after ``<!-- help: COMMAND -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from swarm_repro.cli import root

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
PROGRAM = "swarm-repro"
_COLUMNS = 78  # of 80: click leaves two free
_FENCE = re.compile(r"<!-- help: (?P<name>.*?) -->\n```text\n.*?```\n", re.DOTALL)


def help_texts() -> dict[str, str]:
    """Each command's help as it is on a terminal of 80 columns, by its full name."""
    return dict(_help_of(root, None, PROGRAM))


def _help_of(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        parent=parent,
        info_name=name.rpartition(" ")[2],
        terminal_width=_COLUMNS,
        **command.context_settings,
    )
    yield name, command.get_help(context) + "\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _help_of(found, context, f"{name} {child}")


def refresh(page: str) -> str:
    """The page with its help texts replaced.

    Args:
        page: The page as it is.

    Raises:
        click.ClickException: A command without a place on the page, or a place without a command.
    """
    texts = help_texts()
    places = [match["name"] for match in _FENCE.finditer(page)]
    if sorted(places) != sorted(texts):
        wrong = ", ".join(sorted(set(places) ^ set(texts))) or "a command twice"
        raise click.ClickException(f"{TARGET.name} and the command line disagree about: {wrong}")
    return _FENCE.sub(
        lambda match: f"<!-- help: {match['name']} -->\n```text\n{texts[match['name']]}```\n", page
    )


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the page is stale.")
def main(check: bool) -> None:
    """Bring docs/reference/cli.md up to date."""
    before = TARGET.read_text(encoding="utf-8")
    fresh = refresh(before)
    if not check:
        TARGET.write_text(fresh, encoding="utf-8")
    elif before != fresh:
        click.echo(f"{TARGET.name} is stale; run: python scripts/make_cli_docs.py", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
