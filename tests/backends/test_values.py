"""A bound model is frozen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from swarm_repro.backends.base import Bound
from tests.support.tiny_model import make_binding


def test_a_bound_model_cannot_change() -> None:
    bound = Bound(make_binding(), None)
    with pytest.raises(FrozenInstanceError):
        bound.environment = None  # type: ignore[misc]
