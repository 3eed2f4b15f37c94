"""No network in replay: a socket that wants to connect ends the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from swarm_repro.session import Session

_guarded: list[Session] = []
_hooked = False


@contextmanager
def refuse_network(session: Session) -> Iterator[None]:
    """Trip the session when anything in this process connects a socket while the block runs.

    Args:
        session: The replay that must not touch the network.
    """
    global _hooked
    if not _hooked:
        # An audit hook cannot be removed; with no session guarded it does nothing.
        sys.addaudithook(_audit)
        _hooked = True
    _guarded.append(session)
    try:
        yield
    finally:
        _guarded.remove(session)


def _audit(event: str, args: tuple[object, ...]) -> None:
    if event != "socket.connect" or not _guarded:
        return
    address = args[1]
    if isinstance(address, tuple):
        _guarded[-1].refuse(f"a replay must not touch the network, but {address[0]} was connected")
