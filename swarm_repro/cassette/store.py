"""A cassette in use: what was recorded before, what is recorded now, what is kept at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from swarm_repro.caller import is_within
from swarm_repro.cassette.archive import is_archive
from swarm_repro.cassette.call_sets import (
    MappedCalls,
    NumberedCalls,
    all_of,
    joined,
    those_in,
    those_that,
)
from swarm_repro.cassette.changes import Changes, settle
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.lines import LineError
from swarm_repro.cassette.mapped import MAPPED_FROM_BYTES, open_mapped
from swarm_repro.cassette.part import Part, part_path, read_part
from swarm_repro.cassette.part_file import PartFile
from swarm_repro.cassette.part_writer import PartWriter
from swarm_repro.cassette.reader import Cassette, read_cassette, reading, unreadable
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError
from swarm_repro.model import ModelBinding, require_same_model


def open_for_replay(path: Path) -> CassetteStore:
    """Open a finished cassette for reading.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, of a newer format.
        CassetteDamagedError: Not the bytes that were written.
    """
    base = open_recorded(path)
    if isinstance(base.calls, MappedCalls):
        return CassetteStore(path, base=base)
    for call in base.calls.values():
        # Checked now, and kept: a file of this size fits into memory as it is.
        with reading(path, call):
            _ = call.completion
    return CassetteStore(path, base=base)


def open_recorded(path: Path) -> Cassette:
    """Open a finished cassette: in memory, or read when asked for where it is large.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, of a newer format.
        CassetteDamagedError: Not the bytes that were written, as far as it was read.
    """
    return open_mapped(path) if _is_large(path) else read_cassette(path)


def _is_large(path: Path) -> bool:
    if not path.is_file():
        return False
    least = MAPPED_FROM_BYTES >> 4 if is_archive(path) else MAPPED_FROM_BYTES
    return path.stat().st_size >= least


def open_for_recording(
    path: Path,
    header: Header,
    *,
    keep: bool,
    discard_part: bool = False,
    run_id: tuple[object, ...] | None = None,
    shared: bool = False,
    replaces: str | None = None,
) -> CassetteStore:
    """Open a cassette that calls will be added to.

    Args:
        path: The cassette, which may not exist yet.
        header: How calls will be made.
        keep: Serve and keep what is recorded (``--auto``); else everything is recorded anew.
        discard_part: Throw away what an interrupted recording left.
        run_id: The run that will be recorded (``RunRecord.id``), whose own calls may be replaced.
        shared: Whether other processes may record into it at the same time. The last of them
            writes the cassette.
        replaces: Of a shared cassette: the prefix of the scopes that are recorded anew; None keeps
            all that was recorded.

    Raises:
        CassetteAccessError: Another scenario's or other settings' cassette; another process is
            recording it and one of both does not share; an interrupted recording is in the way; the
            folder cannot be written.
        CassetteDamagedError: Not the bytes that were written.
    """
    if path.is_dir():
        raise CassetteAccessError(f"{path} is a folder; name a cassette file in it")
    file = PartFile(part_path(path), shared=shared)
    try:
        with file.turn():
            # Read once it is held: nobody else puts another file in its place from here on.
            base = open_recorded(path) if path.exists() else None
            if base is not None:
                _require_same_experiment(base, header, settings=keep)
            is_alone = file.is_alone()
            if discard_part and not is_alone:
                raise CassetteAccessError(
                    f"{file.path} cannot be discarded: others are recording into it"
                )
            part = None if discard_part else _left_in(file, is_alone=is_alone, keep=keep)
            if part is not None:
                _require_same_run(part.cassette, run_id)
                _require_same_experiment(part.cassette, header, settings=True)
            writer = PartWriter(
                file, header, part=part, takes_over=is_alone, run=run_id, replaces=replaces
            )
    except BaseException:
        if file.size() == 0:
            file.remove()
        file.close()
        raise
    return CassetteStore(
        path,
        base=base,
        resumed=None if part is None else _to_serve(part),
        header=header,
        writer=writer,
        run_id=run_id,
    )


def _left_in(file: PartFile, *, is_alone: bool, keep: bool) -> Part | None:
    """What others have left in a ``.part``, or are writing there; None to begin anew."""
    part = read_part(file.path) if file.size() else None
    if part is None or (is_alone and not part.cassette.calls):
        return None  # nothing was recorded
    if is_alone and not keep:
        raise CassetteAccessError(
            f"{file.path} holds an interrupted recording: go on from it with --auto, "
            "or throw it away with --discard"
        )
    return part


def _to_serve(part: Part) -> Cassette:
    """What was recorded before, without the calls of those who are recording now."""
    now = set(part.going_on())
    calls = {call_id: call for call_id, call in part.cassette.calls.items() if call_id not in now}
    return replace(part.cassette, calls=calls)


def _require_same_run(part: Cassette, run_id: tuple[object, ...] | None) -> None:
    if part.recording is not None and run_id is not None and part.recording != run_id:
        _, seed, epochs, steps = part.recording
        raise CassetteAccessError(
            f"{part.path} holds an interrupted recording of another run (seed {seed}, {epochs} "
            f"epochs of {steps} steps): finish that one with --auto, or throw it away with "
            "--record --discard"
        )


def _require_same_experiment(found: Cassette, header: Header, *, settings: bool) -> None:
    if found.header.scenario != header.scenario:
        raise CassetteAccessError(
            f"{found.path} belongs to scenario {found.header.scenario!r}, not "
            f"{header.scenario!r}; name another file with --cassette"
        )
    if settings and replace(found.header, recorder=header.recorder) != header:
        raise CassetteAccessError(
            f"{found.path} was recorded with another seed policy, strict setting or other request "
            "fields; record it anew with --record, or name another file with --cassette"
        )


def _is_outside(prefixes: Iterable[str], call_id: CallId) -> bool:
    return not any(not prefix or is_within(call_id[0], prefix) for prefix in prefixes)


@dataclass(frozen=True)
class Staged:
    """A call that is written, and may not be on the disk yet.

    Attributes:
        call: The call.
        binding: Its model.
        environment: Where it was answered.
    """

    call: CallRecord
    binding: ModelBinding
    environment: Environment
    _writer: PartWriter
    _end: int

    def wait(self) -> None:
        """Wait until it is on the disk; any number may wait at once.

        Raises:
            CassetteAccessError: The disk is failing.
        """
        self._writer.sync(self._end)


class CassetteStore:
    """The calls of one cassette, and of the recording that is being made."""

    def __init__(
        self,
        path: Path,
        *,
        base: Cassette | None = None,
        resumed: Cassette | None = None,
        header: Header | None = None,
        writer: PartWriter | None = None,
        run_id: tuple[object, ...] | None = None,
    ) -> None:
        """See ``open_for_replay`` and ``open_for_recording``."""
        first = header or (base.header if base else None)
        if first is None:
            raise ValueError("a store needs a cassette or a header")
        self.path = path
        self.header = first
        self._base = base
        self._base_calls: Mapping[CallId, CallRecord] = base.calls if base else {}
        calls = self._base_calls
        self._find_recorded = calls.find if isinstance(calls, MappedCalls) else calls.get
        self._writer = writer
        self._is_recording = writer is not None
        self._run_id = run_id
        #: What this recording has added, or the interrupted one that it goes on from.
        self._texts = dict(resumed.texts) if resumed else {}
        self._calls = dict(resumed.calls) if resumed else {}
        self._fresh = replace(
            resumed or Cassette(path=path, header=first), texts=self._texts, calls=self._calls
        )

    @property
    def base(self) -> Cassette | None:
        """What was recorded before."""
        return self._base

    @property
    def in_part(self) -> int:
        """How many calls the recording that is being made holds so far."""
        return len(self._fresh.calls)

    def calls(self) -> Mapping[CallId, CallRecord]:
        """All calls that can be served; of a call recorded twice the new recording."""
        if self._base is None or not self._calls:
            return self._calls if self._base is None else self._base_calls
        kept = all_of(self._base_calls) - self._calls.keys()
        return joined(self._base_calls, kept, self._calls)

    def ids(self) -> Set[CallId]:
        """The ids of all calls that can be served."""
        return all_of(self.calls())

    def in_order(self, ids: Set[CallId]) -> Iterator[CallRecord]:
        """The calls of some ids, in recorded order."""
        if isinstance(ids, NumberedCalls):
            return ids.in_order()
        found = (self.find(call_id) for call_id in ids)
        return iter(sorted(filter(None, found), key=lambda call: call.order))

    def runs(self) -> list[RunRecord]:
        """The recorded runs."""
        return list(self._base.runs) if self._base else []

    def binding(self, name: str) -> ModelBinding | None:
        """The model record of a name."""
        return self._fresh.models.get(name) or (self._base.models.get(name) if self._base else None)

    def model_names(self) -> list[str]:
        """Names of all model records."""
        return sorted({*self._fresh.models, *(self._base.models if self._base else ())})

    def find(self, call_id: CallId) -> CallRecord | None:
        """A recorded call, or None."""
        found = self._calls.get(call_id) if self._calls else None
        return self._find_recorded(call_id) if found is None else found

    def may_replace(self, call_id: CallId) -> bool:
        """Whether nothing but an earlier recording of the present run would lose this call."""
        if self._base is None or call_id not in self._base.calls:
            return True
        users = [run.id for run in self._base.runs if call_id in run.calls]
        return users == [self._run_id]

    def completion_of(self, call: CallRecord) -> Completion:
        """A call's answer, its bytes checked.

        Raises:
            CassetteDamagedError: They are not the recorded bytes.
        """
        try:
            return call.completion
        except LineError as error:
            raise unreadable(self.path, call, error) from error

    def body_of(self, call: CallRecord) -> dict[str, object]:
        """A call's request as it was sent.

        Raises:
            CassetteDamagedError: A text of it is missing.
        """
        with reading(self.path, call):
            return call.body

    def stage(self, call: CallRecord, binding: ModelBinding, environment: Environment) -> Staged:
        """Write a new call, which is kept once it is on the disk.

        Raises:
            CassetteAccessError: It could not be written, or another process has recorded it.
            ModelConflictError: The cassette knows another model by this name.
        """
        if self._writer is None and not self._is_recording:
            raise RuntimeError("the cassette was opened for replay")
        if self._writer is None:
            raise CassetteAccessError(
                f"the recording of {self.path} has ended, and this answer came after it: wait for "
                "every answer inside the block"
            )
        known = self.binding(binding.name)
        if known is not None:
            require_same_model(known, binding)
        end = self._writer.append(call, binding, environment)
        return Staged(call, binding, environment, self._writer, end)

    def keep(self, staged: Staged) -> None:
        """Count a call that is on the disk among the recorded ones."""
        self._fresh.models[staged.binding.name] = staged.binding
        self._fresh.envs[staged.environment.sha256] = staged.environment
        self._texts.update(staged.call.texts)
        self._calls[staged.call.id] = staged.call

    def close(self) -> None:
        """Stop without a clean end: the old cassette is untouched, the ``.part`` stays."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(
        self,
        *,
        used: Iterable[CallId],
        run: RunRecord | None,
        keep: bool,
        owner: str = "",
    ) -> Changes:
        """Write the canonical file and remove the ``.part``.

        Args:
            used: The calls this session recorded or served.
            run: The run's record, which replaces an earlier record of the same run.
            keep: Keep also what other runs use (``--auto``).
            owner: The prefix of the scopes that were recorded; calls of others who share the
                cassette are kept as they are.

        Returns:
            What became of each call.

        Raises:
            CassetteAccessError: It could not be written; the old file is as it was, the ``.part``
                is still there. Or the ``.part`` could not be removed.
        """
        writer = self._writer
        if writer is None:
            raise RuntimeError("the cassette was opened for replay, or has ended")
        runs = [old for old in self.runs() if keep and (run is None or old.id != run.id)]
        if run is not None:
            runs.append(run)
        recorded = {*used, *(run.calls if run is not None else ())}
        recorded.update(those_that(self._fresh.calls, partial(_is_outside, [owner])))
        kept = self._outside([] if keep and run is None else [owner])
        with writer.turn():
            writer.finish()
            if writer.file.shared:
                if not writer.file.is_alone():
                    self.close()
                    return Changes()  # the last of those who share it does the rest
                kept, runs = self._take_all(), self.runs()
                recorded = set(self._fresh.calls)
            changes = self._write(recorded, kept, runs)
            try:
                writer.file.remove()
            except OSError as error:
                raise CassetteAccessError(
                    f"{self.path} was written, but {writer.file.path} cannot be removed "
                    f"({error.strerror or error}); delete it by hand"
                ) from error
            self.close()
        return changes

    def _take_all(self) -> Set[CallId]:
        """Take what all who shared the recording have written, as the last of them.

        Returns:
            What is kept of what was recorded before.

        Raises:
            CassetteAccessError: One of them has not come to a clean end.
            CassetteDamagedError: What they wrote is damaged.
        """
        part = read_part(part_path(self.path))
        if part is None:
            raise RuntimeError("a recording that has no header")
        if not all(writer.ended for writer in part.writers.values()):
            raise CassetteAccessError(
                f"a process that recorded into {self.path} has ended before it was done: what it "
                f"recorded is kept in {part.cassette.path}; go on with --auto"
            )
        self._fresh = part.cassette
        replaced = [one.replaces for one in part.writers.values() if one.replaces is not None]
        return self._outside(replaced)

    def _outside(self, prefixes: Sequence[str]) -> Set[CallId]:
        """What was recorded before in scopes that are under none of these."""
        if not prefixes:
            return all_of(self._base_calls)
        return those_that(self._base_calls, partial(_is_outside, prefixes))

    def _write(self, used: Set[CallId], kept: Set[CallId], runs: list[RunRecord]) -> Changes:
        """Write the canonical file with these runs, their calls and the given ones."""
        base = self._base or Cassette(path=self.path, header=self.header)
        settled = settle(
            base,
            self._fresh.calls,
            used=used,
            kept=those_in(base.calls, kept, *(run.calls for run in runs)),
            ordered=self.header.seed_policy == "event",
        )
        result = Cassette(
            path=self.path,
            header=self._stable_header(),
            models={**base.models, **self._fresh.models},
            envs={**base.envs, **self._fresh.envs},
            calls=settled.calls,
            runs=runs,
            witnesses=settled.witnesses,
        )
        write_cassette(result, self.path)
        return settled.changes

    def _stable_header(self) -> Header:
        """The header with the recorder that wrote the file first, if nothing else differs."""
        if (
            self._base is not None
            and replace(self._base.header, recorder=self.header.recorder) == self.header
        ):
            return self._base.header
        return self.header

    def replace_run(self, run: RunRecord) -> None:
        """Accept a run's new artifacts: rewrite the file with another run record.

        Raises:
            CassetteAccessError: It could not be written.
        """
        if self._base is None:
            raise RuntimeError("there is no cassette to update")
        runs = [old for old in self._base.runs if old.id != run.id]
        write_cassette(replace(self._base, runs=[*runs, run]), self.path)

    def add_witness(self, environment: Environment, calls: Iterable[CallId]) -> None:
        """Note that another environment gave calls their recorded answers: rewrite the file.

        Calls that the environment is a witness of already stay so; nothing else changes.

        Args:
            environment: Where the answers were given.
            calls: The calls, all of them recorded elsewhere.

        Raises:
            CassetteAccessError: A call that is not in the file as it was read, or was recorded in
                this very environment; the file could not be written.
            CassetteDamagedError: The file is damaged.
        """
        if self._base is None:
            raise RuntimeError("there is no cassette to add a witness to")
        seen = set(calls)
        # Asking takes long: what somebody else wrote meanwhile is kept, or refused.
        current = open_recorded(self.path)
        for scope, asked, n in sorted(seen):
            call = current.calls.get((scope, asked, n))
            where = f"repeat {n} of {asked[:16]}… in {scope}"
            if call is None or call != self._base.calls.get(call.id):
                raise CassetteAccessError(
                    f"{self.path} has no such call, or another one by now ({where}); "
                    "verify it again"
                )
            if call.env == environment.sha256:
                raise CassetteAccessError(
                    f"{self.path} was recorded in this environment, which is no witness of its own "
                    f"call ({where})"
                )
        if seen:
            known = current.witnesses.get(environment.sha256, frozenset())
            current.envs[environment.sha256] = environment
            current.witnesses[environment.sha256] = those_in(current.calls, known, seen)
            write_cassette(current, self.path)
