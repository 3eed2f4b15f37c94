"""Making a bundle: every recorded run is replayed; what it needs and gives is put into a zip."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swarm_repro import __version__
from swarm_repro.bundle.crate import MANIFEST, crate
from swarm_repro.bundle.methods import Study, citation, methods_paragraph
from swarm_repro.canonical import encode_json
from swarm_repro.cassette.runs import RunRecord
from swarm_repro.errors import CassetteAccessError, ExitCode, UsageError
from swarm_repro.mode import Mode
from swarm_repro.simulation.artifacts import SESSION
from swarm_repro.simulation.plan import RunOptions
from swarm_repro.simulation.run import run_scenario
from swarm_repro.simulation.scenario import Scenario, load_scenario

#: Bundles of the same content are the same bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_README: Final = """\
# {title}

Recorded model calls of a simulation, with all that is needed to see that its results follow:

    pip install 'swarm-repro[swarm]=={version}'
    swarm-repro bundle check {name}

needs no model, no GPU and no network after the installation. `{manifest}` lists every file with its
SHA-256, and the runs; `METHODS.md` says how the recordings were made; `requirements.lock` names the
versions they were replayed with.
"""


@dataclass(frozen=True)
class BundleOptions:
    """What is to be in a bundle.

    Attributes:
        scenarios: Scenario files.
        cassettes: Cassettes; none: those of the scenarios, where ``run`` puts them.
        title: Of the study.
        authors: Their names.
        lock: A file that names the versions of all packages; None names those that are installed.
        sources: Where weights came from, by SHA-256.
    """

    scenarios: Sequence[Path]
    title: str
    authors: Sequence[str]
    cassettes: Sequence[Path] = ()
    lock: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """What was put into a bundle.

    Attributes:
        files: Contents by path.
        runs: The runs that were replayed, as the manifest has them.
    """

    files: Mapping[str, bytes]
    runs: Sequence[Mapping[str, object]]


def make_bundle(options: BundleOptions, target: Path) -> Bundle:
    """Write a bundle.

    Args:
        options: What is to be in it.
        target: The zip to write.

    Raises:
        UsageError: Nothing to bundle, no author, two files of one name, or the file is there.
        CassetteAccessError: A cassette that is missing, or of no scenario that is given.
        CassetteDamagedError: Not the bytes that were written.
        SwarmReproError: A run that cannot be replayed.
    """
    if target.exists():
        raise UsageError(f"{target} is there already: move it away, or name another file")
    if not options.authors:
        raise UsageError("name at least one author with --author, for CITATION.cff")
    scenarios = {path: load_scenario(path) for path in options.scenarios}
    paths = _cassettes(options, scenarios.values())
    study = Study.of(paths, sources=options.sources)
    _require_scenarios(study, scenarios.values())
    files: dict[str, bytes] = {}
    for folder, given in (("scenarios", options.scenarios), ("cassettes", paths)):
        for path in given:
            _add(files, f"{folder}/{path.name}", _read(path))
    runs: list[Mapping[str, object]] = []
    for path, scenario in scenarios.items():
        for cassette_path, run in _runs(study, scenario):
            name = f"{cassette_path.name}/seed{run.seed}-{run.epochs}x{run.steps}"
            for artifact, data in _replayed(path, cassette_path, run).items():
                _add(files, f"artifacts/{name}/{artifact}", data)
            runs.append(
                {
                    "scenario": f"scenarios/{path.name}",
                    "cassette": f"cassettes/{cassette_path.name}",
                    "seed": run.seed,
                    "epochs": run.epochs,
                    "steps": run.steps,
                }
            )
    files["requirements.lock"] = _read(options.lock) if options.lock else _installed()
    files["METHODS.md"] = (methods_paragraph(study) + "\n").encode()
    files["CITATION.cff"] = citation(title=options.title, authors=options.authors).encode()
    files["README.md"] = _README.format(
        title=options.title, version=__version__, name=target.name, manifest=MANIFEST
    ).encode()
    document = crate(files, study, title=options.title, authors=options.authors, runs=runs)
    _write(target, {**files, MANIFEST: encode_json(document) + b"\n"})
    return Bundle(files, runs)


def _cassettes(options: BundleOptions, scenarios: Iterable[Scenario]) -> list[Path]:
    """The cassettes that are given, or those of the scenarios, where ``run`` puts them."""
    if options.cassettes:
        return list(options.cassettes)
    found: list[Path] = []
    for scenario in scenarios:
        if scenario.cassette is not None:
            found.append(scenario.cassette)
            continue
        own = sorted(Path("cassettes").glob(f"{scenario.id}.seed*.jsonl*"))
        own = [path for path in own if path.suffix in (".jsonl", ".zst")]
        if not own:
            raise CassetteAccessError(
                f"there is no cassette of scenario {scenario.id} in cassettes; name it with "
                "--cassette"
            )
        found += own
    if not found:
        raise UsageError("name a scenario, or a cassette with --cassette")
    return list(dict.fromkeys(found))


def _require_scenarios(study: Study, scenarios: Iterable[Scenario]) -> None:
    """Refuse a run that nobody could replay from the bundle."""
    given = {scenario.id: scenario for scenario in scenarios}
    for path, cassette in study.cassettes.items():
        for run in cassette.runs:
            scenario = given.get(run.scenario)
            if scenario is None:
                raise UsageError(
                    f"{path} holds a run of scenario {run.scenario}: name its file too"
                )
            if scenario.sha256 != run.scenario_sha256:
                raise UsageError(
                    f"{scenario.path} is not the file that {path} was recorded with; "
                    "name the one that was, or record it anew"
                )


def _runs(study: Study, scenario: Scenario) -> Iterator[tuple[Path, RunRecord]]:
    for path, cassette in study.cassettes.items():
        for run in cassette.runs:
            if run.scenario == scenario.id:
                yield path, run


def _replayed(scenario: Path, cassette: Path, run: RunRecord) -> dict[str, bytes]:
    """What a run wrote, from a replay that came to what was recorded."""
    with tempfile.TemporaryDirectory(prefix="swarm-repro-bundle.") as folder:
        outcome = run_scenario(
            RunOptions(
                scenario=scenario,
                seed=run.seed,
                mode=Mode.REPLAY,
                cassette=cassette,
                out=Path(folder),
                epochs=run.epochs,
                steps=run.steps,
            )
        )
        if outcome.exit_code is not ExitCode.OK:
            why = "; ".join(outcome.messages)
            raise UsageError(f"seed {run.seed} of {scenario} does not replay: {why}")
        written = sorted(path for path in Path(folder).iterdir() if path.name != SESSION)
        return {path.name: path.read_bytes() for path in written}


def _add(files: dict[str, bytes], name: str, data: bytes) -> None:
    if files.setdefault(name, data) != data:
        raise UsageError(f"two files would be {name} in the bundle: rename one of them")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _installed() -> bytes:
    """The versions of all installed packages, as pip reads them."""
    found = {
        f"{one.metadata['Name']}=={one.version}\n" for one in importlib.metadata.distributions()
    }
    return "".join(sorted(found, key=str.lower)).encode()


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        ):
            for name, data in sorted(files.items()):
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data)
        Path(temporary).replace(target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
