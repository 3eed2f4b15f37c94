"""The folder of a study's results: its owner, its writers, and the runs that count as done."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro.errors import NotComparableError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.study import folder as folder_module
from swarm_repro.study.collect import collect_into
from swarm_repro.study.file import Run, Study, load_study
from swarm_repro.study.folder import RESULT, TIMES, StudyFolder, write_whole
from swarm_repro.study.status import status_of
from tests.support.studies import write_scenario, write_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two runs."""
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    return load_study(write_study(tmp_path))


@pytest.fixture
def folder(study: Study) -> StudyFolder:
    made = StudyFolder(study)
    made.open()
    return made


def finish(
    folder: StudyFolder, run: Run, mode: Mode = Mode.RECORD, *, calls: int = 4, **times: object
) -> None:
    """Put a finished run into a folder."""
    with folder.begun(run) as place:
        (place / "artifacts").mkdir()
        (place / "artifacts" / "events.jsonl").write_text(f"{calls}\n")
        folder.keep(run, place, mode=mode, result={"calls": calls}, times=times)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Whose it is.


def test_a_new_folder_is_marked_as_the_studys(study: Study) -> None:
    folder = StudyFolder(study)
    assert folder.path == Path("studies/small")
    folder.open()
    assert names(folder.path) == ["failures", "runs", "study.json"]
    assert json.loads((folder.path / "study.json").read_text()) == {"format": 1, "name": "small"}
    folder.open()
    assert names(folder.path) == ["failures", "runs", "study.json"]
    folder.require()


def test_another_folder_can_be_named_and_an_empty_one_taken(study: Study, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folder = StudyFolder(study, tmp_path / "mine")
    folder.open()
    assert folder.path == tmp_path / "mine"
    assert (tmp_path / "mine" / "study.json").is_file()
    assert not Path("studies").exists()


def test_a_folder_of_something_else_is_left_alone(study: Study, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as raised:
        StudyFolder(study, tmp_path).open()
    assert str(raised.value) == (
        f"{tmp_path} holds something else than a study: name another folder with --out"
    )
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("marker", "found"),
    [('{"format": 1, "name": "other"}', "'other'"), ("{}", "None"), ("no JSON", "None")],
)
def test_another_studys_folder_is_refused_for_writing_and_for_reading(
    marker: str, found: str, folder: StudyFolder
) -> None:
    (folder.path / "study.json").write_text(marker)
    for look in (folder.open, folder.require):
        with pytest.raises(UsageError) as raised:
            look()
        assert str(raised.value) == (
            f"studies/small holds the study {found}, not 'small': name another folder with --out"
        )
    assert (folder.path / "study.json").read_text() == marker


def test_missing_results_are_named(study: Study) -> None:
    with pytest.raises(UsageError) as raised:
        StudyFolder(study).require()
    assert str(raised.value) == (
        "studies/small holds no results of a study yet: begin with swarm-repro study run "
        f"{study.path}"
    )


def test_a_folder_that_cannot_be_made_says_why(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/out cannot be written: Not a directory"):
        StudyFolder(study, tmp_path / "file" / "out").open()


# --- Who may write there.


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        (None, None, True),
        (None, (1, 2), True),
        ((1, 2), None, True),
        ((1, 2), (1, 2), True),
        ((1, 2), (2, 2), False),
        ((1, 2), (1, 3), False),
    ],
)
def test_one_may_run_a_study_or_each_shard_of_it(
    first: tuple[int, int] | None,
    second: tuple[int, int] | None,
    is_refused: bool,
    study: Study,
    folder: StudyFolder,
) -> None:
    other = StudyFolder(study)
    with folder.held(first):
        if is_refused:
            with pytest.raises(UsageError) as raised, other.held(second):
                pass
            assert str(raised.value) == (
                "the study is being run into studies/small already: wait for it, or end it"
            )
        else:
            with other.held(second):
                pass
    with other.held(second):
        pass  # what was held is free again, whoever was refused in between


# --- What counts as done.


def test_a_kept_run_is_whole_and_says_how_it_was_made(folder: StudyFolder, study: Study) -> None:
    run = study.runs[0]
    finish(folder, run, calls=4, model_s=1.5)
    assert names(folder.path / "runs") == [run.name]
    assert names(folder.folder_of(run)) == ["artifacts", RESULT, TIMES]
    found = {"run": folder.digest(run), "mode": "record", "calls": 4}
    assert json.loads((folder.folder_of(run) / RESULT).read_text()) == found
    assert folder.any_result(run) == found
    assert folder.times(run) == {"model_s": 1.5}
    assert stat.S_IMODE(folder.folder_of(run).stat().st_mode) == 0o755
    assert stat.S_IMODE((folder.folder_of(run) / RESULT).stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("made", "asked", "is_there"),
    [
        (Mode.RECORD, Mode.RECORD, True),
        (Mode.RECORD, Mode.AUTO, True),
        (Mode.AUTO, Mode.RECORD, True),
        (Mode.RECORD, Mode.REPLAY, False),
        (Mode.REPLAY, Mode.REPLAY, True),
        (Mode.REPLAY, Mode.RECORD, False),
        (Mode.VERIFY, Mode.REPLAY, False),
        (Mode.VERIFY, Mode.VERIFY, True),
    ],
)
def test_a_run_counts_in_the_mode_that_it_was_made_in(
    made: Mode, asked: Mode, is_there: bool, folder: StudyFolder, study: Study
) -> None:
    finish(folder, study.runs[0], made)
    assert (folder.result(study.runs[0], asked) is not None) == is_there
    assert folder.any_result(study.runs[0]) is not None
    assert folder.any_result(study.runs[1]) is None
    assert folder.result(study.runs[1], made) is None
    assert folder.times(study.runs[1]) == {}


def test_a_run_of_a_changed_study_does_not_count(folder: StudyFolder, study: Study) -> None:
    run = study.runs[0]
    finish(folder, run)
    folder.keep_failure(run, exit_code=4, messages=["gone"])
    assert folder.failure(run) == {
        "run": folder.digest(run), "exit_code": 4, "messages": ["gone"],
    }  # fmt: skip
    changed = [
        (study, replace(run, document=run.document + "#")),
        (study, replace(run, seed=9)),
        (study, replace(run, repeat=1)),
        (study, replace(run, settings={"a": 1})),
        (replace(study, epochs=1), run),
        (replace(study, steps=1), run),
    ]
    for other_study, other in changed:
        now = StudyFolder(other_study)
        assert now.any_result(other) is None
        assert now.failure(other) is None
    assert len({StudyFolder(s).digest(r) for s, r in [*changed, (study, run)]}) == 7
    # What its place and its file are called changes nothing that it came to.
    moved = replace(run, number=5, source=Path("elsewhere"))
    assert folder.any_result(moved) == folder.any_result(run)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_result_that_is_no_object_counts_as_none(
    text: str, folder: StudyFolder, study: Study
) -> None:
    run = study.runs[0]
    finish(folder, run, model_s=1.0)
    (folder.folder_of(run) / RESULT).write_text(text)
    (folder.folder_of(run) / TIMES).write_text(text)
    assert folder.any_result(run) is None
    assert folder.times(run) == {}


def test_a_run_made_again_takes_the_place_of_the_earlier_one(
    folder: StudyFolder, study: Study
) -> None:
    run = study.runs[0]
    finish(folder, run, Mode.RECORD, calls=1)
    finish(folder, run, Mode.REPLAY, calls=2)
    found = folder.any_result(run)
    assert found is not None
    assert (found["mode"], found["calls"]) == ("replay", 2)
    assert names(folder.path / "runs") == [run.name]


@pytest.mark.parametrize("was_made_before", [False, True])
def test_the_name_of_a_finished_run_is_on_the_disk_once_it_is_kept(
    was_made_before: bool, folder: StudyFolder, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.runs[0]
    if was_made_before:
        finish(folder, run)
    synced: list[list[str]] = []

    def note(path: Path) -> None:
        if path == folder.path / "runs":
            synced.append(names(path))

    monkeypatch.setattr(folder_module, "sync_folder", note)
    finish(folder, run)
    assert synced[-1:] == [[run.name]], "synced once all was in its place"


def test_an_interrupted_run_leaves_nothing(folder: StudyFolder, study: Study) -> None:
    run = study.runs[0]
    folder.keep_failure(run, exit_code=1, messages=["before"])
    with pytest.raises(RuntimeError), folder.begun(run) as place:  # noqa: PT012 - what it sees
        assert place.parent.samefile(folder.path / "runs")
        assert folder.failure(run) is None, "what failed before is tried again"
        (place / "half").write_text("")
        raise RuntimeError
    assert names(folder.path / "runs") == []
    with folder.begun(run):
        pass  # no failure to forget this time


def test_interrupted_runs_are_cleared_and_finished_ones_stay(
    folder: StudyFolder, study: Study
) -> None:
    run = study.runs[0]
    finish(folder, run)
    left = folder.path / "runs" / f".{study.runs[1].name}.x"
    (left / "artifacts").mkdir(parents=True)
    folder.clear_begun()
    assert names(folder.path / "runs") == [run.name]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"x")
    assert names(tmp_path) == ["a.json", "taken"]


def test_servers_that_workers_of_this_machine_left_are_taken_once(folder: StudyFolder) -> None:
    assert folder.take_servers("here") == []
    servers = folder.path / "servers"
    servers.mkdir()
    (servers / "a.json").write_text('{"host": "here", "port": 81}')
    (servers / "b.json").write_text('{"host": "there", "port": 82}')
    (servers / "c.json").write_text('{"host": "here", "port": 80}')
    (servers / "torn.json").write_text('{"host": "he')
    assert folder.take_servers("here") == [81, 80]
    assert names(servers) == ["b.json", "torn.json"]
    assert folder.take_servers("here") == []
    assert folder.take_servers("there") == [82]


# --- How far it is.


def test_a_study_is_finished_begun_or_failed_run_by_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    study = load_study(write_study(tmp_path, seeds=[1, 2, 3, 4, 5]))
    folder = StudyFolder(study)
    assert status_of(study, folder).to_json() == {
        "runs": 5, "finished": 0, "begun": [], "failed": [],
    }  # fmt: skip
    folder.open()
    finished, failed, begun, both, _ = study.runs
    finish(folder, finished)
    folder.keep_failure(finished, exit_code=1, messages=["an old one"])
    folder.keep_failure(failed, exit_code=4, messages=["no", "answer"])
    study.cassettes.mkdir(parents=True)
    lines = b'{"record":"header",}\n{"record":"call",1}\n{"record":"text"}\n{"record":"call",2}\n'
    for run in (begun, both, finished):
        path = study.cassette_of(run)
        path.with_name(path.name + ".part").write_bytes(lines)
    folder.keep_failure(both, exit_code=4, messages=[])
    status = status_of(study, folder)
    assert (status.runs, status.finished) == (5, 1)
    assert status.to_json() == {
        "runs": 5,
        "finished": 1,
        "begun": [{"run": begun.name, "calls": 2}],
        "failed": [
            {"run": failed.name, "messages": ["no", "answer"]},
            {"run": both.name, "messages": []},
        ],
    }


# --- Brought together.


def folders(study: Study, *paths: str) -> list[StudyFolder]:
    made = [StudyFolder(study, Path(path)) for path in paths]
    for one in made:
        one.open()
    return made


def test_finished_runs_of_several_folders_come_together(study: Study) -> None:
    first, second = folders(study, "a", "b")
    one, two = study.runs
    finish(first, one, calls=1)
    finish(second, one, Mode.REPLAY, calls=1)
    finish(second, two, calls=2)
    target = StudyFolder(study, Path("all"))
    assert collect_into(study, target, [first, second]) == 2
    found = [target.any_result(run) for run in study.runs]
    assert [(said["mode"], said["calls"]) for said in found if said] == [("record", 1),
                                                                         ("record", 2)]  # fmt: skip
    copied = target.folder_of(two) / "artifacts" / "events.jsonl"
    assert copied.read_text() == "2\n"
    assert names(target.path / "runs") == [one.name, two.name]
    assert names(second.path / "runs") == [one.name, two.name], "the sources stay as they are"
    assert collect_into(study, target, [first, second]) == 0


def test_two_results_of_one_run_are_not_comparable(study: Study) -> None:
    first, second = folders(study, "a", "b")
    finish(first, study.runs[0], calls=1)
    finish(second, study.runs[0], calls=2)
    with pytest.raises(NotComparableError) as raised:
        collect_into(study, StudyFolder(study, Path("all")), [first, second])
    assert str(raised.value) == f"b has another result of {study.runs[0].name} than all"


def test_only_folders_of_the_study_are_brought_together_and_by_one_at_a_time(study: Study) -> None:
    (first,) = folders(study, "a")
    finish(first, study.runs[0])
    target = StudyFolder(study, Path("all"))
    with pytest.raises(UsageError, match="no results of a study yet"):
        collect_into(study, target, [first, StudyFolder(study, Path("none"))])
    assert not target.path.exists()
    target.open()
    with target.held((1, 2)), pytest.raises(UsageError, match="is being run into all already"):
        collect_into(study, target, [first])
    assert target.any_result(study.runs[0]) is None
