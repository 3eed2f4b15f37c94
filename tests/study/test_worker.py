"""A run in a worker, in this process: recorded, replayed, resumed or failed."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm_repro import __version__
from swarm_repro.cassette.part import part_path
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.errors import ExitCode, ModelFileError, UsageError
from swarm_repro.mode import Mode
from swarm_repro.serving.state import take_inventory
from swarm_repro.simulation.plan import Served
from swarm_repro.study import worker
from swarm_repro.study.file import Study, StudyBackend, load_study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.worker import (
    Report,
    Task,
    end_own,
    end_servers,
    own_port,
    own_server,
    perform,
    served_by,
    versions,
    worker_name,
)
from tests.support.stub_server import StubServer, running_stub
from tests.support.studies import (
    agents_alone,
    runs_in_this_process,
    write_scenario,
    write_study,
)


@pytest.fixture(scope="module", autouse=True)
def _runs_in_this_process() -> Iterator[None]:
    with runs_in_this_process():
        yield


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub() as server:
        yield server


@pytest.fixture
def make(tmp_path: Path, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Makes a study of one run: two agents, one epoch of one step."""
    monkeypatch.chdir(tmp_path)

    def made(*, scenario: dict[str, object] | None = None, **members: object) -> Study:
        agents = agents_alone(stub.base_url)
        write_scenario(tmp_path, stub.base_url, **{"agents": agents, **(scenario or {})})
        study = load_study(write_study(tmp_path, **{"epochs": 1, "seeds": [3], **members}))
        StudyFolder(study).open()
        return study

    return made


def task_of(study: Study, mode: Mode, number: int = 0) -> Task:
    return Task(replace(study, runs=()), study.runs[number], mode, study.out, 1)


def result_of(study: Study, number: int = 0) -> dict[str, Any]:
    found = StudyFolder(study).any_result(study.runs[number])
    assert found is not None
    return found


def test_a_run_is_recorded_and_its_results_are_kept(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make(settings={"governance.transaction_tax_rate": [0.5]})
    (run,) = study.runs
    report = perform(task_of(study, Mode.RECORD))
    assert (report.run, report.exit_code, report.messages) == (run.name, 0, ())
    assert report.cpu_s > 0
    cassette = read_cassette(study.cassette_of(run))
    calls = list(cassette.calls.values())
    assert len(calls) == 2
    result = result_of(study)
    assert (result["mode"], result["criteria"], result["calls"]) == ("record", "passed", 2)
    assert (result["prompt_tokens"], result["completion_tokens"]) == (200, 16)
    assert result["environments"] == sorted({call.env for call in calls})
    assert result["models"] == [cassette.models["stub"].identity.label]
    (recorded,) = cassette.runs
    assert (recorded.seed, recorded.epochs, recorded.steps) == (3, 1, 1)
    assert result["metrics"] == [dict(epoch) for epoch in recorded.metrics]
    assert result["artifacts"] == {
        name: artifact.sha256 for name, artifact in recorded.artifacts.items()
    }
    assert list(result["artifacts"]) == sorted(result["artifacts"])
    folder = StudyFolder(study).folder_of(run)
    assert (folder / "small.yaml").read_text() == run.document
    assert set(result["artifacts"]) < {path.name for path in (folder / "artifacts").iterdir()}
    times = StudyFolder(study).times(run)
    assert list(times) == ["duration_s", "cpu_s", "model_s", "peak_mb", "worker"]
    assert times["worker"] == worker_name()
    assert times["model_s"] == round(sum(call.duration_s for call in calls), 3)
    assert 0 < times["cpu_s"] <= times["duration_s"] + 60
    assert 10 < times["peak_mb"] < 100_000
    assert StudyFolder(study).failure(run) is None


def test_a_replay_and_a_comparison_come_to_the_same_and_only_one_calls(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make()
    perform(task_of(study, Mode.RECORD))
    recorded, asked = result_of(study), len(stub.chats)
    assert perform(task_of(study, Mode.REPLAY)).exit_code == 0
    assert result_of(study) == {**recorded, "mode": "replay"}
    assert len(stub.chats) == asked
    assert perform(task_of(study, Mode.VERIFY)).exit_code == 0
    assert result_of(study) == {**recorded, "mode": "verify"}
    assert len(stub.chats) > asked


def test_a_recording_that_is_there_is_gone_on_with(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make()
    perform(task_of(study, Mode.RECORD))
    before, asked = study.cassette_of(study.runs[0]).read_bytes(), len(stub.chats)
    assert perform(task_of(study, Mode.RECORD)).exit_code == 0
    assert study.cassette_of(study.runs[0]).read_bytes() == before
    assert len(stub.chats) == asked, "all of it was recorded already"


def test_a_run_that_failed_keeps_what_it_has_and_goes_on_from_it(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make(epochs=2)
    (run,) = study.runs
    faults: list[object] = []

    def fault(_number: int) -> Any:
        faults.append(None)
        return 400 if len(faults) == 3 else None

    stub.fault = fault
    report = perform(task_of(study, Mode.RECORD))
    assert (report.run, report.exit_code) == (run.name, int(ExitCode.BACKEND))
    assert "HTTP 400" in report.messages[0]
    folder = StudyFolder(study)
    failure = folder.failure(run)
    assert failure is not None
    assert (failure["exit_code"], failure["messages"]) == (4, list(report.messages))
    assert folder.any_result(run) is None
    assert part_path(study.cassette_of(run)).exists()
    assert list((folder.path / "runs").iterdir()) == []
    stub.fault = lambda _number: None
    stub.chats.clear()
    assert perform(task_of(study, Mode.RECORD)).exit_code == 0
    assert len(stub.chats) < 4, "what was recorded is not asked again"
    assert len(read_cassette(study.cassette_of(run)).calls) == 4
    assert folder.failure(run) is None
    assert result_of(study)["mode"] == "record"


def test_a_run_that_cannot_begin_is_a_failure_that_is_noted(
    make: Callable[..., Study],
) -> None:
    study = make()
    (run,) = study.runs
    said = "there is no cassette at cassettes/small/small.seed3.jsonl"
    report = perform(task_of(study, Mode.REPLAY))
    assert (report.exit_code, report.cpu_s) == (2, 0.0)
    assert said in report.messages[0]
    failure = StudyFolder(study).failure(run)
    assert failure is not None
    assert (failure["exit_code"], failure["messages"]) == (2, list(report.messages))


def test_a_replay_of_another_scenario_is_a_miss_that_is_noted(make: Callable[..., Study]) -> None:
    study = make()
    perform(task_of(study, Mode.RECORD))
    changed = make(scenario={"motto": "x", "repro": {"seed_policy": "content"}})
    report = perform(task_of(changed, Mode.REPLAY))
    assert report.exit_code == 3
    assert "was recorded with" in report.messages[0]
    failure = StudyFolder(changed).failure(changed.runs[0])
    assert failure is not None
    assert failure["exit_code"] == 3


def test_a_success_criterion_that_fails_is_a_result(make: Callable[..., Study]) -> None:
    study = make(scenario={"success_criteria": {"min_epochs": 99}})
    report = perform(task_of(study, Mode.RECORD))
    assert (report.exit_code, report.messages) == (0, ())
    assert result_of(study)["criteria"] == "failed"
    assert perform(task_of(study, Mode.REPLAY)).exit_code == 0
    assert result_of(study)["criteria"] == "failed"


def test_a_criterion_that_fails_hides_no_difference(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make(scenario={"success_criteria": {"min_epochs": 99}})
    perform(task_of(study, Mode.RECORD))
    stub.reply = lambda _body: '{"action_type": "NOOP", "reasoning": "another"}'
    report = perform(task_of(study, Mode.VERIFY))
    assert report.exit_code == 1
    assert report.messages
    assert not report.messages[0].startswith("success criterion")
    assert StudyFolder(study).failure(study.runs[0]) is not None


def test_a_run_of_a_joined_cassette_is_replayed_from_it_even_when_it_is_to_be_recorded(
    make: Callable[..., Study], stub: StubServer
) -> None:
    study = make()
    (run,) = study.runs
    perform(task_of(study, Mode.RECORD))
    own, asked = study.cassette_of(run), len(stub.chats)
    own.rename(own.with_name(f"{run.group}.jsonl"))
    recorded = result_of(study)
    for mode in (Mode.RECORD, Mode.AUTO):
        assert perform(task_of(study, mode)).exit_code == 0
        assert result_of(study) == recorded
    assert perform(task_of(study, Mode.REPLAY)).exit_code == 0
    assert perform(task_of(study, Mode.VERIFY)).exit_code == 0
    assert result_of(study)["mode"] == "verify"
    assert len(stub.chats) == asked + 2, "the comparison alone has called the model"
    assert not own.exists()


def test_the_users_redaction_reaches_the_recording(make: Callable[..., Study]) -> None:
    Path("worker_rules.py").write_text("def hide(text):\n    return text.replace('NOOP', 'NOPE')\n")
    study = make()
    task = replace(task_of(study, Mode.RECORD), redact="worker_rules:hide")
    report = perform(task)
    assert report.exit_code == 0
    recorded = study.cassette_of(study.runs[0]).read_bytes()
    assert b"NOPE" in recorded
    refused = perform(replace(task, redact="worker_rules:none"))
    assert refused.exit_code == 2
    assert "worker_rules has no function none" in refused.messages[0]


# --- The model of a worker.


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker without a server or model of its own, before and after."""
    monkeypatch.setattr(worker, "_own", worker._Own())
    yield
    end_own(limit_s=0.0)
    if worker._own.folder is not None:
        worker._own.folder.cleanup()


def backed(study: Study, **members: Any) -> Study:
    return replace(study, backend=StudyBackend(**members))


@pytest.mark.usefixtures("own")
def test_calls_go_to_the_scenarios_server_when_the_study_names_none(
    make: Callable[..., Study],
) -> None:
    study = make()
    (run,) = study.runs
    assert served_by(run, task_of(study, Mode.RECORD)) == Served()
    assert own_port() is None


@pytest.mark.usefixtures("own")
def test_a_model_in_process_shares_the_cores_out_and_has_the_scenarios_name(
    make: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    study = backed(make(), kind="llama-cpp-python")
    task = task_of(study, Mode.RECORD)
    run = replace(study.runs[0], document="agents: [{llm: {model_path: models/tiny.gguf}}]")
    assert served_by(run, replace(task, workers=2)) == Served(threads=3)
    assert served_by(run, replace(task, workers=9)) == Served(threads=1)
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    study = backed(study, kind="llama-cpp-python", model="other.gguf", threads=5)
    task = task_of(study, Mode.RECORD)
    served = served_by(run, task)
    assert served.threads == 5
    assert served.model_path is not None
    assert served.model_path.name == "tiny.gguf"
    assert served.model_path.resolve() == tmp_path / "other.gguf"
    assert served_by(run, task) == served
    # It is looked for once, however many runs there are.
    (tmp_path / "other.gguf").write_bytes(b"no model any more")
    assert served_by(run, task) == served


@pytest.mark.usefixtures("own")
def test_a_missing_model_is_named(make: Callable[..., Study]) -> None:
    for kind in ("llama-cpp-python", "llama-server"):
        study = backed(make(), kind=kind, model="none.gguf")
        with pytest.raises(ModelFileError, match=r"there is no model at none\.gguf"):
            served_by(study.runs[0], task_of(study, Mode.RECORD))
    with pytest.raises(UsageError, match="a server of a worker's own needs a model"):
        own_server(StudyBackend("llama-server"), 1, study.out)


def stand_in(folder: Path) -> Path:
    """A program with llama-server's flags and its two pages, but without a model."""
    program = folder / "llama-server"
    script = textwrap.dedent(
        f"""\
        #!{sys.executable}
        import http.server, sys
        flags = dict(zip(sys.argv[1:], sys.argv[2:]))
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = b'{{"status":"ok"}}' if self.path == "/health" else (
                    b'{{"default_generation_settings":{{}},"total_slots":1}}')
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page)
            def log_message(self, *args):
                pass
        address = (flags["--host"], int(flags["--port"]))
        http.server.HTTPServer(address, Handler).serve_forever()
        """
    )
    program.write_text(script)
    program.chmod(0o755)
    return program


@pytest.mark.usefixtures("own")
def test_a_worker_starts_one_server_notes_it_and_ends_it(
    make: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SWARM_REPRO_LLAMA_SERVER", str(stand_in(tmp_path)))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    backend = {"kind": "llama-server", "model": "a.gguf", "profile": "default-1slot", "threads": 3}
    study = backed(make(), **backend)
    task = task_of(study, Mode.RECORD)
    served = served_by(study.runs[0], task)
    assert served_by(study.runs[0], task) == served
    (running,) = take_inventory().running
    assert served == Served(base_url=running.base_url)
    assert own_port() == running.port
    assert running.model_path == tmp_path / "a.gguf"
    assert running.profile == "default-1slot"
    flags = dict(zip(running.flags, running.flags[1:], strict=False))
    assert flags["-t"] == "3"
    (note,) = (study.out / "servers").iterdir()
    assert note.name == f"{worker_name()}.json"
    host = worker_name().rpartition(":")[0]
    assert json.loads(note.read_text()) == {"host": host, "port": running.port}
    end_own()
    assert take_inventory().running == ()
    assert own_port() is None
    end_own()  # there is none any more, and that is no error
    # A server that another worker left behind, and one that is gone by now.
    left = own_server(study.backend, 3, study.out)
    port = own_port()
    assert left != served.base_url or port == running.port
    assert port is not None
    end_servers([running.port + 1 if running.port + 1 != port else running.port + 2, port])
    assert take_inventory().running == ()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("given", "limit_s"), [({}, 10.0), ({"limit_s": 0.5}, 0.5)])
def test_a_workers_own_server_has_so_long_to_end(
    given: dict[str, float], limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(worker, "stop", lambda **how: asked.append(how))
    monkeypatch.setattr(worker._own, "port", 8123)
    end_own(**given)
    assert asked == [{"port": 8123, "limit_s": limit_s}]


def test_workers_compare_versions_and_the_hash_seed() -> None:
    import importlib.metadata
    import platform

    assert versions() == {
        "swarm_repro": __version__,
        "swarm_safety": importlib.metadata.version("swarm-safety"),
        "python": platform.python_version(),
        "hash_seed": os.environ.get("PYTHONHASHSEED") == "0",
    }


def test_a_report_of_a_finished_run_has_nothing_to_say() -> None:
    assert Report("r", 0) == Report("r", 0, (), 0.0)
