"""Writing: an append-only ``.part`` while calls come in, one canonical file at a clean end."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from swarm_repro.cassette.archive import is_archive, pack
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.reader import Cassette
from swarm_repro.cassette.records import CallId, CallRecord, Header, to_ranges
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError
from swarm_repro.model import ModelBinding


class PartWriter:
    """Appends the records of a running recording; each call is synced before it counts as kept."""

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        resume: Cassette | None,
        length: int,
        run: tuple[object, ...] | None = None,
    ) -> None:
        """Open a ``.part`` file.

        Args:
            path: The file.
            header: First record of a new file.
            resume: What an interrupted recording left in it, or None to begin anew.
            length: Length of what is whole in it, in bytes.
            run: The run that is recorded (``RunRecord.id``), noted in a new file.

        Raises:
            CassetteAccessError: It exists though nothing is resumed, or cannot be written.
        """
        self._path = path
        self._texts = set(resume.texts) if resume else set()
        self._models = set(resume.models) if resume else set()
        self._envs = {sha256: place for place, sha256 in enumerate(resume.envs)} if resume else {}
        try:
            if resume is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if resume else "xb", buffering=0)
            lock_part(self._file, path)
            if resume is None:
                first = header.to_json()
                self._append([encode_line(first if run is None else {**first, "run": list(run)})])
            else:
                # A torn last line is no record: the next one begins where it began.
                self._file.truncate(length)
                self._file.seek(length)
        except OSError as error:
            raise CassetteAccessError(f"{path} cannot be written: {error.strerror}") from error

    def append(self, call: CallRecord, binding: ModelBinding, environment: Environment) -> None:
        """Write a call, after the model, environment and texts it refers to.

        Raises:
            CassetteAccessError: The disk is full or failing. What was written before stays whole.
        """
        lines: list[bytes] = []
        if binding.name not in self._models:
            lines.append(encode_model(binding))
        place = self._envs.get(environment.sha256, len(self._envs))
        if place == len(self._envs):
            lines.append(encode_environment(environment))
        new_texts = [digest for digest in call.text_digests if digest not in self._texts]
        lines.extend(encode_text(call.texts[digest]) for digest in new_texts)
        lines.append(encode_line(call.to_json(env=place)))
        self._append(lines)
        self._models.add(binding.name)
        self._envs[environment.sha256] = place
        self._texts.update(new_texts)

    def close(self) -> None:
        """Close the file; what is in it stays for ``--auto``."""
        self._file.close()

    def _append(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        start = self._file.tell()
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(None, f"only {written} of {len(data)} bytes were taken")
            os.fsync(self._file.fileno())
        except OSError as error:
            # Take back the torn tail where the disk still lets us; a reader drops it anyway.
            with contextlib.suppress(OSError):
                self._file.truncate(start)
                self._file.seek(start)
            raise CassetteAccessError(
                f"{self._path} cannot be written: {error.strerror or error}; "
                "free some space and go on with --auto"
            ) from error


def lock_part(file: IO[bytes], path: Path) -> None:
    """Keep other recordings of the same cassette out until the file is closed.

    Raises:
        CassetteAccessError: Another process is recording it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CassetteAccessError(
            f"another process is recording {path.name.removesuffix('.part')}; wait for its end"
        ) from error


def encode_model(binding: ModelBinding) -> bytes:
    """A ``model`` record as a line."""
    return encode_line({"record": "model", **binding.to_json()})


def encode_environment(environment: Environment) -> bytes:
    """An ``env`` record as a line."""
    return encode_line(
        {"record": "env", "sha256": environment.sha256, "content": dict(environment.content)}
    )


def encode_text(text: str) -> bytes:
    """A ``text`` record as a line; its digest follows from it."""
    return encode_line({"record": "text", "text": text})


def canonical_lines(cassette: Cassette) -> Iterator[bytes]:
    """The lines of the canonical file.

    Header, models, environments, calls by (at, scope, i), each after the texts it uses first,
    runs, witnesses, end. Models and environments nothing refers to are left out; environments that
    are only witnesses follow the others.
    """
    digest = hashlib.sha256()
    count = 0
    for line in _lines_before_end(cassette):
        digest.update(line)
        count += 1
        yield line
    yield encode_line({"record": "end", "records": count, "sha256": digest.hexdigest()})


def _lines_before_end(cassette: Cassette) -> Iterator[bytes]:
    calls = sorted(cassette.calls.values(), key=lambda call: call.order)
    positions: dict[CallId, int] = {call.id: place for place, call in enumerate(calls)}
    witnesses = {
        env: known for env, ids in cassette.witnesses.items() if (known := ids & positions.keys())
    }
    used_models = {call.model for call in calls}
    recorded_in = {call.env for call in calls}
    # Witnesses last, so that a new one moves no call's place of its environment.
    used_envs = [*sorted(recorded_in), *sorted(witnesses.keys() - recorded_in)]
    places = {sha256: place for place, sha256 in enumerate(used_envs)}
    yield encode_line(cassette.header.to_json())
    for name in sorted(used_models):
        yield encode_model(cassette.models[name])
    for sha256 in used_envs:
        yield encode_environment(cassette.envs[sha256])
    written: set[str] = set()
    for call in calls:
        for digest in call.text_digests:
            if digest not in written:
                written.add(digest)
                yield encode_text(call.texts[digest])
        yield encode_line(call.to_json(env=places[call.env]))
    for run in sorted(cassette.runs, key=lambda run: tuple(map(str, run.id))):
        yield encode_line(run.to_json(positions))
    for env in sorted(witnesses):
        yield encode_line(
            {
                "record": "witness",
                "env": places[env],
                "calls": to_ranges(positions[call] for call in witnesses[env]),
            }
        )


def write_cassette(cassette: Cassette, path: Path) -> None:
    """Write the canonical file beside its place, sync it, and put it there in one step.

    Args:
        cassette: What to write.
        path: Where to; ``.zst`` is written compressed.

    Raises:
        CassetteAccessError: The folder is not writable or the disk is full; a file that was there
            before is untouched.
    """
    temporary: str | None = None
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if is_archive(path):
                pack(canonical_lines(cassette), file)
            else:
                file.writelines(canonical_lines(cassette))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode_for(path))
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CassetteAccessError(
            f"{path} cannot be written: {error.strerror or error}; it is as it was before"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _mode_for(path: Path) -> int:
    """The permissions of the file that is replaced, or those a new file would get."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
