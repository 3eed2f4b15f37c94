"""``swarm-repro server``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.serving import llama_server
from swarm_repro.serving.health import probe_llama_server
from swarm_repro.serving.profiles import CPU_STRICT, DEFAULT_CTX_SIZE, PROFILES, get_profile
from swarm_repro.serving.state import StartedServer, take_inventory


@click.group("server")
def command() -> None:
    """Start, stop and watch a llama-server."""


@command.command("start")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The GGUF file.")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default=CPU_STRICT.name,
    show_default=True,
    help="Which flags the server gets: "
    + "; ".join(f"{profile.name}, {profile.description}" for profile in PROFILES.values())
    + ".",
)
@click.option("--port", type=int, default=llama_server.DEFAULT_PORT, show_default=True)
@click.option(
    "--host",
    default=llama_server.LOOPBACK,
    show_default=True,
    help="Address to listen on; whoever can reach it can use the model.",
)
@click.option("--threads", type=int, help="Threads [default: physical cores].")
@click.option(
    "--ctx-size",
    type=int,
    default=DEFAULT_CTX_SIZE,
    show_default=True,
    help="Context in tokens, for all slots together.",
)
@click.option(
    "--parallel",
    type=int,
    default=1,
    show_default=True,
    help="Slots: requests answered at a time. More than one costs determinism.",
)
@click.option(
    "--binary",
    type=click.Path(path_type=Path),
    help="The llama-server to start [default: found on this machine].",
)
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- LLAMA_SERVER_FLAGS...]")
def _start(
    model: Path,
    profile: str,
    port: int,
    host: str,
    threads: int | None,
    ctx_size: int,
    parallel: int,
    binary: Path | None,
    extra: tuple[str, ...],
) -> None:
    """Start a llama-server that goes on running, and wait until it is ready.

    Flags after -- go to llama-server as they are, such as --chat-template-file FILE.
    """
    if parallel > 1:
        click.echo(_parallel_note(parallel, ctx_size, strict=get_profile(profile).strict), err=True)
    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(
            f"note: {host} is not loopback; whoever can reach it can use the model", err=True
        )
    with _waiting_display() as show:
        server = llama_server.start(
            model,
            profile=profile,
            host=host,
            port=port,
            threads=threads,
            n_ctx=ctx_size,
            parallel=parallel,
            binary=binary,
            extra_flags=extra,
            on_wait=show,
        )
    if server.dropped_variables:
        names = ", ".join(server.dropped_variables)
        click.echo(
            f"note: kept from the server, which has the flags of its profile: {names}", err=True
        )
    click.echo(f"{server.base_url} is ready: {server.model_path.name}, profile {server.profile}")
    click.echo(
        f"process {server.pid}, log {server.log_path};"
        f" end it with `swarm-repro server stop --port {server.port}`",
        err=True,
    )


def _parallel_note(parallel: int, ctx_size: int, *, strict: bool) -> str:
    broken = ", and the profile's promise of the same bits is void" if strict else ""
    return (
        f"note: with {parallel} slots an answer depends on what else is asked at the time{broken};"
        f" each slot has {ctx_size // parallel} tokens of context, longer requests fail"
    )


@command.command("stop")
@click.option("--port", type=int, help="Its port [default: the only server there is].")
def _stop(port: int | None) -> None:
    """End a server that `server start` started; never any other process."""
    _say_cleaned(take_inventory().cleaned)
    stopped = llama_server.stop(port=port)
    how = " (it did not end by itself and was killed)" if stopped.killed else ""
    click.echo(f"ended process {stopped.server.pid} on port {stopped.server.port}{how}")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _status(as_json: bool) -> None:
    """Say which servers run that `server start` started."""
    inventory = take_inventory()
    _say_cleaned(inventory.cleaned)
    if as_json:
        click.echo(encode_json([_to_json(server) for server in inventory.running]))
        return
    if not inventory.running:
        click.echo("no server that swarm-repro started is running")
    for server in inventory.running:
        click.echo(
            f"{server.base_url}  {_health(server)}  {server.model_path.name}"
            f"  profile {server.profile}  process {server.pid}  log {server.log_path}"
        )


def _health(server: StartedServer) -> str:
    return probe_llama_server(server.root_url).health.value


def _to_json(server: StartedServer) -> dict[str, object]:
    return {
        "base_url": server.base_url,
        "health": _health(server),
        "host": server.host,
        "port": server.port,
        "pid": server.pid,
        "model_path": str(server.model_path),
        "profile": server.profile,
        "origin": server.origin,
        "argv": server.argv,
        "log_path": str(server.log_path),
    }


def _say_cleaned(cleaned: tuple[str, ...]) -> None:
    for sentence in cleaned:
        click.echo(f"note: {sentence}", err=True)


@contextmanager
def _waiting_display() -> Iterator[Callable[[float], None]]:
    """Show how long the model has been loading; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _waited_s: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting llama-server") as status:
        yield lambda waited_s: status.update(
            f"loading the model, {waited_s:.0f} s of at most {llama_server.LOADING_LIMIT_S:.0f}"
        )
