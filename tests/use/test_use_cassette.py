"""``use_cassette`` with the openai client, sync and async, against a loopback server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from swarm_repro import scope, use_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import (
    BackendError,
    CassetteAccessError,
    DifferenceError,
    ReplayMiss,
    RequestError,
    UnplayedCallsError,
    UsageError,
)
from tests.support.stub_server import StubServer, running_stub

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub(reply=lambda body: f"you said {body['messages'][-1]['content']}") as server:
        yield server


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def async_client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)


def ask(url: str, text: str, **fields: object) -> str | None:
    with client(url) as one:
        answer = one.chat.completions.create(
            model="stub",
            messages=[{"role": "user", "content": text}],
            **fields,  # type: ignore[call-overload]
        )
    content: str | None = answer.choices[0].message.content
    return content


async def ask_async(url: str, text: str) -> str | None:
    async with async_client(url) as one:
        answer = await one.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": text}]
        )
    return answer.choices[0].message.content


def test_what_was_recorded_is_replayed_without_a_server(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        recorded = [ask(stub.base_url, "one"), ask(stub.base_url, "two")]
    assert recorded == ["you said one", "you said two"]
    with use_cassette(path) as session:
        assert [ask(NOWHERE, "one"), ask(NOWHERE, "two")] == recorded
    assert session.ledger.hits == 2
    assert len(stub.chats) == 2


def test_async_calls_are_recorded_and_replayed(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    texts = [f"number {number}" for number in range(5)]

    async def all_at_once(url: str) -> list[str | None]:
        return list(await asyncio.gather(*(ask_async(url, text) for text in texts)))

    async def both() -> None:
        async with use_cassette(path, mode="record"):
            recorded = await all_at_once(stub.base_url)
        assert recorded == [f"you said {text}" for text in texts]
        async with use_cassette(path):
            assert await all_at_once(NOWHERE) == recorded

    asyncio.run(both())
    assert len(read_cassette(path).calls) == 5


def test_what_was_recorded_sync_is_replayed_async(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    with use_cassette(path):
        assert asyncio.run(ask_async(NOWHERE, "one")) == "you said one"


def test_functions_are_decorated(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"

    @use_cassette(path, mode="auto")
    def asks(url: str) -> str | None:
        """Says it."""
        return ask(url, "one")

    @use_cassette(path)
    async def asks_async(url: str) -> str | None:
        return await ask_async(url, "one")

    assert asks.__doc__ == "Says it."
    assert asks(stub.base_url) == asks(stub.base_url) == "you said one"
    assert len(stub.chats) == 1
    assert asyncio.run(asks_async(NOWHERE)) == "you said one"
    with pytest.raises(UsageError, match="generator"):
        use_cassette(path)(lambda: (yield))


def test_a_decorated_function_runs_within_the_block_of_the_same_use(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    same = use_cassette(path, mode="replay")

    @same
    def asks() -> str | None:
        return ask(NOWHERE, "one")

    with same:
        assert asks() == ask(NOWHERE, "one") == "you said one"


def test_the_innermost_of_nested_blocks_answers(tmp_path: Path, stub: StubServer) -> None:
    outer, inner = tmp_path / "outer.jsonl", tmp_path / "inner.jsonl"
    for mode in ("record", "replay"):
        with use_cassette(outer, mode=mode):
            ask(stub.base_url, "outside")
            with use_cassette(inner, mode=mode):
                ask(stub.base_url, "inside")
            ask(stub.base_url, "outside again")
    assert len(read_cassette(outer).calls) == 2
    assert len(read_cassette(inner).calls) == 1
    assert len(stub.chats) == 3


def test_threads_with_cassettes_of_their_own_do_not_mix(tmp_path: Path, stub: StubServer) -> None:
    def work(number: int) -> str | None:
        with use_cassette(tmp_path / f"{number}.jsonl", mode="auto"):
            return ask(stub.base_url, f"thread {number}")

    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [f"you said thread {n}" for n in range(8)]
    assert len(stub.chats) == 8
    for number in range(8):
        (call,) = read_cassette(tmp_path / f"{number}.jsonl").calls.values()
        assert call.completion.text == f"you said thread {number}"


def test_a_thread_without_context_belongs_to_the_only_cassette(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"), ThreadPoolExecutor(1) as pool:
        pool.submit(ask, stub.base_url, "from a pool").result()
    assert len(read_cassette(path).calls) == 1


def test_a_thread_without_context_among_several_cassettes_is_refused(
    tmp_path: Path, stub: StubServer
) -> None:
    with (
        use_cassette(tmp_path / "a.jsonl", mode="record"),
        use_cassette(tmp_path / "b.jsonl", mode="record"),
        ThreadPoolExecutor(1) as pool,
    ):
        found = pool.submit(ask, stub.base_url, "whose?").exception()
        context = contextvars.copy_context()
        pool.submit(context.run, ask, stub.base_url, "b's").result()
    assert isinstance(found, (RequestError, openai.APIConnectionError))
    assert "copy_context" in f"{found} {found.__cause__}"
    assert len(read_cassette(tmp_path / "b.jsonl").calls) == 1


def test_scopes_keep_calls_apart(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"

    def work(who: str) -> str | None:
        with scope(who):
            return ask(stub.base_url, "the same")

    with use_cassette(path, mode="record"):
        work("ada")
        work("ben")
        work("ada")
    places = [(call.scope, call.i, call.n) for call in read_cassette(path).calls.values()]
    assert sorted(places) == [("ada", 0, 0), ("ada", 1, 1), ("ben", 0, 0)]


def test_a_call_that_was_not_recorded_is_a_miss_even_if_it_is_swallowed(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    with pytest.raises(ReplayMiss, match="recorded 'one', asked 'another'"), use_cassette(path):
        with contextlib.suppress(BaseException):  # what a careless program does
            ask(NOWHERE, "another")


def test_a_recorded_call_that_is_not_played_is_an_error(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
        ask(stub.base_url, "two")
    with pytest.raises(UnplayedCallsError, match="1 of 2 calls"), use_cassette(path):
        ask(NOWHERE, "one")


def test_an_exception_in_the_block_is_not_hidden(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    with pytest.raises(ZeroDivisionError), use_cassette(path):
        1 / 0  # noqa: B018
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), use_cassette(path, mode="auto"):
        ask(stub.base_url, "two")
        1 / 0  # noqa: B018
    assert path.read_bytes() == before
    with use_cassette(path, mode="auto") as session:
        ask(stub.base_url, "one")
        ask(stub.base_url, "two")
    assert session.ledger.called == 0, "auto went on from what the failed block had recorded"


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_failed_call_is_handed_back_as_it_came_and_may_be_tried_again(
    tmp_path: Path, status: int
) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(fault=lambda n: status if n == 0 else None) as stub:
        with use_cassette(path, mode="record"):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(stub.base_url, "one")
            assert caught.value.status_code == status
            ask(stub.base_url, "one")
    (call,) = read_cassette(path).calls.values()
    assert (call.i, call.n, call.completion.status) == (0, 0, 200)


def test_a_cut_connection_is_the_clients_own_error(tmp_path: Path) -> None:
    with running_stub(fault=lambda n: "cut" if n == 0 else None) as stub:
        with use_cassette(tmp_path / "c.jsonl", mode="record"):
            with pytest.raises(openai.APIConnectionError):
                ask(stub.base_url, "one")
            assert asyncio.run(ask_async(stub.base_url, "one"))


def test_a_call_that_never_succeeded_fails_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(fault=lambda n: 500 if n == 1 else None) as stub:
        with pytest.raises(BackendError, match="1 calls failed: call 1 of main"):
            with use_cassette(path, mode="record"):
                ask(stub.base_url, "one")
                with pytest.raises(openai.InternalServerError):
                    ask(stub.base_url, "two")
    assert not path.exists()
    assert path.with_name("c.jsonl.part").exists()


def test_verify_asks_again_and_tells_what_differs(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    with use_cassette(path, mode="verify"):
        ask(stub.base_url, "one")
    stub.reply = lambda _body: "something else"
    with pytest.raises(DifferenceError, match="completion, character 0"):
        with use_cassette(path, mode="verify"):
            assert ask(stub.base_url, "one") == "you said one", "the recorded answer"


def test_a_seed_policy_gives_seeds_that_do_not_depend_on_the_order_of_arrival(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record", seed=7, seed_policy="content"):
        ask(stub.base_url, "one")
        ask(stub.base_url, "two")
    seeds = {call.completion.text: call.sent_seed for call in read_cassette(path).calls.values()}
    assert None not in seeds.values()
    with use_cassette(path, mode="record", seed=7, seed_policy="content"):
        ask(stub.base_url, "two")
        ask(stub.base_url, "one")
    again = {call.completion.text: call.sent_seed for call in read_cassette(path).calls.values()}
    assert again == seeds


def test_other_requests_are_refused_unless_they_may_pass(tmp_path: Path, stub: StubServer) -> None:
    with pytest.raises(UsageError, match="no model call that belongs to this cassette"):
        with use_cassette(tmp_path / "a.jsonl", mode="record"):
            with contextlib.suppress(Exception):  # openai 2.x wraps it, and a program may catch it
                client(stub.base_url).files.list()
    with use_cassette(tmp_path / "b.jsonl", mode="record", others="pass"):
        with pytest.raises(openai.NotFoundError):
            client(stub.base_url).files.list()
        ask(stub.base_url, "one")


def test_a_client_made_in_a_replay_works_after_it(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with use_cassette(path, mode="record"):
        ask(stub.base_url, "one")
    with use_cassette(path):
        one = client(stub.base_url)
        replayed = one.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "one"}]
        )
        assert replayed.choices[0].message.content == "you said one"
    answer = one.chat.completions.create(
        model="stub", messages=[{"role": "user", "content": "later"}]
    )
    assert answer.choices[0].message.content == "you said later"
    one.close()


def test_outside_a_block_requests_go_their_own_way(stub: StubServer) -> None:
    assert ask(stub.base_url, "free") == "you said free"
    assert threading.active_count() < 20


def test_one_object_is_used_by_one_block_at_a_time(tmp_path: Path, stub: StubServer) -> None:
    use = use_cassette(tmp_path / "c.jsonl", mode="auto")
    with use:
        ask(stub.base_url, "one")
        with pytest.raises(UsageError, match="has begun already"):
            use.__enter__()
    with use as session:
        ask(stub.base_url, "one")
    assert session.ledger.hits == 1


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"mode": "rewind"}, "mode 'rewind' is unknown"),
        ({"seed_policy": "dice"}, "seed_policy 'dice' is unknown"),
        ({"others": "maybe"}, "others 'maybe' is unknown"),
        ({"requests": [{"match": {"agent": "a"}, "set": {}}]}, "use {'match'"),
    ],
)
def test_unknown_options_are_refused(
    tmp_path: Path, options: dict[str, object], shown: str
) -> None:
    with pytest.raises(UsageError, match=shown.replace("{", r"\{")):
        use_cassette(tmp_path / "c.jsonl", **options)  # type: ignore[arg-type]


def test_a_missing_cassette_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CassetteAccessError, match="mode='record'"):
        use_cassette(tmp_path / "none.jsonl").__enter__()
