"""One GET over a plain socket, with one deadline for all of it.

``urllib`` bounds each read, not the whole: a peer that sends a byte a second, or a resolver that
hangs, would hold the caller for far longer than was asked for.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import TypeAlias, cast

#: A longer body is not llama-server's. ``/props`` carries the chat template, tens of KB.
BODY_LIMIT_BYTES = 4 * 1024 * 1024

_Target: TypeAlias = "tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]"
_SocketAddress: TypeAlias = "tuple[socket.AddressFamily, socket.SocketKind, int, str, _Target]"


class AnswerTooLongError(Exception):
    """A body longer than ``BODY_LIMIT_BYTES``."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to ask.

    Attributes:
        scheme: "http" or "https".
        host: A name, or an IP address without brackets.
        port: TCP port.
        prefix: What precedes every path, without a slash at its end; usually empty.
    """

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def url(self) -> str:
        """The address as a URL, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def get(address: Address, path: str, deadline: float) -> tuple[int, bytes]:
    """Ask for a path; no proxy, no redirects.

    Args:
        address: Where to ask.
        path: What to ask for, ASCII, with its leading slash.
        deadline: On the clock of ``time.monotonic``, seconds.

    Returns:
        The HTTP status and the body.

    Raises:
        AnswerTooLongError: the body is longer than ``BODY_LIMIT_BYTES``.
        OSError: no connection, no answer by the deadline (TimeoutError), a cut connection.
        http.client.HTTPException: the answer is not HTTP, or ends early.
    """
    host = address.host if ":" in address.host else address.host.encode("idna").decode("ascii")
    name = f"[{host}]" if ":" in host else host
    request = (
        f"GET {address.prefix}{path} HTTP/1.1\r\nHost: {name}:{address.port}\r\n"
        "Accept: application/json\r\nConnection: close\r\n\r\n"
    )
    with connect(address.scheme, host, address.port, deadline) as sock:
        sock.settimeout(_remaining_s(deadline))
        sock.sendall(request.encode("ascii"))
        reader = _DeadlineReader(sock, deadline)
        with HTTPResponse(cast(socket.socket, reader), method="GET") as response:
            response.begin()
            body = response.read(BODY_LIMIT_BYTES + 1)
            if len(body) > BODY_LIMIT_BYTES:
                raise AnswerTooLongError(f"{path} answered more than {BODY_LIMIT_BYTES} bytes")
            return response.status, body


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes, each read bounded by one deadline for all of them.

    A time-out per read would let a peer that sends a byte a second hold us for ever.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        self._sock.settimeout(_remaining_s(self._deadline))
        return self._sock.recv_into(cast(bytearray, buffer))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Stand in for the socket that ``HTTPResponse`` asks for its file."""
        return io.BufferedReader(self)


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s


def connect(scheme: str, host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address that answers, as an HTTP client would.

    The time left is shared among the addresses, since "localhost" may mean ``::1`` first.

    Args:
        scheme: ``https`` connects by TLS.
        host: Name or address.
        port: Its port.
        deadline: On the clock of ``time.monotonic``, seconds.

    Raises:
        OSError: None of its addresses answers.
    """
    addresses = _resolve(host, port, deadline)
    failure: OSError | None = None
    for index, (family, kind, protocol, _, target) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_remaining_s(deadline) / (len(addresses) - index))
            _connect_to_another(sock, target)
            if scheme == "https":
                sock.settimeout(_remaining_s(deadline))
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:
            sock.close()
            # "Refused" by one address says less than "unreachable" or a time-out by another.
            if failure is None or isinstance(failure, ConnectionRefusedError):
                failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


def _connect_to_another(sock: socket.socket, target: _Target) -> None:
    """Connect, but not to the socket itself.

    Where nothing listens, Linux may give the socket the very port that it connects to, so that it
    is connected to itself. Closed as usual, it would keep the port from a server that is starting.

    Raises:
        OSError: Refused, also where it met itself; unreachable; too late.
    """
    sock.connect(target)
    if sock.getsockname()[:2] == target[:2]:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _resolve(host: str, port: int, deadline: float) -> Sequence[_SocketAddress]:
    """Look a name up, in a thread: the resolver's own time-outs are far longer than ours."""
    answers: list[Sequence[_SocketAddress] | OSError] = []

    def look_up() -> None:
        try:
            answers.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=look_up, name="swarm-repro-resolve", daemon=True)
    thread.start()
    thread.join(_remaining_s(deadline))
    if not answers:
        raise TimeoutError
    answer = answers[0]
    if isinstance(answer, OSError):
        raise OSError(f"the host name {host!r} cannot be resolved") from answer
    return answer
