"""Which cassettes changed since a revision, and what they were then."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swarm_repro.errors import UsageError
from swarm_repro.printable import printable

Status = Literal["added", "deleted", "modified"]
_STATUS: dict[str, Status] = {"A": "added", "D": "deleted"}


@dataclass(frozen=True)
class ChangedFile:
    """A file that is not what it was.

    Attributes:
        path: Relative to the repository's top folder.
        status: What became of it.
    """

    path: str
    status: Status


class Repository:
    """The git repository that a folder belongs to."""

    def __init__(self, folder: Path) -> None:
        """Find the repository.

        Raises:
            UsageError: There is no git, or the folder is in no repository.
        """
        self._folder = folder
        self.top = Path(self._git("rev-parse", "--show-toplevel").decode().rstrip("\n"))

    def base_of(self, revision: str) -> str:
        """The commit at which this branch left another.

        Args:
            revision: A commit of the other branch. Where the clone is too shallow to know when they
                parted, it is taken itself.

        Raises:
            UsageError: The clone has no such commit.
        """
        named = self._try(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )
        if named is None:
            raise UsageError(
                f"this clone has no commit {printable(revision)}; check out with fetch-depth: 0"
            )
        commit = named.decode().strip()
        parted = self._try("merge-base", commit, "HEAD")
        return commit if parted is None else parted.decode().strip()

    def changed(self, base: str, pathspec: str) -> list[ChangedFile]:
        """Files of the working tree that differ from a commit, in the order of their names.

        Args:
            base: The commit.
            pathspec: Which files, relative to the folder.
        """
        listed = self._git(
            "diff", "--name-status", "--no-renames", "--no-ext-diff", "-z", base, "--", pathspec
        ).split(b"\0")
        pairs = zip(listed[::2], listed[1::2], strict=False)
        return [
            ChangedFile(
                path.decode("utf-8", "surrogateescape"), _STATUS.get(status.decode(), "modified")
            )
            for status, path in pairs
        ]

    def content(self, commit: str, path: str) -> bytes:
        """A file as it was in a commit."""
        return self._git("cat-file", "blob", f"{commit}:{path}")

    def _git(self, *arguments: str) -> bytes:
        done = self._run(*arguments)
        if done.returncode != 0:
            told = printable(done.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
            raise UsageError(f"git {arguments[0]} failed: {told}")
        return done.stdout

    def _try(self, *arguments: str) -> bytes | None:
        done = self._run(*arguments)
        return done.stdout if done.returncode == 0 else None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                ["git", "-C", str(self._folder), *arguments],  # noqa: S607 - the user's own git
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise UsageError("git is not installed") from error
