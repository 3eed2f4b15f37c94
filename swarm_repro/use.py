"""``use_cassette``: the model calls of a block or a function, recorded and replayed."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

from swarm_repro.cassette.header import SeedPolicy
from swarm_repro.errors import CacheWarning, CredentialsMaskedWarning, UsageError
from swarm_repro.intercept.http import intercept_http
from swarm_repro.intercept.llama_cpp import intercept_llama_cpp
from swarm_repro.intercept.routes import Belonging
from swarm_repro.masking import Redact
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, describe_masked, header_of, one_of, open_session
from swarm_repro.session import Session

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
        redact: Redact | None = None,
        shared: bool = False,
        scope_prefix: str = "",
        cache: bool = False,
        fresh: bool = False,
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
            redact: Takes each text of a request or an answer before it is stored, and gives what
                may be stored; the program gets the answer so too. Known credentials are masked in
                any case.
            shared: Whether other processes use the cassette at the same time, each with a block of
                its own that says so too. The last to end writes it. Two that record one call (same
                scope, request and repeat) are in conflict, which the later one is told. Calls that
                were recorded and not asked for are not this block's to judge.
            scope_prefix: Keeps the scopes of this block's calls apart from those of others who
                share the cassette: ``worker-1``, ``worker-1/alice``. Needed to record anew what
                several share: only calls of this prefix are then replaced.
            cache: While recording, take answers to seeded requests from the machine-wide cache, and
                add to it; never in strict mode. The environment variable ``SWARM_REPRO_CACHE=1``
                does the same.
            fresh: Ask the model all the same, and keep what it answers in the cache.

        Raises:
            UsageError: An unknown mode, seed policy or rule.
        """
        self._path = Path(path)
        self._mode = _mode(mode)
        self._seed = seed
        self._belonging = Belonging.of(hosts=hosts, hosted=hosted)
        self._others = one_of("others", others, ("refuse", "pass"))
        self._discard = discard
        self._redact = redact
        self._shared = shared
        self._scope_prefix = scope_prefix
        self._cache = cache
        self._fresh = fresh
        self._header = header_of(seed_policy=seed_policy, strict=strict, requests=requests)
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
        return self.begin()

    def begin(self, *, owner: str = "", everywhere: bool = False) -> Session:
        """As ``__enter__``, for what is built on it.

        Args:
            owner: Whose calls these are in a cassette that several share.
            everywhere: Answer in all contexts that have no cassette of their own, not only in this.
        """
        if self._open is not None:
            raise UsageError(f"this use of {self._path} has begun already: make another one")
        session = open_session(
            self._path,
            mode=self._mode,
            header=self._header,
            seed=self._seed,
            discard=self._discard,
            owner="/".join(filter(None, (owner, self._scope_prefix))),
            shared=self._shared,
            cache=self._cache,
            fresh=self._fresh,
            redact=self._redact,
        )
        with ExitStack() as stack:
            stack.callback(session.close)
            stack.enter_context(
                intercept_http(
                    session,
                    belonging=self._belonging,
                    passes=self._others == "pass",
                    everywhere=everywhere,
                )
            )
            stack.enter_context(intercept_llama_cpp())
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
        masked = self.end(judge=error is None)
        if masked is not None:
            warnings.warn(masked, CredentialsMaskedWarning, stacklevel=2)

    def end(self, *, judge: bool) -> str | None:
        """As ``__exit__``, for what is built on it.

        Args:
            judge: Whether to write the cassette, or to say what was not played.

        Returns:
            Which credentials are masked in what was recorded, in one line, if any.
        """
        if self._open is None:
            raise UsageError(f"this use of {self._path} has not begun")
        session, stack = self._open
        self._open = None
        with stack:
            if judge:
                conclude(session)
        for note in session.cache_notes():
            warnings.warn(note, CacheWarning, stacklevel=3)
        return describe_masked(session)

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


def _mode(mode: Mode | str | None) -> Mode | None:
    if mode is None or isinstance(mode, Mode):
        return mode
    return Mode(one_of("mode", mode, [known.value for known in Mode]))
