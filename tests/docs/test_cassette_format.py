"""docs/reference/cassette.md: a reader made from the page alone reads a real file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.writer import canonical_lines
from tests.docs.test_key_vectors import derived, encode, key

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
EXAMPLE = REFERENCE / "example.jsonl"
FORMATS = Path(__file__).parents[1] / "data" / "formats"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, its checksums and digests checked."""
    data = path.read_bytes()
    records: list[dict[str, Any]] = []
    before = b""
    for line in data.splitlines(keepends=True):
        found = re.fullmatch(rb'(.*),"crc32":"([0-9a-f]{8})"\}\n', line)
        assert found is not None, line
        body, checksum = found.groups()
        assert f"{zlib.crc32(body + b'}'):08x}" == checksum.decode()
        records.append(json.loads(body + b"}"))
        if records[-1]["record"] != "end":
            before += line
    assert records[0]["record"] == "cassette"
    assert records[-1]["record"] == "end"
    assert records[-1]["records"] == len(records) - 1
    assert records[-1]["sha256"] == sha256(before)
    return records


def resolve(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [resolve(item, texts) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, member),) = value.items()
        if name == "$text":
            return texts[member]
        if re.fullmatch(r"\$\$+text", name):
            return {name[1:]: resolve(member, texts)}
    return {name: resolve(member, texts) for name, member in value.items()}


def body_of(response: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    if "json" in response:
        return encode(resolve(response["json"], texts), keep=True).encode()
    if "text" in response:
        text: str = resolve(response["text"], texts)
        return text.encode()
    if "base64" in response:
        return base64.b64decode(response["base64"])
    return b"".join(
        event.encode()
        if isinstance(event, str)
        else resolve(event["raw"], texts).encode()
        if "raw" in event
        else f"data: {encode(resolve(event['data'], texts), keep=True)}\n\n".encode()
        for event in response["events"]
    )


def in_full(call: dict[str, Any]) -> dict[str, Any]:
    """A call with what its absent members mean."""
    request = {"path": "/v1/chat/completions", **call["request"]}
    absent = {"n": 0, "sent": call["asked"], "seed": None, "endpoint": "chat"}
    call = {**absent, "model": request["body"].get("model"), **call, "request": request}
    if not isinstance(call["seed"], dict):
        call["seed"] = {"asked": call["seed"], "sent": call["seed"]}
    return call


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["record"] == kind]


def test_the_lines_on_the_page_are_lines_of_the_example() -> None:
    shown = re.findall(r"```jsonl\n(.*?)```", (REFERENCE / "cassette.md").read_text(), re.DOTALL)
    assert len(shown) >= 5
    for block in shown:
        assert block in EXAMPLE.read_text()


FILES = [(EXAMPLE, 7, 4), (FORMATS / "1.jsonl", 42, 28), (FORMATS / "2.jsonl", 42, 28)]


@pytest.mark.parametrize(("path", "run_seed", "calls"), FILES, ids=lambda value: str(value)[-9:])
def test_a_reader_made_from_the_page_gets_what_the_package_reads(
    path: Path, run_seed: int, calls: int
) -> None:
    records = read(path)
    models = {record["name"]: record for record in of_kind(records, "model")}
    envs = of_kind(records, "env")
    texts: dict[str, str] = {}
    served: dict[tuple[str, str, int], bytes] = {}
    assert all(env["sha256"] == sha256(encode(env["content"]).encode()) for env in envs)
    for record in records:
        if record["record"] == "text":
            assert len(record["text"].encode()) >= 256
            texts[sha256(record["text"].encode())] = record["text"]
        elif record["record"] == "call":
            record = in_full(record)
            request = resolve(record["request"]["body"], texts)
            model, endpoint = models[record["model"]], record["endpoint"]
            assert record["asked"] == key(model, endpoint, request, record["seed"]["asked"])
            assert record["sent"] == key(model, endpoint, request, record["seed"]["sent"])
            assert record["seed"]["sent"] == derived(
                "event", run_seed, record["scope"], record["i"]
            )
            body = body_of(record["response"], texts)
            assert sha256(body) == record["response"]["sha256"]
            backend = envs[record["env"]]["content"]["backend"]
            assert backend == model["backend"]
            served[record["scope"], record["asked"], record["n"]] = body
    assert len(served) == calls
    cassette = read_cassette(path)
    assert served == {name: call.completion.body for name, call in cassette.calls.items()}


def test_the_example_is_in_canonical_order() -> None:
    assert b"".join(canonical_lines(read_cassette(EXAMPLE))) == EXAMPLE.read_bytes()


def test_the_page_lists_every_member_in_the_order_of_the_file() -> None:
    page = (REFERENCE / "cassette.md").read_text()
    for record in read(EXAMPLE):
        kind = record["record"]
        section = page.split(f"### `{kind}`\n", 1)[1].split("\n### ", 1)[0]
        section = re.sub(r"```.*?```", "", section, flags=re.DOTALL)
        places = [section.index(f"`{member}`") for member in record if member != "record"]
        assert places == sorted(places), kind
