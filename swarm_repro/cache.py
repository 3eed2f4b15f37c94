"""The machine-wide cache: what a model answered to a seeded request, whichever cassette asked.

Kept with diskcache (SQLite), as bytes and nothing else: a store that was tampered with can give no
object, no file and no wrong answer, only a miss. Nothing is dropped until it is asked to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from swarm_repro.cachedir import cache_folder
from swarm_repro.canonical import encode_json
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteAccessError, UsageError

#: Most bytes that the cache may take; what was used least recently is dropped at a session's end.
LIMIT_VARIABLE: Final = "SWARM_REPRO_CACHE_LIMIT"
_LIMIT: Final = 4 << 30

#: All rows, and what is the same in each that was written here.
_ROWS: Final = (
    "SELECT rowid, CAST(key AS BLOB), raw, mode, filename, typeof(key), typeof(value) FROM Cache"
)
_DIGEST_BYTES: Final = 32
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Every answer is kept in the database: no name of a file is ever taken from it.
_NO_FILES: Final = 1 << 62
#: How long one process waits for another that writes, in seconds.
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True)
class CacheStats:
    """What the cache holds.

    Attributes:
        folder: Where it is.
        answers: How many.
        size: In bytes.
        limit: Most bytes.
    """

    folder: Path
    answers: int
    size: int
    limit: int


class AnswerCache:
    """Answers by sent key and environment, shared by all processes of a user."""

    def __init__(self, *, limit: int | None = None) -> None:
        """Name the cache; nothing is opened before it is asked.

        Args:
            limit: Most bytes; None takes ``SWARM_REPRO_CACHE_LIMIT``, or 4 GiB.

        Raises:
            UsageError: The variable is no size.
        """
        self.folder = cache_folder("answers")
        self.limit = limit if limit is not None else _limit()
        #: The first thing that went wrong; the cache is as good as empty then.
        self.trouble: str | None = None
        self._cache: Any = None
        self._lock = threading.Lock()

    def get(self, sent_key: str, environment: str) -> tuple[Completion, str | None] | None:
        """What was answered to a request, and the digest of its rendered prompt; else None.

        Args:
            sent_key: Key of the request with its seed.
            environment: SHA-256 of the environment it would be answered in.
        """
        key = _key(sent_key, environment)
        with self._suppressed(), self._leaving_no_connection():
            stored = self._opened().get(key)
            if stored is None:
                return None
            found = _decoded(key, stored)
            if found is None:
                # Not by the library, which would remove the file that a row names.
                self._opened()._sql("DELETE FROM Cache WHERE key = ?", (key,))
                self._note("an answer in it is not what was written")
            return found
        return None

    def put(
        self, sent_key: str, environment: str, completion: Completion, prompt_sha256: str | None
    ) -> None:
        """Keep an answer.

        Args:
            sent_key: As for ``get``.
            environment: As for ``get``.
            completion: What was answered.
            prompt_sha256: Digest of the rendered prompt.
        """
        key = _key(sent_key, environment)
        with self._suppressed(), self._leaving_no_connection():
            self._opened().set(key, _encoded(key, completion, prompt_sha256))

    def trim(self) -> int:
        """Drop what was used least recently until the limit is kept.

        Returns:
            How many answers were dropped.
        """
        with self._suppressed():
            return 0 if self._cache is None else int(self._cache.cull())
        return 0

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._cache is not None:
                self._cache.close()
                self._cache = None

    def stats(self) -> CacheStats:
        """What it holds.

        Raises:
            CassetteAccessError: It is damaged, or cannot be read.
        """
        with self._said():
            cache = self._opened()
            return CacheStats(self.folder, len(cache), int(cache.volume()), self.limit)

    def check(self) -> tuple[int, int]:
        """Look at every answer, and remove those that are not what was written.

        Returns:
            How many are whole, and how many were removed.

        Raises:
            CassetteAccessError: The database itself is damaged, or cannot be read.
        """
        with self._said():
            sql = self._opened()._sql
            ((state,),) = sql("PRAGMA integrity_check(1)").fetchall()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            count = removed = 0
            for row, *content in sql(_ROWS).fetchall():
                count += 1
                if not _is_whole(sql, row, *content):
                    sql("DELETE FROM Cache WHERE rowid = ?", (row,))
                    removed += 1
        return count - removed, removed

    def clear(self) -> None:
        """Remove all of it, damaged or not.

        Raises:
            CassetteAccessError: It cannot be removed.
        """
        self.close()
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise CassetteAccessError(
                f"{self.folder} cannot be removed: {error.strerror}"
            ) from error

    def _opened(self) -> Any:
        with self._lock:
            if self._cache is None:
                import diskcache

                cache = diskcache.Cache.__new__(diskcache.Cache)
                with _closing_what_failed(cache):
                    cache.__init__(
                        str(self.folder),
                        timeout=_PATIENCE_S,
                        disk=_bytes_disk(),
                        disk_min_file_size=_NO_FILES,
                        size_limit=self.limit,
                        cull_limit=0,  # nothing is dropped in passing
                        eviction_policy="least-recently-used",
                    )
                self._cache = cache
            return self._cache

    def _note(self, why: str) -> None:
        self.trouble = self.trouble or f"the cache {self.folder}: {why}"

    @contextlib.contextmanager
    def _suppressed(self) -> Iterator[None]:
        """A cache that fails is a cache that holds nothing; that is noted."""
        try:
            yield
        except _failures() as error:
            self._note(f"{_shown(error)}; see swarm-repro cache check, or cache clear")

    @contextlib.contextmanager
    def _leaving_no_connection(self) -> Iterator[None]:
        """Close a worker thread's connection: no other thread may, once that thread has ended."""
        try:
            yield
        finally:
            cache = self._cache
            if cache is not None and threading.current_thread() is not threading.main_thread():
                cache.close()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except _failures() as error:
            raise CassetteAccessError(
                f"the cache {self.folder} cannot be read: {_shown(error)}; "
                "remove it with swarm-repro cache clear"
            ) from error


@contextlib.contextmanager
def _closing_what_failed(cache: Any) -> Iterator[None]:
    """Close the connection that a constructor leaves open where it fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(AttributeError):  # it failed before there was one
            cache.close()
        raise


def _failures() -> tuple[type[Exception], ...]:
    import diskcache

    # Settings in a database that was tampered with end in a TypeError or an AttributeError.
    return (sqlite3.Error, diskcache.Timeout, OSError, TypeError, AttributeError, ValueError)


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__


def _bytes_disk() -> type:
    import diskcache

    class BytesDisk(diskcache.Disk):  # type: ignore[misc]
        """Keys and values as bytes in the database: no pickles, no files."""

        def put(self, key: object) -> tuple[object, bool]:
            if type(key) is not bytes:
                raise TypeError("a key that is no bytes")
            return super().put(key)  # type: ignore[no-any-return]

        def get(self, key: object, raw: bool) -> bytes:
            if not raw or type(key) is not bytes:
                raise ValueError("a key that is no bytes")
            return key

        def store(self, value: object, read: bool, key: object = None) -> tuple[object, ...]:
            if type(value) is not bytes or read:
                raise TypeError("a value that is no bytes")
            return super().store(value, read, key)  # type: ignore[no-any-return]

        def fetch(self, mode: int, filename: object, value: object, read: bool) -> bytes:
            if mode != diskcache.core.MODE_RAW or filename or read or type(value) is not bytes:
                raise ValueError("a value that is no bytes")
            return value

        def remove(self, file_path: object) -> None:
            raise ValueError(f"a file that is none of ours: {file_path}")

    return BytesDisk


def _key(sent_key: str, environment: str) -> bytes:
    return f"{sent_key} {environment}".encode()


def _encoded(key: bytes, completion: Completion, prompt_sha256: str | None) -> bytes:
    head = encode_json(
        {
            "status": completion.status,
            "type": completion.content_type,
            "duration_s": completion.duration_s,
            "prompt_sha256": prompt_sha256,
        }
    )
    content = head + b"\n" + completion.body
    return hashlib.sha256(key + content).digest() + content


def _decoded(key: bytes, stored: object) -> tuple[Completion, str | None] | None:
    """An answer; None where it is not what was written for this key."""
    if type(stored) is not bytes:
        return None
    content = stored[_DIGEST_BYTES:]
    if hashlib.sha256(key + content).digest() != stored[:_DIGEST_BYTES]:
        return None
    head, _, body = content.partition(b"\n")
    known = orjson.loads(head)
    completion = Completion(known["status"], known["type"], body, duration_s=known["duration_s"])
    return completion, known["prompt_sha256"]


def _is_whole(sql: Any, row: int, key: bytes, *as_kept: object) -> bool:
    if as_kept != (1, 1, None, "blob", "blob"):
        return False
    ((value,),) = sql("SELECT value FROM Cache WHERE rowid = ?", (row,)).fetchall()
    return _decoded(key, value) is not None


def _limit() -> int:
    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        return _LIMIT
    size = re.fullmatch(r"(\d+)([KMG]?)", given)
    if size is None:
        raise UsageError(f"{LIMIT_VARIABLE} is {given!r}; give a size such as 500M or 4G")
    return int(size.group(1)) * _UNITS[size.group(2)]
