"""``use_cassette``: the model calls of a block or a function, recorded and replayed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

from swarm_repro import __version__
from swarm_repro.backends.base import Backend
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.cassette.records import SEED_POLICIES, Header, RequestRule, SeedPolicy
from swarm_repro.cassette.store import CassetteStore, open_for_recording, open_for_replay
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    DifferenceError,
    UnplayedCallsError,
    UsageError,
)
from swarm_repro.intercept.http import intercept_http
from swarm_repro.intercept.routes import Belonging
from swarm_repro.serving.state import find_started_server
from swarm_repro.session import Mode, Session

_F = TypeVar("_F", bound=Callable[..., object])


class use_cassette:
    """Record or replay the model calls of a block, or of a function.

    Every call of a model that goes over httpx or httpx2 belongs to the cassette, sync or async,
    streamed or not, whichever client makes it::

        with use_cassette("cassettes/answers.jsonl"):
            client.chat.completions.create(...)

        @use_cassette("cassettes/answers.jsonl", mode="auto")
        async def test_answers(): ...

    Blocks can be nested: the innermost one answers. A block belongs to its own context: its thread,
    its tasks, and what ``asyncio.to_thread`` runs for it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mode: Mode | str | None = None,
        seed: int = 0,
        seed_policy: SeedPolicy = "as-is",
        strict: bool = False,
        requests: Iterable[Mapping[str, Mapping[str, object]]] = (),
        hosts: Iterable[str] | None = None,
        hosted: Iterable[str] = (),
        others: str = "refuse",
        discard: bool = False,
    ) -> None:
        """Describe the use of a cassette; nothing is opened before the block begins.

        Args:
            path: The cassette file.
            mode: ``replay``, ``record``, ``auto``, ``live`` or ``verify``. None replays a cassette
                that is there, and is an error where there is none.
            seed: Run seed, from which calls without a seed get theirs, unless ``seed_policy`` is
                ``as-is``.
            seed_policy: ``as-is``: calls go out as they are written. ``event``: a seed by scope and
                ordinal. ``content``: a seed by scope, request and repeat. A replay has the
                cassette's.
            strict: Refuse a backend that would not give the same bits again.
            requests: Fields to set, as ``repro.requests`` in a scenario: ``{"match": {…}, "set":
                {…}}``.
            hosts: Hosts whose model calls belong to the cassette, with or without a port; None:
                chat, completion and embedding calls to any host, and those of other model APIs to
                this machine, to ``hosted`` and to services known by name.
            hosted: Hosts that are no llama-server (``api.example.com``): what they answer is kept
                under the name of the host, since nothing is known of weights and defaults.
            others: What becomes of requests that do not belong, in modes that call: ``refuse`` or
                ``pass``. A replay always refuses them.
            discard: Throw away what an interrupted recording left.

        Raises:
            UsageError: An unknown mode, seed policy or rule.
        """
        self._path = Path(path)
        self._mode = _mode(mode)
        self._seed = seed
        self._belonging = Belonging.of(hosts=hosts, hosted=hosted)
        self._others = _one_of("others", others, ("refuse", "pass"))
        self._discard = discard
        self._header = Header(
            recorder=__version__,
            seed_policy=cast("SeedPolicy", _one_of("seed_policy", seed_policy, SEED_POLICIES)),
            strict=strict,
            requests=tuple(_rule(rule) for rule in requests),
        )
        self._open: tuple[Session, ExitStack] | None = None

    def __enter__(self) -> Session:
        """Begin.

        Returns:
            The session; its ledger tells what happened.

        Raises:
            CassetteAccessError: No cassette to replay; an interrupted or another recording is in
                the way; the file cannot be written.
            CassetteDamagedError: Not the bytes that were written.
            UsageError: The object is in use already, here or in another thread.
        """
        if self._open is not None:
            raise UsageError(f"this use of {self._path} has begun already: make another one")
        mode = self._mode or self._mode_of_what_is_there()
        store = self._store(mode)
        session = Session(
            mode=mode,
            header=store.header if store is not None else self._header,
            store=store,
            run_seed=self._seed,
        )
        with ExitStack() as stack:
            if store is not None:
                stack.callback(store.close)
            stack.enter_context(
                intercept_http(
                    session, _server, belonging=self._belonging, passes=self._others == "pass"
                )
            )
            self._open = (session, stack.pop_all())
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End: write the cassette, or say what was not played.

        After an exception nothing is judged: what was recorded stays beside the cassette, and
        ``auto`` goes on from it.

        Raises:
            ReplayMiss: A call was not in the cassette, whatever the block made of that.
            UnplayedCallsError: The block did not ask for all recorded calls.
            BackendError: A call failed and never succeeded after.
            DifferenceError: An answer is not the recorded one (mode ``verify``).
        """
        if self._open is None:
            raise UsageError(f"this use of {self._path} has not begun")
        session, stack = self._open
        self._open = None
        with stack:
            if error is None:
                _judge(session)

    async def __aenter__(self) -> Session:
        """As ``__enter__``."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As ``__exit__``."""
        self.__exit__(kind, error, trace)

    def __call__(self, function: _F) -> _F:
        """Let every call of a function, sync or async, have the cassette.

        Raises:
            UsageError: A generator, whose body would run outside the block; at a call, a coroutine
                from a function that is not async itself.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError("a generator cannot be decorated: use the cassette inside it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped_async(*args: object, **kwargs: object) -> object:
                async with self._again():
                    return await function(*args, **kwargs)

            return cast("_F", wrapped_async)

        @functools.wraps(function)
        def wrapped(*args: object, **kwargs: object) -> object:
            with self._again():
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result.close()
                    raise UsageError(
                        f"{function!r} returned a coroutine, whose body would run outside the "
                        "block: decorate the async function itself"
                    )
                return result

        return cast("_F", wrapped)

    def _again(self) -> use_cassette:
        """The same use, with blocks of its own: functions may run at the same time."""
        other = object.__new__(use_cassette)
        other.__dict__.update(self.__dict__)
        other._open = None
        return other

    def _mode_of_what_is_there(self) -> Mode:
        if not self._path.exists():
            raise CassetteAccessError(
                f"there is no cassette at {self._path}; record one with mode='record'"
            )
        return Mode.REPLAY

    def _store(self, mode: Mode) -> CassetteStore | None:
        if mode is Mode.LIVE:
            return None
        if mode.writes:
            return open_for_recording(
                self._path, self._header, keep=mode is Mode.AUTO, discard_part=self._discard
            )
        return open_for_replay(self._path)


def _judge(session: Session) -> None:
    """Say what the ledger says, whatever surfaced in the block."""
    ledger, store = session.ledger, session.store
    if session.tripped is not None:
        raise session.tripped
    if session.cause is not None:
        raise session.cause
    if ledger.failures:
        failures = "; ".join(str(failure) for failure in ledger.failures.values())
        raise BackendError(f"{len(ledger.failures)} calls failed: {failures}")
    waiting = session.waiting()
    if waiting is not None:
        raise BackendError(waiting)
    if store is None:
        return
    if session.mode.writes:
        store.finish(used=ledger.used, run=None, keep=session.mode is Mode.AUTO)
        return
    missing = session.unplayed(frozenset(store.calls()))
    if missing:
        first = store.find(missing[0])
        where = f", first call {first.i} of {first.scope}" if first else ""
        raise UnplayedCallsError(
            f"{len(missing)} of {len(store.calls())} calls in {store.path} were not played{where}; "
            "record it anew with mode='record'"
        )
    if ledger.differences:
        raise DifferenceError("; ".join(ledger.differences))


def _server(root: str, api_key: str | None) -> Backend:
    return LlamaServer(root, api_key=api_key, started=find_started_server)


def _mode(mode: Mode | str | None) -> Mode | None:
    if mode is None or isinstance(mode, Mode):
        return mode
    return Mode(_one_of("mode", mode, [known.value for known in Mode]))


def _one_of(name: str, value: str, known: Iterable[str]) -> str:
    known = list(known)
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")
    return value


def _rule(rule: Mapping[str, Mapping[str, object]]) -> RequestRule:
    if set(rule) != {"match", "set"} or not set(rule["match"]) <= {"scope", "kind"}:
        raise UsageError(f"request rule {rule!r}: use {{'match': {{scope, kind}}, 'set': {{…}}}}")
    return RequestRule(
        match={name: str(value) for name, value in rule["match"].items()}, fields=rule["set"]
    )
