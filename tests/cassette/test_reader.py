"""Reading: every kind of damage at every place is an error that names it; nothing bad is served."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from swarm_repro.cassette import store
from swarm_repro.cassette.lines import encode_line
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    recording,
    replaying,
    small_cassette,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "c.jsonl"
    small_cassette(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def contents(cassette: Cassette) -> tuple[object, ...]:
    return (
        cassette.header,
        cassette.models,
        cassette.envs,
        cassette.texts,
        cassette.calls,
        cassette.runs,
        cassette.witnesses,
    )


def records(data: bytes) -> list[dict[str, Any]]:
    found = [orjson.loads(line) for line in data.splitlines()]
    for record in found:
        del record["crc32"]
    return found


def sealed(lines: list[dict[str, Any]]) -> bytes:
    """Records as a file whose checksums are right."""
    body = [record for record in lines if record["record"] != "end"]
    data = b"".join(map(encode_line, body))
    end = {"record": "end", "records": len(body), "sha256": hashlib.sha256(data).hexdigest()}
    return data + encode_line(end)


def test_the_example_holds_every_kind_of_record(whole: bytes, path: Path) -> None:
    assert {record["record"] for record in records(whole)} == {
        "cassette", "model", "env", "text", "call", "run", "witness", "end",
    }  # fmt: skip
    assert sealed(records(whole)) == whole
    path.write_bytes(whole)
    found = read_cassette(path)
    assert len(found.calls) == 3
    assert set(found.texts.values()) == {LONG}
    assert found.runs[0].calls == found.calls.keys()
    assert list(found.witnesses.values()) == [frozenset(found.calls)]
    assert [call.scope for call in found.calls.values()] == ["alice", "alice", "bob"]


def test_a_file_that_breaks_off_is_damaged_wherever_it_does(whole: bytes, path: Path) -> None:
    path.write_bytes(whole)
    for length in reversed(range(len(whole))):
        os.truncate(path, length)  # many times as fast as writing the file anew
        with pytest.raises(CassetteDamagedError) as caught:
            read_cassette(path)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 5


def test_one_changed_byte_is_damage_wherever_it_is(whole: bytes, path: Path) -> None:
    path.write_bytes(whole)
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            # Each byte in one of four ways; neighbours in different ones.
            flip = (0x01, 0x20, 0x80, None)[at % 4]
            other = byte ^ flip if flip else (0x0A if byte != 0x0A else 0x0D)
            os.pwrite(file.fileno(), bytes([other]), at)
            with pytest.raises((CassetteDamagedError, CassetteAccessError)) as caught:
                read_cassette(path)
            assert isinstance(caught.value, CassetteDamagedError), at
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert read_cassette(path).calls


def test_damage_names_file_and_line(whole: bytes, path: Path) -> None:
    lines = whole.splitlines(keepends=True)
    for number in range(len(lines)):
        bad = [*lines]
        bad[number] = bad[number].replace(b'"record"', b'"rec0rd"', 1)
        path.write_bytes(b"".join(bad))
        with pytest.raises(CassetteDamagedError) as caught:
            read_cassette(path)
        assert caught.value.line == number + 1
        assert f"{path}:{number + 1}: " in str(caught.value)


def test_a_missing_repeated_or_moved_line_is_damage(whole: bytes, path: Path) -> None:
    lines = whole.splitlines(keepends=True)
    for number in range(len(lines)):
        others = lines[:number] + lines[number + 1 :]
        twice = [*lines[:number], lines[number], *lines[number:]]
        versions = [others, twice]
        if number:
            versions.append(
                [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]]
            )
        for version in versions:
            path.write_bytes(b"".join(version))
            with pytest.raises(CassetteDamagedError):
                read_cassette(path)


Access = (CassetteAccessError, 2)
Damaged = (CassetteDamagedError, 5)


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda path, whole: None, Access, "--record"),
        (lambda path, whole: path.mkdir(), Access, "folder"),
        (lambda path, whole: path.write_bytes(b""), Damaged, "empty"),
        (
            lambda path, whole: path.write_bytes(
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
            ),
            Damaged,
            "git lfs pull",
        ),
        (
            lambda path, whole: path.write_bytes(
                b"<<<<<<< HEAD\n" + whole + b"=======\n" + whole + b">>>>>>> theirs\n"
            ),
            Damaged,
            "conflict markers",
        ),
        (
            lambda path, whole: path.write_bytes(
                whole.replace(b"\n", b"\n<<<<<<< HEAD\n", 1)
            ),
            Damaged,
            "conflict markers",
        ),
        (lambda path, whole: path.write_bytes(whole + b"\n"), Damaged, "after the end"),
        (lambda path, whole: path.write_bytes(whole + whole), Damaged, "after the end"),
        (lambda path, whole: path.write_bytes(whole.replace(b"\n", b"\r\n")), Damaged, "line ends"),
        (lambda path, whole: path.write_bytes(b"\x00" * 500), Damaged, "checksum"),
        (lambda path, whole: path.write_bytes(b"[]\n"), Damaged, "checksum"),
        (lambda path, whole: path.write_bytes(b"\xef\xbb\xbf" + whole), Damaged, "checksum"),
        (
            lambda path, whole: path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1])),
            Damaged,
            "cut off",
        ),
    ],
)  # fmt: skip
def test_what_is_no_cassette_is_refused_with_what_to_do(  # type: ignore[no-untyped-def]
    make, kind: tuple[type[Exception], int], says: str, whole: bytes, path: Path
) -> None:
    make(path, whole)
    with pytest.raises(kind[0], match=says) as caught:
        open_for_replay(path)
    assert type(caught.value) is kind[0]
    assert caught.value.exit_code == kind[1]  # type: ignore[attr-defined]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_an_error_of_access(whole: bytes, path: Path, tmp_path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(CassetteAccessError, match="cannot be read"):
        read_cassette(path)
    (tmp_path / "file").write_bytes(whole)
    with pytest.raises(CassetteAccessError, match="cannot be read"):
        read_cassette(tmp_path / "file" / "c.jsonl")


@pytest.mark.parametrize(
    ("name", "value"), [("format", 3), ("format", "1"), ("format", True), ("key", "sr2")]
)
def test_a_newer_format_says_so(name: str, value: object, whole: bytes, path: Path) -> None:
    found = records(whole)
    found[0][name] = value
    path.write_bytes(sealed(found))
    for look in (read_cassette, read_part):
        with pytest.raises(CassetteAccessError, match="upgrade swarm-repro"):
            look(path)


def _of(kind: str) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    return lambda found: next(record for record in found if record["record"] == kind)


def _set(kind: str, **members: object) -> Callable[[list[dict[str, Any]]], None]:
    return lambda found: _of(kind)(found).update(members)


def _drop(kind: str, name: str) -> Callable[[list[dict[str, Any]]], None]:
    return lambda found: _of(kind)(found).pop(name) and None


def _double(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(found: list[dict[str, Any]]) -> None:
        record = _of(kind)(found)
        found.insert(found.index(record), dict(record))

    return change


def _remove(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    return lambda found: found.remove(_of(kind)(found))


CHANGES: list[tuple[str, Callable[[list[dict[str, Any]]], None]]] = [
    ("the text is no string", _set("text", text=5)),
    ("the text is not there", _drop("text", "text")),
    ("the environment is another", _set("env", content={})),
    ("the environment is a list", _set("env", content=[])),
    ("the environment is missing", _remove("env")),
    ("the model is missing", _remove("model")),
    ("the model comes twice", _double("model")),
    ("the model has no identity", _drop("model", "identity")),
    ("the model's identity is unknown", _set("model", identity={"kind": "md5"})),
    ("a call comes twice", _double("call")),
    ("a call has no scope", _drop("call", "scope")),
    ("a call's scope is a number", _set("call", scope=5)),
    ("a call has no key", _drop("call", "asked")),
    ("a call has no token counts", _drop("call", "tokens")),
    ("a call has too few token counts", _set("call", tokens=[1, 2, 3])),
    ("a call's seed is a list", _set("call", seed=[])),
    ("a call's place is a number", _set("call", at=5)),
    ("a call's place is half", _set("call", at=[1])),
    ("a call's request is a string", _set("call", request="x")),
    ("a call's body is a list", _set("call", request={"path": "/", "body": []})),
    ("a call's response is a list", _set("call", response=[])),
    ("a call's model is unknown", _set("call", model="other")),
    ("a call's environment is a digest", _set("call", env="0" * 64)),
    ("a call's environment is beyond the file", _set("call", env=2)),
    ("a call's environment is before the file", _set("call", env=-1)),
    ("a witness's environment is beyond the file", _set("witness", env=2)),
    ("the environment comes twice", _double("env")),
    ("a run's calls are beyond the file", _set("run", calls=[[0, 4]])),
    ("a run's calls are strings", _set("run", calls=[["a", "b"]])),
    ("a run has no artifacts", _drop("run", "artifacts")),
    ("a run's artifacts are a list", _set("run", artifacts=[])),
    ("a witness is beyond the file", _set("witness", calls=[[2, 9]])),
    ("a witness has no calls", _drop("witness", "calls")),
    ("the header has no policy", _drop("cassette", "seed_policy")),
    ("the header's policy is unknown", _set("cassette", seed_policy="random")),
    ("the header's requests are a string", _set("cassette", requests="x")),
    ("the header's rule is empty", _set("cassette", requests=[{}])),
    ("a record is unknown", _set("witness", record="novelty")),
    ("the header comes twice", _double("cassette")),
    ("the header is missing", _remove("cassette")),
]


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES])
def test_wrong_records_under_right_checksums_are_damage(
    change: Callable[[list[dict[str, Any]]], None], whole: bytes, path: Path
) -> None:
    found = records(whole)
    change(found)
    path.write_bytes(sealed(found))
    with pytest.raises(CassetteDamagedError) as caught:
        read_cassette(path)
    assert caught.value.line is not None


@pytest.mark.parametrize(("name", "value"), [("records", 3), ("sha256", "0" * 64)])
def test_a_wrong_end_record_is_damage(name: str, value: object, whole: bytes, path: Path) -> None:
    found = records(whole)
    found[-1][name] = value
    path.write_bytes(b"".join(map(encode_line, found)))
    with pytest.raises(CassetteDamagedError):
        read_cassette(path)


@pytest.mark.parametrize("mode", [Mode.REPLAY, Mode.AUTO])
@pytest.mark.parametrize("is_large", [True, False])
def test_an_answer_whose_bytes_are_not_the_recorded_ones_is_never_served(
    mode: Mode, is_large: bool, whole: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(store, "MAPPED_FROM_BYTES", 0)
    found = records(whole)
    for record in found:
        if record["record"] == "call":
            record["response"]["json"]["choices"][0]["message"]["content"] = "forged"
    path.write_bytes(sealed(found))

    def replay() -> None:
        if mode is Mode.REPLAY:
            ask(replaying(path), TinyModel(), LONG)
        else:
            with recording(path, mode=mode) as session:
                ask(session, TinyModel(), LONG)

    with pytest.raises(CassetteDamagedError, match=r"call 0 of alice.*SHA-256"):
        replay()


@pytest.mark.parametrize("change", [_remove("text"), _set("text", text="x")])
def test_a_missing_or_other_text_is_damage_when_a_miss_is_explained(
    change: Callable[[list[dict[str, Any]]], None], whole: bytes, path: Path
) -> None:
    found = records(whole)
    change(found)
    path.write_bytes(sealed(found))
    with pytest.raises(CassetteDamagedError):
        ask(replaying(path), TinyModel(), "something new")


def test_an_answer_whose_text_is_another_is_never_served(path: Path) -> None:
    with recording(path) as session:
        ask(session, TinyModel(wording=LONG))
    found = records(path.read_bytes())
    _set("text", text=LONG + "!")(found)
    path.write_bytes(sealed(found))
    with pytest.raises(CassetteDamagedError, match="refers to text"):
        ask(replaying(path), TinyModel())


# --- The .part of an interrupted recording.


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("part") / "c.jsonl"
    model = TinyModel()
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
        for prompt in (LONG, "hello", "hello"):
            ask(session, model, prompt)
    assert not path.exists()
    return part_path(path).read_bytes()


def test_a_part_opens_up_to_its_last_whole_line_wherever_it_breaks_off(
    part: bytes, path: Path
) -> None:
    lines = part.splitlines(keepends=True)
    path.write_bytes(part)
    for length in reversed(range(len(part) + 1)):
        os.truncate(path, length)
        found = read_part(path)
        kept = part[:length].count(b"\n")
        if kept == 0:
            assert found is None
            continue
        assert found is not None
        assert found.length == len(b"".join(lines[:kept]))
        calls = [line for line in lines[:kept] if b'"record":"call"' in line]
        assert len(found.cassette.calls) == len(calls)


def test_a_recording_goes_on_from_wherever_its_part_breaks_off(part: bytes, path: Path) -> None:
    prompts = (LONG, "hello", "hello", "more")
    reference = path.with_name("reference.jsonl")
    with recording(reference) as session:
        model = TinyModel()
        expected = [ask(session, model, prompt).text for prompt in prompts]
    ends = [at + 1 for at, byte in enumerate(part) if byte == 0x0A]
    for length in sorted(
        {0, 1, len(part), *ends, *(end - 1 for end in ends), *(end + 9 for end in ends)}
    ):
        path.unlink(missing_ok=True)
        part_path(path).write_bytes(part[:length])
        kept = part[: min(length, len(part))].count(b'"record":"call"')
        whole_calls = part[: part[:length].rfind(b"\n") + 1].count(b'"record":"call"')
        with recording(path, mode=Mode.AUTO) as session:
            model = TinyModel()
            assert [ask(session, model, prompt).text for prompt in prompts] == expected
        assert whole_calls <= kept
        assert len(model.sent) == 4 - whole_calls
        assert not part_path(path).exists()
        replay = replaying(path)
        assert [ask(replay, TinyModel(), prompt).text for prompt in prompts] == expected


def test_damage_in_a_part_is_an_error_where_the_bytes_were_on_the_disk(
    part: bytes, path: Path
) -> None:
    last = part.rfind(b'{"record":"batch"')  # says how much was on the disk
    for at in range(0, last, 31):
        changed = bytearray(part)
        changed[at] ^= 0x01
        path.write_bytes(changed)
        with pytest.raises(CassetteDamagedError):
            read_part(path)


def test_what_may_not_have_been_on_the_disk_is_taken_for_torn(part: bytes, path: Path) -> None:
    last = part.rfind(b'{"record":"batch"')
    for at in range(last, len(part), 31):
        path.write_bytes(part[:at] + bytes(40) + part[at + 40 :])
        found = read_part(path)
        assert found is not None
        assert last <= found.length <= at
        assert len(found.cassette.calls) == part.count(b'"record":"call"') - 1


def test_a_part_without_notes_is_torn_in_its_last_line_only(part: bytes, path: Path) -> None:
    lines = [line for line in part.splitlines(keepends=True) if b'"record":"batch"' not in line]
    path.write_bytes(b"".join(lines) + b'{"record":"call","sco')
    found = read_part(path)
    assert found is not None
    assert len(found.cassette.calls) == part.count(b'"record":"call"')
    path.write_bytes(b"".join([*lines[:-2], b"x" + lines[-2], lines[-1]]))
    with pytest.raises(CassetteDamagedError):
        read_part(path)


def test_the_part_of_a_recording_cannot_be_mistaken_for_a_cassette(part: bytes, path: Path) -> None:
    path.write_bytes(part)
    with pytest.raises(CassetteDamagedError, match="interrupted recording: the end record is miss"):
        read_cassette(path)


def test_a_damaged_cassette_is_not_recorded_over(whole: bytes, path: Path) -> None:
    path.write_bytes(whole[:-40])
    for keep in (True, False):
        with pytest.raises(CassetteDamagedError):
            open_for_recording(path, HEADER, keep=keep)
    assert path.read_bytes() == whole[:-40]
    assert not part_path(path).exists()
