"""Large cassettes: the same as any other, but read when asked for; no index is believed blindly."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.cassette import index_file, mapped, scan, store
from swarm_repro.cassette.lines import CHECKSUM_BYTES, encode_line
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallId
from swarm_repro.cassette.table import DIGEST_BYTES, Table
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteDamagedError, ReplayMiss, SwarmReproError
from swarm_repro.opening import describe_unplayed
from tests.support.command import ROOT
from tests.support.tiny_model import LONG, TinyModel, ask, recording, replaying, small_cassette

COMMITTED = sorted([*ROOT.glob("cassettes/*.jsonl"), *ROOT.glob("tests/data/drift/*.jsonl")])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test, in which an index is kept at once."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "_RACY_NS", 0)
    return tmp_path / "cache" / "indexes"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    return path


@pytest.fixture(scope="module")
def long_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("long") / "long.jsonl"
    with recording(path) as session:
        for number in range(1500):
            ask(session, TinyModel(), f"{LONG} {number % 700}", who=f"agent_{number // 500}")
    return path.read_bytes()


@pytest.fixture
def long(long_bytes: bytes, tmp_path: Path) -> Path:
    """Enough calls that nobody reads all of them by accident."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(long_bytes)
    return path


def content(cassette: Cassette) -> object:
    return (
        cassette.header,
        dict(cassette.texts),
        len(cassette.texts),
        cassette.models,
        cassette.envs,
        {call_id: (call, call.body, call.completion) for call_id, call in cassette.calls.items()},
        [call.id for call in cassette.calls.values()],
        [(run.id, set(run.calls), run.artifacts, run.metrics) for run in cassette.runs],
        {env: set(calls) for env, calls in cassette.witnesses.items()},
    )


@pytest.mark.parametrize("committed", COMMITTED, ids=lambda path: path.name)
def test_a_large_cassette_is_what_any_other_is(committed: Path, cache: Path) -> None:
    expected = content(read_cassette(committed))
    assert content(open_mapped(committed)) == expected
    assert list(cache.iterdir())
    assert content(open_mapped(committed)) == expected


def test_it_can_be_written_as_any_other(path: Path, tmp_path: Path) -> None:
    write_cassette(open_mapped(path), tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_an_archive_is_read_so_too(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "c.jsonl.zst"
    write_cassette(read_cassette(path), archive)
    assert content(open_mapped(archive)) == content(read_cassette(path))


def test_the_first_calls_are_found_without_the_rest_of_the_file(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        data = real(descriptor, length, offset)
        read.append(len(data))
        return data

    ids = list(read_cassette(long).calls)
    monkeypatch.setattr(scan, "_BUFFER_BYTES", 1 << 14)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        cassette = open_mapped(long)
        assert ids[0] in cassette.calls
        assert sum(read) < long.stat().st_size / 2
        assert ids[-1] in cassette.calls
        assert len(cassette.calls) == 1500
        assert sum(read) >= long.stat().st_size
        # Now there is an index.
        read.clear()
        again = open_mapped(long)
        assert again.calls[ids[-1]].completion.text.startswith("fine")
        assert ("nobody", ids[0][1], 0) not in again.calls
        assert sum(read) < 4096


# --- Sessions.


def as_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "MAPPED_FROM_BYTES", 0)


def test_a_replay_gives_the_same_and_says_the_same(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> list[str | None]:
        replay = replaying(long)
        said: list[str | None] = [
            ask(replay, TinyModel(), f"{LONG} {number}", who="agent_0").text for number in range(20)
        ]
        said.append(describe_unplayed(replay))
        with pytest.raises(ReplayMiss) as miss:
            ask(replay, TinyModel(), f"{LONG} twenty", who="agent_0")
        return [*said, str(miss.value)]

    expected = outcome()
    assert "1480 of 1500 calls" in str(expected[-2])
    as_large(monkeypatch)
    assert outcome() == expected
    assert outcome() == expected, "with an index"


def test_a_changed_copy_of_a_call_is_a_record_like_any_other(long: Path) -> None:
    call_id = next(iter(read_cassette(long).calls))
    for cassette in (open_mapped(long), read_cassette(long)):
        call = cassette.calls[call_id]
        copy = replace(call, i=99)
        assert (copy.i, copy.completion, copy.body) == (99, call.completion, call.body)
        assert copy != call
        assert replace(copy, i=call.i) == call


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shared": True},
        {"from_cache": True},
        {"shared": True, "from_cache": True},
        {"tokens": {"prompt": 5, "completion": None, "total": 7, "cached": 0}},
        {"duration_s": 1.25e-05},
        {"stored_response": {"status": 201}},
        {"stored_response": {"type": "application/json; of another kind"}},
    ],
    ids=str,
)
def test_each_member_is_what_the_line_says(changes: dict[str, Any], path: Path) -> None:
    cassette = read_cassette(path)
    calls = dict(cassette.calls)
    call_id, call = next(iter(calls.items()))
    if "stored_response" in changes:
        changes = {"stored_response": {**call.stored_response, **changes["stored_response"]}}
    calls[call_id] = replace(call, **changes)
    write_cassette(replace(cassette, calls=calls), path)
    expected = read_cassette(path).calls[call_id]
    for _ in ("without an index", "with one"):
        found = open_mapped(path).calls
        assert found[call_id].completion == expected.completion
        for field in fields(expected):
            told = getattr(found[call_id], field.name)
            assert told == getattr(expected, field.name), field.name
        assert len(found) == len(calls), "reads all of it"


def test_threads_find_all_calls_while_the_file_is_read(long: Path) -> None:
    ids = list(read_cassette(long).calls)
    cassette = open_mapped(long)

    def find(start: int) -> list[CallId]:
        return [cassette.calls[call_id].id for call_id in ids[start::8]]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(find, range(8)))
    assert found == [ids[start::8] for start in range(8)]


def test_a_forked_child_reads_on_by_itself(long: Path) -> None:
    ids = list(read_cassette(long).calls)
    cassette = open_mapped(long)
    assert ids[0] in cassette.calls
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os._exit(0 if len(cassette.calls) == 1500 else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert [call.id for call in cassette.calls.values()] == ids


# --- Calls of runs.


def test_calls_of_a_run_are_a_set_in_file_order(long: Path) -> None:
    ids = list(read_cassette(long).calls)
    (run,) = open_mapped(long).runs
    stranger = ("nobody", ids[7][1], 0)
    assert run.calls == set(ids)
    assert list(run.calls) == ids
    assert len(run.calls) == 1500
    assert ids[7] in run.calls
    assert stranger not in run.calls
    rest = run.calls - {*ids[:10], ids[20], stranger, ids[-1]}
    assert list(rest) == [*ids[10:20], *ids[21:-1]]
    assert len(rest) == 1488
    assert ids[20] not in rest
    assert rest < run.calls
    assert run.calls - set(ids) == set()
    assert run.calls & set(ids[:3]) == set(ids[:3])
    assert run.calls | {stranger} == {*ids, stranger}


# --- Damage, and indexes that are not believed.


def read_all(path: Path) -> object:
    return content(open_mapped(path))


def test_every_changed_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    expected = read_all(path)
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SwarmReproError):
            read_all(path)
    path.write_bytes(whole)
    assert read_all(path) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:-2],
        lambda lines: [*lines[:4], *lines[5:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:-1], b"\n", lines[-1]],
        lambda lines: [],
        lambda lines: lines[:1],
    ],
    ids=["no end", "no run", "a line less", "two ends", "an empty line", "empty", "a header"],
)
def test_a_file_that_is_not_whole_is_refused(
    change: Callable[[list[bytes]], list[bytes]], path: Path
) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(CassetteDamagedError):
        read_all(path)


def test_a_file_that_ends_with_a_call_is_refused_for_its_missing_end(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if line.startswith(b'{"record":"call"'))
    path.write_bytes(b"".join(lines[: last + 1]))
    with pytest.raises(CassetteDamagedError) as at_once:
        read_cassette(path)
    with pytest.raises(CassetteDamagedError) as mapped:
        read_all(path)
    assert str(mapped.value) == str(at_once.value)


def test_a_call_that_is_there_twice_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    call = next(line for line in lines if line.startswith(b'{"record":"call"'))
    path.write_bytes(b"".join([*lines[:-1], call, lines[-1]]))
    with pytest.raises(CassetteDamagedError, match="second recording"):
        read_all(path)


@pytest.mark.parametrize(
    "change",
    [
        (b'{"record":"text","text":', b'{"record":"text","text":1,"text":'),
        (b'{"record":"text","text":"A', b'{"record":"text","x":1,"text":"A'),
        (b',"i":0,"n":0,', b',"i":0,"n":' + b"9" * 5000 + b","),
        (b'"scope":"alice"', b'"scope":"al\\x"'),
        (b'"asked":"sr1', b'"asked":"\xff'),
    ],
    ids=["a member twice", "another member", "a long number", "a bad escape", "no UTF-8"],
)
def test_what_is_not_written_as_recorders_do_is_read_as_by_any_other_reader(
    change: tuple[bytes, bytes], path: Path
) -> None:
    lines = []
    for line in path.read_bytes().splitlines(keepends=True)[:-1]:
        body = line[:-CHECKSUM_BYTES].replace(*change)
        lines.append(b'%s,"crc32":"%08x"}\n' % (body, zlib.crc32(body + b"}")))
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = encode_line({"record": "end", "records": len(lines), "sha256": digest})
    path.write_bytes(b"".join([*lines, end]))
    try:
        expected = content(read_cassette(path))
    except CassetteDamagedError:
        with pytest.raises(CassetteDamagedError):
            read_all(path)
    else:
        assert read_all(path) == expected


def test_damage_that_was_found_is_found_again(long: Path) -> None:
    data = long.read_bytes()
    at = len(data) // 2
    long.write_bytes(data[:at] + bytes(1) + data[at + 1 :])
    cassette = open_mapped(long)
    for _ in range(2):
        with pytest.raises(CassetteDamagedError):
            len(cassette.calls)


def test_an_index_of_another_state_of_the_file_is_not_believed(
    path: Path, tmp_path: Path, cache: Path
) -> None:
    read_all(path)
    (index,) = cache.iterdir()
    old = index.read_bytes()
    with recording(tmp_path / "other.jsonl") as session:
        ask(session, TinyModel(), "something else")
    other = read_all(tmp_path / "other.jsonl")
    path.write_bytes((tmp_path / "other.jsonl").read_bytes())  # in place: the same file
    assert read_all(path) == other
    index.write_bytes(old)
    assert read_all(path) == other


def test_a_damaged_index_is_not_believed(path: Path, cache: Path) -> None:
    expected = read_all(path)
    (index,) = cache.iterdir()
    whole = index.read_bytes()
    for changed in (
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 13)),
        whole[:-1],
        whole[:20],
        b"",
    ):
        index.write_bytes(changed)
        assert read_all(path) == expected
        assert index.read_bytes() == whole, "a new one is kept"


def test_an_index_that_fits_by_its_times_alone_serves_nothing_wrong(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = index_file.State(1, 2, 3, 4, 5, bytes(32))
    monkeypatch.setattr(index_file.State, "of", lambda *_args: state)
    read_all(path)
    assert list(cache.iterdir())
    whole = path.read_bytes()
    at = whole.index(b'"content":"fine') + 12
    path.write_bytes(whole[:at] + b"F" + whole[at + 1 :])
    with pytest.raises(CassetteDamagedError, match="swarm-repro check"):
        read_all(path)
    assert not list(cache.iterdir())


def test_an_answer_that_is_served_through_an_index_is_what_it_was_when_that_was_made(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = index_file.State(1, 2, 3, 4, 5, bytes(32))
    monkeypatch.setattr(index_file.State, "of", lambda *_args: state)
    read_all(path)
    assert list(cache.iterdir())
    ids = list(read_cassette(path).calls)
    path.write_bytes(path.read_bytes().replace(b'"content":"fine', b'"content":"fire'))
    served = open_mapped(path).calls
    for call_id in ids:
        with pytest.raises(CassetteDamagedError, match="not the recorded ones"):
            served[call_id].decode_completion()


def test_every_call_and_no_other_is_found_through_an_index(long: Path) -> None:
    expected = read_cassette(long).calls
    assert len(open_mapped(long).calls) == len(expected), "its index is kept"
    find = open_mapped(long).calls.find  # type: ignore[attr-defined]
    for (scope, asked, n), call in expected.items():
        assert find((scope, asked, n)) == call
        assert find((scope, asked, n + 7)) is None
        assert find(("another", asked, n)) is None
        assert find((scope, f"{asked[:20]}{int(asked[20], 16) ^ 1:x}{asked[21:]}", n)) is None


@pytest.mark.parametrize("claimed_age_s", [0, 3600], ids=["now", "an hour ago by its time"])
def test_an_index_is_not_kept_of_a_file_that_was_written_just_now(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, claimed_age_s: int
) -> None:
    # As cp -p leaves it: what the file says of its content is old, the file itself is not.
    modified = path.stat().st_mtime - claimed_age_s
    os.utime(path, (modified, modified))
    monkeypatch.setattr(index_file, "_RACY_NS", 10**12)
    read_all(path)
    assert not cache.exists()


def test_a_cache_directory_that_cannot_be_written_is_no_error(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert read_all(path) == content(read_cassette(path))


def test_the_end_of_a_file_is_read_in_bounded_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_MOST_TAIL_BYTES", 1 << 17)
    lines = path.read_bytes().splitlines(keepends=True)
    filler = encode_line({"record": "filler", "text": "x" * (1 << 18)})
    path.write_bytes(b"".join([*lines[:-1], filler, lines[-1]]))
    with pytest.raises(CassetteDamagedError, match="too far from its end"):
        open_mapped(path)


# --- The table.


def test_a_table_finds_what_was_added_and_nothing_else() -> None:
    table = Table("QI")
    digests = [number.to_bytes(2, "big") * (DIGEST_BYTES // 2) for number in range(2000)]
    same_slot = [bytes(8) + number.to_bytes(8, "big") for number in range(50)]
    known = [*digests[1:], *same_slot]
    for number, digest in enumerate(known):
        assert table.add(digest, number * 3, number)
    assert not table.add(known[5], 0, 0)
    opened = Table("QI", memoryview(bytes(table.entry_bytes)), memoryview(bytes(table.slot_bytes)))
    for one in (table, opened):
        assert len(one) == len(known)
        assert [one.find(digest) for digest in known] == list(range(len(known)))
        assert one.content(7) == (21, 7)
        assert one.find(b"\xff" * DIGEST_BYTES) is None
    with pytest.raises(TypeError, match="the table is complete"):
        opened.add(b"\xff" * DIGEST_BYTES, 0, 0)
