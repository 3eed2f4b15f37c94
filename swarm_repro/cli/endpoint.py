"""What the commands with an endpoint share."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import click

from swarm_repro.errors import UsageError

if TYPE_CHECKING:
    from swarm_repro.session import Session


def require_extra() -> None:
    """Say what is missing before anything is opened.

    Raises:
        UsageError: The endpoint's packages are not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError(
            "the endpoint needs two more packages; run: pip install 'swarm-repro[endpoint]'"
        )


def tell(session: Session) -> None:
    """One line on what a session did, on stderr; another one if credentials are masked in it."""
    from swarm_repro.opening import describe_masked

    ledger = session.ledger
    counts = f"{ledger.hits} calls from the cassette, {ledger.called} from the model"
    if ledger.shared:
        counts += f", {ledger.shared} answered with an identical one"
    if ledger.cached:
        counts += f", {ledger.cached} from the cache"
    if ledger.misses:
        counts += f", {len(ledger.misses)} misses"
    click.echo(f"{session.mode.value}: {counts}", err=True)
    notes = [describe_masked(session), *session.cache_notes()]
    for note in filter(None, notes):
        click.echo(f"note: {note}", err=True)
