"""Receive buffer for RTP audio: packets in, in any order, exact time out.

A server that listens has no loudspeaker to keep fed, so packets that come in order go straight through: the buffer adds
no delay of its own. It waits only where a packet is missing, for an adaptive 20-60 ms, and only as long as later
packets could still be put behind it. What does not come in that time becomes a `Gap` of exactly the missing length, so
the audio clock (samples handed out) keeps to the sender's and one lost packet leaves no lasting delay.

The buffer is a plain state machine over (packet, time): it holds no timer, reads no clock and decodes nothing.
"""

from dataclasses import dataclass

RTP_CLOCK = 48_000
"""Opus' RTP clock in Hz, whatever the encoded bandwidth (RFC 7587, section 4.1)."""

FRAME = RTP_CLOCK // 50
"""Samples of one 20 ms frame at `RTP_CLOCK`."""

_MAX_PACKET = RTP_CLOCK * 120 // 1000
_LATE_HISTORY = 64

_STANDSTILL = RTP_CLOCK * 60 // 1000
_MOST_BEHIND = 512


@dataclass(frozen=True, slots=True)
class Coded:
    """One Opus packet, in its turn; `samples` is its length at 48 kHz."""

    payload: bytes
    samples: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without a packet (lost, late, or not sent), in samples at 48 kHz."""

    samples: int


Slice = Coded | Gap


def opus_samples(payload: bytes) -> int:
    """Length of an Opus packet in samples at 48 kHz, from its first bytes (RFC 6716, section 3.1); 0 if invalid."""
    if not payload:
        return 0
    config, count_code = payload[0] >> 3, payload[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    count = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 0)[count_code]
    samples = frame * count
    return samples if samples <= _MAX_PACKET else 0


def unwrap(value: int, near: int, bits: int) -> int:
    """The unbounded counter nearest to `near` whose low `bits` bits are `value`."""
    span = 1 << bits
    return near + (value - near + span // 2) % span - span // 2


@dataclass(slots=True)
class JitterStats:
    """Packets since the start of the stream; 48 kHz samples of invented time, in all and the most in a row."""

    received: int = 0
    late: int = 0
    lost: int = 0
    reordered: int = 0
    gap_samples: int = 0
    longest_gap: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    timestamp: int
    payload: bytes
    samples: int
    arrival: float


class JitterBuffer:
    """Order, late drop and exact time for one RTP audio stream.

    Args:
        min_wait, max_wait: bounds in seconds of the wait for a missing packet. The wait follows the worst reordering
            seen lately and falls back to `min_wait` within about half a minute.
        starve: seconds without any packet after which time is filled by `poll` (a sender with DTX, or a mute that
            stops sending). Below it a stalled network loses nothing: the late burst is simply handed on.
        max_jump: seconds of unexplained jump in the sender's timestamps that are filled; a larger jump is a new clock
            of the sender and time continues without a gap.
        capacity: packets held at most behind a missing one.
    """

    def __init__(
        self,
        *,
        min_wait: float = 0.02,
        max_wait: float = 0.06,
        starve: float = 0.2,
        max_jump: float = 1.0,
        capacity: int = 32,
    ) -> None:
        self.stats = JitterStats()
        self.wait = min_wait
        self._min_wait = min_wait
        self._max_wait = max_wait
        self._starve = starve
        self._max_jump = round(max_jump * RTP_CLOCK)
        self._capacity = capacity
        self._held: dict[int, _Held] = {}
        self._next = 0  # unbounded sequence number due next
        self._highest = 0
        self._position: int | None = None  # unbounded RTP timestamp of the next sample to hand out
        self._invented = 0  # samples filled in since the last packet was handed out
        self._last_arrival = 0.0
        self._starved_from = 0
        self._behind: list[_Held] = []  # packets older than the position
        self._missed: dict[int, float] = {}  # given-up sequence number -> when its hole was seen

    @property
    def delay(self) -> float:
        """Seconds of audio held back at the moment behind a missing packet."""
        return sum(held.samples for held in self._held.values()) / RTP_CLOCK

    def push(self, sequence: int, timestamp: int, payload: bytes, now: float) -> list[Slice]:
        """Take one packet and hand out what is due.

        Args:
            sequence, timestamp: the RTP header's 16-bit and 32-bit counters.
            payload: one Opus packet; an empty one (padding) only takes its sequence number.
            now: arrival in seconds, any steady clock.

        Returns:
            Consecutive slices of the stream.
        """
        self.stats.received += 1
        if self._position is None:
            self._next = self._highest = sequence
            self._position = timestamp
        extended = unwrap(sequence, self._highest, 16)
        if abs(extended - self._highest) > 3000:  # RFC 3550, appendix A.1: the sender has restarted
            out = self._skip_all()
            self._next = self._highest = extended = sequence
            self._missed.clear()
        else:
            out = []
        if extended < self._next or extended in self._held:
            self._note_late(extended, now)
            return out
        if extended < self._highest:
            self.stats.reordered += 1
            self._learn(now - self._hole_seen(extended))
        else:
            self.wait = max(self._min_wait, self.wait * 0.9995)
        self._highest = max(self._highest, extended)
        self._held[extended] = _Held(unwrap(timestamp, self._position, 32), payload, opus_samples(payload), now)
        out += self._hand_out(now)
        self._last_arrival = now
        self._starved_from = self._position
        return out

    def poll(self, now: float) -> list[Slice]:
        """Hand out what has become due by the passing of time alone; call it every 20 ms or so."""
        if self._position is None:
            return []
        out = self._hand_out(now)
        if out:
            self._starved_from = self._position
        silent_for = now - self._last_arrival
        if not self._held and silent_for >= self._starve:
            # Stay max_wait behind, so that the packet that ends a silence of DTX is not late by mere jitter.
            due = self._starved_from + round((silent_for - self._max_wait) * RTP_CLOCK)
            frames = (due - self._position) // FRAME
            if frames > 0:
                out += self._gap(frames * FRAME)
        return out

    def _hand_out(self, now: float) -> list[Slice]:
        out: list[Slice] = []
        while self._held:
            head = min(self._held)
            if head != self._next:
                seen = min(held.arrival for held in self._held.values())
                if now - seen < self.wait and len(self._held) <= self._capacity:
                    break
                self._give_up(head, seen)
            out += self._emit(self._held.pop(head))
            self._next = head + 1
        return out

    def _skip_all(self) -> list[Slice]:
        out: list[Slice] = []
        for sequence in sorted(self._held):
            out += self._emit(self._held.pop(sequence))
        return out

    def _emit(self, packet: _Held) -> list[Slice]:
        assert self._position is not None
        ahead = packet.timestamp - self._position
        if ahead > self._max_jump or ahead < -(self._invented + self._max_jump):
            self._position = packet.timestamp
            ahead = 0
        if packet.samples == 0:
            return []
        if ahead < 0:
            return self._fall_behind(packet)
        self._forget_behind()
        out: list[Slice] = self._gap(ahead) if ahead else []
        self._invented = 0
        self._position += packet.samples
        out.append(Coded(packet.payload, packet.samples))
        return out

    def _fall_behind(self, packet: _Held) -> list[Slice]:
        """A packet for time that was filled in already: late, or the sender's clock has stood still meanwhile.

        After a stall of the network packets come faster than they were spoken, until they are no longer late. Those of
        a sender that paused, clock and all (a page that feeds a call from Web Audio does), come in their own time: then
        it goes on from here.
        """
        self._behind.append(packet)
        first = self._behind[0]
        passed = round((packet.arrival - first.arrival) * RTP_CLOCK)
        if passed < _STANDSTILL and len(self._behind) < _MOST_BEHIND:
            return []
        if packet.timestamp - first.timestamp > 1.5 * passed:
            self._forget_behind()
            return []
        held, self._behind = self._behind, []
        self._position = first.timestamp
        return [piece for late in held for piece in self._emit(late)]

    def _forget_behind(self) -> None:
        self.stats.late += len(self._behind)
        self._behind.clear()

    def _gap(self, samples: int) -> list[Slice]:
        assert self._position is not None
        self._position += samples
        self._invented += samples
        self.stats.gap_samples += samples
        self.stats.longest_gap = max(self.stats.longest_gap, self._invented)
        return [Gap(samples)]

    def _give_up(self, head: int, seen: float) -> None:
        for sequence in range(self._next, head):
            self.stats.lost += 1
            self._missed[sequence] = seen
        while len(self._missed) > _LATE_HISTORY:
            self._missed.pop(next(iter(self._missed)))

    def _note_late(self, sequence: int, now: float) -> None:
        self.stats.late += 1
        seen = self._missed.pop(sequence, None)
        if seen is not None:
            self.stats.lost -= 1
            self._learn(now - seen)

    def _hole_seen(self, sequence: int) -> float:
        """When the first packet after the missing `sequence` arrived."""
        return min(held.arrival for number, held in self._held.items() if number > sequence)

    def _learn(self, lateness: float) -> None:
        self.wait = min(self._max_wait, max(self.wait, 1.25 * lateness))
