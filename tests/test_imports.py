"""Imports go one way, and what replay does not need is not imported by it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm_repro
from tests.support.tiny_model import small_cassette

PACKAGE = Path(swarm_repro.__file__).parent

#: From the bottom up. A module may import what is in its own group or in a lower layer; groups of
#: one layer know nothing of each other. Source: docs/explanation/architecture.md.
LAYERS: list[list[set[str]]] = [
    [
        {
            "errors",
            "canonical",
            "sampling",
            "printable",
            "dialects",
            "mode",
            "credentials",
            "cachedir",
            "once",
            "packed",
            "loaders",
        }
    ],
    [
        {
            "model",
            "request",
            "completion",
            "difference",
            "environment",
            "caller",
            "weights",
            "masking",
        }
    ],
    [{"cassette"}, {"cache"}, {"backends"}, {"serving"}],
    [{"answers", "bindings", "ledger", "places", "inflight", "miss", "session"}],
    [{"intercept"}, {"opening"}],
    [{"simulation"}, {"compare"}, {"use"}, {"endpoint"}],
    [
        {"program"},
        {"audit"},
        {"survey"},
        {"reporting"},
        {"export"},
        {"project"},
        {"bundle"},
        {"study"},
    ],
    [{"cli", "__main__"}, {"pytest_plugin"}],
]
#: Beside the layers: the root holds the version and the public names, which it loads lazily.
ROOT = "__init__"


def place_of(part: str) -> tuple[int, int]:
    for level, groups in enumerate(LAYERS):
        for number, group in enumerate(groups):
            if part in group:
                return level, number
    raise AssertionError(f"{part} has no layer: give it one, here and in architecture.md")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Full names of what a module imports, wherever in it, but for TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            yield from imports(ast.Module(node.orelse, []), module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node, module)


def files() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 40
    return found


def going_up(path: Path) -> Iterator[str]:
    """What a module imports that is above or beside its layer."""
    part = part_of(path)
    if part == ROOT:
        return
    level, group = place_of(part)
    module = ".".join(["swarm_repro", *path.relative_to(PACKAGE).with_suffix("").parts])
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), module):
        root, _, rest = name.partition(".")
        if root != "swarm_repro" or rest.split(".")[0] == "__version__":
            continue
        other_level, other_group = place_of(rest.split(".")[0])
        if other_level >= level and (other_level, other_group) != (level, group):
            yield f"{module} imports {name}, which is above or beside it"


def test_imports_go_one_way() -> None:
    assert [found for path in files() for found in going_up(path)] == []


def test_every_part_of_the_package_has_a_layer() -> None:
    listed = {part for groups in LAYERS for group in groups for part in group}
    there = {part_of(path) for path in files()} - {ROOT}
    assert listed == there


def test_the_root_imports_no_part_of_the_package_when_it_is_loaded() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    eager = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    assert [n for n in imports(eager, "swarm_repro") if n.startswith("swarm_repro.")] == []


def test_the_check_sees_an_import_that_goes_up() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from swarm_repro.cli import show
else:
    import swarm_repro.errors
def late():
    from swarm_repro.session import Session
    from .. import caller
"""
    found = list(imports(ast.parse(source), "swarm_repro.cassette.reader"))
    assert found == [
        "typing.TYPE_CHECKING", "swarm_repro.errors", "swarm_repro.session.Session",
        "swarm_repro.caller",
    ]  # fmt: skip
    assert place_of("session") > place_of("cassette")


# --- What is loaded.

HEAVY = ("openai", "swarm", "llama_cpp", "xllamacpp", "httpx", "httpx2", "numpy", "gguf", "rich")


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that a Python process has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    assert "swarm_repro" in names
    return {name.partition(".")[0] for name in names}


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = loaded_by("-c", "import swarm_repro")
    assert loaded.isdisjoint({*HEAVY, "orjson", "click", "diskcache", "asyncio"})


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_command_line_starts_without_anything_heavy(arguments: list[str]) -> None:
    assert loaded_by("-m", "swarm_repro", *arguments).isdisjoint({*HEAVY, "orjson", "diskcache"})


@pytest.mark.parametrize("more", [[], ["0"], ["--json"]])
def test_showing_a_cassette_imports_neither_openai_nor_swarm_nor_llama_cpp(
    more: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    assert loaded_by("-m", "swarm_repro", "show", str(path), *more).isdisjoint(HEAVY)


def test_a_replay_through_a_session_imports_neither_openai_nor_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    small_cassette(path)
    program = (
        "from pathlib import Path; from swarm_repro.mode import Mode; "
        "from swarm_repro.session import Session; "
        "from swarm_repro.cassette.store import open_for_replay; "
        f"store = open_for_replay(Path({str(path)!r})); "
        "Session(mode=Mode.REPLAY, header=store.header, store=store)"
    )
    assert loaded_by("-c", program).isdisjoint(HEAVY)


def test_a_command_that_starts_itself_again_imports_next_to_nothing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "swarm_repro", "run", "no.yaml"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert names.count("swarm_repro.simulation.hash_seed") == 2, "it was started twice"
    assert names.count("click") == 1


#: What runs code, or may, when it is given data.
RUNS_DATA = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
#: ``exec`` runs the program that the user named.
MAY = {("program.py", "exec")}


def running_data(path: Path) -> Iterator[str]:
    """What a module imports or calls that runs what it is given."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = {name.partition(".")[0] for name in imports(tree, "swarm_repro")}
    yield from (f"{path} imports {name}" for name in sorted(imported & RUNS_DATA))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for name in sorted(called & UNSAFE_CALLS):
        if (path.name, name) not in MAY:
            yield f"{path} calls {name}"


def test_no_data_is_run() -> None:
    assert [found for path in files() for found in running_data(path)] == []


@pytest.mark.parametrize(
    "line", ["import pickle", "from marshal import loads", "yaml.load(x)", "eval('1')", "exec(x)"]
)
def test_the_check_sees_what_runs_data(line: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"def f(x):\n    {line}\n")
    (tmp_path / "other.py").write_text(f"def f(x):\n    {line}\n")
    assert len(list(running_data(tmp_path / "other.py"))) == 1
    assert len(list(running_data(tmp_path / "program.py"))) == (line != "exec(x)")


def test_the_tests_that_the_promises_name_are_there() -> None:
    root = PACKAGE.parent
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (root / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (root / name).is_file()] == []
