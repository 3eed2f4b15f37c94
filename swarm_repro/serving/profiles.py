"""Named sets of llama-server flags, and what each flag is called inside llama.cpp.

A profile is data: the flags as one would type them. The same flags are understood by the
``llama-server`` program and, through ``common_params_fields``, by the ``xllamacpp`` package, which
is llama-server as a library. Source of the flags: llama.cpp, ``llama-server --help``; of the
fields: llama.cpp, common/common.h, ``struct common_params``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from swarm_repro.errors import UsageError

#: Tokens of context, for the server as a whole. Never the model's own: how much memory it takes
#: would depend on the model, and a fixed size is part of a repeatable set-up.
DEFAULT_CTX_SIZE: Final = 8192

FieldValue: TypeAlias = "bool | int | str"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named set of llama-server flags.

    Attributes:
        name: What ``--profile`` takes.
        description: One line on what it is for.
        flags: The flags but for model, address, threads, context and slots.
        strict: Whether it promises the same bits for the same request, whatever came before.
    """

    name: str
    description: str
    flags: tuple[str, ...]
    strict: bool

    def render(self, *, threads: int | None = None, n_ctx: int, parallel: int = 1) -> list[str]:
        """Write the profile as llama-server flags.

        Args:
            threads: Threads for prompts and for generation; None for ``default_threads()``.
            n_ctx: Context size in tokens, for all slots together.
            parallel: Number of slots.

        Raises:
            UsageError: a number below one, or a context that leaves a slot without tokens.
        """
        n_threads = default_threads() if threads is None else threads
        for flag, value in (("threads", n_threads), ("ctx-size", n_ctx), ("parallel", parallel)):
            if value < 1:
                raise UsageError(f"--{flag} is {value}; give a number of at least 1")
        if parallel > n_ctx:
            raise UsageError(f"{parallel} slots cannot share a context of {n_ctx} tokens")
        return [
            *("-c", str(n_ctx)),
            *("-np", str(parallel)),
            *("-t", str(n_threads)),
            *("-tb", str(n_threads)),
            *self.flags,
        ]


_NO_CACHE = "--no-cache-prompt --cache-ram 0 --cache-reuse 0 --ctx-checkpoints 0"

CPU_STRICT: Final = Profile(
    name="cpu-strict",
    description="same request, same bits: CPU only, one slot, nothing reused",
    flags=tuple(
        f"{_NO_CACHE} -fa off --no-repack -b 512 -ub 512 -ctk f16 -ctv f16 --no-context-shift"
        " --fit off -ngl 0 --device none --no-op-offload".split()
    ),
    strict=True,
)
METAL_1SLOT: Final = Profile(
    name="metal-1slot",
    description="one slot, nothing reused, all layers on the GPU: faster, bits hold on one machine",
    flags=tuple(f"{_NO_CACHE} -b 512 -ub 512 --no-context-shift --fit off -ngl 999".split()),
    strict=False,
)
DEFAULT_1SLOT: Final = Profile(
    name="default-1slot",
    description="llama.cpp's own defaults, but one slot: answers may depend on earlier requests",
    flags=(),
    strict=False,
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (CPU_STRICT, METAL_1SLOT, DEFAULT_1SLOT)}
)


def get_profile(name: str) -> Profile:
    """Look a profile up.

    Raises:
        UsageError: there is none of that name.
    """
    profile = PROFILES.get(name)
    if profile is None:
        raise UsageError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    return profile


def default_threads() -> int:
    """Physical cores this process may use, or logical ones where that cannot be known.

    Two threads on one core share its arithmetic units and only slow llama.cpp down; on a Mac its
    efficiency cores make the others wait.
    """
    logical = os.cpu_count() or 1
    if sys.platform == "darwin":
        return _mac_performance_cores() or logical
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(logical))
    return _linux_cores(usable) or len(usable)


def _linux_cores(usable: set[int], root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    files = (root / f"cpu{cpu}/topology/thread_siblings_list" for cpu in usable)
    try:
        return len({file.read_text("ascii") for file in files})
    except (OSError, UnicodeDecodeError):
        return None


def _mac_performance_cores() -> int | None:
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0 and answer.stdout.strip().isdecimal():
            return int(answer.stdout) or None
    return None


@dataclass(frozen=True)
class _Flag:
    """Where a flag's value goes.

    ``fixed`` is the value of a flag that takes none. ``words`` are the values that it takes by
    name; with ``number`` it takes integers too. A field named "device" is no field of
    ``CommonParams``: see ``common_params_fields``.
    """

    names: tuple[str, ...]
    field: str
    fixed: FieldValue | None = None
    words: Mapping[str, FieldValue] | None = None
    number: bool = False


_ON_OFF: Final = {"on": True, "off": False}
_FLASH: Final = {
    word: f"LLAMA_FLASH_ATTN_TYPE_{name}"
    for word, name in (("on", "ENABLED"), ("off", "DISABLED"), ("auto", "AUTO"))
}
_KV_TYPES: Final = {
    word: f"GGML_TYPE_{word.upper()}"
    for word in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
}

_POOLING: Final = {
    word: f"LLAMA_POOLING_TYPE_{word.upper()}" for word in ("none", "mean", "cls", "last", "rank")
}

_FLAGS: Final = (
    _Flag(("-m", "--model"), "model.path"),
    _Flag(("-a", "--alias"), "model_alias"),
    _Flag(("--host",), "hostnames"),
    _Flag(("--port",), "port", number=True),
    _Flag(("-c", "--ctx-size"), "n_ctx", number=True),
    _Flag(("-np", "--parallel"), "n_parallel", number=True),
    _Flag(("-t", "--threads"), "cpuparams.n_threads", number=True),
    _Flag(("-tb", "--threads-batch"), "cpuparams_batch.n_threads", number=True),
    _Flag(("-b", "--batch-size"), "n_batch", number=True),
    _Flag(("-ub", "--ubatch-size"), "n_ubatch", number=True),
    _Flag(("--cache-prompt",), "cache_prompt", fixed=True),
    _Flag(("--no-cache-prompt",), "cache_prompt", fixed=False),
    _Flag(("-cram", "--cache-ram"), "cache_ram_mib", number=True),
    _Flag(("--cache-reuse",), "n_cache_reuse", number=True),
    _Flag(("-ctxcp", "--ctx-checkpoints"), "n_ctx_checkpoints", number=True),
    _Flag(("-fa", "--flash-attn"), "flash_attn_type", words=_FLASH),
    _Flag(("--repack",), "no_extra_bufts", fixed=False),
    _Flag(("-nr", "--no-repack"), "no_extra_bufts", fixed=True),
    _Flag(("-ctk", "--cache-type-k"), "cache_type_k", words=_KV_TYPES),
    _Flag(("-ctv", "--cache-type-v"), "cache_type_v", words=_KV_TYPES),
    _Flag(("--context-shift",), "ctx_shift", fixed=True),
    _Flag(("--no-context-shift",), "ctx_shift", fixed=False),
    _Flag(("-fit", "--fit"), "fit_params", words=_ON_OFF),
    _Flag(
        ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        "n_gpu_layers",
        words={"auto": -1, "all": -2},
        number=True,
    ),
    _Flag(("-dev", "--device"), "device", words={"none": "none"}),
    _Flag(("--op-offload",), "no_op_offload", fixed=False),
    _Flag(("--no-op-offload",), "no_op_offload", fixed=True),
    _Flag(("--warmup",), "warmup", fixed=True),
    _Flag(("--no-warmup",), "warmup", fixed=False),
    _Flag(("--jinja",), "use_jinja", fixed=True),
    _Flag(("--no-jinja",), "use_jinja", fixed=False),
    _Flag(("--embedding", "--embeddings"), "embedding", fixed=True),
    _Flag(("--pooling",), "pooling_type", words=_POOLING),
    _Flag(("--offline",), "offline", fixed=True),
    _Flag(("--ui", "--webui"), "ui", fixed=True),
    _Flag(("--no-ui", "--no-webui"), "ui", fixed=False),
)
_FLAG_OF: Final = {name: flag for flag in _FLAGS for name in flag.names}


def common_params_fields(flags: Sequence[str]) -> dict[str, FieldValue]:
    """Translate llama-server flags to fields of xllamacpp's ``CommonParams``.

    Args:
        flags: As on llama-server's command line, without the program.

    Returns:
        Dotted field names with their values. Values of enumerations are member names.
        ``hostnames`` and ``model_alias`` are comma-separated, as on the command line. "device" is
        no field: its value "none" asks that no GPU be used.

    Raises:
        UsageError: a flag this table does not know, or a value that the flag does not take.
    """
    fields: dict[str, FieldValue] = {}
    words = iter(flags)
    for name in words:
        flag = _FLAG_OF.get(name)
        if flag is None:
            raise UsageError(
                f"xllamacpp's server is not given {name} by this package; use the llama-server"
                " program for it"
            )
        if flag.fixed is not None:
            fields[flag.field] = flag.fixed
            continue
        value = next(words, None)
        if value is None:
            raise UsageError(f"{name} needs a value")
        fields[flag.field] = _convert(flag, name, value)
    # llama.cpp's own command line does the same.
    if "cpuparams.n_threads" in fields:
        fields.setdefault("cpuparams_batch.n_threads", fields["cpuparams.n_threads"])
    return fields


def _convert(flag: _Flag, name: str, value: str) -> FieldValue:
    if flag.words is not None and value in flag.words:
        return flag.words[value]
    if flag.number:
        try:
            return int(value)
        except ValueError as error:
            raise UsageError(f"{name} takes a number, not {value!r}") from error
    if flag.words is not None:
        raise UsageError(f"{name} takes {', '.join(flag.words)}, not {value!r}")
    return value
