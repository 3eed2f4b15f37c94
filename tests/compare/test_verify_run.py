"""``run --verify`` reports as ``verify`` does."""

from __future__ import annotations

from pathlib import Path

from swarm_repro.compare.verify_run import verify_report
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.tiny_model import TinyModel, ask, make_environment, recording, replaying


def verified(path: Path, live: TinyModel) -> Session:
    """Record two calls, and ask a model again."""
    with recording(path) as session:
        ask(session, TinyModel(), "one")
        ask(session, TinyModel(), "two", who="bob")
    again = replaying(path, mode=Mode.VERIFY)
    ask(again, live, "one")
    ask(again, live, "two", who="bob")
    return again


def test_the_same_answers_in_the_same_environment(tmp_path: Path) -> None:
    session = verified(tmp_path / "c.jsonl", TinyModel())
    assert session.store is not None
    report = verify_report(session.ledger.verified, session.store)
    assert report.verdict == "all 2 calls gave the recorded answer"
    assert report.environment == ()


def test_other_answers_are_grouped_and_the_environment_is_named(tmp_path: Path) -> None:
    live = TinyModel(wording="so so", environment=make_environment("another CPU"))
    session = verified(tmp_path / "c.jsonl", live)
    assert session.store is not None
    report = verify_report(session.ledger.verified, session.store)
    assert report.counts["change"] == 2
    assert [call.number for call in report.calls] == [0, 1]
    assert [changed.to_json() for changed in report.environment] == [
        {"field": "cpu", "a": "a CPU", "b": "another CPU"}
    ]
