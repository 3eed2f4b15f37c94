"""A cassette in use: what was recorded before, what is recorded now, what is kept at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from swarm_repro.cassette.changes import Changes, same_recording
from swarm_repro.cassette.reader import Cassette, read_cassette, read_part, reading
from swarm_repro.cassette.records import CallId, CallRecord, Header, RunRecord
from swarm_repro.cassette.writer import PartWriter, lock_part, write_cassette
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError
from swarm_repro.model import ModelBinding, require_same_model


def part_path(path: Path) -> Path:
    """Where a recording of this cassette is kept while it runs."""
    return path.with_name(path.name + ".part")


def open_for_replay(path: Path) -> CassetteStore:
    """Open a finished cassette for reading.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, of a newer format.
        CassetteDamagedError: Not the bytes that were written.
    """
    return CassetteStore(path, base=read_cassette(path))


def open_for_recording(
    path: Path,
    header: Header,
    *,
    keep: bool,
    discard_part: bool = False,
    run_id: tuple[object, ...] | None = None,
) -> CassetteStore:
    """Open a cassette that calls will be added to.

    Args:
        path: The cassette, which may not exist yet.
        header: How calls will be made.
        keep: Serve and keep what is recorded (``--auto``); else everything is recorded anew.
        discard_part: Throw away what an interrupted recording left.
        run_id: The run that will be recorded (``RunRecord.id``), whose own calls may be replaced.

    Raises:
        CassetteAccessError: Another scenario's or other settings' cassette; an interrupted
            recording is in the way; the folder cannot be written.
        CassetteDamagedError: Not the bytes that were written.
    """
    if path.is_dir():
        raise CassetteAccessError(f"{path} is a folder; name a cassette file in it")
    base = read_cassette(path) if path.exists() else None
    if base is not None:
        _require_same_experiment(base, header, settings=keep)
    part = part_path(path)
    resumed: Cassette | None = None
    length = 0
    if part.exists():
        if discard_part:
            _discard(part)
        else:
            found = read_part(part)
            if found is None or not found[0].calls:
                _discard(part)  # nothing was recorded
            elif not keep:
                with part.open("rb") as file:
                    lock_part(file, part)  # one that is going on is none that was interrupted
                raise CassetteAccessError(
                    f"{part} holds an interrupted recording: go on from it with --auto, "
                    "or throw it away with --discard"
                )
            else:
                resumed, length = found
                _require_same_run(resumed, run_id)
                _require_same_experiment(resumed, header, settings=True)
    writer = PartWriter(part, header, resume=resumed, length=length, run=run_id)
    return CassetteStore(
        path, base=base, resumed=resumed, header=header, writer=writer, run_id=run_id
    )


def _discard(part: Path) -> None:
    """Throw away an interrupted recording, but not one that is going on.

    Raises:
        CassetteAccessError: Another process is recording it.
    """
    with part.open("rb") as file:
        lock_part(file, part)
        part.unlink()


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


def _ids_by_scope(ids: Iterable[CallId]) -> dict[str, set[CallId]]:
    found: dict[str, set[CallId]] = {}
    for call_id in ids:
        found.setdefault(call_id[0], set()).add(call_id)
    return found


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
        self._writer = writer
        self._is_recording = writer is not None
        self._run_id = run_id
        self._fresh = resumed or Cassette(path=path, header=first)

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
        return {**(self._base.calls if self._base else {}), **self._fresh.calls}

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
        found = self._fresh.calls.get(call_id)
        if found is None and self._base is not None:
            found = self._base.calls.get(call_id)
        return found

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
        with reading(self.path, call):
            # Not kept: a long replay would hold every answer it has given.
            return call.decode_completion()

    def body_of(self, call: CallRecord) -> dict[str, object]:
        """A call's request as it was sent.

        Raises:
            CassetteDamagedError: A text of it is missing.
        """
        with reading(self.path, call):
            return call.body

    def add(self, call: CallRecord, binding: ModelBinding, environment: Environment) -> None:
        """Keep a new call: on disk when this returns.

        Raises:
            CassetteAccessError: It could not be written.
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
        self._writer.append(call, binding, environment)
        self._fresh.models[binding.name] = binding
        self._fresh.envs[environment.sha256] = environment
        self._fresh.texts.update(call.texts)
        self._fresh.calls[call.id] = call

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
        foreign: Iterable[CallId] = (),
    ) -> Changes:
        """Write the canonical file and remove the ``.part``.

        Args:
            used: The calls this session recorded or served.
            run: The run's record, which replaces an earlier record of the same run.
            keep: Keep also what other runs use (``--auto``).
            foreign: Recorded calls of others who share the cassette, kept as they are.

        Returns:
            What became of each call.

        Raises:
            CassetteAccessError: It could not be written; the old file is as it was, the ``.part``
                is still there.
        """
        base = self._base
        runs = [old for old in self.runs() if keep and (run is None or old.id != run.id)]
        if run is not None:
            runs.append(run)
        wanted = {*used, *foreign}.union(*(kept.calls for kept in runs))
        if keep and run is None and base is not None:
            wanted.update(base.calls)
        changes, calls, witnesses = self._settle(wanted)
        result = Cassette(
            path=self.path,
            header=self._stable_header(),
            models={**(base.models if base else {}), **self._fresh.models},
            envs={**(base.envs if base else {}), **self._fresh.envs},
            calls=calls,
            runs=runs,
            witnesses=witnesses,
        )
        write_cassette(result, self.path)
        self.close()
        part_path(self.path).unlink(missing_ok=True)
        return changes

    def _settle(
        self, wanted: set[CallId]
    ) -> tuple[Changes, dict[CallId, CallRecord], dict[str, frozenset[CallId]]]:
        """Choose, for each call that is kept, between the old entry and the new one."""
        changes = Changes()
        calls: dict[CallId, CallRecord] = {}
        old_calls = self._base.calls if self._base else {}
        seen_by: dict[str, set[CallId]] = {
            env: set(ids) for env, ids in (self._base.witnesses if self._base else {}).items()
        }
        # Calls at once have no order of their own: which came first is nothing to record anew.
        before, after = _ids_by_scope(old_calls), _ids_by_scope(wanted)
        for call_id in sorted(wanted):
            old, new = old_calls.get(call_id), self._fresh.calls.get(call_id)
            if new is None:
                if old is not None:
                    calls[call_id] = old
                continue
            ordered = (
                self.header.seed_policy == "event" or before.get(call_id[0]) != after[call_id[0]]
            )
            if old is not None and self._is_same(old, new, ordered=ordered):
                calls[call_id] = old
                changes.unchanged.append(call_id)
                if new.env != old.env:
                    seen_by.setdefault(new.env, set()).add(call_id)
                continue
            calls[call_id] = new
            (changes.added if old is None else changes.replaced).append(call_id)
            for ids in seen_by.values():
                ids.discard(call_id)
        changes.dropped.extend(call_id for call_id in old_calls if call_id not in calls)
        return changes, calls, {env: frozenset(ids) for env, ids in seen_by.items()}

    def _is_same(self, old: CallRecord, new: CallRecord, *, ordered: bool) -> bool:
        with reading(self.path, old):
            return same_recording(old, new, ordered=ordered)

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
        current = read_cassette(self.path)
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
            current.witnesses[environment.sha256] = known | seen
            write_cassette(current, self.path)
