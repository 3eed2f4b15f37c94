"""Checking a bundle: its files are those that were put in, and its runs replay to its artifacts."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import orjson

from swarm_repro.bundle.crate import MANIFEST, SETTINGS, digests_of, runs_of
from swarm_repro.cassette.archive import unpack_limit
from swarm_repro.cassette.check import check_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, ExitCode
from swarm_repro.mode import Mode
from swarm_repro.simulation.artifacts import SESSION, round_numbers
from swarm_repro.simulation.plan import RunOptions
from swarm_repro.simulation.run import run_scenario

_CHUNK: Final = 1 << 20
_MOST_MANIFEST: Final = 64 << 20


@dataclass(frozen=True)
class Replayed:
    """A run of a bundle, replayed.

    Attributes:
        scenario: Its path in the bundle.
        seed: Of the run.
        exit_code: What ``run --replay`` would end with.
        messages: What was wrong, a line each.
    """

    scenario: str
    seed: int
    exit_code: ExitCode
    messages: tuple[str, ...]


@dataclass(frozen=True)
class BundleCheck:
    """What a check found.

    Attributes:
        files: How many files have their SHA-256.
        replayed: The runs.
    """

    files: int
    replayed: tuple[Replayed, ...]

    @property
    def exit_code(self) -> ExitCode:
        """That of the first run that did not replay."""
        codes = [one.exit_code for one in self.replayed if one.exit_code is not ExitCode.OK]
        return codes[0] if codes else ExitCode.OK


def check_bundle(path: Path) -> BundleCheck:
    """Check a bundle, with nothing but what is in it and this package.

    Args:
        path: The zip.

    Raises:
        CassetteAccessError: Missing, unreadable, or larger than the limit when it is unpacked.
        CassetteDamagedError: No bundle, or not the files that were put in.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix="swarm-repro-bundle.") as temporary,
            zipfile.ZipFile(path) as archive,
        ):
            folder = Path(temporary)
            document = _manifest(path, archive)
            digests = _digests(path, document)
            _unpack(path, archive, digests, folder)
            for name in digests:
                if name.startswith("cassettes/"):
                    _check_cassette(path, name, folder)
            runs = _runs(path, document, digests)
            return BundleCheck(len(digests), tuple(_replay(folder, run) for run in runs))
    except FileNotFoundError as error:
        raise CassetteAccessError(f"there is no bundle at {path}") from error
    except OSError as error:
        raise CassetteAccessError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise CassetteDamagedError(
            path, f"no zip, or a damaged one: {error}; get it again"
        ) from error


def _damaged(path: Path, why: str) -> CassetteDamagedError:
    return CassetteDamagedError(path, f"{why}; get it again")


def _manifest(path: Path, archive: zipfile.ZipFile) -> object:
    try:
        with archive.open(MANIFEST) as file:
            data = file.read(_MOST_MANIFEST + 1)
        if len(data) > _MOST_MANIFEST:
            raise ValueError("it is too long")
        return orjson.loads(data)
    except (KeyError, ValueError) as error:
        raise CassetteDamagedError(
            path, f"{MANIFEST} cannot be read: {error}; get it again"
        ) from error


def _digests(path: Path, document: object) -> dict[str, str]:
    try:
        digests = digests_of(document)
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"{MANIFEST} is none: {error!r}") from error
    for name in digests:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or name == MANIFEST:
            raise CassetteDamagedError(
                path, f"it names a file outside of itself: {name!r}; do not use it"
            )
    return digests


def _runs(path: Path, document: object, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        runs = runs_of(document)
        for run in runs:
            if run["scenario"] not in digests or run["cassette"] not in digests:
                raise ValueError("a file that it does not hold")
            if not all(type(run[name]) is int for name in SETTINGS):
                raise ValueError("a run without seed, epochs and steps")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST} names no runs: {error!r}") from error
    return runs


def _unpack(path: Path, archive: zipfile.ZipFile, digests: Mapping[str, str], folder: Path) -> None:
    """Write the files that the manifest lists, and no others."""
    names = [entry.filename for entry in archive.infolist()]
    if sorted(names) != sorted([*digests, MANIFEST]):
        raise CassetteDamagedError(
            path, f"its files are not those that {MANIFEST} lists; get it again"
        )
    limit, size = unpack_limit(), 0
    for name, digest in digests.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with archive.open(name) as file, target.open("wb") as out:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise CassetteAccessError(
                        f"{path} unpacks to more than {limit} bytes; if you trust it, give more in "
                        "SWARM_REPRO_UNPACK_LIMIT"
                    )
                found.update(chunk)
                out.write(chunk)
        if found.hexdigest() != digest:
            raise _damaged(path, f"{name} in it is not what was put in")


def _check_cassette(path: Path, name: str, folder: Path) -> None:
    found = check_cassette(folder / name)
    if found.findings:
        first = found.findings[0]
        raise _damaged(path, f"{name} in it: {first.record}: {first.why}")


def _replay(folder: Path, run: Mapping[str, Any]) -> Replayed:
    out = folder / "replayed"
    seed, epochs, steps = run["seed"], run["epochs"], run["steps"]
    outcome = run_scenario(
        RunOptions(
            scenario=folder / run["scenario"],
            seed=seed,
            mode=Mode.REPLAY,
            cassette=folder / run["cassette"],
            out=out,
            epochs=epochs,
            steps=steps,
        )
    )
    messages = list(outcome.messages)
    exit_code = outcome.exit_code
    cassette = Path(run["cassette"]).name
    kept = folder / "artifacts" / cassette / f"seed{seed}-{epochs}x{steps}"
    if exit_code is ExitCode.OK:
        # The cassette vouches for them; that they are those of the bundle is seen by the bytes.
        rounded = outcome.verdict.rounded if outcome.verdict else ()
        for path in sorted(out.iterdir()):
            if path.name != SESSION and not _is_kept(
                path, kept / path.name, is_rounded=path.name in rounded
            ):
                exit_code = ExitCode.DIFFERENCE
                messages.append(f"artifacts: {path.name} is not what the bundle holds")
    return Replayed(str(run["scenario"]), seed, exit_code, tuple(messages))


def _is_kept(made: Path, kept: Path, *, is_rounded: bool) -> bool:
    """Whether a file that a replay made is in the bundle; rounded alike if need be."""
    if not kept.is_file():
        return False
    one, other = made.read_bytes(), kept.read_bytes()
    return one == other or (is_rounded and round_numbers(one) == round_numbers(other))
