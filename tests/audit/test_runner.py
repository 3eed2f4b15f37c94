"""Whole audits, of real processes that answer by a rule instead of a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

from swarm_repro.audit.plan import AuditOptions, make_plan
from swarm_repro.audit.report import AuditReport
from swarm_repro.audit.runner import run_audit
from swarm_repro.audit.text import render
from swarm_repro.canonical import encode_json
from swarm_repro.errors import BackendError, ModelFileError, UsageError
from swarm_repro.serving.state import StartedServer, state_folder
from tests.support.command import ROOT

Program = Callable[..., Path]
SCHEMA = json.loads((ROOT / "docs/reference/schemas/audit.schema.json").read_text("utf-8"))


def options(model: Path, binary: Path, **more: Any) -> AuditOptions:
    given = {
        "settings": ("default", "one-slot", "one-slot-no-cache"),
        "experiments": ("repeat", "order", "load"),
        "repeat": 4,
        "threads": 1,
        "in_process": False,
        **more,
    }
    return AuditOptions(model_path=model, binary=binary, **given)


def valid(report: AuditReport) -> dict[str, Any]:
    """The report as a reader gets it, checked against the published schema."""
    read: dict[str, Any] = json.loads(encode_json(report.to_json()))
    Draft202012Validator(SCHEMA).validate(read)
    return read


def no_server_is_left() -> bool:
    return not list(state_folder().glob("*.json"))


def test_the_cheapest_setting_whose_answers_do_not_move_is_recommended(
    tiny_gguf: Path, program: Program
) -> None:
    seen: list[StartedServer] = []
    told: list[tuple[str, float, float]] = []
    report = run_audit(
        options(tiny_gguf, program()),
        on_server=seen.append,
        on_progress=lambda *news: told.append(news),
    )
    assert report.recommended is not None
    assert report.recommended.setting.name == "one-slot-no-cache"
    assert report.recommended.setting.flags[:4] == ("-c", "8192", "-np", "1")
    assert report.recommended.setting.request == {"cache_prompt": False}
    assert report.cell("default", "repeat").distinct == 4
    assert report.cell("one-slot", "repeat").distinct == 4
    assert report.cell("one-slot-no-cache", "repeat").distinct == 1
    assert report.cell("one-slot-no-cache", "load").of == 4
    assert [price.setting for price in report.prices].count("default") == 1
    assert report.environment["build"] == "stub"
    assert not any(psutil.pid_exists(server.pid) for server in seen)
    assert no_server_is_left()
    assert told[-1][1] == pytest.approx(told[-1][2])
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    valid(report)


def test_no_cache_alone_is_steady_when_idle_and_not_under_load(
    tiny_gguf: Path, program: Program
) -> None:
    report = run_audit(options(tiny_gguf, program(), settings=("no-cache",)))
    assert report.cell("no-cache", "repeat").distinct == 1
    assert (report.cell("no-cache", "load").distinct or 0) > 1
    assert report.recommended is None
    assert report.verdict == "no setting gave one answer in every experiment within it"


def test_what_is_compared_across_settings_says_same_or_other(
    tiny_gguf: Path, program: Program
) -> None:
    report = run_audit(
        options(
            tiny_gguf,
            program(),
            settings=("one-slot-no-cache",),
            experiments=("repeat", "batch", "threads", "flash-attention", "device", "build"),
            second_binary=program("--other", name="second"),
        )
    )
    batch = report.cell("one-slot-no-cache", "batch")
    assert (batch.distinct, batch.of) == (2, 2)
    assert batch.divergence is not None
    assert batch.divergence.a.startswith("large")
    assert batch.divergence.b.startswith("small")
    assert report.cell("one-slot-no-cache", "threads").distinct == 1
    attention = report.cell("one-slot-no-cache", "flash-attention")
    assert (attention.distinct, attention.of) == (1, 3)
    assert report.cell("one-slot-no-cache", "build").distinct == 1
    device = report.cell("one-slot-no-cache", "device")
    assert (device.status, device.why) == ("skipped", "llama.cpp sees no GPU here")
    assert report.recommended is not None, "what differs across settings does not count against it"
    valid(report)


def test_odd_seeds_are_tried_with_the_strictest_setting_and_do_not_count_against_it(
    tiny_gguf: Path, program: Program
) -> None:
    seeds = ("seed-none", "seed-0", "seed-minus-1")
    report = run_audit(
        options(
            tiny_gguf,
            program(),
            settings=("default", "one-slot-no-cache"),
            experiments=("repeat", *seeds),
        )
    )
    counts = [report.cell("one-slot-no-cache", name).distinct for name in seeds]
    assert counts == [4, 1, 4]
    assert {report.cell("default", name).status for name in seeds} == {"skipped"}
    assert report.recommended is not None
    assert len([note for note in report.notes if note.startswith("seed-")]) == 3


def test_a_server_that_is_killed_takes_one_experiment_with_it_and_the_report_says_which(
    tiny_gguf: Path, program: Program
) -> None:
    started: list[StartedServer] = []

    def kill_the_third(server: StartedServer) -> None:
        started.append(server)
        if len(started) == 3:
            os.kill(server.pid, signal.SIGKILL)

    # Servers of a setting, in order: repeat, the reference, order, load, price.
    report = run_audit(options(tiny_gguf, program()), on_server=kill_the_third)
    failed = [cell for cell in report.cells if cell.status == "failed"]
    assert [(cell.setting, cell.experiment) for cell in failed] == [("default", "order")]
    why = failed[0].why or ""
    assert f"llama-server (process {started[2].pid}) ended while it was asked" in why
    assert f"default, order: {why}" in report.missing
    assert len([cell for cell in report.cells if cell.status == "done"]) == 8
    assert report.recommended is not None
    assert no_server_is_left()
    assert f"missing: default, order: {why}" in render(report)
    valid(report)


def test_a_reference_that_was_lost_with_its_server_is_asked_for_again(
    tiny_gguf: Path, program: Program
) -> None:
    started: list[StartedServer] = []

    def kill_the_second(server: StartedServer) -> None:
        started.append(server)
        if len(started) == 2:
            os.kill(server.pid, signal.SIGKILL)

    report = run_audit(
        options(tiny_gguf, program(), settings=("one-slot-no-cache",)), on_server=kill_the_second
    )
    assert [cell.status for cell in report.cells] == ["done", "failed", "done"]
    assert report.recommended is None, "a setting with a failed experiment is not recommended"


def test_a_price_that_could_not_be_taken_is_missing_and_the_rest_is_there(
    tiny_gguf: Path, program: Program
) -> None:
    started: list[StartedServer] = []

    def kill_the_last(server: StartedServer) -> None:
        started.append(server)
        if len(started) == 2:
            os.kill(server.pid, signal.SIGKILL)

    report = run_audit(
        options(tiny_gguf, program(), settings=("one-slot-no-cache",), experiments=("repeat",)),
        on_server=kill_the_last,
    )
    assert report.prices == ()
    assert report.recommended is not None
    assert report.recommended.relative_price is None
    assert any(line.startswith("one-slot-no-cache, price: ") for line in report.missing)
    valid(report)


def test_flags_that_a_server_refuses_fail_their_setting_and_not_the_audit(
    tiny_gguf: Path, program: Program
) -> None:
    report = run_audit(
        options(
            tiny_gguf,
            program("--no-strict"),
            settings=("one-slot-no-cache", "cpu-strict"),
            experiments=("repeat", "order", "load"),
        )
    )
    failed = [cell for cell in report.cells if cell.setting == "cpu-strict"]
    assert {cell.status for cell in failed} == {"failed"}
    assert all("invalid argument" in (cell.why or "") for cell in failed)
    assert len({cell.why for cell in failed}) == 2, "it is not started for every experiment"
    assert report.recommended is not None
    assert report.recommended.setting.name == "one-slot-no-cache"


def test_when_no_server_can_be_started_at_all_that_is_a_backend_error(
    tiny_gguf: Path, program: Program
) -> None:
    with pytest.raises(BackendError, match=r"no server could be started: .*invalid argument"):
        run_audit(options(tiny_gguf, program("--refused")))
    assert no_server_is_left()


def test_bad_input_is_refused_before_anything_is_started(
    tiny_gguf: Path, program: Program, tmp_path: Path
) -> None:
    binary = program()
    with pytest.raises(ModelFileError, match="there is no model"):
        make_plan(options(tmp_path / "none.gguf", binary))
    with pytest.raises(UsageError, match="--repeat is 1"):
        make_plan(options(tiny_gguf, binary, repeat=1))
    with pytest.raises(UsageError, match="--threads is 0"):
        make_plan(options(tiny_gguf, binary, threads=0))
    with pytest.raises(UsageError, match="no setting 'best'"):
        make_plan(options(tiny_gguf, binary, settings=("best",)))
    with pytest.raises(UsageError, match="no experiment 'luck'"):
        make_plan(options(tiny_gguf, binary, experiments=("luck",)))
    with pytest.raises(UsageError, match="is no program"):
        make_plan(options(tiny_gguf, tmp_path / "none"))
    with pytest.raises(UsageError, match="is no program"):
        make_plan(options(tiny_gguf, binary, second_binary=tmp_path / "none"))
    with pytest.raises(UsageError, match="nothing is left"):
        make_plan(options(tiny_gguf, binary, settings=("metal-1slot",)))


def test_prompts_of_a_cassette_are_asked_as_they_were_recorded(
    tiny_gguf: Path, program: Program
) -> None:
    report = run_audit(
        options(
            tiny_gguf,
            program(),
            settings=("one-slot-no-cache",),
            cassette=ROOT / "cassettes" / "demo.seed42.jsonl",
            prompts_limit=2,
        )
    )
    assert [prompt.source.split()[0] for prompt in report.prompts] == ["demo.seed42.jsonl"] * 2
    assert report.cell("one-slot-no-cache", "order").distinct == 1
    valid(report)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_audit_that_is_interrupted_leaves_no_server(
    number: signal.Signals, tiny_gguf: Path, program: Program
) -> None:
    audit = subprocess.Popen(
        [
            *(sys.executable, "-c", "from swarm_repro.cli.audit import command; command()"),
            *("--model", tiny_gguf, "--binary", program(), "--repeat", "400", "--threads", "1"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A test run in the background may have been told to ignore it, and hands that down.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    try:
        limit = time.monotonic() + 30
        records: list[Path] = []
        while not records and time.monotonic() < limit and audit.poll() is None:
            known = state_folder().glob("*.json")
            records = [path for path in known if b'"ready":true' in read(path)]
            time.sleep(0.01)
        assert records, "no server was seen"
        pid = json.loads(read(records[0]))["pid"]
        audit.send_signal(number)
        assert audit.wait(20) != 0
    finally:
        audit.kill()
        audit.wait()
    assert not psutil.pid_exists(pid)
    assert no_server_is_left()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
