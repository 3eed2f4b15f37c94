"""The index finds in a file what the reader reads from it, and refuses what the reader refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.cassette.lines import decode_line, encode_line
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.mode import Mode
from tests.support.command import ROOT
from tests.support.tiny_model import TinyModel, ask, recording, small_cassette

COMMITTED = sorted(
    [*(ROOT / "cassettes").glob("*.jsonl"), *(ROOT / "tests/data/drift").glob("*.jsonl")]
)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_it_finds_what_the_reader_reads(path: Path) -> None:
    whole = read_cassette(path)
    with CassetteIndex(path) as index:
        found = [index.call(entry) for entry in index.entries]
        assert [call.id for call in found] == list(whole.calls)
        for call in found:
            known = whole.calls[call.id]
            assert call.body == known.body
            assert index.completion_of(call).body == known.completion.body
        assert dict(index.texts) == whole.texts
        assert len(index.texts) == len(whole.texts)
        assert index.cassette.models == whole.models
        assert index.cassette.envs == whole.envs
        assert [run.id for run in index.cassette.runs] == [run.id for run in whole.runs]
        assert sum(usage.calls for usage in index.usage.values()) == len(whole.calls)


def test_equal_answers_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    whole = read_cassette(path)
    with CassetteIndex(path) as index:
        by_digest: dict[bytes, set[str]] = {}
        for entry in index.entries:
            call = index.call(entry)
            by_digest.setdefault(entry.answer, set()).add(whole.calls[call.id].completion.text)
    assert len(by_digest) == 3
    assert all(len(texts) == 1 for texts in by_digest.values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-40],
        lambda whole: whole.replace(b"fine", b"evil", 1),
        lambda whole: b"".join(whole.splitlines(keepends=True)[:-1]),
        lambda whole: whole + whole.splitlines(keepends=True)[-2],
        lambda whole: b"{}\n",
    ],
)
def test_damage_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CassetteDamagedError, match=r"c\.jsonl"):
        CassetteIndex(path)


def test_a_file_that_changes_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    with CassetteIndex(path) as index:
        path.write_bytes(b"x" * path.stat().st_size)
        with pytest.raises(CassetteDamagedError, match="changed while it was being read"):
            index.call(index.entries[0])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CassetteAccessError, match="there is no cassette"):
        CassetteIndex(tmp_path / "none.jsonl")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(CassetteAccessError, match="is a pipe or a device"):
        CassetteIndex(pipe)


def test_an_interrupted_recording_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    small_cassette(path)
    part = path.rename(tmp_path / "tiny.jsonl.part")
    with pytest.raises(CassetteAccessError, match="is an interrupted recording: finish it"):
        CassetteIndex(part)


def test_calls_know_the_seeds_of_the_runs_that_used_them(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    for seed, mode in ((7, Mode.RECORD), (8, Mode.AUTO)):
        with recording(path, mode=mode, run_seed=seed) as session:
            ask(session, TinyModel(), "of every run", seed=1)
            ask(session, TinyModel(), f"of run {seed}")
    with CassetteIndex(path) as index:
        prompts = {
            str(index.call(entry).body["messages"][0]["content"]): set(entry.seeds)  # type: ignore[index]
            for entry in index.entries
        }
    assert prompts == {"of every run": {7, 8}, "of run 7": {7}, "of run 8": {8}}


def test_a_call_that_became_another_record_since_the_file_was_opened_is_damage(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    with CassetteIndex(path) as index:
        entry = next(iter(index.entries))
        whole = path.read_bytes()
        line = whole[entry.offset : entry.offset + entry.length]
        record = decode_line(line if line.endswith(b"\n") else line + b"\n")
        # As long as it was, with a checksum that holds, and no call any more.
        record["scopx"] = record.pop("scope")
        other = encode_line(record)[: len(line)]
        assert len(other) == len(line)
        path.write_bytes(whole.replace(line, other, 1))
        with pytest.raises(CassetteDamagedError, match="changed while it was being read"):
            index.call(entry)
