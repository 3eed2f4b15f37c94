"""Where a recording was made: what can change a completion without changing its key.

Never holds keys, headers, ports, process ids or absolute paths.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from swarm_repro.canonical import encode_canonical, sha256_hex

_VARIABLES = ("GGML_", "LLAMA_", "OMP_")
_LEFT_OUT = ("KEY", "TOKEN", "SECRET", "PASSWORD", "_HOST", "_PORT")
#: Flags whose value names this machine or a secret, not a way of computing.
_VALUE_DROPPED = frozenset(
    {
        *("--port", "--host", "--alias", "-a", "--log-file", "--api-key", "--api-key-file"),
        *("--ssl-key-file", "--ssl-cert-file", "--hf-token", "-hft"),
    }
)


@dataclass(frozen=True)
class Environment:
    """An ``env`` record.

    Attributes:
        content: JSON members: ``backend``, ``build``, ``binary_sha256``, ``system``, ``machine``,
            ``cpu``, ``devices``, ``flags``, ``settings``, ``variables``; unknown ones are null.
    """

    content: Mapping[str, object]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content's canonical JSON: what a call record refers to."""
        return sha256_hex(encode_canonical(dict(self.content)))


#: Of calls whose environment record was lost.
UNKNOWN = Environment(
    {
        "backend": None,
        "build": None,
        "binary_sha256": None,
        "system": None,
        "machine": None,
        "cpu": None,
        "devices": None,
        "flags": None,
        "settings": {},
        "variables": {},
    }
)


def describe_environment(
    *,
    backend: str,
    build: str | None,
    binary_sha256: str | None,
    local: bool,
    flags: Sequence[str] | None = None,
    settings: Mapping[str, object] | None = None,
    devices: Sequence[str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Environment:
    """Describe the machine and the backend that answers.

    Args:
        backend: ``llama-server`` or ``llama-cpp-python``.
        build: What the backend says of its build or version.
        binary_sha256: Digest of the program or library that computes, if it is at hand.
        local: Whether the backend runs on this machine; a remote one's CPU is unknown.
        flags: Command line of a server we started.
        settings: Context settings that the backend shows (slots, context window, batch sizes).
        devices: Accelerators in use.
        variables: Variables that the backend was given; None takes this process's, which are an
            in-process backend's own.
    """
    return Environment(
        {
            "backend": backend,
            "build": build,
            "binary_sha256": binary_sha256,
            "system": platform.system() if local else None,
            "machine": platform.machine() if local else None,
            "cpu": cpu_model() if local else None,
            "devices": None if devices is None else list(devices),
            "flags": None if flags is None else portable_flags(flags),
            "settings": dict(settings or {}),
            "variables": llama_variables(os.environ if variables is None else variables),
        }
    )


def llama_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables llama.cpp, ggml and OpenMP read, without anything that looks like a secret."""
    return {
        name: _base_name(value)
        for name, value in sorted(variables.items())
        if name.startswith(_VARIABLES) and not any(word in name for word in _LEFT_OUT)
    }


def portable_flags(flags: Sequence[str]) -> list[str]:
    """A command line without ports, hosts, keys and folders; files keep their base names."""
    shown: list[str] = []
    drop_next = False
    for flag in flags:
        if drop_next:
            drop_next = False
            continue
        name, _, value = flag.partition("=")
        if name in _VALUE_DROPPED:
            drop_next = not value
            continue
        if value:
            shown.append(f"{name}={_base_name(value)}")
        else:
            shown.append(_base_name(flag))
    return shown


def _base_name(value: str) -> str:
    return Path(value).name if os.sep in value else value


@lru_cache(maxsize=1)
def cpu_model() -> str | None:
    """The CPU's name as the system gives it, or None where it does not say."""
    if platform.system() == "Darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout.strip() or None
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or None
