"""Reading a cassette: every line is checked, and nothing damaged is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swarm_repro.canonical import sha256_hex, text_sha256
from swarm_repro.cassette.lines import LineError, decode_line
from swarm_repro.cassette.records import (
    FORMAT,
    CallId,
    CallRecord,
    Header,
    RunRecord,
    env_at,
    from_ranges,
)
from swarm_repro.environment import Environment
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, RequestError
from swarm_repro.model import ModelBinding
from swarm_repro.request import KEY_VERSION

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CONFLICT_MARKS = (b"<<<<<<< ", b"=======\n", b">>>>>>> ")


@dataclass
class Cassette:
    """The records of one file.

    Attributes:
        path: Where they were read.
        header: How the calls were made.
        models: Model records by name.
        envs: Environment records by SHA-256.
        texts: Texts by SHA-256.
        calls: Call records by id, in file order.
        runs: Run records.
        witnesses: By environment: calls that it answered alike.
        recording: In a ``.part``: the run that is being recorded (``RunRecord.id``), if any.
    """

    path: Path
    header: Header
    models: dict[str, ModelBinding] = field(default_factory=dict)
    envs: dict[str, Environment] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    calls: dict[CallId, CallRecord] = field(default_factory=dict)
    runs: list[RunRecord] = field(default_factory=list)
    witnesses: dict[str, frozenset[CallId]] = field(default_factory=dict)
    recording: tuple[object, ...] | None = None


def read_cassette(path: Path) -> Cassette:
    """Read a finished cassette.

    Args:
        path: The file.

    Raises:
        CassetteAccessError: Missing, a folder, unreadable, or of a newer format.
        CassetteDamagedError: Empty, torn, or changed after it was written.
    """
    data = read_bytes(path)
    reader = _Reader(path, data)
    cassette = reader.read()
    if not reader.ended:
        raise CassetteDamagedError(
            path, "the end record is missing: the file was cut off; restore it from version control"
        )
    return cassette


def read_part(path: Path) -> tuple[Cassette, int] | None:
    """Read what an interrupted recording left: up to its last whole line.

    Args:
        path: The ``.part`` file.

    Returns:
        The records and the length in bytes up to the last whole line, or None where not even the
        header was written.

    Raises:
        CassetteAccessError: Unreadable, or of a newer format.
        CassetteDamagedError: Damage before the last line.
    """
    data = read_bytes(path)
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        return None
    return _Reader(path, whole, superseding=True).read(), len(whole)


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        CassetteAccessError: Missing, a folder, or unreadable.
    """
    if path.is_dir():
        raise CassetteAccessError(f"{path} is a folder; name a cassette file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CassetteAccessError(
            f"there is no cassette at {path}; record one with --record"
        ) from error
    except OSError as error:
        raise CassetteAccessError(f"{path} cannot be read: {error.strerror}") from error


class _Reader:
    """One pass over the lines of a file."""

    def __init__(self, path: Path, data: bytes, *, superseding: bool = False) -> None:
        self._path = path
        self._superseding = superseding
        self._data = data
        self._ids: list[CallId] = []
        self._envs: list[str] = []
        self._count = 0
        self.ended = False

    def read(self) -> Cassette:
        self._refuse_foreign()
        cassette: Cassette | None = None
        offset = 0
        for number, line in enumerate(self._data.splitlines(keepends=True), start=1):
            if self.ended:
                raise CassetteDamagedError(self._path, "records after the end record", line=number)
            try:
                record = decode_line(line)
                if cassette is None:
                    run = record.get("run")
                    cassette = Cassette(
                        path=self._path,
                        header=self._header(record),
                        recording=tuple(run) if isinstance(run, list) else None,
                    )
                elif record["record"] == "end":
                    self._end(record, offset)
                else:
                    self._add(cassette, record)
            except (LineError, RequestError) as error:
                raise CassetteDamagedError(self._path, str(error), line=number) from error
            except (KeyError, TypeError) as error:
                raise CassetteDamagedError(
                    self._path, f"a record's member is missing or wrong: {error!r}", line=number
                ) from error
            self._count += 1
            offset += len(line)
        if cassette is None:
            raise CassetteDamagedError(self._path, "the file is empty")
        return cassette

    def _refuse_foreign(self) -> None:
        if self._data.partition(b"\n")[0].endswith(b"\r"):
            raise CassetteDamagedError(
                self._path,
                "the line ends were converted to Windows'; put '*.jsonl -text' into .gitattributes",
            )
        if self._data.startswith(_LFS_POINTER):
            raise CassetteDamagedError(
                self._path, "this is a Git LFS pointer, not the cassette; run: git lfs pull"
            )
        for mark in _CONFLICT_MARKS:
            if self._data.startswith(mark) or b"\n" + mark in self._data:
                raise CassetteDamagedError(
                    self._path,
                    "git conflict markers; keep one side whole (git checkout --ours or --theirs)",
                )

    def _header(self, record: Mapping[str, object]) -> Header:
        if record["record"] != "cassette":
            raise LineError("the file does not begin with a cassette header")
        if record.get("format") != FORMAT or record.get("key") != KEY_VERSION:
            raise CassetteAccessError(
                f"{self._path} has format {record.get('format')} with keys {record.get('key')}; "
                f"this version reads format {FORMAT} with {KEY_VERSION}: upgrade swarm-repro"
            )
        return Header.from_json(record)

    def _add(self, cassette: Cassette, record: dict[str, object]) -> None:
        kind = record["record"]
        if kind == "text":
            text = record["text"]
            if not isinstance(text, str):
                raise LineError("a text that is no string")
            cassette.texts[text_sha256(text)] = text
        elif kind == "call":
            self._add_call(
                cassette, CallRecord.from_json(record, texts=cassette.texts, envs=self._envs)
            )
        elif kind == "model":
            binding = ModelBinding.from_json(record)
            if binding.name in cassette.models:
                raise LineError(f"two model records are called {binding.name!r}")
            cassette.models[binding.name] = binding
        elif kind == "env":
            content = record["content"]
            if not isinstance(content, dict):
                raise LineError("an environment without content")
            environment = Environment(content)
            if environment.sha256 != record["sha256"]:
                raise LineError("an environment that does not have the recorded SHA-256")
            if environment.sha256 in cassette.envs:
                raise LineError("an environment that is in the file already")
            cassette.envs[environment.sha256] = environment
            self._envs.append(environment.sha256)
        elif kind == "run":
            cassette.runs.append(RunRecord.from_json(record, self._ids))
        elif kind == "witness":
            cassette.witnesses[env_at(self._envs, record["env"])] = from_ranges(
                record["calls"], self._ids
            )
        else:
            raise LineError(f"an unknown record {kind!r}")

    def _add_call(self, cassette: Cassette, call: CallRecord) -> None:
        # Going on in another order records a call anew: in a .part the later one counts.
        if call.id in cassette.calls and not self._superseding:
            raise LineError(f"a second recording of call {call.n} of {call.asked} in {call.scope}")
        if call.model not in cassette.models:
            raise LineError(f"a call of model {call.model!r}, which is not in the file before it")
        cassette.calls[call.id] = call
        self._ids.append(call.id)

    def _end(self, record: Mapping[str, object], offset: int) -> None:
        if record["records"] != self._count:
            raise LineError(f"{self._count} records where {record['records']} were written")
        if record["sha256"] != sha256_hex(self._data[:offset]):
            raise LineError("the file does not have the recorded SHA-256")
        self.ended = True
