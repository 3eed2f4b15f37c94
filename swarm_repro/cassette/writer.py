"""Writing a finished cassette: one canonical file, put in its place in one step."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from swarm_repro.cassette import disk
from swarm_repro.cassette.archive import is_archive, pack
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.reader import Cassette
from swarm_repro.cassette.records import CallId, to_ranges
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError
from swarm_repro.model import ModelBinding


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
        yield encode_line(call.to_json(env=places[call.env], format=cassette.header.format))
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
        disk.make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if is_archive(path):
                pack(canonical_lines(cassette), file)
            else:
                file.writelines(canonical_lines(cassette))
            file.flush()
            disk.sync(file.fileno())
        Path(temporary).chmod(_mode_for(path))
        Path(temporary).replace(path)
        disk.sync_folder(path.parent)
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
