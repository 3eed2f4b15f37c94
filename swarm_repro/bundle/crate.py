"""The manifest of a bundle: RO-Crate metadata, with the SHA-256 of every file.

Source: https://w3id.org/ro/crate/1.1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarm_repro import __version__
from swarm_repro.bundle.methods import Study, files_of
from swarm_repro.canonical import sha256_hex

MANIFEST: Final = "ro-crate-metadata.json"
_CONTEXT: Final = [
    "https://w3id.org/ro/crate/1.1/context",
    {"sha256": "https://w3id.org/ro/terms/sha256"},
]
_PROFILE: Final = "https://w3id.org/ro/crate/1.1"
#: What tells the runs of a scenario apart.
SETTINGS: Final = ("seed", "epochs", "steps")
_TYPES: Final = {
    ".jsonl": "application/jsonl",
    ".zst": "application/zstd",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".cff": "application/yaml",
}


def crate(
    files: Mapping[str, bytes],
    study: Study,
    *,
    title: str,
    authors: Sequence[str],
    runs: Sequence[Mapping[str, object]],
) -> dict[str, Any]:
    """The metadata document.

    Args:
        files: Contents by path in the bundle.
        study: What was recorded.
        title: Of the study.
        authors: Their names.
        runs: What ``bundle check`` replays: objects with ``scenario``, ``cassette``, ``seed``,
            ``epochs`` and ``steps``.
    """
    people = [{"@id": f"#author-{number}"} for number in range(1, len(authors) + 1)]
    weights = [_weights(sha256, study) for model in study.models for sha256 in files_of(model)]
    software = {
        "@id": "#swarm-repro",
        "@type": "SoftwareApplication",
        "name": "swarm_repro",
        "softwareVersion": __version__,
    }
    actions = [_action(number, run) for number, run in enumerate(runs, start=1)]
    settings = [
        _setting(number, name, run[name])
        for number, run in enumerate(runs, start=1)
        for name in SETTINGS
    ]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": "Recorded model calls of a simulation, and what is needed to replay them.",
        "author": people,
        "hasPart": [{"@id": name} for name in sorted(files)],
        "mentions": [{"@id": one["@id"]} for one in (*weights, software, *actions)],
    }
    about = {
        "@id": MANIFEST,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _PROFILE},
        "about": {"@id": "./"},
    }
    named = [
        {"@id": f"#author-{number}", "@type": "Person", "name": author}
        for number, author in enumerate(authors, start=1)
    ]
    described = [_file(name, data) for name, data in sorted(files.items())]
    graph = [about, root, *named, software, *weights, *actions, *settings, *described]
    return {"@context": _CONTEXT, "@graph": graph}


def _file(name: str, data: bytes) -> dict[str, Any]:
    suffix = name[name.rfind(".") :] if "." in name else ""
    return {
        "@id": name,
        "@type": "File",
        "contentSize": str(len(data)),
        "encodingFormat": _TYPES.get(suffix, "text/plain"),
        "sha256": sha256_hex(data),
    }


def _weights(sha256: str, study: Study) -> dict[str, Any]:
    source = study.source_of(sha256)
    return {
        "@id": f"urn:sha256:{sha256}",
        "@type": "CreativeWork",
        "name": f"GGUF weights {sha256[:12]}",
        "identifier": f"sha256:{sha256}",
        "description": f"Where it came from: {source or 'not stated'}",
    }


def _action(number: int, run: Mapping[str, object]) -> dict[str, Any]:
    """A replay, as an action with its scenario and its cassette."""
    return {
        "@id": f"#run-{number}",
        "@type": "CreateAction",
        "name": f"replay of {run['scenario']}, seed {run['seed']}",
        "instrument": {"@id": "#swarm-repro"},
        "object": [{"@id": run["scenario"]}, {"@id": run["cassette"]}],
        "additionalProperty": [{"@id": f"#run-{number}-{name}"} for name in SETTINGS],
    }


def _setting(number: int, name: str, value: object) -> dict[str, Any]:
    return {
        "@id": f"#run-{number}-{name}",
        "@type": "PropertyValue",
        "name": name,
        "value": value,
    }


def digests_of(document: object) -> dict[str, str]:
    """SHA-256 of every file that a metadata document lists, by path.

    Raises:
        KeyError: It is no such document.
        TypeError: It is no such document.
    """
    entities = _graph(document)
    return {entity["@id"]: entity["sha256"] for entity in entities if entity.get("@type") == "File"}


def runs_of(document: object) -> list[dict[str, Any]]:
    """What is to be replayed, as ``crate`` took it; errors as for ``digests_of``."""
    entities = _graph(document)
    values = {entity["@id"]: entity.get("value") for entity in entities}
    runs = []
    for entity in entities:
        if entity.get("@type") != "CreateAction":
            continue
        scenario, cassette = (one["@id"] for one in entity["object"])
        settings = {
            name: values[one["@id"]]
            for name, one in zip(SETTINGS, entity["additionalProperty"], strict=True)
        }
        runs.append({"scenario": scenario, "cassette": cassette, **settings})
    return runs


def _graph(document: object) -> list[dict[str, Any]]:
    graph: object = document["@graph"] if isinstance(document, dict) else None
    if not isinstance(graph, list):
        raise TypeError("no @graph")
    if not all(isinstance(entity, dict) and isinstance(entity.get("@id"), str) for entity in graph):
        raise TypeError("an entity without @id")
    return graph
