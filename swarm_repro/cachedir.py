"""The user's cache directory: what is in it can be made anew at any time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Moves it.
CACHE_VARIABLE: Final = "SWARM_REPRO_CACHE_DIR"


def cache_folder(name: str) -> Path:
    """A folder of it: in ``SWARM_REPRO_CACHE_DIR``, or in the user's cache directory."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute() / name
    import platformdirs

    return Path(platformdirs.user_cache_dir("swarm_repro")) / name
