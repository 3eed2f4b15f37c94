"""``verify`` and ``init``: options, the calls that each model gets, and the output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.caller import scope
from swarm_repro.cassette.header import Header
from swarm_repro.cassette.reader import read_cassette
from swarm_repro.cassette.store import open_for_recording
from swarm_repro.cassette.writer import write_cassette
from swarm_repro.cli import verify
from swarm_repro.environment import Environment
from swarm_repro.errors import UsageError
from swarm_repro.mode import Mode
from swarm_repro.session import Session
from tests.support.command import ROOT
from tests.support.in_process import invoke
from tests.support.stub_server import running_stub
from tests.support.tiny_model import TinyModel, ask, make_binding, recording

Capsys = pytest.CaptureFixture[str]


def echo(body: dict[str, Any]) -> str:
    return f"You said {body['messages'][0]['content']}."


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Two calls of a llama-server."""
    path = tmp_path / "c.jsonl"
    header = Header(recorder="t")
    store = open_for_recording(path, header, keep=False)
    session = Session(mode=Mode.RECORD, header=header, store=store, run_seed=1)
    with running_stub(reply=echo) as stub:
        server = LlamaServer(stub.base_url)
        with scope("alice"):
            for prompt in "ab":
                server.chat([{"role": "user", "content": prompt}], model="m", session=session)
        server.close()
    store.finish(used=session.ledger.used, run=None, keep=False)
    return path


def test_calls_that_are_not_asked_are_noted_beside_the_report(
    recorded: Path, capsys: Capsys
) -> None:
    whole = read_cassette(recorded)
    first, second = whole.calls.values()
    masked = replace(second, masked={"request": ("token",)})
    write_cassette(replace(whole, calls={first.id: first, masked.id: masked}), recorded)
    with running_stub(reply=echo) as stub:
        done = invoke(capsys, "verify", recorded, "--server", stub.base_url)
        assert done.code == 0
        assert done.out.splitlines()[0] == "all 1 calls gave the recorded answer"
        assert done.err == (
            "note: 1 calls were not asked, the first was sent with a credential (token)\n"
        )
        named = invoke(capsys, "verify", recorded, "--server", stub.base_url, "--call", 0)
        assert (named.code, named.err) == (0, ""), "who names calls knows which"
        refused = invoke(capsys, "verify", recorded, "--server", stub.base_url, "--call", 1)
    assert refused.code == 2
    assert refused.err == (
        f"error: call 1 of {recorded} was sent with a credential (token): only the program that "
        "made it can ask it again, in mode verify\n"
    )


def test_options_reach_the_verification(recorded: Path, tmp_path: Path, capsys: Capsys) -> None:
    page = tmp_path / "report.html"
    with running_stub(reply=echo) as stub:
        done = invoke(
            capsys, "verify", recorded, "--server", stub.base_url, "--repeat", 2, "--shuffle", 3,
            "--call", 1, "--json", "--html", page,
        )  # fmt: skip
        assert [orjson.loads(body)["messages"][0]["content"] for body in stub.chats] == ["b"] * 2
    assert (done.code, done.err) == (0, "")
    assert (done.report["repeat"], done.report["order"]) == (2, "shuffled")
    assert [call["number"] for call in done.report["calls"]] == [1]
    assert b"all 1 calls gave the recorded answer, 2 times each" in page.read_bytes()


def test_a_note_on_witnesses_leaves_json_alone(recorded: Path, capsys: Capsys) -> None:
    with running_stub(reply=echo) as stub:
        arguments = ("verify", recorded, "--server", stub.base_url, "--witness")
        as_json = invoke(capsys, *arguments, "--json")
        as_text = invoke(capsys, *arguments)
    assert as_json.code == as_text.code == 0
    assert as_json.report["counts"]["same"] == 2
    assert as_json.err.startswith("note: ")
    assert as_json.err.removeprefix("note: ").rstrip() == as_text.out.splitlines()[-1]
    assert as_text.err == ""


def test_another_answer_ends_with_1(recorded: Path, capsys: Capsys) -> None:
    with running_stub(reply=lambda body: echo(body).replace("b", "c")) as stub:
        done = invoke(capsys, "verify", recorded, "--server", stub.base_url)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[0].endswith("1 change; first call 1 (alice) at character 9")


def test_a_server_is_not_started_from_a_file(recorded: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "verify", recorded, "--model", "x.gguf")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: model 'm' was recorded on a llama-server, which --model does not start: start one "
        "with swarm-repro server start, and name it with --server\n"
    )


def test_a_witness_needs_the_recorded_model(recorded: Path, capsys: Capsys) -> None:
    done = invoke(capsys, "verify", recorded, "--witness", "--any-model")
    assert (done.code, done.err) == (
        2,
        "error: --witness notes answers of the recorded model: leave out --any-model\n",
    )


def test_a_model_in_process_is_asked_by_its_file(capsys: Capsys) -> None:
    path = ROOT / "cassettes" / "demo_in_process.seed42.jsonl"
    (name,) = read_cassette(path).models
    none = invoke(capsys, "verify", path)
    assert none.code == 2
    assert none.err == (
        f"error: model {name!r} was recorded in process with llama-cpp-python: "
        "name its file with --model\n"
    )
    several = invoke(capsys, "verify", path, "--model", "a.gguf", "--model", "b.gguf")
    assert (several.code, several.err) == (
        2,
        f"error: none of the --model files is called {name!r}\n",
    )


@pytest.mark.parametrize(
    ("files", "asked"),
    [
        (["x/{name}", "other.gguf"], "x/{name}"),
        (["other.gguf", "x/{name}"], "x/{name}"),
        (["only.gguf"], "only.gguf"),
    ],
)
def test_the_file_with_the_recorded_name_is_asked(
    files: list[str], asked: str, tmp_path: Path, capsys: Capsys
) -> None:
    pytest.importorskip("llama_cpp")
    path = ROOT / "cassettes" / "demo_in_process.seed42.jsonl"
    (name,) = read_cassette(path).models
    given = [str(tmp_path / file.format(name=name)) for file in files]
    options = [word for file in given for word in ("--model", file)]
    done = invoke(capsys, "verify", path, *options)
    assert (done.code, done.out) == (4, "")
    assert str(tmp_path / asked.format(name=name)) in done.err, "the file that is missing"


def test_a_model_in_process_is_loaded_with_the_recorded_settings_and_no_others(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {
        "n_ctx": 512, "n_batch": 32, "n_ubatch": 16, "n_threads": 1, "n_threads_batch": 2,
        "flash_attn": False, "n_gpu_layers": 0, "offload_kqv": True, "type_k": 1, "type_v": 1,
        "chat_format": "chatml", "rope_scaling_type": 0, "rope_freq_base": 1.5,
        "rope_freq_scale": 0.5,
    }  # fmt: skip
    path = in_process(tmp_path, {**kept, "model_path": "elsewhere.gguf", "verbose": True})
    asked: list[dict[str, object]] = []

    class Loaded:
        def __init__(self, file: Path, **settings: object) -> None:
            asked.append({"file": file, **settings})
            raise UsageError("seen")

    monkeypatch.setattr(verify, "LlamaCpp", Loaded)
    assert invoke(capsys, "verify", path, "--model", "m.gguf").code == 2
    assert asked == [{"file": Path("m.gguf"), **kept}]


def test_a_model_in_process_without_recorded_settings_is_loaded_by_its_file(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_process(tmp_path, None)
    asked: list[object] = []

    def load(file: Path) -> None:
        asked.append(file)
        raise UsageError("seen")

    monkeypatch.setattr(verify, "LlamaCpp", load)
    assert invoke(capsys, "verify", path, "--model", "m.gguf").code == 2
    assert asked == [Path("m.gguf")]


def in_process(folder: Path, settings: dict[str, object] | None) -> Path:
    """A recording of a model in process with these settings."""
    binding = replace(make_binding(), backend="llama-cpp-python")
    model = TinyModel(binding=binding, environment=Environment({"settings": settings}))
    path = folder / "p.jsonl"
    with recording(path) as session:
        ask(session, model, "one")
    return path


# --- init


def test_init_lists_files_then_what_comes_next(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n")
    done = invoke(capsys, "init", "--dir", tmp_path)
    assert done.code == 0
    assert done.out.splitlines()[:5] == [
        "written    scenarios/example.yaml",
        "written    .github/workflows/swarm-repro.yml",
        "written    .gitattributes",
        "extended   .gitignore",
        "",
    ]
    assert done.out.endswith(
        '  git config diff.swarm-repro.textconv "swarm-repro textconv"\n'
        '  git config merge.swarm-repro.driver "swarm-repro merge %A %A %B --base %O"\n'
    )
    assert done.err.startswith("note: ")
    again = invoke(capsys, "init", "--dir", tmp_path)
    assert [line.split()[0] for line in again.out.splitlines()[:4]] == ["unchanged"] * 4


def test_init_replaces_only_by_force(tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "scenarios" / "example.yaml"
    path.parent.mkdir()
    path.write_text("mine")
    refused = invoke(capsys, "init", "--dir", tmp_path)
    assert (refused.code, refused.out, path.read_text()) == (2, "", "mine")
    assert refused.err.startswith("error: scenarios/example.yaml is there already")
    assert invoke(capsys, "init", "--dir", tmp_path, "--force").code == 0
    assert path.read_text() != "mine"
