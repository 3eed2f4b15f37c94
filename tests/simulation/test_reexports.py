"""A package that only re-exports imports its submodules on first use, and looks the same."""

from __future__ import annotations

import importlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.simulation.reexports import deferred_reexports
from tests.support.warm import run_python

NAME = "reexporting_package"
PURE = """
    'As generators of clients write it.'

    from __future__ import annotations

    from .shapes import Circle as Circle, _hidden as _hidden
    from .shapes import (
        Square as Box,
    )
    from .units import METRE
"""
MODULES = {
    "__init__": PURE,
    "shapes": "class Circle: pass\nclass Square: pass\n_hidden = 1\n",
    "units": "METRE = 3\n",
}
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the package, with other modules where given, and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write_package(**modules: str) -> str:
        for name, source in {**MODULES, **modules}.items():
            path = tmp_path / NAME / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return NAME

    yield write_package
    for name in loaded():
        del sys.modules[name]


def loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == NAME]


def load_deferred(name: str) -> Any:
    with deferred_reexports(NAME):
        return importlib.import_module(name)


def test_a_submodule_is_imported_by_the_first_of_its_names(write: Write) -> None:
    package = load_deferred(write())
    assert loaded() == [NAME]
    assert package.METRE == 3
    assert sorted(loaded()) == [NAME, f"{NAME}.units"]
    assert package.Circle is sys.modules[f"{NAME}.shapes"].Circle
    assert vars(package)["Circle"] is package.Circle, "the second time it costs nothing"


def test_a_name_that_the_package_gives_it_is_kept(write: Write) -> None:
    package = load_deferred(write())
    assert package.Box is importlib.import_module(f"{NAME}.shapes").Square
    assert not hasattr(package, "Square")


def test_submodules_are_attributes_as_if_they_had_been_imported(write: Write) -> None:
    package = load_deferred(write())
    assert package.units is sys.modules[f"{NAME}.units"]
    assert package.units.METRE == 3


def test_a_submodule_that_is_imported_by_itself_is_the_same_one(write: Write) -> None:
    package = load_deferred(write())
    shapes = importlib.import_module(f"{NAME}.shapes")
    assert package.shapes is shapes
    assert package.Circle is shapes.Circle


def test_all_names_are_listed_and_none_is_imported_for_it(write: Write) -> None:
    package = load_deferred(write())
    wanted = {"Circle", "Box", "METRE", "_hidden", "shapes", "units", "__name__"}
    assert wanted <= set(dir(package))
    assert dir(package) == sorted(dir(package))
    assert loaded() == [NAME]


def names_taken_by_a_star(name: str) -> set[str]:
    namespace: dict[str, object] = {}
    exec(f"from {name} import *", namespace)  # noqa: S102
    return namespace.keys() - {"__builtins__", "annotations"}


def test_a_star_takes_what_it_takes_from_the_package_as_it_is(write: Write) -> None:
    write()
    importlib.import_module(NAME)
    wanted = names_taken_by_a_star(NAME)
    for name in loaded():
        del sys.modules[name]
    load_deferred(NAME)
    assert names_taken_by_a_star(NAME) == wanted == {"Circle", "Box", "METRE", "shapes", "units"}


def test_a_missing_name_is_an_attribute_error_that_names_it(write: Write) -> None:
    package = load_deferred(write())
    with pytest.raises(AttributeError, match=f"'{NAME}' has no attribute 'Triangle'"):
        package.Triangle  # noqa: B018
    with pytest.raises(ImportError, match="Triangle"):
        exec(f"from {NAME} import Triangle")  # noqa: S102


def test_packages_in_it_are_deferred_too_and_its_modules_are_not(write: Write) -> None:
    inner = {f"inner__in__{name}": source for name, source in MODULES.items()}
    write(**inner, plain="from .units import METRE as METRE\n")
    package = load_deferred(f"{NAME}.inner")
    assert f"{NAME}.inner.units" not in sys.modules
    assert package.METRE == 3
    assert load_deferred(f"{NAME}.plain").METRE == 3
    assert "METRE" in vars(sys.modules[f"{NAME}.plain"])


def test_packages_whose_name_begins_alike_are_others(write: Write, tmp_path: Path) -> None:
    write()
    (tmp_path / NAME).rename(tmp_path / f"{NAME}_2")
    with deferred_reexports(NAME):
        other = importlib.import_module(f"{NAME}_2")
    try:
        assert "METRE" in vars(other)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == f"{NAME}_2"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    "more",
    [
        "LIMIT = 3",
        "import os",
        "from os import sep",
        "from .units import *",
        "from . import units",
        "from .deep.units import METRE as LENGTH",
        "from .circle import circle",
        "from .shapes import Square as circle",
        "def area(): return METRE",
        "if True:\n    from .units import METRE as LENGTH",
        "METRE.bit_length()",
    ],
)
def test_a_package_that_does_anything_else_is_imported_as_usual(write: Write, more: str) -> None:
    write(
        __init__=textwrap.dedent(PURE) + more + "\n",
        circle="def circle(): pass\n",
        deep__in____init__="",
        deep__in__units="METRE = 5\n",
    )
    package = load_deferred(NAME)
    assert {"Circle", "Box", "METRE"} <= vars(package).keys()
    assert "__getattr__" not in vars(package)
    assert "__all__" not in vars(package)


def test_a_submodule_can_be_taken_from_a_package_as_well(write: Write) -> None:
    deep = {"deep__in____init__": "", "deep__in__units": "METRE = 5"}
    write(__init__="from .deep import units as length", **deep)
    assert load_deferred(NAME).length.METRE == 5


def test_the_packages_docstring_is_kept(write: Write) -> None:
    assert load_deferred(write()).__doc__ == "As generators of clients write it."


def test_an_empty_package_is_imported_as_usual(write: Write) -> None:
    assert "__getattr__" not in vars(load_deferred(write(__init__='"""Nothing."""\n')))


def test_a_package_without_source_is_imported_as_usual(write: Write, tmp_path: Path) -> None:
    import py_compile

    write()
    folder = tmp_path / NAME
    for name in MODULES:
        path = folder / f"{name}.py"
        py_compile.compile(str(path), cfile=str(path.with_suffix(".pyc")), doraise=True)
        path.unlink()
    assert "METRE" in vars(load_deferred(NAME))


def test_it_ends_with_the_block(write: Write) -> None:
    write()
    before = list(sys.meta_path)
    with pytest.raises(KeyError), deferred_reexports(NAME):
        raise KeyError
    assert sys.meta_path == before
    assert "METRE" in vars(importlib.import_module(NAME))


LISTED = """\
import json, pkgutil, sys
from contextlib import nullcontext
from importlib import import_module
from swarm_repro.simulation.reexports import deferred_reexports
with deferred_reexports("openai.types") if sys.argv[1] == "deferred" else nullcontext():
    import openai
    at_first = [name for name in sys.modules if name.startswith("openai.types.")]
    packages = ["openai.types"] + [
        found.name
        for found in pkgutil.walk_packages(import_module("openai.types").__path__, "openai.types.")
        if found.ispkg
    ]
    deferred = [name for name in packages if "__getattr__" in vars(import_module(name))]
    listed = {name: dir(import_module(name)) for name in packages}
names = {
    name: {key: repr(getattr(import_module(name), key)) for key in listed[name] if key[:2] != "__"}
    for name in packages
}
print(json.dumps([at_first, deferred, names]))
"""


def test_openai_has_all_its_types_when_they_are_deferred(tmp_path: Path) -> None:
    listed = {}
    for way in ("deferred", "at once"):
        done = run_python(
            ["-c", LISTED, way],
            cwd=tmp_path,
            # Not from the warm process of the tests, which has imported openai.
            environment={**os.environ, "PYTHONHASHSEED": "1"},
            timeout_s=120,
        )
        assert done.returncode == 0, done.stderr
        listed[way] = json.loads(done.stdout)
    (early, deferred, names), (all_modules, none, wanted) = listed["deferred"], listed["at once"]
    assert none == []
    assert {"openai.types", "openai.types.chat", "openai.types.responses"} <= set(deferred)
    assert len(early) < len(all_modules)
    for package, found in wanted.items():
        found.pop("annotations", None)  # of `from __future__`
        assert found == {key: names[package].get(key) for key in found}
