"""A finished cassette as an index: every line checked once, calls and texts read when asked for.

What ``read_cassette`` holds in memory grows with all texts and answers of a file. An index holds
about 200 bytes a call, so that files of millions of calls can be compared.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, TypeAlias

from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.cassette import index_file
from swarm_repro.cassette.entries import Entries, Entry
from swarm_repro.cassette.lines import LineError, decode_line, lines_of
from swarm_repro.cassette.reader import Cassette, RecordReader, open_cassette, reading
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.runs import RunRecord, spans_of
from swarm_repro.cassette.scan import call_digest
from swarm_repro.cassette.table import DIGEST_BYTES, Table
from swarm_repro.completion import Completion
from swarm_repro.dialects import stable_document
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.request import OUTSIDE_KEY

#: Called with what is done so far and what there is to do.
OnStep: TypeAlias = Callable[[int, int], None]
_LINES_A_STEP = 1000

#: Texts kept at hand: system prompts are asked for call after call.
_TEXTS_AT_HAND = 1024

#: Members of a request that hold what the model reads.
TEXT_MEMBERS = frozenset({"messages", "prompt", "input"})


class Usage(NamedTuple):
    """Sums over calls.

    Attributes:
        calls: How many.
        prompt: Prompt tokens.
        completion: Completion tokens.
        duration_s: Seconds the backend took.
    """

    calls: int = 0
    prompt: int = 0
    completion: int = 0
    duration_s: float = 0.0

    def plus(self, call: CallRecord) -> Usage:
        """Add a call; token counts the backend did not give count as none."""
        return Usage(
            self.calls + 1,
            self.prompt + (call.tokens.get("prompt") or 0),
            self.completion + (call.tokens.get("completion") or 0),
            self.duration_s + call.duration_s,
        )


@contextlib.contextmanager
def open_to_reread(path: Path) -> Iterator[BinaryIO]:
    """Open a cassette that is read more than once.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, a pipe, or an interrupted recording.
    """
    if path.suffix == ".part" and path.is_file():
        raise CassetteAccessError(f"{path} is an interrupted recording: finish it with --auto")
    with open_cassette(path) as file:
        yield file


class CassetteIndex:
    """A finished cassette, opened for comparison.

    Attributes:
        path: The file.
        cassette: Header, models, environments and runs; its ``texts`` and ``calls`` are empty, and
            so are the ``calls`` of its runs and witnesses.
        entries: All calls, in file order.
        usage: Sums by scope.
        texts: Texts by SHA-256.
    """

    def __init__(self, path: Path, *, on_read: OnStep | None = None) -> None:
        """Read and check a file.

        Args:
            path: A finished cassette.
            on_read: Called now and then with the bytes read so far and all of the file.

        Raises:
            CassetteAccessError: Missing, a folder, a pipe, unreadable, interrupted, or of a newer
                format.
            CassetteDamagedError: Empty, torn, or changed after it was written.
        """
        self.path = path
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open_to_reread(path))
            places = Table(index_file.TEXT)
            self.texts: Mapping[str, str] = _Texts(path, places, self._read_text)
            reader = _IndexReader(path, places, self.texts)
            lines = stack.enter_context(open_cassette(path))
            size = os.fstat(lines.fileno()).st_size
            self.cassette = reader.read(_told(lines_of(lines), size, on_read))
            reader.require_end()
            self._open = stack.pop_all()
        self.entries = reader.entries
        self.usage = reader.usage
        self._envs = list(self.cassette.envs)

    def __enter__(self) -> CassetteIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def call(self, entry: Entry) -> CallRecord:
        """The record of a call; its texts are read when its body is.

        Raises:
            CassetteDamagedError: The file was changed since it was opened.
        """
        record = self._record(entry.offset, entry.length)
        try:
            return CallRecord.from_json(record, texts=self.texts, envs=self._envs)
        except LineError as error:
            raise self._changed() from error

    def completion_of(self, call: CallRecord) -> Completion:
        """A call's answer, its bytes checked.

        Raises:
            CassetteDamagedError: They are not the recorded bytes.
        """
        with reading(self.path, call):
            return call.completion

    def _read_text(self, offset: int, length: int) -> str:
        text = self._record(offset, length).get("text")
        if not isinstance(text, str):
            raise self._changed()
        return text

    def _record(self, offset: int, length: int) -> dict[str, object]:
        self._file.seek(offset)
        try:
            return decode_line(self._file.read(length))
        except LineError as error:
            raise self._changed() from error

    def _changed(self) -> CassetteDamagedError:
        return CassetteDamagedError(self.path, "the file was changed while it was being read")


def _told(lines: Iterable[bytes], size: int, on_read: OnStep | None) -> Iterator[bytes]:
    """The lines of a file, and now and then how far they are."""
    read = 0
    for number, line in enumerate(lines):
        read += len(line)
        if on_read is not None and number % _LINES_A_STEP == 0:
            on_read(read, size)
        yield line


class _Texts(Mapping[str, str]):
    """The texts of a file by digest, read when they are asked for."""

    def __init__(self, path: Path, places: Table, read: Callable[[int, int], str]) -> None:
        self._path = path
        self._places = places
        self._read = lru_cache(maxsize=_TEXTS_AT_HAND)(read)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str)  # a missing one is the file's fault, which __getitem__ says

    def __getitem__(self, digest: str) -> str:
        try:
            place = self._places.get(bytes.fromhex(digest)[:DIGEST_BYTES])
        except ValueError:
            place = None
        if place is None:
            raise CassetteDamagedError(
                self._path, f"a call refers to text {digest}, which is not in the file"
            )
        return self._read(*place)

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._places)):
            yield text_sha256(self._read(*self._places.content(number)))

    def __len__(self) -> int:
        return len(self._places)


class _IndexReader(RecordReader):
    """Keeps places where the other reader keeps content."""

    def __init__(self, path: Path, places: Table, texts: Mapping[str, str]) -> None:
        super().__init__(path)
        self.entries = Entries()
        self._places = places
        self._known_texts = texts
        self.usage: dict[str, Usage] = {}
        self._seen = Table("")

    def keep_text(self, cassette: Cassette, text: str, offset: int, length: int) -> None:
        del cassette
        digest = bytes.fromhex(text_sha256(text))
        self._places.add(digest[:DIGEST_BYTES], offset, length)

    def keep_call(self, cassette: Cassette, call: CallRecord, offset: int, length: int) -> None:
        del cassette
        asked = _key_bytes(call.asked)
        if not self._seen.add(call_digest(call.id)):
            raise LineError(f"a second recording of call {call.n} of {call.asked} in {call.scope}")
        self.entries.append(
            Entry(
                number=len(self.entries),
                offset=offset,
                length=length,
                scope=call.scope,
                i=call.i,
                n=call.n,
                at=call.at,
                kind=call.kind,
                asked=asked,
                sent=asked if call.sent == call.asked else _key_bytes(call.sent),
                answer=self._answer_digest(call),
                settings=_settings_digest(call),
                env=call.env,
            )
        )
        self.usage[call.scope] = self.usage.get(call.scope, Usage()).plus(call)

    def calls_of(self, record: Mapping[str, object]) -> frozenset[CallId]:
        del record
        return frozenset()

    def keep_run(self, cassette: Cassette, record: Mapping[str, object]) -> None:
        run = RunRecord.from_json({**record, "calls": []}, [])
        cassette.runs.append(run)
        spans = spans_of(record["calls"], len(self.entries))
        if run.seed is None:
            return
        for span in spans:
            for number in span:
                self.entries.add_seed(number, run.seed)

    def _answer_digest(self, call: CallRecord) -> bytes:
        """Digest of the answer as it is stored, without volatile members.

        Equal digests are equal answers. Answers whose digests differ can still be equal, if they
        were stored in different forms; ``same_but_volatile`` decides then.
        """
        stored = call.stored_response
        if "json" in stored:
            known = [stored.get("status"), stable_document(stored["json"])]
            return bytes.fromhex(sha256_hex(encode_json(known)))
        whole = replace(call, texts=self._known_texts)
        return bytes.fromhex(whole.completion.stable_sha256)


def _key_bytes(key: str) -> bytes:
    try:
        return bytes.fromhex(key.rpartition(":")[2])
    except ValueError as error:
        raise LineError(f"a key that is none: {key!r}") from error


def _settings_digest(call: CallRecord) -> bytes:
    settings = {
        name: value
        for name, value in call.stored_body.items()
        if name not in TEXT_MEMBERS and name not in OUTSIDE_KEY
    }
    known = [call.model, call.endpoint, call.path, call.kind, call.asked_seed, settings]
    return bytes.fromhex(sha256_hex(encode_json(known)))
