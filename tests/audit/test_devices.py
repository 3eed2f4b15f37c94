"""The GPUs that a llama-server lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.audit.devices import gpu_names
from swarm_repro.errors import BackendError
from swarm_repro.serving.binaries import find_llama_server

LISTED = """\
Available devices:
  CUDA0: NVIDIA GeForce RTX 3090 (24250 MiB, 23870 MiB free)
  Vulkan1: AMD Radeon (RADV) (16368 MiB, 16000 MiB free)
  BLAS: Accelerate (0 MiB, 0 MiB free)
"""


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lister"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_gpus_are_named_as_the_device_flag_takes_them(tmp_path: Path) -> None:
    path = script(tmp_path, f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    assert gpu_names(find_llama_server(path)) == ("CUDA0", "Vulkan1")


def test_a_machine_without_a_gpu_has_none(program: Callable[..., Path]) -> None:
    assert gpu_names(find_llama_server(program())) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [("#!/bin/sh\nexit 3\n", "exit code 3"), ("#!/nowhere/sh\n", "cannot be started")],
)
def test_a_server_that_cannot_list_them_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=said):
        gpu_names(find_llama_server(script(tmp_path, text)))
