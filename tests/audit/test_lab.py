"""One setting under measurement: restarts of its server, and the seconds that count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.audit.lab import Bench, NotStartedError, in_process_reference
from swarm_repro.audit.prompts import built_in_prompts
from swarm_repro.audit.settings import IN_PROCESS, Variant
from swarm_repro.errors import BackendError
from swarm_repro.serving.state import StartedServer, write_record
from tests.support.llama_cpp_stand_in import Llama
from tests.support.scripted_audit import PROMPTS, scripted_bench, setting
from tests.support.server_records import this_process_as_a_server
from tests.support.stub_server import running_stub
from tests.support.tiny_model import make_binding

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


def test_the_cost_of_the_reference_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_failed_trial_of_flags_keeps_the_setting(
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


def test_the_machine_is_known_from_the_first_server_without_its_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch, devices=("CUDA0",))
    with running_stub() as stub:
        server = replace(
            this_process_as_a_server(stub.port), flags=("-np", "1"), variables={"OMP_A": "1"}
        )
        write_record(server)
        bench.learn(server)
        assert bench.environment is not None
        content = bench.environment.content
        assert bench.unknown is None
        assert content["build"] == "stub"
        assert content["devices"] == ["CUDA0"]
        assert (content["flags"], content["settings"]) == (None, {})
        assert content["variables"] == {"OMP_A": "1"}, "what is known of a server started here"
        assert content["backend"] == "llama-server"
        known = bench.environment
    # That server has gone: nobody asks it again.
    bench.learn(server)
    assert (bench.environment, bench.unknown) == (known, None)


def test_a_server_that_does_not_say_where_it_runs_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = scripted_bench(monkeypatch)
    with running_stub(api_key="secret") as stub:
        bench.learn(this_process_as_a_server(stub.port))
        assert bench.environment is None
        assert bench.unknown is not None
        assert "/props answered HTTP 401" in bench.unknown
        why = bench.unknown
        stub.api_key = None
        bench.learn(this_process_as_a_server(stub.port))
    assert (bench.environment, bench.unknown) == (None, why)


def real_bench(tiny_gguf: Path, binary: Path, **given: object) -> Bench:
    known: dict[str, Any] = {
        "model_path": tiny_gguf,
        "binding": make_binding(),
        "threads": 3,
        "n_ctx": 4096,
        "repeat": 2,
        "prompts": built_in_prompts(),
        "binary": binary,
    }
    return Bench(**{**known, **given})


def test_a_real_server_has_the_flags_of_its_setting_and_then_those_of_the_variant(
    tiny_gguf: Path, program: Callable[..., Path]
) -> None:
    bench = real_bench(tiny_gguf, program())
    seen: list[StartedServer] = []
    weights: list[float] = []
    bench.on_server, bench.on_answer = seen.append, weights.append
    changed = Variant(what="changed", flags=("-ub", "256"), threads=1)
    with bench.lab(setting("default")).open(changed) as asker:
        assert "small batch" in asker.ask(bench.prompts[2]).text
        assert bench.environment is None, "it is asked for last"
    flags = seen[0].flags
    assert flags[flags.index("-c") :] == (
        *("-c", "4096", "-np", "1", "-t", "1", "-tb", "1"),
        *("-np", "-1", "-ub", "256"),
    )
    assert (seen[0].profile, seen[0].model_path) == ("default-1slot", tiny_gguf)
    assert bench.started == len(seen) == 1
    assert weights == [bench.prompts[2].weight]
    assert bench.environment is not None
    assert bench.environment.content["build"] == "stub"


def test_another_build_does_not_describe_the_measured_one(
    tiny_gguf: Path, program: Callable[..., Path]
) -> None:
    second = program(name="second")
    bench = real_bench(tiny_gguf, program("--refused"))
    seen: list[StartedServer] = []
    bench.on_server = seen.append
    lab = bench.lab(setting("one-slot-no-cache"))
    with lab.open(Variant(what="the second build", binary=second)) as asker:
        asked = [asker.ask(bench.prompts[2]).text for _ in range(2)]
    assert len(set(asked)) == 1, "requests have the fields of the setting"
    assert seen[0].argv[0] == str(second)
    assert seen[0].flags[-8:] == ("-c", "4096", "-np", "1", "-t", "3", "-tb", "3")
    assert (bench.environment, bench.unknown, bench.started) == (None, None, 1)


def test_a_real_server_with_refused_flags_has_not_started(
    tiny_gguf: Path, program: Callable[..., Path]
) -> None:
    bench = real_bench(tiny_gguf, program("--refused"))
    with (
        pytest.raises(NotStartedError, match="invalid argument"),
        bench.lab(setting("one-slot")).open(),
    ):
        pass
    assert bench.started == 0


def test_an_impossible_model_in_process_is_not_started(tmp_path: Path) -> None:
    bench = real_bench(tmp_path / "none.gguf", tmp_path, in_process="not asked for")
    with pytest.raises(NotStartedError, match=r"^not asked for$"), bench.lab(IN_PROCESS).open():
        pass


def test_a_model_in_process_is_loaded_before_it_is_timed_and_freed_at_the_end(
    tiny_gguf: Path, tmp_path: Path, library: type[Llama]
) -> None:
    library.answer = {"choices": [{"message": {"content": "yes"}}]}
    bench = real_bench(tiny_gguf, tmp_path / "none")
    weights: list[float] = []
    bench.on_answer = weights.append
    with bench.lab(IN_PROCESS).open() as asker:
        llama = library.made[0]
        assert [one for one in llama.done if isinstance(one, tuple)] == [
            ("set_cache", None),
            (
                "create_completion",
                {"prompt": ".", "max_tokens": 1, "seed": 1, "model": "tiny.gguf"},
            ),
        ]
        assert weights == []
        assert asker.ask(bench.prompts[2]).text == "yes"
        assert weights == [bench.prompts[2].weight]
    assert llama.settings == {
        "model_path": str(tiny_gguf),
        "n_ctx": 4096,
        "n_threads": 3,
        "n_threads_batch": 3,
        "n_batch": 512,
        "flash_attn": False,
        "verbose": False,
    }
    assert llama.done[-1] == "close"
    assert bench.started == 0


def test_a_model_in_process_that_cannot_be_loaded_is_not_started(
    tiny_gguf: Path, tmp_path: Path, library: type[Llama]
) -> None:
    library.refuses = ValueError("no tensors")
    bench = real_bench(tiny_gguf, tmp_path / "none")
    with pytest.raises(NotStartedError, match="no tensors"), bench.lab(IN_PROCESS).open():
        pass
