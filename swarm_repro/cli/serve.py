"""``swarm-repro serve``."""

from __future__ import annotations

from pathlib import Path

import click

from swarm_repro.canonical import encode_json
from swarm_repro.cli.endpoint import require_extra, tell
from swarm_repro.cli.session_options import SessionOptions, session_options
from swarm_repro.errors import UnplayedCallsError


@click.command("serve")
@click.argument("cassette", type=click.Path(path_type=Path))
@session_options
@click.option("--upstream", metavar="URL", help="The server behind it.  [default: localhost:8080]")
@click.option("--hosted", is_flag=True, help="The upstream is no llama-server.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; 0 takes a free one.")
@click.option(
    "--token", envvar="SWARM_REPRO_TOKEN", help="What requests must bring; needed off loopback."
)
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin ask.")
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=32 * 2**20,
    show_default=True,
    metavar="BYTES",
    help="Limit of a request's body.",
)
@click.option("--json", "as_json", is_flag=True, help="Print address and result as JSON lines.")
def command(
    cassette: Path,
    options: SessionOptions,
    upstream: str | None,
    hosted: bool,
    host: str,
    port: int,
    token: str | None,
    cors: tuple[str, ...],
    max_body: int,
    as_json: bool,
) -> int:
    """Answer OpenAI-compatible requests from CASSETTE, or record them in it.

    Prints its address and serves until it is interrupted. Without a mode the cassette is replayed.
    """
    require_extra()
    from swarm_repro.endpoint.app import status_of
    from swarm_repro.endpoint.server import Endpoint, Settings
    from swarm_repro.opening import conclude

    endpoint = Endpoint(
        Settings(
            cassette=cassette,
            mode=options.chosen_mode,
            header=options.header,
            seed=options.seed,
            upstream=upstream,
            hosted=hosted,
            host=host,
            port=port,
            token=token,
            cors=cors,
            max_body_bytes=max_body,
            discard=options.discard,
            cache=options.cache,
            fresh=options.fresh,
            redact=options.redact,
        )
    )
    try:
        address = {"url": f"{endpoint.root}/v1", "mode": endpoint.session.mode.value}
        click.echo(encode_json(address) if as_json else address["url"])
        endpoint.run()
        status = status_of(endpoint.session)
        try:
            conclude(endpoint.session)
        except UnplayedCallsError as error:
            click.echo(f"note: {error}", err=True)  # it was stopped: who knows what was to come
        finally:
            if as_json:
                click.echo(encode_json(status))
            tell(endpoint.session)
    finally:
        endpoint.close()
    return 0
