"""Packages that only re-export what their submodules define, importing these on first use.

``import openai`` makes some 700 pydantic models, since ``openai.types`` re-exports the types of
every endpoint; a simulation uses those of chat completions.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import InspectLoader, Loader
from types import ModuleType

from swarm_repro.loaders import ImportHook


@contextmanager
def reexporting_late(package: str) -> Iterator[None]:
    """Have a package, and those in it, import what they re-export on first use (PEP 562).

    It holds for what is imported while the block runs, and stays so afterwards. A package that does
    anything else than re-export is imported as usual.

    Args:
        package: Its import name.
    """
    inside = f"{package}."
    hook = ImportHook(lambda name: name == package or name.startswith(inside), _load)
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)


def _load(real: Loader, module: ModuleType) -> None:
    homes = _reexported(real, module) if hasattr(module, "__path__") else {}
    if not homes:
        real.exec_module(module)
        return
    namespace = vars(module)

    def resolve(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        home, attribute = homes[name]
        found = importlib.import_module(home)
        namespace[name] = getattr(found, attribute) if attribute else found
        return namespace[name]

    namespace["__getattr__"] = resolve
    namespace["__dir__"] = lambda: sorted({*namespace, *homes})
    # What `import *` takes from a package that names nothing itself.
    namespace["__all__"] = [name for name in homes if not name.startswith("_")]


def _reexported(real: Loader, package: ModuleType) -> dict[str, tuple[str, str]]:
    """Submodule and attribute by name; a submodule's own name has none.

    Returns:
        Nothing if the package does anything else.
    """
    source = real.get_source(package.__name__) if isinstance(real, InspectLoader) else None
    homes: dict[str, tuple[str, str]] = {}
    for node in ast.parse(source or "").body:
        match node:
            case ast.ImportFrom(module="__future__") | ast.Expr(value=ast.Constant()):
                continue
            case ast.ImportFrom(level=1, module=str(submodule), names=names) if all(
                alias.name != "*" for alias in names
            ):
                home = f"{package.__name__}.{submodule}"
                homes.update({each.asname or each.name: (home, each.name) for each in names})
            case _:
                return {}
    submodules = {home.removeprefix(f"{package.__name__}.") for home, _ in homes.values()}
    if any("." in name or name in homes for name in submodules):
        return {}
    return homes | {name: (f"{package.__name__}.{name}", "") for name in submodules}
