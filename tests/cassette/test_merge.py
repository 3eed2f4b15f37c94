"""Merging: what one has, what both have, what one changed, and what two answered in two ways."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_repro.cassette.archive import MAGIC
from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.merge import merge_cassettes
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.errors import NotComparableError
from swarm_repro.mode import Mode
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import (
    DEFAULTS,
    HEADER,
    LONG,
    TinyModel,
    ask,
    make_binding,
    make_environment,
    recording,
    replaying,
)


def record(
    path: Path,
    *prompts: str,
    model: TinyModel | None = None,
    seed: int = 7,
    mode: Mode = Mode.RECORD,
    header: Header = HEADER,
    fixed: int | None = None,
) -> Cassette:
    used = model or TinyModel()
    fields: dict[str, Any] = {} if fixed is None else {"seed": fixed}
    with recording(path, run_seed=seed, mode=mode, header=header) as session:
        for prompt in prompts:
            ask(session, used, prompt, **fields)
    return read_cassette(path)


def written(cassette: Cassette, path: Path) -> Cassette:
    write_cassette(cassette, path)
    assert check_cassette(path).is_whole
    return read_cassette(path)


# --- What merges.


def test_runs_of_two_seeds_become_one_cassette_that_replays_both(tmp_path: Path) -> None:
    sides = [
        record(tmp_path / f"{seed}.jsonl", LONG * seed, "a" * seed, seed=seed) for seed in (1, 2)
    ]
    merged, conflicts = merge_cassettes(sides)
    assert conflicts == []
    assert merged.texts == {**sides[0].texts, **sides[1].texts}
    both = written(merged, tmp_path / "both.jsonl")
    assert [run.seed for run in both.runs] == [1, 2]
    for side, seed in zip(sides, (1, 2), strict=True):
        session = replaying(both.path, run_seed=seed)
        for call in side.calls.values():
            prompt = call.body["messages"][0]["content"]  # type: ignore[index]
            assert ask(session, TinyModel(), prompt).body == call.completion.body


def test_merging_with_itself_changes_no_byte(tmp_path: Path) -> None:
    one = record(tmp_path / "one.jsonl", LONG, "a")
    merged, conflicts = merge_cassettes([one, one, one])
    assert conflicts == []
    written(merged, tmp_path / "two.jsonl")
    assert (tmp_path / "two.jsonl").read_bytes() == one.path.read_bytes()


def test_the_same_answer_in_another_environment_becomes_a_witness(tmp_path: Path) -> None:
    model = TinyModel(environment=make_environment("another CPU"))
    for _ in range(9):
        next(model.numbers)  # another id and another date in every answer
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", model=model)
    merged, conflicts = merge_cassettes([ours, theirs])
    assert conflicts == []
    both = written(merged, tmp_path / "both.jsonl")
    (call,) = both.calls.values()
    assert call.completion == next(iter(ours.calls.values())).completion
    assert both.witnesses == {model.environment.sha256: frozenset({call.id})}


# --- What does not.


def test_one_call_under_two_seeds_is_a_conflict(tmp_path: Path) -> None:
    _, conflicts = merge_cassettes(
        [record(tmp_path / f"{seed}.jsonl", "a", seed=seed) for seed in (1, 2)]
    )
    assert ["sent with seed" in conflict.why for conflict in conflicts] == [True]


def test_two_answers_to_one_call_are_a_conflict_that_says_where_they_part(tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a", "b", model=TinyModel(wording="fine"))
    theirs = record(tmp_path / "theirs.jsonl", "a", "b", model=TinyModel(wording="five"))
    _, conflicts = merge_cassettes([ours, theirs])
    assert len(conflicts) == 2
    assert "call 0 of alice" in conflicts[0].what
    assert "part at character 2" in conflicts[0].why


def test_two_models_of_one_name_are_a_conflict(tmp_path: Path) -> None:
    other = TinyModel(binding=make_binding(weights="f" * 64))
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", model=other)
    _, conflicts = merge_cassettes([ours, theirs])
    assert "model 'tiny'" in [conflict.what for conflict in conflicts]


def test_other_sampling_defaults_are_a_conflict(tmp_path: Path) -> None:
    other = TinyModel(binding=make_binding(defaults={**DEFAULTS, "top_k": 20}))
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", model=other)
    _, conflicts = merge_cassettes([ours, theirs])
    assert any("sampling defaults" in conflict.why for conflict in conflicts)


@pytest.mark.parametrize(
    "header", [replace(HEADER, scenario="another"), replace(HEADER, seed_policy="content")]
)
def test_other_experiments_do_not_merge(header: Header, tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    theirs = record(tmp_path / "theirs.jsonl", "a", header=header)
    with pytest.raises(NotComparableError, match="do not merge"):
        merge_cassettes([ours, theirs])


# --- With a common ancestor.


@pytest.fixture
def base(tmp_path: Path) -> Cassette:
    return record(tmp_path / "base.jsonl", "a", "b")


def test_what_one_side_recorded_anew_wins_over_what_is_as_it_was(
    base: Cassette, tmp_path: Path
) -> None:
    anew = record(tmp_path / "anew.jsonl", "a", "b", model=TinyModel(wording="five"))
    for sides in ([base, anew], [anew, base]):
        merged, conflicts = merge_cassettes(sides, base=base)
        assert conflicts == []
        assert merged.calls == anew.calls
        assert merged.runs == anew.runs


def test_what_one_side_dropped_goes_and_what_the_other_added_comes(
    base: Cassette, tmp_path: Path
) -> None:
    fewer = record(tmp_path / "fewer.jsonl", "a")
    more = record(tmp_path / "more.jsonl", "a", "b", seed=7)
    more = record(more.path, "c", seed=8, mode=Mode.AUTO)
    merged, conflicts = merge_cassettes([fewer, more], base=base)
    assert conflicts == []
    both = written(merged, tmp_path / "both.jsonl")
    prompts = [call.body["messages"][0]["content"] for call in both.calls.values()]  # type: ignore[index]
    assert sorted(prompts) == ["a", "c"]


def test_recorded_anew_in_two_ways_is_a_conflict_though_there_is_an_ancestor(
    base: Cassette, tmp_path: Path
) -> None:
    sides = [
        record(tmp_path / f"{word}.jsonl", "a", "b", model=TinyModel(wording=word))
        for word in ("five", "four")
    ]
    _, conflicts = merge_cassettes(sides, base=base)
    assert len(conflicts) == 2


def test_changed_here_and_dropped_there_is_a_conflict(base: Cassette, tmp_path: Path) -> None:
    anew = record(tmp_path / "anew.jsonl", "a", "b", model=TinyModel(wording="five"))
    other = record(tmp_path / "other.jsonl", "c")
    _, conflicts = merge_cassettes([anew, other], base=base)
    assert any("dropped" in conflict.why for conflict in conflicts)


def test_a_dropped_call_stays_where_the_other_side_uses_it_in_a_new_run(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("base.jsonl", "ours.jsonl", "theirs.jsonl")]
    for path in paths:
        record(path, "a", seed=7, fixed=5)
        record(path, "a", "b", seed=8, mode=Mode.AUTO, fixed=5)
    record(paths[1], "a", seed=7, fixed=5)
    record(paths[2], "b", seed=9, mode=Mode.AUTO, fixed=5)
    base, ours, theirs = map(read_cassette, paths)
    assert len(ours.calls) == 1
    merged, conflicts = merge_cassettes([ours, theirs], base=base)
    assert conflicts == []
    both = written(merged, tmp_path / "both.jsonl")
    assert [run.seed for run in both.runs] == [7, 9]
    assert len(both.calls) == 2


def test_a_new_call_of_a_model_that_the_other_side_replaced_is_a_conflict(
    base: Cassette, tmp_path: Path
) -> None:
    other = TinyModel(binding=make_binding(weights="f" * 64))
    ours = record(tmp_path / "ours.jsonl", "a", "b", model=other)
    shutil.copy(base.path, tmp_path / "theirs.jsonl")
    theirs = record(tmp_path / "theirs.jsonl", "c", seed=8, mode=Mode.AUTO)
    _, conflicts = merge_cassettes([ours, theirs], base=base)
    assert [conflict.why for conflict in conflicts] == ["'tiny' is another model by now"]


def test_a_witness_of_the_old_answer_is_none_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    record(path, "a")
    base = record(path, "a", model=TinyModel(environment=make_environment("another CPU")))
    assert base.witnesses
    ours = record(tmp_path / "ours.jsonl", "a", model=TinyModel(wording="five"))
    merged, conflicts = merge_cassettes([ours, base], base=base)
    assert (conflicts, merged.calls, merged.witnesses) == ([], ours.calls, {})


@settings(max_examples=60, deadline=None)
@given(
    ours=st.lists(st.sampled_from("abcd"), max_size=4),
    theirs=st.lists(st.sampled_from("abcd"), max_size=4),
    seeds=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    words=st.tuples(st.sampled_from(["fine", "five"]), st.sampled_from(["fine", "five"])),
)
def test_a_merge_loses_nothing_and_makes_nothing_up(
    tmp_path_factory: pytest.TempPathFactory,
    ours: Sequence[str],
    theirs: Sequence[str],
    seeds: tuple[int, int],
    words: tuple[str, str],
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    sides = [
        record(folder / f"{n}.jsonl", *prompts, seed=seed, model=TinyModel(wording=word))
        for n, (prompts, seed, word) in enumerate(zip((ours, theirs), seeds, words, strict=True))
    ]
    merged, conflicts = merge_cassettes(sides)
    recorded: dict[CallId, list[CallRecord]] = {}
    for side in sides:
        for call_id, call in side.calls.items():
            recorded.setdefault(call_id, []).append(call)
    for call_id, calls in recorded.items():
        answers = {(call.sent_seed, call.completion.text) for call in calls}
        # Of two answers to one call neither is taken.
        assert (call_id in merged.calls) == (len(answers) == 1)
        assert call_id not in merged.calls or merged.calls[call_id] in calls
    assert merged.calls.keys() <= recorded.keys()
    if not conflicts:
        assert merged.calls.keys() == recorded.keys()
        written(merged, folder / "merged.jsonl")


# --- The command.


def test_the_command_writes_one_file_of_two(tmp_path: Path) -> None:
    record(tmp_path / "1.jsonl", "a", seed=1)
    record(tmp_path / "2.jsonl", "b", seed=2)
    done = swarm_repro("merge", "both.jsonl", "1.jsonl", "2.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "both.jsonl: 2 calls of 1 and 1, 2 runs\n"
    assert len(read_cassette(tmp_path / "both.jsonl").calls) == 2


def test_a_conflict_ends_with_1_and_the_output_stays_as_it_is(tmp_path: Path) -> None:
    ours = record(tmp_path / "ours.jsonl", "a")
    record(tmp_path / "theirs.jsonl", "a", model=TinyModel(wording="five"))
    before = ours.path.read_bytes()
    arguments = ("merge", "ours.jsonl", "ours.jsonl", "theirs.jsonl")
    done = swarm_repro(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "conflict: call 0 of alice" in done.stdout
    assert ours.path.read_bytes() == before
    report = orjson.loads(swarm_repro(*arguments, "--json", cwd=tmp_path).stdout)
    assert (report["written"], len(report["conflicts"])) == (False, 1)


def test_a_file_that_is_no_side_is_not_written_over(tmp_path: Path) -> None:
    record(tmp_path / "1.jsonl", "a", seed=1)
    record(tmp_path / "2.jsonl", "b", seed=2)
    precious = tmp_path / "precious.jsonl"
    precious.write_bytes(b"precious")
    arguments = ("merge", precious, "1.jsonl", "2.jsonl")
    done = swarm_repro(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert precious.read_bytes() == b"precious"
    assert swarm_repro(*arguments, "--force", cwd=tmp_path).returncode == 0
    assert len(read_cassette(precious).calls) == 2


def test_an_empty_ancestor_is_none(tmp_path: Path) -> None:
    record(tmp_path / "1.jsonl", "a", seed=1)
    record(tmp_path / "2.jsonl", "b", seed=2)
    (tmp_path / "base").touch()
    done = swarm_repro("merge", "b.jsonl", "1.jsonl", "2.jsonl", "--base", "base", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# --- As git's merge driver.


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(params=["c.jsonl"])
def repository(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A branch on which one more seed was recorded, and a main branch with another one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "project"
    folder.mkdir()
    path = folder / request.param
    assert git(folder, "init", "-q", "-b", "main").returncode == 0
    (folder / ".gitattributes").write_text("*.jsonl* -text merge=swarm-repro\n")
    driver = f"{sys.executable} -m swarm_repro merge %A %A %B --base %O"
    git(folder, "config", "merge.swarm-repro.driver", driver)
    for branch, seeds in (("main", (1,)), ("side", (2,)), ("main", (3,))):
        git(folder, "checkout", "-q", *(["-b"] if branch == "side" else []), branch)
        for seed in seeds:
            record(path, f"a{seed}", seed=seed, mode=Mode.AUTO if path.exists() else Mode.RECORD)
        git(folder, "add", ".")
        assert git(folder, "commit", "-qm", branch).returncode == 0
    return folder


@pytest.mark.parametrize("repository", ["c.jsonl", "c.jsonl.zst"], indirect=True)
def test_git_merges_two_recordings(repository: Path) -> None:
    done = git(repository, "merge", "-q", "--no-edit", "side")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = repository.glob("c.jsonl*")
    assert path.read_bytes().startswith(MAGIC) is (path.suffix == ".zst")
    merged = read_cassette(path)
    assert [run.seed for run in merged.runs] == [1, 2, 3]
    assert check_cassette(merged.path).is_whole


def test_without_the_driver_check_says_how_to_go_on(repository: Path) -> None:
    git(repository, "config", "--unset", "merge.swarm-repro.driver")
    assert git(repository, "merge", "-q", "--no-edit", "side").returncode != 0
    done = swarm_repro("check", "c.jsonl", cwd=repository)
    assert done.returncode == 5
    assert "swarm-repro merge" in done.stdout


def test_a_conflict_in_git_leaves_our_side_whole(repository: Path) -> None:
    git(repository, "checkout", "-q", "side")
    five = TinyModel(wording="five")
    path = repository / "c.jsonl"
    record(path, "a3", seed=3, model=five, mode=Mode.AUTO)
    git(repository, "commit", "-qam", "another answer for seed 3")
    before = path.read_bytes()
    done = git(repository, "merge", "-q", "--no-edit", "main")
    assert done.returncode == 1
    assert "CONFLICT" in done.stdout
    assert path.read_bytes() == before
    assert git(repository, "status", "--porcelain").stdout.startswith("UU c.jsonl")
