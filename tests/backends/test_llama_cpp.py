"""The backend around llama-cpp-python: loading, resetting, refusing and noting."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.backends.llama_cpp import LlamaCpp, load_tokenizer, unload_models
from swarm_repro.canonical import encode_json, sha256_hex, text_sha256
from swarm_repro.completion import IN_PROCESS, IN_PROCESS_STREAM
from swarm_repro.errors import (
    BackendError,
    BackendResponseError,
    ModelFileError,
    RequestError,
    StrictModeError,
    UsageError,
)
from swarm_repro.request import Endpoint, Request
from swarm_repro.weights import hash_file
from tests.support.llama_cpp_stand_in import Llama, LlamaGrammar, Number
from tests.support.tiny_model import make_binding

MESSAGES = [{"role": "user", "content": "Hi"}]
ANSWER = {"choices": [{"message": {"content": "yes"}}]}


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def asked(endpoint: Endpoint = "chat", *, path: str | None = None, **body: object) -> Request:
    return Request(endpoint, make_binding(), path or LlamaCpp.paths[endpoint], body)


# --- Loading.


def test_a_model_is_loaded_at_the_first_call_and_shared_by_equal_backends(
    library: type[Llama], gguf: Path
) -> None:
    library.answer = ANSWER
    agents = [LlamaCpp(gguf, n_ctx=512, n_threads=2, n_batch=None, verbose=True) for _ in "abc"]
    other = LlamaCpp(gguf, n_ctx=1024, n_threads=2)
    assert library.made == []
    for agent in (*agents, other):
        agent.send(asked(messages=MESSAGES, seed=1))
    assert [llama.settings for llama in library.made] == [
        {
            "model_path": str(gguf),
            "n_ctx": n_ctx,
            "n_threads": 2,
            "n_threads_batch": 2,
            "flash_attn": False,
            "verbose": False,
        }
        for n_ctx in (512, 1024)
    ]
    assert all(llama.as_own_traffic for llama in library.made)
    assert len({agent.address for agent in agents}) == 1
    assert other.address != agents[0].address
    assert (agents[0].name, agents[0].model_path) == ("m.gguf", gguf)


def test_by_default_the_library_chooses_the_threads(gguf: Path, library: type[Llama]) -> None:
    library.answer = ANSWER
    LlamaCpp(gguf, flash_attn=True, n_threads_batch=3).send(asked(seed=1))
    assert library.made[0].settings == {
        "model_path": str(gguf),
        "n_ctx": 4096,
        "n_threads": None,
        "n_threads_batch": 3,
        "flash_attn": True,
        "verbose": False,
    }


def test_a_model_that_was_unloaded_is_closed_and_loaded_again(
    library: type[Llama], gguf: Path
) -> None:
    library.answer = ANSWER
    agent = LlamaCpp(gguf)
    agent.send(asked(seed=1))
    agent.close()
    assert library.made[0].done[-1] != "close", "it is shared"
    unload_models()
    unload_models()
    assert library.made[0].done.count("close") == 1
    agent.send(asked(seed=1))
    assert len(library.made) == 2


def test_a_file_that_llama_cpp_cannot_load_is_an_error(library: type[Llama], gguf: Path) -> None:
    library.refuses = ValueError("no tensors")
    with pytest.raises(BackendError) as raised:
        LlamaCpp(gguf).send(asked(seed=1))
    assert str(raised.value) == f"llama.cpp cannot load {gguf}: no tensors"


def test_without_the_library_the_error_says_how_to_get_it(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unload_models()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    for ask in (
        lambda: LlamaCpp(gguf).send(asked(seed=1)),
        lambda: LlamaCpp(gguf).identify(),
        lambda: load_tokenizer(gguf),
    ):
        with pytest.raises(UsageError) as raised:
            ask()
        assert str(raised.value) == (
            "llama-cpp-python is not installed; run: pip install 'swarm-repro[llama_cpp]'"
        )


@pytest.mark.parametrize(
    "name", ["chat_handler", "draft_model", "tokenizer", "kv_overrides", "lora_base"]
)
def test_a_setting_that_cannot_be_recorded_is_refused(name: str, gguf: Path) -> None:
    given: dict[str, Any] = {name: "something"}
    with pytest.raises(UsageError) as raised:
        LlamaCpp(gguf, **given)
    assert str(raised.value) == f"llama_cpp.Llama({name}=…) cannot be recorded; leave it out"
    given[name] = None
    LlamaCpp(gguf, **given)


# --- Which model it is.


def test_the_model_is_its_file_its_template_and_the_librarys_defaults(
    library: type[Llama], gguf: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.gguf"
    lora.write_bytes(b"GGUF lora")
    model = LlamaCpp(gguf, n_threads=2, lora_path=str(lora), rope_freq_base=2.0, pooling_type=1)
    bound = model.identify("small")
    binding = bound.binding
    assert (binding.name, binding.backend) == ("small", "llama-cpp-python")
    assert binding.identity.kind == "gguf"
    assert binding.identity.content == {
        "files": [hash_file(gguf)],
        "lora": [{"sha256": hash_file(lora), "scale": 1.0}],
        "overrides": {"rope_freq_base": 2.0, "pooling_type": 1},
    }
    assert binding.template == {"sha256": text_sha256("{{ messages }}")}
    assert binding.defaults == {
        "chat": {"temperature": 0.2, "top_k": 40, "stop": []},
        "completion": {"top_p": 0.95},
    }
    assert binding.undeclared == ()
    assert bound.environment is not None
    content = bound.environment.content
    assert (content["backend"], content["build"]) == ("llama-cpp-python", "9.8.7")
    assert content["cpu"] is not None
    assert content["settings"] == {
        "n_ctx": 4096,
        "n_threads": 2,
        "n_threads_batch": 2,
        "flash_attn": False,
        "rope_freq_base": 2.0,
        "pooling_type": 1,
    }


def test_the_number_of_threads_chosen_by_the_library_is_noted(
    library: type[Llama], gguf: Path
) -> None:
    bound = LlamaCpp(gguf, lora_path="", lora_scale=2.0).identify()
    assert bound.binding.name == "m.gguf"
    assert bound.binding.identity.content == {"files": [hash_file(gguf)]}
    assert bound.environment is not None
    settings: Any = bound.environment.content["settings"]
    assert (settings["n_threads"], settings["n_threads_batch"]) == (8, 16)


def test_an_adapters_scale_is_part_of_the_model(
    library: type[Llama], gguf: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.gguf"
    lora.write_bytes(b"GGUF lora")
    content = (
        LlamaCpp(gguf, lora_path=str(lora), lora_scale=0.5).identify().binding.identity.content
    )
    assert content["lora"] == [{"sha256": hash_file(lora), "scale": 0.5}]


def test_the_build_is_known_by_the_librarys_shared_objects(
    library: type[Llama], gguf: Path
) -> None:
    from swarm_repro.backends import llama_cpp as module

    module._library_sha256.cache_clear()
    environment = LlamaCpp(gguf).identify().environment
    module._library_sha256.cache_clear()
    assert environment is not None
    names = ("libggml.dylib", "libllama.so")
    expected = sha256_hex(encode_json([[name, sha256_hex(name.encode())] for name in names]))
    assert environment.content["binary_sha256"] == expected


@pytest.mark.parametrize(
    ("chat_format", "template"),
    [
        ("chat_template.default", {"sha256": text_sha256("{{ messages }}")}),
        ("chat_template.tool_use", {"sha256": text_sha256("{{ tools }}")}),
        ("chatml", {"name": "chatml"}),
    ],
)
def test_the_template_is_the_files_or_one_by_name(
    chat_format: str, template: dict[str, str], library: type[Llama], gguf: Path
) -> None:
    library.chat_format = chat_format
    library.metadata = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    assert LlamaCpp(gguf).identify().binding.template == template


def test_a_split_model_is_all_its_files_and_an_invalid_one_is_refused(
    library: type[Llama], tmp_path: Path
) -> None:
    files = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for number, file in enumerate(files):
        file.write_bytes(b"GGUF" + bytes([number]))
    content = LlamaCpp(files[0]).identify().binding.identity.content
    assert content == {"files": [hash_file(file) for file in files]}
    with pytest.raises(ModelFileError, match="no model at"):
        LlamaCpp(tmp_path / "none.gguf").identify()


def test_a_file_that_is_no_model_is_refused_before_it_is_loaded(
    library: type[Llama], tmp_path: Path
) -> None:
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(ModelFileError, match="GGUF"):
        LlamaCpp(tmp_path / "page.gguf").identify()
    assert library.made == []


def test_strict_mode_needs_a_template_without_a_date_unless_another_is_used(
    library: type[Llama], gguf: Path
) -> None:
    LlamaCpp(gguf).check_strict()
    assert LlamaCpp(gguf).strict_fields() == {}
    unload_models()
    library.metadata = {"tokenizer.chat_template": "{{ strftime_now('%d') }}"}
    with pytest.raises(StrictModeError, match=r"^the chat template in m\.gguf prints today's date"):
        LlamaCpp(gguf).check_strict()
    LlamaCpp(gguf, chat_format="chatml").check_strict()
    unload_models()
    library.metadata = {}
    LlamaCpp(gguf).check_strict()


# --- Calls.


def test_every_call_begins_with_nothing_left_of_those_before(
    library: type[Llama], gguf: Path
) -> None:
    library.answer = {"choices": [], "logprobs": [(Number(-0.5), 1)], "n": Number(2)}
    completion = LlamaCpp(gguf).send(asked(messages=MESSAGES, seed=3, top_k=None))
    assert library.made[0].done == [
        "reset",
        ("set_cache", None),
        (
            "create_chat_completion",
            {"messages": MESSAGES, "seed": 3, "stream": False, "model": "m.gguf"},
        ),
        True,
    ]
    assert (completion.status, completion.content_type) == (200, IN_PROCESS)
    assert completion.body == b'{"choices":[],"logprobs":[[-0.5,1]],"n":2}'
    assert completion.duration_s > 0


def test_a_stream_is_taken_whole_as_a_server_would_have_sent_it(
    library: type[Llama], gguf: Path
) -> None:
    library.answer = iter([{"n": 1}, {"n": Number(2)}])
    completion = LlamaCpp(gguf).send(asked(messages=MESSAGES, seed=3, stream=True))
    assert completion.content_type == IN_PROCESS_STREAM
    assert completion.body == b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("request_", "called"),
    [
        (
            asked("completion", prompt="x", seed=1),
            ("create_completion", {"prompt": "x", "seed": 1, "model": "m.gguf"}),
        ),
        (
            asked("chat", messages=[], seed=1, model="mine"),
            (
                "create_chat_completion",
                {"messages": [], "seed": 1, "stream": False, "model": "mine"},
            ),
        ),
        (
            asked("embedding", input="x"),
            ("create_embedding", {"input": "x", "model": "m.gguf"}),
        ),
        (asked("embedding", path="embed", input="x"), ("embed", {"input": "x"})),
    ],
)
def test_a_call_becomes_the_method_of_its_kind_and_names_the_model(
    request_: Request, called: object, library: type[Llama], gguf: Path
) -> None:
    library.answer = {"data": []}
    LlamaCpp(gguf).send(request_)
    assert library.made[0].done[2] == called


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_a_call_that_draws_needs_a_seed(
    endpoint: Endpoint, library: type[Llama], gguf: Path
) -> None:
    for body in ({}, {"seed": None}, {"seed": -1}):
        with pytest.raises(RequestError, match="an in-process call needs a seed"):
            LlamaCpp(gguf).send(asked(endpoint, prompt="x", **body))
    assert library.made == []


@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria"])
def test_an_argument_that_is_a_function_is_refused(
    name: str, library: type[Llama], gguf: Path
) -> None:
    library.answer = ANSWER
    given: dict[str, Any] = {name: [1]}
    with pytest.raises(RequestError) as raised:
        LlamaCpp(gguf).send(asked(messages=[], seed=1, **given))
    assert str(raised.value) == f"{name} is a function and cannot be recorded; leave it out"
    given[name] = None
    assert LlamaCpp(gguf).send(asked(messages=[], seed=1, **given)).status == 200


@pytest.mark.parametrize("error", [ValueError, RuntimeError, TypeError])
def test_a_call_that_llama_cpp_refuses_is_an_error(
    error: type[Exception], library: type[Llama], gguf: Path
) -> None:
    library.answer = error("too long")
    with pytest.raises(BackendResponseError) as raised:
        LlamaCpp(gguf).send(asked(messages=[], seed=1))
    assert str(raised.value) == "llama.cpp refused the call: too long"


def test_a_grammar_is_given_as_the_library_takes_it(library: type[Llama], gguf: Path) -> None:
    library.answer = ANSWER
    LlamaCpp(gguf).send(asked(messages=[], seed=1, grammar='root ::= "a"'))
    assert library.made[0].done[2][1]["grammar"] == LlamaGrammar('root ::= "a"')
    LlamaCpp(gguf).send(asked(messages=[], seed=1, grammar={"no": "text"}))
    assert library.made[0].done[6][1]["grammar"] == {"no": "text"}


@pytest.mark.parametrize(
    ("response_format", "is_refused"),
    [
        ({"type": "json_object", "schema": {"$ref": "nowhere"}}, True),
        ({"type": "json_object", "schema": {"type": "object"}}, False),
        ({"type": "json_object"}, False),
        ("text", False),
        (None, False),
    ],
)
def test_an_ineffective_schema_is_refused(
    response_format: object, is_refused: bool, library: type[Llama], gguf: Path
) -> None:
    library.answer = ANSWER
    request = asked(messages=[], seed=1, response_format=response_format)
    if is_refused:
        with pytest.raises(RequestError) as raised:
            LlamaCpp(gguf).send(request)
        assert str(raised.value) == (
            "llama-cpp-python cannot constrain a reply to this schema: KeyError('nowhere')"
        )
    else:
        assert LlamaCpp(gguf).send(request).status == 200


def test_calls_take_turns(library: type[Llama], gguf: Path) -> None:
    second_came = threading.Event()
    came: list[bool] = []

    class Answer:
        def __iter__(self) -> Iterator[object]:
            if came:
                second_came.set()
            came.append(True)
            overlaps.append(len(came) == 1 and second_came.wait(0.1))
            yield {}

    overlaps: list[bool] = []
    library.answer = Answer()
    agents = [LlamaCpp(gguf) for _ in range(2)]
    threads = [
        threading.Thread(target=agent.send, args=(asked(messages=[], seed=1, stream=True),))
        for agent in agents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False, False]
    assert len(library.made) == 1


def test_the_prompt_is_not_shown(gguf: Path) -> None:
    assert LlamaCpp(gguf).render(asked(messages=MESSAGES, seed=1))() is None


# --- Tokens.


def test_a_text_is_cut_where_its_characters_end(library: type[Llama], gguf: Path) -> None:
    tokenize = load_tokenizer(gguf)
    assert library.made[0].settings == {
        "model_path": str(gguf),
        "vocab_only": True,
        "verbose": False,
    }
    # The stand-in's tokens are bytes.
    assert tokenize("aé🐝b") == ["a", "é", "🐝", "b"]
    assert tokenize("") == []
    assert library.made[0].done == [(False, False)] * 2


def test_a_tokenizer_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model at"):
        load_tokenizer(tmp_path / "none.gguf")
