"""The content of a ``.part``: the writer of each call, and each text and model once."""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from swarm_repro.cassette.lines import decode_line, encode_line
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import CassetteStore, open_for_recording
from swarm_repro.errors import CassetteAccessError, CassetteDamagedError, ModelConflictError
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, open_session
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    make_binding,
    make_environment,
    recording,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def shared(path: Path) -> Session:
    return open_session(path, mode=Mode.AUTO, header=HEADER, seed=7, shared=True)


def alone(store: CassetteStore) -> Session:
    return Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=7)


def records_in(path: Path) -> list[dict[str, object]]:
    return [decode_line(line) for line in part_path(path).read_bytes().splitlines(keepends=True)]


def kinds_in(path: Path) -> Counter[object]:
    return Counter(record["record"] for record in records_in(path))


def test_a_model_an_environment_and_a_text_are_written_once(path: Path) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = alone(store)
        for who in ("a", "b", "c"):
            ask(session, TinyModel(), LONG, who=who)
        assert kinds_in(path) == {
            "cassette": 1, "batch": 4, "model": 1, "env": 1, "text": 1, "call": 3,
        }  # fmt: skip
    # Nor once more by who goes on.
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        ask(alone(store), TinyModel(), LONG, who="d")
        found = kinds_in(path)
        assert (found["model"], found["env"], found["text"], found["call"]) == (1, 1, 1, 4)


def test_sharing_processes_write_a_model_an_environment_and_a_text_once(path: Path) -> None:
    sessions = [shared(path) for _ in range(3)]
    for turn in range(2):
        for number, session in enumerate(sessions):
            ask(session, TinyModel(), LONG, who=f"agent_{number}{turn}")
    found = kinds_in(path)
    assert (found["model"], found["env"], found["text"], found["call"]) == (1, 1, 1, 6)
    for session in sessions:
        conclude(session)
    assert len(read_cassette(path).calls) == 6


def test_a_broken_line_of_another_process_is_cut_off_with_what_follows_it(path: Path) -> None:
    one, other = shared(path), shared(path)
    ask(one, TinyModel(), who="a")
    whole = part_path(path).read_bytes()
    with part_path(path).open("ab") as file:
        file.write(b"{broken\n" + whole.splitlines(keepends=True)[-1])
    ask(other, TinyModel(), who="b")
    assert kinds_in(path)["call"] == 2
    for session in (one, other):
        conclude(session)
    assert sorted(call.scope for call in read_cassette(path).calls.values()) == ["a", "b"]


def test_each_call_has_its_writer_and_its_environment(path: Path) -> None:
    one, two = shared(path), shared(path)
    here, there = TinyModel(), TinyModel(environment=make_environment("another CPU"))
    for number in range(2):
        ask(one, here, f"{number}", who="one")
        ask(two, there, f"{number}", who="two")
        ask(two, there, f"more {number}", who="two")
    found = read_part(part_path(path))
    assert found is not None
    assert set(found.writers) == {0, 1}
    assert {(scope, number) for (scope, _, _), number in found.written_by.items()} == {
        ("one", 0), ("two", 1),
    }  # fmt: skip
    assert set(found.going_on()) == set(found.cassette.calls)
    environments = {
        (call.scope, found.cassette.envs[call.env].content["cpu"])
        for call in found.cassette.calls.values()
    }
    assert environments == {("one", "a CPU"), ("two", "another CPU")}
    conclude(one)
    found = read_part(part_path(path))
    assert found is not None
    assert {scope for scope, _, _ in found.going_on()} == {"two"}
    conclude(two)
    assert Counter(call.scope for call in read_cassette(path).calls.values()) == {
        "one": 2, "two": 4,
    }  # fmt: skip


def test_a_takeover_ends_the_writers_that_are_gone(path: Path) -> None:
    with closing(shared(path)) as gone:
        ask(gone, TinyModel(), "a", who="x")
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        states = [
            (record["writer"], record.get("state"))
            for record in records_in(path)
            if record["record"] == "batch"
        ]
        assert states == [(0, "began"), (0, None), (0, "ended"), (1, "began")]
        assert store.in_part == 1, "their calls are its own now"


def test_a_joining_process_does_not_serve_calls_of_others(path: Path) -> None:
    one = shared(path)
    ask(one, TinyModel(), "a", who="x")
    two = shared(path)
    store = two.store
    assert store is not None
    assert store.in_part == 0
    one.close()
    two.close()


def test_a_part_names_the_run_and_what_is_recorded_anew(path: Path) -> None:
    run_id = ("test", 7, 3, 4)
    with closing(open_for_recording(path, HEADER, keep=False, run_id=run_id)):
        header, note = records_in(path)
        assert header == {**HEADER.to_json(), "run": ["test", 7, 3, 4]}
        assert (note["writer"], note["synced"], note["state"]) == (0, 0, "began")
        assert "replaces" not in note
    other = path.with_name("other.jsonl")
    with closing(open_for_recording(other, HEADER, keep=False, shared=True, replaces="mine")):
        header, note = records_in(other)
        assert "run" not in header
        assert note["replaces"] == "mine"
        found = read_part(part_path(other))
        assert found is not None
        assert found.writers[0].replaces == "mine"


def test_a_call_recorded_by_another_process_is_refused_with_advice(path: Path) -> None:
    one, two = shared(path), shared(path)
    ask(one, TinyModel(), "a", who="x")
    with pytest.raises(CassetteAccessError) as caught:
        ask(two, TinyModel(), "a", who="x")
    assert str(caught.value) == (
        "another process has recorded this request of x meanwhile (repeat 0): give each process "
        "scopes of its own (scope_prefix)"
    )
    for session in (one, two):
        session.close()


def test_a_second_model_of_one_name_is_a_conflict_each_time(path: Path) -> None:
    one, two = shared(path), shared(path)
    ask(one, TinyModel(), "a", who="x")
    other = TinyModel(binding=make_binding(weights="f" * 64))
    for _ in range(2):
        with pytest.raises(ModelConflictError):
            ask(two, other, "a", who="y")
    assert kinds_in(path)["call"] == 1
    for session in (one, two):
        session.close()


def test_an_exclusive_part_that_grew_meanwhile_is_not_continued(path: Path) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        with part_path(path).open("ab") as file:
            file.write(encode_line({"record": "text", "text": "of another program"}))
        with pytest.raises(CassetteAccessError) as caught:
            ask(alone(store), TinyModel(), "a")
    assert str(caught.value) == (
        f"{part_path(path)} was changed by another program while it was being recorded"
    )


def test_a_closed_recording_takes_no_calls(path: Path) -> None:
    with recording(path) as session:
        ask(session, TinyModel(), "a")
    cassette = read_cassette(path)
    (call,) = cassette.calls.values()
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        staged = store.stage(call, cassette.models[call.model], cassette.envs[call.env])
        writer = store._writer
        assert writer is not None
    with pytest.raises(CassetteAccessError, match=r"c\.jsonl\.part is closed"):
        writer.append(call, cassette.models[call.model], cassette.envs[call.env])
    with pytest.raises(CassetteAccessError, match=r"c\.jsonl\.part is closed"):
        staged.wait()


def test_a_torn_write_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_for_recording(path, HEADER, keep=False)) as store:
        session = alone(store)
        ask(session, TinyModel(), "a")
        before = part_path(path).read_bytes()
        real = os.write

        taken: list[int] = []

        def tear(descriptor: int, data: bytes) -> int:
            if taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken.append(real(descriptor, data[:50]))
            return taken[0]

        monkeypatch.setattr(os, "write", tear)
        with pytest.raises(CassetteAccessError) as caught:
            ask(session, TinyModel(), "b")
        monkeypatch.undo()
        assert str(caught.value) == (
            f"{part_path(path)} cannot be written: No space left on device; free some space and go "
            "on with --auto"
        )
        assert part_path(path).read_bytes() == before
        ask(session, TinyModel(), "c")
        assert kinds_in(path)["call"] == 2


def test_a_sharing_process_reads_up_to_a_torn_line_and_cuts_it_off(path: Path) -> None:
    one, two = shared(path), shared(path)
    ask(one, TinyModel(), LONG, who="x")
    with part_path(path).open("ab") as file:
        file.write(encode_line({"record": "text", "text": LONG * 2}) + b'{"record":"te')
    ask(two, TinyModel(), LONG * 2, who="y")
    assert kinds_in(path)["text"] == 2, "what is whole before it counts, what is torn is cut off"
    for session in (one, two):
        session.close()
    found = read_part(part_path(path))
    assert found is not None
    assert len(found.cassette.calls) == 2


# --- What is torn, and what is damage.


def made_of(*lines: bytes) -> bytes:
    return b"".join(lines)


def test_a_torn_line_is_damage_where_a_later_note_says_that_it_was_on_the_disk(
    path: Path,
) -> None:
    header = encode_line(HEADER.to_json())
    began = encode_line({"record": "batch", "writer": 0, "synced": 0, "state": "began"})
    text = encode_line({"record": "text", "text": "x"})
    torn = b"?" * 30 + b"\n"
    whole = len(header) + len(began)

    def note(synced: object) -> bytes:
        return encode_line({"record": "batch", "writer": 0, "synced": synced})

    part = part_path(path)
    for tail in (b"", note(0), note(whole), text, note(None), note("9"), text + note(whole)):
        part.write_bytes(made_of(header, began, torn, tail))
        found = read_part(part)
        assert found is not None
        assert found.length == whole, tail
    for tail in (note(whole + 1), text + note(whole + 31), note(0) + note(10**9)):
        part.write_bytes(made_of(header, began, torn, tail))
        with pytest.raises(CassetteDamagedError) as caught:
            read_part(part)
        assert caught.value.line == 3
        assert "no checksum" in str(caught.value)
    # Before there were notes only the last line could be torn.
    part.write_bytes(made_of(header, text, torn))
    found = read_part(part)
    assert found is not None
    assert found.length == len(header) + len(text)
    part.write_bytes(made_of(header, torn, text))
    with pytest.raises(CassetteDamagedError) as caught:
        read_part(part)
    assert caught.value.line == 2


def test_the_writer_is_noted_whenever_it_changes(path: Path, tmp_path: Path) -> None:
    with recording(tmp_path / "made.jsonl") as session:
        for number in range(5):
            ask(session, TinyModel(), f"{number}")
    made = read_cassette(tmp_path / "made.jsonl")
    calls = list(made.calls.values())
    stores = [open_for_recording(path, HEADER, keep=True, shared=True) for _ in range(2)]
    turns = [0, 1, 0, 0, 1]
    for call, turn in zip(calls, turns, strict=True):
        # Nobody waits for the disk: a note of how far it has come is no reason for one.
        stores[turn].stage(call, made.models[call.model], made.envs[call.env])
    found = read_part(part_path(path))
    assert found is not None
    assert [found.written_by[call.id] for call in calls] == turns
    # Two that began, and one whenever another writer goes on.
    assert kinds_in(path)["batch"] == 2 + 4
    for store in stores:
        store.close()
