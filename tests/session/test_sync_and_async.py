"""One contract for both ways into a session: a thread and an event loop behave alike."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.caller import current_caller, scope
from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    CassetteAccessError,
    ExitCode,
    ReplayMiss,
    RequestError,
    SessionTripped,
)
from swarm_repro.inflight import InFlight
from swarm_repro.intercept.threads import in_thread, in_turn
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.opening import open_session
from swarm_repro.request import Request
from swarm_repro.session import Session
from tests.support.tiny_model import NAME, PATH, TinyModel, completion_of, small_cassette

HEADER = Header(recorder="0.1.0", seed_policy="content", scenario="test")


def body(prompt: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], "model": NAME, **fields}


@dataclass(frozen=True)
class Way:
    """A way into a session: begins a call, and settles one."""

    begin: Callable[..., PendingCall]
    settle: Callable[[Session, PendingCall, Completion, str | None], Completion]

    def ask(self, session: Session, model: TinyModel, prompt: str = "hello", **how: Any) -> str:
        call = self.begin(session, model, prompt, **how)
        if call.answer is not None:
            return call.answer.text
        with session.failing(call):
            digest = session.digest(call, model.render)
            came = session.send(call, model.send)
            return self.settle(session, call, came, digest()).text


def begin_sync(
    session: Session, model: TinyModel, prompt: str = "hello", *, who: str = "alice", **fields: Any
) -> PendingCall:
    with scope(who):
        return session.start(
            model, endpoint="chat", model=NAME, path=PATH, body=body(prompt, **fields)
        )


def begin_async(
    session: Session,
    model: TinyModel,
    prompt: str = "hello",
    *,
    who: str = "alice",
    flow: object = None,
    **fields: Any,
) -> PendingCall:
    async def begin() -> PendingCall:
        with scope(who):
            return await session.start_async(
                model,
                endpoint="chat",
                model=NAME,
                path=PATH,
                body=body(prompt, **fields),
                # A task of its own each time; the id of one that has ended may come again.
                flow=object() if flow is None else flow,
                in_turn=in_turn,
                in_thread=in_thread,
            )

    return asyncio.run(begin())


def settle_sync(
    session: Session, call: PendingCall, completion: Completion, digest: str | None
) -> Completion:
    return session.settle(call, completion, prompt_sha256=digest)


def settle_async(
    session: Session, call: PendingCall, completion: Completion, digest: str | None
) -> Completion:
    return asyncio.run(
        session.settle_async(call, completion, prompt_sha256=digest, in_thread=in_thread)
    )


WAYS = {"sync": Way(begin_sync, settle_sync), "async": Way(begin_async, settle_async)}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


@contextmanager
def opened(
    path: Path, mode: Mode = Mode.RECORD, *, header: Header = HEADER, **options: Any
) -> Iterator[Session]:
    """A session on a cassette; one that writes ends well, unless it has failed."""
    with closing(open_session(path, mode=mode, header=header, seed=7, **options)) as session:
        yield session
        if session.mode.writes and session.tripped is None:
            assert session.store is not None
            session.store.finish(used=session.ledger.used, run=None, keep=mode is Mode.AUTO)


def counts(session: Session) -> dict[str, int]:
    ledger = session.ledger
    return {
        name: count
        for name in ("hits", "called", "shared", "cached", "rejected")
        if (count := getattr(ledger, name))
    }


# --- Record, replay, auto, live, verify.


def test_a_call_is_recorded_with_its_digest_and_replayed_without_the_model(
    way: Way, path: Path
) -> None:
    model, silent = TinyModel(), TinyModel()
    with opened(path) as session:
        answers = [way.ask(session, model, "one"), way.ask(session, model, "two", who="bob")]
        assert counts(session) == {"called": 2}
        assert list(session.ledger.usage) == ["alice", "bob"]
        assert dict(session.ledger.usage["bob"]) == {
            "calls": 1, "prompt_tokens": 5, "completion_tokens": 3,
        }  # fmt: skip
        assert session.waiting() is None
    assert answers == [model.says(sent) for sent in model.sent]
    assert len(set(answers)) == 2
    calls = list(read_cassette(path).calls.values())
    assert {(call.scope, call.i, call.n, call.shared, call.from_cache) for call in calls} == {
        ("alice", 0, 0, False, False),
        ("bob", 0, 0, False, False),
    }
    assert {call.prompt_sha256 for call in calls} == {model.render(r)() for r in model.sent}
    with opened(path, Mode.REPLAY) as session:
        again = [way.ask(session, silent, "one"), way.ask(session, silent, "two", who="bob")]
        assert counts(session) == {"hits": 2}
    assert again == answers
    assert silent.sent == []


def test_a_replay_gives_the_recorded_answer_before_anything_is_sent(way: Way, path: Path) -> None:
    small_cassette(path)
    with opened(path, Mode.REPLAY) as session:
        call = way.begin(session, TinyModel(), "hello", who="bob")
        assert call.answer is not None
        assert not call.open
        assert session.waiting() is None
        assert session.exit_code() is ExitCode.OK


def test_auto_replays_what_is_there_and_records_the_rest(way: Way, path: Path) -> None:
    with opened(path) as session:
        old = way.ask(session, TinyModel(), "one")
    model = TinyModel(wording="new")
    with opened(path, Mode.AUTO) as session:
        assert way.ask(session, model, "one") == old
        assert way.ask(session, model, "two").startswith("new ")
        assert counts(session) == {"hits": 1, "called": 1}
    assert len(model.sent) == 1
    assert len(read_cassette(path).calls) == 2


def test_live_calls_and_stores_nothing(way: Way, path: Path) -> None:
    model = TinyModel()
    with opened(path, Mode.LIVE) as session:
        way.ask(session, model, "one")
        assert counts(session) == {"called": 1}
    assert list(path.parent.iterdir()) == []


def test_verify_gives_the_recorded_answer_and_notes_what_differs(way: Way, path: Path) -> None:
    with opened(path) as session:
        recorded = way.ask(session, TinyModel(), "one")
    with opened(path, Mode.VERIFY) as session:
        assert way.ask(session, TinyModel(), "one") == recorded
        assert session.ledger.differences == []
        assert way.ask(session, TinyModel(wording="other"), "two").startswith("other ")
        assert session.ledger.differences == ["call 1 of alice: not in the cassette"]
        assert session.exit_code() is ExitCode.DIFFERENCE
    with opened(path, Mode.VERIFY) as session:
        assert way.ask(session, TinyModel(wording="other"), "one") == recorded
        (difference,) = session.ledger.differences
        assert difference.startswith("call 0 of alice: completion, character 0: recorded ")
        (verified,) = session.ledger.verified
        assert verified.answer.text.startswith("other ")
        assert not verified.prompt_differs


def test_a_miss_ends_the_replay_whatever_is_asked_after_it(way: Way, path: Path) -> None:
    small_cassette(path)
    with opened(path, Mode.REPLAY) as session:
        with pytest.raises(ReplayMiss, match="is not in"):
            way.ask(session, TinyModel(), "unheard of")
        with pytest.raises(ReplayMiss):
            way.ask(session, TinyModel(), "hello", who="bob")
        assert session.exit_code() is ExitCode.MISS
        assert len(session.ledger.misses) == 1
        assert counts(session) == {}


def test_an_unknown_model_is_a_miss(way: Way, path: Path) -> None:
    with opened(path):
        pass
    with opened(path, Mode.REPLAY) as session, pytest.raises(ReplayMiss) as caught:
        way.ask(session, TinyModel(), "hello")
    assert "knows no model 'tiny' (it knows: none)" in str(caught.value)


def test_calls_that_were_not_asked_for_are_left_over(way: Way, path: Path) -> None:
    with opened(path) as session:
        for prompt in ("one", "two"):
            way.ask(session, TinyModel(), prompt)
    with opened(path, Mode.REPLAY) as session:
        assert session.store is not None
        way.ask(session, TinyModel(), "two")
        count, first = session.unplayed(session.store.ids())
        assert first is not None
        assert (count, first.i) == (1, 0)
        way.ask(session, TinyModel(), "one")
        assert session.unplayed(session.store.ids()) == (0, None)


def test_the_callers_seed_and_scope_and_kind_are_those_of_the_call(way: Way, path: Path) -> None:
    model = TinyModel()
    with opened(path, header=Header(recorder="0.1.0", seed_policy="as-is")) as session:
        way.ask(session, model, "one", seed=5, who="carol")
        way.ask(session, model, "one", who="carol")
    assert [sent.seed for sent in model.sent] == [5, None]
    calls = read_cassette(path).calls.values()
    assert [(call.scope, call.i, call.n, call.asked_seed) for call in calls] == [
        ("carol", 0, 0, 5),
        ("carol", 1, 0, None),
    ]


# --- What fails.


def test_a_failed_call_takes_no_place_and_its_retry_is_recorded(way: Way, path: Path) -> None:
    bad = Completion(500, "application/json", b"{}")
    model = TinyModel(trouble=lambda number: bad if number == 0 else None)
    with opened(path) as session:
        with pytest.raises(BackendResponseError, match="HTTP 500"):
            way.ask(session, model, "one")
        assert session.exit_code() is ExitCode.BACKEND
        assert session.waiting() is None
        way.ask(session, model, "one")
        assert session.exit_code() is ExitCode.OK
        assert session.ledger.failures == {}
        assert counts(session) == {"called": 1}
    assert [(call.i, call.n) for call in read_cassette(path).calls.values()] == [(0, 0)]


def test_a_failed_call_under_run_ends_the_session(way: Way, path: Path) -> None:
    model = TinyModel(trouble=lambda _number: Completion(500, "application/json", b"{}"))
    with opened(path) as session:
        session.trips = True
        with pytest.raises(SessionTripped, match=r"call 0 of alice: .*HTTP 500"):
            way.ask(session, model, "one")
        with pytest.raises(SessionTripped):
            way.ask(session, model, "two")
        assert session.exit_code() is ExitCode.BACKEND
    assert len(model.sent) == 1


def test_an_answer_after_the_call_was_given_up_is_not_taken(way: Way, path: Path) -> None:
    with opened(path) as session:
        call = way.begin(session, TinyModel(), "one")
        session.fail(call, BackendError("timed out"))
        with pytest.raises(BackendError, match="call 0 of alice was given up before its answer"):
            way.settle(session, call, completion_of("late"), None)
        assert counts(session) == {}
        assert session.ledger.used == {}
        assert list(session.ledger.failures) == [call.id]
    assert read_cassette(path).calls == {}


def test_a_request_without_a_key_is_refused_and_not_forgotten(way: Way, path: Path) -> None:
    with opened(path) as session:
        with pytest.raises(RequestError):
            way.ask(session, TinyModel(), "one", odd=float("nan"))
        assert session.exit_code() is ExitCode.USAGE
        assert session.waiting() is None


def test_a_cassette_that_cannot_be_written_is_no_failure_of_the_backend(
    way: Way, path: Path
) -> None:
    with closing(open_session(path, mode=Mode.RECORD, header=HEADER, seed=7)) as session:
        call = way.begin(session, TinyModel(), "one")
        assert session.store is not None
        session.store.close()
        with pytest.raises(CassetteAccessError), session.failing(call):
            way.settle(session, call, completion_of("fine"), None)
        assert session.exit_code() is ExitCode.USAGE
        assert isinstance(session.cause, CassetteAccessError)
        assert session.ledger.failures == {}
        assert counts(session) == {}


def test_an_answer_is_on_the_disk_before_it_counts(way: Way, path: Path) -> None:
    with opened(path) as session:
        seen: list[int] = []

        def look(_call: PendingCall, _completion: Completion) -> None:
            found = read_part(part_path(path))
            assert found is not None
            seen.append(len(found.cassette.calls))

        session.on_call = look
        way.ask(session, TinyModel(), "one")
        way.ask(session, TinyModel(), "two")
        assert seen == [1, 2]


# --- The machine-wide cache.


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_a_second_recording_takes_answers_from_the_cache(way: Way, tmp_path: Path) -> None:
    model = TinyModel()
    with opened(tmp_path / "a.jsonl", cache=True) as session:
        known = way.ask(session, model, "one")
        assert counts(session) == {"called": 1}
    again = TinyModel(wording="another")
    with opened(tmp_path / "b.jsonl", cache=True) as session:
        call = way.begin(session, again, "one")
        assert call.answer is not None
        assert call.answer.text == known
        assert not call.open
        assert counts(session) == {"cached": 1}
        assert dict(session.ledger.usage["alice"])["calls"] == 1
        assert session.waiting() is None
        assert way.ask(session, again, "two").startswith("another ")
        assert counts(session) == {"cached": 1, "called": 1}
    recorded = list(read_cassette(tmp_path / "b.jsonl").calls.values())
    assert [(call.from_cache, call.shared) for call in recorded] == [(True, False), (False, False)]
    assert recorded[0].prompt_sha256 == model.render(model.sent[0])()


@pytest.mark.usefixtures("own_cache")
def test_fresh_answers_are_asked_for_and_kept(way: Way, tmp_path: Path) -> None:
    for wording, fresh, expected, counted in (
        ("old", False, "old ", {"called": 1}),
        ("new", True, "new ", {"called": 1}),
        ("newest", False, "new ", {"cached": 1}),
    ):
        with opened(tmp_path / f"{wording}.jsonl", cache=True, fresh=fresh) as session:
            assert way.ask(session, TinyModel(wording=wording), "one").startswith(expected)
            assert counts(session) == counted


@pytest.mark.usefixtures("own_cache")
def test_replayed_calls_are_not_looked_up_in_the_cache(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with opened(path, cache=True) as session:
        way.ask(session, TinyModel(), "one")
    with opened(path, Mode.AUTO, cache=True) as session:
        way.ask(session, TinyModel(), "one")
        assert counts(session) == {"hits": 1}
    with opened(tmp_path / "b.jsonl", Mode.AUTO, cache=True) as session:
        way.ask(session, TinyModel(), "one")
        assert counts(session) == {"cached": 1}


@pytest.mark.usefixtures("own_cache")
def test_a_cached_answer_that_cannot_be_recorded_fails_its_call(way: Way, tmp_path: Path) -> None:
    with opened(tmp_path / "a.jsonl", cache=True) as session:
        way.ask(session, TinyModel(), "one")
    session = open_session(
        tmp_path / "b.jsonl", mode=Mode.RECORD, header=HEADER, seed=7, cache=True
    )
    with closing(session):
        way.begin(session, TinyModel(), "other")  # so that the model is known
        assert session.store is not None
        session.store.close()
        with pytest.raises(CassetteAccessError):
            way.begin(session, TinyModel(), "one")
        assert sum(session.in_flight().values()) == 1
        assert session.exit_code() is ExitCode.USAGE


# --- Identical calls at once. The follower waits in a thread, or in a task of a loop in a thread.


class Joins:
    """Counts by thread how often it looked for an identical call in flight."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counts: Counter[int | None] = Counter()
        self._changed = threading.Condition()
        original = InFlight.join

        def join(in_flight: InFlight, *args: Any) -> Any:
            found = original(in_flight, *args)
            with self._changed:
                self._counts[threading.get_ident()] += 1
                self._changed.notify_all()
            return found

        monkeypatch.setattr(InFlight, "join", join)

    def wake(self, _future: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, thread: threading.Thread, times: int, future: Future[PendingCall]) -> None:
        """Until the thread waits for what it found, or has ended."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: future.done() or self._counts[thread.ident] >= times, timeout=20
            )


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> Joins:
    return Joins(monkeypatch)


class Follower:
    """Begins a call in a thread of its own; made when it waits for the one in flight, if any."""

    def __init__(
        self, joins: Joins, way: Way, session: Session, prompt: str = "same", **how: Any
    ) -> None:
        self.future: Future[PendingCall] = Future()
        self.future.add_done_callback(joins.wake)
        self._joins = joins

        def begin() -> None:
            try:
                self.future.set_result(way.begin(session, TinyModel(), prompt, **how))
            except BaseException as error:  # noqa: BLE001 - raised where the result is taken
                self.future.set_exception(error)

        self._thread = threading.Thread(target=begin, daemon=True)
        self._thread.start()
        self.wait_for_joins(1)

    def wait_for_joins(self, times: int) -> None:
        self._joins.wait(self._thread, times, self.future)

    def call(self) -> PendingCall:
        found = self.future.result(20)
        self._thread.join()
        return found


def test_a_follower_takes_the_answer_of_a_leader_that_succeeds(
    way: Way, path: Path, joins: Joins
) -> None:
    with opened(path) as session:
        leader = way.begin(session, TinyModel(), "same", seed=3)
        followers = [Follower(joins, way, session, seed=3, who=who) for who in ("bob", "carol")]
        way.settle(session, leader, completion_of("the answer"), "digest")
        for waiting in followers:
            call = waiting.call()
            assert call.answer is not None
            assert call.answer.text == "the answer"
            assert not call.open
        assert counts(session) == {"called": 1, "shared": 2}
        assert session.waiting() is None
    calls = read_cassette(path).calls.values()
    assert {(call.scope, call.shared, call.prompt_sha256) for call in calls} == {
        ("alice", False, "digest"),
        ("bob", True, "digest"),
        ("carol", True, "digest"),
    }


def test_a_follower_of_a_leader_that_fails_asks_by_itself(
    way: Way, path: Path, joins: Joins
) -> None:
    with opened(path) as session:
        leader = way.begin(session, TinyModel(), "same", seed=3)
        waiting = Follower(joins, way, session, seed=3, who="bob")
        session.fail(leader, BackendError("timed out"))
        call = waiting.call()
        assert call.answer is None
        assert call.open
        way.settle(session, call, completion_of("asked by itself"), None)
        assert counts(session) == {"called": 1}
        assert list(session.ledger.failures) == [leader.id]
    (recorded,) = read_cassette(path).calls.values()
    assert (recorded.scope, recorded.shared) == ("bob", False)


def test_after_a_leader_failed_one_follower_leads_the_others(
    way: Way, path: Path, joins: Joins
) -> None:
    with opened(path) as session:
        leader = way.begin(session, TinyModel(), "same", seed=3)
        waiting = [Follower(joins, way, session, seed=3, who=who) for who in ("bob", "carol")]
        session.fail(leader, BackendError("timed out"))
        for one in waiting:
            one.wait_for_joins(2)
        futures.wait([one.future for one in waiting], 20, futures.FIRST_COMPLETED)
        first, second = sorted(waiting, key=lambda one: not one.future.done())
        way.settle(session, first.call(), completion_of("the second try"), None)
        answer = second.call().answer
        assert answer is not None
        assert answer.text == "the second try"
        assert counts(session) == {"called": 1, "shared": 1}


def test_nobody_waits_for_a_call_without_a_seed_or_with_another(
    way: Way, path: Path, joins: Joins
) -> None:
    with opened(path, header=Header(recorder="0.1.0", seed_policy="as-is")) as session:
        calls = [
            Follower(joins, way, session, who=who, seed=seed, top_k=top_k).call()
            for who, seed, top_k in (
                ("a", None, 1),
                ("b", None, 1),
                ("c", 3, 1),
                ("d", 4, 1),
                ("e", 3, 2),
            )
        ]
        for call in calls:
            assert call.answer is None
            way.settle(session, call, completion_of("fine"), None)
        assert counts(session) == {"called": 5}


@pytest.mark.parametrize("name", WAYS)
def test_a_caller_does_not_wait_for_its_own_open_call(name: str, path: Path) -> None:
    flow = {"flow": "one task"} if name == "async" else {}
    way = WAYS[name]
    with opened(path) as session:
        first, second = (way.begin(session, TinyModel(), "same", seed=3, **flow) for _ in range(2))
        assert (first.answer, second.answer) == (None, None)
        way.settle(session, second, completion_of("two"), None)
        way.settle(session, first, completion_of("one"), None)
        assert counts(session) == {"called": 2}
        # Nothing is in flight any more: the next one asks as well.
        assert way.begin(session, TinyModel(), "same", seed=3).answer is None


def test_nobody_waits_while_verifying(way: Way, path: Path, joins: Joins) -> None:
    with opened(path) as session:
        way.ask(session, TinyModel(), "same", seed=3)
    with opened(path, Mode.VERIFY) as session:
        first = way.begin(session, TinyModel(), "same", seed=3)
        second = Follower(joins, way, session, seed=3, who="bob").call()
        assert first.answer is None
        assert second.answer is None


def test_a_follower_that_cannot_be_recorded_fails_alone(way: Way, path: Path, joins: Joins) -> None:
    """As when the session ends while it waits."""
    with opened(path) as session:
        leader = way.begin(session, TinyModel(), "same", seed=3)
        waiting = Follower(joins, way, session, seed=3, who="bob")
        session.trips = True
        with pytest.raises(SessionTripped, match="call 0 of alice: no"):
            session.fail(leader, BackendError("no"))
        # The one who waited asks by itself, and learns that the session is over.
        call = waiting.call()
        with pytest.raises(SessionTripped, match="call 0 of alice: no"), session.failing(call):
            way.settle(session, call, completion_of("late"), None)
        assert session.waiting() is None
        assert counts(session) == {}


# --- What only an event loop has.


def start_async(
    session: Session,
    model: TinyModel,
    *,
    in_turn: Callable[[Callable[[], Any]], Awaitable[Any]],
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> PendingCall:
    begun = session.start_async(
        model,
        endpoint="chat",
        model=NAME,
        path=PATH,
        body=body("one"),
        flow=1,
        in_turn=in_turn,
        in_thread=in_thread,
    )
    return asyncio.run(begun)


async def at_once(work: Callable[[], Any]) -> Any:
    return work()


async def never(_work: Callable[[], Any]) -> Any:
    raise AssertionError("a thread for what does not block")


def test_the_model_is_asked_who_it_is_in_turn_and_a_replay_needs_no_thread(path: Path) -> None:
    seen: list[str] = []

    async def noted(work: Callable[[], Any]) -> Any:
        seen.append(current_caller().scope)
        return work()

    with opened(path) as session:
        call = start_async(session, TinyModel(), in_turn=noted, in_thread=never)
        assert seen == ["main"]
        asyncio.run(
            session.settle_async(call, completion_of("fine"), prompt_sha256=None, in_thread=at_once)
        )
    with opened(path, Mode.REPLAY) as session:
        call = start_async(session, TinyModel(), in_turn=never, in_thread=never)
        assert call.answer is not None


def test_nothing_waits_for_a_disk_where_nothing_is_written() -> None:
    with closing(Session(mode=Mode.LIVE, header=HEADER)) as session:
        call = start_async(session, TinyModel(), in_turn=at_once, in_thread=never)
        given = asyncio.run(
            session.settle_async(call, completion_of("fine"), prompt_sha256=None, in_thread=never)
        )
        assert given.text == "fine"


def test_waiting_for_the_disk_does_not_hold_the_event_loop(path: Path) -> None:
    """Else every other task stood still for as long as a disk takes."""
    threads: list[bool] = []

    async def noted(work: Callable[[], Any]) -> Any:
        def run() -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return work()

        return await in_thread(run)

    with opened(path) as session:
        call = start_async(session, TinyModel(), in_turn=at_once, in_thread=never)
        asyncio.run(
            session.settle_async(call, completion_of("fine"), prompt_sha256=None, in_thread=noted)
        )
        assert threads == [False]
        assert counts(session) == {"called": 1}


# --- Seeds and fields of the caller.


def test_the_callers_own_seed_goes_out_with_calls_that_have_none(way: Way, path: Path) -> None:
    model = TinyModel()

    def ask_with(scoped: int | None, **fields: Any) -> None:
        async def begin() -> PendingCall:
            with scope("alice", seed=scoped):
                return await session.start_async(
                    model, endpoint="chat", model=NAME, path=PATH, body=body("x", **fields),
                    flow=object(), in_turn=in_turn, in_thread=in_thread,
                )  # fmt: skip

        if way is WAYS["async"]:
            call = asyncio.run(begin())
        else:
            with scope("alice", seed=scoped):
                call = session.start(
                    model, endpoint="chat", model=NAME, path=PATH, body=body("x", **fields)
                )
        way.settle(session, call, session.send(call, model.send), None)

    with opened(path, header=Header(recorder="0.1.0", seed_policy="as-is")) as session:
        ask_with(9)
        ask_with(0)
        ask_with(9, seed=5)
        ask_with(9, seed=None)
        ask_with(None)
    assert [sent.body.get("seed") for sent in model.sent] == [9, 0, 5, 9, None]


def test_fields_and_seeds_are_set_only_on_calls_that_sample(path: Path) -> None:
    rules = (RequestRule({}, {"top_k": 1}),)
    header = Header(recorder="0.1.0", seed_policy="event", strict=True, requests=rules)
    sent: list[dict[str, object]] = []

    class Drawing(TinyModel):
        def send(self, request: Request) -> Completion:
            sent.append(dict(request.body))
            return completion_of("fine")

        def render(self, _request: Request) -> Callable[[], str | None]:
            return lambda: None

    model = Drawing()
    with opened(path, header=header) as session, scope("alice", seed=4):
        for endpoint, asked in (
            ("chat", {"messages": []}),
            ("completion", {"prompt": "x"}),
            ("embedding", {"input": "x"}),
        ):
            session.call(model, endpoint=endpoint, model=NAME, path="/x", body=asked)  # type: ignore[arg-type]
    set_fields = {"seed": 4, "cache_prompt": False, "top_k": 1}
    assert sent == [{"messages": [], **set_fields}, {"prompt": "x", **set_fields}, {"input": "x"}]


@pytest.mark.parametrize(
    ("scoped", "default", "own", "expected"),
    [(None, 3, None, 3), (4, 3, None, 4), (4, 3, 5, 5), (0, 3, None, 0), (None, None, None, None)],
)
def test_a_default_seed_is_the_last_resort(
    scoped: int | None, default: int | None, own: int | None, expected: int | None, path: Path
) -> None:
    model = TinyModel()
    asked = body("x") if own is None else body("x", seed=own)
    with (
        opened(path, header=Header(recorder="0.1.0", seed_policy="as-is")) as session,
        scope("alice", seed=scoped),
    ):
        session.call(
            model, endpoint="chat", model=NAME, path=PATH, body=asked, default_seed=default
        )
    assert [sent.body.get("seed") for sent in model.sent] == [expected]
    (call,) = read_cassette(path).calls.values()
    assert call.prompt_sha256 is not None
