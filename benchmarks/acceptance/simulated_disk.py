"""A disk that loses its power: which bytes and names may be there afterwards.

What was written and not synced may be there or not, in any order, or in part. What was created,
renamed or removed in a folder that was not synced since likewise. Calls of ``os`` are watched while
they do their work, so that the program under trial is the real one.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

#: What a disk writes in one piece, in bytes.
SECTOR = 512


@dataclass
class _File:
    synced: bytes = b""
    #: Bytes with their place, or None with a length the file was cut to.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def now(self) -> bytes:
        return _apply(self.synced, self.pending)


def _apply(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    data = bytearray(content)
    for place, piece in changes:
        if piece is None:
            del data[place:]
            data.extend(bytes(place - len(data)))
            continue
        data.extend(bytes(max(0, place - len(data))))
        data[place : place + len(piece)] = piece
    return bytes(data)


@dataclass
class Moment:
    """The disk after one operation.

    Attributes:
        what: The operation.
        noted: What ``SimulatedDisk.note`` was told until then.
    """

    what: str
    noted: int
    _synced_names: dict[str, int]
    _pending_names: list[tuple[str, int | None]]
    _files: dict[int, _File]

    def after_power_loss(self, folder: Path, chance: random.Random) -> None:
        """Write into a folder what may be there after the power came back."""
        names = dict(self._synced_names)
        for name, file in self._pending_names:
            if chance.random() < 0.5:
                _rename(names, name, file)
        for name, number in names.items():
            known = self._files[number]
            changes = [
                part for change in known.pending if (part := _torn(change, chance)) is not None
            ]
            (folder / name).write_bytes(_apply(known.synced, changes))


def _torn(
    change: tuple[int, bytes | None], chance: random.Random
) -> tuple[int, bytes | None] | None:
    fate = chance.randrange(4)
    place, piece = change
    if fate == 0:
        return None
    if piece is None or fate == 1:
        return change
    sectors = [piece[at : at + SECTOR] for at in range(0, len(piece), SECTOR)]
    if fate == 2:  # up to some byte
        return place, piece[: chance.randrange(len(piece) + 1)]
    # Some sectors are there, some are not, and what is not there reads as zeros.
    return place, b"".join(one if chance.random() < 0.5 else bytes(len(one)) for one in sectors)


def _rename(names: dict[str, int], name: str, file: int | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


class SimulatedDisk:
    """Watches the files of one folder.

    Attributes:
        moments: The disk after each operation.
        lock: Held while an operation is done and noted.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with what is in the folder, all of it on the disk."""
        self.moments: list[Moment] = []
        self._folder = folder
        self.lock = threading.RLock()
        self._noted = 0
        self._files: dict[int, _File] = {}
        self._synced_names: dict[str, int] = {}
        self._pending_names: list[tuple[str, int | None]] = []
        #: Open files, and the folder, by descriptor.
        self._descriptors: dict[int, _File | None] = {}
        for path in folder.iterdir():
            self._synced_names[path.name] = self._add(path.read_bytes())

    def note(self) -> None:
        """Count something that must not be lost from here on."""
        with self.lock:
            self._noted += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the block."""
        with contextlib.ExitStack() as stack:
            for name, watched in self._watched().items():
                stack.enter_context(patch.object(os, name, watched))
            yield

    def _watched(self) -> dict[str, Callable[..., Any]]:
        do_open, do_close, do_write, do_cut = os.open, os.close, os.write, os.ftruncate
        do_sync, do_remove, do_replace = os.fsync, os.unlink, os.replace

        def open_(path: Any, *args: Any, **kwargs: Any) -> int:
            with self.lock:
                descriptor = do_open(path, *args, **kwargs)
                self._opened(path, descriptor)
                return descriptor

        def close(descriptor: int) -> None:
            with self.lock:
                self._descriptors.pop(descriptor, None)
                do_close(descriptor)

        def write(descriptor: int, data: Any) -> int:
            with self.lock:
                file = self._descriptors.get(descriptor)
                taken = do_write(descriptor, data)
                if file is not None:
                    # All that is watched appends.
                    file.pending.append((len(file.now()), bytes(data[:taken])))
                    self._did("write")
                return taken

        def cut(descriptor: int, length: int) -> None:
            with self.lock:
                do_cut(descriptor, length)
                file = self._descriptors[descriptor]
                if file is not None:
                    file.pending.append((length, None))
                    self._did("cut")

        def sync(descriptor: int) -> None:
            with self.lock:
                file = self._descriptors.get(descriptor)
                is_folder = file is None and descriptor in self._descriptors
                content = b"" if file is None else file.now()
                count = len(self._pending_names if file is None else file.pending)
            do_sync(descriptor)  # others may write meanwhile
            with self.lock:
                if is_folder:
                    for name, number in self._pending_names[:count]:
                        _rename(self._synced_names, name, number)
                    del self._pending_names[:count]
                elif file is not None:
                    file.synced = content
                    del file.pending[:count]
                self._did("sync")

        def remove(path: Any, **kwargs: Any) -> None:
            with self.lock:
                do_remove(path, **kwargs)
                if (name := self._name(path)) is not None:
                    self._pending_names.append((name, None))
                    self._did(f"remove {name}")

        def replace(source: Any, target: Any, **kwargs: Any) -> None:
            with self.lock:
                do_replace(source, target, **kwargs)
                old, new = self._name(source), self._name(target)
                if old is not None and new is not None:
                    number = self._names()[old]
                    self._pending_names += [(new, number), (old, None)]
                    self._did(f"rename {new}")

        def fdopen(descriptor: int, mode: str) -> io.BufferedWriter:
            return io.BufferedWriter(_Raw(descriptor))

        return {
            "open": open_,
            "close": close,
            "write": write,
            "ftruncate": cut,
            "fsync": sync,
            "unlink": remove,
            "replace": replace,
            "rename": replace,
            "fdopen": fdopen,
        }

    def _add(self, content: bytes) -> int:
        number = len(self._files)
        self._files[number] = _File(content)
        return number

    def _name(self, path: Any) -> str | None:
        path = Path(os.fsdecode(path))
        return path.name if path.parent == self._folder else None

    def _names(self) -> dict[str, int]:
        names = dict(self._synced_names)
        for name, file in self._pending_names:
            _rename(names, name, file)
        return names

    def _opened(self, path: Any, descriptor: int) -> None:
        if Path(os.fsdecode(path)) == self._folder:
            self._descriptors[descriptor] = None
        name = self._name(path)
        if name is None:
            return
        names = self._names()
        if name not in names:
            names[name] = self._add(b"")
            self._pending_names.append((name, names[name]))
            self._did(f"create {name}")
        self._descriptors[descriptor] = self._files[names[name]]

    def _did(self, what: str) -> None:
        files = {
            number: _File(file.synced, list(file.pending)) for number, file in self._files.items()
        }
        self.moments.append(
            Moment(what, self._noted, dict(self._synced_names), list(self._pending_names), files)
        )


class _Raw(io.RawIOBase):
    """A file whose writes are seen."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, bytes(data))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)
