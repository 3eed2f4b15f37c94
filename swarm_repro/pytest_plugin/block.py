"""One test's use of a cassette."""

from __future__ import annotations

import fcntl
import inspect
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.canonical import text_sha256
from swarm_repro.errors import (
    CassetteAccessError,
    CredentialsMaskedWarning,
    SessionTripped,
    SwarmReproError,
)
from swarm_repro.intercept.network import refuse_network
from swarm_repro.mode import Mode
from swarm_repro.pytest_plugin.names import MARKER, default_path, marked_path, name_of
from swarm_repro.session import Session
from swarm_repro.use import use_cassette

#: How long a test waits for others that record into the same cassette, in seconds.
_PATIENCE_S = 1800.0
_POLL_S = 0.05


class CassetteBlock:
    """From the first of a test's own fixtures to its end."""

    def __init__(self, item: pytest.Item) -> None:
        """Read the test's markers.

        Args:
            item: The test.
        """
        options = _options(item)
        marked = marked_path(item)
        self._item = item
        self._path = marked or default_path(item)
        # Tests may share a cassette that is named: their calls are kept apart.
        self._owner = name_of(item) if marked is not None else ""
        self._allows_network = bool(options.pop("allow_network", False))
        asked: list[str] = item.config.getoption("cassette_modes") or []
        mode = asked[0] if asked else options.pop("mode", None)
        options.pop("mode", None)
        self._mode = None if mode is None else Mode(mode)
        # Whoever records a test anew has done with what its last try left.
        options.setdefault("discard", self._mode is Mode.RECORD)
        try:
            self._use = use_cassette(self._path, mode=mode, **options)
        except SwarmReproError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
        self._stack = ExitStack()
        self._is_judged = False
        self.session: Session

    def begin(self) -> None:
        """Open the cassette; its calls belong to it from here on."""
        with self._failing():
            if self._mode is None and not self._path.exists():
                raise CassetteAccessError(
                    f"there is no cassette at {self._path}; record it with: "
                    f"pytest '{self._item.nodeid}' --record"
                )
            if self._owner and self._mode is not None and self._mode.writes:
                self._stack.enter_context(_taking_turns(self._path))
            self.session = self._use.begin(owner=self._owner, everywhere=True)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """The test itself: what its calls came to is part of its result."""
        with ExitStack() as stack:
            if not self.session.mode.calls_model and not self._allows_network:
                stack.enter_context(refuse_network(self.session))
            try:
                yield
            except pytest.skip.Exception:
                raise
            except BaseException:
                if self.session.tripped is not None:
                    self._fail(self.session.tripped)
                raise
        if not getattr(self._item, "_excinfo", None):  # of a unittest.TestCase, which raises not
            self._is_judged = True
            with self._failing():
                masked = self._use.end(judge=True)
            if masked is not None:
                warnings.warn(masked, CredentialsMaskedWarning, stacklevel=1)

    def close(self) -> None:
        """Let go of the cassette."""
        try:
            if not self._is_judged:
                self._use.end(judge=False)
        finally:
            self._stack.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Say what is wrong without the frames that found it."""
        try:
            yield
        except (SwarmReproError, SessionTripped) as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        pytest.fail(str(error), pytrace=False)


def _options(item: pytest.Item) -> dict[str, Any]:
    """The markers' options, the closest one's first."""
    options: dict[str, Any] = {}
    for mark in item.iter_markers(MARKER):
        for name, value in mark.kwargs.items():
            options.setdefault(name, value)
    options.pop("path", None)
    known = {*inspect.signature(use_cassette).parameters, "allow_network"} - {"path"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise pytest.UsageError(
            f"{item.nodeid}: the cassette marker has no option {unknown[0]!r}; it has "
            f"{', '.join(sorted(known))}"
        )
    return options


@contextmanager
def _taking_turns(path: Path) -> Iterator[None]:
    """One test at a time records into a cassette, of whichever process.

    Raises:
        CassetteAccessError: The turn did not come.
    """
    folder = Path(tempfile.gettempdir())
    lock = folder / f"swarm-repro-{text_sha256(str(path.resolve()))[:32]}.lock"
    gone = threading.Event()
    waited_s = 0.0
    with lock.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited_s >= _PATIENCE_S:
                    raise CassetteAccessError(
                        f"another test has been recording {path} for {_PATIENCE_S:g} s"
                    ) from None
                gone.wait(_POLL_S)
                waited_s += _POLL_S
        yield
