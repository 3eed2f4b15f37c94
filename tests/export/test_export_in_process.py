"""``export``: the checks before Inspect is imported, with a stand-in for the code that needs it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from swarm_repro.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Calls the command line in this process; gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["export", *map(str, arguments)])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return called


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """The log that would be written: the module that needs inspect-ai is not called."""
    asked: list[tuple[Path, Path]] = []

    def write_inspect_log(path: Path, out: Path) -> Any:
        asked.append((path, out))
        return SimpleNamespace(samples=[1, 2])

    module = ModuleType("swarm_repro.export.inspect_log")
    module.write_inspect_log = write_inspect_log  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swarm_repro.export.inspect_log", module)
    return asked


def test_a_log_goes_into_inspects_folder_or_a_given_one(
    call: Call, written: list[tuple[Path, Path]]
) -> None:
    assert call("tapes/a.seed1.jsonl") == (
        0,
        (
            "logs/a.seed1.eval: 2 agents of a.seed1.jsonl\n"
            "look at it with: inspect view --log-dir logs\n"
        ),
        "",
    )
    code, out, _ = call("b.jsonl.zst", "--out", "there/x.eval")
    assert (code, out.splitlines()[0]) == (0, "there/x.eval: 2 agents of b.jsonl.zst")
    assert "--log-dir there" in out
    assert written == [
        (Path("tapes/a.seed1.jsonl"), Path("logs/a.seed1.eval")),
        (Path("b.jsonl.zst"), Path("there/x.eval")),
    ]


def test_only_a_new_file_of_the_right_name_is_written(
    call: Call, written: list[tuple[Path, Path]]
) -> None:
    Path("folder.eval").mkdir()
    Path("there.eval").write_text("mine")
    for name, said in (
        ("log.json", "log.json does not end in .eval, which Inspect goes by"),
        ("folder.eval", "folder.eval is a folder; name a file in it"),
        ("there.eval", "there.eval is there already; replace it with --force"),
    ):
        assert call("c.jsonl", "--out", name) == (2, "", f"error: {said}\n")
    assert call("c.jsonl", "--out", "folder.eval", "--force")[0] == 2
    assert written == []
    assert call("c.jsonl", "--out", "there.eval", "--force")[0] == 0
    assert written == [(Path("c.jsonl"), Path("there.eval"))]


def failing(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    """Let the import of the module that writes the log fail."""
    real = builtins.__import__

    def importing(name: str, *arguments: Any, **more: Any) -> ModuleType:
        if name == "swarm_repro.export.inspect_log":
            raise error
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize("name", ["inspect_ai", "inspect_ai.log"])
def test_a_missing_package_is_named_with_how_to_install_it(
    name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ImportError("No module named X", name=name))
    assert call("c.jsonl") == (
        2,
        "",
        (
            "error: an Inspect log needs inspect-ai (No module named X); install it with: "
            "pip install 'swarm-repro[inspect]'\n"
        ),
    )


@pytest.mark.parametrize("name", ["pydantic", None])
def test_another_failing_import_is_not_blamed_on_inspect(
    name: str | None, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ImportError("something else", name=name)
    failing(monkeypatch, error)
    with pytest.raises(ImportError) as raised:
        main(["export", "c.jsonl"])
    assert raised.value is error
