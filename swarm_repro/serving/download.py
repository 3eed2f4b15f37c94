"""Fetching a file over HTTP: resumable, and never believed before its digest is checked.

What has come so far lies beside the target as ``<name>.partial``, with the server's validator in
``<name>.partial.etag``, so that a file which changed meanwhile is not sewn together from two.
Source: RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range) and 15.3.7 (206).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Final, cast
from urllib.parse import urlsplit

from swarm_repro.errors import (
    BackendResponseError,
    BackendUnreachableError,
    ModelFileError,
    UsageError,
)
from swarm_repro.serving.models import Progress
from swarm_repro.weights import hash_file

_CHUNK_BYTES: Final = 256 * 1024
#: Seconds a server may be silent.
_SILENCE_LIMIT_S: Final = 60.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
#: Hugging Face names the digest of a large file here, in its answer before the redirect.
_LINKED_ETAG: Final = "X-Linked-Etag"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file whose digest was checked.

    Attributes:
        path: Where it is.
        sha256: Its digest, 64 hexadecimal digits.
        digest_source: Who vouches for the digest.
        was_there: Whether the right file was there already.
    """

    path: Path
    sha256: str
    digest_source: str
    was_there: bool


def parse_sha256(text: str) -> str:
    """Read a SHA-256 as a user wrote it.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        UsageError: it is none.
    """
    digest = text.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(digest):
        raise UsageError(f"{text!r} is no SHA-256; give its 64 hexadecimal digits")
    return digest


def fetch_url(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    digest_source: str = "given",
    progress: Progress | None = None,
) -> Fetched:
    """Download a GGUF, going on from what an earlier try left.

    Args:
        url: Where it is, http or https.
        target: Where it goes; its folder must exist.
        sha256: Its digest; None to take the one the server names in ``X-Linked-Etag``.
        digest_source: Who vouches for ``sha256``.
        progress: Called as bytes come, with those there and those there will be.

    Returns:
        The file, checked.

    Raises:
        UsageError: a URL that is not http(s), no digest to check against, a full disk, a folder
            that cannot be written, another download of the same file.
        ModelFileError: a file that is there but is another one, or one whose digest is wrong.
        BackendUnreachableError: no connection, or one that was cut.
        BackendResponseError: the server has no such file.
    """
    require_http(url)
    if sha256 is not None and target.exists():
        return require_same(target, sha256, digest_source, progress)
    with claim_partial(target) as (partial, stream):
        validator = partial.with_name(partial.name + ".etag")
        have_bytes = stream.seek(0, os.SEEK_END)
        answer = _ask(url, have_bytes, _read_validator(validator))
        with answer.response or nullcontext():
            if sha256 is None:
                sha256, digest_source = _linked_sha256(url, answer.linked_etag)
                if target.exists():
                    return require_same(target, sha256, digest_source, progress)
            if answer.response is not None:
                _receive(answer.response, stream, target, validator, progress)
        validator.unlink(missing_ok=True)
        accept_partial(partial, target, sha256, digest_source)
    return Fetched(path=target, sha256=sha256, digest_source=digest_source, was_there=False)


def require_http(url: str) -> None:
    """Make sure that a URL can be downloaded.

    Raises:
        UsageError: it is not http or https, has no host, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL") from error
    if secret:
        raise UsageError("a URL with a user name or password in it is not downloaded")
    if not usable or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is no http(s) URL of a file")


def require_same(
    target: Path, sha256: str, digest_source: str, progress: Progress | None
) -> Fetched:
    """Accept a file that is there already, if it is the right one.

    Raises:
        ModelFileError: it is another file, or no file.
    """
    found = hash_file(target, progress=_from_start(target, progress))
    if found != sha256:
        raise ModelFileError(
            f"{target} is there already, but is another file: SHA-256 {found}, wanted {sha256}"
            f" ({digest_source}); move it away, or give another --folder"
        )
    return Fetched(path=target, sha256=sha256, digest_source=digest_source, was_there=True)


@contextmanager
def claim_partial(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open a target's partial file for this process alone, keeping what is in it.

    Yields:
        Its path, and its stream, open for reading and writing.

    Raises:
        UsageError: another process has it, the folder cannot be written, or the disk is full.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        stream = partial.open("ab+")
    except OSError as error:
        raise UsageError(f"cannot write {partial}: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another download is writing {partial}; wait for it to end"
            ) from error
        try:
            yield partial, stream
        finally:
            if partial.exists() and partial.stat().st_size == 0:
                partial.unlink()


def write_chunk(stream: IO[bytes], chunk: bytes, target: Path) -> None:
    """Write, and say so where there is no room.

    Raises:
        UsageError: the disk is full, or cannot be written.
    """
    try:
        stream.write(chunk)
        stream.flush()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise no_room(target) from error
        raise UsageError(f"cannot write {target}: {error.strerror}") from error


def no_room(target: Path, *, needed_bytes: int | None = None) -> UsageError:
    """The error for a disk that cannot hold a file."""
    free_bytes = shutil.disk_usage(target.parent).free
    wanted = "" if needed_bytes is None else f"{needed_bytes / 1e9:.2f} GB are wanted, "
    return UsageError(
        f"no room for {target.name} in {target.parent}: {wanted}{free_bytes / 1e9:.2f} GB are"
        " free; make room and run the same command again, or give another --folder"
    )


def accept_partial(partial: Path, target: Path, sha256: str, digest_source: str) -> None:
    """Give a complete partial file its name, if it is what it should be.

    Raises:
        ModelFileError: its digest is wrong, or it is not GGUF; it is removed.
    """
    size_bytes = partial.stat().st_size
    try:
        found = hash_file(partial)
    except ModelFileError:
        partial.unlink()
        raise
    if found != sha256:
        partial.unlink()
        raise ModelFileError(
            f"what came for {target.name} is not the file: {size_bytes} bytes with SHA-256 {found},"
            f" wanted {sha256} ({digest_source}); it was removed, run the same command again or"
            " check the digest"
        )
    partial.replace(target)


def _from_start(path: Path, progress: Progress | None) -> Callable[[int], None] | None:
    """Turn steps through a file into bytes done and bytes in all."""
    if progress is None:
        return None
    show = progress
    total_bytes = path.stat().st_size
    done_bytes = 0

    def step(step_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += step_bytes
        show(done_bytes, total_bytes)

    return step


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, remembers the digest named on the way, and refuses to lose https."""

    def __init__(self) -> None:
        self.linked_etag: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.linked_etag = self.linked_etag or headers.get(_LINKED_ETAG)
        if req.type == "https" and not newurl.startswith("https:"):
            raise BackendUnreachableError(
                f"{_host(req.full_url)} redirects from https to {newurl.split(':')[0]}, which is"
                " not followed; give another --url"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a server has to say; no response where everything is there already."""

    response: HTTPResponse | None
    linked_etag: str | None


def _ask(url: str, have_bytes: int, validator: str | None) -> _Answer:
    """Ask for a file, or for the rest of it."""
    headers = {"User-Agent": "swarm-repro", "Accept-Encoding": "identity"}
    if have_bytes:
        headers["Range"] = f"bytes={have_bytes}-"
        if validator is not None:
            headers["If-Range"] = validator
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - require_http came first
    try:
        opened = urllib.request.build_opener(redirects).open(request, timeout=_SILENCE_LIMIT_S)
    except urllib.error.HTTPError as error:
        with error:
            linked = redirects.linked_etag or error.headers.get(_LINKED_ETAG)
            if error.code == 416 and have_bytes:
                if error.headers.get("Content-Range") == f"bytes */{have_bytes}":
                    return _Answer(response=None, linked_etag=linked)
                # More is there than the file has: it is of another file.
                return _ask(url, 0, None)
            raise BackendResponseError(
                f"{_host(url)} answers {error.code} {error.reason} for {url}; check the URL",
                status=error.code,
            ) from error
    except urllib.error.URLError as error:
        raise BackendUnreachableError(f"cannot reach {_host(url)}: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise BackendUnreachableError(f"cannot reach {_host(url)}: {error!r}") from error
    response = cast(HTTPResponse, opened)
    linked = redirects.linked_etag or response.headers.get(_LINKED_ETAG)
    return _Answer(response=response, linked_etag=linked)


def _receive(
    response: HTTPResponse,
    stream: IO[bytes],
    target: Path,
    validator: Path,
    progress: Progress | None,
) -> None:
    """Append what comes, or start anew where the server sends the whole file."""
    have_bytes = _start_of(response)
    if have_bytes is not None and have_bytes != stream.tell():
        raise BackendResponseError(
            f"asked for bytes from {stream.tell()} on, the server sent those from {have_bytes} on;"
            f" remove {target.name}.partial and run the same command again",
            status=response.status,
        )
    if have_bytes is None:
        stream.truncate(0)
        stream.seek(0)
        have_bytes = 0
    length = response.headers.get("Content-Length", "")
    total_bytes = have_bytes + int(length) if length.isdecimal() else None
    if total_bytes is not None:
        needed_bytes = total_bytes - have_bytes
        if needed_bytes > shutil.disk_usage(target.parent).free:
            raise no_room(target, needed_bytes=needed_bytes)
    _write_validator(validator, response)
    cause: Exception | None = None
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            cause = error
            break
        if not chunk:
            break
        write_chunk(stream, chunk, target)
        have_bytes += len(chunk)
        if progress is not None:
            progress(have_bytes, total_bytes)
    if cause is not None or (total_bytes is not None and have_bytes < total_bytes):
        whole = "" if total_bytes is None else f" of {total_bytes}"
        raise BackendUnreachableError(
            f"the download of {target.name} was cut after {have_bytes}{whole} bytes; run the same"
            " command again to go on from there"
        ) from cause


def _start_of(response: HTTPResponse) -> int | None:
    """Where a partial answer begins; None for a whole file."""
    if response.status == 200:
        return None
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status != 206 or match is None:
        raise BackendResponseError(
            f"the server answers {response.status}, which is no file; check the URL",
            status=response.status,
        )
    return int(match[1])


def _linked_sha256(url: str, linked_etag: str | None) -> tuple[str, str]:
    digest = (linked_etag or "").strip('"').lower()
    if not _SHA256.fullmatch(digest):
        raise UsageError(
            f"{_host(url)} does not say which SHA-256 the file has, and nothing unchecked is kept;"
            " give it with --sha256 (Hugging Face shows it on the file's page)"
        )
    return digest, f"{_LINKED_ETAG} of {_host(url)}"


def _read_validator(path: Path) -> str | None:
    try:
        text = path.read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if _STRONG_ETAG.fullmatch(text) else None


def _write_validator(path: Path, response: HTTPResponse) -> None:
    etag = response.headers.get("ETag", "")
    if not _STRONG_ETAG.fullmatch(etag):
        path.unlink(missing_ok=True)
        return
    with path.open("wb") as stream:
        write_chunk(stream, etag.encode("ascii"), path)


def _host(url: str) -> str:
    return urlsplit(url).netloc
