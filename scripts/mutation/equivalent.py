"""Mutants that no input tells from the original, listed with the reason by whoever found them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from .mutants import Mutant

PATH = Path(__file__).with_name("equivalent.yaml")


@dataclass(frozen=True)
class Equivalent:
    """A mutant that is none, found again by its text, as lines move.

    Attributes:
        file: Path from the root of the repository.
        function: Qualified name of what encloses it; empty at the top of the module.
        before, after: The lines concerned, as `run` prints them.
        reason: Why no input tells the two apart.
    """

    file: str
    function: str
    before: str
    after: str
    reason: str

    def is_of(self, mutant: Mutant) -> bool:
        """Whether a mutant is this one."""
        own = (self.file, self.function, _joined(self.before), _joined(self.after))
        return own == (mutant.file, mutant.function, mutant.before, mutant.after)


def read_equivalents(path: Path = PATH) -> list[Equivalent]:
    """Those listed.

    Raises:
        ValueError: An entry lacks a member, has one too many, or gives no reason.
    """
    listed = []
    for entry in yaml.safe_load(path.read_text()) or []:
        try:
            listed.append(Equivalent(**entry))
        except TypeError as error:
            raise ValueError(f"{path.name}: {entry}: {error}") from error
        if not listed[-1].reason:
            raise ValueError(f"{path.name}: {entry}: no reason is given")
    return listed


def _joined(text: str) -> str:
    return " ".join(text.split())
