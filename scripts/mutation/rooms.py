"""Which module is in which room: the parts of the package whose tests are looked at together."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

# Patterns below swarm_repro/; `*` takes what no other room names.
ROOMS: dict[str, tuple[str, ...]] = {
    "key": (
        "canonical.py",
        "completion.py",
        "dialects.py",
        "environment.py",
        "model.py",
        "packed.py",
        "request.py",
        "sampling.py",
        "weights.py",
    ),
    "masking": ("cassette/redact.py", "credentials.py", "masking.py"),
    "session": (
        "__init__.py",
        "answers.py",
        "bindings.py",
        "caller.py",
        "difference.py",
        "inflight.py",
        "ledger.py",
        "miss.py",
        "mode.py",
        "once.py",
        "opening.py",
        "places.py",
        "session.py",
    ),
    "cache": ("cache.py", "cachedir.py", "cli/cache.py"),
    "cassette-writing": (
        "cassette/__init__.py",
        "cassette/alter.py",
        "cassette/changes.py",
        "cassette/disk.py",
        "cassette/header.py",
        "cassette/part*.py",
        "cassette/records.py",
        "cassette/runs.py",
        "cassette/store.py",
        "cassette/writer.py",
    ),
    "cassette-reading": (
        "cassette/archive.py",
        "cassette/call_sets.py",
        "cassette/check.py",
        "cassette/entries.py",
        "cassette/index*.py",
        "cassette/lines.py",
        "cassette/mapped.py",
        "cassette/mend.py",
        "cassette/reader.py",
        "cassette/scan.py",
        "cassette/table.py",
    ),
    "merge": ("cassette/merge.py", "cli/merge.py"),
    "simulation": ("loaders.py", "simulation/*.py"),
    "use": ("endpoint/*.py", "program.py", "pytest_plugin/*.py", "use.py"),
    "intercept": ("intercept/*.py",),
    "backends": ("backends/*.py",),
    "serving": ("serving/*.py",),
    "verify": ("cli/verify.py", "compare/verif*.py", "compare/verdict.py"),
    "diff": ("cli/diff.py", "compare/*.py"),
    "reporting": ("reporting/*.py", "printable.py", "survey.py"),
    "study": ("cli/study.py", "cli/summarize.py", "study/*.py"),
    "audit": ("audit/*.py", "cli/audit.py"),
    "bundle": ("bundle/*.py", "cli/bundle.py"),
    "export": ("cli/export.py", "export/*.py"),
    "project": ("cli/init.py", "cli/textconv.py", "project/*.py"),
    "cli": ("__main__.py", "cli/*.py", "errors.py"),
}
_PACKAGE = "swarm_repro/"


def room_of(file: str) -> str:
    """The room of a module: that of the most particular pattern, of the longest one.

    Args:
        file: Path from the root of the repository.

    Raises:
        ValueError: No room has it, or two have it by equally long patterns.
    """
    below = file.removeprefix(_PACKAGE)
    fits = sorted(
        (len(pattern), room)
        for room, patterns in ROOMS.items()
        for pattern in patterns
        if fnmatchcase(below, pattern)
    )
    if not fits:
        raise ValueError(f"{file} is in no room; add it to scripts/mutation/rooms.py")
    if len(fits) > 1 and fits[-1][0] == fits[-2][0] and fits[-1][1] != fits[-2][1]:
        raise ValueError(f"{file} is in two rooms: {fits[-2][1]} and {fits[-1][1]}")
    return fits[-1][1]


def unused_patterns(files: Iterable[str]) -> list[str]:
    """Patterns that no file fits: left behind when a module moved."""
    below = [file.removeprefix(_PACKAGE) for file in files]
    return [
        pattern
        for patterns in ROOMS.values()
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in below)
    ]
