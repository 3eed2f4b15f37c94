"""Compute the identities, keys and seeds in docs/reference/key-vectors.json.

    python scripts/make_key_vectors.py            # fill in what follows from the inputs
    python scripts/make_key_vectors.py --check    # write nothing; exit with 1 if the file is stale

The inputs are in the file itself: to add a vector, add an entry with ``name``, ``about``,
``model``, ``endpoint`` and ``body``, and run the script. What is in a released file never changes:
another recipe needs another key version.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from swarm_repro.errors import RequestError
from swarm_repro.model import ModelBinding, hosted_binding
from swarm_repro.request import KEY_VERSION, Request, content_seed, event_seed

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "key-vectors.json"
_INPUTS = ("name", "about", "model", "endpoint", "body", "same_as", "differs_from")
_OPAQUE_INPUTS = ("name", "about", "host", "path", "body")


def compute(vectors: Mapping[str, Any]) -> dict[str, Any]:
    """The whole file, from the inputs in it.

    Args:
        vectors: The file's content; what is not an input may be missing or wrong.

    Raises:
        ValueError: A request that should have no key has one.
    """
    models = {name: ModelBinding.from_json(record) for name, record in vectors["models"].items()}
    run_seed, scope = vectors["run_seed"], vectors["scope"]

    def request(entry: Mapping[str, Any]) -> Request:
        return Request(entry["endpoint"], models[entry["model"]], "", entry["body"])

    def keys(entry: Mapping[str, Any]) -> dict[str, Any]:
        asked = request(entry)
        derived = event_seed(run_seed=run_seed, scope=scope, i=0)
        sent_seed = derived if asked.seed is None else asked.seed
        return {
            **{name: entry[name] for name in _INPUTS if name in entry},
            "asked_seed": asked.seed,
            "sent_seed": sent_seed,
            "identity": asked.identity(seed=asked.seed).decode("utf-8"),
            "asked": asked.asked_key,
            "sent": asked.with_seed(sent_seed).asked_key,
        }

    for entry in vectors["rejected"]:
        if _has_key(request(entry)):
            raise ValueError(f"{entry['name']!r} has a key")

    def opaque(entry: Mapping[str, Any]) -> dict[str, Any]:
        asked = Request("opaque", hosted_binding(entry["host"]), entry["path"], entry["body"])
        return {
            **{name: entry[name] for name in _OPAQUE_INPUTS},
            "identity": asked.identity(seed=None).decode("utf-8"),
            "key": asked.asked_key,
        }

    seeds: dict[str, Any] = {"event_seeds": event_seed, "content_seeds": content_seed}
    return {
        **vectors,
        "key_version": KEY_VERSION,
        "keys": [keys(entry) for entry in vectors["keys"]],
        "opaque": [opaque(entry) for entry in vectors["opaque"]],
        **{
            name: [
                {**entry, "seed": derive(**{k: v for k, v in entry.items() if k != "seed"})}
                for entry in vectors[name]
            ]
            for name, derive in seeds.items()
        },
    }


def _has_key(request: Request) -> bool:
    try:
        request.key(seed=request.seed)
    except RequestError:
        return False
    return True


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the file is stale.")
def main(check: bool) -> None:
    """Bring docs/reference/key-vectors.json up to date."""
    before = TARGET.read_bytes()
    fresh = orjson.dumps(compute(orjson.loads(before)), option=orjson.OPT_INDENT_2) + b"\n"
    if not check:
        TARGET.write_bytes(fresh)
    elif before != fresh:
        click.echo(f"{TARGET.name} is stale; run: python scripts/make_key_vectors.py", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
