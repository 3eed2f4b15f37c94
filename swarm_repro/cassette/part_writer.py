"""Appending to a ``.part``: batches of records, on the disk before anybody relies on them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import cast

from swarm_repro.canonical import text_sha256
from swarm_repro.cassette import disk
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.lines import LineError, decode_line, encode_line
from swarm_repro.cassette.part import Part, take_note
from swarm_repro.cassette.part_file import PartFile
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.writer import encode_environment, encode_model, encode_text
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError
from swarm_repro.model import ModelBinding, require_same_model


class PartWriter:
    """Appends the records of a running recording.

    Attributes:
        file: What it appends to.
    """

    def __init__(
        self,
        file: PartFile,
        header: Header,
        *,
        part: Part | None,
        takes_over: bool = True,
        run: tuple[object, ...] | None = None,
        replaces: str | None = None,
    ) -> None:
        """Begin to append, in a turn of the file.

        Args:
            file: The file.
            header: First record of a new file.
            part: What is whole in the file, or None to begin anew.
            takes_over: Whether those who came to no clean end are gone, and their calls this
                writer's; else they are recording now.
            run: The run that is recorded (``RunRecord.id``), noted in a new file.
            replaces: See ``Writer``.

        Raises:
            CassetteAccessError: It cannot be written.
        """
        self.file = file
        self._process = os.getpid()
        #: One thread at a time writes, one at a time waits for the disk.
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._broken: CassetteAccessError | None = None
        self._texts = set(part.cassette.texts) if part else set()
        self._models = dict(part.cassette.models) if part else {}
        self._envs = {sha: place for place, sha in enumerate(part.cassette.envs)} if part else {}
        self._writers = dict(part.writers) if part else {}
        self._number = max(self._writers, default=-1) + 1
        gone = [number for number, one in self._writers.items() if takes_over and not one.ended]
        for number in gone:
            self._writers[number].ended = True
        #: Calls of those who record at the same time.
        self._others = set(part.going_on()) if part else set()
        self._synced = self._noted = self._last = 0
        self._end = part.length if part else 0
        with self._failing():
            file.cut(self._end)
        lines = [self._note(number, state="ended") for number in gone]
        if part is None:
            first = header.to_json()
            lines.append(encode_line(first if run is None else {**first, "run": list(run)}))
        lines.append(self._note(self._number, state="began", replaces=replaces))
        self._write(lines)
        self.sync(self._end)
        with self._failing():
            disk.sync_folder(file.path.parent)

    def append(self, call: CallRecord, binding: ModelBinding, environment: Environment) -> int:
        """Write a call, after the model, environment and texts it refers to.

        Returns:
            What to hand to ``sync``, to know that it is on the disk.

        Raises:
            CassetteAccessError: The disk is full or failing; another process has recorded this
                call. What was written before stays whole.
            ModelConflictError: Another process records another model by this name.
        """
        self._require_own()
        with self._writing, self.turn():
            if self._broken is not None:
                raise self._broken
            self._catch_up()
            if call.id in self._others:
                raise CassetteAccessError(
                    f"another process has recorded this request of {call.scope} meanwhile (repeat "
                    f"{call.n}): give each process scopes of its own (scope_prefix)"
                )
            known = self._models.get(binding.name)
            if known is not None:
                require_same_model(known, binding)
            place = self._envs.get(environment.sha256, len(self._envs))
            texts = [digest for digest in call.text_digests if digest not in self._texts]
            lines: list[bytes] = []
            if self._last != self._number or self._noted != self._synced:
                lines.append(self._note(self._number))
            if known is None:
                lines.append(encode_model(binding))
            if place == len(self._envs):
                lines.append(encode_environment(environment))
            lines.extend(encode_text(call.texts[digest]) for digest in texts)
            lines.append(encode_line(call.to_json(env=place)))
            self._write(lines)
            self._models[binding.name] = binding
            self._envs[environment.sha256] = place
            self._texts.update(texts)
            return self._end

    def sync(self, end: int) -> None:
        """Wait until what was written is on the disk; who waits at once waits once.

        Args:
            end: What ``append`` gave.

        Raises:
            CassetteAccessError: It is not; nothing more is written then, since what the system
                says later of the lost bytes cannot be believed.
        """
        with self._syncing:
            if self._synced >= end:
                return
            if self._broken is not None:
                raise self._broken
            upto = self._end
            with self._failing():
                disk.sync(self.file.descriptor)
            self._synced = upto

    def finish(self) -> None:
        """Note a clean end for those who share the file, in a turn of it.

        Raises:
            CassetteAccessError: It cannot be written, or is not this process's.
        """
        self._require_own()
        if not self.file.shared:
            return
        with self._writing:
            self._catch_up()
            self._write([self._note(self._number, state="ended")])
        self.sync(self._end)

    def close(self) -> None:
        """Close the file; what is in it stays for ``--auto``."""
        with self._writing, self._syncing:
            self._broken = self._broken or CassetteAccessError(f"{self.file.path} is closed")
            self.file.close()

    def _require_own(self) -> None:
        if os.getpid() != self._process:
            raise CassetteAccessError(
                f"this process was forked from the one that records {self.file.path}: open the "
                "cassette in it, with shared=True in both"
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """As ``PartFile.turn``.

        Raises:
            CassetteAccessError: The lock cannot be had.
        """
        with contextlib.ExitStack() as stack:
            with self._failing():
                stack.enter_context(self.file.turn())
            yield

    def _note(self, number: int, **state: str | None) -> bytes:
        self._noted = self._synced
        known = {name: value for name, value in state.items() if value is not None}
        return encode_line({"record": "batch", "writer": number, "synced": self._synced, **known})

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            disk.write(self.file.descriptor, data)
        except OSError as error:
            # Take back the torn tail where the disk still lets us; a reader drops it anyway.
            with contextlib.suppress(OSError):
                self.file.cut(self._end)
            raise self._failure(error) from error
        self._end += len(data)
        self._last = self._number

    def _catch_up(self) -> None:
        """Take note of what others have appended, and cut off what one of them died over."""
        with self._failing():
            size = self.file.size()
            if size == self._end:
                return
            if size < self._end or not self.file.shared:
                raise CassetteAccessError(
                    f"{self.file.path} was changed by another program while it was being recorded"
                )
            data = os.pread(self.file.descriptor, size - self._end, self._end)
            for line in data.splitlines(keepends=True):
                try:
                    record = decode_line(line)
                except LineError:
                    break
                self._learn(record)
                self._end += len(line)
            self.file.cut(self._end)

    def _learn(self, record: Mapping[str, object]) -> None:
        kind = record["record"]
        if kind == "batch":
            self._last = take_note(record, self._writers)
        elif kind == "text":
            self._texts.add(text_sha256(cast("str", record["text"])))
        elif kind == "model":
            binding = ModelBinding.from_json(record)
            self._models[binding.name] = binding
        elif kind == "env":
            self._envs[cast("str", record["sha256"])] = len(self._envs)
        elif kind == "call":
            known = (record["scope"], record["asked"], record.get("n", 0))
            self._others.add(cast("CallId", known))

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Say what cannot be done, and do nothing more with the file."""
        try:
            yield
        except OSError as error:
            self._broken = self._failure(error)
            raise self._broken from error

    def _failure(self, error: OSError) -> CassetteAccessError:
        return CassetteAccessError(
            f"{self.file.path} cannot be written: {error.strerror or error}; free some space and "
            "go on with --auto"
        )
