"""A study file: what is run, checked whole before anything runs.

Source: docs/reference/study-file.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from swarm_repro.canonical import encode_canonical, sha256_hex
from swarm_repro.cassette.archive import SUFFIX
from swarm_repro.errors import RequestError, ScenarioError, UsageError
from swarm_repro.simulation.scenario import Scenario, load_scenario
from swarm_repro.study.settings import apply, require_setting

_MEMBERS = frozenset(
    {"name", "scenarios", "seeds", "settings", "repeats", "epochs", "steps", "backend"}
    | {"cassettes", "out"}
)
_BACKEND_MEMBERS = frozenset({"kind", "model", "profile", "threads"})
#: More runs than this are taken for a mistake in a range.
_MOST_RUNS = 1_000_000
_NAME_LENGTH = 100

BackendKind = Literal["as-written", "llama-server", "llama-cpp-python"]
_KINDS: tuple[BackendKind, ...] = ("as-written", "llama-server", "llama-cpp-python")


@dataclass(frozen=True)
class StudyBackend:
    """Where the calls of a study go while it is recorded.

    Attributes:
        kind: ``as-written``: where each scenario says. ``llama-server``: a server of each worker's
            own. ``llama-cpp-python``: the model in each worker's process.
        model: Path of the GGUF, or its SHA-256, by which each worker finds it; None as written.
        profile: Profile of the workers' servers.
        threads: Threads of each worker's model; None shares the cores out.
    """

    kind: BackendKind = "as-written"
    model: str | None = None
    profile: str = "cpu-strict"
    threads: int | None = None


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        number: Its place in the study, from 0.
        name: What its folder and its cassette are called; unique in the study.
        group: What the runs of this scenario and settings are called together.
        scenario: Id of the scenario.
        source: The scenario file.
        document: The scenario with this run's settings, as YAML text.
        settings: What is set, by dotted path.
        seed: Seed of the run.
        repeat: Which repeat of the same seed and settings, from 0.
    """

    number: int
    name: str
    group: str
    scenario: str
    source: Path
    document: str
    settings: Mapping[str, object]
    seed: int
    repeat: int


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        path: The file.
        name: Its name.
        sha256: Digest of what decides its results: the runs, with their scenarios as they are now.
        runs: All runs, in the order of the tables.
        settings: Paths of the settings that vary, in the order of the file.
        epochs: Number of epochs; None takes the scenarios'.
        steps: Steps per epoch; None takes the scenarios'.
        backend: Where calls go while it is recorded.
        cassettes: Folder of the cassettes.
        out: Folder of the results.
    """

    path: Path
    name: str
    sha256: str
    runs: tuple[Run, ...]
    settings: tuple[str, ...]
    epochs: int | None
    steps: int | None
    backend: StudyBackend
    cassettes: Path
    out: Path

    def cassette_of(self, run: Run) -> Path:
        """A run's own cassette; an archive, where there is one instead."""
        plain = self.cassettes / f"{run.name}.jsonl"
        archive = plain.with_name(plain.name + SUFFIX)
        return archive if archive.exists() and not plain.exists() else plain


def load_study(path: Path) -> Study:
    """Read and check a study file, and the scenarios that it names.

    Relative paths in it are relative to the working directory, as in a scenario.

    Raises:
        UsageError: Missing, not YAML, an unknown or malformed member, an empty grid, a setting that
            a scenario does not have, a run twice.
        ScenarioError: A scenario that cannot be run.
    """
    document = _read(path, what="study")
    unknown = sorted(set(document) - _MEMBERS)
    if unknown:
        raise UsageError(
            f"study {path}: {unknown[0]!r} is unknown; use {', '.join(sorted(_MEMBERS))}"
        )
    try:
        name = _name(document.get("name", path.stem))
        grid = _grid(_or_empty(document.get("settings")))
        runs = tuple(_runs(document, grid))
        backend = _backend(_or_empty(document.get("backend")))
        _require_backend(runs, backend)
        groups = dict.fromkeys(run.group for run in runs)
        _refuse_repeated([*(run.name for run in runs), *groups], "the study")
        return Study(
            path=path,
            name=name,
            sha256=_digest(runs, document.get("epochs"), document.get("steps")),
            runs=runs,
            settings=tuple(grid),
            epochs=_optional_count(document, "epochs"),
            steps=_optional_count(document, "steps"),
            backend=backend,
            cassettes=Path(str(document.get("cassettes") or Path("cassettes") / name)),
            out=Path(str(document.get("out") or Path("studies") / name)),
        )
    except ScenarioError:
        raise
    except UsageError as error:
        raise UsageError(f"study {path}: {error}") from error


def _read(path: Path, *, what: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"there is no {what} at {path}") from error
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).replace("\n", " ")
        raise UsageError(f"{what} {path} is not YAML: {first}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{what} {path} is not a YAML mapping")
    return document


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _name(value: object) -> str:
    name = str(value)
    if not name or name.startswith(".") or any(character in name for character in "/\\\0"):
        raise UsageError(f"name {name!r} cannot name a folder")
    return name


def _grid(value: object) -> dict[str, list[object]]:
    if not isinstance(value, dict):
        raise UsageError("settings is not a mapping of paths to lists of values")
    grid: dict[str, list[object]] = {}
    for path, values in value.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"settings: {path} needs a list of one value or more, not {values!r}")
        _refuse_repeated([_encoded(item, str(path)) for item in values], f"settings: {path}")
        grid[str(path)] = values
    names = sorted(grid)
    for shorter in names:
        for longer in names:
            if longer.startswith(f"{shorter}."):
                raise UsageError(f"settings: {longer} is a part of {shorter}: name only one")
    return grid


def _encoded(value: object, path: str) -> bytes:
    try:
        # 0 and 0.0 are one setting.
        is_whole = isinstance(value, float) and value.is_integer()
        return encode_canonical(int(cast("float", value)) if is_whole else value)
    except RequestError as error:
        raise UsageError(f"settings: {path}: {error}") from error


def _refuse_repeated(values: Sequence[object], where: str) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            shown = value.decode() if isinstance(value, bytes) else value
            raise UsageError(f"{where} has {shown} twice: the same run would be made again")
        seen.add(value)


def _seeds(value: object) -> list[int]:
    if isinstance(value, dict):
        if set(value) - {"from", "count"} or "count" not in value:
            raise UsageError("seeds: use a list of seeds, or {from: 0, count: 100}")
        first, count = value.get("from", 0), value["count"]
        if type(first) is not int or type(count) is not int or count < 1:
            raise UsageError(f"seeds: from and count are whole numbers, not {first!r}, {count!r}")
        if count > _MOST_RUNS:
            raise UsageError(f"seeds: {count} of them are too many")
        value = list(range(first, first + count))
    if not isinstance(value, list) or not value:
        raise UsageError("seeds: give a list of one seed or more, or {from: 0, count: 100}")
    for seed in value:
        if type(seed) is not int or not 0 <= seed < 2**32 - 1:
            raise UsageError(f"seeds: {seed!r} is out of range: use 0 to 4294967294")
    if len(set(value)) < len(value):
        _refuse_repeated(value, "seeds")
    return value


def _runs(document: Mapping[str, Any], grid: Mapping[str, list[object]]) -> Iterator[Run]:
    named = document.get("scenarios")
    if not isinstance(named, list) or not named:
        raise UsageError("scenarios: give a list of one scenario file or more")
    sources = [Path(str(one)) for one in named]
    scenarios = [load_scenario(source) for source in sources]
    ids = [scenario.id for scenario in scenarios]
    for place, scenario_id in enumerate(ids):
        if scenario_id in ids[:place]:
            other = sources[ids.index(scenario_id)]
            raise UsageError(
                f"scenarios: {other} and {sources[place]} are both called {scenario_id!r}: give "
                "each a scenario_id of its own"
            )
    seeds = _seeds(document.get("seeds"))
    repeats = _optional_count(document, "repeats") or 1
    combinations = math.prod(len(values) for values in grid.values())
    total = len(sources) * combinations * len(seeds) * repeats
    if total > _MOST_RUNS:
        raise UsageError(f"{total} runs are too many; a study has at most {_MOST_RUNS}")
    number = 0
    for scenario, source in zip(scenarios, sources, strict=True):
        plain = _read(source, what="scenario")
        for path, values in grid.items():
            require_setting(plain, path, values, where=str(source))
        for combination in product(*grid.values()):
            settings = dict(zip(grid, combination, strict=True))
            text = _written(scenario, plain, settings)
            label = _label(scenario.id, settings)
            for seed in seeds:
                for repeat in range(repeats):
                    name = f"{label}.seed{seed}" + (f".repeat{repeat}" if repeats > 1 else "")
                    yield Run(
                        number, name, label, scenario.id, source, text, settings, seed, repeat
                    )
                    number += 1


def _written(scenario: Scenario, plain: Mapping[str, Any], settings: Mapping[str, object]) -> str:
    """The scenario of a run: as it is in its file, where nothing is set."""
    if not settings:
        return scenario.path.read_text(encoding="utf-8")
    changed = apply(plain, settings)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=100)


def _label(scenario_id: str, settings: Mapping[str, object]) -> str:
    """A folder name that says what is set; a digest where that is too long or no name."""
    said = [f"{path.rpartition('.')[2]}={_shown(value)}" for path, value in settings.items()]
    label = ".".join([scenario_id, *said])
    plain = all(character.isalnum() or character in "._=+-" for character in label)
    paths = {path.rpartition(".")[2] for path in settings}
    if plain and len(label) <= _NAME_LENGTH and len(paths) == len(settings):
        return label
    return f"{scenario_id}.{sha256_hex(encode_canonical(dict(settings)))[:12]}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else encode_canonical(value).decode()


def _optional_count(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{name} must be a positive whole number, not {value!r}")
    return value


def _backend(value: object) -> StudyBackend:
    if not isinstance(value, dict):
        raise UsageError("backend is not a mapping")
    unknown = sorted(set(value) - _BACKEND_MEMBERS)
    if unknown:
        known = ", ".join(sorted(_BACKEND_MEMBERS))
        raise UsageError(f"backend: {unknown[0]!r} is unknown; use {known}")
    kind = value.get("kind", "as-written")
    if kind not in _KINDS:
        raise UsageError(f"backend: kind {kind!r} is unknown; use one of {', '.join(_KINDS)}")
    model = value.get("model")
    if kind == "llama-server" and model is None:
        raise UsageError("backend: a server of each worker's own needs 'model', a path or SHA-256")
    if kind == "as-written" and set(value) - {"kind"}:
        raise UsageError("backend: as-written takes no other member: the scenarios say it all")
    return StudyBackend(
        kind=kind,
        model=None if model is None else str(model),
        profile=str(value.get("profile", "cpu-strict")),
        threads=_optional_count(value, "threads"),
    )


def _require_backend(runs: Sequence[Run], backend: StudyBackend) -> None:
    """Refuse a backend that a scenario's agents do not use.

    Raises:
        UsageError: They call the other one.
    """
    for source in dict.fromkeys(run.source for run in runs):
        for block in load_scenario(source).llms:
            is_server = block.model_path is None
            if backend.kind == ("llama-cpp-python" if is_server else "llama-server"):
                other = "base_url, without model_path" if not is_server else "model_path"
                raise UsageError(
                    f"backend: {backend.kind} cannot serve {block.where} of {source}: give it "
                    f"{other}"
                )


def _digest(runs: Sequence[Run], epochs: object, steps: object) -> str:
    said = [
        [run.name, sha256_hex(run.document.encode()), run.seed, run.repeat, dict(run.settings)]
        for run in runs
    ]
    return sha256_hex(encode_canonical([said, epochs, steps]))
