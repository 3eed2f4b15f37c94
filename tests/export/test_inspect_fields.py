"""What each field of an Inspect log holds, value by value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.canonical import sha256_hex
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.completion import Completion
from swarm_repro.export.replies import replies
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    TinyModel,
    ask,
    make_binding,
    recording,
    small_cassette,
)

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.log import EvalLog

from swarm_repro.export.inspect_log import inspect_log
from swarm_repro.export.inspect_messages import (
    config_of,
    messages_of,
    stable_id,
    tool_choice_of,
    tools_of,
    usage_of,
)

DEMO = Path(__file__).resolve().parents[2] / "cassettes" / "demo.seed42.jsonl"


def dumped(log: EvalLog) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(log.model_dump_json(exclude_none=True))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three calls of two agents, one run, two environments, one witness."""
    path = tmp_path / "c.first.jsonl"
    small_cassette(path)
    return path


# --- The header.


def test_the_header_says_whose_calls_it_holds(path: Path) -> None:
    cassette, header = read_cassette(path), dumped(inspect_log(path))["eval"]
    digest = sha256_hex(path.read_bytes())
    (model,) = cassette.models.values()
    (witness,) = cassette.witnesses
    assert header["eval_id"] == stable_id("eval", digest)
    assert header["run_id"] == stable_id("run", digest)
    assert header["task_id"] == stable_id("task", "test")
    assert (header["task"], header["created"]) == ("test", "2000-01-01T00:00:00+00:00")
    assert header["task_args"] == {"seeds": [7], "seed_policy": "event", "strict": False}
    assert header["dataset"] == {"name": "agents", "samples": 2, "sample_ids": ["alice", "bob"]}
    assert header["model"] == "llama-server/tiny"
    assert header["model_args"] == model.to_json()
    assert header["config"] == {"epochs": 1}
    assert header["packages"] == {"swarm-repro": cassette.header.recorder}
    assert header["tags"] == ["swarm-repro"]
    assert header["metadata"] == {
        "cassette": "c.first.jsonl",
        "cassette_sha256": digest,
        "key": "sr1",
        "python": "3.11",
        "requests": [],
        "times": "durations as recorded, calls one after the other; the dates mean nothing",
        "models": [{"label": model.identity.label, **model.to_json()}],
        "environments": {sha: dict(env.content) for sha, env in cassette.envs.items()},
        "witnesses": {witness: 3},
        "runs": [
            {
                "scenario": "test",
                "scenario_sha256": "c" * 64,
                "seed": 7,
                "epochs": 1,
                "steps": 2,
                "versions": {"python": "3.11"},
                "calls": 3,
                "artifacts": {"history.json": "d" * 64},
            }
        ],
    }


def test_the_plan_has_the_runs_and_the_results_have_their_metrics(path: Path) -> None:
    log = dumped(inspect_log(path))
    (step,) = log["plan"]["steps"]
    assert (step["solver"], step["params"]) == ("swarm/test", {"seed": 7, "epochs": 1, "steps": 2})
    assert (log["results"]["total_samples"], log["results"]["completed_samples"]) == (2, 2)
    (score,) = log["results"]["scores"]
    assert (score["name"], score["scorer"]) == ("epoch 0", "epoch 0")
    assert {name: one["value"] for name, one in score["metrics"].items()} == {"welfare": 0.5}
    assert {one["name"] for one in score["metrics"].values()} == {"welfare"}
    assert log["stats"]["started_at"] == "2000-01-01T00:00:00+00:00"
    assert log["stats"]["completed_at"] == "2000-01-01T00:00:00.753000+00:00"
    assert log["stats"]["model_usage"] == {
        "llama-server/tiny": {
            "input_tokens": 15,
            "output_tokens": 9,
            "total_tokens": 24,
            "input_tokens_cache_read": 0,
        }
    }


def test_the_model_of_a_log_is_the_one_that_was_asked_most(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        for name, prompts in (("zoe", "1"), ("ada", "234"), ("mia", "56")):
            for prompt in prompts:
                model = TinyModel(binding=make_binding(name=name))
                ask(session, model, prompt)
    assert dumped(inspect_log(path))["eval"]["model"] == "llama-server/ada"


def test_a_recording_outside_a_simulation_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.of.monday.jsonl"
    header = replace(HEADER, scenario=None, strict=True)
    with closing(open_for_recording(path, header, keep=False)) as store:
        session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=7)
        ask(session, TinyModel(), "hello")
        store.finish(used=session.ledger.used, run=None, keep=False)
    said = dumped(inspect_log(path))["eval"]
    assert said["task"] == "mine"
    assert said["task_id"] == stable_id("task", "mine.of.monday.jsonl")
    assert said["tags"] == ["swarm-repro", "strict"]
    assert said["task_args"] == {"seeds": [], "seed_policy": "event", "strict": True}
    assert said["config"] == {"epochs": 1}
    assert said["metadata"].get("python") is None


# --- Samples and their events.


def test_steps_of_the_simulation_are_spans_around_their_calls() -> None:
    log = dumped(inspect_log(DEMO))
    digest = log["eval"]["metadata"]["cassette_sha256"]
    for sample in log["samples"]:
        inside: str | None = None
        last: dict[str, Any] = {}
        working_s = 0.0
        for event in sample["events"]:
            if event["event"] == "span_begin":
                assert inside is None
                following = sample["events"][sample["events"].index(event) + 1]
                number = following["metadata"]["call"]
                inside = stable_id("span", digest, 1, sample["id"], number)
                assert (event["id"], event["span_id"]) == (inside, inside)
                assert event["uuid"] == stable_id("begin", inside)
                assert event["timestamp"] == following["timestamp"]
                epoch, step = following["metadata"]["at"]
                assert event["name"] == f"epoch {epoch}, step {step}"
            elif event["event"] == "span_end":
                assert (event["id"], event["span_id"]) == (inside, inside)
                assert event["uuid"] == stable_id("end", inside)
                assert event["timestamp"] == last["completed"]
                inside = None
            else:
                assert event["span_id"] == inside
                assert event["uuid"] == stable_id("event", digest, 1, event["metadata"]["call"])
                last = event
            assert event["working_start"] == round(working_s, 6)
            if event["event"] == "model":
                working_s += event["working_time"]
        assert inside is None
        assert sample["uuid"] == stable_id("sample", digest, 1, sample["id"])
        assert sample["working_time"] == round(working_s, 6)
        assert sample["metadata"]["calls"] == sum(sample["metadata"]["kinds"].values())
        assert sample["started_at"] == sample["events"][0]["timestamp"]
        assert sample["completed_at"] == last["completed"]


def test_an_event_says_which_call_of_the_cassette_it_is(path: Path) -> None:
    calls = list(read_cassette(path).calls.values())
    for sample in dumped(inspect_log(path))["samples"]:
        for event in sample["events"]:
            said = event["metadata"]
            call = calls[said.pop("call")]
            assert said == {
                "scope": call.scope,
                "i": call.i,
                "n": call.n,
                "at": None,
                "kind": None,
                "asked_key": call.asked,
                "sent_key": call.sent,
                "asked_seed": call.asked_seed,
                "sent_seed": call.sent_seed,
                "environment": call.env,
                "prompt_sha256": call.prompt_sha256,
                "response_sha256": call.completion.sha256,
            }
            assert event["model"] == event["output"]["model"] == "llama-server/tiny"
            assert event["call"]["time"] == event["output"]["time"] == call.duration_s


def test_a_message_that_is_sent_again_has_an_id_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        for number in range(3):
            ask(session, TinyModel(), "hello", seed=number)
    (sample,) = dumped(inspect_log(path))["samples"]
    asked = [message["id"] for message in sample["messages"] if message["role"] == "user"]
    first = messages_of({"messages": [{"role": "user", "content": "hello"}]})[0].id
    assert asked == [first, f"{first}-1", f"{first}-2"]


def test_equal_answers_to_two_agents_have_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(), "hello", who="alice")
        ask(session, TinyModel(), "hello", who="bob")
    samples = dumped(inspect_log(path))["samples"]
    ids = [sample["output"]["choices"][0]["message"]["id"] for sample in samples]
    assert len(set(ids)) == 2
    assert [sample["metadata"] for sample in samples] == [{"calls": 1, "kinds": {"-": 1}}] * 2


# --- Requests.

AS_THEY_ARE = {
    "max_tokens": (5, "max_tokens"),
    "max_completion_tokens": (6, "max_tokens"),
    "n_predict": (7, "max_tokens"),
    "temperature": (0.5, "temperature"),
    "top_p": (0.9, "top_p"),
    "top_k": (40, "top_k"),
    "frequency_penalty": (0.1, "frequency_penalty"),
    "presence_penalty": (0, "presence_penalty"),
    "seed": (3, "seed"),
    "n": (2, "num_choices"),
    "logprobs": (True, "logprobs"),
    "top_logprobs": (4, "top_logprobs"),
    "parallel_tool_calls": (False, "parallel_tool_calls"),
    "stop": (["END"], "stop_seqs"),
}


@pytest.mark.parametrize("field", AS_THEY_ARE)
def test_a_field_of_the_request_has_its_name_in_inspect(field: str) -> None:
    value, name = AS_THEY_ARE[field]
    assert config_of({field: value}).model_dump(exclude_none=True) == {name: value}


@pytest.mark.parametrize(
    "body",
    [
        *({field: value} for field in ("max_tokens", "top_k", "seed", "n") for value in (1.5, "1")),
        {"n_predict": True},
        {"top_logprobs": False},
        {"temperature": True},
        {"temperature": "hot"},
        {"logprobs": 1},
        {"parallel_tool_calls": "yes"},
        {"stop": ["END", 7]},
        {"stop": 7},
        {"mirostat": 2},
        {"grammar": 'root ::= "yes"'},
    ],
    ids=str,
)
def test_what_inspect_has_no_field_for_is_kept_as_it_was_sent(body: dict[str, Any]) -> None:
    assert config_of(body).model_dump(exclude_none=True) == {"extra_body": body}


def test_of_two_fields_of_one_meaning_the_second_is_kept_apart() -> None:
    config = config_of({"max_tokens": 5, "n_predict": 6, "temperature": None, "stop": "END"})
    assert config.model_dump(exclude_none=True) == {
        "max_tokens": 5,
        "stop_seqs": ["END"],
        "extra_body": {"n_predict": 6},
    }


@pytest.mark.parametrize("field", ["model", "messages", "prompt", "input", "tools", "tool_choice"])
def test_what_the_event_shows_elsewhere_is_no_setting(field: str) -> None:
    assert config_of({field: "any"}).model_dump(exclude_none=True) == {}


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        ({}, "none"),
        ({"tools": []}, "none"),
        ({"tool_choice": "required"}, "none"),
        ({"tools": [TOOL]}, "auto"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "auto"),
        ({"tools": [TOOL], "tool_choice": "required"}, "any"),
        ({"tools": [TOOL], "tool_choice": "none"}, "none"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "auto"),
    ],
)
def test_how_tools_may_be_chosen(body: dict[str, Any], choice: str) -> None:
    assert tool_choice_of(body) == choice


def test_a_tool_has_its_name_description_and_parameters() -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    function = {"name": "f", "description": "does it", "parameters": parameters}
    [known, empty, strange] = tools_of(
        {"tools": [{"function": function}, {"type": "function"}, "a tool"]}
    )
    assert (known.name, known.description, known.options) == ("f", "does it", None)
    assert (list(known.parameters.properties), known.parameters.required) == (["x"], ["x"])
    for one in (empty, strange):
        assert (one.name, one.description, one.options) == ("", "", None)
        assert one.parameters.properties == {}
    assert tools_of({"tools": "none"}) == []


@pytest.mark.parametrize("field", ["prompt", "input", "content"])
@pytest.mark.parametrize(("value", "text"), [("Hello", "Hello"), ([1, 2], "[1,2]")])
def test_a_prompt_is_a_message_of_the_user(field: str, value: object, text: str) -> None:
    [message] = messages_of({field: value, "model": "m"})
    assert message.model_dump(exclude_none=True) == {
        "id": stable_id(field, text),
        "content": text,
        "role": "user",
        "source": "input",
    }
    assert messages_of({"model": "m"}) == []


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"role": "user", "content": "a"}, {"role": "user", "content": "a"}),
        (
            {"role": "user", "content": "a", "name": "bob"},
            {"role": "user", "content": "a", "metadata": {"name": "bob"}},
        ),
        ({"role": "developer", "content": "a"}, {"role": "system", "content": "a"}),
        ({"role": "system", "content": None}, {"role": "system", "content": ""}),
        ({"role": "user", "content": {"a": 1}}, {"role": "user", "content": '{"a":1}'}),
        ({"content": "a"}, {"role": "user", "content": "a", "metadata": {"role": None}}),
        ("bare", {"role": "user", "content": "bare", "metadata": {"role": None}}),
        (
            {"role": "tool", "content": "done", "tool_call_id": "1", "name": "f"},
            {
                "role": "tool",
                "content": "done",
                "tool_call_id": "1",
                "function": "f",
                "metadata": {"name": "f"},
            },
        ),
        (
            {"role": "tool", "content": "done", "tool_call_id": 1, "name": 2},
            {"role": "tool", "content": "done", "metadata": {"name": 2}},
        ),
        (
            {"role": "assistant", "content": "a", "tool_calls": "none", "refusal": "no"},
            {"role": "assistant", "content": "a", "metadata": {"refusal": "no"}},
        ),
    ],
    ids=str,
)
def test_a_message_keeps_its_role_its_text_and_the_rest(
    message: object, wanted: Mapping[str, object]
) -> None:
    [found] = messages_of({"messages": [message]})
    shown = found.model_dump(exclude_none=True)
    assert shown.pop("id") == stable_id(message)
    assert shown == wanted


def test_parts_of_a_message_are_texts_and_images() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        "bare",
        {"type": "image_url", "image_url": "elsewhere"},
    ]
    [message] = messages_of({"messages": [{"role": "user", "content": parts}]})
    content = message.content
    assert isinstance(content, list)
    shown = [part.model_dump(exclude_none=True) for part in content]
    assert [part["type"] for part in shown] == ["text", "image", "text", "text"]
    assert [part.get("text") or part["image"] for part in shown] == [
        "look",
        "data:image/png;base64,AA==",
        "bare",
        '{"type":"image_url","image_url":"elsewhere"}',
    ]


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (
            {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
            ("a", "f", {"x": 1}, None),
        ),
        ({"function": {"name": "f"}}, ("call-1", "f", {}, None)),
        ({"function": {"name": "f", "arguments": {"x": 1}}}, ("call-1", "f", {"x": 1}, None)),
        (
            {"id": "a", "function": {"name": "f", "arguments": "[1]"}},
            ("a", "f", {"arguments": "[1]"}, "the arguments are not an object"),
        ),
        ("strange", ("call-1", "", {}, None)),
    ],
    ids=str,
)
def test_a_tool_that_was_called_before(call: object, wanted: tuple[object, ...]) -> None:
    first = {"id": "0", "function": {"name": "g"}}
    [message] = messages_of({"messages": [{"role": "assistant", "tool_calls": [first, call]}]})
    asked = getattr(message, "tool_calls")[1]  # noqa: B009 - of one kind of message only
    assert (asked.id, asked.function, asked.arguments, asked.parse_error) == wanted


# --- Answers.


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ({"prompt": 9, "cached": 4, "completion": 3, "total": 12}, (5, 3, 12, 4)),
        ({"prompt": 9, "cached": None, "completion": 3, "total": None}, (9, 3, 12, None)),
        ({"prompt": None, "cached": None, "completion": None, "total": None}, (0, 0, 0, None)),
        ({"prompt": 9, "cached": 0, "completion": 3, "total": 20}, (9, 3, 20, 0)),
    ],
)
def test_tokens_from_the_cache_are_counted_beside_the_others(
    tokens: dict[str, int | None], wanted: tuple[int | None, ...], path: Path
) -> None:
    call = replace(next(iter(read_cassette(path).calls.values())), tokens=tokens)
    usage = usage_of(call)
    found = (usage.input_tokens, usage.output_tokens, usage.total_tokens)
    assert (*found, usage.input_tokens_cache_read) == wanted


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("tired", "unknown"),
        (None, "unknown"),
    ],
)
def test_why_an_answer_ended(finish: str | None, reason: str, tmp_path: Path) -> None:
    document = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": finish}]}
    assert ended(document, tmp_path) == reason


@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", "stop"), ("word", "stop"), ("limit", "max_tokens")]
)
def test_why_a_native_answer_ended(stop_type: str, reason: str, tmp_path: Path) -> None:
    assert ended({"content": "a", "stop_type": stop_type}, tmp_path) == reason


def ended(document: object, folder: Path) -> str:
    answer = Completion(200, "application/json", json.dumps(document).encode(), 0.1)
    path = folder / "c.jsonl"
    with recording(path) as session:
        ask(session, TinyModel(trouble=lambda _number: answer), "hello")
    (sample,) = dumped(inspect_log(path))["samples"]
    reason: str = sample["output"]["choices"][0]["stop_reason"]
    return reason


def test_tools_that_come_in_another_order_are_put_in_theirs() -> None:
    calls = [{"index": 1, "id": "b"}, {"index": 0, "id": "a"}, {"index": 1024, "id": "c"}]
    answer = {"choices": [{"delta": {"tool_calls": calls}}]}
    body = f"data: {json.dumps(answer)}\n\n".encode()
    [reply] = replies(Completion(200, "text/event-stream", body, 0.1))
    assert [tool.id for tool in reply.tool_calls] == ["a", "b", "c"]
