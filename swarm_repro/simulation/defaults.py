"""What SWARM knows of a scenario's settings, and what they are where a scenario leaves them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from swarm_repro.errors import UsageError


def swarm_defaults(section: str) -> Mapping[str, object]:
    """The members of a section by their defaults; none for a section that has no fixed members.

    Args:
        section: ``governance``, ``payoff`` or ``rate_limits``.

    Raises:
        UsageError: SWARM is not installed.
    """
    if section not in ("governance", "payoff", "rate_limits"):
        return {}
    try:
        from swarm.core.payoff import PayoffConfig
        from swarm.env.state import RateLimits
        from swarm.governance.config import GovernanceConfig
    except ImportError as error:
        raise UsageError(
            f"SWARM is not installed ({error}); run: pip install 'swarm-repro[swarm]'"
        ) from error
    classes: Mapping[str, Any] = {
        "governance": GovernanceConfig,
        "payoff": PayoffConfig,
        "rate_limits": RateLimits,
    }
    made = classes[section]()
    if dataclasses.is_dataclass(made) and not isinstance(made, type):
        return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return dict(made.model_dump())
