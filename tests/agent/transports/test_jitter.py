"""The receive buffer: exact time, right order and no lasting delay, whatever the network does."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.agent.transports.jitter import (
    FRAME,
    RTP_CLOCK,
    Coded,
    Gap,
    JitterBuffer,
    Slice,
    opus_samples,
    unwrap,
)
from speechgpt_gen.agent.transports.receive import Concealer

TOC_20MS = 31 << 3


def packet(number: int) -> bytes:
    """A 20 ms packet (by its first byte) that can be told from others."""
    return bytes([TOC_20MS]) + number.to_bytes(4, "big")


def number_of(piece: Slice) -> int | None:
    return int.from_bytes(piece.payload[1:], "big") if isinstance(piece, Coded) else None


@dataclass(frozen=True)
class Sent:
    number: int
    arrival: float


def run(
    sent: list[Sent], *, first_sequence: int = 0, first_timestamp: int = 0, until: float | None = None
) -> tuple[JitterBuffer, list[tuple[float, Slice]]]:
    """Feed packets by arrival, polling every 10 ms; returns each slice with the time it came out."""
    buffer = JitterBuffer()
    out: list[tuple[float, Slice]] = []
    queue = sorted(sent, key=lambda one: one.arrival)
    now = 0.0
    end = until if until is not None else queue[-1].arrival + 0.1
    while now <= end or queue:
        while queue and queue[0].arrival <= now:
            one = queue.pop(0)
            sequence = (first_sequence + one.number) % 2**16
            timestamp = (first_timestamp + one.number * FRAME) % 2**32
            out += [(one.arrival, piece) for piece in buffer.push(sequence, timestamp, packet(one.number), one.arrival)]
        out += [(now, piece) for piece in buffer.poll(now)]
        now += 0.01
    return buffer, out


def duration(out: list[tuple[float, Slice]]) -> int:
    return sum(piece.samples for _, piece in out)


def positions(out: list[tuple[float, Slice]]) -> dict[int, int]:
    """Where (in samples from the start) each packet was put."""
    at, where = 0, {}
    for _, piece in out:
        number = number_of(piece)
        if number is not None:
            where[number] = at
        at += piece.samples
    return where


def test_in_order_packets_pass_at_once() -> None:
    _, out = run([Sent(n, 0.02 * n) for n in range(50)])
    assert [number_of(piece) for _, piece in out] == list(range(50))
    assert all(abs(when - 0.02 * index) < 1e-9 for index, (when, _) in enumerate(out))


def test_one_lost_packet_leaves_no_delay() -> None:
    buffer, out = run([Sent(n, 0.02 * n) for n in range(100) if n != 20])
    assert buffer.stats.lost == 1
    came = {number_of(piece): when for when, piece in out}
    assert came[21] - 0.42 <= 0.03  # the wait for the missing one
    assert all(abs(came[n] - 0.02 * n) < 1e-9 for n in range(25, 100))
    assert duration(out) == 100 * FRAME
    assert positions(out)[21] == 21 * FRAME


def test_a_burst_of_losses_is_filled_to_the_sample() -> None:
    _, out = run([Sent(n, 0.02 * n) for n in range(60) if not 20 <= n < 27])
    assert [piece for _, piece in out if isinstance(piece, Gap)] == [Gap(7 * FRAME)]
    assert duration(out) == 60 * FRAME


def test_swapped_packets_come_out_in_order() -> None:
    sent = [Sent(n, 0.02 * n) for n in range(40)]
    sent[10], sent[11] = Sent(10, 0.225), Sent(11, 0.22)
    buffer, out = run(sent)
    assert [number_of(piece) for _, piece in out] == list(range(40))
    assert buffer.stats.reordered == 1
    assert buffer.stats.lost == 0


def test_the_wait_grows_with_reordering_and_shrinks_again() -> None:
    buffer = JitterBuffer()
    now = 0.0
    for n in range(0, 2000, 2):  # each pair swapped, 30 ms apart
        buffer.push(n + 1, (n + 1) * FRAME, packet(n + 1), now)
        buffer.push(n, n * FRAME, packet(n), now + 0.03)
        now += 0.04
    assert buffer.wait > 0.03
    assert buffer.stats.lost < 5
    for n in range(2000, 6000):
        buffer.push(n, n * FRAME, packet(n), now)
        now += 0.02
    assert buffer.wait == 0.02


def test_a_stalled_network_loses_nothing_below_the_starvation_limit() -> None:
    _, out = run([Sent(n, max(0.02 * n, 0.58 if n >= 20 else 0)) for n in range(60)])
    assert [number_of(piece) for _, piece in out] == list(range(60))


def test_a_silence_of_dtx_is_filled_in_real_time_and_stays_exact() -> None:
    speech = [Sent(n, 0.02 * n) for n in range(20)]
    # Sequence numbers go on, timestamps jump: what a sender with DTX does. The buffer sees number * FRAME as timestamp,
    # so the jump is made by hand here.
    buffer = JitterBuffer()
    out: list[tuple[float, Slice]] = []
    for one in speech:
        out += [(one.arrival, p) for p in buffer.push(one.number, one.number * FRAME, packet(one.number), one.arrival)]
    now = 0.40
    while now < 1.38:
        now += 0.02
        out += [(now, p) for p in buffer.poll(now)]
        behind = now - (0.38 + 0.02) - (duration(out) - 20 * FRAME) / RTP_CLOCK
        assert behind < 0.23
    out += [(1.4, p) for p in buffer.push(20, 70 * FRAME, packet(20), 1.4)]
    assert duration(out) == 71 * FRAME
    assert number_of(out[-1][1]) == 20


def test_a_new_clock_of_the_sender_makes_no_gap() -> None:
    buffer = JitterBuffer()
    buffer.push(0, 0, packet(0), 0.0)
    assert buffer.push(1, 900_000_000, packet(1), 0.02) == [Coded(packet(1), FRAME)]
    assert buffer.push(2, 900_000_960, packet(2), 0.04) == [Coded(packet(2), FRAME)]
    assert buffer.push(30_000, 5, packet(3), 0.06) == [Coded(packet(3), FRAME)]
    assert buffer.push(30_001, 5 + FRAME, packet(4), 0.08) == [Coded(packet(4), FRAME)]


def test_a_copy_of_a_packet_is_dropped() -> None:
    buffer = JitterBuffer()
    buffer.push(0, 0, packet(0), 0.0)
    assert buffer.push(0, 0, packet(0), 0.001) == []
    assert buffer.stats.late == 1


def test_lengths_are_read_from_the_first_bytes() -> None:
    assert opus_samples(bytes([31 << 3])) == 960
    assert opus_samples(bytes([(3 << 3)])) == 2880
    assert opus_samples(bytes([(12 << 3) | 1])) == 960
    assert opus_samples(bytes([(28 << 3) | 3, 4])) == 480
    assert opus_samples(b"") == 0
    assert opus_samples(bytes([(3 << 3) | 3, 48])) == 0  # 2.9 s: more than a packet may hold


@given(st.integers(0, 2**40), st.integers(-(2**15) + 1, 2**15 - 1))
def test_unwrap_finds_the_nearest(near: int, step: int) -> None:
    assert unwrap((near + step) % 2**16, near, 16) == near + step


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.055)), min_size=30, max_size=120),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
)
def test_time_is_exact_under_loss_reorder_jitter_and_wrap(
    network: list[tuple[bool, float]], first_sequence: int, first_timestamp: int
) -> None:
    """Every packet handed out sits where its timestamp says, in order, and no delay lasts."""
    arrived = [n for n, (lost, _) in enumerate(network) if not lost or n in (0, len(network) - 1)]
    sent = [Sent(n, 0.02 * n + (network[n][1] if n else 0.0)) for n in arrived]
    _, out = run(sent, first_sequence=first_sequence, first_timestamp=first_timestamp, until=0.02 * len(network) + 0.15)
    where = positions(out)
    base = min(where)
    assert list(where) == sorted(where)
    assert all(at == (number - base) * FRAME for number, at in where.items())
    arrival = {one.number: one.arrival for one in sent}
    waited = [when - arrival[number] for when, piece in out if (number := number_of(piece)) is not None]
    assert max(waited) <= 0.06 + 0.011  # the longest wait, and the poll's grain


def test_the_delay_is_gone_after_the_loss_is_over() -> None:
    rng = np.random.default_rng(3)
    sent = [
        Sent(n, 0.02 * n + (rng.uniform(0, 0.05) if n < 200 else 0))
        for n in range(300)
        if n >= 200 or rng.random() > 0.2
    ]
    buffer, out = run(sent)
    came = {number_of(piece): when for when, piece in out}
    assert all(abs(came[n] - 0.02 * n) < 1e-9 for n in range(205, 300))
    assert buffer.delay == 0


def test_a_hidden_loss_keeps_the_pitch_and_fades() -> None:
    tone = (0.3 * np.sin(2 * np.pi * 200 * np.arange(3 * FRAME) / RTP_CLOCK)).astype(np.float32)
    concealer = Concealer()
    concealer.join(tone[: 2 * FRAME])
    hidden = concealer.fill(FRAME)
    expected = tone[2 * FRAME :]
    assert np.corrcoef(hidden, expected)[0, 1] > 0.95
    assert np.abs(np.diff(np.concatenate((tone[: 2 * FRAME], hidden)))).max() < 0.02  # no click
    assert np.abs(concealer.fill(4 * FRAME)[2 * FRAME :]).max() == 0


def test_a_sender_whose_clock_stands_still_in_a_pause_is_heard_after_it() -> None:
    sent = [Sent(n, 0.02 * n) for n in range(50)] + [Sent(n, 5 + 0.02 * n) for n in range(50, 100)]
    buffer, out = run(sent)
    assert [number_of(piece) for _, piece in out if isinstance(piece, Coded)] == list(range(100))
    first = next(at for at, piece in out if number_of(piece) == 50)
    assert first <= 6.08, "it takes 60 ms to tell a pause from a stall"
    assert duration(out) / RTP_CLOCK < 7.1, "and the audio clock keeps to real time but for these"
    assert buffer.stats.late == 0


def test_after_a_stall_of_the_network_what_was_spoken_meanwhile_is_dropped() -> None:
    sent = [Sent(n, 0.02 * n) for n in range(50)]
    sent += [Sent(n, max(0.02 * n, 4.0 + 0.002 * (n - 50))) for n in range(50, 300)]
    buffer, out = run(sent)
    assert buffer.stats.late > 100
    heard = [number_of(piece) for _, piece in out if isinstance(piece, Coded)]
    assert heard == [*range(50), *range(heard[50] or 0, 300)]
    assert abs(duration(out) / RTP_CLOCK - 6.0) < 0.03
