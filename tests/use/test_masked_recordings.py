"""Credentials that a program sends and gets: none on disk, and the replay is none the wiser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import orjson
import pytest

from swarm_repro import use_cassette
from swarm_repro.cassette.check import check_cassette
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.records import CallRecord
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.completion import Completion
from swarm_repro.errors import CredentialsMaskedWarning
from swarm_repro.request import Request
from tests.core.test_credentials import SAMPLES
from tests.support.command import swarm_repro
from tests.support.stub_server import StubServer, running_stub

NOWHERE = "http://127.0.0.1:9/v1"
HEADER_KEY = "sk-or-v1-" + "e1" * 32
PASSWORD = "correct-horse"
SECRETS = {**SAMPLES, "header": HEADER_KEY, "address": PASSWORD}


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with running_stub(reply=lambda body: f"noted: {body['messages'][-1]['content']}") as server:
        yield server


def conversation(url: str) -> list[str]:
    """A program that sends every credential, gets it back, and goes on with what it got."""
    said: list[str] = []
    with openai.OpenAI(base_url=url, api_key=HEADER_KEY, max_retries=0) as client:
        for secret in (*SAMPLES.values(), f"postgres://agent:{PASSWORD}@db.example/town"):
            messages = [{"role": "user", "content": f"Log in with {secret} please."}]
            for _ in range(2):
                answer = client.chat.completions.create(model="stub", messages=messages)  # type: ignore[arg-type]
                content = str(answer.choices[0].message.content)
                said.append(content)
                messages.append({"role": "user", "content": content})
    return said


def ask(url: str, text: str) -> str:
    """The body of the answer to one message."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="stub", messages=[{"role": "user", "content": text}]
        )
        return answer.text


def on_disk(folder: Path) -> str:
    """All that is stored, as it stands there and as JSON text shows it."""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return data.decode() + data.decode().replace("\\n", "\n")


def test_no_credential_is_on_disk_and_the_replay_says_what_the_recording_said(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    use = use_cassette(path, mode="record")
    session = use.begin()
    recorded = conversation(stub.base_url)
    while_recording = on_disk(tmp_path)
    with pytest.warns(CredentialsMaskedWarning, match="3 x AWS Access Key") as warned:
        use.__exit__(None, None, None)
    assert str(path) in str(warned[0].message)
    assert warned[0].filename == __file__, "it is shown where the block ends"
    assert len(session.ledger.masked) >= len(SAMPLES)
    for kind, secret in SECRETS.items():
        assert secret not in while_recording, kind
        assert secret not in on_disk(tmp_path), kind
    sent = b"".join(stub.chats).decode()
    assert SAMPLES["Groq key"] in sent, "the model is sent what the program says"
    with use_cassette(path):
        assert conversation(NOWHERE) == recorded
    assert check_cassette(path).is_whole


def test_another_credential_is_another_call(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    one, two = SAMPLES["Groq key"], SAMPLES["Groq key"].replace("aB3d", "dB3a")

    with pytest.warns(CredentialsMaskedWarning), use_cassette(path, mode="record"):
        answers = [ask(stub.base_url, secret) for secret in (one, two)]
    with use_cassette(path):
        assert [ask(NOWHERE, secret) for secret in (one, two)] == answers


def test_recording_again_changes_no_byte(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    for _ in range(2):
        with pytest.warns(CredentialsMaskedWarning), use_cassette(path, mode="record"):
            conversation(stub.base_url)
        before = path.read_bytes()
    assert path.read_bytes() == before


def test_verify_compares_marks_with_marks(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"
    with pytest.warns(CredentialsMaskedWarning), use_cassette(path, mode="record"):
        recorded = conversation(stub.base_url)
    with use_cassette(path, mode="verify"):
        assert conversation(stub.base_url) == recorded


def test_a_users_own_redaction(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "c.jsonl"

    def redact(text: str) -> str:
        return text.replace("Ada Lovelace", "[name]")

    with (
        pytest.warns(CredentialsMaskedWarning, match="own rule"),
        use_cassette(path, mode="record", redact=redact),
    ):
        recorded = ask(stub.base_url, "I am Ada Lovelace")
    assert json.loads(recorded)["choices"][0]["message"]["content"] == "noted: I am [name]"
    assert "Lovelace" not in on_disk(tmp_path)
    with use_cassette(path):
        assert ask(NOWHERE, "I am Ada Lovelace") == recorded


# --- Files of before.


@pytest.fixture
def old(tmp_path: Path, stub: StubServer) -> Path:
    """A cassette as it was recorded when nothing was masked."""
    path = tmp_path / "old.jsonl"
    with use_cassette(path, mode="record"):
        with openai.OpenAI(base_url=stub.base_url, api_key="none", max_retries=0) as client:
            for text in ("hello", "bye"):
                client.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": text}]
                )
    cassette = read_cassette(path)
    (first, *rest) = cassette.calls.values()
    secret = f"hello {SAMPLES['Groq key']}"
    body = {**first.body, "messages": [{"role": "user", "content": secret}]}
    request = Request(first.endpoint, cassette.models["stub"], first.path, body)
    answer = first.completion.body.replace(b"hello", secret.encode())
    call = CallRecord.make(
        request=request,
        completion=Completion(200, first.completion.content_type, answer, first.duration_s),
        scope=first.scope,
        i=first.i,
        n=first.n,
        at=first.at,
        asked=request.asked_key,
        sent=request.asked_key,
        asked_seed=None,
        env=first.env,
        prompt_sha256=first.prompt_sha256,
    )
    calls = {one.id: one for one in (call, *rest)}
    write_cassette(replace(cassette, calls=calls), path)
    return path


def test_check_finds_credentials_and_masks_them_in_a_new_file(old: Path) -> None:
    assert swarm_repro("check", old, cwd=old.parent).returncode == 0
    done = swarm_repro("check", old, "--secrets", cwd=old.parent)
    assert done.returncode == 1
    assert f"{old}: call 0 of main: holds credentials: 2 x Groq key" in done.stdout
    assert "--repair" in done.stdout
    assert SAMPLES["Groq key"] not in done.stdout
    done = swarm_repro("check", old, "--secrets", "--repair", "--json", cwd=old.parent)
    (report,) = orjson.loads(done.stdout)["cassettes"]
    assert report["secrets"] == [{"call": "call 0 of main", "kind": "Groq key", "count": 2}]
    repaired = Path(report["repaired"])
    assert SAMPLES["Groq key"].encode() not in repaired.read_bytes()
    assert swarm_repro("check", repaired, "--secrets", cwd=old.parent).returncode == 0
    with use_cassette(repaired), openai.OpenAI(base_url=NOWHERE, api_key="none") as client:
        for text in (f"hello {SAMPLES['Groq key']}", "bye"):
            client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": text}]
            )


def test_a_call_with_a_masked_request_is_not_asked_again_by_verify(
    tmp_path: Path, stub: StubServer
) -> None:
    path = tmp_path / "c.jsonl"
    with pytest.warns(CredentialsMaskedWarning), use_cassette(path, mode="record"):
        conversation(stub.base_url)
    before = len(stub.chats)
    done = swarm_repro("verify", path, "--server", stub.root, cwd=tmp_path)
    assert done.returncode == 2
    assert "was sent with a credential" in done.stderr
    assert len(stub.chats) == before


def test_verify_compares_an_answer_that_holds_a_credential_with_what_is_stored_of_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.jsonl"
    with running_stub(reply=lambda _body: f"The key is {SAMPLES['Groq key']}") as stub:
        with pytest.warns(CredentialsMaskedWarning), use_cassette(path, mode="record"):
            ask(stub.base_url, "tell me")
        done = swarm_repro("verify", path, "--server", stub.root, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        stub.reply = lambda _body: f"The key is {SAMPLES['Groq key'][:-1]}0"
        done = swarm_repro("verify", path, "--server", stub.root, cwd=tmp_path)
        assert done.returncode == 1, "another key is another answer"
