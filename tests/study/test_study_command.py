"""``swarm-repro study``: the output and exit code of each command, in this process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cli import main
from swarm_repro.cli import study as command
from swarm_repro.mode import Mode
from swarm_repro.study import conduct as conducting
from swarm_repro.study.conduct import Conducted, Orders
from swarm_repro.study.estimate import Estimate
from swarm_repro.study.file import Run, Study, load_study
from swarm_repro.study.folder import StudyFolder
from swarm_repro.study.worker import Report
from tests.support.studies import write_scenario, write_study
from tests.support.tiny_model import TinyModel, ask, recording

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command line in this process; gives its exit code and what it printed."""
    # It would start this process again, which is tested where a process is started.
    monkeypatch.setattr(command, "pin_hash_seed", lambda: None)

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["study", *map(str, arguments)])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return called


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two seeds at each of two tax rates."""
    monkeypatch.chdir(tmp_path)
    write_scenario(tmp_path)
    settings = {"governance.transaction_tax_rate": [0.0, 0.5]}
    return load_study(write_study(tmp_path, settings=settings, epochs=1, steps=2))


def finish(study: Study, run: Run, *, out: Path | None = None, welfare: float = 1.0) -> None:
    folder = StudyFolder(study, out)
    folder.open()
    with folder.begun(run) as place:
        result: dict[str, Any] = {
            "criteria": "passed", "calls": 2, "prompt_tokens": 10, "completion_tokens": 4,
            "environments": ["e"], "models": ["m"], "artifacts": {"events.jsonl": "0"},
            "metrics": [{"epoch": 0, "welfare": welfare}],
        }  # fmt: skip
        folder.keep(run, place, mode=Mode.RECORD, result=result, times={"model_s": 1.0})


# --- status


def test_status_of_a_study_that_has_not_begun_is_refused(call: Call, study: Study) -> None:
    code, out, err = call("status", study.path)
    assert (code, out) == (2, "")
    assert "studies/small holds no results of a study yet: begin with" in err


def test_status_says_how_far_it_is(call: Call, study: Study) -> None:
    first, second, third, fourth = study.runs
    finish(study, first)
    StudyFolder(study).keep_failure(second, exit_code=4, messages=["no\x1b[2J", "more"])
    StudyFolder(study).keep_failure(fourth, exit_code=4, messages=[])
    part = study.cassette_of(third)
    part.parent.mkdir(parents=True)
    part.with_name(part.name + ".part").write_text('{"record":"call",\n')
    code, out, err = call("status", study.path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "1 of 4 runs are finished",
        f"begun   {third.name}: 1 calls are recorded",
        f"failed  {second.name}: no\\x1b[2J",
        f"failed  {fourth.name}: ",
    ]
    code, out, _ = call("status", study.path, "--json")
    assert code == 0
    assert json.loads(out) == {
        "runs": 4,
        "finished": 1,
        "begun": [{"run": third.name, "calls": 1}],
        "failed": [
            {"run": second.name, "messages": ["no\x1b[2J", "more"]},
            {"run": fourth.name, "messages": []},
        ],
    }
    assert call("status", study.path, "--out", "elsewhere")[0] == 2


def test_the_first_ten_failures_are_listed_and_the_rest_is_counted(
    call: Call, study: Study, tmp_path: Path
) -> None:
    def failing(count: int) -> list[str]:
        made = load_study(write_study(tmp_path, seeds={"count": count}))
        StudyFolder(made).open()
        for run in made.runs:
            StudyFolder(made).keep_failure(run, exit_code=4, messages=["why"])
        return call("status", made.path)[1].splitlines()[1:]

    assert failing(10) == [f"failed  small.seed{number}: why" for number in range(10)]
    assert failing(12)[9:] == ["failed  small.seed9: why", "and 2 more"]


# --- report and collect


def test_report_writes_a_page_beside_the_results_or_to_a_given_path(
    call: Call, study: Study
) -> None:
    for number, run in enumerate(study.runs):
        finish(study, run, welfare=float(number))
    code, out, err = call("report", study.path, "--metric", "welfare")
    assert (code, out, err) == (0, "wrote studies/small/report.html\n", "")
    whole = Path("studies/small/report.html").read_text()
    assert "Intervals: 0.95 of" in whole
    assert '<section id="calls">' not in whole
    arguments = ("--html", "mine.html", "--confidence", 0.9, "--metric", "calls")
    code, out, _ = call("report", study.path, *arguments)
    assert out == "wrote mine.html\n"
    assert "Intervals: 0.9 of" in Path("mine.html").read_text()
    assert '<section id="calls">' in Path("mine.html").read_text()


def test_report_as_json_writes_no_page_unless_it_is_asked_for(call: Call, study: Study) -> None:
    for run in study.runs:
        finish(study, run)
    code, out, err = call("report", study.path, "--json")
    document = json.loads(out)
    assert (code, err, document["report"], document["finished"]) == (0, "", "study", 4)
    assert not Path("studies/small/report.html").exists()
    names = [metric["name"] for metric in document["metrics"]]
    assert names == ["welfare", "calls", "prompt_tokens", "completion_tokens"]
    arguments = ("--json", "--html", "r.html", "--metric", "calls")
    code, out, err = call("report", study.path, *arguments)
    assert json.loads(out)["metrics"] == document["metrics"][1:2]
    assert err == "wrote r.html\n"
    assert Path("r.html").exists()


def test_report_of_nothing_is_refused(call: Call, study: Study) -> None:
    assert "holds no results of a study yet" in call("report", study.path)[2]
    StudyFolder(study).open()
    code, _, err = call("report", study.path)
    assert code == 2
    assert "no run of small is finished" in err
    finish(study, study.runs[0])
    assert "there is no metric 'x'" in call("report", study.path, "--metric", "x")[2]
    assert call("report", study.path, "--confidence", "1")[0] == 2


def test_collect_brings_folders_together_and_writes_tables(call: Call, study: Study) -> None:
    finish(study, study.runs[0], out=Path("a"))
    finish(study, study.runs[3], out=Path("b"))
    finish(study, study.runs[1])
    code, out, _ = call("collect", study.path, "a", "b")
    assert (code, out) == (0, "took 2 runs; 3 of 4 are in studies/small\n")
    rows = Path("studies/small/runs.csv").read_text().splitlines()
    assert len(rows) == 4
    code, out, _ = call("collect", study.path, "a", "--out", "all")
    assert out == "took 1 runs; 1 of 4 are in all\n"
    assert call("collect", study.path)[0] == 2
    finish(study, study.runs[0], out=Path("c"), welfare=9.0)
    code, _, err = call("collect", study.path, "c", "--out", "all")
    assert code == 6
    assert "c has another result of" in err


def test_a_missing_package_is_named(
    call: Call, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    gone: list[str] = []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find(name)
    )
    finish(study, study.runs[0])
    for words, packages in (
        (("report", study.path), ("pyarrow", "scipy", "matplotlib")),
        (("collect", study.path, "a"), ("pyarrow",)),
        (("run", study.path, "--dry-run"), ("pyarrow",)),
    ):
        for package in packages:
            gone[:] = [package]
            code, _, err = call(*words)
            assert code == 2
            assert err == (
                f"error: studies need {package}, which is not installed; run: pip install "
                "'swarm-repro[study]'\n"
            )


# --- merge


def test_merge_says_what_it_joined_and_what_stays_apart(call: Call, study: Study) -> None:
    for run in study.runs:
        path = study.cassette_of(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with recording(path, run_seed=run.seed) as session:
            tax = run.settings["governance.transaction_tax_rate"]
            ask(session, TinyModel(), "the same" if tax else f"for {run.seed}")
    groups = [f"cassettes/small/{run.group}.jsonl" for run in study.runs[::2]]
    code, out, _ = call("merge", study.path)
    first, second = out.splitlines()
    assert (code, first) == (0, f"{groups[0]}: 2 runs, 2 calls")
    assert second.startswith(f"{groups[1]}: 2 runs stay apart: call 0 of alice (repeat 0")
    assert ": sent with seed " in second
    assert Path(study.cassette_of(study.runs[0])).exists()
    code, out, _ = call("merge", study.path, "--json", "--archive", "--remove")
    joined, apart = json.loads(out)
    assert joined == {
        "cassette": f"{groups[0]}.zst", "joined": True, "runs": 2, "calls": 2, "conflicts": [],
    }  # fmt: skip
    assert (apart["joined"], apart["runs"]) == (False, 2)
    assert [sorted(one) for one in apart["conflicts"]] == [["what", "why"]]
    assert not Path(study.cassettes / f"{study.runs[0].name}.jsonl").exists()


# --- run


@pytest.fixture
def conducted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options that the study would be conducted with; nothing is run."""
    asked: list[dict[str, Any]] = []

    def conduct(study: Study, orders: Orders, **more: Any) -> Conducted:
        asked.append({"study": study, "orders": orders, **more})
        more["on_begin"](4, 0)
        failed = Report(study.runs[1].name, 3, ("a miss",))
        done = Conducted(orders.mode or Mode.REPLAY)
        if orders.fail_fast:
            done.failed, done.left = [failed], 3
        elif orders.workers:
            done.before, done.lost, done.cpu_s = 1, 2, 1.23456
            done.finished = [run.name for run in study.runs[1:]]
        for report in done.failed:
            more["on_report"](report)
        StudyFolder(study, more["out"]).open()
        return done

    monkeypatch.setattr(conducting, "conduct", conduct)
    return asked


def test_options_of_a_run_are_its_orders(
    call: Call, study: Study, conducted: list[dict[str, Any]]
) -> None:
    call("run", study.path)
    call(
        "run", study.path, "--auto", "--engine", "dask", "--workers", 3, "--scheduler", "tcp://x",
        "--shard", "2/5", "--fail-fast", "--redact", "json:dumps", "--out", "there",
    )  # fmt: skip
    for mode in ("record", "replay", "verify"):
        call("run", study.path, f"--{mode}")
    plain, full, *modes = conducted
    assert plain["orders"] == Orders()
    assert plain["out"] is None
    assert full["orders"] == Orders(Mode.AUTO, "dask", 3, "tcp://x", (2, 5), True, "json:dumps")
    assert full["out"] == Path("there")
    assert full["study"] == study
    assert [one["orders"].mode for one in modes] == [Mode.RECORD, Mode.REPLAY, Mode.VERIFY]


def test_a_run_reports_its_outcome(
    call: Call, study: Study, conducted: list[dict[str, Any]]
) -> None:
    code, out, err = call("run", study.path)
    assert (code, out) == (0, "replay: 0 runs finished, 0 failed\ntables in studies/small\n")
    assert err == "small: 4 runs; how long they take is told once one is recorded, or by --probe\n"
    code, out, _ = call("run", study.path, "--record", "--workers", 2)
    assert out.splitlines() == [
        "record: 3 runs finished, 1 were finished before, 0 failed",
        "workers were lost 2 times; their runs were made by others",
        "tables in studies/small",
    ]
    code, out, _ = call("run", study.path, "--fail-fast", "--out", "there")
    assert code == 3
    assert out.splitlines() == [
        "replay: 0 runs finished, 1 failed",
        "3 runs were not begun",
        f"failed  {study.runs[1].name}: a miss",
        "tables in there",
    ]
    assert Path("there/runs.csv").exists()


def test_a_run_as_json(call: Call, study: Study, conducted: list[dict[str, Any]]) -> None:
    code, out, err = call("run", study.path, "--json", "--workers", 1)
    assert (code, err) == (0, "")
    names = ("runs.csv", "runs.parquet", "epochs.csv", "epochs.parquet", "times.csv")
    assert json.loads(out) == {
        "study": "small", "mode": "replay", "runs": 4, "before": 1,
        "finished": [run.name for run in study.runs[1:]], "failed": [],
        "lost_workers": 2, "left": 0, "cpu_s": 1.235,
        "tables": [f"studies/small/{name}" for name in names],
    }  # fmt: skip
    code, out, _ = call("run", study.path, "--json", "--fail-fast")
    document = json.loads(out)
    assert (code, document["left"]) == (3, 3)
    assert document["failed"] == [
        {"run": study.runs[1].name, "exit_code": 3, "messages": ["a miss"]}
    ]


def test_a_dry_run_makes_nothing(call: Call, study: Study, conducted: list[dict[str, Any]]) -> None:
    code, out, err = call("run", study.path, "--dry-run")
    assert (code, out) == (0, "")
    assert err.startswith("small: 4 runs; ")
    assert conducted == []
    assert not study.out.exists()
    assert call("run", study.path, "--dry-run", "--json") == (0, "", "")
    code, _, err = call("run", study.path, "--probe")
    assert (code, err) == (2, "error: --probe goes with --dry-run\n")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "4 runs; how long they take is told once one is recorded, or by --probe"),
        (
            Estimate(60.0, tried=False),
            "4 runs, about 1 minutes of a model to record (15 s each, as recorded)",
        ),
        (
            Estimate(3600.0, tried=False),
            "4 runs, about 1.0 hours of a model to record (900 s each, as recorded)",
        ),
        (
            Estimate(3599.0, tried=True),
            (
                "4 runs, about 60 minutes of a model to record (900 s each, as a first step took "
                "just now)"
            ),
        ),
        (
            Estimate(9000.0, tried=True),
            (
                "4 runs, about 2.5 hours of a model to record (2250 s each, as a first step took "
                "just now)"
            ),
        ),
    ],
)
def test_durations_are_shown_in_minutes_or_hours(
    found: Estimate | None, said: str, call: Call, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swarm_repro.study import estimate as estimating

    probes: list[bool] = []

    def estimate(_study: Study, *, probe: bool) -> Estimate | None:
        probes.append(probe)
        return found

    monkeypatch.setattr(estimating, "estimate", estimate)
    _, _, err = call("run", study.path, "--dry-run", "--probe")
    assert err == f"small: {said}\n"
    call("run", study.path, "--dry-run")
    assert probes == [True, False]


@pytest.mark.parametrize("shard", ["", "1", "0/2", "3/2", "a/2", "1/b", "-1/2", "1/2/3", "1/"])
def test_an_invalid_shard_is_refused(
    shard: str, call: Call, study: Study, conducted: list[dict[str, Any]]
) -> None:
    code, _, err = call("run", study.path, "--shard", shard)
    assert (code, err) == (
        2,
        f"error: --shard {shard!r} is none: use I/N, such as 1/4 for the first of four\n",
    )
    assert conducted == []


@pytest.mark.parametrize(("given", "shard"), [("1/1", (1, 1)), ("2/2", (2, 2)), ("1/10", (1, 10))])
def test_a_shard_is_one_of_several(
    given: str,
    shard: tuple[int, int],
    call: Call,
    study: Study,
    conducted: list[dict[str, Any]],
) -> None:
    assert call("run", study.path, "--shard", given)[0] == 0
    assert conducted[0]["orders"].shard == shard


def test_workers_are_one_or_more(call: Call, study: Study) -> None:
    assert call("run", study.path, "--workers", 0)[0] == 2
    assert call("run", study.path, "--engine", "slurm")[0] == 2
