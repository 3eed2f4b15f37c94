"""GGUF files: their digests, their shards, and the properties a server reports of them.

Source: ggml ``docs/gguf.md``; split files are named ``<name>-00001-of-00003.gguf``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm_repro.errors import ModelFileError

_MAGIC = b"GGUF"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf\Z")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class GGUFProperties:
    """What a server reports of a model, read from the file itself.

    Attributes:
        n_params: Number of weights.
        size_bytes: Bytes of all tensors, without metadata.
        chat_template: The template in the file, if it has one.
    """

    n_params: int
    size_bytes: int
    chat_template: str | None


def require_gguf(path: Path) -> None:
    """Refuse what is not a GGUF file.

    Raises:
        ModelFileError: Missing, a folder, unreadable, or without the magic bytes.
    """
    if path.is_dir():
        raise ModelFileError(f"model {path} is a folder; name the .gguf file in it")
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"there is no model at {path}; fetch one with: swarm-repro model pull smollm2-135m"
        ) from error
    except OSError as error:
        raise ModelFileError(f"model {path} cannot be read: {error.strerror}") from error
    if magic != _MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file (it begins with {magic!r})")


def hash_file(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a whole GGUF file: the digest that Hugging Face and Git LFS show.

    Args:
        path: The file.
        progress: Called with the number of bytes read since the last call.

    Returns:
        64 lowercase hexadecimal digits.

    Raises:
        ModelFileError: Missing, a folder, unreadable, or not GGUF.
    """
    require_gguf(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                if progress is not None:
                    progress(len(chunk))
    except OSError as error:
        raise ModelFileError(f"model {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def shards(path: Path) -> list[Path]:
    """All files of a model that may be split, in order; one file if it is not.

    Raises:
        ModelFileError: A shard is missing.
    """
    match = _SHARD.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    found = [
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]
    for shard in found:
        require_gguf(shard)
    return found


def inspect_gguf(path: Path) -> GGUFProperties:
    """Count a model's weights, over all its shards.

    Raises:
        ModelFileError: Missing, not GGUF, or damaged.
    """
    from gguf import GGUFReader

    n_params = size_bytes = 0
    template: str | None = None
    for shard in shards(path):
        require_gguf(shard)
        try:
            reader = GGUFReader(shard)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise ModelFileError(f"{shard} is a damaged GGUF file: {error}") from error
        n_params += sum(int(tensor.n_elements) for tensor in reader.tensors)
        size_bytes += sum(int(tensor.n_bytes) for tensor in reader.tensors)
        found = reader.fields.get("tokenizer.chat_template")
        if found is not None:
            template = str(found.contents())
    return GGUFProperties(n_params=n_params, size_bytes=size_bytes, chat_template=template)
