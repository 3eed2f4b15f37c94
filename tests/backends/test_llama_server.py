"""How a llama-server is identified, and the requests it gets."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.backends import llama_server as module
from swarm_repro.backends.base import Bound
from swarm_repro.backends.llama_server import LlamaServer, parse_address
from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    BackendUnreachableError,
    StrictModeError,
    UsageError,
)
from swarm_repro.request import Endpoint, Request
from swarm_repro.weights import hash_file
from tests.support.page_server import Pages, Turns, about, serving, write_gguf
from tests.support.tiny_model import make_binding

MESSAGES = [{"role": "user", "content": "Hi"}]


@dataclass
class Started:
    """The record of a server started here."""

    flags: tuple[str, ...] = ("-np", "1", "--port", "8080")
    files: tuple[Path, ...] = ()
    declared_overrides: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


@contextmanager
def talking(pages: dict[str, Any], **given: Any) -> Iterator[tuple[LlamaServer, Pages]]:
    with serving(pages) as server, closing(LlamaServer(server.root, **given)) as client:
        yield client, server


def identified(pages: dict[str, Any], started: Started | None = None) -> Bound:
    given = {} if started is None else {"started": lambda _port: started}
    with talking(pages, **given) as (client, _):
        return client.identify("small")


def request(endpoint: Endpoint = "chat", **body: object) -> Request:
    path = LlamaServer.paths[endpoint]
    return Request(endpoint, make_binding(), path, {"messages": MESSAGES, **body})


# --- Which model it has.


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("model") / "m.gguf")


def test_a_local_file_the_server_can_have_loaded_is_known_by_its_digest(gguf: Path) -> None:
    bound = identified(about(gguf))
    assert bound.binding.identity.kind == "gguf"
    assert bound.binding.identity.content == {"files": [hash_file(gguf)]}


FINGERPRINT = ("n_params", "size", "n_vocab", "n_embd", "n_ctx_train", "ftype")


@pytest.mark.parametrize(
    "meta",
    [
        {"n_params": 11, "size": 48},
        {"n_params": 12, "size": 47},
        {"n_params": 48, "size": 12},
        {"size": 48},
        {"n_params": 12},
        {},
        {"n_params": 1, "size": 2, "n_vocab": 3, "n_embd": 4, "n_ctx_train": 5, "ftype": "q"},
    ],
)
def test_a_file_that_is_another_size_than_the_served_model_is_not_believed(
    meta: dict[str, object], gguf: Path
) -> None:
    bound = identified(about(gguf, **{"/v1/models": {"data": [{"id": "small", "meta": meta}]}}))
    assert bound.binding.identity.kind == "fingerprint"
    assert bound.binding.identity.content == {name: meta.get(name) for name in FINGERPRINT}


def test_a_missing_file_leaves_a_fingerprint(tmp_path: Path, gguf: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        assert identified(about(path)).binding.identity.kind == "fingerprint"
    props = {**about(gguf)["/props"], "model_path": None}
    assert identified(about(gguf, **{"/props": props})).binding.identity.kind == "fingerprint"


def test_a_file_here_says_nothing_of_a_server_elsewhere(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaServer, "is_local", False)
    bound = identified(about(gguf), Started())
    assert bound.binding.identity.kind == "fingerprint"
    assert bound.environment is not None
    assert bound.environment.content["cpu"] is None
    assert bound.environment.content["flags"] is None, "a server on that port here is another one"
    assert bound.binding.undeclared


def test_all_files_of_a_split_model_are_digested(tmp_path: Path) -> None:
    files = [write_gguf(tmp_path / f"m-0000{n}-of-00002.gguf", n_params=n) for n in (1, 2)]
    meta = {"n_params": 3, "size": 12}
    pages = about(files[0], **{"/v1/models": {"data": [{"id": "small", "meta": meta}]}})
    assert identified(pages).binding.identity.content == {"files": [hash_file(f) for f in files]}


def test_adapters_belong_to_the_model_in_their_order(gguf: Path, tmp_path: Path) -> None:
    adapters = [write_gguf(tmp_path / f"{n}.gguf", n_params=n) for n in (3, 5)]
    listed = [{"id": n, "path": str(a), "scale": n + 0.5} for n, a in enumerate(adapters)]
    bound = identified(about(gguf, **{"/lora-adapters": listed}))
    assert bound.binding.identity.content == {
        "files": [hash_file(gguf)],
        "lora": [
            {"sha256": hash_file(adapters[0]), "scale": 0.5},
            {"sha256": hash_file(adapters[1]), "scale": 1.5},
        ],
    }


def test_invalid_adapters_are_an_error(gguf: Path) -> None:
    with pytest.raises(BackendResponseError, match=r"/lora-adapters did not answer with a list$"):
        identified(about(gguf, **{"/lora-adapters": {"error": "no"}}))


def test_flags_that_bend_the_model_belong_to_it_with_the_digests_of_their_files(
    gguf: Path, tmp_path: Path
) -> None:
    other = write_gguf(tmp_path / "draft.gguf", n_params=2)
    digest = f"sha256:{hash_file(other)}"
    started = Started(
        declared_overrides=(
            "--rope-scale=2.5",
            "--no-mmproj-offload",
            f"--model-draft={other}",
            f"--lora-scaled={other}:0.5,{tmp_path}/gone.gguf:2",
            f"--mmproj={tmp_path}/gone.gguf",
        )
    )
    assert identified(about(gguf), started).binding.identity.content == {
        "files": [hash_file(gguf)],
        "overrides": [
            "--rope-scale=2.5",
            "--no-mmproj-offload",
            f"--model-draft={digest}",
            f"--lora-scaled={digest}:0.5,gone.gguf:2",
            "--mmproj=gone.gguf",
        ],
    }


def test_a_server_started_here_without_such_flags_has_none(gguf: Path) -> None:
    bound = identified(about(gguf), Started())
    assert bound.binding.identity.content == {"files": [hash_file(gguf)]}
    assert bound.binding.undeclared == ()


def test_settings_hidden_by_a_foreign_server_are_undeclared(gguf: Path) -> None:
    assert identified(about(gguf)).binding.undeclared == (
        "control_vectors", "draft", "kv_overrides", "mmproj", "rope_overrides",
    )  # fmt: skip


def test_the_server_is_looked_up_by_its_port(gguf: Path) -> None:
    ports: list[int] = []

    def look_up(port: int) -> None:
        ports.append(port)

    with talking(about(gguf), started=look_up) as (client, server):
        client.identify("small")
        assert ports == [server.port]


@pytest.mark.parametrize(
    ("models", "n_params"),
    [
        ([{"id": "other", "meta": {"n_params": 1}}, {"id": "small", "meta": {"n_params": 2}}], 2),
        ([{"id": "other", "meta": {"n_params": 1}}, {"id": "more", "meta": {"n_params": 2}}], 1),
        ([{"id": "small", "meta": None}], None),
        ([{"id": "small"}], None),
    ],
)
def test_the_model_with_the_name_is_used_or_else_the_first(
    models: list[dict[str, Any]], n_params: int | None
) -> None:
    bound = identified(about("/nowhere.gguf", **{"/v1/models": {"data": models}}))
    assert bound.binding.identity.content["n_params"] == n_params


@pytest.mark.parametrize("listed", [{"data": []}, {"data": None}, {}])
def test_a_server_without_a_model_is_refused(listed: object) -> None:
    with pytest.raises(BackendResponseError) as raised:
        identified(about("/nowhere.gguf", **{"/v1/models": listed}))
    assert str(raised.value) == "/v1/models lists no model; is this a llama-server?"


# --- Template, defaults, environment.


def test_the_template_is_known_by_its_digest(gguf: Path) -> None:
    binding = identified(about(gguf)).binding
    assert binding.template == {"sha256": text_sha256("{{ messages }}")}
    assert (binding.name, binding.backend) == ("small", "llama-server")
    props = {**about(gguf)["/props"], "chat_template": None}
    assert identified(about(gguf, **{"/props": props})).binding.template is None


def test_defaults_are_those_shown_over_those_that_a_probe_was_answered_with() -> None:
    defaults = identified(about("/nowhere.gguf")).binding.defaults
    expected = {"temperature": 0.8, "top_k": 7}
    assert defaults == {"chat": expected, "completion": expected}


def test_limits_of_the_probe_itself_are_no_defaults() -> None:
    limits = {"max_tokens": 1, "n_predict": 1, "n": 1}
    answer = {"__verbose": {"generation_settings": {**limits, "top_k": 7}}}
    found = identified(about("/nowhere.gguf", **{"/v1/chat/completions": answer})).binding.defaults[
        "chat"
    ]
    assert found == {"temperature": 0.8, "top_k": 7}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"params": {"grammar": "root ::= x", "top_p": 0.5}}, {"grammar": "root ::= x"}),
        ({"params": {"grammar": "", "top_p": 0.5}}, {}),
        ({"params": None}, {"top_p": None}),
        (None, {"top_p": None}),
    ],
)
def test_a_default_grammar_counts_unless_it_is_empty(
    shown: object, expected: dict[str, object]
) -> None:
    props = {**about("/nowhere.gguf")["/props"], "default_generation_settings": shown}
    defaults = identified(about("/nowhere.gguf", **{"/props": props})).binding.defaults["chat"]
    known = {"top_p": 0.5, **expected, "temperature": 0.5, "top_k": 7}
    assert defaults == {name: value for name, value in known.items() if value is not None}


@pytest.mark.parametrize(
    "answer", [{"choices": []}, {"__verbose": None}, {"__verbose": {"generation_settings": 3}}, []]
)
def test_a_probe_that_shows_nothing_leaves_the_defaults_that_are_shown(answer: object) -> None:
    pages = about("/nowhere.gguf", **{"/v1/chat/completions": answer})
    assert identified(pages).binding.defaults["chat"] == {"temperature": 0.8}


def test_the_probe_asks_for_one_token_and_shows_the_settings() -> None:
    with talking(about("/nowhere.gguf")) as (client, server):
        client.identify("small")
    assert server.paths() == ["/props", "/v1/models", "/v1/chat/completions"]
    assert server.asked[-1].body == {
        "messages": [{"role": "user", "content": "."}],
        "max_tokens": 1,
        "seed": 1,
        "verbose": True,
        "cache_prompt": False,
    }


def test_a_probe_that_is_refused_is_an_error_with_what_the_server_said() -> None:
    refused = (503, b"\xff" + b"x" * 400)
    pages = about("/nowhere.gguf", **{"/v1/chat/completions": refused})
    with talking(pages) as (client, server), pytest.raises(BackendResponseError) as raised:
        client.identify("small")
    assert str(raised.value) == (f"{server.root} answered a probe with HTTP 503: \ufffd{'x' * 299}")
    assert raised.value.status == 503


def test_the_environment_is_that_of_this_machine_and_the_program(tmp_path: Path) -> None:
    program, library = tmp_path / "llama-server", tmp_path / "libllama.so"
    program.write_bytes(b"program")
    library.write_bytes(b"library")
    started = Started(files=(program, library), variables={"GGML_A": "1"})
    environment = identified(about("/nowhere.gguf"), started).environment
    assert environment is not None
    content = environment.content
    assert content["backend"] == "llama-server"
    assert content["build"] == "b7"
    assert content["binary_sha256"] == sha256_hex(
        encode_json(
            [
                ["llama-server", hashlib.sha256(b"program").hexdigest()],
                ["libllama.so", hashlib.sha256(b"library").hexdigest()],
            ]
        )
    )
    assert content["flags"] == ["-np", "1"]
    assert content["variables"] == {"GGML_A": "1"}
    assert content["settings"] == {"total_slots": 1, "n_ctx": 4096}
    assert content["system"] is not None


def test_program_and_flags_of_a_foreign_server_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GGML_OF_THIS_PROCESS", "1")
    props = {**about("")["/props"], "build_info": 7, "default_generation_settings": None}
    environment = identified(about("/nowhere.gguf", **{"/props": props})).environment
    assert environment is not None
    content = environment.content
    assert (content["binary_sha256"], content["flags"], content["build"]) == (None, None, None)
    assert content["variables"] == {}
    assert content["settings"] == {"total_slots": 1, "n_ctx": None}


@pytest.mark.parametrize(
    ("path", "page"), [("/props", (404, {})), ("/props", []), ("/v1/models", (500, {}))]
)
def test_a_server_unlike_llama_server_is_named_with_the_page_that_differs(
    path: str, page: Any
) -> None:
    status = page[0] if isinstance(page, tuple) else 200
    with talking(about("/nowhere.gguf", **{path: page})) as (client, server):
        with pytest.raises(BackendResponseError) as raised:
            client.identify("small")
        assert str(raised.value) == (
            f"{server.root}{path} answered HTTP {status}, not like a llama-server"
        )
        assert raised.value.status == status


# --- Strict mode.


@pytest.mark.parametrize("slots", [0, 2, None])
def test_strict_mode_needs_one_slot(slots: int | None) -> None:
    with talking({"/props": {"total_slots": slots, "chat_template": ""}}) as (client, server):
        with pytest.raises(StrictModeError) as raised:
            client.check_strict()
        assert str(raised.value) == (
            f"{server.root} has {slots} slots and strict mode needs one: start it with"
            " --parallel 1, or with: swarm-repro server start --profile cpu-strict"
        )


def test_strict_mode_needs_a_template_without_a_date() -> None:
    for template in ("{{ messages }}", None):
        with talking({"/props": {"total_slots": 1, "chat_template": template}}) as (client, _):
            client.check_strict()
    page = {"total_slots": 1, "chat_template": "{{ strftime_now('%d') }}"}
    with talking({"/props": page}) as (client, server):
        with pytest.raises(StrictModeError) as raised:
            client.check_strict()
        assert str(raised.value).startswith(
            f"the chat template of {server.root} prints today's date (strftime_now), so"
        )


def test_strict_mode_computes_every_prompt_anew() -> None:
    assert LlamaServer().strict_fields() == {"cache_prompt": False}


# --- Requests and answers.


def test_any_status_is_an_answer_as_it_came() -> None:
    with talking({"/v1/chat/completions": (418, {"odd": True})}) as (client, server):
        answer = client.send(request(seed=3))
    assert (answer.status, answer.body) == (418, b'{"odd": true}')
    assert answer.content_type == "application/json; charset=utf-8"
    assert answer.duration_s > 0
    asked = server.asked[0]
    assert (asked.method, asked.body) == ("POST", {"messages": MESSAGES, "seed": 3})
    assert asked.headers["authorization"] == "Bearer none"


def test_a_key_goes_with_every_request() -> None:
    with talking(about("/nowhere.gguf"), api_key="secret") as (client, server):
        client.identify("small")
    assert {one.headers["authorization"] for one in server.asked} == {"Bearer secret"}


def test_a_refused_request_is_not_sent_again() -> None:
    with talking({"/v1/chat/completions": (503, {})}) as (client, server):
        assert client.send(request()).status == 503
        assert len(server.asked) == 1


def test_only_a_connection_that_was_streamed_over_is_given_up() -> None:
    with talking({"/v1/chat/completions": {"choices": []}}) as (client, server):
        bodies: list[dict[str, Any]] = [{}, {"stream": False}, {"stream": True}, {}]
        for fields in bodies:
            client.send(request(**fields))
    closes = [one.headers.get("connection") == "close" for one in server.asked]
    assert closes == [False, False, True, False]
    first, second, third, fourth = (one.connection for one in server.asked)
    assert first == second == third != fourth


def test_no_connection_says_where_and_how_to_start_a_server() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with (
        closing(LlamaServer(f"http://127.0.0.1:{port}")) as client,
        pytest.raises(BackendUnreachableError) as raised,
    ):
        client.send(request())
    said = str(raised.value)
    assert said.startswith(f"no connection to http://127.0.0.1:{port}/v1/chat/completions (")
    assert said.endswith(
        "; start a llama-server with: swarm-repro server start --model <file.gguf>"
    )
    assert "refused" in said
    assert raised.value.transient


def test_a_broken_connection_is_no_answer() -> None:
    with (
        talking({"/v1/chat/completions": (None, None)}) as (client, _),
        pytest.raises(BackendUnreachableError, match="no connection to"),
    ):
        client.send(request())


def test_an_answer_that_does_not_come_in_time_is_an_error_with_the_limit() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        root = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with closing(LlamaServer(root, timeout_s=0.05)) as client:
            with pytest.raises(BackendError) as raised:
                client.send(request())
            assert str(raised.value) == (f"{root}/v1/chat/completions did not answer within 0.05 s")
            assert not isinstance(raised.value, BackendUnreachableError)


def test_requests_that_compute_nothing_have_their_own_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SIDE_LIMIT_S", 0.05)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with (
            closing(LlamaServer(f"http://127.0.0.1:{sock.getsockname()[1]}")) as client,
            pytest.raises(BackendError, match=r"/props did not answer within 0\.05 s"),
        ):
            client.check_strict()


def test_a_client_that_was_closed_can_be_used_again() -> None:
    with talking({"/v1/chat/completions": {"choices": []}}) as (client, server):
        client.send(request())
        client.close()
        client.close()
        assert client.send(request()).status == 200
        assert len({one.connection for one in server.asked}) == 2


# --- The rendered prompt.


def test_the_rendered_prompt_of_a_chat_is_noted_by_its_digest() -> None:
    with talking({"/apply-template": {"prompt": "<user>Hi"}}) as (client, server):
        assert client.render(request(seed=3))() == text_sha256("<user>Hi")
        assert client.render(request())() == text_sha256("<user>Hi")
    assert server.asked[0].body == {"messages": MESSAGES, "seed": 3}
    assert server.asked[0].method == "POST"


def test_a_plain_prompt_is_not_rendered() -> None:
    with talking({}) as (client, server):
        assert client.render(request("completion"))() is None
        assert server.asked == []


@pytest.mark.parametrize("page", [(404, {}), (400, {"prompt": "x"}), {}, {"prompt": 3}, []])
def test_messages_that_the_server_does_not_render_have_no_digest(page: Any) -> None:
    with talking({"/apply-template": page}) as (client, server):
        assert client.render(request())() is None
        assert len(server.asked) == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait, without waiting."""
    found: list[float] = []

    class Time:
        sleep = staticmethod(found.append)
        monotonic = staticmethod(lambda: 0.0)

    monkeypatch.setattr(module, "time", Time)
    return found


@pytest.mark.parametrize(
    ("turns", "digest", "asked", "waited"),
    [
        ([(503, {}), {"prompt": "x"}], text_sha256("x"), 2, [0.2]),
        ([(503, {}), (503, {}), {"prompt": "x"}], text_sha256("x"), 3, [0.2, 1.0]),
        ([(503, {}), (503, {}), (503, {}), {"prompt": "x"}], None, 3, [0.2, 1.0]),
        ([(None, None), {"prompt": "x"}], text_sha256("x"), 2, [0.2]),
    ],
)
def test_a_server_that_is_busy_is_asked_to_render_thrice(
    turns: list[Any], digest: str | None, asked: int, waited: list[float], waits: list[float]
) -> None:
    with talking({"/apply-template": Turns(turns)}) as (client, server):
        assert client.render(request())() == digest
        assert len(server.asked) == asked
    assert waits == waited


def test_a_connection_that_breaks_thrice_is_an_error(waits: list[float]) -> None:
    with talking({"/apply-template": (None, None)}) as (client, server):
        digest = client.render(request())
        with pytest.raises(BackendUnreachableError):
            digest()
        assert len(server.asked) == 3
    assert waits == [0.2, 1.0]


def test_a_server_that_does_not_render_in_time_is_not_asked_again(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SIDE_LIMIT_S", 0.05)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with closing(LlamaServer(f"http://127.0.0.1:{sock.getsockname()[1]}")) as client:
            digest = client.render(request())
            with pytest.raises(BackendError, match="did not answer within"):
                digest()
    assert waits == []


# --- Addresses.


@pytest.mark.parametrize(
    ("base_url", "root", "address"),
    [
        ("http://localhost:8080/v1", "http://localhost:8080", ("localhost", 8080)),
        ("http://localhost:8080/v1/", "http://localhost:8080", ("localhost", 8080)),
        ("http://localhost:8080/", "http://localhost:8080", ("localhost", 8080)),
        ("http://example.org", "http://example.org", ("example.org", 80)),
        ("https://example.org/v1", "https://example.org", ("example.org", 443)),
        ("http://[::1]:9/llama/v1", "http://[::1]:9/llama", ("::1", 9)),
    ],
)
def test_an_address_is_the_root_or_its_v1(
    base_url: str, root: str, address: tuple[str, int]
) -> None:
    server = LlamaServer(base_url)
    assert (server.root, server.address) == (root, root)
    assert parse_address(base_url) == address


@pytest.mark.parametrize("base_url", ["localhost:8080", "ftp://localhost", "http://", "/v1", ""])
def test_an_invalid_http_address_is_refused(base_url: str) -> None:
    with pytest.raises(UsageError) as raised:
        LlamaServer(base_url)
    assert str(raised.value) == (
        f"base_url {base_url!r} is no http(s) address; write http://localhost:8080/v1"
    )


@pytest.mark.parametrize("base_url", ["http://localhost:80800", "http://[::1"])
def test_a_broken_address_is_refused_with_the_reason(base_url: str) -> None:
    with pytest.raises(UsageError, match="is no address: "):
        LlamaServer(base_url)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((name, True) for name in ("localhost", "127.0.0.1", "127.8.9.1", "[::1]")),
        *((name, False) for name in ("example.org", "192.168.0.1", "0.0.0.0", "[2001:db8::1]")),
    ],
)
def test_a_server_is_local_on_the_loopback_alone(host: str, local: bool) -> None:
    assert LlamaServer(f"http://{host}:8080").is_local is local


def test_by_default_the_server_is_on_port_8080() -> None:
    assert LlamaServer().root == "http://localhost:8080"
