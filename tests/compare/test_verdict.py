"""The cause named for a root: another environment, a busy server, or nothing recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swarm_repro.compare.diff import DiffReport
from swarm_repro.completion import Completion
from swarm_repro.environment import Environment
from tests.support.diff_reports import Recording, Report, of, report_of
from tests.support.recordings import Call, record
from tests.support.society import comparing
from tests.support.tiny_model import TinyModel, completion_of

# --- What a root is laid to.


def environment(**members: object) -> TinyModel:
    content = {"backend": "llama-server", "build": "b1", "cpu": "a CPU", **members}
    return TinyModel(environment=Environment(content))


def verdict(folder: Path, a: Recording, b: Recording) -> str:
    told: str = report_of(folder, a, b)["verdict"]
    return told


def saying(text: str, *, cached: int | None = 0, number: int = 0) -> Completion:
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}  # type: ignore[assignment]
    return completion_of(text, usage=usage, number=number)


WHERE = "; 1 of 1 same requests got another completion, first call 0 of ada"


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({"backend": "llama-cpp-python"}, "another backend: backend: llama-server in A, llama-cpp"),
        ({"build": "b2"}, "another llama.cpp build: build: b1 in A, b2 in B"),
        (
            {"binary_sha256": "a" * 64},
            "another llama.cpp build: binary_sha256: unknown in A, aaaaaaaaaaaa… in B",
        ),
        ({"devices": ["GPU 0", "GPU 1"]}, "other devices: devices: unknown in A, GPU 0 GPU 1 in B"),
        ({"cpu": "another"}, "another CPU: cpu: a CPU in A, another in B"),
        ({"machine": "arm64"}, "another machine: machine: unknown in A, arm64 in B"),
        ({"system": "Linux"}, "another operating system: system: unknown in A, Linux in B"),
        ({"flags": []}, "other server flags: flags: unknown in A, none in B"),
        ({"settings": {"n_ctx": 9}}, "other server settings: settings.n_ctx: unknown in A, 9 in B"),
        (
            {"variables": {"OMP_X": "1"}},
            "other environment variables: variables.OMP_X: unknown in A, 1 in B",
        ),
        ({"moon": "full"}, "another environment: moon: unknown in A, full in B"),
        ({"moon": "full", "cpu": "x"}, "another CPU: cpu: a CPU in A, x in B"),
    ],
)
def test_a_root_in_another_environment_is_attributed_to_the_best_explanation(
    tmp_path: Path, members: dict[str, object], shown: str
) -> None:
    a = of(Call("1", "yes"), model=environment())
    b = of(Call("1", "no"), model=environment(**members))
    told = verdict(tmp_path, a, b)
    assert told.startswith(f"cause: {shown}")
    assert told.endswith(WHERE)


def test_a_root_in_one_environment_is_not_attributed_to_differences_elsewhere(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, said, cpu in zip(paths, ("yes", "no"), ("x", "y"), strict=True):
        record(path, [Call("1", said)], seed=1)
        record(path, [Call(f"{n}") for n in range(2, 5)], seed=2, model=environment(cpu=cpu))
    with comparing(*paths) as found:
        report: Report = DiffReport(found).to_json()
    assert report["verdict"].startswith("cause: not in what was recorded: same environment")
    assert report["origins"][0]["environment"] == []
    assert report["environment"] == [{"field": "cpu", "a": "x", "b": "y"}], "most calls were there"


def test_slots_are_blamed_only_with_a_sign_of_them(tmp_path: Path) -> None:
    four = environment(settings={"total_slots": 4})
    quiet = verdict(tmp_path, of(Call("1", "yes"), model=four), of(Call("1", "no"), model=four))
    assert quiet == (
        "cause: not in what was recorded: same environment, same settings "
        f"(4 slots, which can change answers){WHERE}"
    )


BUSY = (
    "cause: concurrent requests: the server has 4 slots, so a second client, or what it was asked "
    "before, changes its answers"
)
CACHED = "cause: prompt cache: cached prompt tokens: 0 and"
UNKNOWN = "cause: not in what was recorded: same environment, same settings"


@pytest.mark.parametrize(
    ("slots", "b", "shown"),
    [
        (
            4,
            saying("no", cached=3, number=125),
            f"{BUSY} (cached prompt tokens: 0 and 3; seconds: 0.2 and 0.4)",
        ),
        (4, saying("no", number=125), f"{BUSY} (seconds: 0.2 and 0.4)"),
        (4, saying("no", number=124), f"{UNKNOWN} (4 slots, which can change answers)"),
        (1, saying("no", cached=3), f"{CACHED} 3"),
        (None, saying("no", cached=3), f"{CACHED} 3"),
        ("4", saying("no", cached=3), f"{CACHED} 3"),
        (1, saying("no", cached=None), f"{CACHED} None"),
        (1, saying("no", number=500), UNKNOWN),
    ],
)
def test_a_root_in_the_same_environment_is_attributed_to_the_servers_activity(
    tmp_path: Path, slots: object, b: Completion, shown: str
) -> None:
    settings = {} if slots is None else {"settings": {"total_slots": slots}}
    model = environment(**settings)
    sides = [of(Call("1", answer), model=model) for answer in (saying("yes"), b)]
    assert verdict(tmp_path, *sides) == shown + WHERE


def test_answers_without_a_duration_are_no_sign_of_a_busy_server(tmp_path: Path) -> None:
    sides = [
        of(Call("1", replace(completion_of(text), duration_s=duration_s)))
        for text, duration_s in (("yes", 0.0), ("no", 2.0))
    ]
    assert report_of(tmp_path, *sides)["origins"][0]["evidence"] == []


def test_a_verdict_says_that_two_environments_answered_alike(tmp_path: Path) -> None:
    a = of(Call("1"), model=environment())
    b = of(Call("1"), model=environment(cpu="y", settings={"n_ctx": 8}))
    report = report_of(tmp_path, a, b)
    assert report["verdict"] == (
        "identical: 1 calls, the same requests and the same completions, in two environments"
    )
    assert report["environment"] == [
        {"field": "cpu", "a": "a CPU", "b": "y"},
        {"field": "settings.n_ctx", "a": "unknown", "b": "8"},
    ]


def test_two_empty_recordings_are_identical(tmp_path: Path) -> None:
    report = report_of(tmp_path, of(), of())
    assert report["verdict"].startswith("identical: 0 calls")
    assert (report["identical"], report["environment"], report["calls"]) == (True, [], [])


def test_the_order_of_runs_does_not_decide_between_equally_used_environments(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, order in zip(paths, (("x", "y"), ("y", "x")), strict=True):
        for cpu in order:
            seed = 1 if cpu == "x" else 2
            record(path, [Call(cpu, who=cpu)], seed=seed, model=environment(cpu=cpu))
    with comparing(*paths) as found:
        report: Report = DiffReport(found).to_json()
    assert (report["identical"], report["environment"]) == (True, [])
