"""Opening a session on a cassette, and the errors at its end, whatever was raised before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from swarm_repro import __version__
from swarm_repro.cachedir import CACHE_VARIABLE
from swarm_repro.caller import calling_for, scope
from swarm_repro.cassette.header import Header, RequestRule
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import (
    BackendError,
    BackendUnreachableError,
    CassetteAccessError,
    DifferenceError,
    ExitCode,
    ReplayMiss,
    RequestError,
    SessionTripped,
    UnplayedCallsError,
    UsageError,
)
from swarm_repro.mode import Mode
from swarm_repro.opening import (
    SWITCH_VARIABLE,
    answer_cache,
    conclude,
    describe_masked,
    describe_unplayed,
    header_of,
    one_of,
    open_session,
    retry_waits_s,
)
from swarm_repro.request import Request
from swarm_repro.session import Session
from tests.support.tiny_model import TinyModel, ask, chat, completion_of

HEADER = header_of(seed_policy="as-is", strict=False)
KEY = "sk-ant-api03-" + "aB3x" * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.jsonl"


def opened(path: Path, mode: Mode | None = Mode.RECORD, **options: Any) -> Session:
    return open_session(path, mode=mode, **{"header": HEADER, "seed": 7, **options})


def record(path: Path, *prompts: str, mode: Mode = Mode.RECORD, **options: Any) -> None:
    with closing(opened(path, mode, **options)) as session:
        for prompt in prompts:
            ask(session, TinyModel(), prompt)
        conclude(session)


# --- The header.


@pytest.mark.parametrize("policy", ["event", "content", "as-is"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_header_is_what_the_user_wrote(policy: str, strict: bool) -> None:
    header = header_of(seed_policy=policy, strict=strict)
    assert (header.seed_policy, header.strict) == (policy, strict)
    assert (header.recorder, header.scenario, header.requests) == (__version__, None, ())


def test_request_rules_of_the_api_hold_for_the_calls_they_match(path: Path) -> None:
    header = header_of(
        seed_policy="as-is",
        strict=False,
        requests=[
            {"match": {}, "set": {"top_k": 1}},
            {"match": {"scope": 7, "kind": "act"}, "set": {"top_p": 0.5}},
            {"match": {"scope": "bob"}, "set": {"top_k": 2}},
        ],
    )
    assert header.requests == (
        RequestRule({}, {"top_k": 1}),
        RequestRule({"scope": "7", "kind": "act"}, {"top_p": 0.5}),
        RequestRule({"scope": "bob"}, {"top_k": 2}),
    )
    model = TinyModel()
    with closing(opened(path, header=header)) as session:
        for who in ("alice", "bob"):
            ask(session, model, who=who)
        with calling_for("act"):
            ask(session, model, who="7")
    fields = [{k: v for k, v in sent.body.items() if k.startswith("top")} for sent in model.sent]
    assert fields == [{"top_k": 1}, {"top_k": 2}, {"top_k": 1, "top_p": 0.5}]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"match": {}},
        {"set": {}},
        {"match": {}, "set": {}, "else": {}},
        {"match": {"model": "m"}, "set": {}},
        {"match": {"scope": "a", "who": "b"}, "set": {}},
    ],
)
def test_an_invalid_rule_is_refused(rule: Any) -> None:
    with pytest.raises(UsageError) as caught:
        header_of(seed_policy="event", strict=False, requests=[rule])
    assert f"request rule {rule!r}: use {{'match': {{scope, kind}}" in str(caught.value)


def test_an_unknown_word_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError) as caught:
        header_of(seed_policy="random", strict=False)
    assert str(caught.value) == (
        "seed_policy 'random' is unknown: use one of event, content, as-is"
    )
    assert one_of("others", "pass", iter(["refuse", "pass"])) == "pass"


# --- Opening.


def test_without_a_mode_a_cassette_that_is_there_is_replayed(path: Path) -> None:
    with pytest.raises(CassetteAccessError) as caught:
        opened(path, None)
    assert str(caught.value) == (
        f"there is no cassette at {path}; record one with mode='record', or --record"
    )
    record(path, "one")
    with closing(opened(path, None)) as session:
        assert session.mode is Mode.REPLAY
        ask(session, TinyModel(), "one")
        conclude(session)


@pytest.mark.parametrize("mode", [Mode.REPLAY, Mode.VERIFY])
def test_playing_modes_use_the_cassettes_header_and_the_users_seed(path: Path, mode: Mode) -> None:
    record(path, "one", header=header_of(seed_policy="content", strict=False))
    with closing(opened(path, mode, seed=9)) as session:
        assert session.header.seed_policy == "content"
        assert session.run_seed == 9
        assert session.store is not None


def test_live_opens_no_file_and_has_the_users_header(path: Path) -> None:
    path.write_text("no cassette")
    with closing(opened(path, Mode.LIVE)) as session:
        assert session.store is None
        assert session.header is HEADER
        ask(session, TinyModel())
        conclude(session)
    assert path.read_text() == "no cassette"


def test_auto_keeps_what_is_there_and_record_does_not(path: Path) -> None:
    for mode, prompts, kept in (
        (Mode.RECORD, ("one", "two"), 2),
        (Mode.RECORD, ("one",), 1),
        (Mode.AUTO, ("one", "two"), 2),
    ):
        record(path, *prompts, mode=mode)
        assert len(read_cassette(path).calls) == kept


def test_an_interrupted_recording_is_discarded_on_request(path: Path) -> None:
    with closing(opened(path)) as session:
        ask(session, TinyModel())
    assert part_path(path).exists()
    with pytest.raises(CassetteAccessError, match="discard"):
        opened(path)
    record(path, "other", discard=True)
    (call,) = read_cassette(path).calls.values()
    assert call.body["messages"] == [{"role": "user", "content": "other"}]


def test_a_sharing_owner_rerecords_only_its_own_calls(path: Path) -> None:
    with pytest.raises(UsageError, match="give each process a scope_prefix"):
        opened(path, shared=True)
    for owner in ("one", "two", "one"):
        record(path, owner, shared=True, owner=owner)
    calls = read_cassette(path).calls.values()
    assert sorted(call.scope for call in calls) == ["one/alice", "two/alice"]
    record(path, "more", mode=Mode.AUTO, shared=True)
    assert len(read_cassette(path).calls) == 3
    # Alone, an owner is no reason to keep what others recorded but for the calls of others.
    with closing(opened(path, Mode.REPLAY, owner="two")) as session:
        assert session.owner == "two"
        ask(session, TinyModel(), "two")
        conclude(session)
    with closing(opened(path, Mode.REPLAY, shared=True)) as session:
        assert session.is_shared
        conclude(session)


def test_scopes_of_an_owner_are_below_its_name(path: Path) -> None:
    with closing(opened(path, owner="test_x")) as session:
        session.bind("tiny", TinyModel())
        for name in ("main", "alice"):
            with scope(name):
                session.settle(session.begin(chat(name)), completion_of("fine"))
        conclude(session)
    assert [call.scope for call in read_cassette(path).calls.values()] == ["test_x", "test_x/alice"]
    with closing(opened(path, Mode.REPLAY, owner="test")) as session:
        assert not any(map(session.owns, read_cassette(path).calls))
        conclude(session)
    with closing(opened(path, Mode.REPLAY, owner="test_x")) as session:
        assert all(map(session.owns, read_cassette(path).calls))
        assert describe_unplayed(session) is not None


@pytest.mark.parametrize(
    ("wanted", "variable", "has_one"),
    [
        (True, None, True),
        (True, "0", True),
        (False, "1", True),
        (False, "yes", True),
        (False, "0", False),
        (False, None, False),
    ],
)
def test_the_cache_is_used_on_request(
    wanted: bool, variable: str | None, has_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(SWITCH_VARIABLE, variable)
    assert (answer_cache(wanted=wanted) is not None) is has_one


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, 1), ({"cache": True}, 0), ({"fresh": True}, 1)],
    ids=["neither", "cache", "fresh"],
)
def test_cache_and_fresh_reach_the_session(
    options: dict[str, Any],
    asked: int,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    first: dict[str, Any] = {"fresh": True}
    for name, given in (("first", first), ("second", options)):
        model = TinyModel()
        with closing(opened(tmp_path / name, **given)) as session:
            ask(session, model, seed=3)
            conclude(session)
    assert len(model.sent) == asked


def test_a_redaction_reaches_the_session(path: Path) -> None:
    record(path, "Ada", redact=lambda text: text.replace("Ada", "someone"))
    (call,) = read_cassette(path).calls.values()
    assert call.body["messages"] == [{"role": "user", "content": "someone"}]


def test_isolated_calls_miss_alone(path: Path) -> None:
    record(path, "one")
    for isolated in (False, True):
        with closing(opened(path, Mode.REPLAY, isolated=isolated)) as session:
            with pytest.raises(ReplayMiss):
                ask(session, TinyModel(), "unheard of")
            if not isolated:
                with pytest.raises(ReplayMiss):
                    ask(session, TinyModel(), "one")
                continue
            ask(session, TinyModel(), "one")
            assert session.tripped is None
            assert session.exit_code() is ExitCode.MISS
            with pytest.raises(ReplayMiss, match="1 misses, the first: call 0 of alice is not in"):
                conclude(session)


# --- The end.


def test_the_error_that_ended_the_session_is_raised_again_at_its_end(path: Path) -> None:
    session = Session(mode=Mode.LIVE, header=HEADER, trips=True)
    model = TinyModel(trouble=lambda _n: Completion(500, "text/plain", b"no"))
    with pytest.raises(SessionTripped) as first:
        ask(session, model)
    with pytest.raises(SessionTripped) as caught:
        conclude(session)
    assert caught.value is first.value


def test_an_error_of_ours_is_raised_again_at_the_end(path: Path) -> None:
    with closing(opened(path)) as session:
        with pytest.raises(RequestError) as first:
            ask(session, TinyModel(), odd=float("inf"))
        with pytest.raises(RequestError) as caught:
            conclude(session)
        assert caught.value is first.value
    assert not path.exists()


def test_calls_that_failed_for_good_fail_the_end(path: Path) -> None:
    model = TinyModel(trouble=lambda _n: Completion(500, "text/plain", b"no"))
    with closing(opened(path)) as session:
        for who in ("alice", "bob"):
            with pytest.raises(BackendError):
                ask(session, model, who=who)
        with pytest.raises(BackendError) as caught:
            conclude(session)
        assert str(caught.value).startswith("2 calls failed: call 0 of alice: ")
        assert "; call 0 of bob: " in str(caught.value)
    assert not path.exists()


def test_calls_that_have_not_ended_fail_the_end(path: Path) -> None:
    with closing(opened(path)) as session:
        assert session.waiting() is None
        session.bind("tiny", TinyModel())
        for name in ("bob", "alice", "bob"):
            with scope(name):
                call = session.begin(chat("x"))
        assert session.in_flight() == {"bob": 2, "alice": 1}
        with pytest.raises(BackendError) as caught:
            conclude(session)
        assert str(caught.value) == (
            "3 calls have not ended, the first in scope 'alice': wait for their answers, and read "
            "a stream to its end or close it"
        )
        session.settle(call, completion_of("fine"))
        assert session.in_flight() == {"bob": 1, "alice": 1}
    assert not path.exists()


def test_recorded_calls_that_were_not_asked_for_fail_a_replay(path: Path) -> None:
    record(path, "one", "two")
    with closing(opened(path, Mode.REPLAY)) as session:
        ask(session, TinyModel(), "two")
        said = f"1 of 2 calls in {path} were not played, first call 0 of alice"
        assert describe_unplayed(session) == said
        with pytest.raises(UnplayedCallsError) as caught:
            conclude(session)
        assert str(caught.value).startswith(f"{said}; record it anew")
        ask(session, TinyModel(), "one")
        assert describe_unplayed(session) is None
        conclude(session)
    assert describe_unplayed(Session(mode=Mode.LIVE, header=HEADER)) is None


def test_a_difference_fails_a_verification_once_all_is_played(path: Path) -> None:
    record(path, "one", "two")
    with closing(opened(path, Mode.VERIFY)) as session:
        ask(session, TinyModel(wording="other"), "one")
        with pytest.raises(UnplayedCallsError):
            conclude(session)
        ask(session, TinyModel(wording="other"), "two")
        with pytest.raises(DifferenceError) as caught:
            conclude(session)
        first, second = str(caught.value).split("; ")
        assert first.startswith("call 0 of alice: completion, character 0")
        assert second.startswith("call 1 of alice: ")


def test_a_clean_end_raises_nothing(path: Path) -> None:
    record(path, "one")
    for mode in (Mode.REPLAY, Mode.VERIFY):
        with closing(opened(path, mode)) as session:
            ask(session, TinyModel(), "one")
            conclude(session)
            assert session.exit_code() is ExitCode.OK


def test_masked_credentials_are_counted_by_kind(path: Path) -> None:
    with closing(opened(path)) as session:
        assert describe_masked(session) is None
        ask(session, TinyModel(), f"{KEY} and AKIAIOSFODNN7EXAMPLE")
        ask(session, TinyModel(), KEY)
        assert describe_masked(session) == (
            f"credentials are masked in {path}: 1 x AWS Access Key, 2 x Anthropic key; "
            "keep them out of prompts"
        )
        conclude(session)
    assert describe_masked(Session(mode=Mode.LIVE, header=HEADER)) is None


# --- Ending a session early.


def isolated() -> Session:
    return Session(mode=Mode.LIVE, header=HEADER, isolated=True)


def test_a_rejected_call_is_raised_and_not_forgotten() -> None:
    session = Session(mode=Mode.LIVE, header=HEADER)
    error = RequestError("no JSON")
    with pytest.raises(RequestError) as caught:
        session.reject(error)
    assert caught.value is error
    assert session.cause is error
    assert session.tripped is None
    assert session.exit_code() is ExitCode.USAGE
    assert session.ledger.rejected == 0
    with pytest.raises(UsageError):
        session.reject(UsageError("another"))
    assert session.cause is error, "the first one is kept"
    ask(session, TinyModel())


def test_a_rejected_call_ends_a_run() -> None:
    session = Session(mode=Mode.LIVE, header=HEADER, trips=True)
    with pytest.raises(SessionTripped, match="no JSON") as first:
        session.reject(RequestError("no JSON"))
    assert session.tripped is first.value
    assert session.exit_code() is ExitCode.USAGE
    model = TinyModel()
    with pytest.raises(SessionTripped) as later:
        ask(session, model)
    assert later.value is first.value
    with pytest.raises(SessionTripped) as later:
        session.reject(RequestError("another"))
    assert later.value is first.value
    assert model.sent == []


@pytest.mark.parametrize("kind", [RequestError, UsageError])
def test_a_bad_request_of_one_client_is_not_the_others(kind: Callable[[str], UsageError]) -> None:
    session = isolated()
    with pytest.raises(UsageError):
        session.reject(kind("no JSON"))
    with pytest.raises(RequestError):
        ask(session, TinyModel(), odd=float("nan"))
    assert session.ledger.rejected == 2
    assert session.cause is None
    assert session.exit_code() is ExitCode.OK


def test_a_cassette_that_fails_is_every_clients() -> None:
    session = isolated()
    with pytest.raises(CassetteAccessError):
        session.reject(CassetteAccessError("disk full"))
    assert session.ledger.rejected == 0
    assert isinstance(session.cause, CassetteAccessError)


def test_the_first_error_decides_the_exit_code_whatever_follows() -> None:
    session = Session(mode=Mode.LIVE, header=Header(recorder="0", strict=True), trips=True)
    with pytest.raises(SessionTripped, match="first"):
        session.refuse("first")
    with pytest.raises(SessionTripped, match="first"):
        session.refuse("second")
    assert session.exit_code() is ExitCode.USAGE


@pytest.mark.parametrize(
    ("written", "waits"),
    [
        (None, (0.2, 1.0, 3.0)),
        (" ", (0.2, 1.0, 3.0)),
        ("none", ()),
        ("0", (0.0,)),
        ("0.5 2  3600", (0.5, 2.0, 3600.0)),
    ],
)
def test_the_waits_before_a_retry_can_be_set(
    written: str | None, waits: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWARM_REPRO_RETRY_WAITS", raising=False)
    if written is not None:
        monkeypatch.setenv("SWARM_REPRO_RETRY_WAITS", written)
    assert tuple(retry_waits_s()) == waits


@pytest.mark.parametrize("written", ["soon", "-1", "1 3601", "nan", "1,2", "inf"])
def test_invalid_waits_are_refused(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_REPRO_RETRY_WAITS", written)
    with pytest.raises(UsageError, match=r"^SWARM_REPRO_RETRY_WAITS is '.*': give seconds from 0"):
        retry_waits_s()


@pytest.mark.parametrize(
    ("trips", "waits", "tries"), [(True, (0.0, 0.0), 3), (True, (), 1), (False, (0.0,), 1)]
)
def test_a_session_retries_as_often_as_it_has_waits_and_only_under_run(
    trips: bool, waits: tuple[float, ...], tries: int
) -> None:
    model = TinyModel()
    asked = 0

    def refuse(_request: Request) -> Completion:
        nonlocal asked
        asked += 1
        raise BackendUnreachableError("refused")

    header = Header(recorder="0.1.0", scenario="s")
    session = Session(mode=Mode.LIVE, header=header, trips=trips, retry_waits_s=waits)
    call = session.begin(chat(binding=session.bind("tiny", model).binding))
    with pytest.raises(BackendUnreachableError):
        session.send(call, refuse)
    assert asked == tries
