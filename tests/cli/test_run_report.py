"""``run``: its options, and its output at the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm_repro.cassette.changes import Changes
from swarm_repro.cassette.records import CallId
from swarm_repro.cli import run
from swarm_repro.cli.report import finish
from swarm_repro.errors import ExitCode, UsageError
from swarm_repro.ledger import Ledger
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from swarm_repro.simulation.artifacts import ArtifactVerdict
from swarm_repro.simulation.outcome import Outcome
from swarm_repro.simulation.plan import RunOptions
from tests.support.in_process import invoke
from tests.support.tiny_model import TinyModel, ask, recording, replaying

Capture = pytest.CaptureFixture[str]
PLAN: Any = SimpleNamespace(
    scenario=SimpleNamespace(id="town"),
    seed=42,
    mode=Mode.RECORD,
    cassette=Path("c.jsonl"),
    out=Path("runs/town"),
)


def a_call(number: int) -> CallId:
    return "alice", "ab" * 32, number


def outcome(**more: Any) -> Outcome:
    ledger = more.pop(
        "ledger",
        Ledger(
            used={a_call(0): None},
            hits=3,
            called=2,
            usage={
                "bob": Counter(calls=1, prompt_tokens=5, completion_tokens=3),
                "alice": Counter(calls=2, prompt_tokens=7, completion_tokens=4),
            },
        ),
    )
    session: Any = SimpleNamespace(ledger=ledger, store=None)
    known: dict[str, Any] = {
        "plan": PLAN,
        "exit_code": ExitCode.OK,
        "session": session,
        "duration_s": 1.26,
    }
    return Outcome(**{**known, **more})


CHANGES = Changes(
    unchanged=[a_call(0)],
    replaced=[a_call(1), a_call(2)],
    added=[a_call(n) for n in range(3, 6)],
    dropped=frozenset(a_call(n) for n in range(6, 10)),
)


def said(capsys: Capture, found: Outcome, **more: Any) -> tuple[int, list[str], list[str]]:
    code = finish(found, **{"as_json": False, **more})
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_a_run_that_ends_well_says_what_it_did_and_where(capsys: Capture) -> None:
    found = outcome(
        report="SWARM says\nthis \n\n",
        changes=CHANGES,
        verdict=ArtifactVerdict(),
        notes=["one", "two"],
    )
    assert said(capsys, found) == (
        0,
        [
            "SWARM says",
            "this",
            "",
            "record: 3 calls from the cassette, 2 from the model in 1.3 s",
            "cassette c.jsonl: 1 calls unchanged, 2 replaced, 3 added, 4 dropped",
            "artifacts identical",
            "artifacts in runs/town",
        ],
        ["note: one", "note: two"],
    )


def test_a_run_that_ends_badly_says_why_and_keeps_its_exit_code(capsys: Capture) -> None:
    found = outcome(
        exit_code=ExitCode.MISS,
        verdict=ArtifactVerdict(differing=("history.json",)),
        messages=["a call was not there", "another"],
    )
    assert said(capsys, found) == (
        3,
        [
            "record: 3 calls from the cassette, 2 from the model in 1.3 s",
            "artifacts in runs/town",
        ],
        ["error: a call was not there", "error: another"],
    )


@pytest.mark.parametrize(
    ("ledger", "kept", "shown"),
    [
        (Ledger(used={a_call(0): None}), True, True),
        (Ledger(used={a_call(0): None}), False, False),
        (Ledger(), True, False),
    ],
)
def test_the_folder_of_artifacts_is_named_if_there_are_any(
    ledger: Ledger, kept: bool, shown: bool, capsys: Capture
) -> None:
    _, out, _ = said(capsys, outcome(ledger=ledger), kept=kept)
    assert ("artifacts in runs/town" in out) is shown
    kept_by_default = said(capsys, outcome())[1]
    assert kept_by_default[-1] == "artifacts in runs/town"


def test_as_json_all_of_it_is_one_object(capsys: Capture) -> None:
    found = outcome(
        exit_code=ExitCode.DIFFERENCE,
        report="SWARM says",
        changes=CHANGES,
        verdict=ArtifactVerdict(differing=("a",), rounded=("b",), metrics=("c",)),
        messages=["m"],
        notes=["n"],
    )
    assert finish(found, as_json=True) == 1
    out, err = capsys.readouterr()
    assert err == ""
    alice = {"calls": 2, "prompt_tokens": 7, "completion_tokens": 4}
    bob = {"calls": 1, "prompt_tokens": 5, "completion_tokens": 3}
    read = json.loads(out)
    assert list(read["usage"]) == ["alice", "bob"]
    assert read == {
        "scenario": "town",
        "seed": 42,
        "mode": "record",
        "exit_code": 1,
        "cassette": "c.jsonl",
        "out": "runs/town",
        "hits": 3,
        "called": 2,
        "usage": {"alice": alice, "bob": bob},
        "changes": {"unchanged": 1, "replaced": 2, "added": 3, "dropped": 4},
        "artifacts": {"identical": False, "differing": ["a"], "rounded": ["b"], "metrics": ["c"]},
        "verify": None,
        "messages": ["m"],
        "notes": ["n"],
        "duration_s": 1.26,
    }


def test_as_json_missing_parts_are_null(capsys: Capture) -> None:
    assert finish(outcome(), as_json=True) == 0
    read = json.loads(capsys.readouterr().out)
    assert (read["changes"], read["artifacts"], read["verify"]) == (None, None, None)


def asked_again(path: Path, live: TinyModel) -> Session:
    with recording(path) as session:
        ask(session, TinyModel(), "one")
        ask(session, TinyModel(), "two", who="bob")
    again = replaying(path, mode=Mode.VERIFY)
    ask(again, live, "one")
    ask(again, live, "two", who="bob")
    return again


def test_calls_that_were_asked_again_are_reported_once(capsys: Capture, tmp_path: Path) -> None:
    session = asked_again(tmp_path / "c.jsonl", TinyModel(wording="so so"))
    told = list(session.ledger.differences)
    assert len(told) == 2
    found = outcome(session=session, messages=[*told, "and more"], exit_code=ExitCode.DIFFERENCE)
    _, out, err = said(capsys, found)
    assert any(line.startswith("call 0: change") for line in out)
    assert err == ["error: and more"], "what the report shows is not said again"
    finish(found, as_json=True)
    read = json.loads(capsys.readouterr().out)
    assert [call["group"] for call in read["verify"]["calls"]] == ["change", "change"]
    assert read["messages"] == [*told, "and more"]


def test_calls_that_were_not_in_the_cassette_are_not_reported_as_asked_again(
    capsys: Capture, tmp_path: Path
) -> None:
    session = asked_again(tmp_path / "c.jsonl", TinyModel(wording="so so"))
    told = list(session.ledger.differences)
    session.ledger.called += 1
    _, out, err = said(capsys, outcome(session=session, messages=told))
    assert not any(line.startswith("call 0") for line in out)
    assert err == [f"error: {line}" for line in told]


def test_each_option_of_a_run_reaches_it(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunOptions] = []

    def plan(options: RunOptions) -> None:
        asked.append(options)
        raise UsageError("seen")

    monkeypatch.setattr(run, "pin_hash_seed", lambda: None)
    monkeypatch.setattr("swarm_repro.simulation.plan.make_plan", plan)
    (tmp_path / "rules.py").write_text("def hide(text): return text\n")
    monkeypatch.chdir(tmp_path)
    words = (
        "--seed", 3, "--auto", "--cassette", "c.jsonl", "--out", "o", "--epochs", 4, "--steps", 5,
        "--discard", "--cache", "--fresh", "--redact", "rules:hide", "--update-artifacts",
        "--check-model", "m.gguf",
    )  # fmt: skip
    assert invoke(capsys, "run", "s.yaml", *words).code == 2
    (options,) = asked
    assert options.redact is not None
    assert replace(options, redact=None) == RunOptions(
        scenario=Path("s.yaml"),
        seed=3,
        mode=Mode.AUTO,
        cassette=Path("c.jsonl"),
        out=Path("o"),
        epochs=4,
        steps=5,
        discard=True,
        cache=True,
        fresh=True,
        update_artifacts=True,
        check_model=Path("m.gguf"),
    )
