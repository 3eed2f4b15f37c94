"""No network in replay: a look-up, a connection or a datagram ends the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from swarm_repro.session import Session

#: Audit events that reach for the network, and which argument says where to.
_REFUSED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
_LOOKUPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})

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
    if event not in _REFUSED or not _guarded:
        return
    target = args[_REFUSED[event]]
    if isinstance(target, tuple):
        target = target[0]
    elif event not in _LOOKUPS:
        return  # a socket of this machine's own, such as a pair
    _guarded[-1].refuse(f"a replay must not touch the network, but something asked for {target}")
