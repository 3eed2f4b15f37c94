"""The recordings of a study's runs, and the estimate from them; recorded in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import BackendError, CassetteAccessError, CassetteDamagedError
from swarm_repro.study import estimate as estimating
from swarm_repro.study import recordings
from swarm_repro.study.estimate import estimate
from swarm_repro.study.file import Run, Study, load_study
from swarm_repro.study.recordings import merge_recordings, recording_of, require_recordings
from tests.support.stub_server import running_stub
from tests.support.studies import (
    agents_alone,
    recorded_estimate,
    runs_in_this_process,
    write_scenario,
    write_study,
)
from tests.support.tiny_model import TinyModel, ask, recording


@pytest.fixture(scope="module", autouse=True)
def _runs_in_this_process() -> Iterator[None]:
    with runs_in_this_process():
        yield


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)


def made(folder: Path, **members: object) -> Study:
    return load_study(write_study(folder, **members))


def record(study: Study, run: Run, *prompts: str) -> Path:
    """Record a run by itself: 0.25 seconds of a model a call, 1 epoch of 2 steps."""
    path = study.cassette_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = TinyModel()
    with recording(path, run_seed=run.seed) as session:
        for prompt in prompts:
            ask(session, model, prompt)
    return path


def names() -> list[str]:
    return sorted(path.name for path in Path("cassettes/small").iterdir())


def test_a_run_is_recorded_by_itself_or_among_those_of_its_setting(tmp_path: Path) -> None:
    study = made(tmp_path, seeds=[1, 2, 3])
    first, second, third = study.runs
    assert recording_of(study, first) is None
    own = record(study, first, "a")
    assert recording_of(study, first) == own
    assert recording_of(study, second) is None
    joined = own.with_name("small.jsonl")
    own.rename(joined)
    assert [recording_of(study, run) for run in study.runs] == [joined, None, None]
    # The same file, with another seed in it by now.
    with recording(joined, run_seed=3) as session:
        ask(session, TinyModel(), "longer than before")
    assert recording_of(study, third) == joined
    packed = joined.with_name("small.jsonl.zst")
    write_cassette(read_cassette(joined), packed)
    joined.unlink()
    assert recording_of(study, third) == packed
    assert recording_of(study, second) is None
    own = record(study, third, "its own")
    assert recording_of(study, third) == own


def test_runs_that_were_never_recorded_are_counted(tmp_path: Path) -> None:
    study = made(tmp_path, seeds=[1, 2, 3])
    record(study, study.runs[1], "a")
    require_recordings(study, [study.runs[1]])
    require_recordings(study, [])
    with pytest.raises(CassetteAccessError) as raised:
        require_recordings(study, study.runs)
    assert str(raised.value) == (
        "2 runs have no cassette, the first cassettes/small/small.seed1.jsonl; record them with: "
        f"swarm-repro study run {study.path} --record"
    )
    with pytest.raises(CassetteAccessError):
        list(merge_recordings(study, archive=False, remove=True))
    assert names() == ["small.seed2.jsonl"]


ARCHIVES = pytest.mark.parametrize("archive", [False, True])


@ARCHIVES
@pytest.mark.parametrize("remove", [False, True])
def test_runs_of_one_setting_are_joined(archive: bool, remove: bool, tmp_path: Path) -> None:
    settings = {"governance.transaction_tax_rate": [0.0, 0.5]}
    study = made(tmp_path, seeds=[1, 2], settings=settings)
    for run in study.runs:
        record(study, run, f"for {run.seed}", "more" if run.seed == 1 else "other")
    ending = ".jsonl.zst" if archive else ".jsonl"
    groups = [f"small.transaction_tax_rate={rate}" for rate in ("0.0", "0.5")]
    done = list(merge_recordings(study, archive=archive, remove=remove))
    assert [(one.path.name, one.runs, one.calls) for one in done] == [
        (f"{group}{ending}", 2, 4) for group in groups
    ]
    assert [list(one.conflicts) for one in done] == [[], []]
    joined = [f"{group}{ending}" for group in groups]
    own = [f"{run.name}.jsonl" for run in study.runs]
    assert names() == sorted([*joined, *([] if remove else own)])
    for one in done:
        cassette = read_cassette(one.path)
        assert [run.seed for run in cassette.runs] == [1, 2]
        assert len(cassette.calls) == 4
    before = {path: path.read_bytes() for path in Path("cassettes/small").iterdir()}
    list(merge_recordings(study, archive=archive, remove=remove))
    after = {path: path.read_bytes() for path in Path("cassettes/small").iterdir()}
    assert after == before, "a second time changes nothing, and removes nothing that it needs"


@ARCHIVES
@pytest.mark.parametrize("remove", [False, True])
def test_runs_that_say_something_in_two_ways_stay_apart(
    archive: bool, remove: bool, tmp_path: Path
) -> None:
    study = made(tmp_path, seeds=[1, 2])
    for run in study.runs:
        record(study, run, "the same")
    before = [read_cassette(study.cassette_of(run)).calls for run in study.runs]
    (one,) = merge_recordings(study, archive=archive, remove=remove)
    assert (one.runs, len(one.conflicts)) == (2, 1)
    assert "sent with seed" in one.conflicts[0].why
    plain = ["small.seed1.jsonl", "small.seed2.jsonl"]
    packed = [f"{name}.zst" for name in plain] if archive else []
    assert names() == sorted([*packed, *([] if remove and archive else plain)])
    if archive:
        folder = Path("cassettes/small")
        assert [read_cassette(folder / name).calls for name in packed] == before
        list(merge_recordings(study, archive=True, remove=remove))
        assert set(packed) <= set(names())


def test_a_cassette_that_differs_from_what_was_written_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made(tmp_path, seeds=[1, 2])
    for run in study.runs:
        record(study, run, f"for {run.seed}")

    def losing(cassette: Cassette, target: Path) -> None:
        """A disk that keeps something else."""
        write_cassette(read_cassette(study.cassette_of(study.runs[0])), target)
        del cassette

    monkeypatch.setattr(recordings, "write_cassette", losing)
    with pytest.raises(CassetteDamagedError, match="it is not what was written a moment ago"):
        list(merge_recordings(study, archive=False, remove=True))
    assert {"small.seed1.jsonl", "small.seed2.jsonl"} < set(names())


# --- How long it takes.


def test_an_unrecorded_study_has_no_estimate(tmp_path: Path) -> None:
    assert estimate(made(tmp_path), probe=False) is None


def test_seconds_follow_from_the_steps_that_were_recorded(tmp_path: Path) -> None:
    study = made(tmp_path, seeds=[1, 2, 3], epochs=2, steps=3)
    record(study, study.runs[0], "a", "b")
    record(study, study.runs[1], "c")
    calls = [
        call
        for run in study.runs[:2]
        for call in read_cassette(study.cassette_of(run)).calls.values()
    ]
    a_step = sum(call.duration_s for call in calls) / (2 * 1 * 2)
    assert estimate(study, probe=False) == recorded_estimate(a_step * 3 * 2 * 3)
    assert estimate(study, probe=True) == estimate(study, probe=False), "nothing need be tried"


def test_the_scenarios_own_epochs_and_steps_count_where_the_study_names_none(
    tmp_path: Path,
) -> None:
    study = made(tmp_path, seeds=[1], settings={"simulation.n_epochs": [2, 5]})
    path = record(study, study.runs[0], "a")
    (call,) = read_cassette(path).calls.values()
    assert estimate(study, probe=False) == recorded_estimate(call.duration_s / 2 * (2 + 5) * 1)


def test_recordings_beside_the_study_count_where_it_has_none_itself(tmp_path: Path) -> None:
    study = made(tmp_path, seeds=[1, 2], epochs=1, steps=2)
    record(study, study.runs[1], "a", "b", "c").rename("cassettes/small.seed2.jsonl")
    beside = sum(
        call.duration_s
        for call in read_cassette(Path("cassettes/small.seed2.jsonl")).calls.values()
    )
    assert estimate(study, probe=False) == recorded_estimate(2 * beside)
    (own,) = read_cassette(record(study, study.runs[0], "d")).calls.values()
    assert estimate(study, probe=False) == recorded_estimate(2 * own.duration_s)


def test_a_scenario_of_which_nothing_is_known_counts_as_the_others(tmp_path: Path) -> None:
    text = (tmp_path / "scenario.yaml").read_text()
    for name in ("b", "c"):
        (tmp_path / f"{name}.yaml").write_text(text.replace("id: small", f"id: {name}"))
    scenarios = ["scenario.yaml", "b.yaml", "c.yaml"]
    study = made(tmp_path, scenarios=scenarios, seeds=[1], epochs=1, steps=2)
    took = []
    for run, prompts in zip(study.runs, (["a"], ["b", "c", "d"]), strict=False):
        cassette = read_cassette(record(study, run, *prompts))
        took.append(sum(call.duration_s for call in cassette.calls.values()))
    found = estimate(study, probe=False)
    assert found == recorded_estimate(took[0] + took[1] + (took[0] + took[1]) / 2)


def test_only_some_of_many_recordings_are_looked_at(tmp_path: Path) -> None:
    study = made(tmp_path, seeds={"count": 9}, epochs=1, steps=2)
    for run in study.runs:
        record(study, run, *(["a"] if run.seed < 8 else ["a", "b", "c"]))
    (call,) = read_cassette(study.cassette_of(study.runs[0])).calls.values()
    assert estimate(study, probe=False) == recorded_estimate(9 * call.duration_s)


def test_a_step_is_tried_where_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []
    monkeypatch.setattr(estimating, "end_own", lambda: ended.append(None))
    before = signal.getsignal(signal.SIGTERM)
    with running_stub(delay_s=0.05) as stub:
        write_scenario(tmp_path, stub.base_url, agents=agents_alone(stub.base_url))
        study = made(tmp_path, seeds=[1, 2], epochs=1, steps=3)
        found = estimate(study, probe=True)
    assert found is not None
    assert found.tried
    # Two agents are asked in a step; there are six steps in all.
    assert found.model_s >= 6 * 2 * 0.05
    assert len(stub.chats) == 2
    assert ended == [None]
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenario.yaml", "study.yaml"]


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    with running_stub(fault=lambda _number: 400) as stub:
        write_scenario(tmp_path, stub.base_url)
        with pytest.raises(BackendError, match=r"a step of small failed: .*HTTP 400"):
            estimate(made(tmp_path), probe=True)
    write_scenario(tmp_path)
    with pytest.raises(BackendError, match=r"no llama-server at http://127\.0\.0\.1:9"):
        estimate(made(tmp_path), probe=True)


def test_a_criterion_that_fails_is_no_failed_step(tmp_path: Path) -> None:
    with running_stub() as stub:
        write_scenario(tmp_path, stub.base_url, success_criteria={"min_epochs": 99})
        found = estimate(made(tmp_path), probe=True)
    assert found is not None
    assert found.tried


def test_a_process_told_to_end_meanwhile_ends_its_server_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []
    monkeypatch.setattr(estimating, "end_own", lambda: ended.append(None))
    before = signal.getsignal(signal.SIGTERM)

    def reply(_body: dict[str, object]) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "{}"

    with running_stub(reply=reply, delay_s=0.0) as stub:
        write_scenario(tmp_path, stub.base_url)
        with pytest.raises(SystemExit) as raised:
            estimate(made(tmp_path), probe=True)
    assert raised.value.code == 128 + 15
    assert ended == [None]
    assert signal.getsignal(signal.SIGTERM) is before
