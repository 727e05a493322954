"""What the engine costs: milliseconds per unit of each half, real-time factor, core-seconds per second of speech."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.errors import EngineError
from ...models.generation import BlockCutter, Listener, Speaker
from ...models.semantic.pieces import Unit
from .local import LocalEngine
from .protocol import Finished, Request

TEXT = "The chain of information says what to say first, then how it sounds, and the sound itself comes last."


@dataclass(frozen=True)
class EngineFigures:
    """One measurement, on a machine that should be otherwise quiet.

    The first group is each half alone on one thread: medians of milliseconds per unit (20 ms of speech). The second is
    the engine with both threads, one conversation, as fast as it goes: real_time_factor is seconds of work per second
    of speech (smaller is better), core_seconds_per_second the processor time of all threads; first_audio_ms the median
    from the request to its first sound, first_audio_p95_ms the 95th percentile.
    """

    model: str
    device: str
    threads: int
    turns: int
    speech_seconds: float
    listen_ms_per_unit: float
    semantic_ms_per_unit: float
    sound_ms_per_unit: float
    real_time_factor: float
    core_seconds_per_second: float
    first_audio_ms: float
    first_audio_p95_ms: float
    start_seconds: float

    def to_json(self) -> dict[str, object]:
        """Plain values, rounded to four digits after the point."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measure(
    bundle: Bundle, text: str = TEXT, turns: int = 5, heard: NDArray[np.float32] | None = None
) -> EngineFigures:
    """Measure a bundle by speaking `text` `turns` times.

    heard: a recording to listen to, float32 (N,) at 16 kHz, by default five seconds of noise. Raises TextError for text
    that cannot be spoken.
    """
    if bundle.device.type == "cpu":
        torch.set_num_threads(1)
    if heard is None:
        heard = (0.05 * np.random.default_rng(0).standard_normal(5 * 16_000)).astype(np.float32)
    listen = statistics.median(_listen(bundle, heard) for _ in range(max(2, turns)))
    halves = [_halves(bundle, text, seed) for seed in range(max(2, turns))]
    run = asyncio.run(_engine(bundle, text, turns))
    seconds = max(run.speech_seconds, 1e-9)
    return EngineFigures(
        model=bundle.info.name,
        device=str(bundle.device),
        threads=2,
        turns=turns,
        speech_seconds=run.speech_seconds,
        listen_ms_per_unit=listen,
        semantic_ms_per_unit=statistics.median(semantic for semantic, _ in halves),
        sound_ms_per_unit=statistics.median(sound for _, sound in halves),
        real_time_factor=run.wall_seconds / seconds,
        core_seconds_per_second=run.core_seconds / seconds,
        first_audio_ms=statistics.median(run.first_audio_ms),
        first_audio_p95_ms=float(np.percentile(run.first_audio_ms, 95)),
        start_seconds=run.start_seconds,
    )


class _Run(NamedTuple):
    """What the whole engine took."""

    speech_seconds: float
    wall_seconds: float
    core_seconds: float
    start_seconds: float
    first_audio_ms: list[float]


def _listen(bundle: Bundle, heard: NDArray[np.float32]) -> float:
    """Milliseconds per heard unit."""
    listener = Listener(bundle)
    listener.listen(heard)
    began = time.perf_counter()
    steps = 0
    while listener.work():
        steps += 1
    return 1000 * (time.perf_counter() - began) / (8 * max(1, steps))


def _halves(bundle: Bundle, text: str, seed: int) -> tuple[float, float]:
    """Milliseconds per spoken unit of the language model, and of flow and tokenizer; each alone."""
    listener, utterance = Listener(bundle), Speaker(bundle).open(bundle.voice(None), seed)
    began = time.perf_counter()
    units = [piece.index for piece in listener.say(text, seed=seed) if isinstance(piece, Unit)]
    semantic = time.perf_counter() - began
    cutter = BlockCutter(bundle.config.blocks)
    began = time.perf_counter()
    for unit in units:
        if (block := cutter.push(unit)) is not None:
            utterance.speak(block)
    if (block := cutter.finish()) is not None:
        utterance.speak(block)
    sound = time.perf_counter() - began
    return 1000 * semantic / max(1, len(units)), 1000 * sound / max(1, len(units))


async def _engine(bundle: Bundle, text: str, turns: int) -> _Run:
    engine = LocalEngine(bundle, slots=1)
    began = time.perf_counter()
    await engine.start()
    start = time.perf_counter() - began
    session = await engine.open()
    firsts: list[float] = []
    seconds = 0.0
    wall, cores = time.perf_counter(), time.process_time()
    for seed in range(turns):
        session.begin_turn([])
        async for output in session.generate(Request("say", text, seed=seed, max_ahead_seconds=None)):
            if isinstance(output, Finished):
                if output.error is not None:
                    raise EngineError(output.error)
                seconds += output.seconds
                firsts.append(output.timings.get("first_audio", 0.0))
    wall, cores = time.perf_counter() - wall, time.process_time() - cores
    await engine.stop()
    return _Run(seconds, wall, cores, start, firsts)
