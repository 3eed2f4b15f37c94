"""Archives, ``.jsonl.zst``: a cassette compressed, unpacked once into the user's cache directory.

What is read is always the plain file, so that an archive is checked as every cassette is. The
plain file is named by the SHA-256 of the archive and by its own, and is believed only if it has it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from swarm_repro.cachedir import CACHE_VARIABLE, cache_folder
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, UsageError

SUFFIX: Final = ".zst"
#: Most bytes that an archive may unpack to.
LIMIT_VARIABLE: Final = "SWARM_REPRO_UNPACK_LIMIT"

#: How a zstd frame begins.
MAGIC: Final = b"\x28\xb5\x2f\xfd"
#: How the file begins that stands for one which git keeps elsewhere.
LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"

_LIMIT: Final = 8 << 30
#: Archives are written once and read often.
_LEVEL: Final = 19
#: Most memory that unpacking takes; a window that needs more is refused.
_MOST_WINDOW: Final = 1 << 27
_CHUNK: Final = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a cassette is compressed.

    By its name; by its first bytes where it has a name that says neither, as for a merge by git.
    """
    if path.suffix in (SUFFIX, ".jsonl", ".part") or not path.is_file():
        return path.suffix == SUFFIX
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # who reads it says why it cannot be read


def pack(lines: Iterable[bytes], file: BinaryIO) -> None:
    """Write the lines of a cassette compressed; the same lines always give the same bytes.

    Args:
        lines: Line feeds included.
        file: Open for writing.
    """
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with compressor.stream_writer(file, closefd=False) as writer:
        for line in lines:
            writer.write(line)


def unpacked(path: Path) -> Path:
    """The plain file of an archive; unpacked if it is not in the cache, or not what it was.

    Args:
        path: The archive.

    Raises:
        CassetteDamagedError: Not an archive, or a damaged one.
        CassetteAccessError: It unpacks to more than the limit, or the cache cannot be written.
        OSError: It cannot be read.
    """
    with path.open("rb") as archive:
        digest = _sha256(archive)
        folder = cache_folder("archives")
        for known in sorted(folder.glob(f"{digest}.*.jsonl")):
            with known.open("rb") as plain:
                if known.name == _name(digest, _sha256(plain)):
                    return known
            known.unlink()
        archive.seek(0)
        return _unpack(path, archive, folder, digest)


def _unpack(path: Path, archive: BinaryIO, folder: Path, digest: str) -> Path:
    limit = unpack_limit()
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".unpacking.", dir=folder)
        found = hashlib.sha256()
        size = 0
        with os.fdopen(handle, "wb") as plain:
            for chunk in _decompressed(path, archive):
                size += len(chunk)
                if size > limit:
                    raise CassetteAccessError(
                        f"{path} unpacks to more than {limit} bytes; if it is yours, raise "
                        f"{LIMIT_VARIABLE}"
                    )
                found.update(chunk)
                plain.write(chunk)
        if size == 0:
            raise CassetteDamagedError(path, "the archive is empty, or was cut off")
        target = folder / _name(digest, found.hexdigest())
        Path(temporary).replace(target)
    except OSError as error:
        raise CassetteAccessError(
            f"{path} cannot be unpacked into {folder}: {error.strerror or error}; name another "
            f"folder in {CACHE_VARIABLE}"
        ) from error
    else:
        return target
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _decompressed(path: Path, archive: BinaryIO) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
    reader = decompressor.stream_reader(archive, read_across_frames=True, closefd=False)
    try:
        while chunk := reader.read(_CHUNK):
            yield chunk
    except zstandard.ZstdError as error:
        archive.seek(0)
        why = (
            "this is a Git LFS pointer, not the archive; run: git lfs pull"
            if archive.read(len(LFS_POINTER)) == LFS_POINTER
            else f"not a zstd archive, or a damaged one: {error}"
        )
        raise CassetteDamagedError(path, why) from error


def unpack_limit() -> int:
    """Most bytes that anything is unpacked to: ``SWARM_REPRO_UNPACK_LIMIT``, or 8 GiB.

    Raises:
        UsageError: The variable is no number.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        return _LIMIT
    if not given.isdecimal():
        raise UsageError(f"{LIMIT_VARIABLE} is {given!r}; give a number of bytes")
    return int(given)


def _name(digest: str, plain: str) -> str:
    return f"{digest}.{plain[:16]}.jsonl"


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
