"""What can be ordered of a session from outside, and why sessions end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["nominal", "abortedByUser", "intentNotRecognized", "timeout", "error"]


@dataclass(frozen=True)
class Continue:
    """Say something, if anything, and listen again."""

    text: str | None


@dataclass(frozen=True)
class End:
    """End the session, after `text` if there is any.

    error: what went wrong, for reason "error".
    """

    reason: Reason = "nominal"
    text: str | None = None
    error: str | None = None


Order = Continue | End
