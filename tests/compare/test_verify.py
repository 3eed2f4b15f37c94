"""Asking recorded calls again: which answers differ, how they are grouped, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording, open_for_replay
from swarm_repro.compare.parting import Candidate, Parting
from swarm_repro.compare.verify import VerifyOptions, verify_cassette
from swarm_repro.compare.verify_report import CallVerdict, VerifyReport, text_lines
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from swarm_repro.errors import (
    BackendError,
    BackendUnreachableError,
    CassetteAccessError,
    ModelConflictError,
    StrictModeError,
    UsageError,
)
from swarm_repro.mode import Mode
from swarm_repro.model import ModelBinding
from swarm_repro.request import Request
from swarm_repro.session import Session
from tests.support import stub_server
from tests.support.command import ROOT, swarm_repro
from tests.support.stub_server import StubServer, running_stub
from tests.support.tiny_model import (
    TinyModel,
    ask,
    completion_of,
    make_binding,
    make_environment,
    recording,
)

SCHEMA = json.loads(
    (ROOT / "docs" / "reference" / "schemas" / "verify.schema.json").read_text("utf-8")
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recorded.jsonl"


def record(path: Path, model: TinyModel, *prompts: str, **fields: Any) -> None:
    with recording(path) as session:
        for prompt in prompts:
            ask(session, model, prompt, **fields)


def verify(path: Path, model: TinyModel, **options: Any) -> VerifyReport:
    report = verify_cassette(
        open_for_replay(path), lambda _binding, _env: model, options=VerifyOptions(**options)
    )
    jsonschema.validate(json.loads(json.dumps(report.to_json(), allow_nan=False)), SCHEMA)
    return report


def groups(report: VerifyReport) -> list[str]:
    return [call.group for call in report.calls]


@dataclass
class Speaker(TinyModel):
    """A model that says what it is told to, call after call, with logprobs where they are asked.

    Attributes:
        lines: What it says to each prompt, in turn; the last again and again.
        likely: The most likely words of each place, with their logprobs, in turn.
        rendering: A part of every rendered prompt.
    """

    lines: Mapping[str, list[str]] = field(default_factory=dict)
    likely: Mapping[str, float] = field(default_factory=dict)
    rendering: str = ""

    def send(self, request: Request) -> Completion:
        self.sent.append(request)
        prompt = str(request.body["messages"][0]["content"])  # type: ignore[index]
        lines = self.lines[prompt]
        said = lines.pop(0) if len(lines) > 1 else lines[0]
        if said == "(fails)":
            raise BackendUnreachableError("no connection: the server is gone")
        if not request.body.get("logprobs"):
            return completion_of(said, number=next(self.numbers))
        top = [
            {"token": token, "bytes": list(token.encode()), "logprob": value}
            for token, value in self.likely.items()
        ]
        words = [word if place == 0 else f" {word}" for place, word in enumerate(said.split(" "))]
        content = [
            {
                "token": word,
                "bytes": list(word.encode()),
                "logprob": self.likely.get(word, -0.1),
                "top_logprobs": top if word in self.likely else [],
            }
            for word in words
        ]
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "logprobs": {"content": content}}
        return completion_of(said, number=next(self.numbers), choices=[choice])

    def render(self, request: Request) -> Callable[[], str | None]:
        digest = super().render(request)
        return lambda: f"{self.rendering}{digest()}"


# --- Groups and counts.


def test_an_unchanged_model_gives_the_recorded_answers_and_nothing_is_written(path: Path) -> None:
    record(path, TinyModel(), "a", "b", "c")
    before = path.read_bytes()
    model = TinyModel()
    report = verify(path, model, repeat=2)
    assert groups(report) == ["same"] * 3
    assert report.counts == {"same": 3, "prompt": 0, "near_tie": 0, "change": 0, "failed": 0}
    assert report.verdict == "all 3 calls gave the recorded answer, 2 times each"
    assert int(report.exit_code) == 0
    assert path.read_bytes() == before
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_each_call_is_asked_as_it_was_sent_seed_included(path: Path) -> None:
    recorded_with, asked = TinyModel(), TinyModel()
    record(path, recorded_with, "a", "b", temperature=0.5)
    verify(path, asked)
    sent = [request.body for request in recorded_with.sent]
    assert [request.body for request in asked.sent] == sent
    assert all(body["seed"] for body in sent)


def test_another_answer_is_a_change_with_the_place_where_it_parts(path: Path) -> None:
    record(path, Speaker(lines={"a": ["The cat sat."], "b": ["Yes."]}), "a", "b")
    report = verify(path, Speaker(lines={"a": ["The cow sat."], "b": ["Yes."]}))
    assert groups(report) == ["change", "same"]
    call = report.calls[0]
    assert call.parting is not None
    parting = call.parting
    assert (parting.a_before, parting.a, parting.b) == ("The", " cat sat.", " cow sat.")
    assert (call.recorded_text, call.live_text) == ("The cat sat.", "The cow sat.")
    assert (call.differing, call.of, call.distinct) == (1, 1, 1)
    assert call.why is not None
    assert "temperature 0.8" in call.why
    assert int(report.exit_code) == 1
    assert report.verdict == (
        "1 of 2 calls did not give the recorded answer: 1 change; first call 0 (alice) at token 1"
    )


def test_a_call_that_flips_says_in_how_many_of_how_many_answers(path: Path) -> None:
    record(path, Speaker(lines={"a": ["one"]}), "a")
    live = Speaker(lines={"a": ["one", "two", "three", "two", "one"]})
    call = verify(path, live, repeat=5).calls[0]
    assert (call.differing, call.of, call.distinct) == (3, 5, 3)
    assert call.live_text == "two"


def test_another_rendered_prompt_is_told_from_another_answer(path: Path) -> None:
    record(path, Speaker(lines={"a": ["one"], "b": ["one"]}), "a", "b")
    same_answer = Speaker(lines={"a": ["one"], "b": ["two"]}, rendering="other")
    report = verify(path, same_answer)
    assert groups(report) == ["prompt", "prompt"]
    assert [call.differing for call in report.calls] == [0, 1]
    assert report.calls[1].parting is not None
    assert int(report.exit_code) == 1


def test_a_near_tie_is_found_by_asking_once_more_with_logprobs(path: Path) -> None:
    record(path, Speaker(lines={"a": ["The cat sat"]}), "a", temperature=0.0)
    live = Speaker(
        lines={"a": ["The cow sat"]}, likely={" cow": -0.700, " cat": -0.701, " dog": -3.0}
    )
    call = verify(path, live).calls[0]
    assert call.group == "near_tie"
    assert call.parting is not None
    assert (call.parting.unit, call.parting.index) == ("token", 1)
    assert call.parting.margin == pytest.approx(0.001)
    assert [one.token for one in call.parting.b_candidates] == [" cow", " cat", " dog"]
    assert call.why is None, "at temperature 0 the margin says all"
    assert len(live.sent) == 2, "asked once more, and once only"
    assert live.sent[1].body["seed"] == live.sent[0].body["seed"]


def test_a_wide_margin_is_a_change(path: Path) -> None:
    record(path, Speaker(lines={"a": ["The cat sat"]}), "a", temperature=0.0)
    live = Speaker(lines={"a": ["The cow sat"]}, likely={" cow": -0.1, " cat": -2.9})
    call = verify(path, live).calls[0]
    assert call.group == "change"
    assert call.parting is not None
    assert call.parting.margin == pytest.approx(2.8)


def test_one_wide_margin_among_near_ties_is_a_change(path: Path) -> None:
    record(path, Speaker(lines={"a": ["The cat sat"]}), "a", temperature=0.0)
    live = Speaker(
        lines={"a": ["The cow sat", "The dog sat", "The cow sat"]},
        likely={" cow": -0.700, " cat": -0.701, " dog": -3.0},
    )
    call = verify(path, live, repeat=3).calls[0]
    assert (call.group, call.differing, call.distinct) == ("change", 3, 2)
    assert call.parting is not None
    assert call.parting.b == " dog sat"


def test_recorded_logprobs_are_used_without_asking_again(path: Path) -> None:
    def model(said: str) -> Speaker:
        return Speaker(lines={"a": [said]}, likely={" cow": -0.700, " cat": -0.701})

    record(path, model("The cat"), "a", logprobs=True, temperature=0.0)
    live = model("The cow")
    call = verify(path, live).calls[0]
    assert call.group == "near_tie"
    assert call.parting is not None
    assert call.parting.a_candidates == call.parting.b_candidates != ()
    assert len(live.sent) == 1


def test_the_same_tokens_with_other_logprobs_are_noise_and_not_the_same(path: Path) -> None:
    record(path, Speaker(lines={"a": ["The cat"]}, likely={" cat": -0.5}), "a", logprobs=True)
    noisy = verify(path, Speaker(lines={"a": ["The cat"]}, likely={" cat": -0.501})).calls[0]
    assert (noisy.group, noisy.parting) == ("near_tie", None)
    assert noisy.why == "the same tokens; their logprobs differ by up to 0.0010 nats"
    other = verify(path, Speaker(lines={"a": ["The cat"]}, likely={" cat": -4.5})).calls[0]
    assert other.group == "change"


def test_a_backend_that_fails_when_asked_for_logprobs_is_mentioned(path: Path) -> None:
    record(path, Speaker(lines={"a": ["one"]}), "a")
    report = verify(path, Speaker(lines={"a": ["two", "(fails)"]}))
    assert groups(report) == ["change"]
    assert "asked for logprobs the backend failed: no connection" in str(report.calls[0].why)


def test_a_difference_beside_the_text_is_named(path: Path) -> None:
    record(path, TinyModel(trouble=lambda _n: completion_of("x", extra={"a": 1})), "a")
    call = verify(path, TinyModel(trouble=lambda _n: completion_of("x", extra={"a": 2}))).calls[0]
    assert (call.group, call.parting) == ("change", None)
    assert call.why == "the text is the same; extra.a: recorded 1, now 2"


def test_volatile_fields_never_count(path: Path) -> None:
    record(path, TinyModel(trouble=lambda _n: completion_of("x", number=1)), "a")
    live = TinyModel(trouble=lambda _n: completion_of("x", number=2))
    assert groups(verify(path, live)) == ["same"]


def test_a_failing_call_is_listed_and_the_others_are_asked(path: Path) -> None:
    lines = {"a": ["one"], "b": ["one"], "c": ["one"]}
    record(path, Speaker(lines=lines), "a", "b", "c")
    live = Speaker(lines={**lines, "b": ["(fails)"], "c": ["two"]})
    report = verify(path, live, repeat=2)
    assert groups(report) == ["same", "failed", "change"]
    assert report.calls[1].why == "no connection: the server is gone"
    assert report.calls[1].of == 0
    assert int(report.exit_code) == 4
    asked = [request.body["messages"][0]["content"] for request in live.sent]  # type: ignore[index]
    assert asked.count("b") == 1, "what failed is not asked again"
    assert asked.count("a") == 2


# --- Order and choice of calls.


def prompts_of(model: TinyModel) -> list[str]:
    return [str(request.body["messages"][0]["content"]) for request in model.sent]  # type: ignore[index]


def test_a_shuffled_order_follows_its_seed_and_changes_each_round(path: Path) -> None:
    prompts = [str(number) for number in range(8)]
    record(path, TinyModel(), *prompts)
    one, same_seed, other_seed, recorded = (TinyModel() for _ in range(4))
    report = verify(path, one, repeat=2, shuffle=1)
    verify(path, same_seed, repeat=2, shuffle=1)
    verify(path, other_seed, repeat=2, shuffle=2)
    verify(path, recorded, repeat=2)
    assert report.order == "shuffled"
    assert [call.number for call in report.calls] == list(range(8)), "reported in the file's order"
    assert prompts_of(recorded) == prompts * 2
    assert prompts_of(one) == prompts_of(same_seed) != prompts_of(other_seed)
    rounds = prompts_of(one)[:8], prompts_of(one)[8:]
    assert rounds[0] != rounds[1]
    assert sorted(rounds[0]) == sorted(rounds[1]) == prompts


def test_single_calls_are_chosen_by_number(path: Path) -> None:
    record(path, TinyModel(), "a", "b", "c")
    model = TinyModel()
    report = verify(path, model, calls=(2, 0, 2))
    assert [call.number for call in report.calls] == [0, 2]
    assert prompts_of(model) == ["a", "c"]
    for number in (3, -1):
        with pytest.raises(UsageError, match="it has 3, numbered from 0"):
            verify(path, model, calls=(number,))


def test_progress_counts_every_answer(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    seen: list[tuple[int, int]] = []
    verify_cassette(
        open_for_replay(path),
        lambda _binding, _env: TinyModel(),
        options=VerifyOptions(repeat=2),
        on_answer=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# --- Which backend.


def test_each_model_is_asked_of_its_own_backend(path: Path) -> None:
    models = {
        name: TinyModel(binding=make_binding(name=name, weights=letter * 64), wording=name)
        for name, letter in (("small", "a"), ("large", "b"))
    }
    header = Header(recorder="t")
    store = open_for_recording(path, header, keep=False)
    session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=1)
    for name, model in models.items():
        with scope(name):
            session.call(
                model,
                endpoint="chat",
                model=name,
                path="/v1/chat/completions",
                body={"messages": [{"role": "user", "content": "x"}]},
            )
    store.finish(used=session.ledger.used, run=None, keep=False)
    live = {name: replace(model, sent=[]) for name, model in models.items()}

    def find(recorded: ModelBinding, environment: Environment) -> TinyModel:
        assert environment == make_environment()
        return live[recorded.name]

    assert groups(verify_cassette(open_for_replay(path), find)) == ["same", "same"]
    assert [len(model.sent) for model in live.values()] == [1, 1]


def test_another_model_is_refused_with_both_digests(path: Path) -> None:
    record(path, TinyModel(), "a")
    other = TinyModel(binding=make_binding(weights="b" * 64))
    with pytest.raises(ModelConflictError) as refused:
        verify(path, other)
    assert "a" * 64 in str(refused.value)
    assert "b" * 64 in str(refused.value)
    assert "--any-model" in str(refused.value)
    assert other.sent == []


def test_another_model_is_asked_where_that_is_wanted_and_the_report_says_so(path: Path) -> None:
    record(path, TinyModel(), "a")
    other = TinyModel(binding=make_binding(weights="b" * 64), wording="other")
    report = verify(path, other, any_model=True)
    assert groups(report) == ["change"]
    assert report.verdict.endswith("; another model than the recorded one was asked")
    assert [changed.field for changed in report.environment] == ["model tiny"]
    assert "b" * 64 in report.environment[0].now


def test_another_template_or_default_is_listed_and_the_calls_are_asked(path: Path) -> None:
    record(path, TinyModel(), "a")
    binding = make_binding(template={"sha256": "c" * 64}, defaults={"temperature": 0.5})
    report = verify(path, TinyModel(binding=binding))
    shown = {changed.field: (changed.recorded, changed.now) for changed in report.environment}
    assert shown["chat template of tiny"] == ("sha256 " + "b" * 64, "sha256 " + "c" * 64)
    assert shown["sampling defaults.chat.temperature"] == ("0.8", "0.5")


def test_what_is_otherwise_in_the_environment_is_listed_by_field(path: Path) -> None:
    flags = ["-np", "1", "-t", "1", "-ngl", "-1", "--no-repack"]
    content = {"backend": "llama-server", "build": "b1", "flags": flags, "cpu": None}
    recorded_in = Environment({**content, "settings": {"n_ctx": 512, "total_slots": 1}})
    flags = ["-np", "1", "-t", "2", "-ngl", "-2", "--no-repack", "-fa", "on"]
    now = {**content, "build": "b2", "flags": flags, "cpu": "a CPU"}
    record(path, TinyModel(environment=recorded_in), "a")
    live = TinyModel(environment=Environment({**now, "settings": {"n_ctx": 512, "total_slots": 4}}))
    assert [one.to_json() for one in verify(path, live).environment] == [
        {"field": "build", "a": "b1", "b": "b2"},
        {"field": "cpu", "a": "unknown", "b": "a CPU"},
        {"field": "flags", "a": "-t 1 -ngl -1", "b": "-t 2 -ngl -2 -fa on"},
        {"field": "settings.total_slots", "a": "1", "b": "4"},
    ]


def test_a_strict_cassette_needs_a_strict_backend(path: Path) -> None:
    header = Header(recorder="t", scenario="test", strict=True)
    with recording(path, header=header) as session:
        ask(session, TinyModel(), "a")
    model = TinyModel(strict_error=StrictModeError("it has 4 slots"))
    with pytest.raises(StrictModeError, match="4 slots"):
        verify(path, model)
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}
    reuses = TinyModel(trouble=lambda _n: completion_of("x", usage=usage))
    report = verify(path, reuses)
    assert groups(report) == ["failed"]
    assert "reused 3 cached prompt tokens" in str(report.calls[0].why)


def test_an_unreachable_backend_ends_it_before_anything_is_asked(path: Path) -> None:
    record(path, TinyModel(), "a")

    class Gone(TinyModel):
        def identify(self, name: str) -> Any:
            raise BackendUnreachableError(f"nobody serves {name}")

    with pytest.raises(BackendError, match="nobody serves tiny"):
        verify(path, Gone())


def test_a_cassette_without_calls_has_nothing_to_verify(path: Path) -> None:
    record(path, TinyModel())
    with pytest.raises(UsageError, match="holds no calls"):
        verify(path, TinyModel())


# --- Witnesses.

ELSEWHERE = make_environment("another CPU")


def test_another_environment_that_answers_alike_is_noted_and_nothing_else_changes(
    path: Path,
) -> None:
    record(path, TinyModel(), "a", "b")
    before = path.read_bytes().splitlines()
    report = verify(path, TinyModel(environment=ELSEWHERE), repeat=2, witness=True)
    assert report.witness == ELSEWHERE.sha256
    found = read_cassette(path)
    assert found.witnesses == {ELSEWHERE.sha256: frozenset(found.calls)}
    assert found.envs[ELSEWHERE.sha256] == ELSEWHERE
    after = path.read_bytes().splitlines()
    added = [json.loads(line)["record"] for line in after if line not in before]
    assert added == ["env", "witness", "end"]
    assert [line for line in before if line not in after] == before[-1:]


def test_wherever_the_digest_sorts_a_witness_renumbers_no_call(path: Path) -> None:
    record(path, TinyModel(), "a")
    calls = [line for line in path.read_bytes().splitlines() if b'"record":"call"' in line]
    own = make_environment().sha256
    many = [make_environment(f"CPU {number}") for number in range(1000)]
    environments = [
        next(one for one in many if one.sha256 > own),
        next(one for one in many if one.sha256 < own),
    ]
    for environment in environments:
        verify(path, TinyModel(environment=environment), witness=True)
    assert [line for line in path.read_bytes().splitlines() if b'"record":"call"' in line] == calls
    assert read_cassette(path).witnesses.keys() == {one.sha256 for one in environments}


def test_only_calls_that_were_the_same_each_time_are_witnessed_and_merge_with_earlier_ones(
    path: Path,
) -> None:
    lines = {"a": ["one"], "b": ["one"], "c": ["one"], "d": ["one"]}
    record(path, Speaker(lines=lines), *lines)
    flips = {**lines, "b": ["one", "two"], "c": ["(fails)"]}
    live = Speaker(lines=flips, environment=ELSEWHERE)
    verify(path, live, repeat=2, witness=True)
    found = read_cassette(path)
    ids = list(found.calls)
    assert found.witnesses == {ELSEWHERE.sha256: frozenset([ids[0], ids[3]])}
    later = Speaker(lines=lines, environment=ELSEWHERE)
    verify(path, later, calls=(1,), witness=True)
    assert read_cassette(path).witnesses == {ELSEWHERE.sha256: frozenset([ids[0], ids[1], ids[3]])}


def test_another_rendered_prompt_is_no_witness(path: Path) -> None:
    record(path, Speaker(lines={"a": ["one"]}), "a")
    before = path.read_bytes()
    live = Speaker(lines={"a": ["one"]}, rendering="other", environment=ELSEWHERE)
    report = verify(path, live, witness=True)
    assert report.witness is None
    assert report.witness_note == "nothing to witness: no call gave the recorded answer each time"
    assert path.read_bytes() == before


def test_in_the_recordings_own_environment_there_is_nothing_to_witness(path: Path) -> None:
    record(path, TinyModel(), "a")
    before = path.read_bytes()
    report = verify(path, TinyModel(), witness=True)
    assert report.witness is None
    assert report.witness_note == (
        "nothing to witness: the calls were recorded in this very environment, or with another "
        "model"
    )
    assert path.read_bytes() == before


def test_without_the_wish_no_witness_is_written(path: Path) -> None:
    record(path, TinyModel(), "a")
    before = path.read_bytes()
    report = verify(path, TinyModel(environment=ELSEWHERE))
    assert (report.witness, report.witness_note) == (None, None)
    assert path.read_bytes() == before


def test_a_call_that_is_not_in_the_file_cannot_be_witnessed(path: Path) -> None:
    record(path, TinyModel(), "a")
    store = open_for_replay(path)
    before = path.read_bytes()
    with pytest.raises(CassetteAccessError, match="no such call"):
        store.add_witness(ELSEWHERE, [("alice", "sr1:" + "0" * 64, 0)])
    with pytest.raises(CassetteAccessError, match="recorded in this environment"):
        store.add_witness(make_environment(), list(store.calls()))
    assert path.read_bytes() == before


def test_a_cassette_that_was_recorded_anew_meanwhile_is_not_overwritten(path: Path) -> None:
    record(path, TinyModel(), "a", "b")
    store = open_for_replay(path)
    record(path, TinyModel(wording="new"), "a", "b")
    newer = path.read_bytes()
    with pytest.raises(CassetteAccessError, match="another one by now"):
        store.add_witness(ELSEWHERE, list(store.calls()))
    assert path.read_bytes() == newer
    kept = open_for_replay(path)
    record(path, TinyModel(environment=make_environment("a third CPU")), "a", "b")
    # That recording answers otherwise than the wording "new": its calls replaced the others.
    with pytest.raises(CassetteAccessError, match="another one by now"):
        kept.add_witness(ELSEWHERE, list(kept.calls()))


def test_a_report_is_not_lost_with_a_witness_that_cannot_be_written(path: Path) -> None:
    record(path, TinyModel(), "a")

    def record_anew(_done: int, _total: int) -> None:
        record(path, TinyModel(wording="new"), "a")

    live = TinyModel(environment=ELSEWHERE)
    report = verify_cassette(
        open_for_replay(path),
        lambda _binding, _env: live,
        options=VerifyOptions(witness=True),
        on_answer=record_anew,
    )
    assert (groups(report), report.witness) == (["same"], None)
    assert "no witness was written: " in str(report.witness_note)
    assert int(report.exit_code) == 2
    assert read_cassette(path).witnesses == {}


def test_a_witness_that_came_meanwhile_is_kept(path: Path) -> None:
    record(path, TinyModel(), "a")
    store = open_for_replay(path)
    third = make_environment("a third CPU")
    open_for_replay(path).add_witness(third, list(store.calls()))
    store.add_witness(ELSEWHERE, list(store.calls()))
    assert read_cassette(path).witnesses.keys() == {third.sha256, ELSEWHERE.sha256}


# --- Text.


def test_nothing_in_the_text_report_can_drive_a_terminal(path: Path) -> None:
    hostile = "\x1b[2J\u202e\n\x9b31m"
    recorded_with = Speaker(lines={"a": [f"same {hostile} one"]})
    with recording(path) as session:
        ask(session, recorded_with, "a", who=f"eve{hostile}")
    live = Speaker(
        lines={"a": [f"same {hostile} two{hostile}"]}, likely={" one": -1, " two": -1.001}
    )
    lines = list(text_lines(verify(path, live)))
    assert len(lines) > 5
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J" in line for line in lines)


def test_the_text_report_leads_with_the_verdict_and_shows_both_sides() -> None:
    call = CallVerdict(
        number=3, scope="llm_1", i=2, n=0, at=(0, 1), kind="act", group="failed", differing=0,
        of=0, distinct=0, parting=None, why="HTTP 500", recorded_text="x", live_text=None,
    )  # fmt: skip
    lines = list(text_lines(VerifyReport("c.jsonl", 1, "recorded", (), (call,))))
    assert lines == [
        "1 of 1 calls did not give the recorded answer: 1 failure; first call 3 (llm_1): HTTP 500",
        "same 0, other rendered prompts 0, near ties 0, changes 0, failure 1",
        "call 3: failure, 0 of 0 answers differ (call 2 of llm_1 at 0.1, act)",
        "  HTTP 500",
    ]


def test_the_text_report_shows_which_tokens_were_chosen_and_what_was_likeliest() -> None:
    parting = Parting(
        unit="token", index=5, character=17, a_before="it is a", a=" cat on", b="",
        b_candidates=(Candidate(" dog", -0.5), Candidate("", -1.0), Candidate(" cat", -1.25)),
        margin=0.25, drift=0.001, near_tie=False,
    )  # fmt: skip
    call = CallVerdict(
        number=0, scope="a", i=0, n=0, at=None, kind=None, group="change", differing=2, of=3,
        distinct=2, parting=parting, why=None, recorded_text="x", live_text="y",
    )  # fmt: skip
    lines = list(text_lines(VerifyReport("c.jsonl", 3, "recorded", (), (call,))))
    assert lines[2:] == [
        "call 0: change, 2 of 3 answers differ, 2 distinct (call 0 of a)",
        "  before    …it is a",
        "  recorded   cat on",
        "  now       ",
        (
            "  token 5; recorded ' cat' -1.250; now the end -1.000; likeliest ' dog' -0.500; "
            "margin 0.2500 nats; logprobs before it differ by up to 0.0010 nats"
        ),
    ]


# --- The command.


def record_over_http(path: Path, stub: StubServer, *prompts: str) -> None:
    header = Header(recorder="t", strict=True)
    store = open_for_recording(path, header, keep=False)
    session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=1)
    server = LlamaServer(stub.base_url)
    with scope("alice"):
        for prompt in prompts:
            server.chat([{"role": "user", "content": prompt}], model="m", session=session)
    server.close()
    store.finish(used=session.ledger.used, run=None, keep=False)


def echo(body: dict[str, Any]) -> str:
    return f"You said {body['messages'][0]['content']}."


@pytest.fixture
def recorded(path: Path) -> Path:
    with running_stub(reply=echo) as stub:
        record_over_http(path, stub, "a", "b", "c")
    return path


def test_the_command_says_that_all_is_the_same(recorded: Path, tmp_path: Path) -> None:
    with running_stub(reply=echo) as stub:
        done = swarm_repro("verify", recorded, "--server", stub.base_url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "all 3 calls gave the recorded answer",
        "same 3, other rendered prompts 0, near ties 0, changes 0, failures 0",
    ]


def test_the_command_exits_with_1_for_a_difference_and_with_4_for_a_failure(
    recorded: Path, tmp_path: Path
) -> None:
    def changed(body: dict[str, Any]) -> str:
        return echo(body) + ("!" if "b" in str(body["messages"]) else "")

    with running_stub(reply=changed) as stub:
        done = swarm_repro("verify", recorded, "--server", stub.base_url, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    assert (done.returncode, report["counts"]["change"]) == (1, 1)
    assert report["calls"][1]["completion"] == {"a": "You said b.", "b": "You said b.!"}

    with running_stub(reply=changed, fault=lambda number: 500 if number == 0 else None) as stub:
        done = swarm_repro("verify", recorded, "--server", stub.base_url, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert [call["group"] for call in report["calls"]] == ["failed", "change", "same"]
    assert "HTTP 500" in report["calls"][0]["why"]


def test_a_server_that_dies_midway_leaves_a_report(recorded: Path, tmp_path: Path) -> None:
    with running_stub(reply=echo, fault=lambda number: "reset" if number else None) as stub:
        done = swarm_repro("verify", recorded, "--server", stub.base_url, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert [call["group"] for call in report["calls"]] == ["same", "failed", "failed"]


def test_without_a_server_the_command_says_how_to_start_one(recorded: Path, tmp_path: Path) -> None:
    done = swarm_repro("verify", recorded, "--server", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("error: no llama-server at http://127.0.0.1:9")
    assert "swarm-repro server start" in done.stderr


def test_another_model_behind_the_address_is_refused_unless_any_will_do(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stub_server._META, "n_params", 1)
    with running_stub(reply=echo) as stub:
        refused = swarm_repro("verify", recorded, "--server", stub.base_url, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.count("fingerprint ") == 2
        done = swarm_repro(
            "verify", recorded, "--server", stub.base_url, "--any-model", cwd=tmp_path
        )
    assert done.returncode == 0
    assert "another model than the recorded one was asked" in done.stdout
    assert "model m: recorded fingerprint " in done.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--repeat", "0"], "--repeat"),
        (["--call", "7"], "it has 3, numbered from 0"),
        (["--witness", "--any-model"], "leave out --any-model"),
        (["--model", "x.gguf"], "name it with --server"),
        (["--server", "ftp://x"], "not the address of a llama-server"),
    ],
)
def test_bad_options_are_refused(
    recorded: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    if "--call" in options:
        with running_stub(reply=echo) as stub:
            done = swarm_repro(
                "verify", recorded, "--server", stub.base_url, *options, cwd=tmp_path
            )
    else:
        done = swarm_repro("verify", recorded, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 2), (b"", 5), (b'{"some":"json"}\n', 5), (b"\x00\xff" * 50, 5)],
)
def test_a_file_that_is_no_cassette_is_refused(
    tmp_path: Path, content: bytes | None, code: int
) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    done = swarm_repro("verify", path, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_damaged_cassette_is_refused_before_anything_is_asked(
    recorded: Path, tmp_path: Path
) -> None:
    recorded.write_bytes(recorded.read_bytes().replace(b"You said b.", b"You said B."))
    with running_stub(reply=echo) as stub:
        done = swarm_repro("verify", recorded, "--server", stub.base_url, cwd=tmp_path)
        assert stub.chats == []
    assert done.returncode == 5


def test_a_recording_made_in_process_asks_for_its_model_file(tmp_path: Path) -> None:
    done = swarm_repro("verify", ROOT / "cassettes" / "demo_in_process.seed42.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "name its file with --model" in done.stderr


def test_the_page_holds_the_report(recorded: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    with running_stub(reply=lambda body: echo(body) + "</script>") as stub:
        done = swarm_repro(
            "verify", recorded, "--server", stub.base_url, "--html", page, cwd=tmp_path
        )
    assert done.returncode == 1
    html = page.read_text("utf-8")
    assert "3 of 3 calls did not give the recorded answer" in html
    assert "You said a.</script>" not in html
