"""A recording from before credentials were masked: masked parts and unchanged parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.redact import redact
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteDamagedError
from swarm_repro.request import Request
from tests.support.tiny_model import (
    LONG,
    TinyModel,
    ask,
    chat,
    completion_of,
    make_run,
    recording,
)

KEY = "sk-ant-api03-" + "aB3x" * 20


@pytest.fixture
def before(tmp_path: Path) -> Cassette:
    """A recording as an older version wrote it: one call with credentials, one without."""
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello")
        ask(session, TinyModel(), "with a key")
    cassette = read_cassette(path)
    first, second = cassette.calls.values()
    request: Request = chat(f"{LONG} my key is {KEY}", seed=second.sent_seed)
    leaked = CallRecord.make(
        request=request,
        completion=completion_of(f"{KEY} and {KEY}"),
        scope=second.scope,
        i=second.i,
        n=second.n,
        at=second.at,
        asked=second.asked,
        sent=second.sent,
        asked_seed=second.asked_seed,
        env=second.env,
        prompt_sha256=second.prompt_sha256,
    )
    calls = {first.id: first, leaked.id: leaked}
    write_cassette(replace(cassette, calls=calls, runs=[make_run(dict.fromkeys(calls))]), path)
    assert KEY.encode() in path.read_bytes()
    return read_cassette(path)


def test_credentials_are_masked_in_requests_and_answers(before: Cassette, tmp_path: Path) -> None:
    masked, found = redact(before)
    first, second = before.calls.values()
    assert set(found) == {second.id}
    assert sum(found[second.id].values()) == 3
    (kind,) = found[second.id]
    assert found == {second.id: Counter({kind: 3})}
    write_cassette(masked, tmp_path / "masked.jsonl")
    assert KEY.encode() not in (tmp_path / "masked.jsonl").read_bytes()
    after = read_cassette(tmp_path / "masked.jsonl")
    assert after.calls.keys() == before.calls.keys(), "keys are those that were recorded"
    assert after.calls[first.id] == first
    call: Any = after.calls[second.id]
    assert call.masked == {"request": [kind], "response": [kind]}
    assert (call.asked, call.sent, call.path) == (second.asked, second.sent, second.path)
    assert call.body["messages"][0]["content"].startswith(f"{LONG} my key is ")
    assert call.completion.text.count(" and ") == 1
    assert [run.calls for run in after.runs] == [run.calls for run in before.runs]
    # What was masked is masked, and stays noted.
    again, found = redact(after)
    assert found == {}
    assert again.calls == after.calls
    assert again.texts is after.texts


def test_a_recording_without_credentials_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), LONG)
    plain = read_cassette(path)
    masked, found = redact(plain)
    assert found == {}
    assert masked == plain
    write_cassette(masked, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_kinds_that_were_masked_already_are_kept(before: Cassette) -> None:
    second = list(before.calls.values())[1]
    noted = replace(second, masked={"request": ["an old kind"]})
    masked, found = redact(replace(before, calls={second.id: noted}))
    (kind,) = found[second.id]
    call = masked.calls[second.id]
    assert call.masked == {"request": sorted([kind, "an old kind"]), "response": [kind]}


def test_damage_is_named(before: Cassette) -> None:
    first = next(iter(before.calls.values()))
    damaged = replace(first, stored_response={**first.stored_response, "sha256": "0" * 64})
    with pytest.raises(CassetteDamagedError, match="call 0 of alice: the response's bytes"):
        redact(replace(before, calls={first.id: damaged}))
