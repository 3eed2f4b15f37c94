"""An endpoint in this process, for tests that ask it over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm_repro.endpoint.server import Endpoint, Settings
from swarm_repro.mode import Mode
from swarm_repro.opening import conclude, header_of

CHAT = "/v1/chat/completions"


def ask_body(text: str, **members: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], **members}


@contextmanager
def serving(
    cassette: Path, mode: str | None = None, *, concludes: bool = True, **settings: Any
) -> Iterator[Endpoint]:
    """Serve beside the block, then conclude the session."""
    endpoint = Endpoint(
        Settings(
            cassette=cassette,
            mode=None if mode is None else Mode(mode),
            header=header_of(seed_policy="as-is", strict=False),
            **{"seed": 0, **settings},
        )
    )
    try:
        with endpoint.in_thread():
            yield endpoint
        if concludes:
            conclude(endpoint.session)
    finally:
        endpoint.close()
