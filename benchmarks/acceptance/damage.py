"""Cassettes that are damaged, edited and forged: read, checked and repaired."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks.acceptance.calls import Lost
from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.index import CassetteIndex
from swarm_repro.cassette.lines import encode_line, lines_of
from swarm_repro.cassette.mapped import open_mapped
from swarm_repro.cassette.part import read_part
from swarm_repro.cassette.reader import Cassette, RecordReader
from swarm_repro.cassette.records import CallId
from swarm_repro.cassette.store import CassetteStore, open_for_replay
from swarm_repro.errors import RequestError, SwarmReproError
from tests.support.tiny_model import small_cassette

ROOT = Path(__file__).resolve().parents[2]
#: Recorded from a real model: 96 KB of plain answers, and 239 KB of a simulation.
SMALL = ROOT / "tests/data/drift/alone.jsonl"
LARGE = ROOT / "cassettes/demo.seed42.jsonl"

#: Of this many damaged files one is checked and repaired as well, which takes ten times longer.
CHECKED = 50


def flips(count: int) -> dict[str, object]:
    """Flip single bits of the small cassette: each of them, or this many, evenly spread.

    Raises:
        Lost: A flipped bit was not detected, or a repair lost or made up a call.
    """
    bits = 8 * SMALL.stat().st_size
    step = max(1, bits // count)
    return {"bytes": bits // 8, **_in_parallel(_flip, range(0, bits, step))}


def edits(count: int) -> dict[str, object]:
    """Edit the large cassette at random this often.

    Raises:
        Lost: An edit was not detected and is not harmless, or a repair lost or made up a call.
    """
    return {"bytes": LARGE.stat().st_size, **_in_parallel(_edit, range(count))}


def fuzz(count: int) -> dict[str, object]:
    """Give the reader this many files that somebody put together, most with right checksums.

    Raises:
        Exception: One ended in something else than a result or an error of the cassette.
    """
    return _in_parallel(_forge, range(count))


def _in_parallel(
    work: Callable[[range], tuple[Counter[str], int]], numbers: range
) -> dict[str, object]:
    jobs = os.cpu_count() or 1
    slices = [numbers[job::jobs] for job in range(jobs)]
    seen: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs) as pool:
        results = list(pool.map(work, slices))
    for counted, _ in results:
        seen += counted
    return {**seen, "most resident MiB": max(peak for _, peak in results)}


def _peak_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def _flip(places: range) -> tuple[Counter[str], int]:
    data = bytearray(SMALL.read_bytes())
    with _trial(bytes(data)) as judge:
        for number, place in enumerate(places):
            data[place >> 3] ^= 1 << (place & 7)
            judge(bytes(data), checked=number % CHECKED == 0)
            data[place >> 3] ^= 1 << (place & 7)
        return judge.seen, _peak_mib()


def _edit(numbers: range) -> tuple[Counter[str], int]:
    whole = LARGE.read_bytes()
    with _trial(whole) as judge:
        for number in numbers:
            changed = _edited(whole, random.Random(f"edit {number}"))
            judge(changed, checked=number % CHECKED == 0)
        return judge.seen, _peak_mib()


def _edited(whole: bytes, chance: random.Random) -> bytes:
    """A file after a slip of an editor, a tool, a disk or a merge."""
    place, length = chance.randrange(len(whole)), 1 << chance.randrange(13)
    lines = whole.splitlines(keepends=True)
    one, other = sorted(chance.sample(range(len(lines)), 2))
    way = chance.randrange(9)
    if way == 0:  # bytes of another place
        start = chance.randrange(len(whole))
        return whole[:place] + whole[start : start + length] + whole[place + length :]
    if way == 1:
        return whole[:place] + whole[place + length :]
    if way == 2:
        return whole[:place] + chance.randbytes(length) + whole[place:]
    if way == 3:
        return whole[:place]
    if way == 4:  # a sector of zeros
        return whole[:place] + bytes(length) + whole[place + length :]
    if way == 5:
        del lines[one]
    elif way == 6:
        lines[one], lines[other] = lines[other], lines[one]
    elif way == 7:
        lines.insert(other, lines[one])
    else:
        lines[one] = lines[one].replace(b"1", b"2", 1 + chance.randrange(3))
    return b"".join(lines)


class _Judge:
    """Reads damaged files, and knows what was in them."""

    def __init__(self, whole: bytes, folder: Path) -> None:
        self.seen: Counter[str] = Counter()
        self._whole = whole
        self._path = folder / "c.jsonl"
        self._original = self._read(whole)
        self._answers = _answers(self._original)

    def __call__(self, changed: bytes, *, checked: bool) -> None:
        self.seen["damaged files"] += 1
        if changed == self._whole:
            self.seen["no change"] += 1
            return
        try:
            found = self._read(changed)
        except SwarmReproError:
            self.seen["detected"] += 1
        else:
            if _answers(found) != self._answers:
                raise Lost("a wrong answer is served")
            self.seen["harmless"] += 1
        if checked:
            self._check(changed)

    def _read(self, data: bytes) -> Cassette:
        reader = RecordReader(self._path)
        cassette = reader.read(lines_of(io.BytesIO(data)))
        reader.require_end()
        return cassette

    def _check(self, changed: bytes) -> None:
        self.seen["checked"] += 1
        self._path.write_bytes(changed)
        try:
            found = check_cassette(self._path)
        except SwarmReproError:
            self.seen["checked: no header"] += 1
            return
        if not found.findings:
            raise Lost("a check finds nothing")
        kept = _answers(found.whole)
        if not kept.items() <= self._answers.items():
            raise Lost("a repair makes something up")
        missing = self._answers.keys() - kept.keys()
        if any(self._is_whole(call_id, changed) for call_id in missing):
            raise Lost("a repair loses a call that is whole")
        self.seen["checked: calls kept"] += len(kept)
        self.seen["checked: calls lost"] += len(missing)

    def _is_whole(self, call_id: CallId, changed: bytes) -> bool:
        """Whether the lines of a call, its texts and its model are in the file, in this order."""
        call = self._original.calls[call_id]
        mine = b'"scope":%s,"i":%d,' % (orjson.dumps(call.scope), call.i)
        lines = self._whole.splitlines(keepends=True)
        line = next(one for one in lines if one.startswith(b'{"record":"call"') and mine in one)
        texts = [
            encode_line({"record": "text", "text": call.texts[one]}) for one in call.text_digests
        ]
        begins = b'{"record":"model","name":%s' % orjson.dumps(call.model)
        model = next(one for one in lines if one.startswith(begins))
        at = changed.find(b"\n" + line)
        return at >= 0 and all(0 <= changed.find(b"\n" + one) < at for one in [*texts, model])


@contextmanager
def _trial(whole: bytes) -> Iterator[_Judge]:
    with tempfile.TemporaryDirectory() as folder:
        yield _Judge(whole, Path(folder))


def _answers(cassette: Cassette) -> dict[CallId, tuple[str, object]]:
    return {
        call_id: (call.decode_completion().sha256, call.sent)
        for call_id, call in cassette.calls.items()
    }


# --- Files that somebody put together.

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 2**64 - 1, -(2**63), 1.5, 1e308, "", "x", "é" * 300, [],
    {}, [[]], [[0, 1]], [[0, 10**9]], [[5, 1]], [[-1, 2]], [None], {"a": 1}, {"$text": "0" * 64},
    {"$text": 1}, {"$$text": "a"}, "sr1:zz", [1, 2], [0], ["a", "b"], {"json": 1}, {"text": 5},
    {"events": {}}, {"events": [1]}, {"base64": "!"}, "\U0001f41d", "0" * 64, {"record": "call"},
)  # fmt: skip
_NAMES = ("$text", "record", "masked", "x", "base64", "events", "writer", "synced")


def _forge(numbers: range) -> tuple[Counter[str], int]:
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        small_cassette(path)
        whole = path.read_bytes()
        records = [orjson.loads(line) for line in whole.splitlines()]
        for record in records:
            del record["crc32"]
        part = path.with_name("c.jsonl.part")
        for number in numbers:
            chance = random.Random(f"forge {number}")
            data = _forged(records, whole, chance)
            path.write_bytes(data)
            is_read = _ends_well(partial(_read_all, path))
            seen["read" if is_read else "read: refused"] += 1
            if _ends_well(partial(_read_mapped, path)) != is_read:
                raise Lost(f"file {number} is served by one way of reading and refused by another")
            if number % CHECKED == 0:
                part.write_bytes(data)
                for name, way in (
                    ("checked", partial(check_cassette, path)),
                    ("opened for comparison", partial(_index, path)),
                    ("read as a .part", partial(read_part, part)),
                ):
                    seen[name if _ends_well(way) else f"{name}: refused"] += 1
    return seen, _peak_mib()


def _ends_well(way: Callable[[], object]) -> bool:
    """Whether something has a result; else it has an error that a user can understand."""
    try:
        way()
    except SwarmReproError:
        return False
    return True


def _serve_all(store: CassetteStore) -> None:
    for call in store.calls().values():
        store.completion_of(call)
        store.body_of(call)


def _read_all(path: Path) -> None:
    _serve_all(open_for_replay(path))


def _read_mapped(path: Path) -> None:
    _serve_all(CassetteStore(path, base=open_mapped(path)))


def _index(path: Path) -> None:
    with CassetteIndex(path):
        pass


def _forged(records: list[Any], whole: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)
    changed = copy.deepcopy(records)
    for _ in range(chance.randint(1, 3)):
        _change(changed, chance)
    if changed and isinstance(changed[-1], dict) and changed[-1].get("record") == "end":
        changed.pop()
    lines = [_line(record) for record in changed]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return b"".join([*lines, _line({"record": "end", "records": len(lines), "sha256": digest})])


def _change(records: list[Any], chance: random.Random) -> None:
    """Change, remove, double or add a member anywhere."""
    places = list(_places(records))
    if not places:
        return
    holder, name = chance.choice(places)
    way = chance.random()
    if way < 0.6:
        holder[name] = copy.deepcopy(chance.choice(_VALUES))
    elif way < 0.75:
        del holder[name]
    elif isinstance(holder, list):
        holder.insert(name, copy.deepcopy(holder[name]))
    else:
        holder[chance.choice(_NAMES)] = copy.deepcopy(chance.choice(_VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    names = value if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], (dict, list)):
            yield from _places(value[name])


def _line(record: Any) -> bytes:
    try:
        return encode_line(record)
    except (RequestError, AttributeError, TypeError):
        return orjson.dumps(record) + b"\n"
