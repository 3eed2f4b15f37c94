"""What was written once opens in every later version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.header import FORMAT
from swarm_repro.cassette.header import FORMATS as FORMATS_READ
from swarm_repro.cassette.lines import decode_line, encode_line
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import COUNTED, CallRecord
from swarm_repro.cassette.writer import write_cassette
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import TinyModel, ask, recording

FORMATS = ROOT / "tests" / "data" / "formats"
FILES = sorted(FORMATS.glob("*.jsonl"))


def test_there_is_a_cassette_of_every_format() -> None:
    assert [path.stem for path in FILES] == [str(number) for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"format {path.stem}")
def test_a_cassette_of_every_format_opens_and_is_whole(path: Path, tmp_path: Path) -> None:
    cassette = read_cassette(path)
    assert cassette.calls
    assert cassette.runs
    assert {call_id: call.completion for call_id, call in cassette.calls.items()} == {
        call_id: call.completion for call_id, call in open_mapped(path).calls.items()
    }
    assert check_cassette(path).findings == ()
    write_cassette(cassette, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes(), "it keeps its format"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"format {path.stem}")
def test_a_cassette_of_every_format_can_be_brought_to_the_newest(
    path: Path, tmp_path: Path
) -> None:
    newest = tmp_path / "newest.jsonl"
    swarm_repro("merge", "--upgrade", str(newest), str(path), cwd=tmp_path)
    assert read_cassette(newest).header.format == FORMAT
    assert read_cassette(newest).calls == read_cassette(path).calls
    assert read_cassette(newest).runs == read_cassette(path).runs
    assert check_cassette(newest).findings == ()


def test_what_is_recorded_anew_keeps_its_format(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello")
    old = read_cassette(path)
    write_cassette(replace(old, header=replace(old.header, format=1)), path)
    before = path.read_bytes()
    assert b'"format":1' in before
    for wording, changes in (("fine", False), ("changed", True)):
        with recording(path) as session:
            ask(session, TinyModel(wording=wording), "hello")
        assert (path.read_bytes() != before) == changes
        assert read_cassette(path).header.format == 1


MEMBERS = st.fixed_dictionaries(
    {
        "n": st.sampled_from([0, 1]),
        "at": st.sampled_from([None, (0, 3)]),
        "kind": st.sampled_from([None, "act"]),
        "sent": st.sampled_from(["sr1:" + "a" * 64, "sr1:" + "b" * 64]),
        "asked_seed": st.sampled_from([None, 0, 7]),
        "sent_seed": st.sampled_from([None, 0, 7]),
        "model": st.sampled_from(["stub", "default"]),
        "endpoint": st.sampled_from(["chat", "opaque"]),
        "path": st.sampled_from(["/v1/chat/completions", "/chat/completions", ""]),
        "stored_body": st.sampled_from([{}, {"model": "stub"}, {"model": None}, {"model": 5}]),
        "stored_response": st.builds(
            lambda status, kind: {"status": status, "type": kind, "json": {}, "sha256": "0" * 64},
            st.sampled_from([200, 201]),
            st.sampled_from(["application/json; charset=utf-8", "application/json", ""]),
        ),
        "tokens": st.fixed_dictionaries({name: st.sampled_from([None, 0, 9]) for name in COUNTED}),
        "prompt_sha256": st.sampled_from([None, "c" * 64]),
        "shared": st.booleans(),
        "masked": st.sampled_from([{}, {"request": ["a key"]}]),
    }
)


@given(MEMBERS, st.sampled_from(FORMATS_READ))
def test_a_call_is_the_same_in_every_format(members: dict[str, Any], number: int) -> None:
    call = CallRecord(
        scope="x", i=0, asked="sr1:" + "a" * 64, env="e", duration_s=0.5, texts={}, **members
    )
    line = encode_line(call.to_json(env=0, format=number))
    assert CallRecord.from_json(decode_line(line), texts={}, envs=["e"]) == call
