"""What was written once opens in every later version."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import FORMAT
from swarm_repro.cassette.writer import write_cassette
from tests.support.command import ROOT

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
    assert read_cassette(tmp_path / "again.jsonl").calls == cassette.calls
