"""Which cassettes changed since a revision, in real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.errors import UsageError
from swarm_repro.project.changes import changed_cassettes
from swarm_repro.project.git import Repository
from swarm_repro.project.summary import Named
from tests.support.command import swarm_repro
from tests.support.tiny_model import TinyModel, ask, recording


def git(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c",
         "protocol.file.allow=always", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def record(path: Path, *, changed_at: int | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    with recording(path) as session:
        for number in range(4):
            wording = "other" if number == changed_at else "fine"
            ask(session, TinyModel(wording=wording), f"question {number}")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two cassettes on main, and a branch on which nothing changed yet."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git("init", "-q", "-b", "main", cwd=folder)
    record(folder / "cassettes" / "kept.jsonl")
    record(folder / "cassettes" / "a name.jsonl")
    commit(folder)
    git("checkout", "-q", "-b", "branch", cwd=folder)
    return folder


def commit(folder: Path) -> str:
    git("add", "-A", cwd=folder)
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


def since(folder: Path, revision: str = "main") -> list[Named]:
    return changed_cassettes(folder, since=revision, pathspec="cassettes/*.jsonl")


def report_of(changed: Named) -> dict[str, Any]:
    assert changed.content is not None, changed.note
    return {**changed.content}


def test_a_changed_cassette_is_compared_with_the_branch_it_left(repository: Path) -> None:
    record(repository / "cassettes" / "a name.jsonl", changed_at=2)
    commit(repository)
    # What main did since is not this branch's change.
    git("checkout", "-q", "main", cwd=repository)
    record(repository / "cassettes" / "kept.jsonl", changed_at=0)
    commit(repository)
    git("checkout", "-q", "branch", cwd=repository)
    (changed,) = since(repository)
    assert changed.name == "cassettes/a name.jsonl"
    report = report_of(changed)
    assert report["counts"]["root"] == 1
    (origin,) = report["origins"]
    (call,) = [c for c in report["calls"] if c["number"] == origin["call"]]
    assert (call["scope"], call["i"]) == ("alice", 2)
    assert report["a"]["file"] == "a name.jsonl"


def test_new_deleted_damaged_and_unchanged_cassettes_are_told_apart(repository: Path) -> None:
    record(repository / "cassettes" / "new.jsonl")
    (repository / "cassettes" / "a name.jsonl").unlink()
    kept = repository / "cassettes" / "kept.jsonl"
    kept.write_bytes(kept.read_bytes().replace(b"fine", b"gone", 1))
    commit(repository)
    assert [
        (found.name, found.content, (found.note or "")[:25]) for found in since(repository)
    ] == [
        ("cassettes/a name.jsonl", None, "This cassette was deleted"),
        ("cassettes/kept.jsonl", None, "It could not be compared:"),
        ("cassettes/new.jsonl", None, "A new cassette, of 4 call"),
    ]


def test_nothing_changed_and_a_new_branch_give_nothing(repository: Path) -> None:
    assert since(repository) == []
    record(repository / "cassettes" / "kept.jsonl", changed_at=0)
    assert since(repository, "0" * 40) == []


def test_a_folder_inside_the_repository_is_where_the_pathspec_begins(repository: Path) -> None:
    inner = repository / "inner"
    inner.mkdir()
    record(inner / "cassettes" / "deep.jsonl")
    commit(repository)
    record(repository / "cassettes" / "kept.jsonl", changed_at=0)
    commit(repository)
    assert [found.name for found in since(inner)] == ["inner/cassettes/deep.jsonl"]


def test_a_shallow_clone_compares_with_the_named_commit(repository: Path, tmp_path: Path) -> None:
    base = git("rev-parse", "main", cwd=repository)
    record(repository / "cassettes" / "kept.jsonl", changed_at=1)
    commit(repository)
    clone = tmp_path / "clone"
    git("clone", "-q", "--depth=1", "-b", "branch", f"file://{repository}", clone, cwd=tmp_path)
    with pytest.raises(UsageError, match="fetch-depth: 0"):
        since(clone, base)
    git("fetch", "-q", "--depth=1", "origin", "main", cwd=clone)
    (changed,) = since(clone, base)
    assert report_of(changed)["counts"]["root"] == 1


@pytest.mark.parametrize("revision", ["nowhere", "--output=x", "", "\x1b[31m"])
def test_a_revision_that_is_none_is_refused(revision: str, repository: Path) -> None:
    with pytest.raises(UsageError, match="this clone has no commit") as refused:
        Repository(repository).base_of(revision)
    assert str(refused.value).isprintable()
    assert not (repository / "x").exists()


def test_the_command_shows_reports_though_there_is_no_repository(tmp_path: Path) -> None:
    done = swarm_repro("summarize", "--since", "main", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Changed cassettes were not compared" in done.stdout


def test_the_command_compares_what_is_named(repository: Path) -> None:
    record(repository / "cassettes" / "kept.jsonl", changed_at=1)
    other = repository / "elsewhere"
    record(other / "more.jsonl")
    commit(repository)
    record(other / "more.jsonl", changed_at=3)
    done = swarm_repro(
        "summarize", "--since", "HEAD", "--cassettes", "elsewhere/*.jsonl", cwd=repository
    )
    assert "elsewhere&#47;more" in done.stdout
    assert "kept" not in done.stdout
    assert "alice 3" in done.stdout
