"""How much one client may ask for: requests in a minute, conversations at a time, events in a second."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ..models.errors import SpeechGPTGenError
from ..streaming.clock import Clock
from .settings import Settings

MAX_CLIENTS = 10_000
"""Addresses whose requests are counted; the one that has been quiet for longest is forgotten."""


class TooManySessionsError(SpeechGPTGenError):
    """A client holds as many conversations as it may."""


class Bucket:
    """A token bucket: `burst` at once, `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock.now()

    def take(self) -> float:
        """Take one; 0, or the seconds to wait until there is one to take."""
        now = self._clock.now()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0

    async def wait(self) -> None:
        """Take one, as soon as there is one."""
        while seconds := self.take():
            await self._clock.sleep(seconds)


class Clients:
    """Everybody who calls, by address."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._requests: OrderedDict[str, Bucket] = OrderedDict()
        self._sessions: Counter[str] = Counter()

    def request(self, address: str) -> float:
        """Count a request; 0 when it may be served, or the seconds after which the client may ask again."""
        bucket = self._requests.pop(address, None)
        if bucket is None:
            limit = self._settings.requests_per_minute
            bucket = Bucket(limit / 60, limit, self._clock)
        self._requests[address] = bucket
        if len(self._requests) > MAX_CLIENTS:
            self._requests.popitem(last=False)
        return bucket.take()

    @contextmanager
    def session(self, address: str) -> Iterator[None]:
        """Count a conversation while it lasts. Raises TooManySessionsError."""
        limit = self._settings.max_sessions_per_client
        if limit and self._sessions[address] >= limit:
            raise TooManySessionsError(f"one client may hold {limit} conversations at a time: end one first")
        self._sessions[address] += 1
        try:
            yield
        finally:
            self._sessions[address] -= 1
            if not self._sessions[address]:
                del self._sessions[address]


def client_of(host: str) -> str:
    """Whom an address stands for: of IPv6 the network, since one client has all addresses of its own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)
