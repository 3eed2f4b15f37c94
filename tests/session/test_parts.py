"""Places, bindings, callers and modes by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarm_repro.bindings import Bindings
from swarm_repro.caller import (
    Caller,
    calling_for,
    current_caller,
    is_own_traffic,
    is_within,
    own_traffic,
    scope,
)
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.store import open_for_replay
from swarm_repro.errors import ModelConflictError, RequestError, StrictModeError
from swarm_repro.ledger import Ledger
from swarm_repro.mode import Mode
from swarm_repro.places import Places
from swarm_repro.request import Request, content_seed, event_seed
from tests.support.tiny_model import (
    TinyModel,
    chat,
    make_binding,
    make_environment,
    small_cassette,
)


def places(policy: str = "content", *, strict: bool = False) -> Places:
    header = Header(recorder="0", seed_policy=policy, strict=strict)  # type: ignore[arg-type]
    return Places(header, run_seed=7)


# --- Places.


def test_ordinals_count_a_scope_and_repeats_count_a_request_in_it() -> None:
    one = places()
    taken = [one.take(who, what) for who, what in ("ax", "ay", "ax", "bx", "ax")]
    assert taken == [(0, 0), (1, 0), (2, 1), (0, 0), (3, 2)]
    assert dict(one.in_flight()) == {"a": 4, "b": 1}
    one.keep("a")
    one.keep("b")
    assert dict(one.in_flight()) == {"a": 3}


def test_a_failed_call_gives_back_its_repeat_and_its_ordinal_if_it_was_the_last() -> None:
    one = places()
    for _ in range(3):
        one.take("a", "x")
    one.release("a", "x", i=1, n=1)
    assert one.take("a", "x") == (3, 1)
    one.release("a", "x", i=3, n=1)
    assert one.take("a", "y") == (3, 0)
    assert one.take("a", "x") == (4, 1)
    assert dict(one.in_flight()) == {"a": 4}


def test_the_lowest_of_several_returned_repeats_is_taken() -> None:
    one = places()
    for _ in range(4):
        one.take("a", "x")
    for n in (2, 0, 3):
        one.release("a", "x", i=n, n=n)
    assert [one.take("a", "x")[1] for _ in range(4)] == [0, 2, 3, 4]


def test_overlapping_calls_of_a_scope_are_refused_under_event_only() -> None:
    one = places("event")
    assert one.take("a", "x") == (0, 0)
    assert one.take("b", "x") == (0, 0)
    with pytest.raises(RequestError, match="two calls of scope 'a' overlap"):
        one.take("a", "y")
    one.keep("a")
    assert one.take("a", "y") == (1, 0)
    for policy in ("content", "as-is"):
        other = places(policy)
        assert [other.take("a", "x") for _ in range(2)] == [(0, 0), (1, 1)]


EMBEDDING = Request("embedding", make_binding(), "/v1/embeddings", {"input": "x"})


@pytest.mark.parametrize(
    ("policy", "request_", "expected"),
    [
        ("event", chat("x"), event_seed(run_seed=7, scope="a", i=3)),
        ("content", chat("x"), content_seed(run_seed=7, scope="a", asked_key="key", n=2)),
        ("as-is", chat("x"), None),
        ("event", chat("x", seed=5), 5),
        ("content", chat("x", seed=0), 0),
        ("as-is", chat("x", seed=5), 5),
        ("event", EMBEDDING, None),
        ("content", EMBEDDING, None),
        ("as-is", EMBEDDING, None),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_seed_is_the_callers_or_one_by_the_policy(
    policy: str, request_: Request, expected: int | None, strict: bool
) -> None:
    one = places(policy, strict=strict)
    if strict and policy == "as-is" and expected is None and request_ is not EMBEDDING:
        with pytest.raises(RequestError) as caught:
            one.seed_for(request_, "a", "key", i=3, n=2)
        assert str(caught.value).startswith("call 3 of a has no seed, which strict mode does not")
        return
    assert one.seed_for(request_, "a", "key", i=3, n=2) == expected


# --- Bindings.


class At(TinyModel):
    """A model at an address."""

    def __init__(self, address: str, cpu: str = "a CPU", weights: str = "a" * 64) -> None:
        binding = make_binding(weights=weights)
        super().__init__(binding=binding, environment=make_environment(cpu))
        self._address = address
        self.asked = 0

    @property
    def address(self) -> str:
        return self._address

    def identify(self, name: str):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super().identify(name)


def bindings(mode: Mode = Mode.LIVE, **how: object) -> Bindings:
    return Bindings(**{"mode": mode, "strict": False, "store": None, **how})  # type: ignore[arg-type]


def test_a_model_is_asked_who_it_is_once_for_each_name_and_address() -> None:
    one, first, second = bindings(), At("first"), At("second", "another CPU")
    for backend in (first, first, second, first):
        bound = one.find("tiny", backend)
        assert bound is not None
        assert bound.environment == backend.environment
    assert (first.asked, second.asked) == (1, 1)
    assert one.known() == [first.binding, second.binding]
    # Equal models at two addresses, each in its own environment.
    assert one.environment_of(second.binding) == second.environment
    assert one.environment_of(first.binding) == first.environment
    assert one.environment_of(make_binding()) == first.environment


def test_two_models_of_one_name_are_refused() -> None:
    one = bindings()
    one.find("tiny", At("first"))
    with pytest.raises(ModelConflictError, match="two models are called 'tiny'"):
        one.find("tiny", At("second", weights="f" * 64))
    assert len(one.known()) == 1
    assert isinstance(one.unknown, ModelConflictError)
    one.find("tiny", At("second"))
    assert one.unknown is None


def test_equal_models_with_other_defaults_are_refused_under_one_name() -> None:
    one = bindings()
    one.find("tiny", At("first"))
    other = At("second")
    other.binding = make_binding(defaults={"temperature": 0.5})
    with pytest.raises(ModelConflictError, match="other sampling defaults"):
        one.find("tiny", other)


def test_the_reason_a_model_is_unknown_is_given_until_it_is_known() -> None:
    one, model = bindings(strict=True), At("first")
    model.strict_error = StrictModeError("4 slots")
    with pytest.raises(StrictModeError):
        one.find("tiny", model)
    assert one.unknown is model.strict_error
    assert (one.known(), model.asked) == ([], 0)
    model.strict_error = None
    one.find("tiny", model)
    assert one.unknown is None
    loose = At("first")
    loose.strict_error = StrictModeError("4 slots")
    assert bindings().find("tiny", loose) is not None


def test_a_replay_knows_its_models_from_the_cassette(tmp_path: Path) -> None:
    small_cassette(tmp_path / "c.jsonl")
    one = bindings(Mode.REPLAY, store=open_for_replay(tmp_path / "c.jsonl"))
    backend = At("first", weights="f" * 64)
    bound = one.find("tiny", backend)
    assert bound is not None
    assert (bound.binding, bound.environment) == (make_binding(), None)
    assert one.find("tiny", At("second")) is bound
    assert one.find("other", backend) is None
    assert one.unknown is None
    assert backend.asked == 0


@pytest.mark.parametrize("mode", [Mode.RECORD, Mode.AUTO, Mode.VERIFY])
def test_other_defaults_than_the_recorded_ones_matter_where_both_are_kept(
    mode: Mode, tmp_path: Path
) -> None:
    small_cassette(tmp_path / "c.jsonl")
    one = bindings(mode, store=open_for_replay(tmp_path / "c.jsonl"))
    model = TinyModel(binding=make_binding(defaults={"temperature": 0.5}))
    if mode is Mode.AUTO:
        with pytest.raises(ModelConflictError, match="other sampling defaults"):
            one.find("tiny", model)
    else:
        assert one.find("tiny", model) is not None
    with pytest.raises(ModelConflictError):
        bindings(mode, store=open_for_replay(tmp_path / "c.jsonl")).find(
            "tiny", At("x", weights="f" * 64)
        )


# --- Callers, modes, counts.


def test_a_scope_holds_for_its_block_and_what_it_starts() -> None:
    assert current_caller() == Caller("main", None, None)
    with scope("alice", seed=3):
        assert current_caller() == Caller("alice", None, 3)
        with calling_for("act"):
            assert current_caller() == Caller("alice", "act", 3)
            assert asyncio.run(asyncio.to_thread(current_caller)) == Caller("alice", "act", 3)
            with scope("bob"):
                assert current_caller() == Caller("bob", "act", None)
        assert current_caller() == Caller("alice", None, 3)
    with pytest.raises(ZeroDivisionError), scope("alice"), calling_for("act"):
        raise ZeroDivisionError
    assert current_caller() == Caller("main", None, None)


def test_own_traffic_is_marked_for_its_block() -> None:
    assert not is_own_traffic()
    with own_traffic():
        assert is_own_traffic()
        with own_traffic():
            assert is_own_traffic()
        assert is_own_traffic()
    assert not is_own_traffic()


@pytest.mark.parametrize(
    ("name", "prefix", "within"),
    [
        ("a", "a", True),
        ("a/b", "a", True),
        ("ab", "a", False),
        ("a", "a/b", False),
        ("", "a", False),
    ],
)
def test_a_scope_is_within_a_prefix_of_whole_names(name: str, prefix: str, within: bool) -> None:
    assert is_within(name, prefix) is within


def test_modes_read_call_and_write_as_documented() -> None:
    assert {mode.value: (mode.calls_model, mode.writes) for mode in Mode} == {
        "replay": (False, False),
        "record": (True, True),
        "auto": (True, True),
        "live": (True, False),
        "verify": (True, False),
    }


def test_unknown_token_counts_count_as_none() -> None:
    ledger = Ledger()
    ledger.count("a", {"prompt": 5, "completion": 3})
    ledger.count("a", {"prompt": None, "completion": 2})
    ledger.count("a", {})
    ledger.count("b", {"completion": None, "prompt": 1})
    assert {who: dict(counter) for who, counter in ledger.usage.items()} == {
        "a": {"calls": 3, "prompt_tokens": 5, "completion_tokens": 5},
        "b": {"calls": 1, "prompt_tokens": 1, "completion_tokens": 0},
    }


def test_a_call_without_a_seed_of_ours_goes_out_as_it_was_asked() -> None:
    from swarm_repro.ledger import PendingCall

    def pending(request: Request, seed: int | None) -> PendingCall:
        return PendingCall(request, Caller("a"), 0, 2, None, "asked", seed, "sent")

    plain, seeded = chat("x"), chat("x", seed=5)
    assert pending(plain, None).sent is plain
    assert pending(seeded, 5).sent is seeded
    assert pending(plain, 6).sent.seed == 6
    assert pending(plain, 6).id == ("a", "asked", 2)
