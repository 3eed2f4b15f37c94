"""The findings of a check: each line and record by name, and the calls lost with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.cassette.check import Finding, check_cassette, repair, repaired_path
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from tests.cassette.test_damage_messages import (
    CHANGED,
    CONFLICT,
    ENV_SHA256,
    FIRST,
    INTERRUPTED,
    NO_CALLS,
    NO_ENV,
    POINTER,
    TORN,
    WINDOWS,
    WRONG_TYPE,
    Records,
    drop,
    put,
    remove,
    twice,
)
from tests.cassette.test_damage_messages import ENV as ENV_LINE
from tests.cassette.test_damage_messages import MODEL as MODEL_LINE
from tests.cassette.test_damage_messages import RUN as RUN_LINE
from tests.cassette.test_damage_messages import TEXT as TEXT_LINE
from tests.cassette.test_damage_messages import WITNESS as WITNESS_LINE
from tests.cassette.test_reader import records, sealed
from tests.support.tiny_model import small_cassette

#: A finding as (line, record, what is wrong).
Found = tuple[int | None, str, str]
#: Calls lost, calls kept, runs kept, witnesses kept.
Kept = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "c.jsonl"
    small_cassette(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def at(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A file with one line changed."""

    def changed(whole: bytes) -> bytes:
        lines = lines_of(whole)
        lines[number - 1] = change(lines[number - 1])
        return b"".join(lines)

    return changed


def damaged(line: bytes) -> bytes:
    """A line with more than one bit flipped."""
    middle = len(line) // 2
    return line[:middle] + bytes([line[middle] ^ 3, line[middle + 1] ^ 5]) + line[middle + 2 :]


def garbled(line: bytes) -> bytes:
    return b"?" * len(line) + b"\n"


def lost(number: int) -> Callable[[bytes], bytes]:
    return at(number, lambda _line: b"")


def moved(number: int, to: int) -> Callable[[bytes], bytes]:
    def changed(whole: bytes) -> bytes:
        lines = lines_of(whole)
        lines.insert(to - 1, lines.pop(number - 1))
        return b"".join(lines)

    return changed


CALLS = ("call 0 of alice", "call 1 of alice", "call 0 of bob")
NO_MODEL = "a call of model 'tiny', which is not in the file before it"
NO_TEXT = (
    "refers to text 3adb2963582b131cb5bad9aba6fb08b5295e9c5505223c491a3e7a803cd09845, which is not "
    "in the file before it"
)
NO_HEADER = "without its header nothing of a cassette can be told"
NO_PLACES: Found = (None, "file", "the run of test names calls by places that are lost")
CUT_OFF: Found = (None, "file", "the end record is missing: the file was cut off")
ONE_LESS: Found = (10, "end", "9 records where 10 were written")
RIGHT: Found = (None, "file", "all of this can be put right: then it has the recorded SHA-256")
ALL: Kept = (0, 3, 1, 1)


def of_calls(start: int, why: str) -> list[Found]:
    return [(start + number, call, why) for number, call in enumerate(CALLS)]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], list[Found], Kept]] = {
    "the model": (
        at(2, damaged), [(2, "model", CHANGED), *of_calls(6, NO_MODEL)], (3, 0, 1, 1),
    ),
    "an environment": (at(3, damaged), [(3, "env", CHANGED)], ALL),
    "a witness's environment": (at(4, damaged), [(4, "env", CHANGED)], ALL),
    "a text": (
        at(5, damaged), [(5, "text", CHANGED), (6, CALLS[0], NO_TEXT)], (1, 2, 1, 1),
    ),
    **{
        CALLS[number]: (
            at(6 + number, damaged), [(6 + number, CALLS[number], CHANGED)], (1, 2, 1, 1),
        )
        for number in range(3)
    },
    "the run": (at(9, damaged), [(9, "run", CHANGED)], (0, 3, 0, 1)),
    "the witness": (at(10, damaged), [(10, "witness", CHANGED)], (0, 3, 1, 0)),
    "the end": (at(11, damaged), [(11, "end", CHANGED)], ALL),
    # Where it cannot be told which record a line was, places mean nothing any more.
    "a garbled model": (
        at(2, garbled), [(2, "line", TORN), *of_calls(6, NO_MODEL), NO_PLACES], (3, 0, 0, 0),
    ),
    "a garbled environment": (
        at(3, garbled),
        [(3, "line", TORN), (10, "witness", NO_ENV.format(1)), NO_PLACES],
        (0, 3, 0, 0),
    ),
    "a garbled text": (
        at(5, garbled), [(5, "line", TORN), (6, CALLS[0], NO_TEXT), NO_PLACES], (1, 2, 0, 0),
    ),
    "a garbled call": (
        at(7, garbled),
        [
            (7, "line", TORN),
            (9, "run", NO_CALLS.format([0, 3])),
            (10, "witness", NO_CALLS.format([0, 3])),
        ],
        (0, 2, 0, 0),
    ),
    "a garbled run": (at(9, garbled), [(9, "line", TORN)], (0, 3, 0, 0)),
    "a garbled witness": (at(10, garbled), [(10, "line", TORN), NO_PLACES], (0, 3, 0, 0)),
    "a garbled end": (at(11, garbled), [(11, "line", TORN), CUT_OFF, NO_PLACES], (0, 3, 0, 0)),
    "no model": (
        lost(2), [*of_calls(5, NO_MODEL), ONE_LESS, NO_PLACES], (3, 0, 0, 0),
    ),
    "no environment": (
        lost(3), [(9, "witness", NO_ENV.format(1)), ONE_LESS, NO_PLACES], (0, 3, 0, 0),
    ),
    "no text": (
        lost(5), [(5, CALLS[0], NO_TEXT), ONE_LESS, NO_PLACES], (1, 2, 0, 0),
    ),
    "a call less": (
        lost(7),
        [
            (8, "run", NO_CALLS.format([0, 3])),
            (9, "witness", NO_CALLS.format([0, 3])),
            ONE_LESS,
        ],
        (0, 2, 0, 0),
    ),
    "no run": (lost(9), [ONE_LESS], (0, 3, 0, 0)),
    "no witness": (lost(10), [ONE_LESS, NO_PLACES], (0, 3, 0, 0)),
    "no end": (lost(11), [CUT_OFF], ALL),
    "an end in between": (
        moved(11, 6),
        [
            (6, "end", "5 records where 10 were written"),
            (7, "end", "records after the end record"),
            CUT_OFF,
            NO_PLACES,
        ],
        (0, 3, 0, 0),
    ),
    "no line feed at the end": (lambda whole: whole[:-1], [(11, "end", TORN)], ALL),
    "a byte order mark": (
        lambda whole: b"\xef\xbb\xbf" + whole,
        [(1, "file", "a byte order mark before the first record"), RIGHT],
        ALL,
    ),
    "line ends of Windows": (
        lambda whole: whole.replace(b"\n", b"\r\n"),
        [(None, "file", f"11 lines: {WINDOWS}"), RIGHT],
        ALL,
    ),
    "some line ends of Windows": (
        at(3, lambda line: line[:-1] + b"\r\n"),
        [(None, "file", f"1 lines: {WINDOWS}"), RIGHT],
        ALL,
    ),
    "an empty line": (at(3, lambda line: line + b"\n"), [(4, "line", "an empty line"), RIGHT], ALL),
    "a line of spaces": (
        at(3, lambda line: line + b" \t\n"), [(4, "line", "an empty line"), RIGHT], ALL,
    ),
    "the header twice": (
        at(1, lambda line: line * 2), [(2, "cassette", "the same record as in line 1"), RIGHT], ALL,
    ),
    "a call twice": (
        at(6, lambda line: line * 2), [(7, "call", "the same record as in line 6"), RIGHT], ALL,
    ),
    "a call again after the end": (
        lambda whole: whole + lines_of(whole)[5],
        [(12, "call", "the same record as in line 6"), RIGHT],
        ALL,
    ),
    "one flipped bit": (
        at(7, lambda line: line[:50] + bytes([line[50] ^ 1]) + line[51:]),
        [(7, CALLS[1], CHANGED), RIGHT],
        ALL,
    ),
}  # fmt: skip

FORGED: dict[str, tuple[Callable[[Records], None], list[Found], Kept]] = {
    "no model": (remove(MODEL_LINE), of_calls(5, NO_MODEL), (3, 0, 1, 1)),
    "the model twice": (
        twice(MODEL_LINE),
        [
            (3, "model", "the same record as in line 2"),
            (12, "end", "10 records where 11 were written"),
            NO_PLACES,
        ],
        (0, 3, 0, 0),
    ),
    "another environment": (put(ENV_LINE, content={}), [(3, "env", ENV_SHA256)], ALL),
    "a text that is none": (
        put(TEXT_LINE, text=5),
        [(5, "text", "a text that is no string"), (6, CALLS[0], NO_TEXT)],
        (1, 2, 1, 1),
    ),
    "an environment that is not there": (
        put(FIRST, env=5), [(6, CALLS[0], NO_ENV.format(5))], ALL,
    ),
    "an environment that cannot be": (
        put(FIRST, env=-1), [(6, CALLS[0], NO_ENV.format(-1))], (1, 2, 1, 1),
    ),
    "token counts": (
        put(FIRST, tokens=[1, 2, 3, 4]),
        [(6, CALLS[0], "its token counts are not those of its answer")],
        (1, 2, 1, 1),
    ),
    "the kind of a call": (
        put(FIRST, endpoint="image"),
        [(6, CALLS[0], "an unknown kind of call: 'image'")],
        (1, 2, 1, 1),
    ),
    "the asked key": (
        put(FIRST, asked="sr1:" + "0" * 64),
        [(6, CALLS[0], "its asked key is not that of its request")],
        (1, 2, 1, 1),
    ),
    "the sent key": (
        put(FIRST, sent="sr1:" + "0" * 64),
        [(6, CALLS[0], "its sent key is not that of its request")],
        (1, 2, 1, 1),
    ),
    "a call without its ordinal": (
        drop(FIRST, "i"), [(6, "call", "the call cannot be read: KeyError('i')")], (1, 2, 1, 1),
    ),
    "a call without a scope": (put(FIRST, scope=5), [(6, "call", WRONG_TYPE)], (1, 2, 1, 1)),
    "calls of a run": (
        put(RUN_LINE, calls=[[0, 4]]), [(9, "run", NO_CALLS.format([0, 4]))], (0, 3, 0, 1),
    ),
    "a witness's environment": (
        put(WITNESS_LINE, env=9), [(10, "witness", NO_ENV.format(9))], (0, 3, 1, 0),
    ),
    "a record that nobody knows": (
        put(WITNESS_LINE, record="novelty"),
        [(10, "line", "an unknown record 'novelty'"), NO_PLACES],
        (0, 3, 0, 0),
    ),
    "a record of a .part": (
        put(WITNESS_LINE, record="batch"), [(10, "line", INTERRUPTED), NO_PLACES], (0, 3, 0, 0),
    ),
}  # fmt: skip


def assert_found(path: Path, data: bytes, expected: list[Found], kept: Kept) -> None:
    path.write_bytes(data)
    found = check_cassette(path)
    assert list(found.findings) == [Finding(*one) for one in expected]
    assert not found.is_whole
    assert found.path == path
    whole = found.whole
    assert (found.lost, len(whole.calls), len(whole.runs), len(whole.witnesses)) == kept
    for run in whole.runs:
        assert run.calls == whole.calls.keys()
    if whole.calls:
        repair(found, repaired_path(path))
        assert check_cassette(repaired_path(path)).is_whole
        assert read_cassette(repaired_path(path)).calls.keys() == whole.calls.keys()


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_costs_what_it_must(name: str, whole: bytes, path: Path) -> None:
    change, expected, kept = DAMAGE[name]
    assert_found(path, change(whole), expected, kept)


@pytest.mark.parametrize("name", FORGED)
def test_errors_under_right_checksums_are_named_too(name: str, whole: bytes, path: Path) -> None:
    change, expected, kept = FORGED[name]
    found = records(whole)
    change(found)
    assert_found(path, sealed(found), expected, kept)


def test_a_mended_file_is_as_it_was_written(whole: bytes, path: Path) -> None:
    for change, findings, _ in DAMAGE.values():
        path.write_bytes(change(whole))
        repaired_path(path).unlink(missing_ok=True)
        found = check_cassette(path)
        if found.whole.calls:
            repair(found, repaired_path(path))
            is_as_written = repaired_path(path).read_bytes() == whole
            assert is_as_written or RIGHT not in findings
            assert found.lost == 0 or not is_as_written


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (at(1, damaged), f":1: {CHANGED}; {NO_HEADER}"),
        (lost(1), f":1: the file does not begin with a cassette header; {NO_HEADER}"),
        (at(4, lambda _: b"<<<<<<< HEAD\n"), f":4: {CONFLICT}"),
        (at(7, lambda line: b"=======\n" + line), f":7: {CONFLICT}"),
        (lambda _: b"", ": the file is empty; restore it, or record it anew"),
        (
            lambda _: POINTER,
            f":1: this is a Git LFS pointer, not the cassette; run: git lfs pull; {NO_HEADER}",
        ),
    ],
)
def test_an_uncheckable_file_says_why(
    change: Callable[[bytes], bytes], says: str, whole: bytes, path: Path
) -> None:
    path.write_bytes(change(whole))
    with pytest.raises(CassetteDamagedError) as caught:
        check_cassette(path)
    assert str(caught.value) == f"{path}{says}"


def test_a_non_canonical_file_is_named_by_its_first_deviating_line(
    whole: bytes, path: Path
) -> None:
    found = records(whole)
    found[5], found[6] = found[6], found[5]
    assert_found(
        path,
        sealed(found),
        [(6, "line", "not what a recorder writes at this place: the file was put together anew")],
        ALL,
    )
    path.write_bytes(whole)
    assert check_cassette(path).is_whole


def test_a_wrong_digest_is_named_where_nothing_else_is_wrong(whole: bytes, path: Path) -> None:
    lines = lines_of(whole)
    end = {"record": "end", "records": 10, "sha256": "0" * 64}
    other = [(11, "end", "the file does not have the recorded SHA-256")]
    assert_found(path, b"".join([*lines[:-1], encode_line(end)]), list(other), ALL)
    lines[5] = damaged(lines[5])
    repaired_path(path).unlink()
    found = [(6, CALLS[0], CHANGED)]
    assert_found(path, b"".join([*lines[:-1], encode_line(end)]), list(found), (1, 2, 1, 1))


def test_a_call_of_a_part_may_be_there_twice(whole: bytes, path: Path) -> None:
    part = path.with_name("c.jsonl.part")
    lines = lines_of(whole)
    part.write_bytes(b"".join([*lines[:8], lines[5]]))
    found = check_cassette(part)
    assert (found.findings, len(found.whole.calls)) == ((), 3)
    part.write_bytes(b"".join([*lines[:8], lines[5][:40]]))
    assert check_cassette(part).findings == (), "its last line is torn"
    part.write_bytes(b"".join([*lines[:7], lines[7][:40] + b"\n"]))
    assert [one.record for one in check_cassette(part).findings] == ["call 0 of bob"]


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("c.jsonl", "c.repaired.jsonl"),
        ("c.jsonl.part", "c.repaired.jsonl"),
        ("c", "c.repaired"),
        ("a.b.jsonl", "a.b.repaired.jsonl"),
        ("c.jsonl.zst", "c.repaired.jsonl.zst"),
    ],
)
def test_a_repaired_file_has_its_own_name(name: str, repaired: str) -> None:
    assert repaired_path(Path("folder") / name) == Path("folder") / repaired


def test_a_file_that_is_not_repaired_says_why(whole: bytes, path: Path) -> None:
    path.write_bytes(lost(2)(whole))
    found = check_cassette(path)
    with pytest.raises(CassetteDamagedError) as caught:
        repair(found, repaired_path(path))
    assert str(caught.value) == f"{path}: no call in it is whole; restore an older version"
    repaired_path(path).touch()
    with pytest.raises(CassetteAccessError) as refused:
        repair(found, repaired_path(path))
    assert str(refused.value) == (
        f"{repaired_path(path)} is there already: move it away, then repair again"
    )
