"""What survives a power loss: bytes, and the names of files, on the disk when a function returns.

Source of what a file system may do with the rest: Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from pathlib import Path

#: A file system that cannot sync a folder, or a drive that cannot be told to write its cache.
_NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)


def sync(descriptor: int) -> None:
    """Wait until the bytes of an open file are on the disk.

    Raises:
        OSError: They are not. What the system still holds of them may be lost, whatever a later
            call says.
    """
    if sys.platform == "darwin":
        # There fsync ends at the drive's own cache.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in _NO_SUCH_THING:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until what was created, renamed or removed in a folder is so on the disk.

    Raises:
        OSError: It is not.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are not there.

    Raises:
        OSError: It cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # somebody else was first
        folder.mkdir()
    sync_folder(folder.parent)


def write(descriptor: int, data: bytes) -> None:
    """Write all of some bytes at the end of an open file.

    Raises:
        OSError: Only a part of them was taken, or none.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
