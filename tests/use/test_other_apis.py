"""Model APIs that are kept as they are, and the rule that says which requests belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm_repro import use_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import BackendError, ReplayMiss, StrictModeError, UsageError
from swarm_repro.intercept.routes import Belonging
from tests.support.client_library import httpx
from tests.support.scripted_server import Asked, scripted_server

NOWHERE = "http://127.0.0.1:9"


def events(*documents: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in documents
    )


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 10, "output_tokens": 2},
}
MESSAGE_EVENTS = events(
    {"type": "message_start", "message": {"id": "msg_2", "usage": {"input_tokens": 10}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "message_delta", "usage": {"input_tokens": 10, "output_tokens": 2}},
    {"type": "message_stop"},
)
RESPONSE = {
    "id": "resp_1",
    "created_at": 1,
    "error": None,
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
    "usage": {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12},
}
RESPONSE_EVENTS = events(
    {"type": "response.created", "response": {"id": "resp_2"}},
    {"type": "response.output_text.delta", "item_id": "i", "delta": "hel"},
    {"type": "response.output_text.delta", "item_id": "i", "delta": "lo"},
    {"type": "response.completed", "response": RESPONSE},
)
OLLAMA = {"message": {"content": "hello"}, "done": True, "prompt_eval_count": 10, "eval_count": 2}
OLLAMA_LINES = b"".join(
    json.dumps(one).encode() + b"\n"
    for one in (
        {"message": {"content": "hel"}, "done": False},
        {"message": {"content": "lo"}, "done": False},
        {"message": {"content": ""}, "done": True, "prompt_eval_count": 10, "eval_count": 2},
    )
)


def answers(plain: dict[str, Any], stream: bytes, content_type: str) -> Callable[[Asked], None]:
    def answer(asked: Asked) -> None:
        if json.loads(asked.body).get("stream"):
            asked.begin_stream(content_type)
            asked.send(stream)
            asked.end_stream()
        else:
            asked.json(plain)

    return answer


APIS = [
    ("/v1/messages?beta=true", answers(MESSAGE, MESSAGE_EVENTS, "text/event-stream")),
    ("/v1/responses", answers(RESPONSE, RESPONSE_EVENTS, "text/event-stream; charset=utf-8")),
    ("/api/chat", answers(OLLAMA, OLLAMA_LINES, "application/x-ndjson")),
]


@pytest.mark.parametrize(("path", "answer"), APIS, ids=[path for path, _ in APIS])
@pytest.mark.parametrize("stream", [False, True])
def test_other_apis_are_replayed_bit_for_bit_with_their_token_counts(
    tmp_path: Path, path: str, answer: Callable[[Asked], None], stream: bool
) -> None:
    cassette = tmp_path / "c.jsonl"
    headers = {"x-api-key": "sk-secret", "authorization": "Bearer sk-secret"}
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    with scripted_server(answer) as server:
        with use_cassette(cassette, mode="record"):
            recorded = httpx.post(server.root + path, json=body, headers=headers)
        again = [httpx.post(server.root + path, json=body, headers=headers).content]
    assert again == [recorded.content]
    with use_cassette(cassette):
        replayed = httpx.post(NOWHERE + path, json=body)
    assert replayed.content == recorded.content
    assert replayed.headers["content-type"] == recorded.headers["content-type"]
    (call,) = read_cassette(cassette).calls.values()
    assert call.endpoint == "opaque"
    assert call.completion.text == "hello"
    assert call.tokens == {"prompt": 10, "completion": 2, "total": 12, "cached": None}
    assert b"sk-secret" not in cassette.read_bytes()
    with pytest.raises(ReplayMiss, match="temperature"), use_cassette(cassette):
        httpx.post(NOWHERE + path, json={**body, "temperature": 1})


@pytest.mark.parametrize(
    ("path", "answer", "mark"),
    [
        (path, answer, mark)
        for (path, answer), mark in zip(APIS, ("id", "id", "created_at"), strict=True)
    ],
)
def test_recording_them_again_changes_no_byte(
    tmp_path: Path, path: str, answer: Callable[[Asked], None], mark: str
) -> None:
    cassette = tmp_path / "c.jsonl"
    numbers = iter(range(10))

    def other_id(asked: Asked) -> None:
        source: dict[str, dict[str, Any]] = {
            "/v1/messages": MESSAGE,
            "/v1/responses": RESPONSE,
            "/api/chat": OLLAMA,
        }
        plain = {**source[asked.path.partition("?")[0]], mark: f"other {next(numbers)}"}
        asked.json(plain)

    del answer
    with scripted_server(other_id) as server:
        for _ in range(2):
            with use_cassette(cassette, mode="record"):
                httpx.post(server.root + path, json={"model": "m"})
            found = cassette.read_bytes()
    assert b"other 0" in found
    assert b"other 1" not in found


@pytest.mark.parametrize(
    ("path", "method"),
    [("/tokenize", "POST"), ("/props", "GET"), ("/health", "GET"), ("/v1/models", "GET")],
)
def test_questions_beside_are_recorded_too(tmp_path: Path, path: str, method: str) -> None:
    cassette = tmp_path / "c.jsonl"
    content = {} if method == "GET" else {"json": {"content": "hi"}}
    with scripted_server(lambda asked: asked.json({"path": asked.path})) as server:
        with use_cassette(cassette, mode="record", strict=True):
            recorded = httpx.request(
                method, server.root + path, headers={"user-agent": "x"}, **content
            )
    assert recorded.json() == {"path": path}
    with use_cassette(cassette):
        assert httpx.request(method, NOWHERE + path, **content).content == recorded.content


def test_a_server_that_is_still_loading_is_asked_again_and_takes_one_place(tmp_path: Path) -> None:
    cassette = tmp_path / "c.jsonl"
    statuses = iter([503, 503, 200])

    def loading(asked: Asked) -> None:
        asked.json({"status": "ok"}, status=next(statuses))

    with scripted_server(loading) as server, use_cassette(cassette, mode="record"):
        seen = [httpx.get(f"{server.root}/health").status_code for _ in range(3)]
    assert seen == [503, 503, 200]
    with use_cassette(cassette):
        assert httpx.get(f"{NOWHERE}/health").status_code == 200


def test_a_hosted_service_is_recorded_under_its_name(tmp_path: Path) -> None:
    cassette = tmp_path / "c.jsonl"
    body = {"model": "gpt", "messages": [], "seed": 3}

    def chat(asked: Asked) -> None:
        asked.json({"id": "x", "choices": [{"message": {"content": "hi"}}]})

    with scripted_server(chat) as server:
        host = server.root.removeprefix("http://")
        with use_cassette(cassette, mode="record", hosted=[host]):
            httpx.post(f"{server.root}/v1/chat/completions", json=body)
        assert [asked.path for asked in server.asked] == ["/v1/chat/completions"]
    (model,) = read_cassette(cassette).models.values()
    assert (model.name, model.identity.label) == ("host:localhost", "hosted by localhost")
    with use_cassette(cassette):
        answer = httpx.post(f"{NOWHERE}/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    with pytest.raises(ReplayMiss, match="seed: recorded 3, asked 4"), use_cassette(cassette):
        httpx.post(f"{NOWHERE}/v1/chat/completions", json={**body, "seed": 4})


def test_strict_mode_promises_nothing_of_a_host(tmp_path: Path) -> None:
    with pytest.raises(StrictModeError, match="what computes behind localhost is not known"):
        with use_cassette(tmp_path / "c.jsonl", mode="record", strict=True):
            httpx.post(f"{NOWHERE}/v1/messages", json={})


@pytest.mark.parametrize(
    "failure",
    [
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"error": "model not found"},
    ],
)
def test_an_error_of_another_api_is_no_answer(tmp_path: Path, failure: dict[str, Any]) -> None:
    cassette = tmp_path / "c.jsonl"
    with scripted_server(lambda asked: asked.json(failure)) as server:
        with pytest.raises(BackendError, match="answered with an error"):
            with use_cassette(cassette, mode="record"):
                assert httpx.post(f"{server.root}/v1/messages", json={}).json() == failure
    assert not cassette.exists()


def test_a_stream_of_another_api_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    cassette = tmp_path / "c.jsonl"
    answer = answers(
        MESSAGE, MESSAGE_EVENTS[: MESSAGE_EVENTS.index(b"event: message_stop")], "text/event-stream"
    )
    with scripted_server(answer) as server:
        with pytest.raises(BackendError, match="broke off"):
            with use_cassette(cassette, mode="record"):
                httpx.post(f"{server.root}/v1/messages", json={"stream": True})
    assert not cassette.exists()


RULE = Belonging.of(hosts=None, hosted=["models.example.com"])
ONLY = Belonging.of(hosts=["http://box:8080/v1"], hosted=[])


@pytest.mark.parametrize(
    ("rule", "method", "url", "endpoint"),
    [
        (RULE, "POST", "http://localhost:8080/v1/chat/completions", "chat"),
        (RULE, "POST", "http://box/v1/completions", "completion"),
        (RULE, "POST", "http://[::1]:1/completion", "completion"),
        (RULE, "POST", "http://127.0.0.2/v1/embeddings", "embedding"),
        (RULE, "POST", "https://api.openai.com/v1/chat/completions", "opaque"),
        (RULE, "POST", "https://api.anthropic.com/v1/messages", "opaque"),
        (RULE, "POST", "https://models.example.com/v1/chat/completions", "opaque"),
        (RULE, "POST", "http://localhost/api/embeddings", "opaque"),
        (RULE, "GET", "http://localhost/v1/models/one", "opaque"),
        (RULE, "POST", "https://shop.example.com/v1/messages", None),
        (RULE, "GET", "https://shop.example.com/health", None),
        (RULE, "POST", "http://box/tokenize", None),
        (RULE, "GET", "http://localhost/v1/chat/completions", None),
        (RULE, "POST", "http://localhost/v1/files", None),
        (ONLY, "POST", "http://box:8080/v1/chat/completions", "chat"),
        (ONLY, "POST", "http://box:8080/tokenize", "opaque"),
        (ONLY, "POST", "http://box:8081/v1/chat/completions", None),
        (ONLY, "POST", "http://localhost:8080/v1/chat/completions", None),
    ],
)
def test_a_rule_says_which_requests_belong(
    rule: Belonging, method: str, url: str, endpoint: str | None
) -> None:
    route = rule.route(method, url)
    assert (route.endpoint if route else None) == endpoint


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_what_does_not_belong_is_refused_or_passes_and_is_never_recorded(
    tmp_path: Path, mode: str
) -> None:
    cassette = tmp_path / "c.jsonl"
    with scripted_server(lambda asked: asked.json({"choices": []})) as server:
        with use_cassette(cassette, mode="record", hosts=["elsewhere"], others="pass"):
            assert httpx.post(f"{server.root}/v1/messages", json={}).status_code == 200
        assert read_cassette(cassette).calls == {}
        before = len(server.asked)
        refused = ReplayMiss if mode == "replay" else UsageError
        with pytest.raises(refused, match="no model call that belongs to this cassette"):
            with use_cassette(cassette, mode=mode, hosts=["elsewhere"]):
                httpx.post(f"{server.root}/v1/messages", json={})
        assert len(server.asked) == before


def test_a_key_in_a_query_is_neither_kept_nor_part_of_the_key(tmp_path: Path) -> None:
    cassette = tmp_path / "c.jsonl"
    with scripted_server(lambda asked: asked.json(MESSAGE)) as server:
        with use_cassette(cassette, mode="record"):
            httpx.post(f"{server.root}/v1/messages?key=sk-secret&beta=true", json={})
        (asked,) = server.asked
    assert asked.path == "/v1/messages?key=sk-secret&beta=true"
    assert b"sk-secret" not in cassette.read_bytes()
    with use_cassette(cassette):
        assert httpx.post(f"{NOWHERE}/v1/messages?beta=true", json={}).json() == MESSAGE
