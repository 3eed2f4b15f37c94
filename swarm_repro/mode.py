"""What a session does with a call."""

from __future__ import annotations

from enum import Enum


class Mode(str, Enum):
    """What a session does with a call."""

    REPLAY = "replay"
    RECORD = "record"
    AUTO = "auto"
    LIVE = "live"
    VERIFY = "verify"

    @property
    def calls_model(self) -> bool:
        """Whether a model may be called at all."""
        return self is not Mode.REPLAY

    @property
    def writes(self) -> bool:
        """Whether the cassette is written."""
        return self in (Mode.RECORD, Mode.AUTO)
