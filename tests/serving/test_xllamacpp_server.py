"""llama-server as a library, run as a program: with a stand-in for the library."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from swarm_repro.serving.xllamacpp_server import main


class Flash(Enum):
    LLAMA_FLASH_ATTN_TYPE_AUTO = -1
    LLAMA_FLASH_ATTN_TYPE_DISABLED = 0


class CommonParams:
    """Has only those settings that tests give."""

    def __init__(self) -> None:
        self.port = 1
        self.n_ctx = 0
        self.hostnames: list[str] = []
        self.model_alias: set[str] = set()
        self.flash_attn_type = Flash.LLAMA_FLASH_ATTN_TYPE_AUTO
        self.model = SimpleNamespace(path="")
        self.cpuparams = SimpleNamespace(n_threads=0)
        self.cpuparams_batch = SimpleNamespace(n_threads=0)


class Server:
    """Is told to stop as soon as it says where it listens."""

    def __init__(self, library: Any, params: CommonParams) -> None:
        self._library = library
        if library.fails is not None:
            raise library.fails
        library.served.append(params)

    @property
    def listening_address(self) -> str:
        os.kill(os.getpid(), self._library.stop)
        return "http://127.0.0.1:1234"

    def __del__(self) -> None:
        self._library.freed += 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module: Any = ModuleType("xllamacpp")
    module.served, module.freed, module.fails = [], 0, None
    module.stop, module.devices = signal.SIGTERM, []
    module.CommonParams = CommonParams
    module.Server = lambda params: Server(module, params)
    module.get_device_info = lambda: module.devices
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield module
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_with_its_flags_until_it_is_told_to_stop(
    stop: signal.Signals, library: Any, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library.stop = stop
    flags = [
        *("-m", str(tiny_gguf), "--alias", "a,b", "--host", "127.0.0.1", "--port", "99"),
        *("-c", "512", "-t", "3", "-fa", "off", "--device", "none"),
    ]
    assert main(flags) == 0
    (params,) = library.served
    assert params.model.path == str(tiny_gguf)
    assert params.model_alias == {"a", "b"}
    assert params.hostnames == ["127.0.0.1"]
    assert (params.port, params.n_ctx) == (99, 512)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (3, 3)
    assert params.flash_attn_type is Flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert not hasattr(params, "device")
    assert capsys.readouterr() == ("listening on http://127.0.0.1:1234\n", "")
    assert library.freed == 1


def test_its_flags_are_those_of_the_process_and_its_port_is_8080(
    library: Any, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["server", "-m", str(tiny_gguf)])
    assert main() == 0
    assert library.served[0].port == 8080


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--nonsense"], 2, "xllamacpp's server is not given --nonsense by this package"),
        ([], 2, "no model; give its file with -m"),
        (["-m", "none.gguf"], 2, "there is no model at none.gguf"),
        (["-m", "MODEL", "-b", "7"], 2, "this xllamacpp has no setting n_batch; install xllamacpp"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    flags: list[str],
    code: int,
    said: str,
    library: Any,
    tiny_gguf: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(tiny_gguf) if flag == "MODEL" else flag for flag in flags]
    assert main(given) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {said}")
    assert library.served == []


def test_a_model_that_the_library_cannot_load_is_the_backends_error(
    library: Any, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library.fails = RuntimeError("failed to load")
    assert main(["-m", str(tiny_gguf)]) == 4
    said = f"error: llama.cpp could not serve {tiny_gguf}: failed to load\n"
    assert capsys.readouterr() == ("", said)


def test_without_the_library_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert main(["-m", "none.gguf"]) == 4
    assert capsys.readouterr().err == (
        "error: xllamacpp is not installed or does not load; run `pip install xllamacpp`\n"
    )


@pytest.mark.parametrize(
    ("kinds", "flags", "code"),
    [
        (["CPU", "GPU"], ["--device", "none"], 2),
        (["IGPU"], ["--device", "none"], 2),
        (["CPU"], ["--device", "none"], 0),
        ([], ["--device", "none"], 0),
        (["GPU"], [], 0),
        ([None], ["--device", "none"], 0),
    ],
)
def test_no_gpu_is_refused_where_the_library_would_use_one(
    kinds: list[str | None],
    flags: list[str],
    code: int,
    library: Any,
    tiny_gguf: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library.devices = [
        {"name": f"{kind} 0", **({} if kind is None else {"type": SimpleNamespace(name=kind)})}
        for kind in kinds
    ]
    assert main(["-m", str(tiny_gguf), *flags]) == code
    if code:
        assert capsys.readouterr().err == (
            f"error: xllamacpp cannot leave {kinds[-1]} 0 unused, as --device none asks; use the"
            " llama-server program (macOS: brew install llama.cpp) or --profile metal-1slot\n"
        )
