"""The GPUs that a llama-server lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarm_repro.audit import devices
from swarm_repro.audit.devices import gpu_names
from swarm_repro.errors import BackendError
from swarm_repro.serving.binaries import ServerBinary, find_llama_server

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


def test_a_server_that_does_not_list_them_in_time_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_LIMIT_S", 0.05)
    path = script(tmp_path, "#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(BackendError) as raised:
        gpu_names(find_llama_server(path))
    assert str(raised.value) == f"{path} did not list its devices within 0 s"


def test_the_error_names_the_program(tmp_path: Path) -> None:
    path = script(tmp_path, "#!/bin/sh\nexit 3\n")
    with pytest.raises(BackendError) as raised:
        gpu_names(find_llama_server(path))
    assert str(raised.value) == f"{path} could not list its devices, exit code 3"


def test_the_server_gets_the_flag_after_all_it_is_started_with(tmp_path: Path) -> None:
    path = script(tmp_path, '#!/bin/sh\necho "  GPU$1$2: a device"\n')
    binary = ServerBinary(command=(str(path), "0"), origin="given", files=())
    assert gpu_names(binary) == ()
    path.write_text('#!/bin/sh\n[ "$1 $2" = "0 --list-devices" ] && echo "  GPU7: a device"\n')
    assert gpu_names(binary) == ("GPU7",)


def test_the_xllamacpp_package_is_asked_for_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "xllamacpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from types import SimpleNamespace as One\n"
        "def get_device_info():\n"
        "    return [{'name': 'CPU', 'description': 'a CPU', 'type': One(name='CPU')},\n"
        "            {'name': 'Metal', 'description': 'a GPU', 'type': One(name='GPU')},\n"
        "            {'name': 'Vulkan0', 'description': 'one', 'type': One(name='IGPU')}]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    binary = ServerBinary(command=("/nowhere/server",), origin="xllamacpp", files=())
    assert gpu_names(binary) == ("Metal", "Vulkan0")
