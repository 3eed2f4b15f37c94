"""A cassette in use: what a recording leaves, what is kept as it was, what is refused."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.runs import Artifact
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.errors import (
    CassetteAccessError,
    ModelConflictError,
)
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.core.making import (
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
