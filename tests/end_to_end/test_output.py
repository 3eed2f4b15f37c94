"""Where a command's output goes: another encoding, a full disk, a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, swarm_repro
from tests.support.recordings import Call, record
from tests.support.stub_server import running_stub

DRIFT = ROOT / "tests" / "data" / "drift"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_shown_as_an_escape(encoding: str, tmp_path: Path) -> None:
    a = record(tmp_path / "a.jsonl", [Call("hello", "naïve → 日本")])
    b = record(tmp_path / "b.jsonl", [Call("hello", "naïve → 中国")])
    done = subprocess.run(
        [sys.executable, "-m", "swarm_repro", "diff", str(a), str(b)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    shown = done.stdout.decode("utf-8" if encoding == "ascii" else encoding)
    assert "日本" in shown or r"\u65e5\u672c" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "swarm_repro",
                "diff",
                DRIFT / "base.jsonl",
                DRIFT / "word.jsonl",
            ],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device\n"


def test_a_cassette_through_a_pipe_is_refused_for_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = swarm_repro("diff", "pipe", DRIFT / "word.jsonl", cwd=tmp_path, timeout_s=30)
    assert done.returncode == 2
    assert done.stderr.startswith("error: pipe is a pipe or a device")


def test_a_recording_is_never_replaced_by_a_page(tmp_path: Path) -> None:
    cassette = tmp_path / "word.jsonl"
    cassette.write_bytes((DRIFT / "word.jsonl").read_bytes())
    done = swarm_repro(
        "diff", DRIFT / "base.jsonl", "word.jsonl", "--html", "word.jsonl", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: word.jsonl is there and is no page; name another file\n"
    assert cassette.read_bytes() == (DRIFT / "word.jsonl").read_bytes()


def test_show_survives_requests_of_any_form_and_names_that_act(tmp_path: Path) -> None:
    who = "ada\x1b[2J\u202e"
    record(tmp_path / "a.jsonl", [Call("x", who=who, fields={"messages": ["no", None, {}]})])
    for arguments in (["show", "a.jsonl"], ["show", "a.jsonl", "0"], ["stats", "a.jsonl"]):
        done = swarm_repro(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert r"ada\x1b[2J\u202e" in done.stdout


def test_diff_tells_how_far_it_is_on_a_terminal_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swarm_repro", "diff"]
    command += [str(DRIFT / name) for name in ("base.jsonl", "word.jsonl")]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert plain.stderr == b""
    master, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal
        ) as process:
            stdout, _ = process.communicate(timeout=60)
        shown = os.read(master, 65536)
    finally:
        os.close(terminal)
        os.close(master)
    assert stdout == plain.stdout
    assert b"comparing" in shown


SEEDED = """\
simulation: {{n_epochs: 1, steps_per_epoch: 1, seed: 7}}
agents: [{{type: llm, llm: {{provider: llama_cpp, model: stub, base_url: '{url}', seed: 5}}}}]
"""


def test_a_seed_that_does_not_follow_the_runs_is_noted(tmp_path: Path) -> None:
    with running_stub() as stub:
        (tmp_path / "s.yaml").write_text(SEEDED.format(url=stub.base_url))
        own = swarm_repro("run", "s.yaml", "--live", "--out", "a", cwd=tmp_path)
        given = swarm_repro("run", "s.yaml", "--live", "--seed", "3", "--out", "b", cwd=tmp_path)
    assert (own.returncode, given.returncode) == (0, 0), own.stderr + given.stderr
    note = "sets its own seed, which does not follow --seed"
    assert note not in own.stderr
    assert note in given.stderr
