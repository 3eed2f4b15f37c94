"""A cassette in use: what a recording leaves, what is kept as it was, what is refused."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette import store as store_module
from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import Artifact
from swarm_repro.cassette.store import CassetteStore, open_for_recording, open_for_replay
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import CassetteAccessError, ModelConflictError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    DEFAULTS,
    HEADER,
    LONG,
    TinyModel,
    ask,
    make_binding,
    make_environment,
    make_run,
    recording,
    replaying,
    small_cassette,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "c.jsonl"


@pytest.mark.parametrize(("name", "least_mib"), [("c.jsonl", 64), ("c.jsonl.zst", 4)])
@pytest.mark.parametrize("is_large", [False, True])
def test_recordings_from_64_mib_on_are_not_read_into_memory(
    name: str, least_mib: int, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "open_mapped", lambda _: "call by call")
    monkeypatch.setattr(store_module, "read_cassette", lambda _: "at once")
    with (tmp_path / name).open("wb") as file:
        file.truncate(least_mib * 2**20 - (not is_large))  # takes no room on the disk
    opened: object = store_module.open_recorded(tmp_path / name)
    assert opened == ("call by call" if is_large else "at once")


def record(
    path: Path, model: TinyModel, *prompts: str, mode: Mode = Mode.RECORD, seed: int = 7
) -> bytes:
    with recording(path, mode=mode, run_seed=seed) as session:
        for prompt in prompts:
            ask(session, model, prompt)
    return path.read_bytes()


# --- Recording again.


def test_recording_an_unchanged_experiment_again_does_not_change_one_byte(path: Path) -> None:
    before = record(path, TinyModel(), LONG, "a", "a", "b")
    again = TinyModel()
    for _ in range(50):  # other ids, dates, timings and durations than the first time
        next(again.numbers)
    assert record(path, again, LONG, "a", "a", "b") == before
    assert len(again.sent) == 4, "the model was called again"


def test_two_recordings_in_two_files_differ_in_volatile_fields_only(
    path: Path, tmp_path: Path
) -> None:
    record(path, TinyModel(), LONG, "a")
    other = tmp_path / "other.jsonl"
    later = TinyModel()
    next(later.numbers)
    record(other, later, LONG, "a")
    assert path.read_bytes() != other.read_bytes()
    for one, two in zip(
        read_cassette(path).calls.values(), read_cassette(other).calls.values(), strict=True
    ):
        assert one.completion.stable_sha256 == two.completion.stable_sha256
        assert one.completion.body != two.completion.body
        assert replace(one, stored_response={}, duration_s=0) == replace(
            two, stored_response={}, duration_s=0
        )


def test_a_newer_recorder_does_not_change_an_unchanged_file(path: Path) -> None:
    before = record(path, TinyModel(), "a")
    with recording(path, header=replace(HEADER, recorder="9.9.9")) as session:
        ask(session, TinyModel(), "a")
    assert path.read_bytes() == before


def test_another_environment_with_the_same_answers_adds_a_witness_and_nothing_else(
    path: Path,
) -> None:
    before = record(path, TinyModel(), LONG, "a")
    other = TinyModel(environment=make_environment("another CPU"))
    after = record(path, other, LONG, "a")
    old, new = before.splitlines(), after.splitlines()
    added = [line for line in new if line not in old]
    assert [line.split(b'"')[3] for line in added] == [b"env", b"witness", b"end"]
    assert [line for line in old if line not in new] == [old[-1]]
    assert record(path, other, LONG, "a") == after, "a second time nothing is new"
    assert record(path, TinyModel(), LONG, "a") == after, "nor in the first environment"


def test_a_changed_answer_replaces_the_old_one_and_its_witnesses(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    record(path, TinyModel(environment=make_environment("another CPU")), "a", "b")
    model = TinyModel()
    model.trouble = lambda number: (
        TinyModel(wording="new").send(model.sent[0]) if number == 0 else None
    )
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    for prompt in "ab":
        ask(session, model, prompt)
    changes = store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    assert (len(changes.replaced), len(changes.unchanged), len(changes.added)) == (1, 1, 0)
    found = read_cassette(path)
    assert [call.completion.text[:3] for call in found.calls.values()] == ["new", "fin"]
    assert list(found.witnesses.values()) == [frozenset(changes.unchanged)]


def test_a_record_run_leaves_exactly_its_calls(path: Path) -> None:
    record(path, TinyModel(), "a", "b", LONG)
    record(path, TinyModel(), "a", "c", seed=8)
    found = read_cassette(path)
    assert [call.body["messages"][0]["content"] for call in found.calls.values()] == ["a", "c"]  # type: ignore[index]
    assert [run.seed for run in found.runs] == [8]
    assert LONG not in found.texts.values()


def test_auto_serves_what_is_there_and_records_the_rest(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    model = TinyModel(wording="new")
    with recording(path, mode=Mode.AUTO) as session:
        texts = [ask(session, model, prompt).text[:4] for prompt in ("a", "b", "c")]
    assert texts == ["fine", "fine", "new "]
    assert len(model.sent) == 1
    assert (session.ledger.hits, session.ledger.called) == (2, 1)


def test_auto_on_an_unchanged_experiment_does_not_change_one_byte(path: Path) -> None:
    before = record(path, TinyModel(), LONG, "a", "a")
    assert record(path, TinyModel(), LONG, "a", "a", mode=Mode.AUTO) == before


def test_auto_keeps_what_another_run_record_uses_and_drops_what_none_uses(path: Path) -> None:
    with recording(path) as session:
        for prompt in ("a", "b"):
            ask(session, TinyModel(), prompt, seed=1)
    with recording(path, mode=Mode.AUTO, run_seed=8) as session:
        for prompt in ("a", "c"):
            ask(session, TinyModel(), prompt, seed=1)
    with recording(path, mode=Mode.AUTO, run_seed=8) as session:
        for prompt in ("a", "d"):
            ask(session, TinyModel(), prompt, seed=1)
    found = read_cassette(path)
    prompts = {call.body["messages"][0]["content"] for call in found.calls.values()}  # type: ignore[index]
    assert prompts == {"a", "b", "d"}
    assert sorted(run.seed or 0 for run in found.runs) == [7, 8]


def test_auto_with_another_run_seed_is_refused_and_leaves_the_first_run_replayable(
    path: Path,
) -> None:
    """The calls of both runs would be one, of which a file of this format keeps one answer."""
    model = TinyModel()
    before = record(path, model, "a", "b")
    other = TinyModel(wording="other")
    with pytest.raises(CassetteAccessError, match=r"of another run.*--cassette.*--record"):
        record(path, other, "a", "b", mode=Mode.AUTO, seed=8)
    assert other.sent == []
    assert path.read_bytes() == before
    session = replaying(path)
    answers = [ask(session, other, prompt).text for prompt in ("a", "b")]
    assert answers == [model.says(sent) for sent in model.sent]


@pytest.mark.parametrize("seed", [7, 8])
def test_auto_with_other_sampling_defaults_is_refused_and_leaves_the_first_run_replayable(
    path: Path, seed: int
) -> None:
    """The cassette's model record fills in what the calls left open: it can hold one set of it."""
    model = TinyModel()
    before = record(path, model, "a", "b")
    other = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 20}), wording="other")
    with pytest.raises(ModelConflictError, match="has other sampling defaults than when"):
        record(path, other, "a", "b", mode=Mode.AUTO, seed=seed)
    assert other.sent == []
    assert path.read_bytes() == before
    session = replaying(path)
    answers = [ask(session, other, prompt).text for prompt in ("a", "b")]
    assert answers == [model.says(sent) for sent in model.sent]


def test_a_recording_with_other_sampling_defaults_replays(path: Path) -> None:
    record(path, TinyModel(), "a")
    other = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 20}))
    record(path, other, "a")
    ask(replaying(path), TinyModel(), "a")


# --- The canonical file.


def test_the_file_is_ordered_and_each_text_is_written_once_before_its_first_use(path: Path) -> None:
    store = open_for_recording(path, HEADER, keep=False)
    places = iter([(1, 0), (0, 1), (0, 0)])
    session = Session(
        mode=Mode.RECORD, header=HEADER, store=store, run_seed=7, position=lambda: next(places)
    )
    for who, prompt in (("z", LONG), ("b", "x"), ("a", LONG)):
        ask(session, TinyModel(), prompt, who=who)
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    lines = path.read_bytes().splitlines()
    assert [line.split(b'"')[3] for line in lines] == [
        b"cassette", b"model", b"env", b"text", b"call", b"call", b"call", b"run", b"end",
    ]  # fmt: skip
    assert [call.at for call in read_cassette(path).calls.values()] == [(0, 0), (0, 1), (1, 0)]
    assert sum(LONG.encode() in line for line in lines) == 1


def test_the_file_does_not_depend_on_the_order_of_scopes(path: Path, tmp_path: Path) -> None:
    def write(to: Path, *whos: str) -> bytes:
        with recording(to) as session:
            for who in whos:
                model = TinyModel(numbers=iter([5]))
                ask(session, model, LONG, who=who)
        return to.read_bytes()

    assert write(path, "a", "b", "c") == write(tmp_path / "other.jsonl", "c", "a", "b")


def test_models_and_environments_that_no_call_uses_are_left_out(path: Path) -> None:
    with recording(path) as session:
        ask(session, TinyModel(), "a")
        other = TinyModel(
            binding=make_binding(name="second"), environment=make_environment("second CPU")
        )
        ask(session, other, "a")
    assert len(read_cassette(path).models) == len(read_cassette(path).envs) == 2
    record(path, TinyModel(), "a")
    assert list(read_cassette(path).models) == ["tiny"]
    assert len(read_cassette(path).envs) == 1


def test_a_recording_without_calls_is_a_cassette(path: Path) -> None:
    record(path, TinyModel())
    assert read_cassette(path).calls == {}


# --- While it runs, and when it is interrupted.


def test_each_call_is_on_disk_before_its_answer_is_given_back(path: Path) -> None:
    with recording(path) as session:
        for number in range(3):
            ask(session, TinyModel(), f"call {number}")
            data = part_path(path).read_bytes()
            assert data.endswith(b"\n")
            assert data.count(b'"record":"call"') == number + 1
            assert not path.exists()
    assert not part_path(path).exists()
    assert list(path.parent.iterdir()) == [path]


def crash(path: Path, *prompts: str, mode: Mode = Mode.RECORD, wording: str = "fine") -> None:
    with closing(open_for_recording(path, HEADER, keep=mode is Mode.AUTO)) as store:
        session = Session(mode=mode, header=HEADER, store=store, run_seed=7)
        for prompt in prompts:
            ask(session, TinyModel(wording=wording), prompt)


def test_a_crash_leaves_the_old_cassette_untouched(path: Path) -> None:
    before = record(path, TinyModel(), "a", "b")
    crash(path, "a", "x", wording="new")
    assert path.read_bytes() == before
    ask(replaying(path), TinyModel(), "a")
    assert part_path(path).exists()


def test_record_refuses_a_part_until_it_is_discarded(path: Path) -> None:
    crash(path, "a")
    data = part_path(path).read_bytes()
    with pytest.raises(CassetteAccessError, match=r"--auto.*--discard"):
        open_for_recording(path, HEADER, keep=False)
    assert part_path(path).read_bytes() == data
    with recording(path, discard=True) as session:
        ask(session, TinyModel(), "b")
    assert len(read_cassette(path).calls) == 1


def test_auto_goes_on_from_a_part(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    crash(path, "a", wording="new")
    model = TinyModel(wording="newer")
    with recording(path, mode=Mode.AUTO) as session:
        texts = [ask(session, model, prompt).text.split()[0] for prompt in ("a", "b", "c")]
    assert texts == ["new", "fine", "newer"]
    assert not part_path(path).exists()
    replay = replaying(path)
    assert [ask(replay, TinyModel(), p).text.split()[0] for p in "abc"] == texts


def test_two_crashes_lose_nothing(path: Path) -> None:
    crash(path, "a")
    crash(path, "a", "b", mode=Mode.AUTO)
    crash(path, "a", "b", LONG, mode=Mode.AUTO)
    model = TinyModel()
    record(path, model, "a", "b", LONG, "c", mode=Mode.AUTO)
    assert len(model.sent) == 1


@pytest.mark.parametrize("change", ["run seed", "order"])
def test_a_call_recorded_anew_while_going_on_does_not_damage_the_part(
    change: str, path: Path
) -> None:
    crash(path, "a", "b")
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        seed = 8 if change == "run seed" else 7
        session = Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=seed)
        ask(session, TinyModel(wording="new"), "b")
    found = read_part(part_path(path))
    assert found is not None
    assert [call.completion.text[:3] for call in found.cassette.calls.values()] == ["fin", "new"]


def test_a_long_torn_line_is_gone_once_a_recording_goes_on(path: Path) -> None:
    crash(path, "a")
    with part_path(path).open("ab") as file:
        file.write(b'{"record":"text","text":"' + b"x" * 10_000)
    crash(path, "a", "b", mode=Mode.AUTO)
    assert b"xxx" not in part_path(path).read_bytes()
    model = TinyModel()
    record(path, model, "a", "b", mode=Mode.AUTO)
    assert model.sent == []


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("data", [b"", b'{"record":"cass'])
def test_a_part_without_even_a_header_is_no_recording_to_go_on_from(
    data: bytes, keep: bool, path: Path
) -> None:
    path.parent.mkdir()
    part_path(path).write_bytes(data)
    record(path, TinyModel(), "a", mode=Mode.AUTO if keep else Mode.RECORD)
    assert len(read_cassette(path).calls) == 1


# --- What is refused.

OTHERS = [
    Header(recorder="0.1.0", scenario="test", seed_policy="content"),
    Header(recorder="0.1.0", scenario="test", strict=True),
    Header(recorder="0.1.0", scenario="test", requests=(RequestRule({}, {"top_k": 1}),)),
]


@pytest.mark.parametrize("header", OTHERS)
def test_auto_refuses_other_settings_and_record_takes_them(header: Header, path: Path) -> None:
    before = record(path, TinyModel(), "a")
    with pytest.raises(CassetteAccessError, match="--record"):
        open_for_recording(path, header, keep=True)
    assert path.read_bytes() == before
    with recording(path, header=header) as session:
        ask(session, TinyModel(), "a", seed=3)
    assert read_cassette(path).header == header


@pytest.mark.parametrize("keep", [True, False])
def test_another_scenarios_cassette_is_refused(keep: bool, path: Path) -> None:
    before = record(path, TinyModel(), "a")
    with pytest.raises(CassetteAccessError, match="belongs to scenario 'test', not 'other'"):
        open_for_recording(path, replace(HEADER, scenario="other"), keep=keep)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_part_of_other_settings_is_not_gone_on_from(path: Path) -> None:
    crash(path, "a")
    with pytest.raises(CassetteAccessError, match="seed policy"):
        open_for_recording(path, OTHERS[0], keep=True)


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_is_refused(keep: bool, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(CassetteAccessError, match="folder"):
        open_for_recording(path, HEADER, keep=keep)


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CassetteAccessError, match="cannot be"):
        open_for_recording(tmp_path / "file" / "c.jsonl", HEADER, keep=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    try:
        with pytest.raises(CassetteAccessError, match="cannot be written"):
            open_for_recording(path, HEADER, keep=False)
    finally:
        path.parent.chmod(0o700)


def test_two_models_of_one_name_are_refused_by_the_store_itself(path: Path) -> None:
    record(path, TinyModel(), "a")
    (call,) = open_for_replay(path).calls().values()
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        with pytest.raises(ModelConflictError):
            store.stage(call, make_binding(weights="f" * 64), make_environment())
        assert store.binding("tiny") == make_binding()


def test_a_cassette_that_is_replayed_cannot_be_added_to(path: Path) -> None:
    record(path, TinyModel(), "a")
    store = open_for_replay(path)
    (call,) = store.calls().values()
    with pytest.raises(RuntimeError):
        store.stage(call, make_binding(), make_environment())


SETTINGS = (
    "{} was recorded with another seed policy, strict setting or other request fields; record it "
    "anew with --record, or name another file with --cassette"
)


def refusal(path: Path, header: Header = HEADER, **options: Any) -> str:
    files = set(path.parent.iterdir())
    with pytest.raises(CassetteAccessError) as caught:
        open_for_recording(path, header, **{"keep": True, **options})
    assert caught.value.exit_code == 2
    assert set(path.parent.iterdir()) == files, "it leaves what is there"
    return str(caught.value)


def test_what_is_refused_is_said_with_what_to_do(path: Path) -> None:
    record(path, TinyModel(), "a")
    other = replace(HEADER, scenario="other")
    belongs = "belongs to scenario 'test', not 'other'; name another file with --cassette"
    for keep in (True, False):
        assert refusal(path, other, keep=keep) == f"{path} {belongs}"
    for header in OTHERS:
        assert refusal(path, header) == SETTINGS.format(path)
    crash(path, "a", mode=Mode.AUTO)
    crash(path, "b")
    part = part_path(path)
    assert refusal(path, keep=False) == (
        f"{part} holds an interrupted recording: go on from it with --auto, or throw it away with "
        "--discard"
    )
    path.unlink()
    assert refusal(path, other) == f"{part} {belongs}"
    for header in OTHERS:
        assert refusal(path, header) == SETTINGS.format(part)
    assert refusal(path.parent) == f"{path.parent} is a folder; name a cassette file in it"


def test_an_interrupted_recording_of_another_run_is_not_gone_on_from(path: Path) -> None:
    run_id = ("test", 7, 3, 4)
    with closing(open_for_recording(path, HEADER, keep=False, run_id=run_id)) as store:
        ask(Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7), TinyModel(), "a")
    assert refusal(path, run_id=("test", 8, 3, 4)) == (
        f"{part_path(path)} holds an interrupted recording of another run (seed 7, 3 epochs of 4 "
        "steps): finish that one with --auto, or throw it away with --record --discard"
    )
    for same in (run_id, None):  # who knows of no run goes on with any
        open_for_recording(path, HEADER, keep=True, run_id=same).close()
    other = ("test", 8, 3, 4)
    open_for_recording(path, HEADER, keep=False, discard_part=True, run_id=other).close()
    assert read_part(part_path(path)).cassette.recording == other  # type: ignore[union-attr]


def test_a_recording_of_another_version_is_gone_on_from(path: Path) -> None:
    crash(path, "a")
    newer = replace(HEADER, recorder="9.9.9", format=1)
    with closing(open_for_recording(path, newer, keep=True)) as store:
        assert store.in_part == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_part_without_a_call_is_begun_anew(keep: bool, path: Path) -> None:
    crash(path)
    assert part_path(path).exists()
    other = replace(HEADER, scenario="other")
    with closing(open_for_recording(path, other, keep=keep)) as store:
        assert store.in_part == 0
    part = read_part(part_path(path))
    assert part is not None
    assert part.cassette.header == other


# --- What a store knows.


def test_a_store_needs_a_cassette_or_a_header(path: Path) -> None:
    with pytest.raises(ValueError, match="a cassette or a header"):
        CassetteStore(path)


def test_what_was_recorded_and_what_is_recorded_now_are_served(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    other = TinyModel(binding=make_binding(name="second"), wording="new")
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        session = Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=7)
        assert (store.model_names(), store.in_part) == (["tiny"], 0)
        assert store.ids() == set(store.calls()) == set(read_cassette(path).calls)
        ask(session, other, "c")
        assert store.model_names() == ["second", "tiny"]
        assert store.binding("second") == other.binding
        assert store.binding("tiny") == make_binding()
        assert store.binding("third") is None
        assert store.in_part == 1
        assert len(store.ids()) == len(store.calls()) == 3
        (new,) = set(store.ids()) - set(read_cassette(path).calls)
        found = store.find(new)
        assert found is not None
        assert store.completion_of(found).text.startswith("new")
        assert store.find(("nobody", new[1], 0)) is None
        assert [call.order for call in store.in_order(store.ids())] == sorted(
            call.order for call in store.calls().values()
        )
        assert list(store.in_order({("nobody", new[1], 0)})) == []
        assert store.base is not None
        assert store.base.path == path
        assert [run.seed for run in store.runs()] == [7]
    empty = open_for_recording(path.with_name("new.jsonl"), HEADER, keep=True)
    with closing(empty):
        assert (empty.base, empty.runs(), empty.model_names()) == (None, [], [])
        assert (dict(empty.calls()), set(empty.ids()), empty.binding("tiny")) == ({}, set(), None)


def test_a_call_may_be_replaced_where_no_other_run_would_lose_it(path: Path) -> None:
    record(path, TinyModel(), "a")
    (call_id,) = read_cassette(path).calls
    run_id = make_run({}).id
    for known, may in ((run_id, True), (("test", 8, 1, 2), False), (None, False)):
        with closing(open_for_recording(path, HEADER, keep=True, run_id=known)) as store:
            assert store.may_replace(call_id) is may
            assert store.may_replace(("nobody", call_id[1], 0))
    # Of two runs that use it, one would.
    record(path, TinyModel(), mode=Mode.AUTO, seed=8)
    cassette = read_cassette(path)
    both = [replace(run, calls=frozenset({call_id})) for run in cassette.runs]
    write_cassette(replace(cassette, runs=both), path)
    assert len(both) == 2
    with closing(open_for_recording(path, HEADER, keep=True, run_id=run_id)) as store:
        assert not store.may_replace(call_id)
    # Of none, nobody knows whose it is.
    write_cassette(replace(cassette, runs=[]), path)
    with closing(open_for_recording(path, HEADER, keep=True, run_id=run_id)) as store:
        assert not store.may_replace(call_id)


def test_an_answer_after_the_end_is_refused_and_a_second_end_too(path: Path) -> None:
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    ask(session, TinyModel(), "a")
    (call,) = store.calls().values()
    store.finish(used=session.ledger.used, run=None, keep=False)
    with pytest.raises(CassetteAccessError) as caught:
        store.stage(call, make_binding(), make_environment())
    assert str(caught.value) == (
        f"the recording of {path} has ended, and this answer came after it: wait for every answer "
        "inside the block"
    )
    with pytest.raises(RuntimeError, match="or has ended"):
        store.finish(used=[], run=None, keep=False)
    store.close()
    replay = open_for_replay(path)
    with pytest.raises(RuntimeError, match="opened for replay"):
        replay.stage(call, make_binding(), make_environment())
    with pytest.raises(RuntimeError, match="opened for replay"):
        replay.finish(used=[], run=None, keep=False)
    replay.close()


@pytest.mark.parametrize("keep", [True, False])
def test_without_a_run_what_was_there_is_kept_only_by_auto(keep: bool, path: Path) -> None:
    record(path, TinyModel(), "a")
    with closing(open_for_recording(path, HEADER, keep=keep)) as store:
        mode = Mode.AUTO if keep else Mode.RECORD
        session = Session(mode=mode, header=HEADER, store=store, run_seed=7)
        ask(session, TinyModel(), "b")
        changes = store.finish(used=session.ledger.used, run=None, keep=keep)
    assert (len(changes.added), len(changes.dropped)) == (1, 0 if keep else 1)
    found = read_cassette(path)
    assert len(found.calls) == (2 if keep else 1)
    assert len(found.runs) == (1 if keep else 0)


# --- Witnesses and runs that come later.


def test_a_witness_is_added_to_those_that_are_known(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    ids = list(read_cassette(path).calls)
    there = make_environment("there")
    for seen, known in (([ids[0]], {ids[0]}), ([ids[1]], {*ids}), ([], {*ids}), (ids, {*ids})):
        open_for_replay(path).add_witness(there, seen)
        found = read_cassette(path)
        assert found.witnesses == {there.sha256: known}
        assert found.envs[there.sha256] == there
        assert [run.seed for run in found.runs] == [7]


def test_a_witness_of_what_is_not_there_or_of_itself_is_refused(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    before = path.read_bytes()
    store = open_for_replay(path)
    scope, asked, n = next(iter(store.ids()))
    where = f"repeat {n} of {asked[:16]}… in {scope}"
    there = make_environment("there")
    with pytest.raises(CassetteAccessError) as caught:
        store.add_witness(make_environment(), store.ids())
    assert str(caught.value).startswith(
        f"{path} was recorded in this environment, which is no witness of its own call (repeat 0 of"
    )
    with pytest.raises(CassetteAccessError) as caught:
        store.add_witness(there, [(scope, asked, 5)])
    gone = "has no such call, or another one by now ({}); verify it again"
    assert str(caught.value) == f"{path} {gone.format(where.replace('repeat 0', 'repeat 5'))}"
    assert path.read_bytes() == before
    record(path, TinyModel(wording="new"), "a", "b")
    with pytest.raises(CassetteAccessError) as caught:
        store.add_witness(there, [(scope, asked, n)])
    assert str(caught.value) == f"{path} {gone.format(where)}"
    assert there.sha256 not in read_cassette(path).witnesses


def test_where_there_is_no_cassette_there_is_nothing_to_add_to(path: Path) -> None:
    with closing(open_for_recording(path, HEADER, keep=True)) as store:
        with pytest.raises(RuntimeError, match="no cassette to add a witness to"):
            store.add_witness(make_environment(), [])
        with pytest.raises(RuntimeError, match="no cassette to update"):
            store.replace_run(make_run({}))
        assert not path.exists()


def test_another_run_is_added_where_it_is_another(path: Path) -> None:
    small_cassette(path)
    store = open_for_replay(path)
    (run,) = store.runs()
    store.replace_run(replace(run, seed=8))
    assert [one.seed for one in read_cassette(path).runs] == [7, 8]


# --- Accepting new artifacts, permissions.


def test_a_run_record_is_replaced_and_nothing_else(path: Path) -> None:
    small_cassette(path)
    before = path.read_bytes().splitlines()
    store = open_for_replay(path)
    (run,) = store.runs()
    store.replace_run(replace(run, artifacts={"history.json": Artifact("0" * 64, "1" * 64)}))
    after = path.read_bytes().splitlines()
    changed = [old.split(b'"')[3] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [b"run", b"end"]
    assert read_cassette(path).runs[0].artifacts["history.json"].sha256 == "0" * 64


def test_permissions_are_those_of_a_new_file_or_of_the_one_replaced(path: Path) -> None:
    record(path, TinyModel(), "a")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    record(path, TinyModel(), "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
