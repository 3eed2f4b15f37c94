"""One setting under measurement: what is started again, and which seconds are counted."""

from __future__ import annotations

import pytest

from swarm_repro.audit.lab import NotStartedError, in_process_reference
from swarm_repro.audit.settings import Variant
from swarm_repro.errors import BackendError
from tests.audit.scripted import PROMPTS, scripted_bench, setting

BROKEN = Variant(what="broken", flags=("--broken",))


def test_the_reference_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    lab = bench.lab(setting("one-slot"))
    assert lab.known_reference == {}
    first = lab.reference()
    assert {name: one.text for name, one in first.items()} == {
        "act": "answer 1", "accept": "answer 2", "vote": "answer 3",
    }  # fmt: skip
    assert lab.reference() is first
    assert lab.known_reference is first
    assert len(bench.script.starts) == 1


def test_a_reference_that_failed_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.reply = lambda asked: (
        BackendError("cut") if asked.number == 2 else f"answer {asked.number}"
    )
    lab = bench.lab(setting("one-slot"))
    with pytest.raises(BackendError, match="cut"):
        lab.reference()
    assert lab.known_reference == {}
    assert lab.reference()["act"].text == "answer 3"


def test_what_the_reference_costs_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    lab = bench.lab(setting("one-slot"))
    with lab.open() as asker:
        asker.ask(PROMPTS[0])
    lab.reference()
    assert lab.take_seconds() == 1.0


def test_seconds_are_those_between_a_servers_start_and_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    lab = bench.lab(setting("one-slot"))
    assert lab.seconds == 0.0
    for _ in range(2):
        with lab.open() as asker:
            asker.ask(PROMPTS[0])
            asker.ask(PROMPTS[1])
    assert lab.seconds == 4.0
    assert lab.take_seconds() == 4.0
    assert lab.take_seconds() == 0.0


def test_seconds_until_an_error_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.reply = lambda _asked: BackendError("cut")
    lab = bench.lab(setting("one-slot"))
    with pytest.raises(BackendError, match="cut"), lab.open() as asker:
        asker.ask(PROMPTS[0])
    assert lab.take_seconds() == 1.0
    assert bench.script.ended == [1]


@pytest.mark.parametrize(
    ("broken", "tried", "why"),
    [
        # Of each start whether it fails; how many starts there are; what the last error says.
        ("F.", 2, None),
        ("FF", 2, "start 2 failed"),
        ("FF.", 2, "start 2 failed"),
        (".FFFF", 5, "start 5 failed"),
        ("F.F.F", 5, "start 5 failed"),
    ],
)
def test_a_setting_that_never_started_is_given_up_after_the_second_time(
    broken: str, tried: int, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.start = lambda number: (
        BackendError(f"start {number} failed") if broken[number - 1] == "F" else None
    )
    lab = bench.lab(setting("one-slot"))
    failure: str | None = None
    for _ in broken:
        try:
            with lab.open():
                failure = None
        except NotStartedError as error:
            failure = str(error)
    assert len(bench.script.starts) == tried
    assert failure == why


def test_flags_that_are_only_tried_do_not_give_their_setting_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.start = lambda number: BackendError("no such flag") if number <= 3 else None
    lab = bench.lab(setting("one-slot"))
    for _ in range(3):
        with pytest.raises(NotStartedError, match="no such flag"), lab.open(BROKEN):
            pass
    with lab.open() as asker:
        asker.ask(PROMPTS[0])
    assert bench.script.log == ["4: act"]


def test_an_error_while_asking_is_no_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = scripted_bench(monkeypatch)
    bench.script.reply = lambda _asked: BackendError("cut")
    lab = bench.lab(setting("one-slot"))
    for _ in range(4):
        with pytest.raises(BackendError, match="cut") as raised, lab.open() as asker:
            asker.ask(PROMPTS[0])
        assert not isinstance(raised.value, NotStartedError)
    assert len(bench.script.starts) == 4


def test_the_answers_in_process_are_the_reference_of_that_lab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    there = in_process_reference(bench)
    assert there["act"].text == "answer 1"
    assert bench.lab(setting("in-process")).known_reference is there
    assert bench.script.starts == [("in-process", None)]
