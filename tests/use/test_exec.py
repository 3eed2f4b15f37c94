"""``exec`` runs a simulator that is not SWARM, with ids and time stamps in its prompts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from tests.support.client_library import NAME as HTTP_LIBRARY
from tests.support.command import swarm_repro
from tests.support.stub_server import StubServer, running_stub

SIMULATOR = """\
import random
import sys
import uuid
from datetime import datetime

import openai

from society.clock import stamp


def main():
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    for agent in ("ada", "ben"):
        answer = client.chat.completions.create(
            model="stub",
            messages=[{
                "role": "user",
                "content": f"{agent} {uuid.uuid4()} {datetime.now()} {stamp()} {random.random()}",
            }],
        )
        print(answer.choices[0].message.content)
    print("hours", sorted({"a", "b", "c"}), sys.argv[2:])


if __name__ == "__main__":
    main()
"""
CLOCK = "import time\n\n\ndef stamp():\n    return time.time()\n"


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub(reply=lambda body: f"heard {body['messages'][0]['content']}") as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "society"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SIMULATOR)
    (package / "clock.py").write_text(CLOCK)
    (tmp_path / "script.py").write_text(SIMULATOR)
    return tmp_path


def execute(project: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return swarm_repro("exec", "c.jsonl", *words, cwd=project)


@pytest.mark.parametrize(
    "program",
    [
        ("--tame", "society", "-m", "society"),
        ("--tame", "society", "--tame", "__main__", "script.py"),
    ],
    ids=["module", "script"],
)
def test_a_simulator_is_recorded_and_replayed_to_identical_output(
    project: Path, stub: StubServer, program: tuple[str, ...]
) -> None:
    rest = (stub.base_url, "--its-own", "flag")
    recorded = execute(project, "--record", "--seed", 7, *program, *rest)
    assert recorded.returncode == 0, recorded.stderr
    assert "heard ada" in recorded.stdout
    assert "['--its-own', 'flag']" in recorded.stdout
    asked = len(stub.chats)
    replayed = execute(project, "--seed", 7, *program, *rest)
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout == recorded.stdout
    assert len(stub.chats) == asked
    assert len(read_cassette(project / "c.jsonl").calls) == 2


def test_programs_that_share_a_cassette_record_and_replay_at_once(
    project: Path, stub: StubServer
) -> None:
    def both(*mode: str) -> list[subprocess.CompletedProcess[str]]:
        def one(prefix: str) -> subprocess.CompletedProcess[str]:
            own = ("--shared", "--scope-prefix", prefix, "--tame", "society")
            return execute(project, *mode, *own, "-m", "society", stub.base_url)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, ("one", "two")))

    for mode in ("--record", "--auto", "--record"):
        recorded = both(mode)
        assert [done.returncode for done in recorded] == [0, 0], recorded
    assert (project / "c.jsonl.part").exists() is False
    calls = read_cassette(project / "c.jsonl").calls.values()
    assert sorted(call.scope for call in calls) == ["one", "one", "two", "two"]
    assert [done.stdout for done in both()] == [done.stdout for done in recorded]
    refused = execute(project, "--record", "--shared", "-m", "society", stub.base_url)
    assert refused.returncode == 2
    assert "--auto" in refused.stderr
    beside = execute(project, "--shared", "--", "true")
    assert beside.returncode == 2


def test_without_taming_the_prompts_differ_and_that_is_a_miss(
    project: Path, stub: StubServer
) -> None:
    assert execute(project, "--record", "-m", "society", stub.base_url).returncode == 0
    missed = execute(project, "-m", "society", stub.base_url)
    assert missed.returncode == 3
    assert "is not in c.jsonl" in missed.stderr


def test_another_seed_is_another_run(project: Path, stub: StubServer) -> None:
    words = ("--tame", "society", "-m", "society", stub.base_url)
    assert execute(project, "--record", "--seed", 7, *words).returncode == 0
    assert execute(project, "--seed", 8, *words).returncode == 3


def test_the_programs_own_exit_code_and_errors_come_through(project: Path) -> None:
    (project / "ends.py").write_text("import sys\nsys.exit(5)\n")
    assert execute(project, "--live", "ends.py").returncode == 5
    (project / "breaks.py").write_text("1 / 0\n")
    broken = execute(project, "--live", "breaks.py")
    assert broken.returncode == 1
    assert "ZeroDivisionError" in broken.stderr


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("open('/nowhere/at/all')\n", "FileNotFoundError: "),
        ("input()\n", "EOFError: "),
        ("import click\nraise click.UsageError('wrong')\n", "UsageError: wrong"),
    ],
)
def test_an_exception_of_the_program_is_shown_as_python_shows_it(
    project: Path, source: str, shown: str
) -> None:
    (project / "breaks.py").write_text(source)
    broken = execute(project, "--live", "breaks.py")
    assert broken.returncode == 1
    assert broken.stderr.startswith('Traceback (most recent call last):\n  File "breaks.py", line ')
    assert shown in broken.stderr


def test_a_miss_is_told_whatever_the_program_makes_of_it(project: Path, stub: StubServer) -> None:
    assert execute(project, "--record", "-m", "society", stub.base_url).returncode == 0
    (project / "stubborn.py").write_text(
        "import sys, httpx2\n"
        "try:\n"
        "    httpx2.post('http://127.0.0.1:9/v1/completions', json={'model': 'stub'})\n"
        "except BaseException:\n"
        "    sys.exit(5)\n".replace("httpx2", HTTP_LIBRARY)
    )
    missed = execute(project, "stubborn.py")
    assert missed.returncode == 3
    assert "is not in c.jsonl" in missed.stderr


def test_a_script_has_its_own_future_imports_only(project: Path) -> None:
    (project / "plain.py").write_text("def f(x: int): ...\n\n\nprint(f.__annotations__)\n")
    assert execute(project, "--live", "plain.py").stdout == "{'x': <class 'int'>}\n"


def test_threads_of_the_program_belong_to_it_to_their_end(project: Path, stub: StubServer) -> None:
    (project / "threads.py").write_text(
        "import sys, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import openai\n"
        "idle = ThreadPoolExecutor(1)\n"
        "idle.submit(print, 'a pool that is never shut down')\n"
        "def ask():\n"
        "    threading.main_thread().join(0.2)\n"
        "    openai.OpenAI(base_url=sys.argv[1], api_key='none').chat.completions.create(\n"
        "        model='stub', messages=[{'role': 'user', 'content': 'late'}])\n"
        "threading.Thread(target=ask).start()\n"
    )
    for mode in ("--record", "--replay"):
        done = execute(project, mode, "threads.py", stub.base_url)
        assert done.returncode == 0, done.stderr
    assert len(stub.chats) == 1
    assert len(read_cassette(project / "c.jsonl").calls) == 1


def test_calls_that_are_not_played_fail_the_replay(project: Path, stub: StubServer) -> None:
    words = ("--tame", "society", "-m", "society", stub.base_url)
    assert execute(project, "--record", *words).returncode == 0
    (project / "quiet.py").write_text("print('nothing to ask')\n")
    quiet = execute(project, "quiet.py")
    assert quiet.returncode == 3
    assert "2 of 2 calls" in quiet.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "name a program"),
        (("-m",), "name a program"),
        (("-m", "no_such_module"), "no module no_such_module"),
        (("-m", "no.such.module"), "cannot be found"),
        (("none.py",), "cannot be read"),
        (("society",), "cannot be read"),
        (("bad.py",), "is not a Python program"),
        (("--",), "name a command"),
        (("--", "no-such-command"), "there is no command no-such-command"),
        (("--seed-policy", "dice", "script.py"), "Invalid value"),
    ],
)
def test_what_cannot_be_run_is_refused(project: Path, words: tuple[str, ...], shown: str) -> None:
    (project / "bad.py").write_text("def (\n")
    done = execute(project, "--live", *words)
    assert done.returncode == 2
    assert shown in done.stderr
    assert "Traceback" not in done.stderr
