"""The one decision: replay, call, record, or compare.

Every way in turns its call into one ``Request``, asks one ``Session``, and turns one ``Completion``
back. The session counts calls by scope, gives seeds to those that have none, keeps the ledger, and
trips: after the first miss or failed call of a run every later call raises at once, whatever the
simulation swallows in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar

from swarm_repro.answers import Answers, Source
from swarm_repro.backends.base import Backend, Bound
from swarm_repro.bindings import Bindings
from swarm_repro.cache import AnswerCache
from swarm_repro.caller import MAIN_SCOPE, Caller, current_caller, is_within
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.records import At, CallId, CallRecord
from swarm_repro.cassette.store import CassetteStore, Staged
from swarm_repro.completion import (
    Completion,
    require_answer,
    require_completion,
)
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    ExitCode,
    ReplayMiss,
    RequestError,
    SessionTripped,
    StrictModeError,
    SwarmReproError,
    UsageError,
    named,
)
from swarm_repro.inflight import Answered, InFlight
from swarm_repro.ledger import Failure, Ledger, PendingCall
from swarm_repro.masking import Redact
from swarm_repro.miss import explain_miss, explain_unknown_model
from swarm_repro.mode import Mode
from swarm_repro.model import ModelBinding
from swarm_repro.places import Places
from swarm_repro.request import SAMPLED, Endpoint, Request

_T = TypeVar("_T")


class _HasStatus(Protocol):
    @property
    def status(self) -> int:
        """HTTP status."""


_Sent = TypeVar("_Sent", bound=_HasStatus)

#: Seconds to wait before each retry of a refused connection, a reset or an HTTP 503: one hiccup
#: must not end an hour's recording.
RETRY_WAITS_S: Final = (0.2, 1.0, 3.0)


@dataclass(frozen=True)
class _Taken:
    """An answer that was judged."""

    call: PendingCall
    answered: Answered
    #: What the caller gets.
    given: Completion
    staged: Staged | None
    source: Source


class Session:
    """One recording, replay or comparison."""

    def __init__(
        self,
        *,
        mode: Mode,
        header: Header,
        store: CassetteStore | None = None,
        run_seed: int = 0,
        trips: bool = False,
        position: Callable[[], At | None] = lambda: None,
        version_notes: tuple[str, ...] = (),
        on_call: Callable[[PendingCall, Completion], None] | None = None,
        isolated: bool = False,
        owner: str = "",
        shared: bool = False,
        redact: Redact | None = None,
        cache: AnswerCache | None = None,
        fresh: bool = False,
        retry_waits_s: Sequence[float] = RETRY_WAITS_S,
    ) -> None:
        """Make a session.

        Args:
            mode: What to do with calls.
            header: Seed policy, strict flag and request fields.
            store: The cassette; None only in mode ``live``.
            run_seed: Seed that seeds of calls are derived from.
            trips: Whether a failed call ends the session, as it does under ``run``; else the
                caller gets the failure and may retry.
            position: Tells the simulation's epoch and step.
            version_notes: Versions that differ from the recording's, for the explanation of a miss.
            on_call: Called after each call, for progress.
            isolated: Whether a miss, or a request that cannot be keyed, fails that call alone, as
                for the clients of an endpoint, who know nothing of each other; else the first
                miss ends the session, and no bad request is forgotten.
            owner: Whose calls these are in a cassette that several share, such as a test's name;
                its scopes are kept apart from theirs, and only its calls are judged.
            shared: Whether other processes play the same cassette: which calls are left for them
                is not this session's to judge.
            redact: The user's own redaction of what is stored, before the public rules.
            cache: The machine-wide cache, which a recording may take answers from, and adds to.
            fresh: Take none from it.
            retry_waits_s: Seconds to wait before each retry with the same bytes, after a refused
                connection, a reset or an HTTP 503; used only where a failed call ends the session.

        Raises:
            UsageError: A mode that needs a cassette, without one.
        """
        if store is None and mode is not Mode.LIVE:
            raise UsageError(f"mode {mode.value} needs a cassette")
        self.mode = mode
        self.header = header
        self.ledger = Ledger()
        self.run_seed = run_seed
        self.trips = trips
        self._retry_waits_s = tuple(retry_waits_s)
        self.position = position
        self.on_call = on_call
        self._isolated = isolated
        self.owner = owner
        self.is_shared = shared
        self._version_notes = version_notes
        self._store = store
        self._places = Places(header, run_seed=run_seed)
        self._in_flight = InFlight()
        self._bindings = Bindings(mode=mode, strict=header.strict, store=store)
        # What a user's own function makes of an answer is not for others.
        for_others = redact is None and mode.writes and not header.strict
        self._answers = Answers(
            mode=mode,
            store=store,
            bindings=self._bindings,
            ledger=self.ledger,
            redact=redact,
            cache=cache if for_others else None,
            fresh=fresh,
        )
        self._tripped: SessionTripped | None = None
        self._cause: SwarmReproError | None = None
        self._lock = threading.RLock()

    @property
    def store(self) -> CassetteStore | None:
        """The cassette."""
        return self._store

    @property
    def tripped(self) -> SessionTripped | None:
        """What ended the session early, or None."""
        return self._tripped

    @property
    def cause(self) -> SwarmReproError | None:
        """An error, not a miss, that ended the session or left a model unknown to the end."""
        return self._cause or self._bindings.unknown

    @property
    def bindings(self) -> list[ModelBinding]:
        """The models that were asked."""
        return self._bindings.known()

    def bind(self, name: str, backend: Backend) -> Bound:
        """Find the model a name stands for.

        In replay it comes from the cassette and nothing is contacted. Else the backend is asked,
        once for each name.

        Args:
            name: As the application writes it.
            backend: Where its calls go.

        Raises:
            ReplayMiss: The cassette knows no model of this name.
            ModelConflictError: The name stands for another model in the cassette.
            StrictModeError: The backend cannot keep what strict mode promises.
            SessionTripped: The session is over.
        """
        with self._lock:
            self._raise_if_tripped()
            try:
                bound = self._bindings.find(name, backend)
            except Exception as error:
                self._fail_session(named(error))
                raise
            if bound is None:
                self.miss(explain_unknown_model(name, self._require_store()))
            return bound

    def call(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
        default_seed: int | None = None,
    ) -> Completion:
        """Answer a call as a program makes it.

        Args:
            backend: Where it goes.
            endpoint: The kind of call.
            model: The model's name, as the program writes it.
            path: URL path, or method in process.
            body: The request's members.
            default_seed: Seed for a call that has none, if its caller has none either.

        Raises:
            ReplayMiss: In replay, the cassette does not hold it.
            BackendError: The call failed; nothing was recorded.
            SessionTripped: The session is over.
        """
        request = self.prepare(
            backend, endpoint=endpoint, model=model, path=path, body=body, default_seed=default_seed
        )
        return self.perform(request, backend.send, render=backend.render)

    def start(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
    ) -> PendingCall:
        """Begin a call whose answer the caller fetches, or passes on as it comes.

        Without an ``answer`` it is the caller's to ``send``, and to ``settle`` or ``fail``.
        Arguments and errors as for ``call``.
        """
        request = self.prepare(backend, endpoint=endpoint, model=model, path=path, body=body)
        return self._begin_shared(request)

    def _begin_shared(self, request: Request) -> PendingCall:
        """Begin a call; one that is identical to one in flight waits for its answer."""
        call = self.begin(request)
        with self.failing(call):
            cached = self._answers.cached(call)
            if cached is not None:
                call.answer = self._settle(call, cached, source="cache")
        while (leader := self._join(call, threading.get_ident())) is not None:
            with self.failing(call):
                answered = leader.result()
                if answered is not None:
                    call.answer = self._settle(call, answered, source="another")
        return call

    async def start_async(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
        flow: object,
        in_turn: Callable[[Callable[[], Any]], Awaitable[Any]],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> PendingCall:
        """As ``start``, for a program with an event loop.

        Args:
            backend: Where it goes.
            endpoint: The kind of call.
            model: The model's name, as the program writes it.
            path: URL path.
            body: The request's members.
            flow: What tells this task from others.
            in_turn: As ``in_thread``, one at a time and in the order of arrival.
            in_thread: Runs what blocks, in this context, beside the event loop; any number at once.

        Raises:
            ReplayMiss: In replay, the cassette does not hold it.
            BackendError: The call failed; nothing was recorded.
            SessionTripped: The session is over.
        """

        def prepare() -> Request:
            return self.prepare(backend, endpoint=endpoint, model=model, path=path, body=body)

        # Only what calls a model has to ask which one it is.
        request = await in_turn(prepare) if self.mode.calls_model else prepare()
        call = self.begin(request)
        with self.failing(call):
            asks_cache = self._answers.may_be_cached(call)
            cached = await in_thread(partial(self._answers.cached, call)) if asks_cache else None
            if cached is not None:
                call.answer = await self._settle_async(call, cached, in_thread, source="cache")
        while (leader := self._join(call, flow)) is not None:
            with self.failing(call):
                answered = await in_thread(leader.result)
                if answered is not None:
                    call.answer = await self._settle_async(
                        call, answered, in_thread, source="another"
                    )
        return call

    def _join(self, call: PendingCall, flow: object) -> Future[Answered | None] | None:
        """What an identical request in flight will be answered; else this one leads.

        Without a seed every answer is a sample of its own, and who verifies wants each.
        """
        if call.answer is not None or call.seed is None or self.mode is Mode.VERIFY:
            return None
        key = (call.request.binding.name, call.sent_key)
        leader, leads = self._in_flight.join(key, flow)
        if leads:
            call.leads = key
        return leader

    @contextmanager
    def failing(self, call: PendingCall) -> Iterator[None]:
        """Note that the call failed with whatever ends the block."""
        try:
            yield
        except BaseException as error:
            self.fail(call, error)
            raise

    def prepare(
        self,
        backend: Backend,
        *,
        endpoint: Endpoint,
        model: str,
        path: str,
        body: Mapping[str, object],
        default_seed: int | None = None,
    ) -> Request:
        """A call as it is put to the cassette: its model found, rules and seeds applied.

        Arguments and errors as for ``call``.
        """
        caller = current_caller()
        bound = self.bind(model, backend)
        seed = caller.seed if caller.seed is not None else default_seed
        asked = dict(body)
        if endpoint in SAMPLED:
            if seed is not None and asked.get("seed") is None:
                asked["seed"] = seed
            asked.update(self.fields_for(backend.strict_fields()))
        return Request(
            endpoint=endpoint, binding=bound.binding, path=path, body=asked, kind=caller.kind
        )

    def reject(self, error: SwarmReproError) -> NoReturn:
        """End a call that never became one, such as a body that is not JSON.

        Args:
            error: What is wrong with it.

        Raises:
            SessionTripped: Under ``run``.
            SwarmReproError: The error itself, else.
        """
        with self._lock:
            self._raise_if_tripped()
            self._remember(error)
            self._fail_session(error)
            self._raise_if_tripped()
            raise error

    def fields_for(self, strict_fields: Mapping[str, object]) -> dict[str, object]:
        """Fields that the scenario or cassette sets on the current caller's requests.

        Args:
            strict_fields: What strict mode sets on this backend.
        """
        caller = current_caller()
        fields: dict[str, object] = dict(strict_fields) if self.header.strict else {}
        for rule in self.header.requests:
            if rule.applies(scope=caller.scope, kind=caller.kind):
                fields.update(rule.fields)
        return fields

    def begin(self, request: Request) -> PendingCall:
        """Give a call its place and look it up.

        Raises:
            ReplayMiss: In replay, the cassette does not hold it.
            RequestError: The request has no key, or calls overlap under the policy ``event``.
            SessionTripped: The session is over.
            CassetteDamagedError: The recorded bytes are damaged.
        """
        caller = self._own(current_caller())
        with self._lock:
            self._raise_if_tripped()
            try:
                return self._begin(request, caller)
            except SwarmReproError as error:
                self._remember(error)
                self._fail_session(error)
                raise

    def _own(self, caller: Caller) -> Caller:
        if not self.owner:
            return caller
        is_main = caller.scope == MAIN_SCOPE
        return replace(caller, scope=self.owner if is_main else f"{self.owner}/{caller.scope}")

    def owns(self, call_id: CallId) -> bool:
        """Whether a recorded call is this session's to play, in a cassette that several share."""
        return not self.owner or is_within(call_id[0], self.owner)

    def _remember(self, error: SwarmReproError) -> None:
        """Keep what ended a call that never became one, whoever catches it."""
        if self._isolated and type(error) in (UsageError, RequestError):
            self.ledger.rejected += 1
        else:
            self._cause = self._cause or error

    def _begin(self, request: Request, caller: Caller) -> PendingCall:
        asked = request.asked_key
        i, n = self._places.take(caller.scope, asked)
        call: PendingCall | None = None
        try:
            seed = self._places.seed_for(request, caller.scope, asked, i=i, n=n)
            call = PendingCall(
                request=request,
                caller=caller,
                i=i,
                n=n,
                at=self.position(),
                asked=asked,
                seed=seed,
                sent_key=asked if seed == request.seed else request.key(seed=seed),
            )
            self.look_up(call)
        except BaseException:
            if call is None or call.open:
                self._places.release(caller.scope, asked, i=i, n=n)
            raise
        return call

    def look_up(self, call: PendingCall) -> None:
        """Find a call in the cassette, and answer it from there if the mode says so.

        A way to replay otherwise, such as a survey, replaces this method.

        Args:
            call: A call that has its place.

        Raises:
            ReplayMiss: In replay, the cassette does not hold it.
            CassetteAccessError: In mode ``auto``, recording it would lose another run's call.
            CassetteDamagedError: The recorded bytes are damaged.
        """
        store = self._store
        if store is None or self.mode is Mode.RECORD:
            return
        recorded = store.find(call.id)
        if recorded is not None and recorded.sent != call.sent_key:
            # Recorded with another seed: of this run's call nothing is known.
            if self.mode is Mode.AUTO and not store.may_replace(call.id):
                raise CassetteAccessError(
                    f"{store.path} has this request of {call.caller.scope} as another call, or of "
                    "another run, which would lose it: record into another file with --cassette, "
                    "or all anew with --record"
                )
            recorded = None
        call.recorded = recorded
        if recorded is None:
            if self.mode is Mode.REPLAY:
                self.miss(
                    explain_miss(
                        request=call.request,
                        seed=call.seed,
                        scope=call.caller.scope,
                        i=call.i,
                        n=call.n,
                        asked=call.asked,
                        run_seed=self.run_seed,
                        store=store,
                        version_notes=self._version_notes,
                    )
                )
            return
        if self.mode in (Mode.REPLAY, Mode.AUTO):
            self.serve(call, recorded)

    def serve(self, call: PendingCall, recorded: CallRecord) -> None:
        """Answer a call with a recorded one's bytes.

        Raises:
            CassetteDamagedError: The recorded bytes are damaged.
        """
        call.answer = self._require_store().completion_of(recorded)
        if call.asked == recorded.asked:
            call.asked = recorded.asked  # one text for both: a long replay keeps one for each call
        self.ledger.hits += 1
        self._done(call, call.answer, recorded.tokens)

    def settle(
        self, call: PendingCall, completion: Completion, *, prompt_sha256: str | None = None
    ) -> Completion:
        """Take the model's answer: record it, or compare it.

        Args:
            call: The call it answers.
            completion: The answer.
            prompt_sha256: Digest of the rendered prompt.

        Returns:
            What the caller gets: the answer, or in mode ``verify`` the recorded one.

        Raises:
            BackendResponseError: It is no completion; nothing was recorded.
            StrictModeError: It was made with cached tokens.
            CassetteAccessError: It could not be written.
            SessionTripped: Another call has ended the session meanwhile.
        """
        return self._settle(call, Answered(completion, prompt_sha256), source="model")

    async def settle_async(
        self,
        call: PendingCall,
        completion: Completion,
        *,
        prompt_sha256: str | None,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> Completion:
        """As ``settle``, for a program with an event loop, which goes on while the disk writes.

        Args:
            call: The call it answers.
            completion: The answer.
            prompt_sha256: Digest of the rendered prompt.
            in_thread: Runs what blocks beside the event loop.
        """
        answered = Answered(completion, prompt_sha256)
        return await self._settle_async(call, answered, in_thread, source="model")

    async def _settle_async(
        self,
        call: PendingCall,
        answered: Answered,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        source: Source,
    ) -> Completion:
        taken = self._take(call, answered, source=source)
        if taken.staged is not None:
            secure = partial(
                self._answers.secure, call, taken.answered, taken.staged, source=source
            )
            await in_thread(secure)
        return self._keep(taken)

    def _settle(self, call: PendingCall, answered: Answered, *, source: Source) -> Completion:
        taken = self._take(call, answered, source=source)
        if taken.staged is not None:
            self._answers.secure(call, taken.answered, taken.staged, source=source)
        return self._keep(taken)

    def _take(self, call: PendingCall, answered: Answered, *, source: Source) -> _Taken:
        """Judge an answer, and write it or compare it."""
        answered, masked = self._answers.masked(answered)
        completion = answered.completion
        with self._lock:
            self._raise_if_tripped()
            _require_open(call)
            require = require_completion if call.sent.endpoint in SAMPLED else require_answer
            require(completion, url=call.sent.path)
            if self.header.strict and completion.usage.cached:
                raise StrictModeError(
                    f"the backend reused {completion.usage.cached} cached prompt tokens, which "
                    "strict mode rules out: start it with --profile cpu-strict"
                )
            given, staged = completion, None
            if self.mode.writes:
                staged = self._answers.stage(call, answered, masked, source=source)
            elif self.mode is Mode.VERIFY:
                given = self._answers.compare(call, answered)
            return _Taken(call, answered, given, staged, source=source)

    def _keep(self, taken: _Taken) -> Completion:
        """Count a call as answered; what was recorded of it is on the disk."""
        call = taken.call
        with self._lock:
            _require_open(call)
            if taken.staged is not None:
                self._require_store().keep(taken.staged)
            self.ledger.failures.pop(call.id, None)
            if taken.source == "another":
                self.ledger.shared += 1
            elif taken.source == "cache":
                self.ledger.cached += 1
            else:
                self.ledger.called += 1
            self._done(call, taken.given, taken.given.usage.to_json())
        self._leave(call, taken.answered)
        return taken.given

    def fail(self, call: PendingCall, error: BaseException) -> None:
        """Note that a call failed, and free its place for a retry.

        Under ``run`` the session is over.

        Args:
            call: The call.
            error: Why.

        Raises:
            SessionTripped: Under ``run``.
        """
        with self._lock:
            if not call.open:
                return  # it was answered: what failed came after
            call.open = False
            self._places.release(call.caller.scope, call.asked, i=call.i, n=call.n)
            self._leave(call, None)
            failure = Failure(scope=call.caller.scope, i=call.i, why=str(error))
            if not isinstance(error, Exception):
                return  # the user's Ctrl-C, or the session's own end: no failure of the backend
            if isinstance(error, (CassetteAccessError, UsageError)):
                self._cause = error  # ours, not the backend's, whoever catches it
            elif self._tripped is None:
                self.ledger.failures[call.id] = failure
            if self.trips:
                self._fail_session(named(error), shown=str(failure))
                self._raise_if_tripped()

    def perform(
        self,
        request: Request,
        send: Callable[[Request], Completion],
        *,
        render: Callable[[Request], Callable[[], str | None]] | None = None,
    ) -> Completion:
        """Answer a call: from the cassette, or by calling the model.

        Args:
            request: As asked.
            send: Calls the model.
            render: Begins to digest the rendered prompt; asked only when the digest is used.

        Raises:
            ReplayMiss: In replay, the cassette does not hold it.
            BackendError: The call failed; nothing was recorded.
            SessionTripped: The session is over.
        """
        call = self._begin_shared(request)
        if call.answer is not None:
            return call.answer
        with self.failing(call):
            digest = self.digest(call, render)
            return self.settle(call, self.send(call, send), prompt_sha256=digest())

    def digest(
        self, call: PendingCall, render: Callable[[Request], Callable[[], str | None]] | None
    ) -> Callable[[], str | None]:
        """Begin to digest the rendered prompt of a call, where the digest is used."""
        if render is None or self.mode is Mode.LIVE:
            return lambda: None
        return render(call.sent)

    def send(
        self,
        call: PendingCall,
        send: Callable[[Request], _Sent],
        *,
        drop: Callable[[_Sent], None] = lambda _: None,
    ) -> _Sent:
        """Call the model; under ``run`` a hiccup is tried again with the same bytes.

        Args:
            call: The call.
            send: Sends it.
            drop: Lets go of an answer that is not used, and of its connection.

        Raises:
            BackendError: There was no answer.
        """
        for wait_s in self._retry_waits_s if self.trips else ():
            try:
                came = send(call.sent)
            except BackendError as error:
                if not error.transient:
                    raise
            else:
                if came.status != 503:
                    return came
                drop(came)
            time.sleep(wait_s)
        return send(call.sent)

    async def send_async(
        self,
        call: PendingCall,
        send: Callable[[Request], Awaitable[_Sent]],
        *,
        drop: Callable[[_Sent], Awaitable[None]],
        pause: Callable[[float], Awaitable[None]],
    ) -> _Sent:
        """As ``send``, for a program with an event loop, which goes on between two tries.

        Args:
            call: The call.
            send: Sends it.
            drop: Lets go of an answer that is not used, and of its connection.
            pause: Waits for some seconds, while the event loop goes on.
        """
        for wait_s in self._retry_waits_s if self.trips else ():
            try:
                came = await send(call.sent)
            except BackendError as error:
                if not error.transient:
                    raise
            else:
                if came.status != 503:
                    return came
                await drop(came)
            await pause(wait_s)
        return await send(call.sent)

    def _leave(self, call: PendingCall, answered: Answered | None) -> None:
        if call.leads is not None:
            key, call.leads = call.leads, None
            self._in_flight.leave(key, answered)

    def _done(
        self, call: PendingCall, completion: Completion, tokens: Mapping[str, int | None]
    ) -> None:
        call.open = False
        self._places.keep(call.caller.scope)
        self.ledger.used[call.id] = None
        self.ledger.count(call.caller.scope, tokens)
        if self.on_call is not None:
            self.on_call(call, completion)

    def refuse(self, why: str) -> NoReturn:
        """End the session: the program did something that cannot be replayed.

        Args:
            why: One line.

        Raises:
            ReplayMiss: In replay.
            SessionTripped: In other modes.
        """
        with self._lock:
            self._raise_if_tripped()
            if self.mode is Mode.REPLAY:
                self.miss(why)
            error = UsageError(why)
            self._remember(error)
            self._fail_session(error)
            self._raise_if_tripped()
            raise error

    def miss(self, explanation: str) -> NoReturn:
        """End the session: the cassette does not hold what was asked for.

        Args:
            explanation: What is missing, what is nearest, and what to do.

        Raises:
            ReplayMiss: Always.
        """
        miss = ReplayMiss(explanation)
        self.ledger.misses.append(explanation)
        if not self._isolated:
            self._tripped = miss
        raise miss

    def _fail_session(self, error: SwarmReproError, *, shown: str | None = None) -> None:
        if self.trips and self._tripped is None:
            self._cause = error
            self._tripped = SessionTripped(shown or str(error))
            self._tripped.exit_code = error.exit_code

    def _raise_if_tripped(self) -> None:
        if self._tripped is not None:
            raise self._tripped

    def _require_store(self) -> CassetteStore:
        return _present(self._store)

    def in_flight(self) -> dict[str, int]:
        """How many calls of each scope wait for their answer."""
        with self._lock:
            return dict(self._places.in_flight())

    def waiting(self) -> str | None:
        """What is wrong with calls that have begun and not ended, or None."""
        counts = self.in_flight()
        if not counts:
            return None
        scope = min(counts)
        return (
            f"{sum(counts.values())} calls have not ended, the first in scope {scope!r}: wait for "
            "their answers, and read a stream to its end or close it"
        )

    def unplayed(self, expected: Set[CallId]) -> tuple[int, CallRecord | None]:
        """Calls of a recorded run that this session did not ask for.

        Returns:
            How many, and the first in recorded order.
        """
        missing: Set[CallId] = expected - self.ledger.used.keys()
        if self.owner:
            missing = frozenset(call_id for call_id in missing if self.owns(call_id))
        return len(missing), next(self._require_store().in_order(missing), None)

    def close(self) -> None:
        """Let go of the cassette; without a clean end what was recorded stays beside it."""
        if self._store is not None:
            self._store.close()
        self._answers.close()

    def cache_notes(self) -> list[str]:
        """What is to be said of the machine-wide cache once the session is closed, a line each."""
        return self._answers.cache_notes()

    def exit_code(self) -> ExitCode:
        """What the ledger says, whatever surfaced."""
        if self._tripped is not None:
            return self._tripped.exit_code
        if self.cause is not None:
            return self.cause.exit_code
        if self.ledger.misses:
            return ExitCode.MISS
        if self.ledger.failures:
            return ExitCode.BACKEND
        if self.ledger.differences:
            return ExitCode.DIFFERENCE
        return ExitCode.OK


def _require_open(call: PendingCall) -> None:
    if not call.open:
        raise BackendError(
            f"call {call.i} of {call.caller.scope} was given up before its answer came"
        )


def _present(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("a part of the session is missing that its mode needs")
    return value
