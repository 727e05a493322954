"""The keys that let a client in: the server's tokens, and client secrets that expire (`ek_...`, for browsers).

Keys are compared by their digests in constant time, each with all, so that timing tells nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from ..streaming.clock import Clock

SECRET_PREFIX = "ek_"
MAX_SECRETS = 1024
"""Client secrets that are valid at a time; the oldest give way."""


@dataclass(frozen=True)
class Key:
    """What lets a client in.

    session: changes to the session that come with it. realtime_only: it opens nothing but conversations. expires: clock
    seconds.
    """

    digest: bytes
    session: dict[str, Any] = field(default_factory=dict)
    realtime_only: bool = False
    expires: float = float("inf")


class Keys:
    """All keys of a server.

    tokens: of the settings.
    """

    def __init__(self, tokens: Sequence[SecretStr], clock: Clock) -> None:
        self._tokens = [Key(_digest(token.get_secret_value())) for token in tokens]
        self._secrets: deque[Key] = deque(maxlen=MAX_SECRETS)
        self._clock = clock

    @property
    def needed(self) -> bool:
        """Whether nobody may come in without a key."""
        return bool(self._tokens)

    def issue(self, session: dict[str, Any], seconds: float) -> str:
        """A new client secret, which opens conversations with this session until it expires."""
        value = SECRET_PREFIX + secrets.token_urlsafe(32)
        now = self._clock.now()
        # Only expired ones are dropped before their time has come, so the queue is in order of issue, not of expiry.
        self._secrets = deque((key for key in self._secrets if key.expires > now), maxlen=MAX_SECRETS)
        self._secrets.append(Key(_digest(value), session, True, now + seconds))
        return value

    def find(self, offered: str) -> Key | None:
        """The key that was offered, None for one that is unknown or has expired."""
        digest, found = _digest(offered), None
        for key in (*self._tokens, *self._secrets):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if found is not None and found.expires > self._clock.now() else None


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
