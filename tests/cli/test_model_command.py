"""``swarm-repro model``, in this process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from swarm_repro.serving.models import KNOWN_MODELS
from tests.support.page_server import serving
from tests.support.terminal import on_a_terminal, run

BODY = b"GGUF" + bytes(range(256)) * 4
SHA256 = hashlib.sha256(BODY).hexdigest()
Capture = pytest.CaptureFixture[str]


def test_a_file_that_is_fetched_says_who_vouches_for_it(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWARM_REPRO_MODEL_SHA256", raising=False)
    with serving({"/m.gguf": (200, BODY)}) as server:
        pull = ("model", "pull", f"{server.root}/m.gguf", "--folder", tmp_path / "models")
        done = run(capsys, *pull, "--sha256", SHA256)
        assert (done.code, done.out) == (0, f"{tmp_path}/models/m.gguf\n")
        assert done.err == f"SHA-256 {SHA256} as given\n"
        monkeypatch.setenv("SWARM_REPRO_MODEL_SHA256", SHA256)
        again = run(capsys, *pull)
        assert again.err == (
            f"was there already, SHA-256 {SHA256} as in SWARM_REPRO_MODEL_SHA256\n"
        )
        assert len(server.asked) == 1
    assert (tmp_path / "models" / "m.gguf").read_bytes() == BODY


def test_a_known_model_comes_from_the_url_that_is_given_into_models(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving({"/x": (200, BODY)}) as server:
        done = run(
            capsys,
            *("model", "pull", "llama-3.2-3b-instruct", "--url", f"{server.root}/x"),
            *("--sha256", SHA256),
        )
    assert done.out == "models/Llama-3.2-3B-Instruct-Q4_K_M.gguf\n"


def test_a_terminal_shows_the_bytes_that_came(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_a_terminal(monkeypatch)
    path = tmp_path / "m.gguf"
    path.write_bytes(BODY)
    assert run(capsys, "model", "hash", path).out == f"{SHA256}  {path}\n"
    last = terminal.text.strip().splitlines()[-1]
    assert last.startswith("m.gguf ")
    assert " 1.0/1.0 kB " in last
    with serving({"/n.gguf": (200, BODY)}) as server:
        url = f"{server.root}/n.gguf"
        run(capsys, "model", "pull", url, "--folder", tmp_path, "--sha256", SHA256)
    shown = [line for line in terminal.text.splitlines() if line.startswith(url)]
    assert " 1.0/1.0 kB " in shown[-1]


def test_a_hash_is_printed_for_people_and_for_scripts(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(BODY)
    done = run(capsys, "model", "hash", path)
    assert (done.code, done.out, done.err) == (0, f"{SHA256}  {path}\n", "")
    as_json = run(capsys, "model", "hash", path, "--json")
    assert json.loads(as_json.out) == {
        "file": str(path),
        "sha256": SHA256,
        "size_bytes": len(BODY),
    }
    assert as_json.err == ""


def test_the_known_models_are_listed_in_columns_and_as_json(capsys: Capture) -> None:
    assert run(capsys, "model", "list").out.splitlines() == [
        f"smollm2-135m           {KNOWN_MODELS['smollm2-135m'].description}",
        f"llama-3.2-3b-instruct  {KNOWN_MODELS['llama-3.2-3b-instruct'].description}",
    ]
    assert json.loads(run(capsys, "model", "list", "--json").out) == [
        {
            "name": "smollm2-135m",
            "description": KNOWN_MODELS["smollm2-135m"].description,
            "file_name": "SmolLM2-135M-Instruct.Q4_1.gguf",
            "size_bytes": 98362432,
            "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
        {
            "name": "llama-3.2-3b-instruct",
            "description": KNOWN_MODELS["llama-3.2-3b-instruct"].description,
            "file_name": "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
            "size_bytes": None,
            "sha256": None,
        },
    ]
