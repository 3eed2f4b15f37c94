"""The methods paragraph of a bundle, and its manifest: from records made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from swarm_repro import __version__
from swarm_repro.bundle.crate import MANIFEST, crate, digests_of, runs_of
from swarm_repro.bundle.methods import Study, citation, files_of, methods_paragraph
from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.environment import Environment
from swarm_repro.model import ModelBinding, ModelIdentity
from swarm_repro.serving.models import KNOWN_MODELS
from tests.support.tiny_model import HEADER, make_binding, small_cassette

WEIGHTS = "a" * 64
FULL = {
    "backend": "llama-server", "build": "b7", "binary_sha256": "f" * 64, "cpu": "a CPU",
    "system": "Linux", "machine": "x86_64", "flags": ["-t", 4],
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Cassette:
    """Three calls of 5 prompt tokens and 3 completion tokens, two environments, one run."""
    path = tmp_path_factory.mktemp("small") / "small.jsonl"
    small_cassette(path)
    return read_cassette(path)


def study_of(*cassettes: Cassette, sources: dict[str, str] | None = None) -> Study:
    return Study({Path(f"{n}.jsonl"): one for n, one in enumerate(cassettes)}, sources or {})


def sentence(small: Cassette, word: str, **members: Any) -> str:
    """The sentence with a word in it, of a cassette that differs in some members."""
    found = methods_paragraph(study_of(replace(small, **members)))
    # Sentences end at a full stop before a capital; versions have others.
    parts = found.replace(". ", ".\n").splitlines()
    (one,) = [part for part in parts if word in part]
    return one


def test_the_paragraph_of_a_small_recording(small: Cassette) -> None:
    assert methods_paragraph(study_of(small)) == (
        "All 3 model calls (15 prompt and 9 completion tokens) were recorded once with "
        "swarm_repro 0.1.0 and are replayed from the recording, so that the results follow from "
        "it without the model. "
        f"The model tiny has the weights with SHA-256 {WEIGHTS} (source not stated), with the "
        f"chat template {'b' * 64}. "
        "It was run by llama-server, build b1 on a CPU, None None. "
        "It was run by llama-server, build b1 on another CPU, None None. "
        "Sampling seeds were derived from the run's seed, the agent and the ordinal of its call. "
        "The scenario test was simulated with swarm-safety unknown, 1 epochs of 2 steps, seed 7."
    )


def test_common_facts_of_several_cassettes_are_stated_once(small: Cassette) -> None:
    other = replace(
        small,
        header=replace(HEADER, recorder="0.0.9", seed_policy="content", strict=True),
        runs=[replace(run, seed=8, versions={"swarm-safety": "1.9.0"}) for run in small.runs],
    )
    said = methods_paragraph(study_of(small, other))
    assert said.startswith("All 6 model calls (30 prompt and 18 completion tokens) were recorded "
                           "once with swarm_repro 0.0.9, 0.1.0 and")  # fmt: skip
    assert said.count("The model tiny") == 1
    assert said.count("It was run by") == 2
    assert (
        "Sampling seeds were derived from the run's seed, the agent and the request or derived "
        "from the run's seed, the agent and the ordinal of its call."
    ) in said
    assert "strict" not in said, "one of the two was not"
    assert said.endswith(
        "The scenario test was simulated with swarm-safety 1.9.0, swarm-safety unknown, 1 epochs "
        "of 2 steps, seed 7, 8."
    )
    assert len(study_of(small, other).runs) == 2


def test_runs_of_other_lengths_have_sentences_of_their_own(small: Cassette) -> None:
    (run,) = small.runs
    runs = [replace(run, epochs=2), replace(run, scenario="a"), run]
    said = methods_paragraph(study_of(replace(small, runs=runs)))
    places = [said.index(text) for text in ("scenario a was", ("1 epochs of 2 steps, seed 7. The "
              "scenario test was"), "2 epochs of 2 steps")]  # fmt: skip
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("event", "derived from the run's seed, the agent and the ordinal of its call."),
        ("content", "derived from the run's seed, the agent and the request."),
        ("as-is", "as the program gave them."),
    ],
)
def test_the_seed_policy_is_stated(policy: Any, said: str, small: Cassette) -> None:
    header = replace(HEADER, seed_policy=policy)
    assert sentence(small, "Sampling seeds", header=header) == f"Sampling seeds were {said}"


def test_strict_mode_is_stated(small: Cassette) -> None:
    assert sentence(small, "strict", header=replace(HEADER, strict=True)) == (
        "Calls were made in strict mode: one slot, no prompt cache, an explicit seed for each."
    )


def test_calls_without_token_counts_count_as_none(small: Cassette) -> None:
    first, *rest = small.calls.values()
    calls = {call.id: call for call in rest}
    calls[first.id] = replace(first, tokens={"prompt": None, "completion": None})
    assert "All 3 model calls (10 prompt and 6 completion tokens)" in methods_paragraph(
        study_of(replace(small, calls=calls))
    )


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        (
            replace(
                make_binding(), identity=ModelIdentity("gguf", {"files": ["2" * 64, "1" * 64]})
            ),
            (
                f"has the weights with SHA-256 {'1' * 64} (source not stated), {'2' * 64} "
                f"(source not stated), with the chat template {'b' * 64}."
            ),
        ),
        (
            replace(make_binding(), template={"name": "chatml"}),
            (
                f"has the weights with SHA-256 {WEIGHTS} (source not stated), with the chat "
                "template chatml."
            ),
        ),
        (
            replace(make_binding(), template=None),
            f"has the weights with SHA-256 {WEIGHTS} (source not stated).",
        ),
    ],
    ids=["two files", "template by name", "no template"],
)
def test_a_model_is_known_by_its_files_and_its_template(
    binding: ModelBinding, said: str, small: Cassette
) -> None:
    assert sentence(small, "The model", models={"tiny": binding}) == f"The model tiny {said}"


def test_a_model_without_files_is_known_by_its_label_only(small: Cassette) -> None:
    identity = ModelIdentity("hosted", {"host": "api.example.org"})
    binding = replace(make_binding(), identity=identity)
    assert files_of(binding) == []
    assert files_of(replace(binding, identity=ModelIdentity("gguf", {"files": "abc"}))) == []
    assert files_of(make_binding()) == [WEIGHTS]
    assert sentence(small, "The model", models={"tiny": binding}) == (
        f"The model tiny is known by {identity.label} only."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            FULL,
            (f"It was run by llama-server, build b7 (SHA-256 of the binary {'f' * 64}) on a CPU, "
            "Linux x86_64 with the flags `-t 4`."),
        ),
        ({"backend": "hosted"}, "It was run by hosted, build unknown."),
        ({**FULL, "flags": [], "binary_sha256": None, "cpu": ""},
         "It was run by llama-server, build b7."),
        ({"backend": "x", "build": "1", "flags": "-t 4"}, "It was run by x, build 1."),
        ({"backend": "x", "build": "1", "flags": ("-t",)},
         "It was run by x, build 1 with the flags `-t`."),
    ],
    ids=["all", "nothing", "empty", "flags as text", "a tuple"],
)  # fmt: skip
def test_an_environment_is_described_as_far_as_it_is_known(
    content: dict[str, object], said: str, small: Cassette
) -> None:
    assert sentence(small, "It was run", envs={"x": Environment(content)}) == said


def test_known_models_need_no_source_and_a_source_that_is_given_wins(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    study = Study.of([path], sources={WEIGHTS: "https://example.org/m"})
    assert list(study.cassettes) == [path]
    assert study.source_of(WEIGHTS) == "https://example.org/m"
    assert study.source_of("0" * 64) is None
    assert f"{WEIGHTS} (https://example.org/m), with" in methods_paragraph(study)
    known = [model for model in KNOWN_MODELS.values() if model.sha256]
    assert known
    for model in known:
        source = study.source_of(model.sha256 or "")
        if model.url:
            assert source == model.url
        elif model.wheel:
            assert source == f"PyPI: {model.wheel.requirement}"
    first = known[0].sha256 or ""
    assert Study.of([path], sources={first: "mine"}).source_of(first) == "mine"


# --- The citation.


@pytest.mark.parametrize("title", ["Plain", 'On "trade"', "a \\ b", '\\"', "größer: x #1"])
def test_any_title_and_name_is_yaml(title: str) -> None:
    document = yaml.safe_load(citation(title=title, authors=[title, "B"]))
    assert document == {
        "cff-version": "1.2.0",
        "title": title,
        "message": "If you use these recordings, please cite them as below.",
        "type": "dataset",
        "authors": [{"name": title}, {"name": "B"}],
        "references": [
            {
                "type": "software",
                "title": "swarm_repro",
                "version": __version__,
                "authors": [{"name": "The swarm_repro developers"}],
            }
        ],
    }


# --- The manifest.

RUNS = [
    {"scenario": "scenarios/s.yaml", "cassette": "cassettes/c.jsonl", "seed": seed, "epochs": 2,
     "steps": 3}
    for seed in (5, 6)
]  # fmt: skip
FILES = {
    "cassettes/c.jsonl": b"c", "cassettes/c.jsonl.zst": b"z", "scenarios/s.yaml": b"s",
    "a/h.json": b"{}", "a/e.csv": b"", "METHODS.md": b"m", "CITATION.cff": b"f",
    "requirements.lock": b"l", "LICENSE": b"x",
}  # fmt: skip


def document_of(
    small: Cassette, authors: Sequence[str] = ("Ada", "Ben"), sources: dict[str, str] | None = None
) -> dict[str, Any]:
    return crate(FILES, study_of(small, sources=sources), title="T", authors=authors, runs=RUNS)


def test_a_manifest_gives_back_the_files_and_the_runs(small: Cassette) -> None:
    document = document_of(small)
    assert digests_of(document) == {name: sha256_hex(data) for name, data in FILES.items()}
    assert runs_of(document) == RUNS


def test_a_manifest_describes_every_file_author_and_run(small: Cassette) -> None:
    document = document_of(small, sources={WEIGHTS: "there"})
    graph = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(graph) == len(document["@graph"]), "each of them once"
    assert document["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    about, root = document["@graph"][:2]
    assert (about["@id"], about["about"]) == (MANIFEST, {"@id": "./"})
    assert about["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert (root["@id"], root["@type"], root["name"]) == ("./", "Dataset", "T")
    assert root["description"].startswith("Recorded model calls of a simulation")
    assert root["author"] == [{"@id": "#author-1"}, {"@id": "#author-2"}]
    assert [graph[f"#author-{number}"]["name"] for number in (1, 2)] == ["Ada", "Ben"]
    assert [one["@id"] for one in root["hasPart"]] == sorted(FILES)
    assert [one["@id"] for one in root["mentions"]] == [
        f"urn:sha256:{WEIGHTS}", "#swarm-repro", "#run-1", "#run-2",
    ]  # fmt: skip
    assert graph["#swarm-repro"]["softwareVersion"] == __version__
    assert graph[f"urn:sha256:{WEIGHTS}"] == {
        "@id": f"urn:sha256:{WEIGHTS}",
        "@type": "CreativeWork",
        "name": f"GGUF weights {'a' * 12}",
        "identifier": f"sha256:{WEIGHTS}",
        "description": "Where it came from: there",
    }
    assert graph["#run-2"] == {
        "@id": "#run-2",
        "@type": "CreateAction",
        "name": "replay of scenarios/s.yaml, seed 6",
        "instrument": {"@id": "#swarm-repro"},
        "object": [{"@id": "scenarios/s.yaml"}, {"@id": "cassettes/c.jsonl"}],
        "additionalProperty": [{"@id": f"#run-2-{name}"} for name in ("seed", "epochs", "steps")],
    }
    assert graph["#run-2-seed"] == {
        "@id": "#run-2-seed", "@type": "PropertyValue", "name": "seed", "value": 6,
    }  # fmt: skip
    assert graph["cassettes/c.jsonl"] == {
        "@id": "cassettes/c.jsonl",
        "@type": "File",
        "contentSize": "1",
        "encodingFormat": "application/jsonl",
        "sha256": sha256_hex(b"c"),
    }
    kinds = {name: graph[name]["encodingFormat"] for name in FILES}
    assert kinds == {
        "cassettes/c.jsonl": "application/jsonl",
        "cassettes/c.jsonl.zst": "application/zstd",
        "scenarios/s.yaml": "application/yaml",
        "a/h.json": "application/json",
        "a/e.csv": "text/csv",
        "METHODS.md": "text/markdown",
        "CITATION.cff": "application/yaml",
        "requirements.lock": "text/plain",
        "LICENSE": "text/plain",
    }


def test_weights_of_unknown_origin_are_marked_as_such(small: Cassette) -> None:
    graph = {entity["@id"]: entity for entity in document_of(small)["@graph"]}
    description = graph[f"urn:sha256:{WEIGHTS}"]["description"]
    assert description == "Where it came from: not stated"


def test_a_model_in_two_cassettes_is_described_once(small: Cassette) -> None:
    study = study_of(small, small)
    assert [model.name for model in study.models] == ["tiny"]
    assert len(study.environments) == 2
    document = crate(FILES, study, title="T", authors=["A"], runs=RUNS)
    names = [entity["@id"] for entity in document["@graph"]]
    assert names.count(f"urn:sha256:{WEIGHTS}") == 1
