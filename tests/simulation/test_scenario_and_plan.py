"""Reading a scenario, planning a run from options, and the error for each mistake."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from swarm_repro import __version__
from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.errors import CassetteAccessError, ScenarioError, SwarmReproError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.simulation.plan import Plan, RunOptions, Served, make_plan
from swarm_repro.simulation.scenario import LLMBlock, Scenario, load_scenario

LLM = {"provider": "llama_cpp"}
AGENT = {"type": "llm", "llm": LLM}
SMALLEST = {"agents": [AGENT]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, document: object, name: str = "town.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def load(folder: Path, **members: object) -> Scenario:
    return load_scenario(write(folder, {**SMALLEST, **members}))


def block(folder: Path, **members: object) -> LLMBlock:
    (found,) = load(folder, agents=[{"type": "llm", "llm": {**LLM, **members}}]).llms
    return found


# --- What is read.


def test_a_minimal_scenario(folder: Path) -> None:
    path = write(folder, SMALLEST)
    assert load_scenario(path) == Scenario(
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        id="town",
        seed=None,
        epochs=10,
        steps=10,
        llms=(LLMBlock("agents[0].llm", "http://localhost:8080/v1", None, None),),
        cassette=None,
        seed_policy="event",
        strict=False,
        requests=(),
    )


def test_a_complete_scenario(folder: Path) -> None:
    found = load(
        folder,
        scenario_id="my town",
        simulation={"seed": 5, "n_epochs": 2, "steps_per_epoch": 3},
        repro={
            "cassette": "kept/c.jsonl",
            "seed_policy": "content",
            "strict": True,
            "requests": [
                {"match": {"scope": "a", "kind": "act"}, "set": {"top_k": 1}},
                {"match": {"scope": 7}, "set": {}},
                {"set": {"stop": ["x"]}},
                {"match": None, "set": {"n": 1}},
            ],
        },
    )
    assert (found.id, found.seed, found.epochs, found.steps) == ("my town", 5, 2, 3)
    assert found.cassette == Path("kept/c.jsonl")
    assert (found.seed_policy, found.strict) == ("content", True)
    assert found.requests == (
        RequestRule({"scope": "a", "kind": "act"}, {"top_k": 1}),
        RequestRule({"scope": "7"}, {}),
        RequestRule({}, {"stop": ["x"]}),
        RequestRule({}, {"n": 1}),
    )


def test_empty_sections_change_nothing(folder: Path) -> None:
    plain = load(folder)
    empty = load(folder, simulation=None, repro=None)
    assert (empty.seed, empty.epochs, empty.strict) == (plain.seed, plain.epochs, plain.strict)
    assert load(folder, repro={"requests": None, "cassette": None}).requests == ()
    assert load(folder, simulation={"seed": -1}).seed is None


def test_every_model_of_agents_and_councils_is_found_in_order(folder: Path) -> None:
    found = load(
        folder,
        agents=[
            {"type": "honest", "count": 3},
            AGENT,
            {"type": "council", "council": {"members": [{"llm": LLM}, {"llm": LLM}]}},
            {"type": "llm", "count": 2, "llm": LLM},
            {},
        ],
    )
    assert [one.where for one in found.llms] == [
        "agents[1].llm",
        "agents[2].council.members[0].llm",
        "agents[2].council.members[1].llm",
        "agents[3].llm",
    ]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, ("http://localhost:8080/v1", None, None)),
        ({"base_url": "https://box:99/v1"}, ("https://box:99/v1", None, None)),
        ({"base_url": ""}, ("http://localhost:8080/v1", None, None)),
        ({"model_path": "m.gguf"}, (None, "m.gguf", None)),
        ({"model_path": "a..b/m.gguf", "base_url": "http://x/"}, (None, "a..b/m.gguf", None)),
        ({"model_path": ""}, ("http://localhost:8080/v1", None, None)),
        ({"seed": 5}, ("http://localhost:8080/v1", None, 5)),
        ({"llama_seed": 6}, ("http://localhost:8080/v1", None, 6)),
        ({"seed": 0, "llama_seed": 0}, ("http://localhost:8080/v1", None, 0)),
        ({"seed": 0}, ("http://localhost:8080/v1", None, 0)),
        ({"seed": 7, "llama_seed": -1}, ("http://localhost:8080/v1", None, 7)),
        ({"seed": -1, "llama_seed": 8}, ("http://localhost:8080/v1", None, 8)),
        ({"seed": 2.0}, ("http://localhost:8080/v1", None, 2)),
        ({"provider": "LLAMA_CPP"}, ("http://localhost:8080/v1", None, None)),
    ],
    ids=str,
)
def test_the_path_of_an_agents_model(
    members: dict[str, object], expected: tuple[object, ...], folder: Path
) -> None:
    found = block(folder, **members)
    assert (found.base_url, found.model_path, found.seed) == expected


# --- What is refused.


def council(value: object) -> dict[str, object]:
    return {"agents": [{"type": "council", "council": value}]}


def llm(value: object) -> dict[str, object]:
    return {"agents": [{"type": "llm", "llm": value}]}


NO_SEED = "seed {!r} is no seed: use 0 to 4294967294, or -1 for random"
NOT_RECORDED = "agents[0].llm: provider {!r} is not recorded by this version; use llama_cpp"
USES = "use match: {scope, kind} and set: {field: value}"

WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"scenario_id": ""}, "scenario_id '' cannot name a file"),
    ({"scenario_id": ".hidden"}, "scenario_id '.hidden' cannot name a file"),
    ({"scenario_id": "../x"}, "scenario_id '../x' cannot name a file"),
    ({"scenario_id": "a/b"}, "scenario_id 'a/b' cannot name a file"),
    ({"scenario_id": "a\\b"}, "scenario_id 'a\\\\b' cannot name a file"),
    ({"scenario_id": "a\0b"}, "scenario_id 'a\\x00b' cannot name a file"),
    ({"simulation": {"seed": "x"}}, f"simulation.seed: {NO_SEED.format('x')}"),
    ({"simulation": {"seed": -2}}, f"simulation.seed: {NO_SEED.format(-2)}"),
    ({"simulation": {"seed": True}}, f"simulation.seed: {NO_SEED.format(True)}"),
    *(
        (
            {"simulation": {name: wrong}},
            f"simulation.{name} must be a positive whole number, not {wrong!r}",
        )
        for name in ("n_epochs", "steps_per_epoch")
        for wrong in (0, -1, 1.5, "3", True, None)
    ),
    ({"agents": [5]}, "agents[0] is not a mapping"),
    ({"agents": [AGENT, "x"]}, "agents[1] is not a mapping"),
    (
        {"agents": [{**AGENT, "count": 0}]},
        "agents[0].count must be a positive whole number, not 0",
    ),
    ({"agents": [{"type": "llm"}]}, "agents[0].llm is not a mapping"),
    (llm("x"), "agents[0].llm is not a mapping"),
    (
        llm({}),
        NOT_RECORDED.format("anthropic"),
    ),
    *(
        (
            llm({"provider": name}),
            NOT_RECORDED.format(name.lower()),
        )
        for name in (
            "anthropic", "openai", "ollama", "openrouter", "groq", "together", "deepseek",
            "google", "OpenAI",
        )
    ),
    (llm({"provider": "x"}), "agents[0].llm: unknown provider 'x'; use llama_cpp"),
    *(
        (
            llm({**LLM, "model_path": path}),
            f"agents[0].llm: model_path must not climb with '..': {path}",
        )
        for path in ("../m.gguf", "a/../../m", "..\\m.gguf", "..")
    ),
    (
        llm({**LLM, "base_url": "ftp://x"}),
        "agents[0].llm: base_url 'ftp://x' is no http(s) address; write http://localhost:8080/v1",
    ),
    (
        llm({**LLM, "seed": 1, "llama_seed": 2}),
        "agents[0].llm: seed 1 and llama_seed 2 differ; give only one of them",
    ),
    (llm({**LLM, "seed": "x"}), f"agents[0].llm.seed: {NO_SEED.format('x')}"),
    (llm({**LLM, "llama_seed": -5}), f"agents[0].llm.llama_seed: {NO_SEED.format(-5)}"),
    (council(None), "agents[0].council is not a mapping"),
    (council({}), "agents[0].council has no members"),
    (council({"members": []}), "agents[0].council has no members"),
    (council({"members": {}}), "agents[0].council has no members"),
    (council({"members": [5]}), "agents[0].council.members[0] is not a mapping"),
    (council({"members": [{}]}), "agents[0].council.members[0].llm is not a mapping"),
    (
        {"repro": {"seed_policy": "random"}},
        "repro.seed_policy 'random' is unknown; use one of event, content, as-is",
    ),
    ({"repro": {"strict": "yes"}}, "repro.strict must be true or false, not 'yes'"),
    ({"repro": {"strict": 1}}, "repro.strict must be true or false, not 1"),
    ({"repro": {"strict": None}}, "repro.strict must be true or false, not None"),
    (
        {"repro": {"zeta": 1, "extra": 1}},
        "repro.extra is unknown; use cassette, requests, seed_policy, strict",
    ),
    ({"repro": {"requests": {"set": {}}}}, "repro.requests is not a list"),
    ({"repro": {"requests": [5]}}, "repro.requests[0] is not a mapping"),
    ({"repro": {"requests": [{}]}}, "repro.requests[0].set is not a mapping"),
    (
        {"repro": {"requests": [{"set": {}}, {"match": [], "set": 5}]}},
        "repro.requests[1].set is not a mapping",
    ),
    (
        {"repro": {"requests": [{"match": 5, "set": {}}]}},
        "repro.requests[0].match is not a mapping",
    ),
    ({"repro": {"requests": [{"set": {}, "unset": {}}]}}, f"repro.requests[0]: {USES}"),
    (
        {"repro": {"requests": [{"set": {}, "match": {"agent": "a"}}]}},
        f"repro.requests[0]: {USES}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("members", "why"), WRONG, ids=str)
def test_an_unsupported_setting_is_named_with_its_place(
    members: Mapping[str, Any], why: str, folder: Path
) -> None:
    path = write(folder, {**SMALLEST, **members})
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value) == f"scenario {path}: {why}"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"simulation": [1]}, "{}: simulation is not a mapping"),
        ({"repro": "strict"}, "{}: repro is not a mapping"),
        ({"agents": []}, "scenario {} has no agents; add an 'agents:' list"),
        ({"agents": None}, "scenario {} has no agents; add an 'agents:' list"),
        ({"agents": {"a": 1}}, "scenario {} has no agents; add an 'agents:' list"),
    ],
)
def test_a_section_of_the_wrong_kind_is_named(
    document: dict[str, object], why: str, folder: Path
) -> None:
    path = write(folder, {**SMALLEST, **document})
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value) == why.format(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "scenario {} is not a YAML mapping"),
        (b"- 1\n", "scenario {} is not a YAML mapping"),
        (b"a: [\n", "scenario {} is not YAML: "),
        (b"\xff\xfe\x00", "scenario {} is not YAML: "),
        (b"a: 2024-99-99\n", "scenario {} is not YAML: "),
        (b"a: {b: c, d\nx: }\n", "scenario {} is not YAML: "),
    ],
)
def test_an_invalid_scenario_file_is_refused(data: bytes, why: str, folder: Path) -> None:
    path = folder / "town.yaml"
    path.write_bytes(data)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(why.format(path))
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named_with_the_reason(folder: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(folder / "none.yaml")
    assert str(caught.value) == f"there is no scenario at {folder / 'none.yaml'}"
    with pytest.raises(ScenarioError) as caught:
        load_scenario(folder)
    assert str(caught.value) == f"scenario {folder} cannot be read: Is a directory"


def test_fields_that_are_not_json_are_refused(folder: Path) -> None:
    path = folder / "town.yaml"
    path.write_text("agents: [{type: honest}]\nrepro: {requests: [{set: {x: 2024-01-01}}]}\n")
    with pytest.raises(ScenarioError, match=re.escape("repro.requests[0].set: ")):
        load_scenario(path)


# --- Plans.


def plan(folder: Path, document: Mapping[str, object] = SMALLEST, **options: Any) -> Plan:
    return make_plan(RunOptions(write(folder, document), **{"mode": Mode.RECORD, **options}))


SEEDED = {**SMALLEST, "simulation": {"seed": 5, "n_epochs": 2, "steps_per_epoch": 3}}


def test_options_go_before_the_scenario(folder: Path) -> None:
    found = plan(folder, SEEDED)
    assert (found.seed, found.epochs, found.steps) == (5, 2, 3)
    assert found.cassette == Path("cassettes/town.seed5.jsonl")
    assert found.mode is Mode.RECORD
    served = Served(base_url="http://other/v1")
    found = plan(
        folder, SEEDED, seed=0, epochs=7, steps=8, cassette=Path("x.jsonl"), out=Path("out"),
        served=served,
    )  # fmt: skip
    assert (found.seed, found.epochs, found.steps) == (0, 7, 8)
    assert (found.cassette, found.out, found.served) == (Path("x.jsonl"), Path("out"), served)
    named = {**SEEDED, "repro": {"cassette": "kept.jsonl"}}
    assert plan(folder, named).cassette == Path("kept.jsonl")
    assert plan(folder, named, cassette=Path("x.jsonl")).cassette == Path("x.jsonl")


def test_a_recording_is_made_as_the_scenario_says(folder: Path) -> None:
    rules = [{"match": {"kind": "act"}, "set": {"top_k": 1}}]
    repro = {"seed_policy": "as-is", "strict": True, "requests": rules}
    found = plan(folder, {**SEEDED, "scenario_id": "city", "repro": repro})
    assert found.header == Header(
        recorder=__version__,
        scenario="city",
        seed_policy="as-is",
        strict=True,
        requests=(RequestRule({"kind": "act"}, {"top_k": 1}),),
    )


def test_without_a_mode_an_existing_cassette_is_replayed(folder: Path) -> None:
    path = write(folder, SEEDED)
    with pytest.raises(CassetteAccessError) as caught:
        plan(folder, SEEDED, mode=None)
    assert str(caught.value) == (
        "there is no cassette at cassettes/town.seed5.jsonl; record one with: swarm-repro run "
        f"{path} --seed 5 --record"
    )
    (folder / "x.jsonl").touch()
    assert plan(folder, SEEDED, mode=None, cassette=Path("x.jsonl")).mode is Mode.REPLAY


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "scenario {} sets no seed; give one with --seed"),
        ({"seed": -1}, "seed -1 is out of range: use 0 to 4294967294"),
        ({"seed": 2**32 - 1}, "seed 4294967295 is out of range: use 0 to 4294967294"),
        ({"seed": 1, "epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"seed": 1, "steps": 0}, "--steps must be at least 1, not 0"),
        ({"seed": 1, "steps": -3}, "--steps must be at least 1, not -3"),
        *(
            (
                {"seed": 1, "mode": mode, "update_artifacts": True},
                "--update-artifacts goes with --replay",
            )
            for mode in Mode
            if mode is not Mode.REPLAY
        ),
        *(
            (
                {"seed": 1, "mode": mode, "discard": True},
                "--discard goes with --record or --auto",
            )
            for mode in (Mode.REPLAY, Mode.VERIFY, Mode.LIVE)
        ),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any], why: str, folder: Path) -> None:
    path = write(folder, SMALLEST)
    with pytest.raises(UsageError) as caught:
        plan(folder, **options)
    assert str(caught.value) == why.format(path)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 2**32 - 2},
        {"seed": 0},
        {"seed": 1, "epochs": 1, "steps": 1},
        {"seed": 1, "mode": Mode.REPLAY, "update_artifacts": True},
        {"seed": 1, "mode": Mode.RECORD, "discard": True},
        {"seed": 1, "mode": Mode.AUTO, "discard": True},
    ],
    ids=str,
)
def test_options_that_make_one_are_taken(options: dict[str, Any], folder: Path) -> None:
    assert plan(folder, **options).seed == options["seed"]


def test_artifacts_go_into_a_folder_that_is_new(folder: Path) -> None:
    names: set[Path] = set()
    for _ in range(4):
        out = plan(folder, SEEDED).out
        assert not out.exists()
        assert out.parent == Path("runs")
        stamp = out.name.removeprefix("town.seed5.").split(".")[0]
        datetime.strptime(stamp, "%Y%m%d-%H%M%S")  # noqa: DTZ007 - only whether it is one
        out.mkdir(parents=True)
        names.add(out)
    assert len(names) == 4


def test_a_second_run_of_one_second_has_a_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Still:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr("swarm_repro.simulation.plan.datetime", Still)
    for ending in ("", ".2", ".3"):
        out = plan(folder, SEEDED).out
        assert str(out) == f"runs/town.seed5.20260102-030405{ending}"
        out.mkdir(parents=True)


def test_every_refusal_is_an_error_of_ours(folder: Path) -> None:
    assert issubclass(ScenarioError, SwarmReproError)
    with pytest.raises(SwarmReproError):
        make_plan(RunOptions(folder / "none.yaml"))
