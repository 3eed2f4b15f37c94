"""The folder of a study's results: what is in it, and who may write to it now.

Every file and folder gets its final name when it is whole. A run's folder holds ``result.json``
(what the tables are made of), ``times.json``, the scenario as it was run and SWARM's artifacts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from swarm_repro.canonical import encode_canonical, encode_json, sha256_hex
from swarm_repro.cassette.disk import sync, sync_folder
from swarm_repro.errors import UsageError
from swarm_repro.mode import Mode
from swarm_repro.study.file import Run, Study

RESULT: Final = "result.json"
TIMES: Final = "times.json"
ARTIFACTS: Final = "artifacts"
#: Notes of servers that workers have started.
SERVERS: Final = "servers"
_FORMAT: Final = 1


class StudyFolder:
    """A study's results on disk."""

    def __init__(self, study: Study, out: Path | None = None) -> None:
        """Name a folder; nothing is made.

        Args:
            study: The study.
            out: The folder; None takes the study's.
        """
        self.study = study
        self.path = out or study.out
        self._runs = self.path / "runs"
        self._failures = self.path / "failures"

    def open(self) -> None:
        """Make the folder, or see that it is this study's.

        Raises:
            UsageError: It holds something else, or cannot be written.
        """
        marker = self.path / "study.json"
        try:
            if marker.exists():
                self._require_same(marker)
            elif self.path.is_dir() and any(self.path.iterdir()):
                raise UsageError(
                    f"{self.path} holds something else than a study: name another folder with --out"
                )
            self._runs.mkdir(parents=True, exist_ok=True)
            self._failures.mkdir(exist_ok=True)
            write_whole(marker, encode_json({"format": _FORMAT, "name": self.study.name}) + b"\n")
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def require(self) -> None:
        """See that it is there, and this study's.

        Raises:
            UsageError: It is not.
        """
        marker = self.path / "study.json"
        if not marker.exists():
            raise UsageError(
                f"{self.path} holds no results of a study yet: begin with "
                f"swarm-repro study run {self.study.path}"
            )
        self._require_same(marker)

    def _require_same(self, marker: Path) -> None:
        content = _read(marker)
        if content is None or content.get("name") != self.study.name:
            found = content.get("name") if content else None
            raise UsageError(
                f"{self.path} holds the study {found!r}, not {self.study.name!r}: name another "
                "folder with --out"
            )

    @contextlib.contextmanager
    def held(self, shard: tuple[int, int] | None) -> Iterator[None]:
        """Keep others from running the same study, or the same shard of it, into the folder.

        Raises:
            UsageError: Someone does.
        """
        with contextlib.ExitStack() as stack:
            self._lock(stack, "lock", fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH)
            if shard is not None:
                self._lock(stack, f"lock.{shard[0]}-of-{shard[1]}", fcntl.LOCK_EX)
            yield

    def _lock(self, stack: contextlib.ExitStack, name: str, kind: int) -> None:
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"the study is being run into {self.path} already: wait for it, or end it"
            ) from error

    def result(self, run: Run, mode: Mode) -> dict[str, Any] | None:
        """What a finished run came to; None where it is not finished in this mode."""
        found = self.any_result(run)
        return found if found is not None and found.get("mode") == _kind_of(mode) else None

    def any_result(self, run: Run) -> dict[str, Any] | None:
        """What a finished run came to, however it was made."""
        found = _read(self.folder_of(run) / RESULT)
        return found if found is not None and found.get("run") == self.digest(run) else None

    def times(self, run: Run) -> dict[str, Any]:
        """What a finished run took."""
        return _read(self.folder_of(run) / TIMES) or {}

    def failure(self, run: Run) -> dict[str, Any] | None:
        """Why a run failed, if it did."""
        found = _read(self._failures / f"{run.name}.json")
        return found if found is not None and found.get("run") == self.digest(run) else None

    def digest(self, run: Run) -> str:
        """What decides a run's result."""
        study = self.study
        return sha256_hex(
            encode_canonical(
                [run.document, run.seed, run.repeat, dict(run.settings), study.epochs, study.steps]
            )
        )

    @contextlib.contextmanager
    def begun(self, run: Run) -> Iterator[Path]:
        """A folder for a run that is made now; it goes with the block, unless it was kept."""
        (self._failures / f"{run.name}.json").unlink(missing_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=self._runs))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(
        self,
        run: Run,
        folder: Path,
        *,
        mode: Mode,
        result: Mapping[str, object],
        times: Mapping[str, object],
    ) -> None:
        """Give a run's folder its final name, in the place of an earlier one."""
        said = {"run": self.digest(run), "mode": _kind_of(mode), **result}
        write_whole(folder / TIMES, encode_json(times) + b"\n")
        write_whole(folder / RESULT, encode_json(said) + b"\n")
        self.take(run, folder)

    def folder_of(self, run: Run) -> Path:
        """Where a finished run is."""
        return self._runs / run.name

    def take(self, run: Run, folder: Path) -> None:
        """Give a whole folder the name of a run, in the place of an earlier one."""
        folder.chmod(0o755)
        final = self.folder_of(run)
        if final.exists():
            with tempfile.TemporaryDirectory(prefix=f".{run.name}.", dir=self._runs) as old:
                final.rename(Path(old) / "old")
                folder.rename(final)
        else:
            folder.rename(final)
        sync_folder(self._runs)

    def keep_failure(self, run: Run, *, exit_code: int, messages: list[str]) -> None:
        """Note that a run failed."""
        said = {"run": self.digest(run), "exit_code": exit_code, "messages": messages}
        write_whole(self._failures / f"{run.name}.json", encode_json(said) + b"\n")

    def take_servers(self, host: str) -> list[int]:
        """Ports of the servers that workers of a machine have started; they are noted no more."""
        ports = []
        for note in sorted((self.path / SERVERS).glob("*.json")):
            content = _read(note)
            if content is not None and content.get("host") == host:
                ports.append(int(content["port"]))
                note.unlink(missing_ok=True)
        return ports

    def clear_begun(self) -> None:
        """Remove what runs left that were ended on the way; nobody else may run the study now."""
        for path in self._runs.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)


def _kind_of(mode: Mode) -> str:
    """Whether a result is of a recording or of a replay; ``auto`` is either."""
    return "record" if mode.writes else mode.value


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, and give it its own in one step."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
