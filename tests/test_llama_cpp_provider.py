"""The provider as the plan has it: defaults, routing, seeds, health, one real call."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from swarm_repro import check_llama_server
from swarm_repro.backends.llama_server import LlamaServer
from swarm_repro.serving.state import StartedServer
from tests.support.command import ROOT, swarm_repro
from tests.support.stub_server import running_stub

PLAN = """\
agents:
  - type: llm
    count: 3
    llm:
      provider: llama_cpp
      model: llama-3.2-3b-instruct   # name passed to llama-server
      base_url: http://localhost:8080/v1
      temperature: 0.2
      max_tokens: 512
      seed: 42
"""


def in_fresh_python(code: str) -> str:
    """SWARM must not be imported here: a later test would find its clock untamed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_config_has_the_plans_defaults_and_asks_for_no_key() -> None:
    printed = in_fresh_python(
        """
        from swarm.agents.llm_agent import LLMAgent
        from swarm.agents.llm_config import LLMConfig, LLMProvider
        config = LLMConfig(provider=LLMProvider.LLAMA_CPP)
        agent = LLMAgent("a", config)
        agent.usage_stats.record_usage(config.model, 1000, 1000)
        print(config.base_url, config.n_ctx, config.n_threads, config.llama_seed, agent._api_key)
        """
    )
    assert printed == "http://localhost:8080/v1 4096 None -1 not-needed"


@pytest.mark.parametrize("model_path", [None, "./models/model.gguf"])
def test_model_path_decides_between_http_and_in_process(
    tmp_path: Path, model_path: str | None
) -> None:
    where = f"model_path: {model_path}" if model_path else "model: stub"
    with running_stub() as stub:
        (tmp_path / "s.yaml").write_text(
            "simulation: {n_epochs: 1, steps_per_epoch: 1, seed: 7}\n"
            f"agents: [{{type: llm, llm: {{provider: llama_cpp, {where}, "
            f"base_url: '{stub.base_url}'}}}}]\n"
        )
        result = swarm_repro("run", "s.yaml", "--live", cwd=tmp_path)
        if model_path is None:
            assert result.returncode == 0, result.stderr
            assert len(stub.chats) == 1
        else:
            assert result.returncode == 2
            assert "there is no model at models/model.gguf" in result.stderr
            assert not stub.chats


def test_the_plans_yaml_runs_against_port_8080_and_its_seed_reaches_the_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    with ExitStack() as stack:
        try:
            stub = stack.enter_context(running_stub(port=8080))
        except OSError as error:
            pytest.skip(f"port 8080 is taken on this machine: {error}")
        result = swarm_repro(
            *("run", "plan.yaml", "--seed", 1, "--epochs", 1, "--steps", 2, "--record"),
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        assert len(stub.chats) == 6
        assert {json.loads(body)["seed"] for body in stub.chats} == {42}
        assert "does not follow --seed" in result.stderr


@pytest.mark.parametrize("name", ["seed", "llama_seed"])
def test_either_name_of_the_seed_is_honoured_and_costs_are_zero(tmp_path: Path, name: str) -> None:
    with running_stub() as stub:
        text = PLAN.replace("seed: 42", f"{name}: 42")
        (tmp_path / "s.yaml").write_text(text.replace("http://localhost:8080/v1", stub.base_url))
        arguments = ("run", "s.yaml", "--seed", 1, "--epochs", 1, "--steps", 1, "--live")
        result = swarm_repro(*arguments, "--out", "o", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert {json.loads(body)["seed"] for body in stub.chats} == {42}
    usage = json.loads((tmp_path / "o" / "session.json").read_text())["usage"]
    assert {agent["cost_usd"] for agent in usage.values()} == {0.0}


def test_health_is_false_when_nothing_is_there() -> None:
    assert not check_llama_server("http://127.0.0.1:9")


def test_the_two_variants_of_the_plan_are_in_the_scenario() -> None:
    text = (ROOT / "scenarios" / "llm_llama_cpp.yaml").read_text()
    for line in PLAN.splitlines()[4:]:
        assert line.split("#")[0].strip() in text
    assert "model_path: ./models/Llama-3.2-3B-Instruct-Q4_K_M.gguf" in text


@pytest.mark.slow
def test_a_real_server_answers_one_chat_completion(llama_server: StartedServer) -> None:
    assert check_llama_server(llama_server.base_url)
    server = LlamaServer(llama_server.base_url)
    completion = server.chat([{"role": "user", "content": "Hello"}], max_tokens=8, seed=1)
    (document,) = completion.documents
    assert isinstance(document, dict)
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"]["role"] == "assistant"
    assert completion.usage.completion == 8
    server.close()
