"""A cassette from a stranger: whatever its lines claim, the reader says what is wrong, or reads."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from swarm_repro.cassette import lines
from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.errors import CassetteDamagedError, RequestError, SwarmReproError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import HEADER, TinyModel, ask, small_cassette

#: What a record's member may turn into.
VALUES: list[object] = [
    *(None, True, False, 0, -1, 1, 2**63, 2**64 - 1, -(2**63), 1.5, 1e308),
    *("", "x", "é" * 300, "sr1:zz", "0" * 64, "../../etc/passwd", "\U0001f41d"),
    *([], {}, [[]], [[0, 1]], [[0, 10**9]], [[5, 1]], [[-1, 2]], [None], [1, 2], ["a", "b"]),
    *({"a": 1}, {"$text": "0" * 64}, {"$text": 1}, {"$$text": "a"}, {"json": 1}, {"text": 5}),
    *({"events": {}}, {"events": [1]}, {"base64": "!"}, {"base64": "é"}),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "c.jsonl"
    small_cassette(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def finished(lines: list[bytes]) -> bytes:
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = {"record": "end", "records": len(lines), "sha256": digest}
    return b"".join([*lines, encode_line(end)])


def line_of(body: bytes) -> bytes:
    """A line with the right checksum, whatever it holds."""
    return b'%s,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    members = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else members
    for step, inner in items:
        yield from places(inner, (*path, step))


def changed(records: list[Any], rng: random.Random) -> list[Any]:
    """Records of which a member is another value, gone, or there twice."""
    records, values = orjson.loads(orjson.dumps([records, VALUES]))
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice(list(places(records)))
        holder = records
        for step in path:
            holder = holder[step]
        what = rng.random()
        if what < 0.6:
            holder[last] = rng.choice(values)
        elif what < 0.75:
            del holder[last]
        elif isinstance(holder, list):
            holder.insert(last, orjson.loads(orjson.dumps(holder[last])))
        else:
            holder[rng.choice(["$text", "record", "masked", "x"])] = rng.choice(values)
    return records


def use_all(path: Path) -> None:
    store = open_for_replay(path)
    for call in store.calls().values():
        store.completion_of(call)
        store.body_of(call)
        store.find(call.id)
    store.runs()


def index_all(path: Path) -> None:
    with CassetteIndex(path) as index:
        for entry in index.entries:
            call = index.call(entry)
            index.completion_of(call)


@pytest.mark.parametrize("seed", range(12))
def test_any_record_ends_in_a_result_or_in_a_cassette_error(
    seed: int, path: Path, whole: bytes
) -> None:
    rng = random.Random(seed)  # noqa: S311 - the same inputs each time
    records = [orjson.loads(line) for line in whole.splitlines()[:-1]]
    for record in records:
        del record["crc32"]
    results = {True: 0, False: 0}
    for _ in range(50):
        made = [
            encode_line(record) if isinstance(record, dict) and record else line_of(b"{}")
            for record in changed(records, rng)
        ]
        path.write_bytes(finished(made))
        for read in (use_all, index_all, check_cassette):
            try:
                read(path)
                results[True] += 1
            except SwarmReproError:
                results[False] += 1
    assert all(results.values()), "nothing, or everything, was refused"


@pytest.mark.parametrize("depth", [255, 900, 100_000])
@pytest.mark.parametrize("read", [use_all, index_all])
def test_deep_nesting_is_refused(
    depth: int, read: Callable[[Path], None], path: Path, whole: bytes
) -> None:
    first, *_ = whole.splitlines(keepends=True)
    deep = b'{"record":"call","x":' + b"[" * depth + b"]" * depth + b"}"
    path.write_bytes(finished([first, line_of(deep)]))
    with pytest.raises(CassetteDamagedError, match=r"c\.jsonl:2: (nested too deeply|not JSON)"):
        read(path)


def test_a_line_without_an_end_is_not_read_into_memory(
    path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 5000)
    asked: list[int] = []

    class File:
        def __init__(self) -> None:
            self.left = 1 << 40

        def readline(self, size: int) -> bytes:
            asked.append(size)
            return b"x" * size

    first = next(lines.lines_of(File()))  # type: ignore[arg-type]
    assert (len(first), asked) == (5001, [5001])
    path.write_bytes(whole.splitlines(keepends=True)[0] + b"x" * 6000)
    with pytest.raises(CassetteDamagedError, match="which no recorder writes"):
        read_cassette(path)


def test_a_call_that_would_be_too_long_a_line_is_refused_and_the_rest_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 20_000)
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store)
    model = TinyModel()
    ask(session, model, "hello")
    with pytest.raises(RequestError, match="too long for a cassette"):
        ask(session, model, "long " * 10_000)
    ask(session, model, "bye")
    store.finish(used=session.ledger.used, run=None, keep=False)
    assert len(read_cassette(path).calls) == 2


def test_short_lines_cannot_stand_for_long_lists(path: Path, whole: bytes) -> None:
    records = [orjson.loads(line) for line in whole.splitlines()[:-1]]
    for record in records:
        del record["crc32"]
        if record["record"] == "run":
            record["calls"] = [[0, 3]] * 1000
    path.write_bytes(finished([encode_line(record) for record in records]))
    with pytest.raises(CassetteDamagedError, match="a range of calls"):
        read_cassette(path)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("versions", []),
        ("versions", {"python": 3}),
        ("metrics", [1]),
        ("epochs", "1"),
        ("seed", "7"),
        ("scenario", None),
        ("artifacts", {"a": {"sha256": 1, "rounded_sha256": "b"}}),
    ],
)
def test_a_run_with_a_member_of_the_wrong_type_is_refused(
    member: str, value: object, path: Path, whole: bytes
) -> None:
    records = [orjson.loads(line) for line in whole.splitlines()[:-1]]
    for record in records:
        del record["crc32"]
        if record["record"] == "run":
            record[member] = value
    path.write_bytes(finished([encode_line(record) for record in records]))
    with pytest.raises(CassetteDamagedError, match="the run has a member of the wrong type"):
        read_cassette(path)


def test_no_path_of_a_record_is_opened(path: Path, whole: bytes, tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    bait.write_bytes(b"secret")
    text = whole.decode().replace('"scenario":"test"', f'"scenario":"{bait}"')
    records = [orjson.loads(line) for line in text.splitlines()[:-1]]
    for record in records:
        del record["crc32"]
    before = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    path.write_bytes(finished([encode_line(record) for record in records]))
    use_all(path)
    index_all(path)
    after = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir() if one != path}
    assert after == before
