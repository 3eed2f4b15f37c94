"""Test suites of a user, run with the plugin as it is installed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client_library import CORE, NAME
from tests.support.stub_server import StubServer, running_stub

# A suite that runs in this process takes the modules with it that it was the first to import. The
# client's library imports its core with its first request, and would know the errors of a copy.
importlib.import_module(CORE)

INI = """\
[pytest]
addopts = -p no:cacheprovider -p no:hypothesispytest -p no:langsmith_plugin
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""
#: What the suites share: one question to the model, sync and async.
ASKING = """\
import os, openai, pytest
from swarm_repro import scope

def ask(text, **fields):
    url = os.environ["MODEL_URL"]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as one:
        answer = one.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": text}], **fields
        )
    return answer.choices[0].message.content

async def ask_async(text):
    url = os.environ["MODEL_URL"]
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as one:
        answer = await one.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": text}]
        )
    return answer.choices[0].message.content
"""


#: The same by the HTTP library alone, for suites whose every worker would import the client.
ASKING_BY_HTTP = f"""\
import os, pytest
import {NAME} as library
from swarm_repro import scope

def ask(text):
    url = os.environ["MODEL_URL"] + "/chat/completions"
    body = {{"model": "stub", "messages": [{{"role": "user", "content": text}}]}}
    answer = library.post(url, json=body)
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"]
"""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    with running_stub(reply=lambda body: f"heard {body['messages'][0]['content']}") as server:
        monkeypatch.setenv("MODEL_URL", server.base_url)
        yield server


class Suite:
    """A folder with tests."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self._monkeypatch = monkeypatch
        pytester.makefile(".ini", pytest=INI)
        pytester.makepyfile(asking=ASKING)

    def ask_by_http(self) -> None:
        """Let its tests ask without the openai client and without the plugins of async tests."""
        self.pytester.makepyfile(asking=ASKING_BY_HTTP)
        ini = INI.replace("addopts =", "addopts = -p no:anyio -p no:asyncio")
        self.pytester.makefile(".ini", pytest=re.sub("asyncio_.*\n", "", ini))

    def write(self, source: str, name: str = "test_it") -> None:
        self.pytester.makepyfile(**{name: "from asking import *\n" + source})

    def run(self, *arguments: str, without_model: bool = False) -> pytest.RunResult:
        if without_model:
            self._monkeypatch.setenv("MODEL_URL", "http://127.0.0.1:9/v1")
        # What has workers of its own is run beside this process; the rest, which is faster, in it.
        if "-n" in arguments:
            return self.pytester.runpytest_subprocess(*arguments)
        return self.pytester.runpytest_inprocess(*arguments)

    @property
    def cassettes(self) -> dict[str, bytes]:
        root = Path(self.pytester.path)
        return {
            str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jsonl"))
        }


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    return Suite(pytester, monkeypatch)
