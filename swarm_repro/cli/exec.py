"""``swarm-repro exec``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm_repro.cli.endpoint import require_extra, tell
from swarm_repro.cli.hash_seed import pin_hash_seed
from swarm_repro.cli.session_options import SessionOptions, session_options
from swarm_repro.errors import UsageError

if TYPE_CHECKING:
    from swarm_repro.program import Program

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

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "(-m MODULE | SCRIPT | -- COMMAND) [ARGS]..."]


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


@click.command("exec", cls=_Command)
@click.argument("cassette", type=click.Path(path_type=Path))
@session_options
@click.option(
    "--tame",
    multiple=True,
    metavar="PACKAGE",
    help="Give this package seeded ids, clocks and random numbers; __main__ is the program itself.",
)
@click.option(
    "--shared", is_flag=True, help="Let other processes that say so use the cassette as well."
)
@click.option(
    "--scope-prefix",
    default="",
    metavar="NAME",
    help="Keep this program's scopes apart from theirs.",
)
@click.option("--upstream", metavar="URL", help="For a COMMAND: the server behind the endpoint.")
@click.option("--hosted", is_flag=True, help="For a COMMAND: the upstream is no llama-server.")
@click.option("--pass-others", is_flag=True, help="Let requests through that are no model calls.")
@click.pass_context
def command(
    context: click.Context,
    cassette: Path,
    options: SessionOptions,
    tame: tuple[str, ...],
    shared: bool,
    scope_prefix: str,
    upstream: str | None,
    hosted: bool,
    pass_others: bool,
) -> int:
    """Run a program, its model calls recorded in or replayed from CASSETTE.

    A Python program runs in this process. Any other COMMAND finds an endpoint in the variables
    that clients read, such as OPENAI_BASE_URL. What follows the program's name is its own. Without
    a mode the cassette is replayed.
    """
    words: list[str] = context.meta[_PROGRAM]
    if words[:1] == ["--"]:
        if tame or pass_others or shared or scope_prefix:
            raise UsageError(
                "--tame, --pass-others, --shared and --scope-prefix are for Python programs in "
                "this process"
            )
        return _run_command(words[1:], cassette, options, upstream=upstream, hosted=hosted)
    if upstream is not None or hosted:
        raise UsageError("--upstream and --hosted are for commands after --")
    if tame:
        pin_hash_seed()
    from swarm_repro.program import run_program
    from swarm_repro.use import use_cassette

    find = _finder(words)
    use = use_cassette(
        cassette,
        mode=options.mode,
        seed=options.seed,
        seed_policy=options.seed_policy,
        strict=options.strict,
        others="pass" if pass_others else "refuse",
        discard=options.discard,
        cache=options.cache,
        fresh=options.fresh,
        redact=options.redact,
        shared=shared,
        scope_prefix=scope_prefix,
    )
    session = run_program(find, use, tame=tame, seed=options.seed)
    tell(session)
    return 0


def _run_command(
    words: Sequence[str],
    cassette: Path,
    options: SessionOptions,
    *,
    upstream: str | None,
    hosted: bool,
) -> int:
    """Run a command beside the endpoint; its own code, unless the cassette has more to say."""
    if not words:
        raise UsageError("name a command after --")
    if shutil.which(words[0]) is None:
        raise UsageError(f"there is no command {words[0]}")
    require_extra()
    from swarm_repro.endpoint.child import child_environment, run_child, upstream_from_environment
    from swarm_repro.endpoint.server import Endpoint, Settings
    from swarm_repro.opening import conclude

    endpoint = Endpoint(
        Settings(
            cassette=cassette,
            mode=options.chosen_mode,
            header=options.header,
            seed=options.seed,
            upstream=upstream or upstream_from_environment(),
            hosted=hosted,
            discard=options.discard,
            cache=options.cache,
            fresh=options.fresh,
            redact=options.redact,
        )
    )
    try:
        with endpoint.in_thread():
            code = run_child(words, child_environment(endpoint.root, key=None))
        tell(endpoint.session)
        if code == 0 or endpoint.session.ledger.misses:
            conclude(endpoint.session)
        return code
    finally:
        endpoint.close()


def _finder(words: Sequence[str]) -> Callable[[], Program]:
    from swarm_repro.program import find_module, find_script

    if not words or words == ["-m"]:
        raise UsageError("name a program: -m MODULE, a script, or a command after --")
    if words[0] == "-m":
        return lambda: find_module(words[1], words[2:])
    return lambda: find_script(Path(words[0]), words[1:])
