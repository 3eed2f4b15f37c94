"""Writing a finished cassette: one canonical file, put in its place in one step."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from swarm_repro.cassette import disk
from swarm_repro.cassette.archive import is_archive, pack
from swarm_repro.cassette.call_sets import digests_of, in_canonical_order
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.reader import Cassette, text_of
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.runs import to_ranges
from swarm_repro.cassette.scan import call_digest
from swarm_repro.cassette.table import DIGEST_BYTES, Table
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
    calls = _Calls(cassette)
    witnesses = {
        env: ids
        for env, ids in cassette.witnesses.items()
        if any(call_id in cassette.calls for call_id in ids)
    }
    # Witnesses last, so that a new one moves no call's place of its environment.
    used_envs = [*sorted(calls.envs), *sorted(witnesses.keys() - calls.envs)]
    places = {sha256: place for place, sha256 in enumerate(used_envs)}
    yield encode_line(cassette.header.to_json())
    for name in sorted(calls.models):
        yield encode_model(cassette.models[name])
    for sha256 in used_envs:
        yield encode_environment(cassette.envs[sha256])
    written, positions = Table(""), Table("")
    for call in calls.in_order():
        for digest in call.text_digests:
            if written.add(bytes.fromhex(digest)[:DIGEST_BYTES]):
                yield encode_text(text_of(cassette.path, call, digest))
        positions.add(call_digest(call.id))
        yield encode_line(call.to_json(env=places[call.env], format=cassette.header.format))
    for run in sorted(cassette.runs, key=lambda run: tuple(map(str, run.id))):
        used = list(_positions_of(run.calls, positions))
        if len(used) != len(run.calls):
            raise ValueError(f"the run of {run.scenario} uses calls that are not in the cassette")
        yield encode_line(run.to_json(used))
    for env in sorted(witnesses):
        yield encode_line(
            {
                "record": "witness",
                "env": places[env],
                "calls": to_ranges(_positions_of(witnesses[env], positions)),
            }
        )


def _positions_of(ids: Set[CallId], positions: Table) -> Iterator[int]:
    """Where calls are among those that were written; of those that were not, nothing."""
    for digest in digests_of(ids):
        position = positions.find(digest)
        if position is not None:
            yield position


class _Calls:
    """The calls to write, gone through as often as needed rather than kept.

    Attributes:
        models: Names of the models they refer to.
        envs: SHA-256 of the environments they were recorded in.
    """

    def __init__(self, cassette: Cassette) -> None:
        self._calls: Iterable[CallRecord] = cassette.calls.values()
        self.models: set[str] = set()
        self.envs: set[str] = set()
        is_in_order = True
        last: tuple[object, ...] = ()
        for call in self._calls:
            self.models.add(call.model)
            self.envs.add(call.env)
            is_in_order = is_in_order and last <= call.order
            last = call.order
        if not is_in_order:
            self._calls = sorted(self._calls, key=in_canonical_order)

    def in_order(self) -> Iterator[CallRecord]:
        """By (at, scope, i)."""
        return iter(self._calls)


def write_cassette(cassette: Cassette, path: Path) -> None:
    """Write the canonical file beside its place, sync it, and put it there in one step.

    Args:
        cassette: What to write.
        path: Where to; ``.zst`` is written compressed.

    Raises:
        CassetteAccessError: The folder is not writable or the disk is full; a file that was there
            before is untouched. Or it was written, and may be lost in a power failure.
    """
    temporary: str | None = None
    is_in_place = False
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
        is_in_place = True
        disk.sync_folder(path.parent)
    except OSError as error:
        why = error.strerror or error
        raise CassetteAccessError(
            f"{path} was written but could not be flushed to disk ({why}); it may be lost in a "
            "power failure. Check the disk and write it again"
            if is_in_place
            else f"{path} cannot be written: {why}; it is as it was before"
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
