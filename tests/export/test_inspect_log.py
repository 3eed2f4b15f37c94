"""A cassette as an Inspect log, read back by inspect-ai's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.completion import IN_PROCESS, Completion
from swarm_repro.request import Request
from tests.support.command import ROOT, swarm_repro
from tests.support.tiny_model import (
    LONG,
    PATH,
    TinyModel,
    ask,
    chat,
    completion_of,
    make_binding,
    recording,
    small_cassette,
)

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.event import ModelEvent
from inspect_ai.log import (
    EvalSample,
    list_eval_logs,
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
)

from swarm_repro.export.inspect_log import inspect_log, write_inspect_log

COMMITTED = sorted((ROOT / "cassettes").glob("*.jsonl"))
DEMO = ROOT / "cassettes" / "demo.seed42.jsonl"


def model_events(sample: EvalSample) -> list[ModelEvent]:
    return [event for event in sample.events if event.event == "model"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_cassette_opens_with_inspects_own_reader(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "logs" / "one.eval"
    write_inspect_log(path, out)
    cassette = read_cassette(path)
    log = read_eval_log(str(out))
    assert log.status == "success"
    assert log.eval.task == cassette.header.scenario
    assert {sample.id for sample in log.samples} == {call.scope for call in cassette.calls.values()}
    assert [info.task for info in list_eval_logs(str(tmp_path / "logs"))] == [log.eval.task]
    header = read_eval_log(str(out), header_only=True)
    assert header.samples is None
    assert header.eval.metadata["runs"][0]["seed"] == 42
    (model,) = header.eval.metadata["models"]
    assert model["identity"]["files"][0].startswith("b179c9523d0e")
    assert list(header.eval.metadata["environments"]) == list(cassette.envs)
    summaries = read_eval_log_sample_summaries(str(out))
    assert all(summary.completed and summary.message_count for summary in summaries)
    assert sorted(path.name for path in out.parent.iterdir()) == ["one.eval"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_every_call_is_one_model_event_with_its_texts_seed_tokens_and_time(
    path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one.eval"
    write_inspect_log(path, out)
    calls = list(read_cassette(path).calls.values())
    seen = []
    for scope in {call.scope for call in calls}:
        sample = read_eval_log_sample(str(out), id=scope, epoch=1, resolve_attachments=True)
        events = model_events(sample)
        numbers = [event.metadata["call"] for event in events]
        assert numbers == sorted(numbers)
        seen.extend(numbers)
        working_s = 0.0
        for event in events:
            call = calls[event.metadata["call"]]
            assert event.role == call.kind
            assert event.output.completion == call.completion.text
            sent = [str(message["content"]) for message in call.body["messages"]]
            assert [message.text for message in event.input] == sent
            assert event.config.seed == call.sent_seed
            assert event.config.max_tokens == call.body["max_tokens"]
            assert event.config.temperature == call.body["temperature"]
            assert event.output.usage.output_tokens == call.tokens["completion"]
            assert event.output.usage.input_tokens == call.tokens["prompt"]
            assert event.working_time == call.duration_s
            assert event.working_start == pytest.approx(working_s, abs=1e-5)
            assert event.call.request == call.body
            assert event.call.response == call.completion.documents[0]
            working_s += call.duration_s
        assert sample.working_time == pytest.approx(working_s, abs=1e-5)
        spans = [event.name for event in sample.events if event.event == "span_begin"]
        assert spans[0].startswith("epoch 0, step ")
        assert len(spans) == sum(event.event == "span_end" for event in sample.events)
    assert sorted(seen) == list(range(len(calls)))


def test_metrics_of_the_run_are_the_scores(tmp_path: Path) -> None:
    write_inspect_log(DEMO, tmp_path / "one.eval")
    log = read_eval_log(str(tmp_path / "one.eval"), header_only=True)
    (run,) = read_cassette(DEMO).runs
    assert [score.name for score in log.results.scores] == ["epoch 0", "epoch 1"]
    for score, epoch in zip(log.results.scores, run.metrics, strict=True):
        expected = {k: v for k, v in epoch.items() if isinstance(v, (int, float)) and k != "epoch"}
        assert {name: metric.value for name, metric in score.metrics.items()} == expected


def test_the_conversation_shows_a_system_prompt_once_and_every_reply(tmp_path: Path) -> None:
    write_inspect_log(DEMO, tmp_path / "one.eval")
    sample = read_eval_log_sample(str(tmp_path / "one.eval"), id="llm_1", epoch=1)
    events = model_events(sample)
    replies = [message for message in sample.messages if message.role == "assistant"]
    assert [reply.text for reply in replies] == [event.output.completion for event in events]
    systems = [message.text for message in sample.messages if message.role == "system"]
    assert len(systems) == len(set(systems))
    ids = [message.id for message in sample.messages]
    assert len(ids) == len(set(ids))


def test_a_dialogue_that_grows_is_not_repeated(tmp_path: Path) -> None:
    path, model = tmp_path / "c.jsonl", TinyModel()
    with recording(path) as session:
        bound = session.bind(model.binding.name, model).binding
        messages: list[dict[str, object]] = [{"role": "user", "content": "one"}]
        for more in ("two", "three"):
            request = Request("chat", bound, PATH, {"messages": list(messages), "model": "tiny"})
            answer = session.perform(request, model.send, render=model.render)
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": more},
            ]
    (sample,) = inspect_log(path).samples
    assert [message.text for message in sample.messages] == [
        message["content"] for message in messages[:-1]
    ]


def test_two_exports_of_one_cassette_hold_the_same_bytes(tmp_path: Path) -> None:
    held = []
    for name in ("a.eval", "b.eval"):
        write_inspect_log(DEMO, tmp_path / name)
        log = read_eval_log(str(tmp_path / name))
        with zipfile.ZipFile(tmp_path / name) as archive:
            names = sorted(archive.namelist())
        held.append((names, log.model_dump_json()))
    assert held[0] == held[1]


def test_calls_outside_a_simulation_and_two_environments(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    write_inspect_log(path, tmp_path / "c.eval")
    log = read_eval_log(str(tmp_path / "c.eval"))
    assert {(sample.id, len(model_events(sample))) for sample in log.samples} == {
        ("alice", 2),
        ("bob", 1),
    }
    assert not [e for sample in log.samples for e in sample.events if e.event != "model"]
    assert len(log.eval.metadata["environments"]) == 2
    assert list(log.eval.metadata["witnesses"].values()) == [3]
    texts = [m.text for sample in log.samples for m in sample.messages]
    assert LONG in texts


def test_runs_with_other_seeds_are_epochs_of_the_samples(tmp_path: Path) -> None:
    from swarm_repro.mode import Mode

    path = tmp_path / "c.jsonl"
    for seed in (7, 8):
        with recording(path, mode=Mode.AUTO, run_seed=seed) as session:
            ask(session, TinyModel(), f"for {seed}")
    write_inspect_log(path, tmp_path / "c.eval")
    log = read_eval_log(str(tmp_path / "c.eval"))
    assert [(sample.id, sample.epoch) for sample in log.samples] == [("alice", 1), ("alice", 2)]
    assert log.eval.config.epochs == 2
    assert [score.name for score in log.results.scores] == [
        "run 1, seed 7, epoch 0",
        "run 2, seed 8, epoch 0",
    ]


def export_one(tmp_path: Path, request_fields: dict[str, Any], answer: Completion) -> ModelEvent:
    """One call recorded through a session, exported, and read back by Inspect."""
    path = tmp_path / "one.jsonl"
    model = TinyModel(trouble=lambda _number: answer)
    with recording(path) as session:
        ask(session, model, "hello", **request_fields)
    write_inspect_log(path, tmp_path / "one.eval")
    log = read_eval_log(str(tmp_path / "one.eval"), resolve_attachments=True)
    (sample,) = log.samples
    (event,) = model_events(sample)
    return event


def stream(*documents: object) -> Completion:
    body = "".join(f"data: {json.dumps(document)}\n\n" for document in documents)
    return Completion(200, "text/event-stream", (body + "data: [DONE]\n\n").encode(), 0.5)


def delta(**members: object) -> dict[str, object]:
    finish = members.pop("finish_reason", None)
    logprobs = members.pop("logprobs", None)
    return {
        "choices": [{"index": 0, "delta": members, "finish_reason": finish, "logprobs": logprobs}],
        "object": "chat.completion.chunk",
    }


def test_a_stream_is_joined_with_its_tool_calls_and_logprobs(tmp_path: Path) -> None:
    token = {"token": "He", "logprob": -0.5, "top_logprobs": [{"token": "Ho", "logprob": -1.0}]}
    event = export_one(
        tmp_path,
        {"stream": True, "logprobs": True},
        stream(
            delta(role="assistant", content="He", logprobs={"content": [token]}),
            delta(content="llo", reasoning_content="why"),
            delta(tool_calls=[{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]),
            delta(
                tool_calls=[{"index": 1, "id": "y", "function": {"name": "g", "arguments": "{"}}]
            ),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":1}'}}]),
            delta(tool_calls=[{"index": 1, "function": {"arguments": "}"}}]),
            delta(finish_reason="tool_calls"),
        ),
    )
    assert event.output.message.text == "Hello"
    assert event.output.message.content[0].reasoning == "why"
    asked = [(call.id, call.function, call.arguments) for call in event.output.message.tool_calls]
    assert asked == [("x", "f", {"a": 1}), ("y", "g", {})]
    assert event.output.stop_reason == "tool_calls"
    (logprob,) = event.output.choices[0].logprobs.content
    assert (logprob.token, logprob.logprob, logprob.top_logprobs[0].token) == ("He", -0.5, "Ho")
    assert len(event.call.response["documents"]) == 7


def test_a_native_completion_of_llama_server(tmp_path: Path) -> None:
    path, model = tmp_path / "one.jsonl", TinyModel()
    body = {
        "content": " Paris",
        "stop_type": "limit",
        "tokens_predicted": 1,
        "tokens_evaluated": 4,
        "completion_probabilities": [{"token": " Paris", "logprob": -0.1, "top_logprobs": []}],
    }
    answer = Completion(200, "application/json", json.dumps(body).encode(), 0.1)
    with recording(path) as session:
        bound = session.bind(model.binding.name, model).binding
        asked = {"prompt": "The capital is", "n_predict": 1, "mirostat": 2}
        request = Request("completion", bound, "/completion", asked)
        session.perform(request, lambda _request: answer, render=lambda _request: lambda: None)
    (sample,) = inspect_log(path).samples
    (event,) = model_events(sample)
    assert [message.text for message in event.input] == ["The capital is"]
    assert event.output.completion == " Paris"
    assert event.output.stop_reason == "max_tokens"
    assert event.config.max_tokens == 1
    assert event.config.extra_body == {"mirostat": 2}
    assert (event.output.usage.input_tokens, event.output.usage.output_tokens) == (4, 1)
    assert event.output.choices[0].logprobs.content[0].token == " Paris"


def test_an_answer_given_in_process_with_legacy_logprobs(tmp_path: Path) -> None:
    choice = {
        "index": 0,
        "text": "ok",
        "finish_reason": "length",
        "logprobs": {
            "tokens": ["ok"],
            "token_logprobs": [-0.2],
            "top_logprobs": [{"ok": -0.2, "no": -1.9}],
        },
    }
    event = export_one(
        tmp_path,
        {},
        Completion(200, IN_PROCESS, json.dumps({"choices": [choice]}).encode(), 0.1),
    )
    assert event.output.completion == "ok"
    assert event.output.stop_reason == "max_tokens"
    (logprob,) = event.output.choices[0].logprobs.content
    assert [(top.token, top.logprob) for top in logprob.top_logprobs] == [
        ("ok", -0.2),
        ("no", -1.9),
    ]


def test_requests_of_unexpected_form_are_kept_and_break_nothing(tmp_path: Path) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": 7}}},
        {
            "type": "function",
            "function": {
                "name": "g",
                "description": "d",
                "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
            },
        },
    ]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "critic", "content": [{"type": "text", "text": "part"}, {"type": "audio"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "g", "arguments": "{not json"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    event = export_one(
        tmp_path,
        {
            "tools": tools,
            "tool_choice": {"type": "function", "function": {"name": "g"}},
            "messages": messages,
            "stop": "END",
            "top_k": 4.5,
            "logit_bias": [[1, -2]],
        },
        completion_of("fine"),
    )
    assert [message.role for message in event.input] == ["system", "user", "assistant", "tool"]
    assert event.input[1].metadata == {"role": "critic"}
    assert event.input[1].text == 'part\n{"type":"audio"}'
    assert "not JSON" in event.input[2].tool_calls[0].parse_error
    assert event.tool_choice.name == "g"
    assert [tool.name for tool in event.tools] == ["f", "g"]
    assert event.tools[0].options == {"parameters": {"type": 7}}
    assert list(event.tools[1].parameters.properties) == ["x"]
    assert event.config.stop_seqs == ["END"]
    assert event.config.extra_body["top_k"] == 4.5
    assert event.config.extra_body["logit_bias"] == [[1, -2]]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "\x1b[31mred\x00",
        "\u202eabc",
        "attachment://" + "0" * 32,
        "x" * 9999,
    ],
)
def test_what_a_model_says_arrives_as_it_was_said(text: str, tmp_path: Path) -> None:
    event = export_one(tmp_path, {}, completion_of(text))
    assert event.output.completion == text


def test_the_command_writes_a_log_where_inspect_looks(tmp_path: Path) -> None:
    done = swarm_repro("export", DEMO, "--format", "inspect", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_eval_log(str(tmp_path / "logs" / "demo.seed42.eval"), header_only=True).eval.task
    again = swarm_repro("export", DEMO, "--format", "inspect", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert swarm_repro("export", DEMO, "--force", cwd=tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["demo.seed42.eval"]


def test_a_damaged_cassette_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(DEMO.read_bytes().replace(b"NOOP", b"NOPE", 1))
    done = swarm_repro("export", damaged, "--out", tmp_path / "x.eval", cwd=tmp_path)
    assert done.returncode == 5
    assert "wrong checksum" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.jsonl"]


def test_inspects_own_command_opens_it(tmp_path: Path) -> None:
    write_inspect_log(DEMO, tmp_path / "demo.eval")
    dump = [sys.executable, "-m", "inspect_ai", "log", "dump", "--header-only"]
    done = subprocess.run(
        [*dump, str(tmp_path / "demo.eval")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["eval"]["task"] == "demo"


def test_models_of_two_names_are_counted_apart(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with recording(path) as session:
        for name in ("tiny", "other"):
            model = TinyModel(binding=make_binding(name=name, weights=name[0] * 64))
            bound = session.bind(name, model).binding
            session.perform(chat("hello", binding=bound), model.send, render=model.render)
    log = inspect_log(path)
    assert sorted(log.stats.model_usage) == ["llama-server/other", "llama-server/tiny"]


def test_an_agent_whose_name_no_file_could_have_is_in_the_log(tmp_path: Path) -> None:
    path, out = tmp_path / "x.jsonl", tmp_path / "x.eval"
    with recording(path) as session:
        for who in ("nul\x00in the middle", "../../up", "esc\x1b[2J"):
            ask(session, TinyModel(), "hello", who=who)
    write_inspect_log(path, out)
    found = {sample.id for sample in read_eval_log(str(out)).samples}
    assert found == {r"nul\x00in the middle", "../../up", r"esc\x1b[2J"}
