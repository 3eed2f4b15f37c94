"""``swarm-repro exec``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm_repro.cassette.records import SEED_POLICIES
from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.errors import UsageError

if TYPE_CHECKING:
    from swarm_repro.program import Program
    from swarm_repro.session import Session

_PROGRAM = "swarm_repro.program"


class _Command(click.Command):
    """Leaves all from the program's name on to the program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        start = _start_of_program(args, valued)
        ctx.meta[_PROGRAM] = args[start:]
        return super().parse_args(ctx, args[:start])


def _start_of_program(args: Sequence[str], valued: set[str]) -> int:
    """Where the program begins: at ``-m``, at ``--``, or at the second word that is no option."""
    words = 0
    place = 0
    while place < len(args):
        word = args[place]
        if word in ("-m", "--"):
            return place
        if word in valued:
            place += 1
        elif not word.startswith("-"):
            words += 1
            if words == 2:
                return place
        place += 1
    return place


@click.command("exec", cls=_Command, options_metavar="[OPTIONS] (-m MODULE | SCRIPT) [ARGS]...")
@click.argument("cassette", type=click.Path(path_type=Path))
@click.option("--record", "mode", flag_value="record", help="Call the model, record every call.")
@click.option("--replay", "mode", flag_value="replay", help="Call nothing; a miss fails the run.")
@click.option("--auto", "mode", flag_value="auto", help="Replay what is recorded, record the rest.")
@click.option("--live", "mode", flag_value="live", help="Call the model, write no cassette.")
@click.option("--verify", "mode", flag_value="verify", help="Call, and compare with the recording.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the run.")
@click.option(
    "--seed-policy",
    type=click.Choice(SEED_POLICIES),
    default="as-is",
    show_default=True,
    help="How calls without a seed get one.",
)
@click.option("--strict", is_flag=True, help="Refuse a server that would answer otherwise again.")
@click.option(
    "--tame",
    multiple=True,
    metavar="PACKAGE",
    help="Give this package seeded ids, clocks and random numbers; __main__ is the program itself.",
)
@click.option("--pass-others", is_flag=True, help="Let requests through that are no model calls.")
@click.option("--discard", is_flag=True, help="Throw away an interrupted recording.")
@click.pass_context
def command(
    context: click.Context,
    cassette: Path,
    mode: str | None,
    seed: int,
    seed_policy: str,
    strict: bool,
    tame: tuple[str, ...],
    pass_others: bool,
    discard: bool,
) -> int:
    """Run a Python program in this process, its model calls recorded in or replayed from CASSETTE.

    What follows the program's name is its own. Without a mode the cassette is replayed.
    """
    words: list[str] = context.meta[_PROGRAM]
    if tame:
        pin_hash_seed()
    from swarm_repro.program import run_program
    from swarm_repro.use import use_cassette

    find = _finder(words)
    use = use_cassette(
        cassette,
        mode=mode,
        seed=seed,
        seed_policy=seed_policy,  # type: ignore[arg-type]
        strict=strict,
        others="pass" if pass_others else "refuse",
        discard=discard,
    )
    session = run_program(find, use, tame=tame, seed=seed)
    _tell(session)
    return 0


def _finder(words: Sequence[str]) -> Callable[[], Program]:
    from swarm_repro.program import find_module, find_script

    if not words or words == ["-m"]:
        raise UsageError("name a program: -m MODULE, or a script")
    if words[0] == "--":
        raise UsageError("only Python programs can be run: -m MODULE, or a script")
    if words[0] == "-m":
        return lambda: find_module(words[1], words[2:])
    return lambda: find_script(Path(words[0]), words[1:])


def _tell(session: Session) -> None:
    ledger = session.ledger
    counts = f"{ledger.hits} calls from the cassette, {ledger.called} from the model"
    click.echo(f"{session.mode.value}: {counts}", err=True)
