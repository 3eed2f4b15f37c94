"""The files that ``init`` writes into somebody's project."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from swarm_repro import __version__
from swarm_repro.errors import UsageError
from swarm_repro.printable import printable

#: Written whole, from the template of that name.
_WHOLE = {
    "scenarios/example.yaml": "scenario.yaml",
    ".github/workflows/swarm-repro.yml": "workflow.yml",
}
#: Lines that a file gets at its end, unless it has them.
_LINES = {
    ".gitattributes": (
        "# Checksums cover line ends; git shows a cassette as text, and merges it by calls.",
        "cassettes/**/*.jsonl -text diff=swarm-repro merge=swarm-repro",
        "cassettes/**/*.jsonl.zst -text diff=swarm-repro merge=swarm-repro",
    ),
    ".gitignore": ("models/", "runs/", "*.part", "*.part.lock"),
}
#: What git is told once in each clone: a repository cannot name programs to run.
GIT_CONFIG = (
    'git config diff.swarm-repro.textconv "swarm-repro textconv"',
    'git config merge.swarm-repro.driver "swarm-repro merge %A %A %B --base %O"',
)


@dataclass
class Initialised:
    """What became of each file, by its path in the project.

    Attributes:
        written: New, or replaced.
        extended: Files that got lines at their end.
        unchanged: As they should be already.
        notes: What the user may want to know.
    """

    written: list[str] = field(default_factory=list)
    extended: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def init_project(folder: Path, *, force: bool = False) -> Initialised:
    """Write the files; none of them where one would be overwritten.

    Args:
        folder: The project.
        force: Replace files that differ.

    Raises:
        UsageError: A file is there already and differs, or cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"{printable(str(folder))} is not a folder; make it first")
    whole = {name: _template(template) for name, template in _WHOLE.items()}
    states = {name: _state(folder / name, content) for name, content in whole.items()}
    differing = [name for name, state in states.items() if state == "differs"]
    if differing and not force:
        raise UsageError(
            f"{' and '.join(differing)} {'is' if len(differing) == 1 else 'are'} there already and "
            "not what init writes; nothing was written. Replace with --force"
        )
    done = Initialised(notes=_git_notes(folder))
    try:
        for name, content in whole.items():
            if states[name] == "same":
                done.unchanged.append(name)
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            done.written.append(name)
        for name, lines in _LINES.items():
            _extend(folder / name, lines, name, done)
    except OSError as error:
        path = printable(str(error.filename))
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return done


def _template(name: str) -> bytes:
    text = (resources.files("swarm_repro.project") / "templates" / name).read_text("utf-8")
    # The same minor version of Python compares artifacts byte by byte.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return text.replace("@VERSION@", __version__).replace("@PYTHON@", python).encode()


def _state(path: Path, content: bytes) -> str:
    try:
        return "same" if path.read_bytes() == content else "differs"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be read: {error.strerror}") from error


def _extend(path: Path, lines: Sequence[str], name: str, done: Initialised) -> None:
    there = path.read_bytes() if path.exists() else b""
    known = set(there.decode("utf-8", "replace").splitlines())
    missing = [line for line in lines if line not in known]
    if all(line.startswith("#") for line in missing):
        done.unchanged.append(name)
        return
    gap = b"" if not there or there.endswith(b"\n") else b"\n"
    with path.open("ab") as file:
        file.write(gap + "".join(f"{line}\n" for line in missing).encode())
    (done.extended if there else done.written).append(name)


def _git_notes(folder: Path) -> list[str]:
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-prefix"],  # noqa: S607 - the user's git
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return ["git is not installed; a cassette is made to be committed"]
    if found.returncode != 0:
        return ["this is no git repository yet: run git init, and commit the cassette you record"]
    if found.stdout.strip():
        return ["this is not the repository's top folder: GitHub reads workflows only there"]
    return []
