"""The command line: one command a file, loaded when it is called."""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from collections.abc import Sequence

import click

from swarm_repro import __version__
from swarm_repro.errors import ExitCode, SessionTripped, SwarmReproError

_COMMANDS = {
    "demo": "Replay the packaged demo in a temporary folder: no model, no network.",
    "init": "Put a scenario, git attributes and a CI workflow into the current project.",
    "run": "Run unmodified SWARM on a scenario: record, replay or verify its model calls.",
    "study": "Run scenarios times seeds times settings; compare them seed by seed.",
    "diff": "Say where two recordings part, why, and what merely followed.",
    "verify": "Ask a live backend every recorded call again, and compare.",
    "audit": "Measure which settings make a model on this machine deterministic.",
    "exec": "Run a program under a cassette: Python in this process, others by an endpoint.",
    "serve": "Answer OpenAI-compatible requests from a cassette, or record them in it.",
    "show": "Show a cassette, or one of its calls.",
    "stats": "Count a cassette's calls, tokens and seconds by agent, model and environment.",
    "check": "Derive every checksum, digest, key and reference of a cassette again.",
    "merge": "Join recordings of one experiment, and name what they disagree on.",
    "export": "Write a cassette as another tool's log, such as Inspect's.",
    "summarize": "Turn JSON reports into Markdown, for a job's summary.",
    "textconv": "Print a cassette for git diff.",
    "model": "Fetch and digest model files.",
    "bundle": "One zip for a paper: scenarios, recordings, artifacts, methods, and a manifest.",
    "cache": "Look after the machine-wide cache of answers, which --cache uses.",
    "server": "Start, stop and watch a llama-server.",
    "doctor": "Say what is installed, which backends work, and what is missing.",
}


class _LazyGroup(click.Group):
    """Imports a command's module only when it is called, so that ``--version`` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"swarm_repro.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swarm-repro")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def root(debug: bool) -> None:
    """Record multi-agent LLM simulations on llama.cpp once; replay them bit for bit."""
    del debug


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding shows what it lacks as escapes, and the rest as it is.
            stream.reconfigure(errors="backslashreplace")
    try:
        # Whoever gives arguments is a program of its own, not this command.
        code = root.main(args=given, standalone_mode=False, obj=arguments is None)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (SwarmReproError, SessionTripped) as error:
        if "--debug" in given:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # What no command has words for: the disk is full, the output cannot be written.
        if "--debug" in given:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(ExitCode.USAGE)
