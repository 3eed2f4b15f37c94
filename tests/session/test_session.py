"""The one decision: what each mode does with a call, and what ends a session."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from swarm_repro.caller import calling_for, scope
from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.cassette.part import part_path, read_part
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    BackendUnreachableError,
    ExitCode,
    ModelConflictError,
    ReplayMiss,
    RequestError,
    SessionTripped,
    StrictModeError,
    UsageError,
)
from swarm_repro.ledger import PendingCall
from swarm_repro.mode import Mode
from swarm_repro.request import Request, content_seed, event_seed
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    chat,
    completion_of,
    make_binding,
    make_environment,
    recording,
    replaying,
    small_cassette,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def live(header: Header = HEADER, *, trips: bool = False, run_seed: int = 7) -> Session:
    return Session(mode=Mode.LIVE, header=header, run_seed=run_seed, trips=trips)


def raising(error: BaseException, *, at: int = 0) -> Callable[[int], Completion | None]:
    def trouble(number: int) -> None:
        if number == at:
            raise error

    return trouble


# --- Replay.


def test_a_replay_gives_the_recorded_bytes_and_calls_nothing(path: Path) -> None:
    model = TinyModel()
    with recording(path) as session:
        answers = [ask(session, model, "hello") for _ in range(3)]
    silent = TinyModel(trouble=raising(AssertionError("called")))
    replay = replaying(path)
    assert [ask(replay, silent, "hello") for _ in range(3)] == [
        Completion(a.status, a.content_type, a.body, round(a.duration_s, 6)) for a in answers
    ]
    assert len({answer.body for answer in answers}) == 3, "repeats never collapse"
    assert silent.sent == []
    assert (replay.ledger.hits, replay.ledger.called, replay.exit_code()) == (3, 0, ExitCode.OK)


def test_a_replay_asks_no_backend_which_model_it_is(path: Path) -> None:
    small_cassette(path)

    class Absent(TinyModel):
        def identify(self, name: str):  # type: ignore[no-untyped-def]
            raise AssertionError(name)

        def check_strict(self) -> None:
            raise AssertionError("asked")

    ask(replaying(path), Absent(), "hello", who="bob")


def test_calls_left_unplayed_are_listed_in_recorded_order(path: Path) -> None:
    small_cassette(path)
    replay = replaying(path)
    store = replay.store
    assert store is not None
    expected = store.runs()[0].calls
    count, first = replay.unplayed(expected)
    assert first is not None
    assert (count, first.scope, first.i) == (3, "alice", 0)
    ask(replay, TinyModel(), LONG)
    count, first = replay.unplayed(expected)
    assert first is not None
    assert (count, first.scope, first.i) == (2, "alice", 1)
    ask(replay, TinyModel(), "hello")
    ask(replay, TinyModel(), "hello", who="bob")
    assert replay.unplayed(expected) == (0, None)


def test_a_replay_with_another_run_seed_misses(path: Path) -> None:
    small_cassette(path)
    with pytest.raises(ReplayMiss, match="run seed is not 8"):
        ask(replaying(path, run_seed=8), TinyModel(), "hello", who="bob")


def test_a_replay_of_an_explicit_seed_does_not_depend_on_the_run_seed(path: Path) -> None:
    with recording(path) as session:
        answer = ask(session, TinyModel(), seed=5)
    assert ask(replaying(path, run_seed=8), TinyModel(), seed=5).body == answer.body


@pytest.mark.parametrize("change", ["prompt", "scope", "field", "more often", "model"])
def test_what_was_not_recorded_is_a_miss(change: str, path: Path) -> None:
    small_cassette(path)
    replay = replaying(path)
    model = TinyModel()
    if change == "model":
        model.binding = make_binding(name="other")
    if change == "more often":
        ask(replay, model, "hello", who="bob")
    with pytest.raises(ReplayMiss):
        ask(
            replay,
            model,
            "hello!" if change == "prompt" else "hello",
            who="carol" if change == "scope" else "bob",
            **({"top_k": 1} if change == "field" else {}),
        )
    assert model.sent == []


def test_the_model_comes_from_the_cassette_and_not_from_the_backend(path: Path) -> None:
    small_cassette(path)
    other = TinyModel(binding=make_binding(weights="f" * 64))
    ask(replaying(path), other, "hello", who="bob")


# --- Tripping.


def test_a_miss_under_run_ends_every_later_call_at_once_though_it_was_swallowed(path: Path) -> None:
    small_cassette(path)
    replay = replaying(path, trips=True)
    with pytest.raises(ReplayMiss) as first:
        ask(replay, TinyModel(), "unheard of")
    for _ in range(3):
        with pytest.raises(ReplayMiss) as later:
            ask(replay, TinyModel(), "hello", who="bob")  # recorded, and still refused
        assert later.value is first.value
    for ended in (
        lambda: replay.begin(chat("hello")),
        lambda: replay.perform(chat("hello"), TinyModel().send),
        lambda: replay.refuse("something else"),
    ):
        with pytest.raises(ReplayMiss) as later:
            ended()
        assert later.value is first.value
    assert replay.exit_code() is ExitCode.MISS
    assert replay.ledger.hits == 0


def test_an_answer_that_comes_after_the_session_ended_is_not_recorded(path: Path) -> None:
    with recording(path, header=policy("content"), trips=True) as session:
        late, failing = overlap(session)
        with pytest.raises(SessionTripped):
            session.fail(failing, BackendError("no"))
        with pytest.raises(SessionTripped):
            session.settle(late, completion_of("late"))
    assert b'"record":"call"' not in part_path(path).read_bytes()


def test_a_miss_is_no_exception_that_an_agent_catches(path: Path) -> None:
    assert not issubclass(ReplayMiss, Exception)
    small_cassette(path)

    def agent() -> str:
        try:
            return ask(replaying(path), TinyModel(), "unheard of").text
        except Exception:  # noqa: BLE001 - what simulated agents do
            return "NOOP"

    with pytest.raises(ReplayMiss):
        agent()


@pytest.mark.parametrize("kind", ["call", "model"])
def test_a_swallowed_miss_is_in_the_exit_code_outside_run_too(kind: str, path: Path) -> None:
    small_cassette(path)
    replay = replaying(path)
    model = TinyModel()
    if kind == "model":
        model.binding = make_binding(name="other")
    with pytest.raises(ReplayMiss):
        ask(replay, model, "unheard of")
    assert replay.exit_code() is ExitCode.MISS


def test_a_failed_call_under_run_ends_the_session_with_4(path: Path) -> None:
    model = TinyModel(trouble=raising(BackendResponseError("HTTP 500", status=500), at=1))
    with recording(path, trips=True) as session:
        ask(session, model, "one")
        with pytest.raises(SessionTripped, match="call 1 of alice: HTTP 500") as first:
            ask(session, model, "two")
        for _ in range(2):
            with pytest.raises(SessionTripped) as later:
                ask(session, model, "three")
            assert later.value is first.value
    assert session.exit_code() is ExitCode.BACKEND
    assert isinstance(session.cause, BackendResponseError)
    assert [str(f) for f in session.ledger.failures.values()] == ["call 1 of alice: HTTP 500"]
    assert len(model.sent) == 2
    assert not path.exists()
    found = read_part(part_path(path))
    assert found is not None
    assert len(found.cassette.calls) == 1


@pytest.mark.parametrize("error", [ValueError("x"), OSError("y"), BackendError("z")])
def test_a_foreign_error_of_a_call_counts_as_the_backends(error: Exception) -> None:
    session = live(trips=True)
    with pytest.raises(SessionTripped):
        ask(session, TinyModel(trouble=raising(error)))
    assert session.exit_code() is ExitCode.BACKEND


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), SystemExit(3)])
def test_an_interrupt_is_no_failure_of_the_backend(error: BaseException) -> None:
    session = live(trips=True)
    with pytest.raises(type(error)):
        ask(session, TinyModel(trouble=raising(error)))
    assert session.ledger.failures == {}
    assert session.exit_code() is ExitCode.OK
    assert ask(session, TinyModel()).status == 200


def test_a_request_without_key_under_run_ends_the_session_with_2(path: Path) -> None:
    with recording(path, trips=True) as session:
        with pytest.raises(RequestError):
            ask(session, TinyModel(), odd=float("nan"))
        with pytest.raises(SessionTripped):
            ask(session, TinyModel())
    assert session.exit_code() is ExitCode.USAGE


def test_what_cannot_be_replayed_is_refused(path: Path) -> None:
    small_cassette(path)
    with pytest.raises(ReplayMiss, match="GET"):
        replaying(path).refuse("GET /nonsense")
    session = live()
    with pytest.raises(UsageError, match="GET"):
        session.refuse("GET /nonsense")
    session = live(trips=True)
    with pytest.raises(SessionTripped, match="GET"):
        session.refuse("GET /nonsense")
    assert session.exit_code() is ExitCode.USAGE


# --- Outside run the caller may retry.


def test_a_failed_call_outside_run_surfaces_as_it_came_and_a_retry_takes_its_place(
    path: Path,
) -> None:
    error = BackendResponseError("HTTP 500", status=500)
    model = TinyModel(trouble=raising(error, at=1))
    with recording(path) as session:
        ask(session, model, "hello")
        with pytest.raises(BackendResponseError) as caught:
            ask(session, model, "hello")
        assert caught.value is error
        assert session.exit_code() is ExitCode.BACKEND
        ask(session, model, "hello")
        ask(session, model, "hello")
        assert session.exit_code() is ExitCode.OK, "only calls that never succeeded count"
    failed, retried = model.sent[1], model.sent[2]
    assert dict(failed.body) == dict(retried.body), "the retry sends the same bytes, seed included"
    calls = list(read_cassette(path).calls.values())
    assert [(call.i, call.n) for call in calls] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    "answer",
    [
        Completion(500, "application/json", b"{}"),
        Completion(400, "application/json", b'{"error":"no"}'),
        Completion(200, "application/json", b'{"choices":['),
        Completion(200, "application/json", b'{"error":"no"}'),
        Completion(200, "text/event-stream", b"data: {}\n\n"),
    ],
)
def test_an_answer_that_is_no_completion_is_never_stored(answer: Completion, path: Path) -> None:
    model = TinyModel(trouble=lambda number: answer if number == 0 else None)
    with recording(path) as session:
        with pytest.raises(BackendResponseError):
            ask(session, model, "bad")
        ask(session, model, "good")
        assert session.exit_code() is ExitCode.BACKEND
        assert session.ledger.called == 1
    (call,) = read_cassette(path).calls.values()
    assert (call.i, call.completion.text) == (0, model.says(model.sent[1]))


def test_an_answer_that_comes_after_its_call_failed_is_not_stored(path: Path) -> None:
    with recording(path) as session, scope("alice"):
        session.bind("tiny", TinyModel())
        late = session.begin(chat("hello"))
        session.fail(late, BackendError("timed out"))
        retry = session.begin(chat("hello"))
        assert (retry.i, retry.n) == (late.i, late.n)
        with pytest.raises(BackendError):
            session.settle(late, completion_of("too late"))
        session.settle(retry, completion_of("in time"))
    assert [call.completion.text for call in read_cassette(path).calls.values()] == ["in time"]


def test_a_callers_progress_that_fails_does_not_free_a_recorded_calls_place(path: Path) -> None:
    store = open_for_recording(path, HEADER, keep=False)

    def progress(call: PendingCall, _completion: Completion) -> None:
        if call.i == 0:
            raise ValueError("no terminal")

    session = Session(mode=Mode.RECORD, header=HEADER, store=store, on_call=progress)
    model = TinyModel()
    with closing(store):
        with pytest.raises(ValueError, match="terminal"):
            ask(session, model)
        ask(session, model)
    found = read_part(part_path(path))
    assert found is not None
    assert [(call.i, call.n) for call in found.cassette.calls.values()] == [(0, 0), (1, 1)]


def test_a_callers_progress_that_fails_on_a_hit_does_not_free_its_place(path: Path) -> None:
    with recording(path) as session:
        for _ in range(2):
            ask(session, TinyModel())
    store = open_for_replay(path)

    def progress(call: PendingCall, _completion: Completion) -> None:
        if call.i == 0:
            raise ValueError("no terminal")

    replay = Session(
        mode=Mode.REPLAY, header=store.header, store=store, run_seed=7, on_call=progress
    )
    with pytest.raises(ValueError, match="terminal"):
        ask(replay, TinyModel())
    ask(replay, TinyModel())
    assert sorted(call_id[2] for call_id in replay.ledger.used) == [0, 1]


# --- Hiccups.


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("swarm_repro.session.time", SimpleNamespace(sleep=waited.append))
    return waited


HICCUPS: list[Callable[[], Completion]] = [
    lambda: Completion(503, "application/json", b'{"error":"loading"}'),
    lambda: (_ for _ in ()).throw(BackendUnreachableError("refused")),
]


@pytest.mark.parametrize("hiccup", HICCUPS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_hiccup_under_run_is_tried_again_with_the_same_bytes(
    hiccup: Callable[[], Completion], times: int, no_waiting: list[float], path: Path
) -> None:
    model = TinyModel(trouble=lambda number: hiccup() if number < times else None)
    with recording(path, trips=True) as session:
        ask(session, model)
    assert session.exit_code() is ExitCode.OK
    assert len(model.sent) == times + 1
    assert all(request is model.sent[0] for request in model.sent)
    assert len(no_waiting) == times
    assert no_waiting == sorted(no_waiting)
    (call,) = read_cassette(path).calls.values()
    assert (call.i, call.n, call.completion.status) == (0, 0, 200)


@pytest.mark.parametrize("hiccup", HICCUPS)
def test_a_hiccup_that_lasts_ends_the_run_with_4(
    hiccup: Callable[[], Completion], no_waiting: list[float], path: Path
) -> None:
    model = TinyModel(trouble=lambda _number: hiccup())
    with recording(path, trips=True) as session, pytest.raises(SessionTripped):
        ask(session, model)
    assert session.exit_code() is ExitCode.BACKEND
    assert len(model.sent) == len(no_waiting) + 1 == 4
    assert not path.exists()


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502])
def test_other_answers_are_not_tried_again(status: int, no_waiting: list[float]) -> None:
    model = TinyModel(trouble=lambda _number: Completion(status, "application/json", b"{}"))
    with pytest.raises(SessionTripped):
        ask(live(trips=True), model)
    assert len(model.sent) == 1
    assert no_waiting == []


@pytest.mark.parametrize("hiccup", HICCUPS)
def test_outside_run_a_hiccup_is_the_callers(
    hiccup: Callable[[], Completion], no_waiting: list[float]
) -> None:
    model = TinyModel(trouble=lambda _number: hiccup())
    with pytest.raises(BackendError):
        ask(live(), model)
    assert len(model.sent) == 1
    assert no_waiting == []


# --- Seeds.


def policy(name: str, **settings: object) -> Header:
    return Header(recorder="0.1.0", scenario="test", seed_policy=name, **settings)  # type: ignore[arg-type]


def test_under_event_a_seed_follows_from_run_seed_scope_and_ordinal_alone() -> None:
    model = TinyModel()
    session = live()
    for who, prompt in (("alice", "x"), ("bob", "x"), ("alice", "y"), ("alice", "x")):
        ask(session, model, prompt, who=who)
    assert [request.seed for request in model.sent] == [
        event_seed(run_seed=7, scope=who, i=i)
        for who, i in (("alice", 0), ("bob", 0), ("alice", 1), ("alice", 2))
    ]


def test_under_content_a_seed_follows_from_the_request_and_its_repeat() -> None:
    model = TinyModel()
    session = live(policy("content"))
    for prompt in ("x", "y", "x"):
        ask(session, model, prompt)
    x, y = (chat(prompt).asked_key for prompt in "xy")
    assert [request.seed for request in model.sent] == [
        content_seed(run_seed=7, scope="alice", asked_key=asked, n=n)
        for asked, n in ((x, 0), (y, 0), (x, 1))
    ]


@pytest.mark.parametrize("seed", [None, -1, 4294967295, 5])
def test_as_is_a_request_goes_out_as_written(seed: int | None) -> None:
    model = TinyModel()
    ask(live(policy("as-is")), model, seed=seed)
    assert model.sent[0].body["seed"] == seed


@pytest.mark.parametrize("name", ["event", "content"])
@pytest.mark.parametrize("seed", [None, -1, 4294967295])
def test_a_seed_that_means_random_never_goes_out(name: str, seed: int | None) -> None:
    model = TinyModel()
    ask(live(policy(name)), model, seed=seed)
    sent = model.sent[0].body["seed"]
    assert isinstance(sent, int)
    assert 0 < sent < 4294967295


@pytest.mark.parametrize("name", ["event", "content", "as-is"])
def test_the_callers_seed_is_kept(name: str, path: Path) -> None:
    model = TinyModel()
    with recording(path, header=policy(name)) as session:
        ask(session, model, seed=0)
    assert model.sent[0].body["seed"] == 0
    (call,) = read_cassette(path).calls.values()
    assert (call.asked_seed, call.sent_seed, call.asked) == (0, 0, call.sent)


def test_asked_and_sent_key_are_those_of_the_two_seeds(path: Path) -> None:
    model = TinyModel()
    with recording(path) as session:
        ask(session, model, "x")
    (call,) = read_cassette(path).calls.values()
    request = chat("x")
    assert call.asked_seed is None
    assert call.sent_seed == model.sent[0].seed
    assert call.asked == request.asked_key
    assert call.sent == request.key(seed=call.sent_seed) == model.sent[0].asked_key


def test_another_prompt_keeps_the_seeds_of_all_other_calls() -> None:
    one, other = TinyModel(), TinyModel()
    first, second = live(), live()
    for prompt, changed in (("a", "a"), ("b", "B"), ("c", "c")):
        ask(first, one, prompt)
        ask(second, other, changed)
    assert [r.seed for r in one.sent] == [r.seed for r in other.sent]


# --- Calls that overlap.


def overlap(session: Session, *, who: tuple[str, str] = ("alice", "alice")) -> list[PendingCall]:
    session.bind("tiny", TinyModel())
    calls = []
    for name in who:
        with scope(name):
            calls.append(session.begin(chat("x")))
    return calls


def test_calls_of_one_scope_that_overlap_under_event_are_an_error_that_says_so() -> None:
    with pytest.raises(RequestError, match=r"alice.*overlap.*seed_policy 'content'"):
        overlap(live())


@pytest.mark.parametrize("name", ["content", "as-is"])
def test_under_the_other_policies_calls_may_overlap(name: str) -> None:
    session = live(policy(name))
    calls = overlap(session)
    assert [(call.i, call.n) for call in calls] == [(0, 0), (1, 1)]
    for call in reversed(calls):
        session.settle(call, completion_of("x"))


def test_calls_of_two_scopes_may_overlap() -> None:
    assert [(call.i, call.n) for call in overlap(live(), who=("alice", "bob"))] == [(0, 0), (0, 0)]


def test_a_scope_can_go_on_after_an_overlap_was_refused() -> None:
    session = live()
    session.bind("tiny", TinyModel())
    with scope("alice"):
        first = session.begin(chat("x"))
        with pytest.raises(RequestError):
            session.begin(chat("y"))
        session.settle(first, completion_of("x"))
        assert session.begin(chat("y")).i == 1


def test_the_lowest_free_repeat_is_taken_again() -> None:
    session = live(policy("content"))
    session.bind("tiny", TinyModel())
    with scope("alice"):
        calls = [session.begin(chat("x")) for _ in range(3)]
        for n in (1, 0):
            session.fail(calls[n], BackendError("no"))
        assert [session.begin(chat("x")).n for _ in range(3)] == [0, 1, 3]


def test_parallel_calls_in_threads_are_counted_once_each(path: Path) -> None:
    header = policy("content")
    model = TinyModel()
    with recording(path, header=header) as session:
        session.bind("tiny", model)

        def work(name: str) -> None:
            for _ in range(10):
                ask(session, model, "x", who=name)

        threads = [
            threading.Thread(target=work, args=(name,))
            for name in ("alice", "alice", "bob", "carol")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    calls = list(read_cassette(path).calls.values())
    assert len(calls) == 40
    for name, count in (("alice", 20), ("bob", 10), ("carol", 10)):
        assert sorted(call.n for call in calls if call.scope == name) == list(range(count))
        assert sorted(call.i for call in calls if call.scope == name) == list(range(count))


# --- Strict mode.


def cached(tokens: int) -> Completion:
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": tokens}}
    return completion_of("x", usage=usage)


def test_strict_mode_refuses_cached_tokens(path: Path) -> None:
    model = TinyModel(trouble=lambda _number: cached(4))
    with (
        recording(path, header=policy("event", strict=True)) as session,
        pytest.raises(StrictModeError, match="4 cached prompt tokens"),
    ):
        ask(session, model)
    assert session.exit_code() is ExitCode.BACKEND
    assert read_cassette(path).calls == {}
    assert ask(live(), model).usage.cached == 4


def test_strict_mode_takes_answers_without_cached_tokens() -> None:
    model = TinyModel(trouble=lambda _number: cached(0))
    assert ask(live(policy("event", strict=True)), model).usage.cached == 0


@pytest.mark.parametrize("seed", [None, -1, 4294967295])
def test_strict_mode_refuses_a_missing_seed_as_is(seed: int | None) -> None:
    session = live(policy("as-is", strict=True))
    with pytest.raises(RequestError, match="no seed"):
        ask(session, TinyModel(), seed=seed)
    assert ask(session, TinyModel(), seed=5).status == 200


def test_strict_mode_refuses_a_backend_that_cannot_keep_it(path: Path) -> None:
    model = TinyModel(strict_error=StrictModeError("4 slots"))
    with recording(path, header=policy("event", strict=True), trips=True) as session:
        with pytest.raises(StrictModeError, match="4 slots"):
            ask(session, model)
        with pytest.raises(SessionTripped, match="4 slots"):
            ask(session, model)
    assert session.exit_code() is ExitCode.BACKEND
    assert model.sent == []
    ask(live(), model)


def test_strict_fields_are_set_in_strict_mode_only() -> None:
    strict, loose = TinyModel(), TinyModel()
    ask(live(policy("event", strict=True)), strict)
    ask(live(), loose)
    assert strict.sent[0].body["cache_prompt"] is False
    assert "cache_prompt" not in loose.sent[0].body


# --- Fields that the scenario sets.


def test_request_rules_apply_by_scope_and_kind_and_the_later_one_wins() -> None:
    header = policy(
        "event",
        requests=(
            RequestRule({}, {"top_k": 1, "top_p": 0.5}),
            RequestRule({"scope": "alice"}, {"top_k": 2}),
            RequestRule({"kind": "act"}, {"min_p": 0.5}),
            RequestRule({"scope": "bob", "kind": "act"}, {"top_k": 3}),
        ),
    )
    session = live(header)

    def fields(who: str, kind: str | None) -> dict[str, object]:
        with scope(who):
            if kind is None:
                return session.fields_for({})
            with calling_for(kind):
                return session.fields_for({})

    assert fields("alice", None) == {"top_k": 2, "top_p": 0.5}
    assert fields("bob", None) == {"top_k": 1, "top_p": 0.5}
    assert fields("bob", "act") == {"top_k": 3, "top_p": 0.5, "min_p": 0.5}
    assert fields("bob", "accept") == {"top_k": 1, "top_p": 0.5}


# --- Live and verify write nothing.


def test_live_calls_on_a_hit_and_on_a_miss_and_writes_nothing(path: Path) -> None:
    small_cassette(path)
    before = path.read_bytes()
    model = TinyModel(wording="otherwise")
    session = replaying(path, mode=Mode.LIVE)
    assert ask(session, model, "hello", who="bob").text.startswith("otherwise")
    ask(session, model, "new")
    assert len(model.sent) == 2
    assert (session.ledger.hits, session.ledger.called) == (0, 2)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_live_needs_no_cassette_and_the_other_modes_do() -> None:
    ask(live(), TinyModel())
    for mode in set(Mode) - {Mode.LIVE}:
        with pytest.raises(UsageError, match=mode.value):
            Session(mode=mode, header=HEADER)


def verify(path: Path, model: TinyModel, *prompts: str) -> tuple[Session, list[Completion]]:
    before = path.read_bytes()
    session = replaying(path, mode=Mode.VERIFY)
    answers = [ask(session, model, prompt, who="bob") for prompt in prompts]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert len(model.sent) == len(prompts)
    return session, answers


def test_verify_calls_and_finds_nothing_where_nothing_differs(path: Path) -> None:
    small_cassette(path)
    session, (answer,) = verify(path, TinyModel(), "hello")
    assert session.ledger.differences == []
    assert session.exit_code() is ExitCode.OK
    recorded = ask(replaying(path), TinyModel(), "hello", who="bob")
    assert answer.body == recorded.body


def test_verify_reports_a_difference_and_gives_the_recorded_answer(path: Path) -> None:
    small_cassette(path)
    session, (answer,) = verify(path, TinyModel(wording="fire"), "hello")
    assert answer.text.startswith("fine")
    (found,) = session.ledger.differences
    assert found.startswith("call 0 of bob: completion, character 2: recorded ")
    assert session.exit_code() is ExitCode.DIFFERENCE


def test_verify_reports_a_difference_beside_the_text(path: Path) -> None:
    small_cassette(path)
    model = TinyModel()
    bob = event_seed(run_seed=7, scope="bob", i=0)
    text = model.says(chat("hello").with_seed(bob))
    model.trouble = lambda _number: completion_of(text, object="another")
    session, _ = verify(path, model, "hello")
    assert session.ledger.differences == [
        "call 0 of bob: the text is the same, other members differ"
    ]


def test_verify_reports_a_call_that_is_not_recorded(path: Path) -> None:
    small_cassette(path)
    session, answers = verify(path, TinyModel(wording="live"), "unheard of")
    assert session.ledger.differences == ["call 0 of bob: not in the cassette"]
    assert answers[0].text.startswith("live")
    assert session.exit_code() is ExitCode.DIFFERENCE


def test_verify_reports_another_rendered_prompt(path: Path) -> None:
    small_cassette(path)

    class OtherTemplate(TinyModel):
        def render(self, _request: Request) -> Callable[[], str | None]:
            return lambda: "0" * 64

    session, _ = verify(path, OtherTemplate(), "hello")
    assert session.ledger.differences == ["call 0 of bob: the backend renders another prompt"]


# --- Models.


@pytest.mark.parametrize("mode", [Mode.RECORD, Mode.AUTO])
def test_recording_another_model_under_a_known_name_is_refused(mode: Mode, path: Path) -> None:
    small_cassette(path)
    before = path.read_bytes()
    other = TinyModel(binding=make_binding(weights="f" * 64))
    store = open_for_recording(path, HEADER, keep=mode is Mode.AUTO)
    session = Session(mode=mode, header=HEADER, store=store, trips=True)
    with pytest.raises(ModelConflictError, match="two models are called 'tiny'"):
        ask(session, other)
    with pytest.raises(SessionTripped):
        ask(session, other)
    store.close()
    assert session.exit_code() is ExitCode.USAGE
    assert other.sent == []
    assert path.read_bytes() == before


def test_a_model_is_identified_once() -> None:
    asked: list[str] = []

    class Counting(TinyModel):
        def identify(self, name: str):  # type: ignore[no-untyped-def]
            asked.append(name)
            return super().identify(name)

    session, model = live(), Counting()
    for _ in range(3):
        ask(session, model)
    assert asked == ["tiny"]


@pytest.mark.parametrize("trips", [False, True])
def test_whatever_keeps_a_model_unknown_ends_the_recording_as_a_failure(trips: bool) -> None:
    class Broken(TinyModel):
        def identify(self, name: str):  # type: ignore[no-untyped-def]
            raise OSError(24, "Too many open files")

    session = live(trips=trips)
    with pytest.raises(OSError, match="Too many"):
        ask(session, Broken())
    assert session.exit_code() is ExitCode.BACKEND
    assert isinstance(session.cause, BackendError)
    with pytest.raises(SessionTripped) if trips else contextlib.nullcontext():
        ask(session, TinyModel())
    assert session.exit_code() is (ExitCode.BACKEND if trips else ExitCode.OK)


# --- The ledger, and what a record holds.


def test_the_ledger_counts_calls_and_tokens_by_scope(path: Path) -> None:
    small_cassette(path)
    session = replaying(path, mode=Mode.VERIFY)
    for who in ("alice", "bob", "alice"):
        ask(session, TinyModel(), who=who)
    assert {who: dict(counter) for who, counter in session.ledger.usage.items()} == {
        "alice": {"calls": 2, "prompt_tokens": 10, "completion_tokens": 6},
        "bob": {"calls": 1, "prompt_tokens": 5, "completion_tokens": 3},
    }


def test_a_call_record_holds_what_happened(path: Path) -> None:
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(
        mode=Mode.RECORD, header=HEADER, store=store, run_seed=7, position=lambda: (2, 3)
    )
    model = TinyModel()
    with calling_for("act"):
        answer = ask(session, model, "hello", top_k=5)
    store.finish(used=session.ledger.used, run=None, keep=False)
    (call,) = open_for_replay(path).calls().values()
    assert (call.scope, call.i, call.n, call.at) == ("alice", 0, 0, (2, 3))
    assert (call.model, call.env) == ("tiny", make_environment().sha256)
    assert (call.endpoint, call.path) == ("chat", "/v1/chat/completions")
    assert call.body == dict(model.sent[0].body)
    assert call.completion.body == answer.body
    assert call.tokens == {"prompt": 5, "completion": 3, "total": 8, "cached": 0}
    assert call.prompt_sha256 == model.render(model.sent[0])()
    assert call.duration_s == answer.duration_s


def test_progress_is_told_of_each_call(path: Path) -> None:
    small_cassette(path)
    seen: list[tuple[str, int, str]] = []
    store = open_for_replay(path)
    session = Session(
        mode=Mode.REPLAY, header=store.header, store=store, run_seed=7,
        on_call=lambda call, completion: seen.append((call.caller.scope, call.i, completion.text)),
    )  # fmt: skip
    answer = ask(session, TinyModel(), who="bob")
    assert seen == [("bob", 0, answer.text)]
