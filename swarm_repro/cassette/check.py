"""Checking a cassette against itself: all that can be derived from its bytes is derived again.

A reader stops at the first damage and serves nothing. A check goes on, names everything that is
wrong, and knows what is whole all the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, get_args

from swarm_repro.canonical import encode_json
from swarm_repro.cassette.archive import SUFFIX, is_archive
from swarm_repro.cassette.lines import LineError, encode_response, intern, lines_of
from swarm_repro.cassette.mend import mended_lines
from swarm_repro.cassette.reader import (
    CONFLICT_MARKS,
    Cassette,
    RecordReader,
    foreign,
    open_cassette,
)
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.table import DIGEST_BYTES
from swarm_repro.cassette.writer import canonical_lines, write_cassette
from swarm_repro.environment import UNKNOWN
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.model import ModelBinding
from swarm_repro.request import SAMPLED, Endpoint, Request

_BOM = b"\xef\xbb\xbf"
_WINDOWS_END = b"\r\n"
_PART = ".part"
#: Stands for a call that cannot be read, so that the others keep their places.
_LOST: CallId = ("", "", -1)
_WHICH_CALL = re.compile(rb'"scope":"([^"\\]{0,80})","i":(\d{1,9}),')
_KINDS = ("cassette", "model", "env", "text", "call", "run", "witness", "end")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a cassette.

    Attributes:
        line: Line number, from 1; None where it is the file's.
        record: Which record, as far as it can be told.
        why: What is wrong.
    """

    line: int | None
    record: str
    why: str


@dataclass(frozen=True)
class Examination:
    """What a check found.

    Attributes:
        path: The file.
        findings: What is wrong, in file order.
        whole: The records that are whole, of which every digest, key and reference was derived
            again. A call whose environment record is lost has one that says that it is unknown.
        lost: How many calls are not.
    """

    path: Path
    findings: tuple[Finding, ...]
    whole: Cassette
    lost: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def check_cassette(path: Path) -> Examination:
    """Derive every checksum, digest, key and reference of a file again.

    Args:
        path: A cassette, or the ``.part`` of a recording.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, or of a newer format.
        CassetteDamagedError: Empty, a Git LFS pointer, with conflict markers, or without a header
            that can be read: nothing else can be checked then.
    """
    examiner = _Examiner(path)
    mended: Cassette | None = None
    try:
        with open_cassette(path) as file:
            cassette = examiner.read(examiner.as_written(file))
        examiner.conclude(cassette)
    except CassetteDamagedError as error:
        mended = _mended(path)
        if mended is None:
            raise
        examiner.note("line", error.why)
        cassette = mended
    else:
        if examiner.findings:
            mended = _mended(path)
        else:
            examiner.compare_with_canonical(cassette)
    if mended is not None:
        examiner.note_file("all of this can be put right: then it has the recorded SHA-256")
    return Examination(
        path=path,
        findings=tuple(examiner.findings),
        whole=mended or cassette,
        lost=0 if mended else examiner.lost,
    )


def repaired_path(path: Path) -> Path:
    """Where ``repair`` writes: ``x.jsonl`` and its ``.part`` become ``x.repaired.jsonl``."""
    named = path.with_suffix("") if path.suffix == _PART else path
    ending = SUFFIX if is_archive(named) else ""
    named = named.with_name(named.name.removesuffix(ending))
    return named.with_name(f"{named.stem}.repaired{named.suffix}{ending}")


def repair(found: Examination, target: Path) -> None:
    """Write what is whole of a damaged cassette; the damaged one stays as it is.

    Args:
        found: The result of a check.
        target: The file to write.

    Raises:
        CassetteAccessError: It is there already, or cannot be written.
        CassetteDamagedError: No call is whole.
    """
    if target.exists():
        raise CassetteAccessError(f"{target} is there already: move it away, then repair again")
    if not found.whole.calls:
        raise CassetteDamagedError(found.path, "no call in it is whole; restore an older version")
    write_cassette(replace(found.whole, path=target), target)


def _mended(path: Path) -> Cassette | None:
    """The records of a file whose damage is flipped bits and line ends, proven to be right."""
    with open_cassette(path) as file:
        lines = mended_lines(_Examiner(path).as_written(file))
    if lines is None:
        return None
    examiner = _Examiner(path)
    cassette = examiner.read(lines)
    return None if examiner.findings else cassette


class _Examiner(RecordReader):
    """Reads on after damage, and derives what a reader takes on trust."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, is_part=path.suffix == _PART)
        self.findings: list[Finding] = []
        self.lost = 0
        self._number = 0
        self._windows_ends = 0
        #: Whether runs and witnesses, which name calls by their places, can be believed.
        self._places_are_known = True

    def as_written(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines as they were before an editor or git changed their ends, or doubled some."""
        seen: dict[bytes, int] = {}
        for number, given in enumerate(lines_of(file), start=1):
            line = given
            self._number = number
            if number == 1 and line.startswith(_BOM):
                self.note("file", "a byte order mark before the first record")
                line = line[len(_BOM) :]
            if line.endswith(_WINDOWS_END):
                self._windows_ends += 1
                line = line[: -len(_WINDOWS_END)] + b"\n"
            first = number if self._is_part else seen.setdefault(_digest(line), number)
            if line.isspace():
                self.note("line", "an empty line")
            elif first != number:  # no recorder writes one twice; those that share a part may
                self.note(_kind_of(line) or "line", f"the same record as in line {first}")
            elif line.endswith(b"\n") or not self._is_part:
                yield line

    def _add(self, cassette: Cassette, record: dict[str, object], offset: int, length: int) -> None:
        place = record.get("env")
        if record["record"] != "call" or type(place) is not int or place < len(self._envs):
            super()._add(cassette, record, offset, length)
            return
        # Its environment is lost, or further down: the call itself may be whole.
        cassette.envs.setdefault(UNKNOWN.sha256, UNKNOWN)
        known, self._envs = self._envs, [UNKNOWN.sha256]
        try:
            super()._add(cassette, {**record, "env": 0}, offset, length)
        finally:
            self._envs = known
        self.note(
            f"call {record['i']} of {record['scope']}",
            f"refers to environment record {place}, which is not in the file before it",
        )

    def after_end(self) -> None:
        """Note that an end record was not the last one, and read on: what follows may be whole."""
        self._ended = False
        self.note("end", "records after the end record")

    def damaged(self, cassette: Cassette | None, number: int, line: bytes, why: str) -> None:
        """Note a line that cannot be believed, and keep its place."""
        del number
        if cassette is None:
            why = f"{why}; without its header nothing of a cassette can be told"
        if cassette is None or line.startswith(CONFLICT_MARKS):
            raise CassetteDamagedError(self.path, why, line=self._number)
        kind = _kind_of(line)
        self.note(_described(line, kind), why)
        if kind == "call":
            self._ids.append(_LOST)
            self.lost += 1
        elif kind == "env":
            self._envs.append(UNKNOWN.sha256)
            cassette.envs.setdefault(UNKNOWN.sha256, UNKNOWN)
        elif kind == "end":
            self._ended = True
        elif kind is None:
            self._places_are_known = False

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        """Take a call of which everything could be derived again."""
        _require_derivable(call, cassette.models[call.model])
        super().keep_call(cassette, call, offset, length)

    def _end(self, record: Mapping[str, object]) -> None:
        self._ended = True
        if record["records"] != self._count:
            self._places_are_known = False
            self.note("end", f"{self._count} records where {record['records']} were written")
        elif record["sha256"] != self._digest.hexdigest() and not self.findings:
            self.note("end", "the file does not have the recorded SHA-256")

    def conclude(self, cassette: Cassette) -> None:
        """Judge the file as a whole.

        Args:
            cassette: What was read. Runs and witnesses that name lost calls keep the others.
        """
        if self._windows_ends:
            self.note_file(f"{self._windows_ends} lines: {foreign(_WINDOWS_END)}")
        if not self._ended and not self._is_part:
            self.note_file("the end record is missing: the file was cut off")
        if not self.findings:
            return
        if self._places_are_known and _are_in_order(cassette.calls.values()):
            cassette.runs[:] = [replace(run, calls=run.calls - {_LOST}) for run in cassette.runs]
            for env, calls in cassette.witnesses.items():
                cassette.witnesses[env] = calls - {_LOST}
        else:
            for run in cassette.runs:
                self.note_file(f"the run of {run.scenario} names calls by places that are lost")
            cassette.runs.clear()
            cassette.witnesses.clear()

    def compare_with_canonical(self, cassette: Cassette) -> None:
        """See whether a file in which nothing is wrong is what a recorder would write.

        Args:
            cassette: What was read.
        """
        if self._is_part:
            return
        with open_cassette(self.path) as file:
            lines = zip_longest(lines_of(file), canonical_lines(cassette))
            for number, (found, expected) in enumerate(lines, start=1):
                if found != expected:
                    why = "not what a recorder writes at this place: the file was put together anew"
                    self._number = number
                    self.note("line", why)
                    return

    def note(self, record: str, why: str) -> None:
        """Note something about the line that is being read."""
        self.findings.append(Finding(self._number, record, why))

    def note_file(self, why: str) -> None:
        """Note something about the file."""
        self.findings.append(Finding(None, "file", why))


def _require_derivable(call: CallRecord, binding: ModelBinding) -> None:
    """Derive keys, digests, seeds and token counts of a call again.

    Raises:
        LineError: One of them is not the recorded one, or a text of the call is not in the file.
        RequestError: The request has no key.
    """
    if call.endpoint not in get_args(Endpoint):
        raise LineError(f"an unknown kind of call: {call.endpoint!r}")
    request = Request(call.endpoint, binding, call.path, call.body, call.kind)
    if "request" not in call.masked:  # else the keys are of a request that nobody has
        if request.key(seed=call.asked_seed) != call.asked:
            raise LineError("its asked key is not that of its request")
        if request.key(seed=call.sent_seed) != call.sent:
            raise LineError("its sent key is not that of its request")
    if call.endpoint in SAMPLED and request.seed != call.sent_seed:
        raise LineError("its sent seed is not that of its request")
    completion = call.completion
    if completion.usage.to_json() != call.tokens:
        raise LineError("its token counts are not those of its answer")
    texts: dict[str, str] = {}
    if encode_json(encode_response(completion, texts)) != encode_json(dict(call.stored_response)):
        raise LineError("its answer is not stored as a recorder stores it")
    if encode_json(intern(call.body, texts)) != encode_json(dict(call.stored_body)):
        raise LineError("its request is not stored as a recorder stores it")


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=DIGEST_BYTES).digest()


def _are_in_order(calls: Iterable[CallRecord]) -> bool:
    order = [call.order for call in calls]
    return order == sorted(order)


def _kind_of(line: bytes) -> str | None:
    """Which record a damaged line was, where a byte at most of its beginning is changed."""
    changed = {}
    for kind in _KINDS:
        begins = b'{"record":"%s"' % kind.encode()
        changed[kind] = sum(a != b for a, b in zip_longest(line[: len(begins)], begins))
    nearest = min(changed, key=changed.__getitem__)  # "end" and "env" are a byte apart
    return nearest if changed[nearest] <= 1 else None


def _described(line: bytes, kind: str | None) -> str:
    which = _WHICH_CALL.search(line)
    if kind == "call" and which is not None:
        scope, i = which.groups()
        return f"call {int(i)} of {scope.decode('utf-8', 'replace')}"
    return kind or "line"
