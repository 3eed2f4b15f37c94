"""Which GPUs llama.cpp sees on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

from swarm_repro.errors import BackendError
from swarm_repro.serving.binaries import ServerBinary

#: Seconds a server has to list its devices; drivers take their time.
_LIMIT_S: Final = 60.0

_XLLAMACPP: Final = """\
import xllamacpp
for device in xllamacpp.get_device_info():
    if "GPU" in device["type"].name:
        print(f"  {device['name']}: {device['description']}")
"""
#: A line such as "  CUDA0: NVIDIA ... (24210 MiB, 23000 MiB free)". Source: llama.cpp,
#: common/arg.cpp, --list-devices.
_DEVICE: Final = re.compile(r"^\s+(?P<name>[A-Za-z]+\w*): ", re.MULTILINE)


def gpu_names(binary: ServerBinary) -> tuple[str, ...]:
    """Names of the GPUs that a llama-server can use, as its ``--device`` takes them.

    Args:
        binary: The llama-server.

    Raises:
        BackendError: It cannot list them.
    """
    if binary.origin == "xllamacpp":
        command = [sys.executable, "-c", _XLLAMACPP]
    else:
        command = [*binary.command, "--list-devices"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{command[0]} did not list its devices within {_LIMIT_S:.0f} s"
        ) from error
    except OSError as error:
        raise BackendError(f"{command[0]} cannot be started: {error.strerror}") from error
    if listed.returncode != 0:
        raise BackendError(
            f"{command[0]} could not list its devices, exit code {listed.returncode}"
        )
    return tuple(name for name in _DEVICE.findall(listed.stdout) if name not in ("CPU", "BLAS"))
