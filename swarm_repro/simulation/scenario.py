"""Reading a scenario: what SWARM will load, and the ``repro:`` block that it ignores.

Source: docs/reference/repro-block.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from swarm_repro.backends.llama_server import parse_address
from swarm_repro.canonical import encode_json, sha256_hex
from swarm_repro.cassette.header import SEED_POLICIES, RequestRule, SeedPolicy
from swarm_repro.errors import RequestError, ScenarioError, UsageError
from swarm_repro.request import normalise_seed

PROVIDER = "llama_cpp"
DEFAULT_BASE_URL = "http://localhost:8080/v1"

#: Providers SWARM knows that this version does not record.
_HOSTED = frozenset(
    {"anthropic", "openai", "ollama", "openrouter", "groq", "together", "deepseek", "google"}
)
_SETTINGS = frozenset({"cassette", "seed_policy", "strict", "requests"})


@dataclass(frozen=True)
class LLMBlock:
    """An ``llm:`` block of an agent or council member.

    Attributes:
        where: Its place in the file, for messages.
        base_url: Where the server is; None in process.
        model_path: The GGUF file in process; None over HTTP.
        seed: The caller's seed (``seed`` or ``llama_seed``), or None.
    """

    where: str
    base_url: str | None
    model_path: str | None
    seed: int | None


@dataclass(frozen=True)
class Scenario:
    """A scenario file.

    Attributes:
        path: The file.
        sha256: Digest of its bytes.
        id: Its ``scenario_id``, or the file's name.
        seed: Seed of the simulation in the file, or None.
        epochs: Number of epochs in the file.
        steps: Steps per epoch in the file.
        llms: Its model-backed agents and council members, one entry a block.
        cassette: Path of the cassette relative to the working directory, if the file names one.
        seed_policy: How calls without a seed get one.
        strict: Whether strict mode is on.
        requests: Fields to set on requests.
    """

    path: Path
    sha256: str
    id: str
    seed: int | None
    epochs: int
    steps: int
    llms: tuple[LLMBlock, ...]
    cassette: Path | None
    seed_policy: SeedPolicy
    strict: bool
    requests: tuple[RequestRule, ...]


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file.

    Raises:
        ScenarioError: Missing, not YAML, without agents, with a provider that cannot be recorded,
            with contradicting seeds, or with a malformed ``repro:`` block.
    """
    try:
        data = path.read_bytes()
        document = yaml.safe_load(data)
    except FileNotFoundError as error:
        raise ScenarioError(f"there is no scenario at {path}") from error
    except OSError as error:
        raise ScenarioError(f"scenario {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        first = str(error).replace("\n", " ")
        raise ScenarioError(f"scenario {path} is not YAML: {first}") from error
    if not isinstance(document, dict):
        raise ScenarioError(f"scenario {path} is not a YAML mapping")
    agents = document.get("agents")
    if not isinstance(agents, list) or not agents:
        raise ScenarioError(f"scenario {path} has no agents; add an 'agents:' list")
    simulation = _mapping(document.get("simulation") or {}, f"{path}: simulation")
    repro = _mapping(document.get("repro") or {}, f"{path}: repro")
    try:
        return Scenario(
            path=path,
            sha256=sha256_hex(data),
            id=_file_name(document.get("scenario_id", path.stem)),
            seed=_optional_seed(simulation.get("seed"), "simulation.seed"),
            epochs=_count(simulation.get("n_epochs", 10), "simulation.n_epochs"),
            steps=_count(simulation.get("steps_per_epoch", 10), "simulation.steps_per_epoch"),
            llms=tuple(_llm_blocks(agents)),
            cassette=Path(str(repro["cassette"])) if repro.get("cassette") else None,
            seed_policy=_seed_policy(repro.get("seed_policy", "event")),
            strict=_boolean(repro.get("strict", False)),
            requests=tuple(_rules(repro)),
        )
    except ScenarioError as error:
        raise ScenarioError(f"scenario {path}: {error}") from error


def _llm_blocks(agents: list[object]) -> Iterator[LLMBlock]:
    for number, agent in enumerate(agents):
        place = f"agents[{number}]"
        spec = _mapping(agent, place)
        _count(spec.get("count", 1), f"{place}.count")
        if spec.get("type") == "llm":
            yield _llm_block(spec.get("llm"), f"{place}.llm")
        elif spec.get("type") == "council":
            council = _mapping(spec.get("council"), f"{place}.council")
            members = council.get("members")
            if not isinstance(members, list) or not members:
                raise ScenarioError(f"{place}.council has no members")
            for index, member in enumerate(members):
                here = f"{place}.council.members[{index}]"
                yield _llm_block(_mapping(member, here).get("llm"), f"{here}.llm")


def _llm_block(value: object, where: str) -> LLMBlock:
    block = _mapping(value, where)
    provider = str(block.get("provider", "anthropic")).lower()
    if provider in _HOSTED:
        raise ScenarioError(
            f"{where}: provider {provider!r} is not recorded by this version; use {PROVIDER}"
        )
    if provider != PROVIDER:
        raise ScenarioError(f"{where}: unknown provider {provider!r}; use {PROVIDER}")
    model_path = block.get("model_path")
    if model_path is not None and ".." in str(model_path).replace("\\", "/").split("/"):
        raise ScenarioError(f"{where}: model_path must not climb with '..': {model_path}")
    base_url = str(block.get("base_url") or DEFAULT_BASE_URL)
    try:
        parse_address(base_url)
    except UsageError as error:
        raise ScenarioError(f"{where}: {error}") from error
    return LLMBlock(
        where=where,
        base_url=None if model_path else base_url,
        model_path=str(model_path) if model_path else None,
        seed=caller_seed(block, where),
    )


def caller_seed(block: Mapping[str, object], where: str) -> int | None:
    """The seed of an ``llm:`` block: ``seed`` and ``llama_seed`` mean the same; -1 is unset.

    Raises:
        ScenarioError: Both are set and differ, or one is no seed.
    """
    seed = _optional_seed(block.get("seed"), f"{where}.seed")
    llama_seed = _optional_seed(block.get("llama_seed"), f"{where}.llama_seed")
    if seed is not None and llama_seed is not None and seed != llama_seed:
        raise ScenarioError(
            f"{where}: seed {seed} and llama_seed {llama_seed} differ; give only one of them"
        )
    return seed if seed is not None else llama_seed


def _optional_seed(value: object, where: str) -> int | None:
    try:
        return normalise_seed(value)
    except RequestError as error:
        raise ScenarioError(f"{where}: {error}") from error


def _seed_policy(value: object) -> SeedPolicy:
    for policy in SEED_POLICIES:
        if value == policy:
            return policy
    raise ScenarioError(
        f"repro.seed_policy {value!r} is unknown; use one of {', '.join(SEED_POLICIES)}"
    )


def _rules(repro: Mapping[str, object]) -> Iterator[RequestRule]:
    unknown = sorted(set(repro) - _SETTINGS)
    if unknown:
        raise ScenarioError(f"repro.{unknown[0]} is unknown; use {', '.join(sorted(_SETTINGS))}")
    rules = repro.get("requests") or []
    if not isinstance(rules, list):
        raise ScenarioError("repro.requests is not a list")
    for number, rule in enumerate(rules):
        here = f"repro.requests[{number}]"
        given = _mapping(rule, here)
        match = _mapping(given.get("match") or {}, f"{here}.match")
        fields = _mapping(given.get("set"), f"{here}.set")
        if set(given) - {"match", "set"} or set(match) - {"scope", "kind"}:
            raise ScenarioError(f"{here}: use match: {{scope, kind}} and set: {{field: value}}")
        try:
            encode_json(dict(fields))
        except RequestError as error:
            raise ScenarioError(f"{here}.set: {error}") from error
        yield RequestRule(match={k: str(v) for k, v in match.items()}, fields=dict(fields))


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ScenarioError(f"{where} is not a mapping")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ScenarioError(f"repro.strict must be true or false, not {value!r}")
    return value


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ScenarioError(f"{where} must be a positive whole number, not {value!r}")
    return value


def _file_name(value: object) -> str:
    """The scenario id, which names files."""
    name = str(value)
    if not name or name.startswith(".") or any(character in name for character in "/\\\0"):
        raise ScenarioError(f"scenario_id {name!r} cannot name a file")
    return name
