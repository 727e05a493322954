"""What a WebSocket client has been sent and has not played yet, reckoned by the server's clock.

A WebSocket takes audio as fast as it is given. Sent too early, it cannot be taken back at a barge-in, and stock clients
forget an answer at its `done`, so that they could not say any more where they were interrupted. So the server sends
only a little ahead of the client's playing, which it imagines as a buffer that empties in real time.
"""

from __future__ import annotations

from ...streaming.clock import Clock
from ...streaming.frames import samples, samples_of_ms, seconds


class Pacer:
    """The buffer of the listener. Counts in samples at 16 kHz.

    Attributes:
        underruns: how often the buffer ran empty in the middle of an answer.
    """

    def __init__(self, clock: Clock, lead_ms: float) -> None:
        self._clock = clock
        self._lead = samples_of_ms(lead_ms)
        self._empty_at = clock.now()
        self._sounding = False
        self.underruns = 0

    @property
    def in_flight(self) -> int:
        """Samples sent and not played yet."""
        return max(0, samples(self._empty_at - self._clock.now()))

    @property
    def room(self) -> int:
        """Samples that may be sent now."""
        return max(0, self._lead - self.in_flight)

    def sent(self, count: int) -> None:
        """`count` samples were sent: the client plays them behind those it has, or at once if it has none."""
        now = self._clock.now()
        if self._sounding and self._empty_at < now:
            self.underruns += 1
        self._sounding = True
        self._empty_at = max(self._empty_at, now) + seconds(count)

    def ended(self) -> None:
        """The answer is complete: the buffer may run empty."""
        self._sounding = False

    def flush(self) -> None:
        """The client drops what it has not played."""
        self._sounding = False
        self._empty_at = self._clock.now()
