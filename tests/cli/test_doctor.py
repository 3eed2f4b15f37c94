"""The report of ``swarm-repro doctor`` on a machine."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm_repro import __version__
from swarm_repro.cli import doctor
from swarm_repro.serving.state import write_record
from swarm_repro.weights import hash_file
from tests.support.page_server import about, serving, write_gguf
from tests.support.server_records import this_process_as_a_server
from tests.support.terminal import run

NOBODY = "http://127.0.0.1:9"
ALL = {"openai": "1.2", "swarm-safety": "3.4", "matplotlib": "5.6", "llama-cpp-python": "7.8"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Set what is installed; returns the path of a llama-server on PATH, if there is one."""

    def make(installed: dict[str, str], *, program: bool = True) -> Path:
        known = importlib.metadata.version

        def version(name: str) -> str:
            if name not in ALL:
                return known(name)
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        has_library = "llama-cpp-python" in installed
        monkeypatch.setattr(doctor, "find_spec", lambda name: name if has_library else None)
        path = tmp_path / "bin" / "llama-server"
        path.parent.mkdir()
        if program:
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))
        monkeypatch.delenv("SWARM_REPRO_LLAMA_SERVER", raising=False)
        monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(tmp_path / "state"))
        # Neither package that brings a server is looked for.
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        return path

    return make


def diagnose(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, list[tuple[str, ...]]]:
    done = run(capsys, "doctor", "--json", "--base-url", url)
    assert done.err == ""
    found = json.loads(done.out)
    assert all(list(one) == ["level", "what", "found", "advice"] for one in found)
    return done.code, [tuple(one.values()) for one in found]


OURS = ("ok", "swarm-repro", f"{__version__} on Python {platform.python_version()}", "")
SERVER_MISSING = (
    "missing",
    "llama-server",
    f"none answers at {NOBODY}",
    "swarm-repro server start --model <file.gguf> to record (not to replay)",
)


def test_a_machine_with_everything_but_a_running_server(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ALL)
    assert diagnose(capsys, NOBODY) == (
        0,
        [
            OURS,
            ("ok", "openai", "1.2", ""),
            ("ok", "swarm-safety", "3.4", ""),
            ("ok", "matplotlib", "5.6", ""),
            ("ok", "in process", "llama-cpp-python 7.8", ""),
            ("ok", "llama-server program", "PATH", ""),
            SERVER_MISSING,
        ],
    )


def test_a_machine_with_nothing_says_what_to_install(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine({}, program=False)
    assert diagnose(capsys, NOBODY) == (
        1,
        [
            OURS,
            ("missing", "openai", "not installed", "pip install swarm-repro"),
            (
                "missing",
                "swarm-safety",
                "not installed",
                "pip install 'swarm-repro[swarm]' to replay simulations",
            ),
            (
                "missing",
                "matplotlib",
                "not installed",
                "pip install 'swarm-repro[swarm]': SWARM's exports crash without it",
            ),
            (
                "missing",
                "in process",
                "llama-cpp-python is not installed",
                "pip install 'swarm-repro[llama_cpp]' to record with model_path (not to replay)",
            ),
            (
                "missing",
                "llama-server program",
                "not found",
                (
                    "no llama-server on this machine; get one with `brew install llama.cpp` (macOS)"
                    " or `pip install xllamacpp`, or name yours in SWARM_REPRO_LLAMA_SERVER"
                ),
            ),
            SERVER_MISSING,
        ],
    )


@pytest.mark.parametrize(
    ("lacking", "code"),
    [("swarm-safety", 1), ("matplotlib", 1), ("openai", 0), ("llama-cpp-python", 0)],
)
def test_only_what_a_replay_needs_decides_the_exit_code(
    lacking: str, code: int, machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine({name: version for name, version in ALL.items() if name != lacking})
    assert diagnose(capsys, NOBODY)[0] == code


def test_for_people_each_finding_is_a_line_and_its_advice_another(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine({name: version for name, version in ALL.items() if name != "openai"})
    done = run(capsys, "doctor", "--base-url", NOBODY)
    assert done.out.splitlines()[1:4] == [
        "missing  openai                 not installed",
        "                                → pip install swarm-repro",
        "ok       swarm-safety           3.4",
    ]
    assert len(done.out.splitlines()) == 9


@contextmanager
def looking_at(pages: dict[str, object]) -> Iterator[str]:
    with serving({"/health": {"status": "ok"}, **pages}) as server:
        yield server.root


def findings_of(
    pages: dict[str, object], capsys: pytest.CaptureFixture[str], *, started: bool = False
) -> tuple[str, list[tuple[str, ...]]]:
    with looking_at(pages) as url:
        if started:
            write_record(this_process_as_a_server(int(url.rsplit(":", 1)[1])))
        code, found = diagnose(capsys, url)
    assert code == 0, "a replay needs no server"
    return url, found[6:]


def test_a_server_that_was_started_here_with_its_model(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine(ALL)
    gguf = write_gguf(tmp_path / "m.gguf")
    url, found = findings_of(about(gguf), capsys, started=True)
    assert found == [
        ("ok", "llama-server", f"at {url}, one slot", ""),
        ("ok", "model", f"gguf {hash_file(gguf)[:12]}…", ""),
    ]


def test_a_foreign_server_is_a_warning(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine(ALL)
    url, found = findings_of(about(tmp_path / "none.gguf"), capsys)
    assert found[0] == ("ok", "llama-server", f"at {url}, one slot", "")
    assert found[1][:2] == ("warning", "model")
    assert found[1][2].endswith("(weak)")
    assert found[1][3] == "the model's file is not on this machine: its digest is unknown"
    assert found[2:] == [
        (
            "warning",
            "flags",
            "this server was not started by swarm-repro: its flags are unknown",
            "swarm-repro server start --profile cpu-strict records them",
        )
    ]


def test_a_server_with_several_slots_is_a_warning(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ALL)
    props = {"default_generation_settings": {}, "total_slots": 4}
    url, found = findings_of({"/props": props}, capsys)
    ((level, what, where, advice),) = found
    assert (level, what, where) == ("warning", "llama-server", f"at {url}")
    assert advice.startswith(f"{url} has 4 slots and strict mode needs one")


def test_a_server_that_does_not_answer_as_it_should_is_missing(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ALL)
    url, found = findings_of(about("/none", **{"/v1/models": (500, {})}), capsys)
    assert found == [
        ("ok", "llama-server", f"at {url}, one slot", ""),
        (
            "missing",
            "llama-server",
            f"at {url}",
            f"{url}/v1/models answered HTTP 500, not like a llama-server",
        ),
    ]


def test_by_default_the_server_on_port_8080_is_looked_at() -> None:
    option = next(one for one in doctor.command.params if one.name == "base_url")
    assert option.default == "http://localhost:8080"
