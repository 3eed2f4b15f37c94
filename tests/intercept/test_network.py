"""No network in replay: an attempt to use it ends the run, and the error names the target."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.errors import ReplayMiss
from swarm_repro.intercept.network import refuse_network
from tests.support.tiny_model import replaying, small_cassette


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def send_to() -> None:
    with udp() as one:
        one.sendto(b"x", ("127.0.0.1", 9))


def send_to_with_flags() -> None:
    with udp() as one:
        one.sendto(b"x", 0, ("127.0.0.1", 9))


def send_message() -> None:
    with udp() as one:
        one.sendmsg([b"x"], [], 0, ("127.0.0.1", 9))


REACHING: list[tuple[Callable[[], object], str]] = [
    (connect, "127.0.0.1"),
    (send_to, "127.0.0.1"),
    (send_to_with_flags, "127.0.0.1"),
    (send_message, "127.0.0.1"),
    (lambda: socket.getaddrinfo("host.invalid", 80), "host.invalid"),
    (lambda: socket.gethostbyname("host.invalid"), "host.invalid"),
]


@pytest.mark.parametrize(
    ("reach", "target"),
    REACHING,
    ids=["connect", "sendto", "sendto with flags", "sendmsg", "getaddrinfo", "gethostbyname"],
)
def test_a_replay_that_reaches_for_the_network_ends(
    reach: Callable[[], object], target: str, tmp_path: Path
) -> None:
    small_cassette(tmp_path / "c.jsonl")
    session = replaying(tmp_path / "c.jsonl")
    with refuse_network(session), pytest.raises(ReplayMiss) as caught:
        reach()
    assert str(caught.value) == (
        f"a replay must not touch the network, but something asked for {target}"
    )
    assert session.tripped is caught.value


def test_local_sockets_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # macOS allows a socket's name 104 bytes, which the path of a test's folder may exceed.
    monkeypatch.chdir(tmp_path)
    small_cassette(tmp_path / "c.jsonl")
    with refuse_network(replaying(tmp_path / "c.jsonl")):
        one, other = socket.socketpair()
        with one, other:
            one.sendmsg([b"x"])
            assert other.recv(1) == b"x"
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(FileNotFoundError):
            local.connect("none")


def test_after_a_replay_the_network_is_there_again(tmp_path: Path) -> None:
    small_cassette(tmp_path / "c.jsonl")
    outer, inner = replaying(tmp_path / "c.jsonl"), replaying(tmp_path / "c.jsonl")
    with refuse_network(outer):
        with refuse_network(inner):
            with pytest.raises(ReplayMiss):
                socket.gethostbyname("host.invalid")
            assert inner.tripped is not None
            assert outer.tripped is None
        with pytest.raises(ReplayMiss):
            socket.gethostbyname("host.invalid")
        assert outer.tripped is not None
    with udp() as one, udp() as other:
        other.bind(("127.0.0.1", 0))
        one.sendto(b"x", other.getsockname())
        assert other.recv(1) == b"x"
    sys.audit("socket.connect", None, ("127.0.0.1", 9))
