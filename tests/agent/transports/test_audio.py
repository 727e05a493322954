"""Both audio directions of a call, without a network: the paced track out, Opus packets in."""

import asyncio
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs.opus import OpusEncoder
from aiortc.mediastreams import MediaStreamError

from speechgpt_gen.agent.transports.jitter import FRAME, Coded, Gap, opus_samples
from speechgpt_gen.agent.transports.receive import AudioReceiver, OpusStream
from speechgpt_gen.agent.transports.track import PlayoutTrack
from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.engine.tones import decode_words, word_tone
from speechgpt_gen.streaming.playout import Playout
from speechgpt_gen.streaming.resample import resample


async def take(track: PlayoutTrack, clock: VirtualClock, frames: int) -> list[tuple[float, av.Packet]]:
    """Packets as a sender takes them, with the time at which each came."""
    out: list[tuple[float, av.Packet]] = []

    async def send() -> None:
        for _ in range(frames):
            packet = await track.recv()
            out.append((clock.now(), packet))

    sender = asyncio.create_task(send())
    await clock.advance(frames * 0.02)
    await sender
    return out


def audio_of(sent: list[tuple[float, av.Packet]]) -> np.ndarray:
    """What a receiver decodes, at 48 kHz."""
    stream = OpusStream()
    return np.concatenate([stream.decode(Coded(bytes(packet), FRAME)) for _, packet in sent])


async def test_the_track_is_paced_by_its_clock_and_silent_when_idle() -> None:
    clock = VirtualClock()
    track = PlayoutTrack(Playout(), clock)
    out = await take(track, clock, 50)
    assert [round(when / 0.02) for when, _ in out] == list(range(50))
    assert [packet.pts for _, packet in out] == [FRAME * n for n in range(50)]
    assert all(packet.time_base == Fraction(1, 48_000) for _, packet in out)
    assert all(opus_samples(bytes(packet)) == FRAME for _, packet in out)
    assert np.abs(audio_of(out)).max() == 0


async def test_what_leaves_the_track_is_what_playout_held() -> None:
    clock, playout = VirtualClock(), Playout()
    track = PlayoutTrack(playout, clock)
    for word in (1, 2, 3):
        playout.push(1, word_tone(word))
    playout.end(1)
    out = await take(track, clock, 80)
    assert decode_words(audio_of(out), 48_000) == [1, 2, 3]
    assert playout.heard(1) == 3 * 8000


async def test_nothing_is_pulled_ahead_of_the_listener() -> None:
    clock, playout = VirtualClock(), Playout()
    track = PlayoutTrack(playout, clock)
    playout.push(1, np.zeros(16_000, np.float32))
    await take(track, clock, 25)
    assert playout.heard(1) == 25 * 320


async def test_speech_arrives_soon_and_as_it_was(speechlike: Callable[..., np.ndarray]) -> None:
    clock, playout, voice = VirtualClock(), Playout(), speechlike(2.0)
    playout.push(1, voice)
    heard = resample(audio_of(await take(PlayoutTrack(playout, clock), clock, 100)), 48_000, 16_000)
    lags = np.correlate(heard[:-320], voice[: -320 - 320], "valid")
    lag = int(lags.argmax())
    error = heard[lag : lag + 30_000] - voice[:30_000]
    assert lag <= 0.005 * 16_000
    assert np.square(error).mean() < 0.05 * np.square(voice).mean()


async def test_after_a_gap_the_clock_restarts_without_a_burst() -> None:
    clock = VirtualClock()
    track = PlayoutTrack(Playout(), clock)
    await take(track, clock, 5)
    await clock.advance(3.0)
    out = await take(track, clock, 10)
    assert round((out[-1][0] - out[0][0]) / 0.02) == 9
    assert out[0][1].pts == FRAME * 155  # the listener's time went on


async def test_a_stopped_track_ends() -> None:
    track = PlayoutTrack(Playout(), VirtualClock())
    track.stop()
    with pytest.raises(MediaStreamError):
        await track.recv()


def packets(pcm: np.ndarray) -> list[bytes]:
    """Opus packets of 20 ms as a sender makes them; pcm at 48 kHz."""
    encoder = OpusEncoder()
    out: list[bytes] = []
    for start in range(0, len(pcm) - FRAME + 1, FRAME):
        coded = (pcm[start : start + FRAME] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(coded[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, start
        out += encoder.encode(frame)[0]
    return out


def speech() -> np.ndarray:
    """Words one to four at 48 kHz."""
    words = np.concatenate([word_tone(number) for number in (1, 2, 3, 4)])
    return np.interp(np.arange(len(words) * 3) / 3, np.arange(len(words)), words).astype(np.float32)


@pytest.mark.parametrize("loss", [0.0, 0.05])
async def test_words_survive_loss_reorder_and_jitter(loss: float) -> None:
    clock = VirtualClock()
    heard: list[np.ndarray] = []
    receiver = AudioReceiver(heard.append, clock)
    rng = np.random.default_rng(1)
    coded = packets(speech())
    arrivals = sorted(
        (n * 0.02 + rng.uniform(0, 0.04), n)
        for n in range(len(coded))
        if n in (0, len(coded) - 1) or rng.random() >= loss
    )
    for when, number in arrivals:
        while clock.now() + 0.02 < when:
            await clock.advance(0.02)
            receiver.tick()
        await clock.advance(when - clock.now())
        receiver.receive((65_530 + number) % 2**16, (2**32 - 9000 + number * FRAME) % 2**32, coded[number])
    for _ in range(6):
        await clock.advance(0.02)
        receiver.tick()
    pcm = np.concatenate(heard)
    assert (receiver.stats.lost > 0) == (loss > 0)
    assert receiver.stats.reordered > 0
    assert abs(len(pcm) - len(coded) * 320) <= 0.02 * 16_000  # time is exact up to the resampler's delay
    assert decode_words(pcm, min_ms=150) == [1, 2, 3, 4]


def test_a_broken_packet_is_hidden_and_the_next_one_decodes() -> None:
    stream = OpusStream()
    coded = packets(speech())
    for payload in coded[:10]:
        assert len(stream.decode(Coded(payload, FRAME))) == FRAME
    assert len(stream.decode(Coded(b"\xff\xff\xff", FRAME))) == FRAME
    assert len(stream.decode(Gap(3 * FRAME))) == 3 * FRAME
    assert np.abs(stream.decode(Coded(coded[14], FRAME))).max() > 0.1
