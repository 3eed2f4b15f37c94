"""Requests that are model calls, those that belong to a cassette, and their kinds."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from swarm_repro.intercept.routes import Belonging, Route, host_of

LOCAL = "http://127.0.0.1:8080"
FAR = "https://llm.example.com"


def route(method: str, url: str, **rule: list[str]) -> Route | None:
    return Belonging.of(**{"hosts": None, "hosted": [], **rule}).route(method, url)  # type: ignore[arg-type]


@pytest.mark.parametrize("root", [LOCAL, FAR, "https://[::1]:8443"])
@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/completions", "completion"),
        ("/v1/embeddings", "embedding"),
    ],
)
def test_calls_of_openais_api_belong_wherever_they_go(root: str, path: str, endpoint: str) -> None:
    found = route("POST", root + path)
    assert found is not None
    assert (found.endpoint, found.root, found.path, found.asks_model) == (
        endpoint,
        root,
        path,
        True,
    )
    assert not found.is_opaque


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [("/completion", "completion"), ("/infill", "completion"), ("/embedding", "embedding")],
)
def test_calls_of_llama_servers_own_belong_on_known_hosts_only(path: str, endpoint: str) -> None:
    found = route("POST", LOCAL + path)
    assert found == Route(endpoint, LOCAL, "localhost", path, True)  # type: ignore[arg-type]
    assert route("POST", FAR + path) is None
    assert route("GET", LOCAL + path) is None
    listed = route("POST", FAR + path, hosted=["llm.example.com"])
    assert listed == Route("opaque", FAR, "llm.example.com", f"POST {path}", True)


@pytest.mark.parametrize(
    ("method", "path", "asks_model"),
    [
        ("POST", "/v1/messages", True),
        ("POST", "/v1/responses", True),
        ("POST", "/api/chat", True),
        ("POST", "/api/generate", True),
        ("POST", "/api/embed", True),
        ("POST", "/api/embeddings", True),
        ("POST", "/v1/rerank", True),
        ("POST", "/rerank", True),
        ("POST", "/v1/messages/count_tokens", False),
        ("POST", "/tokenize", False),
        ("POST", "/detokenize", False),
        ("POST", "/apply-template", False),
        ("POST", "/api/show", False),
        ("GET", "/health", False),
        ("GET", "/props", False),
        ("GET", "/slots", False),
        ("GET", "/v1/models", False),
        ("GET", "/lora-adapters", False),
        ("GET", "/api/tags", False),
        ("GET", "/api/version", False),
        ("GET", "/v1/models/gpt-x", False),
    ],
)
def test_other_apis_are_opaque_and_belong_on_known_hosts_only(
    method: str, path: str, asks_model: bool
) -> None:
    found = route(method, LOCAL + path)
    assert found is not None
    assert found.is_opaque
    assert (found.endpoint, found.host, found.path, found.asks_model) == (
        "opaque",
        "localhost",
        f"{method} {path}",
        asks_model,
    )
    assert found.root in (LOCAL, f"{LOCAL}/v1")
    assert route(method, FAR + path) is None
    for known in ("https://api.openai.com", "https://api.anthropic.com"):
        elsewhere = route(method, known + path)
        assert elsewhere is not None
        assert elsewhere.host == known.removeprefix("https://")
    assert route("PUT", LOCAL + path) is None


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", f"{LOCAL}/v1/chat/completions"),
        ("POST", f"{LOCAL}/v1/files"),
        ("GET", f"{LOCAL}/"),
        ("POST", f"{LOCAL}/props"),
        ("POST", f"{LOCAL}/v1/models/x"),
        ("HEAD", f"{LOCAL}/v1/models"),
    ],
)
def test_other_requests_are_no_model_calls(method: str, url: str) -> None:
    assert route(method, url) is None


@pytest.mark.parametrize(
    ("url", "root"),
    [
        (f"{LOCAL}/v1/chat/completions", LOCAL),
        (f"{LOCAL}/chat/completions", LOCAL),
        (f"{LOCAL}/proxy/v1/chat/completions", f"{LOCAL}/proxy"),
        (f"{LOCAL}/proxy/completion", f"{LOCAL}/proxy"),
        (f"{LOCAL}/proxy/v1/messages", f"{LOCAL}/proxy"),
        ("http://me:pw@localhost:1/v1/embeddings", "http://me:pw@localhost:1"),
    ],
)
def test_the_root_of_a_server_is_what_stands_before_the_path_of_its_api(
    url: str, root: str
) -> None:
    found = route("POST", url)
    assert found is not None
    assert found.root == root


def test_a_query_is_kept_but_for_the_secrets_in_it() -> None:
    query = "alt=sse&Key=1&api_key=2&api-key=3&apikey=4&token=5&access_token=6&beta=true"
    found = route("POST", f"{LOCAL}/v1/messages?{query}")
    assert found is not None
    assert found.path == "POST /v1/messages?alt=sse&beta=true"
    only = route("POST", f"{LOCAL}/v1/messages?key=1")
    assert only is not None
    assert only.path == "POST /v1/messages"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8080/x", "localhost"),
        ("http://127.8.8.8/x", "localhost"),
        ("http://[::1]/x", "localhost"),
        ("http://LocalHost/x", "localhost"),
        ("http://10.0.0.1/x", "10.0.0.1"),
        ("https://API.Example.com/x", "api.example.com"),
        ("nonsense", ""),
    ],
)
def test_names_of_this_machine_are_one_name(url: str, host: str) -> None:
    assert host_of(urlsplit(url)) == host


@pytest.mark.parametrize(
    ("listed", "url", "belongs"),
    [
        (["llm.example.com"], "https://llm.example.com/v1/chat/completions", True),
        (["LLM.example.com"], "https://llm.example.com:444/v1/chat/completions", True),
        (["llm.example.com:443"], "https://llm.example.com/v1/chat/completions", True),
        (["llm.example.com:80"], "http://llm.example.com/v1/chat/completions", True),
        (["llm.example.com:80"], "https://llm.example.com/v1/chat/completions", False),
        (["https://llm.example.com/v1"], "https://llm.example.com/v1/messages", True),
        (["http://llm.example.com:99/v1"], "http://llm.example.com:99/v1/messages", True),
        (["http://llm.example.com:99/v1"], "http://llm.example.com:98/v1/messages", False),
        (["127.0.0.1:8080"], "http://localhost:8080/v1/chat/completions", True),
        (["localhost"], "http://[::1]:9/completion", True),
        (["a.example", "b.example"], "http://b.example/v1/messages", True),
        (["a.example"], "http://b.example/v1/chat/completions", False),
        ([], "http://localhost/v1/chat/completions", False),
    ],
)
def test_only_requests_to_named_hosts_belong(listed: list[str], url: str, belongs: bool) -> None:
    found = route("POST", url, hosts=listed)
    assert (found is not None) is belongs
    if found is not None and "messages" not in url:
        assert not found.is_opaque


def test_a_call_of_a_host_that_is_no_llama_server_is_opaque() -> None:
    url = f"{FAR}/v1/chat/completions"
    expected = Route("opaque", FAR, "llm.example.com", "POST /v1/chat/completions", True)
    assert route("POST", url, hosted=["llm.example.com:443"]) == expected
    assert route("POST", url, hosts=["llm.example.com"], hosted=["llm.example.com"]) == expected
    assert route("POST", url, hosts=["other"], hosted=["llm.example.com"]) is None
    service = route("POST", "https://api.openai.com/v1/chat/completions")
    assert service is not None
    assert service.is_opaque
    messages = route("POST", f"{FAR}/v1/messages?a=1", hosted=["llm.example.com"])
    assert messages is not None
    assert messages.path == "POST /v1/messages?a=1"
