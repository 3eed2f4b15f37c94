"""The message for each kind of damage: the file, the line and the fault, word by word."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.part import read_part
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from tests.cassette.test_reader import records, sealed
from tests.support.tiny_model import small_cassette

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "c.jsonl"
    small_cassette(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


#: The lines of the example, from 1.
HEADER, MODEL, ENV, SECOND_ENV, TEXT, FIRST, SECOND, THIRD, RUN, WITNESS, END = range(1, 12)


def put(line: int, **members: Any) -> Callable[[Records], None]:
    """Other members in a record."""
    return lambda found: found[line - 1].update(members)


def drop(line: int, *names: str) -> Callable[[Records], None]:
    """A record without some members."""

    def change(found: Records) -> None:
        for name in names:
            del found[line - 1][name]

    return change


def remove(line: int) -> Callable[[Records], None]:
    def change(found: Records) -> None:
        del found[line - 1]

    return change


def twice(line: int) -> Callable[[Records], None]:
    return lambda found: found.insert(line - 1, dict(found[line - 1]))


WRONG_TYPE = "the call has a member of the wrong type"
RUN_OF_WRONG_TYPE = "the run has a member of the wrong type"
NO_ENV = "refers to environment record {}, which is not in the file before it"
NO_CALLS = "a range of calls that the file does not hold: {}"
KEY = "sr1:9356f69e3153ff62a146cc629f3404f11337cd75b86d2c3e1779ee5b854a292b"
ENV_SHA256 = "an environment that does not have the recorded SHA-256"
UNKNOWN_KIND = (
    "a record's member is missing or wrong: TypeError('unknown kind of model identity or backend')"
)
INTERRUPTED = (
    "an interrupted recording: the end record is missing; give the file back its name, which ends "
    "in .part, and go on with --auto"
)

#: Members that no recorder writes so.
IN_A_CALL: dict[str, tuple[object, ...]] = {
    "scope": (5, None),
    "i": (-1, True, "0", None, 1.0),
    "n": (-1, True, "0", 1.5),
    "at": (["a", 1], [-1, 0], [0, -1], [0, None], [True, 0]),
    "kind": (5, []),
    "asked": ("", "sr1:zz", "sr1:" + "a" * 63, "sr1:" + "a" * 65, "sr2:" + "a" * 64, 5),
    "sent": ("", "sr1:" + "A" * 64, "sr1:" + "a" * 64 + "\n", None),
    "seed": ([], "7", 1.5, True, {"asked": "1", "sent": 1}, {"asked": 1, "sent": True}),
    "model": (5, None),
    "endpoint": (5, None),
    "request": ({"path": 5, "body": {"model": "tiny"}},),
    "tokens": ([1, 2, 3, "4"], [1, 2, 3, True], [0.5, 0, 0, 0]),
    "prompt_sha256": (5, []),
    "duration_s": ("1", None, []),
    "masked": ([], None, {"request": "a key"}, {"response": None}),
}
IN_A_RUN: dict[str, tuple[object, ...]] = {
    "scenario": (5, None),
    "scenario_sha256": (None, []),
    "seed": (True, "7", 1.5),
    "epochs": (1.5, None, True, "1"),
    "steps": (1.5, None, True, "1"),
    "versions": ([], None, {"python": 3}),
    "metrics": ([5], "x", [{}, None]),
    "artifacts": (
        {"a": {"sha256": 1, "rounded_sha256": ""}},
        {"a": {"sha256": "", "rounded_sha256": None}},
    ),
}
NO_LISTS: tuple[object, ...] = (5, {}, None, "[]")
NO_PLACES: tuple[object, ...] = (2, -1, None, "1", [])

#: What is changed, in which line that is seen, and what is said. Three dots stand for the words of
#: Python, which are others in each version.
WRONG_RECORDS: list[tuple[Callable[[Records], None], int, str]] = [
    (put(HEADER, record="model"), 1, "the file does not begin with a cassette header"),
    (remove(HEADER), 1, "the file does not begin with a cassette header"),
    (twice(HEADER), 2, "an unknown record 'cassette'"),
    *(
        (drop(HEADER, name), 1, f"the header cannot be read: '{name}'")
        for name in ("seed_policy", "requests", "recorder", "scenario", "strict")
    ),
    *(
        (
            put(HEADER, **members),
            1,
            "the header cannot be read: unknown seed policy or malformed requests",
        )
        for members in ({"seed_policy": "random"}, {"requests": "x"}, {"seed_policy": None})
    ),
    (put(HEADER, requests=[{"set": {}}]), 1, "the header cannot be read: 'match'"),
    (put(HEADER, requests=[{"match": {}}]), 1, "the header cannot be read: 'set'"),
    (put(HEADER, requests=[5]), 1, "the header cannot be read: ..."),
    (twice(MODEL), 3, "two model records are called 'tiny'"),
    (remove(MODEL), 5, "a call of model 'tiny', which is not in the file before it"),
    *(
        (drop(MODEL, name), 2, f"a record's member is missing or wrong: KeyError('{name}')")
        for name in ("name", "backend", "identity", "template", "defaults")
    ),
    *(
        (
            put(MODEL, **members),
            2,
            UNKNOWN_KIND,
        )
        for members in ({"identity": {"kind": "md5"}}, {"backend": None}, {"backend": "guess"})
    ),
    *(
        (
            put(MODEL, **{name: wrong}),
            2,
            f"a record's member is missing or wrong: TypeError('expected an object, found {kind}')",
        )
        for name in ("identity", "template", "defaults")
        for wrong, kind in (([], "list"), (5, "int"), (None, "NoneType"))
        if wrong is not None or name != "template"  # which a model may lack
    ),
    (twice(ENV), 4, "an environment that is in the file already"),
    (remove(ENV), 9, NO_ENV.format(1)),
    (remove(SECOND_ENV), 9, NO_ENV.format(1)),
    (put(ENV, content=[]), 3, "an environment without content"),
    (put(ENV, content=None), 3, "an environment without content"),
    (put(ENV, content={}), 3, ENV_SHA256),
    (put(ENV, sha256="0" * 64), 3, ENV_SHA256),
    (put(ENV, sha256=None), 3, ENV_SHA256),
    (drop(ENV, "content"), 3, "a record's member is missing or wrong: KeyError('content')"),
    (drop(ENV, "sha256"), 3, "a record's member is missing or wrong: KeyError('sha256')"),
    (put(TEXT, text=5), 5, "a text that is no string"),
    (put(TEXT, text=None), 5, "a text that is no string"),
    (drop(TEXT, "text"), 5, "a record's member is missing or wrong: KeyError('text')"),
    (put(FIRST, model="other"), 6, "a call of model 'other', which is not in the file before it"),
    *(
        (put(SECOND, env=place), 7, NO_ENV.format(place))
        for place in (2, -1, 10**9, 0.5, "0", None, [0])
    ),
    *(
        (drop(FIRST, name), 6, f"the call cannot be read: KeyError('{name}')")
        for name in ("scope", "i", "asked", "env", "request", "response", "tokens", "duration_s")
    ),
    *(
        (put(THIRD, **{name: wrong}), 8, WRONG_TYPE)
        for name, wrongs in IN_A_CALL.items()
        for wrong in wrongs
    ),
    *(
        (put(FIRST, **members), 6, f"the call cannot be read: {why}")
        for members, why in (
            ({"at": 5}, "TypeError(..."),
            ({"at": [1]}, "IndexError(..."),
            ({"at": {}}, "KeyError(0)"),
            ({"seed": {"asked": None}}, "KeyError('sent')"),
            ({"seed": {"sent": None}}, "KeyError('asked')"),
            ({"request": "x"}, "TypeError(..."),
            ({"request": {"path": "/"}}, "KeyError('body')"),
            ({"request": {"path": "/", "body": []}}, "AttributeError(..."),
            ({"response": []}, "TypeError(..."),
            ({"tokens": [1, 2, 3]}, "ValueError(..."),
            ({"tokens": [1, 2, 3, 4, 5]}, "ValueError(..."),
            ({"tokens": 5}, "TypeError(..."),
            # As in format 1, where nothing is left out.
            ({"tokens": {"prompt": 1}}, "KeyError('at')"),
        )
    ),
    (twice(FIRST), 7, f"a second recording of call 0 of {KEY} in alice"),
    *(
        (put(line, calls=wrong), line, "calls is not a list of ranges")
        for line in (RUN, WITNESS)
        for wrong in NO_LISTS
    ),
    *(
        (put(line, calls=[*before, wrong]), line, NO_CALLS.format(wrong))
        for line in (RUN, WITNESS)
        for before, wrong in (
            ((), [0, 4]), ((), [3, 4]), ((), [0, 0]), ((), [2, 1]), ((), [-1, 2]), ((), [0]),
            ((), [0, 1, 2]), ((), 0), ((), ["a", "b"]), ((), [False, True]), ((), {}), ((), None),
            (([1, 2],), [0, 1]), (([0, 2],), [1, 3]), (([0, 1], [1, 2]), [1, 2]),
        )
    ),
    *(
        (drop(RUN, name), 9, f"the run cannot be read: KeyError('{name}')")
        for name in (
            "scenario", "scenario_sha256", "seed", "epochs", "steps", "versions", "calls",
            "artifacts", "metrics",
        )
    ),
    *(
        (put(RUN, **members), 9, f"the run cannot be read: {why}")
        for members, why in (
            ({"artifacts": []}, "AttributeError(..."),
            ({"artifacts": {"a": {"sha256": ""}}}, "KeyError('rounded_sha256')"),
            ({"artifacts": {"a": {"rounded_sha256": ""}}}, "KeyError('sha256')"),
            ({"artifacts": {"a": 5}}, "TypeError(..."),
            ({"metrics": 5}, "TypeError(..."),
            ({"metrics": None}, "TypeError(..."),
        )
    ),
    *(
        (put(RUN, **{name: wrong}), 9, RUN_OF_WRONG_TYPE)
        for name, wrongs in IN_A_RUN.items()
        for wrong in wrongs
    ),
    *(
        (put(WITNESS, env=place), 10, NO_ENV.format(place))
        for place in NO_PLACES
    ),
    (drop(WITNESS, "env"), 10, "a record's member is missing or wrong: KeyError('env')"),
    (drop(WITNESS, "calls"), 10, "a record's member is missing or wrong: KeyError('calls')"),
    (put(WITNESS, record="novelty"), 10, "an unknown record 'novelty'"),
    (
        put(WITNESS, record="batch"),
        10,
        INTERRUPTED,
    ),
]  # fmt: skip


def said(path: Path, line: int | None, why: str) -> str:
    advice = "" if ";" in why else f"; see what is whole: swarm-repro check {path}"
    return f"{path}{'' if line is None else f':{line}'}: {why}{advice}"


def is_said(told: str, path: Path, line: int | None, why: str) -> bool:
    start, dots, _ = said(path, line, why).partition("...")
    return told.startswith(start) if dots else told == start


def use_all(cassette: Cassette) -> None:
    for call in cassette.calls.values():
        assert call.model in cassette.models
    for ids in (*(run.calls for run in cassette.runs), *cassette.witnesses.values()):
        assert set(ids) <= set(cassette.calls)


def test_wrong_records_under_right_checksums_are_named(whole: bytes, path: Path) -> None:
    others: list[tuple[int, str, str]] = []
    for number, (change, line, why) in enumerate(WRONG_RECORDS):
        found = records(whole)
        change(found)
        path.write_bytes(sealed(found))
        try:
            read_cassette(path)
        except CassetteDamagedError as error:
            if (error.line, error.path) == (line, path) and is_said(str(error), path, line, why):
                continue
            others.append((number, str(error), why))
        else:
            others.append((number, "nothing", why))
    assert others == []


def test_a_large_cassette_with_wrong_records_is_refused_too(whole: bytes, path: Path) -> None:
    """Where a record is read by its place its line is unknown, but the fault is named."""
    others: list[tuple[int, str, str]] = []
    for number, (change, _, why) in enumerate(WRONG_RECORDS):
        found = records(whole)
        change(found)
        path.write_bytes(sealed(found))
        try:
            use_all(open_mapped(path))
            told = "nothing"
        except CassetteDamagedError as error:
            told = str(error)
        known = why.split("...")[0].removesuffix(" before it")
        # A run or a witness without its calls, and a record that comes where none does.
        is_of_the_end = ": in its last records: " in told and ("record" in told or "'" in told)
        if not told.startswith(str(path)) or not (known in told or is_of_the_end):
            others.append((number, told, why))
    assert others == []


def line_of(body: bytes) -> bytes:
    """A line with the right checksum, whatever it holds."""
    return b'%s,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


TORN = "no checksum: the line is torn, or not a cassette record"
CHANGED = "wrong checksum: the line was changed after it was written"
NO_RECORD = "not a cassette record"
CONFLICT = (
    "git conflict markers; join the two sides with swarm-repro merge, or keep one of them whole "
    "(git checkout --ours or --theirs)"
)
WINDOWS = "the line ends were converted to Windows'; put '*.jsonl -text' into .gitattributes"
POINTER = b"version https://git-lfs.github.com/spec/v1\n"
DEEP = b"[" * 300 + b"]" * 300

WRONG_LINES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda line: line[: len(line) // 2] + b"\n", TORN),
    (lambda line: line[:-3] + b"}\n", TORN),
    (lambda line: line[:-3].upper() + line[-3:], TORN),
    (lambda line: b"\n", TORN),
    (lambda line: b" " + line[1:], CHANGED),
    (lambda line: line.replace(b'"record"', b'"Record"', 1), CHANGED),
    (lambda line: line[:-11] + b"00000000" + line[-3:], CHANGED),
    (lambda line: line_of(b"{not JSON}"), "not JSON: ..."),
    (lambda line: line_of(b'{"record":"\xff"}'), "not JSON: ..."),
    (lambda line: line_of(b'{"record":NaN}'), "not JSON: ..."),
    (lambda line: line_of(b"{}"), NO_RECORD),
    (lambda line: line_of(b'{"x":1}'), NO_RECORD),
    (lambda line: line_of(b'{"record":5}'), NO_RECORD),
    (lambda line: line_of(b'{"record":null}'), NO_RECORD),
    (lambda line: line[:-1] + b"\r\n", WINDOWS),
    (lambda line: POINTER, "this is a Git LFS pointer, not the cassette; run: git lfs pull"),
    (lambda line: b"<<<<<<< HEAD\n", CONFLICT),
    (lambda line: b"=======\n", CONFLICT),
    (lambda line: b">>>>>>> theirs\n", CONFLICT),
    (lambda line: line_of(b'{"record":"call","x":%b}' % DEEP), "nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 7, 11])
def test_an_invalid_line_is_named(number: int, whole: bytes, path: Path) -> None:
    others: list[tuple[int, str, str]] = []
    for place, (change, why) in enumerate(WRONG_LINES):
        lines = whole.splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        path.write_bytes(b"".join(lines))
        with pytest.raises(CassetteDamagedError) as caught:
            read_cassette(path)
        if not is_said(str(caught.value), path, number, why):
            others.append((place, str(caught.value), why))
    assert others == []


def ended(lines: list[bytes], **members: object) -> bytes:
    return b"".join([*lines[:-1], encode_line({"record": "end", **members})])


def test_an_end_record_of_another_file_is_named(whole: bytes, path: Path) -> None:
    lines = whole.splitlines(keepends=True)
    digest = "8" * 64
    other = "the file does not have the recorded SHA-256"
    missing = "a record's member is missing or wrong: KeyError('{}')"
    cases: list[tuple[bytes, int | None, str]] = [
        (ended(lines, records=9, sha256=digest), 11, "10 records where 9 were written"),
        (ended(lines, records=11, sha256=digest), 11, "10 records where 11 were written"),
        (ended(lines, records=None, sha256=digest), 11, "10 records where None were written"),
        (ended(lines, records=10, sha256=digest), 11, other),
        (ended(lines, records=10, sha256=None), 11, other),
        (ended(lines, sha256=digest), 11, missing.format("records")),
        (ended(lines, records=10), 11, missing.format("sha256")),
        (whole + lines[5], 12, "records after the end record"),
        (whole + b"\n", 12, "records after the end record"),
        (whole + lines[-1], 12, "records after the end record"),
        (b"", None, "the file is empty; restore it, or record it anew"),
        *(
            (
                b"".join(lines[:count]),
                None,
                "the end record is missing: the file was cut off; restore it from version control",
            )
            for count in (1, 5, 10)
        ),
    ]  # fmt: skip
    for data, line, why in cases:
        path.write_bytes(data)
        with pytest.raises(CassetteDamagedError) as caught:
            read_cassette(path)
        assert str(caught.value) == said(path, line, why)
        assert caught.value.line == line


@pytest.mark.parametrize(
    "members",
    [
        {"format": 0},
        {"format": 3},
        {"format": "1"},
        {"format": True},
        {"format": 2.0},
        {"format": None},
        {"key": "sr2"},
        {"key": None},
    ],
    ids=str,
)
def test_another_format_is_named_with_what_this_version_reads(
    members: dict[str, Any], whole: bytes, path: Path
) -> None:
    found = records(whole)
    found[0].update(members)
    path.write_bytes(sealed(found))
    known = {"format": 2, "key": "sr1", **members}
    for look in (read_cassette, read_part, open_mapped, check_cassette):
        with pytest.raises(CassetteAccessError) as caught:
            look(path)
        assert str(caught.value) == (
            f"{path} has format {known['format']} with keys {known['key']}; this version reads "
            "formats up to 2 with sr1: upgrade swarm-repro"
        )
