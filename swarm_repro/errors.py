"""Everything that can go wrong, as one tree.

Errors a caller can handle::

    SwarmReproError                     exit code
    ├── UsageError                      2   bad input: flags, files, values
    │   ├── ScenarioError                   a scenario that cannot be run as it is written
    │   ├── RequestError                    a request that cannot be keyed (NaN, 65-bit integers)
    │   ├── ModelFileError                  a model file that is missing or is not GGUF
    │   ├── ModelConflictError              one model name, two models
    │   └── CassetteAccessError             missing, a folder, unwritable, another experiment's
    ├── DifferenceError                 1   something differs from what was recorded
    ├── UnplayedCallsError              3   a replay that left recorded calls unplayed
    ├── BackendError                    4   the model's side failed
    │   ├── BackendUnreachableError         nothing (or something else) answers at the address
    │   ├── BackendResponseError            an answer that is no completion: 4xx, 5xx, broken body
    │   └── StrictModeError                 the backend does not do what strict mode promises
    ├── CassetteDamagedError            5   bytes on disk are not what was written
    └── NotComparableError              6   two things that cannot be compared

What stops a run cannot be an ``Exception``: simulated agents catch ``Exception`` and go on with
a NOOP, so a missing recording would look like an agent that had nothing to say::

    SessionTripped(BaseException)
    └── ReplayMiss                      3   a call the cassette does not hold

What is said and stops nothing::

    CredentialsMaskedWarning(UserWarning)   a recording holds marks in place of credentials
    CacheWarning(UserWarning)               the machine-wide cache is damaged, or was too full
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the command line returns; scripts may rely on the numbers."""

    OK = 0
    DIFFERENCE = 1
    USAGE = 2
    MISS = 3
    BACKEND = 4
    DAMAGED = 5
    NOT_COMPARABLE = 6


class CredentialsMaskedWarning(UserWarning):
    """A recording holds marks where the program sent or got credentials."""


class CacheWarning(UserWarning):
    """The machine-wide cache could not be read or written, or had to drop answers."""


class SwarmReproError(Exception):
    """Root of all errors; the message is one clear line that says what to do."""

    exit_code: ExitCode = ExitCode.USAGE


class UsageError(SwarmReproError):
    """The caller asked for something that cannot be done as asked."""


class ScenarioError(UsageError):
    """A scenario file that cannot be run as it is written."""


class RequestError(UsageError):
    """A request with a value that has no canonical form, or fields that contradict each other."""


class ModelFileError(UsageError):
    """A model file that is missing, is a folder, or is not GGUF."""


class ModelConflictError(UsageError):
    """One model name stands for two different models."""


class CassetteAccessError(UsageError):
    """A cassette that is missing, is not a file, cannot be written, or is another experiment's."""


class DifferenceError(SwarmReproError):
    """A result differs from the recorded one."""

    exit_code = ExitCode.DIFFERENCE


class UnplayedCallsError(SwarmReproError):
    """A replay ended before it had played every call of the recorded run."""

    exit_code = ExitCode.MISS


class BackendError(SwarmReproError):
    """The model's side failed; nothing of the call was recorded.

    Attributes:
        transient: Whether the same bytes may well succeed in a moment: a refused or reset
            connection.
    """

    exit_code = ExitCode.BACKEND
    transient: bool = False


def named(error: Exception) -> SwarmReproError:
    """An error as one of ours: what a backend raises beside its own errors is one of them too."""
    if isinstance(error, SwarmReproError):
        return error
    return BackendError(f"{type(error).__name__}: {error}")


class BackendUnreachableError(BackendError):
    """Nothing, or the wrong service, answers at the address; or the connection broke."""

    transient = True


class BackendResponseError(BackendError):
    """The backend answered, but not with a completion.

    Attributes:
        status: HTTP status, or None where there was none (a cut connection, in process).
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StrictModeError(BackendError):
    """The backend was seen doing what strict mode rules out, such as reusing cached tokens."""


class CassetteDamagedError(SwarmReproError):
    """Bytes on disk are not the bytes that were written.

    Attributes:
        path: The file.
        line: 1-based line number, or None where the damage is not in one line.
        why: What is wrong, without the place.
    """

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, why: str, *, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else f"{path}"
        # What is wrong may say what to do about it, after a semicolon.
        advice = "" if ";" in why else f"; see what is whole: swarm-repro check {path}"
        super().__init__(f"{where}: {why}{advice}")
        self.path = path
        self.line = line
        self.why = why


class NotComparableError(SwarmReproError):
    """Two things that have no common ground for a comparison."""

    exit_code = ExitCode.NOT_COMPARABLE


class SessionTripped(BaseException):
    """The session is over; every further call raises this at once.

    A BaseException, as ``pytest.exit`` is, because simulated agents swallow exceptions.
    """

    exit_code: ExitCode = ExitCode.BACKEND


class ReplayMiss(SessionTripped):
    """A call that the cassette does not hold, or holds with another seed."""

    exit_code = ExitCode.MISS
