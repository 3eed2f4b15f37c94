"""The content of an index: each call, sums, progress, and errors about damage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.index import CassetteIndex, Usage, open_to_reread
from swarm_repro.cassette.lines import decode_line, encode_line
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from tests.support.recordings import Call, record
from tests.support.tiny_model import LONG, completion_of

Record = dict[str, Any]


def rewrite(path: Path, change: Callable[[Record], Record]) -> None:
    """Change records of a file, and make its checksums good."""
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        known: Record = decode_line(line)
        known.pop("crc32", None)
        if known["record"] != "end":
            lines.append(encode_line(change(known)))
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    lines.append(encode_line({"record": "end", "records": len(lines), "sha256": digest}))
    path.write_bytes(b"".join(lines))


def counted(prompt: int | None, completion: int | None) -> Record:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def test_an_entry_holds_what_the_record_says(tmp_path: Path) -> None:
    path = record(
        tmp_path / "c.jsonl",
        [
            Call("1", at=(1, 2), kind=None, fields={"seed": 5}),
            Call("1", "other", at=(1, 3), fields={"seed": 5}),
            Call("2", who="ben", at=None, kind="accept", fields={"seed": 5}),
        ],
        strict=True,
    )
    lines = path.read_bytes().splitlines(keepends=True)
    calls = list(read_cassette(path).calls.values())
    with CassetteIndex(path) as index:
        entries = list(index.entries)
        assert [index.call(entry).id for entry in entries] == [call.id for call in calls]
    for entry, call in zip(entries, calls, strict=True):
        assert (entry.scope, entry.i, entry.n) == (call.scope, call.i, call.n)
        assert (entry.at, entry.kind, entry.env) == (call.at, call.kind, call.env)
        assert (f"sr1:{entry.asked.hex()}", f"sr1:{entry.sent.hex()}") == (call.asked, call.sent)
        assert entry.seeds == {7}
        line = b"".join(lines)[entry.offset : entry.offset + entry.length]
        assert line in lines
    assert [entry.number for entry in entries] == [0, 1, 2]


def entries_of(folder: Path, *calls: Call) -> list[tuple[bytes, bytes]]:
    """Digests of settings and answers of calls recorded one by one."""
    found = []
    for number, call in enumerate(calls):
        path = record(folder / f"{number}.jsonl", [call])
        with CassetteIndex(path) as index:
            (entry,) = index.entries
            found.append((entry.settings, entry.answer))
    return found


def test_settings_ignore_texts_run_seeds_and_members_outside_the_key(
    tmp_path: Path,
) -> None:
    same = entries_of(
        tmp_path,
        Call("1"),
        Call("2", LONG, who="ben", at=None, system="You are ben."),
        Call("1", fields={"user": "me", "metadata": {"a": 1}}),
    )
    assert len({settings for settings, _ in same}) == 1


@pytest.mark.parametrize(
    "other",
    [
        Call("1", fields={"top_k": 3}),
        Call("1", fields={"seed": 3}),
        Call("1", kind="accept"),
        Call("1", path="/chat/completions"),
        Call("1", endpoint="completion"),
    ],
)
def test_settings_differ_in_every_other_member(tmp_path: Path, other: Call) -> None:
    one, two = entries_of(tmp_path, Call("1"), other)
    assert one[0] != two[0]


def test_answers_ignore_volatile_members_and_form(tmp_path: Path) -> None:
    answers = [
        completion_of("x"),
        completion_of("x", number=5),
        completion_of("y"),
        Completion(200, "text/event-stream", b'data: {"content": "x"}\n\ndata: [DONE]\n\n'),
        Completion(200, "text/event-stream", b'data: {"content": "y"}\n\ndata: [DONE]\n\n'),
        completion_of(LONG),
    ]
    digests = [answer for _, answer in entries_of(tmp_path, *(Call("1", one) for one in answers))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_usage_is_summed_by_scope_and_unknown_counts_are_none(tmp_path: Path) -> None:
    path = record(
        tmp_path / "c.jsonl",
        [
            Call("1", completion_of("x", usage=counted(10, 2), number=250)),
            Call("2", completion_of("x", usage=counted(None, 3), number=750)),
            Call("3", completion_of("x", usage=counted(7, None)), "ben"),
        ],
    )
    with CassetteIndex(path) as index:
        assert index.usage == {"ada": Usage(2, 10, 5, 1.5), "ben": Usage(1, 7, 0, 0.25)}


def test_progress_is_reported_at_the_beginning_and_every_thousand_lines(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [])
    lines = path.read_bytes().splitlines(keepends=True)[:1]
    lines += [encode_line({"record": "text", "text": f"text number {n}"}) for n in range(2_000)]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    lines.append(encode_line({"record": "end", "records": len(lines), "sha256": digest}))
    path.write_bytes(b"".join(lines))
    told: list[tuple[int, int]] = []
    with CassetteIndex(path, on_read=lambda *steps: told.append(steps)) as index:
        assert len(index.texts) == 2_000
    size = path.stat().st_size
    places = [sum(map(len, lines[:stop])) for stop in (1, 1_001, 2_001)]
    assert told == [(place, size) for place in places]


def test_texts_are_read_by_their_digest(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call(LONG), Call(LONG + "more")])
    whole = read_cassette(path)
    with CassetteIndex(path) as index:
        assert dict(index.texts) == whole.texts
        assert len(whole.texts) == 2
        assert set(index.texts) == set(whole.texts)
        for digest in ("0" * 64, "no digest"):
            with pytest.raises(CassetteDamagedError) as caught:
                index.texts[digest]
            assert f"a call refers to text {digest}, which is not in the file" in str(caught.value)
        assert "0" * 64 in index.texts, "that it is missing is told when it is asked for"


def test_a_run_without_a_seed_gives_its_calls_none(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1")])
    rewrite(path, lambda known: {**known, "seed": None} if known["record"] == "run" else known)
    with CassetteIndex(path) as index:
        assert [entry.seeds for entry in index.entries] == [frozenset()]
        assert [run.seed for run in index.cassette.runs] == [None]


def test_calls_of_runs_and_the_cassettes_own_are_not_held(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1")])
    with CassetteIndex(path) as index:
        assert (index.cassette.calls, index.cassette.texts) == ({}, {})
        assert [run.calls for run in index.cassette.runs] == [frozenset()]
        assert index.path == path


def damaged(path: Path, change: Callable[[Record], Record]) -> str:
    """The error about a file with changed records."""
    rewrite(path, change)
    with pytest.raises(CassetteDamagedError) as caught:
        CassetteIndex(path)
    return str(caught.value)


def changing(member: str, value: object, *, of: str = "call") -> Callable[[Record], Record]:
    def change(known: Record) -> Record:
        return {**known, member: value} if known["record"] == of else known

    return change


def test_a_second_recording_of_a_call_is_damage(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1"), Call("2")])
    first = next(iter(read_cassette(path).calls.values()))
    told = damaged(path, changing("asked", first.asked))
    assert f"a second recording of call 0 of {first.asked} in ada" in told
    assert str(path) in told


def test_runs_of_calls_that_are_not_there_are_damage(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1")])
    told = damaged(path, changing("calls", [[0, 2]], of="run"))
    assert "a range of calls that the file does not hold: [0, 2]" in told


def test_a_key_that_is_not_hexadecimal_is_damage(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1")])
    assert "key" in damaged(path, changing("asked", "sr1:" + "x" * 64))


def test_a_call_that_was_overwritten_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call(LONG)])
    with CassetteIndex(path) as index:
        (entry,) = index.entries
        call = index.call(entry)
        data = path.read_bytes()
        text = encode_line({"record": "text", "text": LONG})
        other = encode_line({"record": "tex_", "text": 1, "pad": "x"})
        assert text in data
        path.write_bytes(data.replace(text, other[:-2].ljust(len(text) - 2) + other[-2:]))
        with pytest.raises(CassetteDamagedError, match="changed while it was being read"):
            _ = call.body


def test_answers_are_checked_when_they_are_read(tmp_path: Path) -> None:
    path = record(tmp_path / "c.jsonl", [Call("1")])
    with CassetteIndex(path) as index:
        call = index.call(index.entries[0])
        assert index.completion_of(call).text == "fine"
    with pytest.raises(ValueError, match="closed"):
        index.call(index.entries[0])


def test_an_interrupted_recording_and_a_folder_of_that_name_are_distinguished(
    tmp_path: Path,
) -> None:
    part = tmp_path / "c.jsonl.part"
    part.write_bytes(b"")
    with pytest.raises(CassetteAccessError) as caught, open_to_reread(part):
        pass
    assert str(caught.value) == f"{part} is an interrupted recording: finish it with --auto"
    part.unlink()
    part.mkdir()
    with pytest.raises(CassetteAccessError) as caught, open_to_reread(part):
        pass
    assert str(caught.value) == f"{part} is a folder; name a cassette file in it"
