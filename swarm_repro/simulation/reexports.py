"""Packages that re-export names of their submodules, and import these on first use (PEP 562).

``import openai`` of version 3 makes some 650 pydantic models, since ``openai.types`` re-exports the
types of every endpoint; a simulation uses those of chat completions.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import InspectLoader, Loader
from types import ModuleType

from swarm_repro.loaders import ImportHook


@contextmanager
def deferred_reexports(package: str) -> Iterator[None]:
    """Let a package, and those in it, import what they re-export on first use.

    It holds for what is imported while the block runs, and stays so afterwards. A package that does
    anything but re-export is imported as usual.

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


def defer(
    package: ModuleType,
    homes: Mapping[str, tuple[str, str]],
    load: Callable[[str], ModuleType] = importlib.import_module,
) -> None:
    """Let a package take names from submodules when they are first asked for.

    Args:
        package: Changed in place; a ``__getattr__`` of its own answers for all other names.
        homes: Submodule and attribute by name; no attribute means the submodule itself.
        load: Imports a submodule.
    """
    namespace = vars(package)
    others = namespace.get("__getattr__")

    def resolve(name: str) -> object:
        if name in homes:
            home, attribute = homes[name]
            found: object = load(home)
            if attribute and hasattr(found, attribute):
                found = getattr(found, attribute)
            elif attribute:  # as for `from home import attribute`, it may be a submodule
                found = load(f"{home}.{attribute}")
            namespace[name] = found
            return found
        if others is not None:
            return others(name)
        raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")

    namespace["__getattr__"] = resolve
    namespace.setdefault("__dir__", lambda: sorted({*namespace, *homes}))


def _load(real: Loader, module: ModuleType) -> None:
    source = real.get_source(module.__name__) if isinstance(real, InspectLoader) else None
    tree = ast.parse(source or "")
    homes = _reexported(tree, module) if hasattr(module, "__path__") else {}
    if not homes:
        real.exec_module(module)
        return
    defer(module, homes)
    module.__doc__ = ast.get_docstring(tree, clean=False)
    # What `import *` takes from a package that names nothing itself.
    module.__dict__["__all__"] = [name for name in homes if not name.startswith("_")]


def _reexported(tree: ast.Module, package: ModuleType) -> dict[str, tuple[str, str]]:
    """Submodule and attribute by name; a submodule's own name has none.

    Returns:
        Nothing if the package does anything else, or if a name could mean two things.
    """
    homes: dict[str, tuple[str, str]] = {}
    for node in tree.body:
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
    present = {found.name for found in pkgutil.iter_modules(package.__path__)}
    if any("." in name for name in submodules) or present & homes.keys():
        return {}
    return homes | {name: (f"{package.__name__}.{name}", "") for name in submodules}
