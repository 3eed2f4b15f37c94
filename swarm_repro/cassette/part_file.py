"""The ``.part`` as a file that one process holds alone, or several share.

No lock outlives its process: the system lets go of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path

from swarm_repro.cassette import disk
from swarm_repro.errors import CassetteAccessError


class PartFile:
    """The file, open and held: alone, or with others who share it."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        """Open or create a ``.part``, and hold it until ``close``.

        Args:
            path: The file.
            shared: Whether other processes may append to it too.

        Raises:
            CassetteAccessError: Another process is recording and does not share; a link or a
                folder; the file cannot be written.
        """
        self.path = path
        self.shared = shared
        self._turns: int | None = None
        self._turn_path = path.with_name(path.name + ".lock")
        try:
            disk.make_folder(path.parent)
            with self.turn():
                self.descriptor = self._open()
        except OSError as error:
            self._close_turns()
            raise CassetteAccessError(f"{path} cannot be written: {_why(error)}") from error
        except BaseException:
            self._close_turns()
            raise
        _held.add(self)

    def _open(self) -> int:
        mode = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
        while True:
            descriptor = _open_here(self.path)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                if self.shared:
                    self._turn_path.unlink(missing_ok=True)  # who records alone has no turns
                raise self._refusal() from error
            if _is_at(descriptor, self.path):
                return descriptor
            os.close(descriptor)  # its recording has ended meanwhile

    def _refusal(self) -> CassetteAccessError:
        name = self.path.name.removesuffix(".part")
        how = " alone; wait for its end" if self.shared else (
            "; wait for its end, or let all who record it share it (shared=True)"
        )  # fmt: skip
        return CassetteAccessError(f"another process is recording {name}{how}")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One process at a time looks at the file and changes it; at once where none shares it.

        Raises:
            OSError: The lock cannot be had.
        """
        if not self.shared:
            yield
            return
        while True:
            if self._turns is None:
                self._turns = _open_here(self._turn_path)
            fcntl.flock(self._turns, fcntl.LOCK_EX)
            if _is_at(self._turns, self._turn_path):
                break
            self._close_turns()
        try:
            yield
        finally:
            if self._turns is not None:
                fcntl.flock(self._turns, fcntl.LOCK_UN)

    def is_alone(self) -> bool:
        """Whether no other process holds the file; asked in a turn.

        Raises:
            CassetteAccessError: Somebody has begun to record alone at this very moment.
        """
        if not self.shared:
            return True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            # Whether it was had or not, the shared lock is gone by now.
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal() from error
        return alone

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.descriptor).st_size

    def cut(self, length: int) -> None:
        """Take back what comes after the first ``length`` bytes.

        Raises:
            OSError: It cannot be.
        """
        os.ftruncate(self.descriptor, length)

    def remove(self) -> None:
        """Remove the file: what was in it is in the cassette now.

        Raises:
            OSError: It cannot be removed.
        """
        self.path.unlink(missing_ok=True)
        self._turn_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; it stays where it is."""
        _held.discard(self)
        # Before its turn ends: who is next must not find it held by one who has left already, or
        # both would leave the cassette to the other.
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._close_turns()

    def _close_turns(self) -> None:
        if self._turns is not None:
            os.close(self._turns)
            self._turns = None


def is_held(path: Path) -> bool:
    """Whether somebody is recording into a ``.part`` now.

    Args:
        path: The file, which may not exist.
    """
    # A pipe by that name would be waited for until somebody writes into it.
    how = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, how)
    except OSError:
        return False  # there is none, or none that can be recorded into
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_here(path: Path) -> int:
    """Open or create a file of ours; a link would lead to somebody else's.

    Raises:
        OSError: It is something else, or cannot be written.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, how, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file")
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a link; remove it"
    return error.strerror or str(error)


#: What this process holds. A forked child would hold it on after its parent's end.
_held: weakref.WeakSet[PartFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for held in list(_held):
        held.close()


os.register_at_fork(after_in_child=_let_go_in_child)
