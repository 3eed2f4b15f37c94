"""How the project's commands use git and a folder, and their errors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.compare.diff import DiffReport
from swarm_repro.errors import UsageError
from swarm_repro.project.changes import changed_cassettes
from swarm_repro.project.git import ChangedFile, Repository
from swarm_repro.project.init import GIT_CONFIG, Initialised, init_project
from swarm_repro.project.summary import Named
from tests.support.in_process import invoke
from tests.support.recordings import Call, record
from tests.support.society import comparing

WHOLE = ["scenarios/example.yaml", ".github/workflows/swarm-repro.yml"]
EXTENDED = [".gitattributes", ".gitignore"]


def git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", "one", cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside of any repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    inner = tmp_path / "project"
    inner.mkdir()
    return inner


@pytest.fixture
def repository(folder: Path) -> Path:
    git("init", "-q", "-b", "main", cwd=folder)
    return folder


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


# --- git


def test_every_kind_of_change_is_reported(repository: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "other.md"):
        (repository / name).write_text(name)
    base = commit(repository)
    (repository / "a.txt").write_text("changed")
    (repository / "b.txt").unlink()
    (repository / "other.md").write_text("changed")
    (repository / "new\nline.txt").write_text("new")
    git("add", "-N", ".", cwd=repository)
    found = Repository(repository)
    assert found.top == repository
    assert found.changed(base, "*.txt") == [
        ChangedFile("a.txt", "modified"),
        ChangedFile("b.txt", "deleted"),
        ChangedFile("new\nline.txt", "added"),
    ]
    assert found.content(base, "b.txt") == b"b.txt"


def test_a_renamed_file_is_a_deleted_and_an_added_one(repository: Path) -> None:
    (repository / "a.txt").write_text("the same text\n" * 9)
    base = commit(repository)
    (repository / "a.txt").rename(repository / "b.txt")
    git("add", "-A", cwd=repository)
    assert Repository(repository).changed(base, "*") == [
        ChangedFile("a.txt", "deleted"),
        ChangedFile("b.txt", "added"),
    ]


def test_the_base_is_where_the_branch_left_the_other(repository: Path) -> None:
    (repository / "a.txt").write_text("1")
    base = commit(repository)
    git("checkout", "-q", "-b", "branch", cwd=repository)
    (repository / "b.txt").write_text("2")
    commit(repository)
    git("checkout", "-q", "main", cwd=repository)
    (repository / "c.txt").write_text("3")
    later = commit(repository)
    git("checkout", "-q", "branch", cwd=repository)
    found = Repository(repository)
    assert found.base_of("main") == found.base_of(later) == base
    assert found.base_of("HEAD") == git("rev-parse", "HEAD", cwd=repository)


def test_a_branch_that_has_nothing_in_common_is_taken_itself(repository: Path) -> None:
    (repository / "a.txt").write_text("1")
    main = commit(repository)
    git("checkout", "-q", "--orphan", "other", cwd=repository)
    (repository / "b.txt").write_text("2")
    commit(repository)
    assert Repository(repository).base_of("main") == main


def test_an_unknown_commit_is_named(repository: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Repository(repository).base_of("no\x1bwhere")
    assert str(caught.value) == (
        r"this clone has no commit no\x1bwhere; check out with fetch-depth: 0"
    )


def test_an_error_of_git_is_shown_on_one_line(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Repository(folder)
    assert str(caught.value).startswith("git rev-parse failed: fatal: not a git repository")
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("no_git")
def test_a_missing_git_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^git is not installed$"):
        Repository(folder)
    assert init_project(folder).notes == [
        "git is not installed; a cassette is made to be committed"
    ]


# --- changed cassettes


def test_each_changed_cassette_is_compared_with_what_it_was(repository: Path) -> None:
    paths = [repository / f"{name}.jsonl" for name in ("a", "b", "c", "d")]
    changed, gone, damaged, new = paths
    for path in paths[:3]:
        record(path, [Call("1", "yes"), Call("2", "yes")])
    before = repository.parent / "a.jsonl"
    before.write_bytes(changed.read_bytes())
    base = commit(repository)
    changed.unlink()
    record(changed, [Call("1", "no"), Call("2", "yes")])
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes().replace(b"yes", b"no!", 1))
    record(new, [Call("1")])
    git("add", "-A", cwd=repository)
    with comparing(before, changed) as found:
        report = DiffReport(found).to_json()
    one, two, three, four = changed_cassettes(repository, since=base, pathspec="*.jsonl")
    assert one == Named("a.jsonl", report)
    assert two == Named("b.jsonl", None, "This cassette was deleted.")
    assert (three.name, three.content) == ("c.jsonl", None)
    assert three.note is not None
    assert three.note.startswith("It could not be compared: ")
    assert str(damaged) in three.note
    assert four == Named("d.jsonl", None, "A new cassette, of 1 calls.")


def test_a_previously_damaged_cassette_is_reported_too(repository: Path) -> None:
    path = repository / "a.jsonl"
    path.write_bytes(b"{}\n")
    base = commit(repository)
    path.unlink()
    record(path, [Call("1")])
    assert len(read_cassette(path).calls) == 1
    (found,) = changed_cassettes(repository, since=base, pathspec="*.jsonl")
    assert (found.note or "").startswith("It could not be compared: ")


def test_a_report_of_a_changed_cassette_lists_two_hundred_calls(repository: Path) -> None:
    path = repository / "a.jsonl"
    record(path, [])
    base = commit(repository)
    path.unlink()
    record(path, [Call(f"{n}") for n in range(201)])
    (found,) = changed_cassettes(repository, since=base, pathspec="*.jsonl")
    assert found.content is not None
    calls = found.content["calls"]
    assert isinstance(calls, list)
    assert (len(calls), found.content["left_out"]) == (200, 1)


def test_a_branch_that_is_new_compares_nothing_and_asks_no_git(folder: Path) -> None:
    assert changed_cassettes(folder, since="0" * 40, pathspec="*") == []


def test_the_summary_compares_the_folder_of_cassettes_or_a_given_pattern(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [repository / "cassettes" / "a.jsonl", repository / "others" / "b.jsonl"]
    for path in paths:
        path.parent.mkdir()
        record(path, [Call("1", "yes")])
    commit(repository)
    for path in paths:
        path.unlink()
        record(path, [Call("1", "no")])
    monkeypatch.chdir(repository)
    for options, shown, hidden in (
        ((), "cassettes&#47;a", "others"),
        (("--cassettes", "others/*"), "others&#47;b", "cassettes&#47;a"),
    ):
        done = invoke(capsys, "summarize", "--since", "HEAD", *options)
        assert (done.code, done.err) == (0, "")
        assert shown in done.out
        assert hidden not in done.out
        assert "1 root" in done.out


# --- init


def test_a_fresh_project_gets_all_files(repository: Path) -> None:
    assert init_project(repository) == Initialised(written=[*WHOLE, *EXTENDED])
    assert (repository / ".gitignore").read_text() == "models/\nruns/\n*.part\n*.part.lock\n"
    first, *rules = (repository / ".gitattributes").read_text().splitlines()
    assert first == (
        "# Checksums cover line ends; git shows a cassette as text, and merges it by calls."
    )
    assert rules == [
        "cassettes/**/*.jsonl -text diff=swarm-repro merge=swarm-repro",
        "cassettes/**/*.jsonl.zst -text diff=swarm-repro merge=swarm-repro",
    ]
    assert [line.split()[2] for line in GIT_CONFIG] == [
        "diff.swarm-repro.textconv", "merge.swarm-repro.driver",
    ]  # fmt: skip


def test_a_second_time_nothing_changes(repository: Path) -> None:
    init_project(repository)
    assert init_project(repository) == Initialised(unchanged=[*WHOLE, *EXTENDED])


def test_lines_are_added_after_those_that_are_there(repository: Path) -> None:
    for before, after in (
        ("*.log", "*.log\nmodels/\nruns/\n*.part\n*.part.lock\n"),
        ("runs/\n*.part\n", "runs/\n*.part\nmodels/\n*.part.lock\n"),
    ):
        (repository / ".gitignore").write_text(before)
        assert init_project(repository).extended == [".gitignore"]
        assert (repository / ".gitignore").read_text() == after


def test_a_comment_alone_is_no_reason_to_extend_a_file(repository: Path) -> None:
    init_project(repository)
    path = repository / ".gitattributes"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    before = path.read_bytes()
    assert ".gitattributes" in init_project(repository).unchanged
    assert path.read_bytes() == before


def test_files_that_differ_are_all_named_and_only_replaced_by_force(repository: Path) -> None:
    for name in WHOLE:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / WHOLE[0]).write_text("mine")
    with pytest.raises(UsageError) as caught:
        init_project(repository)
    assert str(caught.value) == (
        f"{WHOLE[0]} is there already and not what init writes; nothing was written. "
        "Replace with --force"
    )
    (repository / WHOLE[1]).write_text("mine")
    with pytest.raises(UsageError, match=f"^{WHOLE[0]} and {WHOLE[1]} are there already and not "):
        init_project(repository)
    assert not (repository / ".gitignore").exists()
    assert init_project(repository, force=True).written == [*WHOLE, *EXTENDED]
    assert (repository / WHOLE[0]).read_text() != "mine"


def test_only_the_differing_one_of_two_files_is_replaced(repository: Path) -> None:
    init_project(repository)
    (repository / WHOLE[0]).write_text("mine")
    done = init_project(repository, force=True)
    assert (done.written, done.unchanged) == ([WHOLE[0]], [WHOLE[1], *EXTENDED])


def test_outside_of_a_repository_and_below_its_top_a_note_says_what_to_do(
    folder: Path, repository: Path
) -> None:
    inner = repository / "inner"
    inner.mkdir()
    assert init_project(inner).notes == [
        "this is not the repository's top folder: GitHub reads workflows only there"
    ]
    outside = folder.parent / "outside"
    outside.mkdir()
    assert init_project(outside).notes == [
        "this is no git repository yet: run git init, and commit the cassette you record"
    ]
    assert init_project(repository).notes == []


def test_an_invalid_folder_is_named(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        init_project(folder / "no\x1bne")
    assert str(caught.value) == rf"{folder}/no\x1bne is not a folder; make it first"


def test_unreadable_and_unwritable_files_are_named(folder: Path) -> None:
    (folder / WHOLE[0]).mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        init_project(folder)
    assert str(caught.value) == f"{folder / WHOLE[0]} cannot be read: Is a directory"
    (folder / WHOLE[0]).rmdir()
    (folder / ".gitignore").mkdir()
    with pytest.raises(UsageError) as caught:
        init_project(folder)
    assert str(caught.value) == f"{folder / '.gitignore'} cannot be written: Is a directory"
