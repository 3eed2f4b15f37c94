"""An altered cassette: one answer says something else, and only what stays true is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro.cassette.alter import alter
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import Cassette, read_cassette
from swarm_repro.cassette.records import CallId, CallRecord
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.completion import Completion
from swarm_repro.errors import CassetteAccessError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import (
    HEADER,
    LONG,
    TinyModel,
    ask,
    completion_of,
    make_run,
    small_cassette,
)

DEMO = Path(__file__).resolve().parents[2] / "cassettes" / "demo.seed42.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "altered.jsonl"


def record_with(path: Path, answer: Completion) -> CallId:
    """A cassette of one call with this answer."""
    store = open_for_recording(path, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    ask(session, TinyModel(trouble=lambda _number: answer))
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    (call_id,) = read_cassette(path).calls
    return call_id


def later_act(cassette: Cassette) -> CallRecord:
    """A call in the middle of the demo, with calls before and after it in its step."""
    found = [call for call in cassette.calls.values() if call.at == (1, 2) and call.kind == "act"]
    return next(call for call in found if call.scope == "llm_2")


def test_exactly_the_altered_call_differs_and_what_is_later_is_gone(target: Path) -> None:
    before = read_cassette(DEMO)
    chosen = later_act(before)
    alter(DEMO, target, call=chosen.id, text="something else")
    after = read_cassette(target)
    assert after.header == before.header
    assert after.models == before.models
    for call_id, call in after.calls.items():
        old = before.calls[call_id]
        if call_id == chosen.id:
            assert call.completion.text == "something else"
            assert replace(call, stored_response={}) == replace(old, stored_response={})
        else:
            assert call == old
    gone = before.calls.keys() - after.calls.keys()
    expected = {
        call.id
        for call in before.calls.values()
        if (call.at or (0, 0)) > (1, 2) or (call.scope == chosen.scope and call.i > chosen.i)
    }
    assert gone == expected
    assert len(gone) > 5
    assert len(after.calls) > 20


def test_the_altered_answer_keeps_its_usage_and_every_member_but_the_text(target: Path) -> None:
    chosen = later_act(read_cassette(DEMO))
    alter(DEMO, target, call=chosen.id, text="something else\n\u202e")
    altered = read_cassette(target).calls[chosen.id].completion
    old, new = json.loads(chosen.completion.body), json.loads(altered.body)
    assert altered.usage == chosen.completion.usage
    assert new["choices"][0]["message"].pop("content") == "something else\n\u202e"
    assert old["choices"][0]["message"].pop("content") != "something else\n\u202e"
    assert new == old


def test_run_records_are_gone_since_no_run_ended_so(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "c.jsonl"
    small_cassette(source)
    before = read_cassette(source)
    first, second, third = before.calls
    assert before.runs
    assert list(before.witnesses.values()) == [{first, second, third}]
    alter(source, target, call=second, text="another")
    after = read_cassette(target)
    assert after.runs == []
    assert list(after.witnesses.values()) == [{first, third}], "no other machine said this"


def test_the_source_is_only_read(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "c.jsonl"
    small_cassette(source)
    before = source.read_bytes()
    alter(source, target, call=next(iter(read_cassette(source).calls)), text="another")
    assert source.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [target, source]


def test_a_session_goes_on_live_after_the_altered_call(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "c.jsonl"
    store = open_for_recording(source, HEADER, keep=False)
    session = Session(mode=Mode.RECORD, header=HEADER, store=store, run_seed=7)
    said = [ask(session, TinyModel(), "first").text]
    said.append(ask(session, TinyModel(), said[-1]).text)
    said.append(ask(session, TinyModel(), said[-1]).text)
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=False)
    second = list(read_cassette(source).calls)[1]
    alter(source, target, call=second, text="altered")

    store = open_for_recording(target, HEADER, keep=True)
    model = TinyModel()
    session = Session(mode=Mode.AUTO, header=HEADER, store=store, run_seed=7)
    again = [ask(session, model, "first").text]
    again.append(ask(session, model, again[-1]).text)
    again.append(ask(session, model, again[-1]).text)
    store.finish(used=session.ledger.used, run=make_run(session.ledger.used), keep=True)
    assert again[:2] == [said[0], "altered"]
    assert again[2] != said[2]
    assert [request.body["messages"] for request in model.sent] == [
        [{"role": "user", "content": "altered"}]
    ]
    found = read_cassette(target)
    assert [call.completion.text for call in found.calls.values()] == again
    assert [run.calls for run in found.runs] == [found.calls.keys()]


def test_logprobs_go_with_the_tokens_they_belong_to(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "c.jsonl"
    choice = {
        "finish_reason": "stop",
        "index": 0,
        "message": {"role": "assistant", "content": "fine"},
        "logprobs": {"content": [{"token": "fine", "logprob": -0.25, "top_logprobs": []}]},
    }
    answer = completion_of("", choices=[choice], __verbose={"content": "fine"})
    alter(source, target, call=record_with(source, answer), text=LONG)
    (call,) = read_cassette(target).calls.values()
    (document,) = call.completion.documents
    assert isinstance(document, dict)
    assert "__verbose" not in document
    assert document["choices"][0] == {
        "finish_reason": "stop",
        "index": 0,
        "message": {"role": "assistant", "content": LONG},
    }


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"text": "fine", "index": 0}]},
        {"content": "fine", "tokens": [5], "tokens_predicted": 1, "tokens_evaluated": 2},
    ],
)
def test_answers_to_plain_prompts_can_be_altered_too(
    document: Mapping[str, object], tmp_path: Path, target: Path
) -> None:
    source = tmp_path / "c.jsonl"
    answer = Completion(200, "application/json", json.dumps(document).encode(), 0.5)
    alter(source, target, call=record_with(source, answer), text="other")
    (call,) = read_cassette(target).calls.values()
    assert call.completion.text == "other"
    assert b'tokens":[5]' not in call.completion.body


MESSAGE = {"role": "assistant", "content": "fine"}
STREAM = b'data: {"choices":[{"delta":{"content":"fine"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Completion(200, "text/event-stream", STREAM), "stream"),
        (completion_of("", choices=[{"message": MESSAGE}] * 2), "one message of text"),
        (completion_of("", choices=[{"message": {"content": None}}]), "one message of text"),
        (Completion(200, "application/json", b'{"data":[{"embedding":[1]}]}'), "one message"),
    ],
)
def test_an_answer_that_is_no_single_text_is_refused(
    answer: Completion, why: str, tmp_path: Path, target: Path
) -> None:
    source = tmp_path / "c.jsonl"
    with pytest.raises(UsageError, match=rf"call 0 of alice in .*{why}"):
        alter(source, target, call=record_with(source, answer), text="other")
    assert not target.exists()


def test_an_answer_that_is_not_json_is_refused(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "c.jsonl"
    call_id = record_with(source, completion_of("fine"))
    store = open_for_recording(tmp_path / "raw.jsonl", HEADER, keep=False)
    cassette = read_cassette(source)
    (call,) = cassette.calls.values()
    raw = replace(
        call,
        stored_response={
            "status": 200,
            "type": "text/plain",
            "text": "fine",
            "sha256": Completion(200, "text/plain", b"fine").sha256,
        },
    )
    models, envs = cassette.models.values(), cassette.envs.values()
    staged = store.stage(raw, next(iter(models)), next(iter(envs)))
    staged.wait()
    store.keep(staged)
    store.finish(used=[call_id], run=None, keep=False)
    with pytest.raises(UsageError, match="not answered with JSON"):
        alter(tmp_path / "raw.jsonl", target, call=call_id, text="other")
    assert not target.exists()


def test_a_call_that_is_not_there_is_refused(target: Path) -> None:
    with pytest.raises(UsageError, match=r"has no call of llm_9 with key sr1:0 and repeat 0"):
        alter(DEMO, target, call=("llm_9", "sr1:0", 0), text="other")
    assert not target.exists()


def test_the_source_itself_is_no_target(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    small_cassette(source)
    before = source.read_bytes()
    call_id = next(iter(read_cassette(source).calls))
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)
    for same in (source, link):
        with pytest.raises(CassetteAccessError, match="would replace the recording"):
            alter(source, same, call=call_id, text="other")
    assert source.read_bytes() == before


def test_an_interrupted_recording_beside_the_target_is_not_gone_on_from(
    tmp_path: Path, target: Path
) -> None:
    source = tmp_path / "c.jsonl"
    small_cassette(source)
    part_path(target).write_bytes(b"an interrupted recording")
    with pytest.raises(CassetteAccessError, match="interrupted recording"):
        alter(source, target, call=next(iter(read_cassette(source).calls)), text="other")
    assert not target.exists()
