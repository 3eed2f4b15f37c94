"""Bad input gets one clear line, the right exit code, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import swarm_repro
from tests.support.stub_server import running_stub

AGENT = "agents: [{{type: llm, llm: {{provider: llama_cpp, model: stub, {more}}}}}]\n"
SIMULATION = "simulation: {n_epochs: 1, steps_per_epoch: 1, seed: 7}\n"


def scenario_with(more: str) -> str:
    return SIMULATION + AGENT.format(more=more)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("agents: [", "is not YAML"),
        ("- a list", "is not a YAML mapping"),
        ("scenario_id: x\n", "has no agents"),
        (SIMULATION + "agents: []\n", "has no agents"),
        (SIMULATION + "agents: [{type: llm, llm: {provider: mistral}}]\n", "unknown provider"),
        (SIMULATION + "agents: [{type: llm, llm: {provider: openai}}]\n", "not recorded by this"),
        (SIMULATION + "agents: [{type: wizard}]\n", "Unknown agent type"),
        (scenario_with("base_url: 'ftp://localhost/v1'"), "is no http(s) address"),
        (scenario_with("base_url: 'http://localhost:99999'"), "is no address: Port out of range"),
        (SIMULATION + "agents: [{type: llm, count: many}]\n", "count must be a positive"),
        (
            SIMULATION + "governance: {transaction_tax_rate: 7}\n" + "agents: [{type: honest}]\n",
            "scenario file 's.yaml' has invalid configuration: ",
        ),
        ("agents: [{type: honest, d: 2025-13-45}]\n", "is not YAML"),
        (scenario_with("seed: 1, llama_seed: 2"), "seed 1 and llama_seed 2 differ"),
        (scenario_with("seed: 4294967296"), "is no seed"),
        (scenario_with("seed: -5"), "is no seed"),
        (scenario_with("model_path: '../../etc/x.gguf'"), "must not climb"),
        (scenario_with("temperature: 3.5"), "temperature must be in"),
        (
            scenario_with("max_tokens: 9") + "repro: {seed_polic: event}\n",
            "repro.seed_polic is unknown",
        ),
        (scenario_with("max_tokens: 9") + "repro: {strict: 1}\n", "must be true or false"),
        (
            scenario_with("max_tokens: 9") + "repro: {seed_policy: x}\n",
            "seed_policy 'x' is unknown",
        ),
        (
            scenario_with("max_tokens: 9") + "repro: {requests: [{match: {agent: a}, set: {}}]}\n",
            "use match: {scope, kind}",
        ),
    ],
)
def test_a_scenario_that_cannot_be_run(tmp_path: Path, text: str, shown: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with running_stub(port=0) as stub:
        text = text.replace("model: stub,", f"model: stub, base_url: '{stub.base_url}',")
        if "address" not in shown:
            (tmp_path / "s.yaml").write_text(text)
        result = swarm_repro("run", "s.yaml", "--live", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    before, _, said = result.stderr.partition("error: ")
    assert shown in said
    assert shown not in before, "it is said once, by the command"
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1


def make_missing(path: Path) -> None:
    del path


def make_folder(path: Path) -> None:
    path.mkdir()


def make_foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 not a model")


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (make_missing, "there is no model at"),
        (make_folder, "is a folder"),
        (make_foreign, "is not a GGUF file"),
    ],
)
def test_a_model_path_that_cannot_be_called(
    tmp_path: Path, make: Callable[[Path], None], shown: str
) -> None:
    make(tmp_path / "model.gguf")
    (tmp_path / "s.yaml").write_text(scenario_with("model_path: model.gguf"))
    result = swarm_repro("run", "s.yaml", "--record", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert shown in result.stderr
    assert not (tmp_path / "cassettes").exists()


@pytest.mark.parametrize("seed", ["-1", "4294967295", "99999999999"])
def test_a_seed_out_of_range(tmp_path: Path, seed: str) -> None:
    (tmp_path / "s.yaml").write_text(scenario_with("max_tokens: 9"))
    result = swarm_repro("run", "s.yaml", "--seed", seed, "--live", cwd=tmp_path)
    assert result.returncode == 2
    assert "out of range" in result.stderr


def test_two_models_of_one_name_are_an_error_that_lists_both(tmp_path: Path) -> None:
    with running_stub() as one, running_stub(template="other {{ messages }}") as two:
        (tmp_path / "s.yaml").write_text(
            SIMULATION
            + "agents:\n"
            + "".join(
                "  - {type: llm, llm: {provider: llama_cpp, model: twin, "
                f"base_url: '{stub.base_url}'}}}}\n"
                for stub in (one, two)
            )
        )
        result = swarm_repro("run", "s.yaml", "--record", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "two models are called 'twin'" in result.stderr
    assert result.stderr.count("template ") == 2


def test_files_of_the_user_in_the_out_folder_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / "my_results.csv").write_text("mine")
    (out / "events.jsonl").write_text("an earlier run's")
    with running_stub() as stub:
        (tmp_path / "s.yaml").write_text(scenario_with(f"base_url: '{stub.base_url}'"))
        result = swarm_repro("run", "s.yaml", "--live", "--out", out, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (out / "my_results.csv").read_text() == "mine"
    assert "an earlier run's" not in (out / "events.jsonl").read_text()


def test_a_failed_success_criterion_is_exit_code_1(tmp_path: Path) -> None:
    with running_stub() as stub:
        text = scenario_with(f"base_url: '{stub.base_url}'")
        (tmp_path / "s.yaml").write_text(text + "success_criteria: {min_epochs: 99}\n")
        result = swarm_repro("run", "s.yaml", "--live", "--out", "o", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "success criterion [FAIL] Epochs: 1 >= 99" in result.stderr


@pytest.mark.parametrize("mode", ["--replay", "--live", "--verify"])
def test_discard_without_a_recording_is_refused(tmp_path: Path, mode: str) -> None:
    (tmp_path / "s.yaml").write_text(scenario_with("max_tokens: 9"))
    result = swarm_repro("run", "s.yaml", mode, "--discard", cwd=tmp_path)
    assert result.returncode == 2
    assert "--discard goes with --record or --auto" in result.stderr


def test_no_mode_and_no_cassette_shows_the_record_command(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(scenario_with("max_tokens: 9"))
    result = swarm_repro("run", "s.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "swarm-repro run s.yaml --seed 7 --record" in result.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scenario and a cassette of it."""
    folder = tmp_path_factory.mktemp("recorded")
    with running_stub() as stub:
        text = scenario_with(f"base_url: '{stub.base_url}', max_tokens: 9")
        (folder / "s.yaml").write_text("scenario_id: s\n" + text)
        done = swarm_repro("run", "s.yaml", "--record", "--out", "o", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def torn(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def one_byte_changed(data: bytes) -> bytes:
    at = data.index(b'"content"') + 20
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def newer(data: bytes) -> bytes:
    from swarm_repro.cassette.lines import decode_line, encode_line

    first, end, rest = data.partition(b"\n")
    return encode_line({**decode_line(first + end), "format": 3}) + rest


@pytest.mark.parametrize(
    ("change", "code", "shown"),
    [
        (lambda _data: b"", 5, "is empty"),
        (newer, 2, "upgrade swarm-repro"),
        (torn, 5, "s.seed7.jsonl"),
        (one_byte_changed, 5, "wrong checksum"),
        (
            lambda _data: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            5,
            "git lfs pull",
        ),
    ],
)
def test_a_cassette_that_is_not_what_was_written(
    tmp_path: Path, recorded: Path, change: Callable[[bytes], bytes], code: int, shown: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    cassette = folder / "cassettes" / "s.seed7.jsonl"
    cassette.write_bytes(change(cassette.read_bytes()))
    for command in (("run", "s.yaml", "--replay"), ("show", cassette), ("stats", cassette)):
        result = swarm_repro(*command, cwd=folder)
        assert result.returncode == code, (command, result.stderr)
        assert shown in result.stderr
        assert "Traceback" not in result.stderr


def test_a_cassette_that_is_a_folder_or_missing(tmp_path: Path, recorded: Path) -> None:
    for cassette, shown in ((tmp_path, "is a folder"), (tmp_path / "no.jsonl", "no cassette at")):
        result = swarm_repro(
            "run", recorded / "s.yaml", "--replay", "--cassette", cassette, cwd=tmp_path
        )
        assert result.returncode == 2
        assert shown in result.stderr


def test_recording_onto_another_scenario_or_model_is_refused(
    tmp_path: Path, recorded: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    cassette = folder / "cassettes" / "s.seed7.jsonl"
    old = cassette.read_bytes()
    with running_stub(template="another {{ messages }}") as stub:
        text = (folder / "s.yaml").read_text()
        place = text.index("http://")
        text = text[:place] + stub.base_url + text[text.index("'", place) :]
        (folder / "s.yaml").write_text(text)
        model = swarm_repro("run", "s.yaml", "--record", cwd=folder)
        (folder / "s.yaml").write_text(text.replace("scenario_id: s", "scenario_id: t"))
        scenario = swarm_repro("run", "s.yaml", "--record", "--cassette", cassette, cwd=folder)
    assert model.returncode == 2
    assert "two models are called 'stub'" in model.stderr
    assert scenario.returncode == 2
    assert "belongs to scenario 's'" in scenario.stderr
    assert cassette.read_bytes() == old
