"""How evenly a stream in real time arrives."""

from collections import deque

from ...streaming.clock import Clock
from ..client.webrtc import WebRtcConnection
from ..transports.jitter import RTP_CLOCK, unwrap

MEMORY = 500
"""Packets (ten seconds) whose quickest one is the measure: clocks of two machines drift apart over longer."""


class Lateness:
    """Of each packet of a call, the seconds that it came later than the quickest of the last ten seconds.

    What the network delays, and what the sender's own machine does when it has more sessions than it can serve.
    """

    def __init__(self, connection: WebRtcConnection, clock: Clock) -> None:
        self.seconds: list[float] = []
        self._clock = clock
        self._transits: deque[float] = deque(maxlen=MEMORY)
        self._timestamp: int | None = None
        self._receive = connection.receiver.receive
        connection.receiver.receive = self._note  # type: ignore[method-assign]

    def _note(self, sequence: int, timestamp: int, payload: bytes) -> None:
        near = self._timestamp if self._timestamp is not None else timestamp
        self._timestamp = unwrap(timestamp, near, 32)
        transit = self._clock.now() - self._timestamp / RTP_CLOCK
        self._transits.append(transit)
        self.seconds.append(transit - min(self._transits))
        self._receive(sequence, timestamp, payload)
