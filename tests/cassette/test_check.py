"""Checking and repairing: what is wrong is named, what is whole kept, and nothing made up."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.check import Examination, check_cassette, repair, repaired_path
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.environment import UNKNOWN
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import HEADER, LONG, TinyModel, ask, chat, recording, small_cassette

COMMITTED = sorted([*ROOT.glob("cassettes/*.jsonl"), *ROOT.glob("tests/data/drift/*.jsonl")])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Cassette:
    path = tmp_path_factory.mktemp("original") / "c.jsonl"
    small_cassette(path)
    return read_cassette(path)


@pytest.fixture(scope="module")
def whole(original: Cassette) -> bytes:
    return original.path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def check(path: Path, data: bytes) -> Examination:
    path.write_bytes(data)
    return check_cassette(path)


def assert_keeps_only_what_was(found: Examination, original: Cassette) -> None:
    """What is kept was recorded so: no call, text or model that was not there."""
    kept = found.whole
    assert kept.texts.items() <= original.texts.items()
    assert kept.models.items() <= original.models.items()
    for call_id, call in kept.calls.items():
        recorded = original.calls[call_id]
        assert call.decode_completion() == recorded.decode_completion()
        assert (call.body, call.asked_seed, call.sent_seed) == (
            recorded.body,
            recorded.asked_seed,
            recorded.sent_seed,
        )
    for run in kept.runs:
        assert run.calls <= original.runs[0].calls


def forged(whole: bytes, change: Callable[[list[dict[str, Any]]], object]) -> bytes:
    """The records changed by somebody who writes the checksums, the counts and the end anew."""
    records = [orjson.loads(line) for line in whole.splitlines()]
    for record in records:
        del record["crc32"]
    change(records)
    lines = [encode_line(record) for record in records[:-1]]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = {"record": "end", "records": len(lines), "sha256": digest}
    return b"".join([*lines, encode_line(end)])


def first(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(record for record in records if record["record"] == kind)


# --- Whole files.


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_what_was_recorded_is_whole(path: Path) -> None:
    found = check_cassette(path)
    assert (found.findings, found.lost) == ((), 0)
    assert found.whole.calls == read_cassette(path).calls


# --- Damage.


def test_flipped_bits_are_found_and_put_right(path: Path, whole: bytes) -> None:
    for bit in range(0, 8 * len(whole), 61):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        found = check(path, bytes(data))
        assert not found.is_whole, bit
        target = repaired_path(path)
        repair(found, target)
        assert target.read_bytes() == whole, bit
        target.unlink()


def edited(data: bytes, draw: Callable[[st.SearchStrategy[int]], int]) -> bytes:
    """One edit: bytes replaced, inserted or cut out, or a line doubled, dropped or moved."""
    kind = draw(st.integers(0, 5))
    at = draw(st.integers(0, len(data)))
    length = draw(st.integers(0, 40))
    piece = bytes(draw(st.integers(0, 255)) for _ in range(min(length, 4)))
    if kind == 0:
        return data[:at] + piece + data[at + len(piece) :]
    if kind == 1:
        return data[:at] + piece + data[at:]
    if kind == 2:
        return data[:at] + data[at + length :]
    lines = data.splitlines(keepends=True)
    place = at % len(lines) if lines else 0
    if kind == 3 and lines:
        lines.insert(place, lines[place])
    elif kind == 4 and lines:
        del lines[place]
    elif lines:
        lines.append(lines.pop(place))
    return b"".join(lines)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_edits_are_found_and_nothing_is_made_up(
    tmp_path_factory: pytest.TempPathFactory, original: Cassette, whole: bytes, data: Any
) -> None:
    changed = whole
    for _ in range(data.draw(st.integers(1, 3))):
        changed = edited(changed, data.draw)
    path = tmp_path_factory.mktemp("edited") / "c.jsonl"
    try:
        found = check(path, changed)
    except CassetteDamagedError:
        assert changed != whole
        return
    assert found.is_whole == (changed == whole)
    assert_keeps_only_what_was(found, original)
    if found.whole.calls:
        target = repaired_path(path)
        repair(found, target)
        assert check_cassette(target).is_whole


def test_one_lost_line_costs_what_needs_it_and_nothing_else(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    expected = {"cassette": None, "model": 0, "env": 3, "text": 2, "call": 2, "run": 3}
    seen = set()
    for place, line in enumerate(lines[:-1]):
        kind = orjson.loads(line)["record"]
        seen.add(kind)
        torn = [*lines[:place], line[: len(line) // 2] + b"\n", *lines[place + 1 :]]
        kept = expected.get(kind, 3)
        if kept is None:
            with pytest.raises(CassetteDamagedError):
                check(path, b"".join(torn))
            continue
        found = check(path, b"".join(torn))
        assert any(one.line == place + 1 for one in found.findings), kind
        assert len(found.whole.calls) == kept, kind
        assert found.lost == 3 - kept, kind
    assert seen == {*expected, "witness"}


def test_a_finding_says_which_call_of_whom(path: Path, whole: bytes) -> None:
    damaged = whole.replace(b'"content":"fine ', b'"content":"Fine ', 1)
    (finding,) = [one for one in check(path, damaged).findings if one.line is not None]
    assert finding.record == "call 0 of alice"
    assert "wrong checksum" in finding.why


def test_runs_name_their_calls_although_one_of_them_is_lost(path: Path, whole: bytes) -> None:
    found = check(path, whole.replace(b'"content":"fine ', b'"content":"good ', 1))
    (run,) = found.whole.runs
    assert run.calls == found.whole.calls.keys()
    assert len(run.calls) == 2


# --- Forged files: every checksum is right, and yet.


def _send_with(call: dict[str, Any], seed: int) -> None:
    """Another sent seed, with the key that belongs to it; the body has the recorded one."""
    body = {**call["request"]["body"], "messages": [{"role": "user", "content": LONG}]}
    call["seed"]["sent"] = seed
    call["sent"] = chat(LONG, **{**body, "seed": seed}).key(seed=seed)


def _store_as_text(response: dict[str, Any]) -> None:
    response["text"] = orjson.dumps(response.pop("json")).decode()


FORGERIES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "an answer": (
        lambda records: first(records, "call")["response"]["json"].update(id="another"),
        "SHA-256",
    ),
    "token counts": (
        lambda records: first(records, "call")["tokens"].__setitem__(1, 99),
        "token counts",
    ),
    "a request": (
        lambda records: first(records, "call")["request"]["body"].update(max_tokens=1),
        "asked key",
    ),
    "the sent seed": (
        lambda records: first(records, "call")["seed"].update(sent=1),
        "sent",
    ),
    "the asked seed": (
        lambda records: first(records, "call")["seed"].update(asked=1),
        "asked key",
    ),
    "the sent key": (
        lambda records: first(records, "call").update(sent="sr1:" + "0" * 64),
        "sent key",
    ),
    "the sent seed and its key": (
        lambda records: _send_with(first(records, "call"), 1),
        "sent seed",
    ),
    "an answer stored as text": (
        lambda records: _store_as_text(first(records, "call")["response"]),
        "answer is not stored as a recorder stores it",
    ),
    "the weights": (
        lambda records: first(records, "model")["identity"].update(files=["0" * 64]),
        "asked key",
    ),
    "a text": (lambda records: first(records, "text").update(text=LONG + "!"), "refers to text"),
    "the environment": (
        lambda records: first(records, "env")["content"].update(cpu="faster"),
        "SHA-256",
    ),
    "an endpoint": (lambda records: first(records, "call").update(endpoint="image"), "image"),
    "a body that is longer than it need be": (
        lambda records: first(records, "call")["request"]["body"].update(
            user=LONG  # a long text inline, where a recorder refers to it
        ),
        "not stored as a recorder stores it",
    ),
    "the order of two calls": (
        lambda records: records.insert(-3, records.pop(records.index(first(records, "call")))),
        "put together anew",
    ),
    "a call twice": (
        lambda records: records.insert(-3, {**first(records, "call"), "duration_s": 9.5}),
        "second recording",
    ),
    "an unknown record": (lambda records: records.insert(1, {"record": "note"}), "unknown record"),
    "a text that nothing uses": (
        lambda records: records.insert(-3, {"record": "text", "text": LONG * 2}),
        "put together anew",
    ),
    "calls of a run that are not there": (
        lambda records: first(records, "run").update(calls=[[0, 900]]),
        "a range of calls",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_seen_through(
    name: str, path: Path, whole: bytes, original: Cassette
) -> None:
    change, why = FORGERIES[name]
    found = check(path, forged(whole, change))
    assert not found.is_whole
    assert any(why in one.why for one in found.findings), found.findings
    for call_id, call in found.whole.calls.items():
        assert call.decode_completion() == original.calls[call_id].decode_completion()


def test_forging_changes_nothing_by_itself(path: Path, whole: bytes) -> None:
    assert forged(whole, lambda _records: None) == whole


def test_an_end_record_of_another_file_is_seen(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    end = {"record": "end", "records": len(lines) - 1, "sha256": "0" * 64}
    (finding,) = check(path, b"".join([*lines[:-1], encode_line(end)])).findings
    assert (finding.record, finding.line) == ("end", len(lines))


def test_a_guess_that_the_digest_does_not_prove_is_no_repair(path: Path, whole: bytes) -> None:
    """A line that was changed, with a checksum that makes it look as if one bit was flipped."""
    lines = whole.splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if b'"duration_s":0.25,' in line)
    changed = lines[place].replace(b'"duration_s":0.25,', b'"duration_s":0.95,')
    looks_like = changed.replace(b'"duration_s":0.95,', b'"duration_s":0.94,')
    body = looks_like[: looks_like.rindex(b',"crc32"')] + b"}"
    checksum = b'"crc32":"%08x"}\n' % zlib.crc32(body)
    lines[place] = changed[: changed.rindex(b'"crc32"')] + checksum
    found = check(path, b"".join(lines))
    assert found.lost == 1
    assert not any("put right" in one.why for one in found.findings)


def test_a_flipped_bit_in_a_forged_file_does_not_make_it_whole(path: Path, whole: bytes) -> None:
    change, why = FORGERIES["token counts"]
    data = bytearray(forged(whole, change))
    data[data.index(b'"welfare"') + 3] ^= 1
    found = check(path, bytes(data))
    assert any(why in one.why for one in found.findings)
    assert not any("put right" in one.why for one in found.findings)


# --- Runs name calls by their places.


@pytest.fixture
def two_runs(path: Path) -> Cassette:
    """Two calls of one run, one of another."""
    for seed, mode, prompts in ((7, Mode.RECORD, "ab"), (8, Mode.AUTO, "c")):
        with recording(path, mode=mode, run_seed=seed) as session:
            for prompt in prompts:
                ask(session, TinyModel(), prompt)
    return read_cassette(path)


def moved(lines: list[bytes]) -> None:
    calls = [n for n, line in enumerate(lines) if line.startswith(b'{"record":"call"')]
    lines.insert(calls[-1], lines.pop(calls[0]))


def garbled(lines: list[bytes]) -> None:
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"record":"call"'))
    lines[place] = b"?" * len(lines[place]) + b"\n"


def dropped(lines: list[bytes]) -> None:
    del lines[next(n for n, line in enumerate(lines) if line.startswith(b'{"record":"call"'))]


@pytest.mark.parametrize("edit", [moved, garbled, dropped])
def test_a_run_is_not_given_the_calls_of_another(
    edit: Callable[[list[bytes]], None], path: Path, two_runs: Cassette
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines)
    found = check(path, b"".join(lines))
    assert not found.is_whole
    recorded = {run.seed: run.calls for run in two_runs.runs}
    for run in found.whole.runs:
        assert run.calls <= recorded[run.seed]


# --- What editors, git and mail do.


def doubled(number: int, data: bytes) -> bytes:
    """A line of it twice, as a merge that took both sides may leave it."""
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:number], lines[number - 1], *lines[number:]])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data.replace(b"\n", b"\r\n"), "-text"),
        (lambda data: b"\xef\xbb\xbf" + data, "byte order mark"),
        (lambda data: data.replace(b"\n", b"\n\n", 2), "empty line"),
        (lambda data: data + b"\n", "empty line"),
        (lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n", "empty line"),
        (lambda data: data[:-1], "no checksum"),
        (lambda data: data * 2, "the same record as in line 1"),
        *((partial(doubled, number), f"as in line {number}") for number in range(1, 12)),
    ],
)
def test_what_an_editor_did_is_undone(
    change: Callable[[bytes], bytes], why: str, path: Path, whole: bytes
) -> None:
    found = check(path, change(whole))
    assert any(why in one.why for one in found.findings), found.findings
    assert found.lost == 0
    repair(found, repaired_path(path))
    assert repaired_path(path).read_bytes() == whole


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"hello\n", "no checksum"),
        (b"\0" * 4096, "no checksum"),
    ],
)
def test_what_is_no_cassette_at_all_is_said(data: bytes, words: str, path: Path) -> None:
    with pytest.raises(CassetteDamagedError, match=words):
        check(path, data)


def test_a_damaged_end_record_is_no_environment(path: Path, whole: bytes) -> None:
    at = whole.rindex(b'"sha256":"') + 12
    edited = whole[:at] + bytes([whole[at] ^ 3, whole[at + 1] ^ 3]) + whole[at + 2 :]
    found = check(path, edited)
    assert [finding.record for finding in found.findings] == ["end"]
    assert UNKNOWN.sha256 not in found.whole.envs


def test_a_file_that_ends_early_was_cut_off(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    (finding,) = check(path, b"".join(lines[:-1])).findings
    assert "was cut off" in finding.why


def test_conflict_markers_are_told_with_the_way_out(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    lines.insert(3, b"<<<<<<< HEAD\n")
    with pytest.raises(CassetteDamagedError, match="swarm-repro merge"):
        check(path, b"".join(lines))


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CassetteAccessError, match="pipe"):
        check_cassette(path)


# --- Recordings that were cut short.


@pytest.fixture
def part(path: Path) -> Path:
    """What a process left that was killed while it wrote its third call."""
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    model = TinyModel()
    ask(session, model, LONG)
    ask(session, model, "hello")
    store.close()
    part = part_path(path)
    with part.open("ab") as file:
        file.write(b'{"record":"call","scope":"ali')
    return part


def test_a_torn_last_line_of_a_part_is_no_damage(part: Path) -> None:
    found = check_cassette(part)
    assert found.is_whole
    assert len(found.whole.calls) == 2


def test_a_damaged_part_gives_a_cassette_of_what_is_whole(part: Path, path: Path) -> None:
    part.write_bytes(part.read_bytes().replace(b'"content":"fine ', b'"content":"good ', 1))
    found = check_cassette(part)
    assert (found.lost, len(found.whole.calls)) == (1, 1)
    repair(found, repaired_path(part))
    assert repaired_path(part) == path.with_name("c.repaired.jsonl")
    assert len(read_cassette(repaired_path(part)).calls) == 1


# --- Repairing.


def test_a_repair_writes_over_nothing(path: Path, whole: bytes) -> None:
    found = check(path, whole + b"\n")
    repaired_path(path).write_bytes(b"precious")
    with pytest.raises(CassetteAccessError, match="move it away"):
        repair(found, repaired_path(path))
    assert repaired_path(path).read_bytes() == b"precious"


def test_a_file_without_a_whole_call_is_not_repaired(path: Path, whole: bytes) -> None:
    found = check(path, whole.replace(b'"scope":', b'"stage":'))
    assert found.lost == 3
    with pytest.raises(CassetteDamagedError, match="no call in it is whole"):
        repair(found, repaired_path(path))
    assert not repaired_path(path).exists()


def test_a_call_without_its_environment_says_that_it_is_unknown(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith(b'{"record":"env"'))
    lines[place] = lines[place][:-40] + b"\n"
    found = check(path, b"".join(lines))
    repair(found, repaired_path(path))
    repaired = read_cassette(repaired_path(path))
    assert len(repaired.calls) == 3
    assert {call.env for call in repaired.calls.values()} == {UNKNOWN.sha256}


# --- The command.


def test_the_command_names_damage_by_line_and_ends_with_5(path: Path, whole: bytes) -> None:
    path.write_bytes(whole.replace(b'"content":"fine ', b'"content":"good ', 1))
    good = path.with_name("good.jsonl")
    good.write_bytes(whole)
    done = swarm_repro("check", good, path, cwd=path.parent)
    assert done.returncode == 5
    assert f"{good}: whole: 3 calls" in done.stdout
    assert f"{path}:6: call 0 of alice: wrong checksum" in done.stdout
    assert "damaged: calls lost: 1; whole: 2 calls" in done.stdout
    assert "--repair" in done.stdout


def test_the_command_repairs_and_reports_as_json(path: Path, whole: bytes) -> None:
    path.write_bytes(whole + b"\n")
    done = swarm_repro("check", path, "--repair", "--json", cwd=path.parent)
    assert done.returncode == 5
    (report,) = orjson.loads(done.stdout)["cassettes"]
    assert (report["whole"], report["calls"], report["lost"]) == (False, 3, 0)
    assert Path(report["repaired"]).read_bytes() == whole
    assert path.read_bytes() == whole + b"\n", "the damaged file is evidence"


def test_a_missing_file_ends_with_2(tmp_path: Path) -> None:
    done = swarm_repro("check", "nothing.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "no cassette at nothing.jsonl" in done.stderr


@pytest.mark.parametrize("place", [3, 5, -3])
def test_what_comes_after_an_end_record_is_kept(
    place: int, whole: bytes, original: Cassette, path: Path
) -> None:
    lines = whole.splitlines(keepends=True)
    found = check(path, b"".join([*lines[:place], lines[-1], *lines[place:-1]]))
    assert found.findings
    assert_keeps_only_what_was(found, original)
    assert found.whole.calls.keys() == original.calls.keys()


def test_calls_whose_environment_comes_after_them_are_kept_without_it(
    whole: bytes, original: Cassette, path: Path
) -> None:
    lines = whole.splitlines(keepends=True)
    envs = [line for line in lines if line.startswith(b'{"record":"env"')]
    rest = [line for line in lines if line not in envs]
    found = check(path, b"".join([*rest[:-1], *envs, rest[-1]]))
    assert any("not in the file before it" in finding.why for finding in found.findings)
    assert_keeps_only_what_was(found, original)
    assert found.whole.calls.keys() == original.calls.keys()
    assert {call.env for call in found.whole.calls.values()} == {UNKNOWN.sha256}
