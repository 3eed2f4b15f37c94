"""Hooks that act on modules when they are imported, beside whatever else hooks imports."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swarm_repro.loaders import ImportHook

NAME = "hooked_module"
Put = Callable[[Any], None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Puts a finder before all others, in front of a folder that holds the module."""
    (tmp_path / f"{NAME}.py").write_text("ran = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield lambda finder: sys.meta_path.insert(0, finder)
    sys.modules.pop(NAME, None)


def marking(mark: str) -> ImportHook:
    def load(real: Loader, module: ModuleType) -> None:
        real.exec_module(module)
        module.marks = [*getattr(module, "marks", []), mark]  # type: ignore[attr-defined]

    return ImportHook(NAME.__eq__, load)


def test_a_module_is_acted_on_and_others_are_not(put: Put, tmp_path: Path) -> None:
    (tmp_path / "unhooked_module.py").write_text("")
    put(marking("one"))
    assert importlib.import_module(NAME).marks == ["one"]
    assert not hasattr(importlib.import_module("unhooked_module"), "marks")
    del sys.modules["unhooked_module"]


def test_two_hooks_for_one_module_both_act(put: Put) -> None:
    put(marking("inner"))
    put(marking("outer"))
    module = importlib.import_module(NAME)
    assert (module.ran, module.marks) == (True, ["inner", "outer"])


def test_afterwards_a_module_looks_as_if_there_had_been_no_hook(put: Put) -> None:
    put(marking("one"))
    module = importlib.import_module(NAME)
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert copy.copy(module.__spec__).name == NAME
    importlib.reload(module)
    assert module.marks == ["one", "one"]


def test_while_a_module_is_found_its_loader_answers_as_the_real_one(put: Put) -> None:
    put(marking("one"))
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    loader: Any = spec.loader
    assert loader.get_source(NAME) == "ran = True\n"
    assert copy.copy(loader) is not loader
    with pytest.raises(AttributeError):
        loader._nothing  # noqa: B018


class OldFinder:
    """As libraries of before Python 3.4 have it: no ``find_spec``."""

    def find_module(self, fullname: str, path: object = None) -> None:
        del fullname, path


class LoadingOnly(MetaPathFinder):
    """Finds the module with a loader that cannot run code apart from making the module."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        del path, target

        class Legacy:
            def load_module(self, name: str) -> ModuleType:
                return sys.modules.setdefault(name, ModuleType(name))

        return ModuleSpec(fullname, Legacy()) if fullname == NAME else None  # type: ignore[arg-type]


def test_a_finder_without_find_spec_is_passed_over(put: Put) -> None:
    put(OldFinder())
    hook = marking("one")
    missing = ImportHook("no_such_module".__eq__, lambda real, module: real.exec_module(module))
    put(hook)
    put(missing)
    assert hook.find_spec(NAME, None) is not None
    assert missing.find_spec("no_such_module", None) is None


def test_a_loader_that_is_no_more_than_one_is_left_alone(put: Put) -> None:
    put(LoadingOnly())
    hook = marking("one")
    put(hook)
    spec = hook.find_spec(NAME, None)
    assert spec is not None
    assert type(spec.loader).__name__ == "Legacy"


def test_a_hook_that_another_tool_wraps_still_acts(put: Put) -> None:
    hook = marking("one")

    class Wrapping(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
            return hook.find_spec(fullname, path, target)

    sys.meta_path[:] = [PathFinder]
    sys.meta_path.insert(0, marking("of another"))
    wrapping = Wrapping()
    spec = wrapping.find_spec(NAME, None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    assert module.marks == ["one"]
