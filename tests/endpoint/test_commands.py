"""``serve`` and ``exec … -- COMMAND`` as they are installed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.request import event_seed
from tests.support.command import swarm_repro
from tests.support.endpoint import ask_body
from tests.support.stub_server import StubServer, running_stub

#: A program that knows nothing of cassettes: where to ask it finds in its environment.
CLIENT = """\
import os, sys, urllib.request, json
assert os.environ["OPENAI_API_KEY"] and os.environ["OPENAI_API_BASE"]
for text in sys.argv[2:]:
    body = {"model": "stub", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode()
    )
    try:
        answer = json.load(urllib.request.urlopen(request))
        print(answer["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        print(error.code, json.load(error)["error"]["message"].splitlines()[0])
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub(reply=lambda body: f"heard {body['messages'][0]['content']}") as server:
        yield server


def run_client(
    tmp_path: Path, *options: object, code: int = 0, asks: tuple[str, ...] = ("one", "two")
) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "client.py"
    program.write_text(CLIENT, "utf-8")
    command = [sys.executable, str(program), str(code), *asks]
    clean = {"OPENAI_BASE_URL": "", "NO_PROXY": "example.com"}
    return swarm_repro("exec", "c.jsonl", *options, "--", *command, cwd=tmp_path, env=clean)


@contextmanager
def serve(folder: Path, *options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The installed command; it must be ended by the test."""
    command = [sys.executable, "-m", "swarm_repro", "serve", *map(str, options), "--json"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        yield process, json.loads(line)["url"]
    finally:
        process.kill()
        process.communicate()


def test_a_command_is_recorded_and_replayed_without_the_upstream(
    tmp_path: Path, stub: StubServer
) -> None:
    recorded = run_client(tmp_path, "--record", "--upstream", stub.base_url)
    assert (recorded.returncode, recorded.stdout) == (0, "heard one\nheard two\n"), recorded.stderr
    assert recorded.stderr == "record: 0 calls from the cassette, 2 from the model\n"
    replayed = run_client(tmp_path)
    assert (replayed.returncode, replayed.stdout) == (0, recorded.stdout), replayed.stderr
    assert len(stub.chats) == 2


def test_a_commands_code_is_exec_s_unless_the_cassette_has_more_to_say(
    tmp_path: Path, stub: StubServer
) -> None:
    upstream = ("--upstream", stub.base_url)
    assert run_client(tmp_path, "--record", *upstream).returncode == 0
    assert run_client(tmp_path, code=7).returncode == 7
    missed = run_client(tmp_path, code=7, asks=("one", "three"))
    assert missed.returncode == 3
    assert "404 call 1 of main is not in c.jsonl" in missed.stdout
    assert "nearest recorded call" in missed.stderr
    unplayed = run_client(tmp_path, asks=("one",))
    assert unplayed.returncode == 3
    assert "1 of 2 calls in c.jsonl were not played" in unplayed.stderr
    stub.fault = lambda _number: 500
    failed = run_client(tmp_path, "--record", *upstream)
    assert failed.returncode == 4
    assert len(read_cassette(tmp_path / "c.jsonl").calls) == 2


def test_signals_are_the_commands(tmp_path: Path, stub: StubServer) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('ready', flush=True)\n"
        "signal.pause()"
    )
    command = [sys.executable, "-m", "swarm_repro", "exec", "c.jsonl", "--live"]
    process = subprocess.Popen(
        [*command, "--upstream", stub.base_url, "--", sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 5
    process.stdout.close()


def test_a_command_that_a_signal_ends_has_the_code_of_a_shell(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = swarm_repro("exec", "c.jsonl", "--live", "--", sys.executable, "-c", kill, cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_endpoint_that_is_stopped_has_written_its_cassette(
    tmp_path: Path, stub: StubServer, number: signal.Signals
) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    with serve(tmp_path, "c.jsonl", "--record", "--upstream", stub.base_url) as (process, url):
        body = json.dumps(ask_body("hi"))
        answer = subprocess.run(
            [curl, "-sS", f"{url}/chat/completions", "-d", body],
            capture_output=True,
            check=True,
            timeout=60,
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["from_model"] == 1
    (call,) = read_cassette(tmp_path / "c.jsonl").calls.values()
    assert call.completion.body == answer.stdout
    assert not list(tmp_path.glob("*.part"))


def test_a_replay_that_missed_ends_with_3(tmp_path: Path, stub: StubServer) -> None:
    assert run_client(tmp_path, "--record", "--upstream", stub.base_url).returncode == 0
    with serve(tmp_path, "c.jsonl") as (process, url):
        body = json.dumps(ask_body("other"))
        subprocess.run(
            ["curl", "-sS", f"{url}/chat/completions", "-d", body], check=True, capture_output=True
        )
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "1 misses" in err


#: What a session is opened with, other than by default.
SESSION = ("--record", "--discard", "--strict", "--seed-policy", "event", "--seed", "3")


@pytest.mark.parametrize("way", ["exec a program", "exec a command", "serve"])
def test_session_options_reach_the_recording_whichever_way_it_is_made(
    tmp_path: Path, stub: StubServer, way: str
) -> None:
    upstream = ("--upstream", stub.base_url)
    stub.fault = lambda number: 500 if number else None
    assert run_client(tmp_path, "--record", *upstream).returncode == 4
    assert (tmp_path / "c.jsonl.part").exists()
    stub.fault = lambda _number: None
    if way == "serve":
        with serve(tmp_path, "c.jsonl", *SESSION, *upstream) as (process, url):
            body = json.dumps(ask_body("one"))
            command = ["curl", "-sS", f"{url}/chat/completions", "-d", body]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        code = process.returncode
    elif way == "exec a command":
        code = run_client(tmp_path, *SESSION, *upstream, asks=("one",)).returncode
    else:
        asks = (
            "import openai\n"
            f"client = openai.OpenAI(base_url={stub.base_url!r}, api_key='none')\n"
            "said = [{'role': 'user', 'content': 'one'}]\n"
            "client.chat.completions.create(model='stub', messages=said)\n"
        )
        (tmp_path / "asks.py").write_text(asks, "utf-8")
        code = swarm_repro("exec", "c.jsonl", *SESSION, "asks.py", cwd=tmp_path).returncode
    assert code == 0
    found = read_cassette(tmp_path / "c.jsonl")
    assert (found.header.seed_policy, found.header.strict) == ("event", True)
    (call,) = found.calls.values()
    assert call.sent_seed == event_seed(run_seed=3, scope=call.scope, i=call.i)


def bad_input() -> dict[str, tuple[tuple[str, ...], dict[str, str], str]]:
    return {
        "no cassette": (("missing.jsonl",), {}, "there is no cassette at missing.jsonl"),
        "no upstream address": (
            ("c.jsonl", "--record", "--upstream", "ftp://x"),
            {},
            "is no http(s) address",
        ),
        "another address without a token": (
            ("c.jsonl", "--live", "--host", "0.0.0.0"),
            {},
            "give the endpoint a token",
        ),
        "an address that is not here": (
            ("c.jsonl", "--live", "--host", "203.0.113.1"),
            {"SWARM_REPRO_TOKEN": "x"},
            "cannot be listened on",
        ),
        "two modes of seeds": (
            ("c.jsonl", "--live", "--seed-policy", "other"),
            {},
            "'other' is not one of",
        ),
    }


@pytest.mark.parametrize("name", bad_input())
def test_bad_input_is_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    arguments, env, message = bad_input()[name]
    done = swarm_repro("serve", *arguments, cwd=tmp_path, env=env, timeout_s=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_of_one_way_are_refused_in_the_other(tmp_path: Path) -> None:
    for arguments, message in [
        (("--tame", "x", "--", "ls"), "for Python programs"),
        (("--upstream", "http://localhost:1", "-m", "x"), "for commands after --"),
    ]:
        done = swarm_repro("exec", "c.jsonl", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_replay_through_the_endpoint_imports_neither_openai_nor_llama_cpp(
    tmp_path: Path, stub: StubServer
) -> None:
    assert run_client(tmp_path, "--record", "--upstream", stub.base_url).returncode == 0
    program = (
        "import json, sys, urllib.request\n"
        "from pathlib import Path\n"
        "from swarm_repro.endpoint.server import Endpoint, Settings\n"
        "from swarm_repro.opening import header_of\n"
        "header = header_of(seed_policy='as-is', strict=False)\n"
        "one = Endpoint(Settings(cassette=Path('c.jsonl'), mode=None, header=header, seed=0))\n"
        "with one.in_thread():\n"
        "    body = {'model': 'stub', 'messages': [{'role': 'user', 'content': 'one'}]}\n"
        "    address = one.root + '/v1/chat/completions'\n"
        "    urllib.request.urlopen(address, json.dumps(body).encode()).read()\n"
        "one.close()\n"
        "print(sorted({'openai', 'llama_cpp', 'swarm'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
