"""``exec`` and ``serve`` in this process: arguments, refusals and reports."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cli import main
from swarm_repro.endpoint import server
from swarm_repro.endpoint.app import STATUS_PATH, TOKEN_HEADER
from swarm_repro.endpoint.server import Settings
from swarm_repro.endpoint.upstream import Upstream
from swarm_repro.errors import UsageError
from swarm_repro.mode import Mode
from swarm_repro.opening import header_of
from swarm_repro.request import content_seed, event_seed
from tests.support.endpoint import CHAT, ask_body
from tests.support.scripted_server import Asked, ScriptedServer, scripted_server

httpx = Upstream("http://localhost").library

#: Says what it was given, and asks.
PROGRAM = """
import sys
from tests.support.tiny_model import TinyModel, ask
from swarm_repro.intercept.present import present_interceptor
interceptor = present_interceptor()
model = TinyModel()
given = sys.argv[1:]
if "quiet" not in given:
    print(given)
for word in given:
    if word.startswith("ask:"):
        ask(interceptor.session, model, word, who="main")
        print(model.sent and model.sent[-1].body.get("seed"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "SWARM_REPRO_TOKEN", "SWARM_REPRO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


class Done:
    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capfd.readouterr()
        return Done(caught.value.code, out, err)

    return run


# --- Which word is whose.


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["c.jsonl", "--live", "program.py"], []),
        (["c.jsonl", "--live", "program.py", "a", "--seed", "x"], ["a", "--seed", "x"]),
        (["--live", "c.jsonl", "program.py", "--record", "-m"], ["--record", "-m"]),
        (["--seed", "3", "c.jsonl", "--live", "program.py", "--", "x"], ["--", "x"]),
        (["c.jsonl", "--seed", "3", "--live", "program.py", "c.jsonl"], ["c.jsonl"]),
        (["c.jsonl", "--seed=3", "--live", "program.py"], []),
        (["c.jsonl", "--live", "-m", "program", "--help"], ["--help"]),
        (["--live", "--seed-policy", "event", "c.jsonl", "-m", "program", "a"], ["a"]),
    ],
)
def test_words_after_the_programs_name_are_its_arguments(
    run: Any, words: list[str], given: list[str]
) -> None:
    done = run("exec", *words)
    sys.modules.pop("program", None)
    assert (done.code, done.out) == (0, f"{given}\n")
    assert done.err == "live: 0 calls from the cassette, 0 from the model\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["c.jsonl"], "name a program: -m MODULE, a script, or a command after --"),
        (["c.jsonl", "-m"], "name a program: -m MODULE, a script, or a command after --"),
        (["c.jsonl", "--"], "name a command after --"),
        (["c.jsonl", "--", "no-such-command"], "there is no command no-such-command"),
        (["c.jsonl", "--live", "none.py"], "none.py cannot be read"),
        (["c.jsonl", "--live", "-m", "own_none"], "there is no module own_none"),
        (["c.jsonl", "program.py"], "there is no cassette at c.jsonl"),
        (["c.jsonl", "--upstream", "http://x", "program.py"], "are for commands after --"),
        (["c.jsonl", "--hosted", "program.py"], "--upstream and --hosted are for commands"),
        (["c.jsonl", "--tame", "x", "--", "true"], "are for Python programs in this process"),
        (["c.jsonl", "--pass-others", "--", "true"], "are for Python programs"),
        (["c.jsonl", "--shared", "--", "true"], "are for Python programs"),
        (["c.jsonl", "--scope-prefix", "x", "--", "true"], "are for Python programs"),
        (["c.jsonl", "--record", "--shared", "program.py"], "cannot record all of it anew"),
        (["c.jsonl", "--record", "--redact", "own", "program.py"], "as MODULE:FUNCTION"),
        (["c.jsonl", "--live", "--tame", "x", "program.py"], "set PYTHONHASHSEED=0"),
    ],
)
def test_a_program_that_cannot_be_run_is_one_line_and_exit_2(
    run: Any, folder: Path, words: list[str], why: str
) -> None:
    done = run("exec", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert why in done.err
    assert len(done.err.splitlines()) == 1
    assert not (folder / "c.jsonl").exists()


def test_usage_names_where_the_program_stands(run: Any) -> None:
    done = run("exec", "--help")
    assert done.code == 0
    usage = " ".join(done.out.split())
    assert "exec [OPTIONS] CASSETTE (-m MODULE | SCRIPT | -- COMMAND) [ARGS]..." in usage


# --- What the options do.


def test_a_program_is_recorded_replayed_and_reported(run: Any) -> None:
    told = [
        run("exec", "c.jsonl", *mode, "program.py", *asks)
        for mode, asks in (
            (["--record"], ["ask:one"]),
            ([], ["ask:one"]),
            (["--replay"], ["ask:one"]),
            (["--auto"], ["ask:one", "ask:two"]),
            (["--verify"], ["ask:one", "ask:two"]),
            (["--live"], ["ask:one"]),
            (["--replay"], ["ask:one"]),
            (["--replay"], ["ask:unheard of"]),
        )
    ]
    assert [done.code for done in told] == [0, 0, 0, 0, 0, 0, 3, 3]
    assert [done.err.splitlines()[0] for done in told[:6]] == [
        "record: 0 calls from the cassette, 1 from the model",
        "replay: 1 calls from the cassette, 0 from the model",
        "replay: 1 calls from the cassette, 0 from the model",
        "auto: 1 calls from the cassette, 1 from the model",
        "verify: 0 calls from the cassette, 2 from the model",
        "live: 0 calls from the cassette, 1 from the model",
    ]


def test_a_difference_is_exit_1(run: Any, folder: Path) -> None:
    run("exec", "c.jsonl", "--record", "program.py", "ask:one")
    program = folder / "program.py"
    program.write_text(PROGRAM.replace("TinyModel()", "TinyModel(wording='other')"))
    done = run("exec", "c.jsonl", "--verify", "program.py", "ask:one")
    assert done.code == 1
    assert "call 0 of main: completion, character 0" in done.err


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ([], None),
        (["--seed", "5"], None),
        (["--seed", "5", "--seed-policy", "event"], event_seed(run_seed=5, scope="main", i=0)),
        (["--seed-policy", "event"], event_seed(run_seed=0, scope="main", i=0)),
        (["--seed-policy", "content", "--seed", "5"], "content"),
    ],
)
def test_seeds_follow_from_the_policy_and_the_runs_seed(
    run: Any, folder: Path, options: list[str], seed: object
) -> None:
    done = run("exec", "c.jsonl", "--record", *options, "program.py", "quiet", "ask:one")
    (call,) = read_cassette(folder / "c.jsonl").calls.values()
    if seed == "content":
        seed = content_seed(run_seed=5, scope="main", asked_key=call.asked, n=0)
    assert done.out == f"{seed}\n"
    assert call.sent_seed == seed


def test_strict_discard_and_prefix_reach_the_recording(run: Any, folder: Path) -> None:
    path = folder / "c.jsonl"
    failing = folder / "failing.py"
    failing.write_text(PROGRAM + "\nraise SystemExit(4)\n")
    strict = ["--strict", "--seed-policy", "event"]
    assert run("exec", "c.jsonl", "--record", *strict, "failing.py", "ask:one").code == 4
    assert "discard" in run("exec", "c.jsonl", "--record", *strict, "program.py", "ask:one").err
    own = ["--shared", "--scope-prefix", "worker"]
    done = run("exec", "c.jsonl", "--auto", "--discard", *strict, *own, "program.py", "ask:two")
    assert done.code == 0, done.err
    found = read_cassette(path)
    assert found.header.strict
    assert [call.scope for call in found.calls.values()] == ["worker"]


@pytest.mark.filterwarnings("ignore::swarm_repro.errors.CredentialsMaskedWarning")
def test_cache_fresh_and_redact_reach_the_recording(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REPRO_CACHE_DIR", str(folder / "cache"))
    event = ["--record", "--seed-policy", "event"]
    told = [
        run("exec", f"{number}.jsonl", *event, *options, "program.py", "ask:one")
        for number, options in enumerate((["--fresh"], ["--cache"], ["--fresh"], []))
    ]
    assert [done.err for done in told] == [
        "record: 0 calls from the cassette, 1 from the model\n",
        "record: 0 calls from the cassette, 0 from the model, 1 from the cache\n",
        "record: 0 calls from the cassette, 1 from the model\n",
        "record: 0 calls from the cassette, 1 from the model\n",
    ]
    (folder / "own_hiding.py").write_text("def hide(text):\n    return text.replace('one', 'x')\n")
    redacted = ["--redact", "own_hiding:hide"]
    done = run("exec", "r.jsonl", *event, *redacted, "program.py", "quiet", "ask:one")
    sys.modules.pop("own_hiding", None)
    (call,) = read_cassette(folder / "r.jsonl").calls.values()
    assert call.body["messages"] == [{"role": "user", "content": "ask:x"}]
    assert "note: credentials are masked in r.jsonl: 1 x own rule" in done.err


@pytest.mark.filterwarnings("ignore::swarm_repro.errors.CredentialsMaskedWarning")
def test_masked_credentials_are_reported(run: Any) -> None:
    done = run("exec", "c.jsonl", "--record", "program.py", "quiet", "ask:AKIAIOSFODNN7EXAMPLE")
    assert done.err.splitlines()[-1] == (
        "note: credentials are masked in c.jsonl: 1 x AWS Access Key; keep them out of prompts"
    )


def test_without_its_packages_the_endpoint_says_what_to_install(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    for missing in ("starlette", "uvicorn"):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *how, gone=missing: None if name == gone else find_spec(name, *how),
        )
        for words in (["exec", "c.jsonl", "--live", "--", "true"], ["serve", "c.jsonl", "--live"]):
            done = run(*words)
            assert done.code == 2
            assert done.err == (
                "error: the endpoint needs two more packages; run: "
                "pip install 'swarm-repro[endpoint]'\n"
            )


# --- A command beside the endpoint, and the endpoint alone.


def answer(asked: Asked) -> None:
    said = json.loads(asked.body)["messages"][-1]["content"]
    asked.json({"choices": [{"index": 0, "message": {"content": f"heard {said}"}}]})


@pytest.fixture
def upstream() -> Iterator[ScriptedServer]:
    with scripted_server(answer) as running:
        yield running


CURL = """
import json, os, sys, urllib.request, urllib.error
body = {"model": "any", "messages": [{"role": "user", "content": sys.argv[1]}]}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
try:
    print(urllib.request.urlopen(url, json.dumps(body).encode()).status)
except urllib.error.HTTPError as error:
    print(error.code)
sys.exit(int(sys.argv[2]))
"""


def test_a_commands_code_counts_unless_the_cassette_has_more_to_say(
    run: Any, folder: Path, upstream: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "curl.py").write_text(CURL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.root)

    def curl(text: str, code: int) -> list[str]:
        return ["--", sys.executable, "-S", "curl.py", text, str(code)]

    def end(code: int) -> list[str]:
        return ["--", "sh", "-c", f"exit {code}"]

    assert run("exec", "c.jsonl", "--record", *end(7)).code == 7
    assert not (folder / "c.jsonl").exists(), "what failed is not concluded"
    done = run("exec", "c.jsonl", "--record", *curl("one", 0))
    assert (done.code, done.out) == (0, "200\n")
    assert done.err == "record: 0 calls from the cassette, 1 from the model\n"
    before = len(upstream.asked)
    assert run("exec", "c.jsonl", *end(7)).code == 7
    unplayed = run("exec", "c.jsonl", *end(0))
    assert unplayed.code == 3
    assert "1 of 1 calls in c.jsonl were not played" in unplayed.err
    missed = run("exec", "c.jsonl", *curl("unheard of", 7))
    assert (missed.code, missed.out) == (3, "404\n")
    assert "replay: 0 calls from the cassette, 0 from the model, 1 misses" in missed.err
    assert len(upstream.asked) == before


def serve(run: Any, ask: Callable[[str], None], *words: str) -> Done:
    """The command, asked from a thread beside it, then ended by a signal."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    failed: list[BaseException] = []
    has_ended = threading.Event()

    def use() -> None:
        try:
            ask_when_it_serves(ask, f"http://127.0.0.1:{port}", has_ended)
        except BaseException as error:  # noqa: BLE001 - raised by the test itself
            failed.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    kept = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=use)
    thread.start()
    try:
        done: Done = run("serve", *words, "--port", str(port))
    finally:
        has_ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, kept)
    if failed:
        raise failed[0]
    return done


def ask_when_it_serves(ask: Callable[[str], None], root: str, has_ended: threading.Event) -> None:
    while not has_ended.is_set():
        try:
            httpx.get(root + STATUS_PATH, timeout=60)
        except httpx.ConnectError:
            has_ended.wait(0.01)
        else:
            ask(root)
            return


def test_the_endpoint_records_and_reports_as_json(
    run: Any, folder: Path, upstream: ScriptedServer
) -> None:
    def ask(root: str) -> None:
        answered = httpx.post(root + CHAT, json=ask_body("one"), timeout=60)
        assert answered.json()["choices"][0]["message"]["content"] == "heard one"

    done = serve(run, ask, "c.jsonl", "--record", "--upstream", upstream.root, "--json")
    assert done.code == 0, done.err
    address, status = map(json.loads, done.out.splitlines())
    assert address["mode"] == "record"
    assert address["url"].endswith("/v1")
    assert (status["mode"], status["from_model"], status["unplayed"]) == ("record", 1, None)
    assert done.err == "record: 0 calls from the cassette, 1 from the model\n"
    assert len(read_cassette(folder / "c.jsonl").calls) == 1


def test_a_replay_that_is_stopped_early_is_a_note_and_one_that_missed_is_exit_3(
    run: Any, folder: Path, upstream: ScriptedServer
) -> None:
    def record(root: str) -> None:
        for text in ("one", "two"):
            httpx.post(root + CHAT, json=ask_body(text), timeout=60)

    def replay(root: str) -> None:
        assert httpx.post(root + CHAT, json=ask_body("one"), timeout=60).status_code == 200

    def miss(root: str) -> None:
        assert httpx.post(root + CHAT, json=ask_body("three"), timeout=60).status_code == 404

    serve(run, record, "c.jsonl", "--record", "--upstream", upstream.root)
    done = serve(run, replay, "c.jsonl")
    assert done.code == 0
    note, told = done.err.splitlines()
    assert note.startswith("note: 1 of 2 calls in c.jsonl were not played, first call 1 of main")
    assert told == "replay: 1 calls from the cassette, 0 from the model"
    assert done.out.endswith("/v1\n")
    missed = serve(run, miss, "c.jsonl", "--json")
    assert missed.code == 3
    assert json.loads(missed.out.splitlines()[-1])["misses"] == 1
    assert "replay: 0 calls from the cassette, 0 from the model, 1 misses" in missed.err


def test_token_limit_and_origins_reach_the_endpoint(run: Any, upstream: ScriptedServer) -> None:
    def ask(root: str) -> None:
        url = root + CHAT
        assert httpx.post(url, json=ask_body("one"), timeout=60).status_code == 401
        key = {TOKEN_HEADER: "t0ken", "origin": "https://page.example"}
        answered = httpx.post(url, json=ask_body("one"), headers=key, timeout=60)
        assert answered.status_code == 200
        assert answered.headers["access-control-allow-origin"] == "https://page.example"
        large = httpx.post(url, json=ask_body("x" * 200), headers=key, timeout=60)
        assert large.status_code == 413

    options = ["--token", "t0ken", "--max-body", "100", "--cors", "https://page.example"]
    done = serve(run, ask, "c.jsonl", "--live", "--upstream", upstream.root, *options)
    assert done.code == 0, done.err
    assert "live: 0 calls from the cassette, 1 from the model" in done.err


def test_an_upstream_that_is_hosted_is_recorded_under_its_name(
    run: Any, folder: Path, upstream: ScriptedServer
) -> None:
    def ask(root: str) -> None:
        httpx.post(root + CHAT, json=ask_body("one"), timeout=60)

    done = serve(run, ask, "c.jsonl", "--record", "--hosted", "--upstream", upstream.root)
    assert done.code == 0, done.err
    (call,) = read_cassette(folder / "c.jsonl").calls.values()
    assert call.endpoint == "opaque"


def test_each_option_of_the_endpoint_reaches_it(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Settings] = []

    def listen(settings: Settings) -> None:
        asked.append(settings)
        raise UsageError("seen")

    monkeypatch.setattr(server, "Endpoint", listen)
    words = (
        "--auto", "--seed", "3", "--seed-policy", "content", "--strict", "--discard", "--cache",
        "--fresh", "--upstream", "http://u.example", "--hosted", "--host", "127.0.0.2",
        "--port", "5", "--token", "t", "--cors", "http://o.example", "--max-body", "6",
    )  # fmt: skip
    assert run("serve", "c.jsonl", *words).code == 2
    (settings,) = asked
    assert settings == Settings(
        cassette=Path("c.jsonl"),
        mode=Mode.AUTO,
        header=header_of(seed_policy="content", strict=True),
        seed=3,
        upstream="http://u.example",
        hosted=True,
        host="127.0.0.2",
        port=5,
        token="t",
        cors=("http://o.example",),
        max_body_bytes=6,
        discard=True,
        cache=True,
        fresh=True,
    )
