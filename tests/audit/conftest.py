"""A program that answers as llama-server does, and a file that begins as GGUF does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.llama_cpp_stand_in import library

__all__ = ["library"]

PROGRAM = ROOT / "tests" / "support" / "audit_server.py"


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("SWARM_REPRO_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 40)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Make an executable that runs the program with more flags before its own.

    The program needs the standard library alone, and starts faster without site-packages (``-S``).
    """

    def make(*flags: str, name: str = "llama-server") -> Path:
        path = tmp_path / name
        path.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -S "{PROGRAM}" {" ".join(flags)} "$@"\n'
        )
        path.chmod(0o755)
        return path

    return make


@pytest.fixture(autouse=True)
def _same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server process of the program must answer by the same rule."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
