"""Names that a simulated package re-exports and no run uses are imported on first use."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm_repro.simulation.entropy import Entropy
from swarm_repro.simulation.taming import tamed
from tests.support.command import ROOT
from tests.support.warm import run_python

NAME = "late_imports_package"
MODULES = {
    "__init__": f"""
        from {NAME}.plots import LIMIT, Plot, draw
        from {NAME}.plots import Plot as Drawing
        from {NAME}.light import used

        __all__ = ["LIMIT", "Plot", "draw", "used"]

        def __getattr__(name):
            if name == "own":
                return "the package's own"
            raise AttributeError(f"no {{name}}")
    """,
    "plots": """
        import uuid

        LIMIT = 3
        made = uuid.uuid4()

        class Plot:
            pass

        def draw():
            return uuid.uuid4()
    """,
    "light": "def used():\n    return 'light'\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / NAME
    folder.mkdir()
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield f"{NAME}.plots"
    for name in list(sys.modules):
        if name.partition(".")[0] == NAME:
            del sys.modules[name]


def load(name: str) -> Any:
    __import__(name)
    return sys.modules[name]


def test_a_deferred_module_is_imported_by_the_first_of_its_names(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        module = load(NAME)
        assert module.used() == "light"
        assert package not in sys.modules
        assert not {"LIMIT", "Plot", "draw"} & vars(module).keys()
        assert module.LIMIT == 3
        assert module.Plot is sys.modules[package].Plot
        assert vars(module)["Plot"] is module.Plot, "the second time it costs nothing"


def test_a_name_that_the_package_gives_it_is_kept(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        module = load(NAME)
        assert module.Drawing is sys.modules[package].Plot
        assert not hasattr(sys.modules[package], "Drawing")


def test_the_submodule_is_an_attribute_of_its_package_and_all_names_are_listed(
    package: str,
) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        module = load(NAME)
        assert {"Plot", "Drawing", "plots", "used"} <= set(dir(module))
        assert package not in sys.modules
        assert module.plots is sys.modules[package]


def test_other_tamed_packages_that_it_imports_are_tamed_too(package: str, tmp_path: Path) -> None:
    other = f"{NAME}_other"
    (tmp_path / f"{other}.py").write_text("import uuid\ndef draw():\n    return uuid.uuid4()\n")
    (tmp_path / NAME / "plots.py").write_text(f"from {other} import draw\nLIMIT = Plot = 3\n")
    with tamed([NAME, other], Entropy(1), deferred=[package]):
        module = load(NAME)
    assert module.LIMIT == 3
    try:
        draws = []
        for _ in range(2):
            with tamed([NAME, other], Entropy(7)):
                draws.append(module.draw())
        assert draws[0] == draws[1]
    finally:
        del sys.modules[other]


def test_its_names_can_be_imported_from_the_package(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        load(NAME)
        namespace: dict[str, Any] = {}
        exec(f"from {NAME} import *", namespace)  # noqa: S102
    assert namespace["Plot"] is sys.modules[package].Plot


def test_the_packages_own_way_to_resolve_names_still_works(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        module = load(NAME)
        assert module.own == "the package's own"
        with pytest.raises(AttributeError, match="no such_thing"):
            module.such_thing  # noqa: B018


def test_a_deferred_module_is_tamed_even_when_it_is_asked_for_later(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        module = load(NAME)
    assert module.LIMIT == 3
    with tamed([NAME], Entropy(7)):  # refuses modules that are not
        first = module.draw()
    with tamed([NAME], Entropy(7)):
        assert module.draw() == first


@pytest.mark.parametrize("deferred", [[], [f"{NAME}.light"], ["plots"]])
def test_other_modules_are_imported_with_the_package(package: str, deferred: list[str]) -> None:
    with tamed([NAME], Entropy(1), deferred=deferred):
        load(NAME)
        assert package in sys.modules


def test_a_module_that_others_import_for_themselves_is_not_deferred(package: str) -> None:
    with tamed([NAME], Entropy(1), deferred=[package]):
        load(package)
        assert sys.modules[package].LIMIT == 3
        assert load(NAME).Plot is sys.modules[package].Plot


REPLAY = f"""\
import json, sys
from pathlib import Path
from swarm_repro.simulation.plan import RunOptions
from swarm_repro.simulation.run import run_scenario
from swarm_repro.simulation.swarm import DEFERRED

outcome = run_scenario(RunOptions(
    scenario=Path({str(ROOT / "scenarios" / "demo.yaml")!r}),
    cassette=Path({str(ROOT / "cassettes" / "demo.seed42.jsonl")!r}),
    seed=42, out=Path("out"),
))
heavy = sorted({{"matplotlib", "openai.types.responses.response", *DEFERRED}} & set(sys.modules))
import swarm.analysis as analysis
homes = {{
    name: getattr(analysis, name).__module__
    for name in analysis.__all__ if hasattr(getattr(analysis, name), "__module__")
}}
print(json.dumps([outcome.exit_code, heavy, homes, len(analysis.__all__)]))
"""


def test_a_replay_of_swarm_imports_what_it_uses_and_the_rest_is_there_all_the_same(
    tmp_path: Path,
) -> None:
    # Not from the warm process of the tests, which may have imported more.
    done = run_python(
        ["-c", REPLAY],
        cwd=tmp_path,
        environment={**os.environ, "PYTHONHASHSEED": "1"},
        timeout_s=120,
    )
    assert done.returncode == 0, done.stderr
    code, heavy, homes, names = json.loads(done.stdout)
    assert (code, heavy) == (0, [])
    assert homes["plot_enhanced_dashboard"] == "swarm.analysis.enhanced_dashboard"
    assert homes["TrustNetworkAnalyzer"] == "swarm.analysis.trust_network"
    assert names > 20
