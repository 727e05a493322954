"""The whole engine, without a server: first audio part by part, and how many can speak at once in real time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np

from ..engine.batched import BatchedEngine
from ..engine.protocol import Audio, EngineSession, Finished, Request
from .common import Figures, Subject, machine, peak_memory_gb, profile_table, spread

PARTS = ("transcript", "first_token", "first_unit", "first_block", "first_audio")
"""Marks of one answer, each in milliseconds since it was asked for."""
TOOK = ("queue", "prefill", "decode", "flow", "codec")
"""What the first sound took of the engine, each in milliseconds."""
SESSIONS = (1, 2, 4, 8, 16, 24, 32)
IN_TIME_MS = 200.0
_PIECE = 2560
"""Samples that a user's audio comes in: 160 ms."""


@dataclass
class _Turn:
    """One answer: when its parts came, what its first sound took of the engine, and how late its sound was for somebody
    who plays it from its first block on."""

    timings: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    late_ms: float = 0.0
    error: str | None = None


def bench_first_audio(subject: Subject) -> tuple[Figures, str]:
    """One conversation, answered in mode "direct": figures from the end of the turn on, and a profile of one turn."""
    turns = 3 if subject.quick else 30
    bundle = subject.load()
    engine = subject.engine(bundle, min(4, subject.slots))

    async def talk() -> tuple[list[_Turn], str]:
        await engine.start()
        session = await engine.open()
        made = [await _turn(session, seed, 0.6) for seed in range(turns + 2)][2:]
        loop = asyncio.get_running_loop()

        def again() -> None:
            asyncio.run_coroutine_threadsafe(_turn(session, 0, 0.6), loop).result()

        table = await asyncio.to_thread(profile_table, again, bundle.device)
        await engine.stop()
        return made, table

    made, table = asyncio.run(talk())
    good = [turn for turn in made if turn.error is None and "first_audio" in turn.timings]
    figures = _head("first-audio", subject, engine)
    figures["turns"], figures["failed"] = turns, len(made) - len(good)
    figures["parts_ms"] = {
        part: spread(values) for part in PARTS if (values := [t.timings[part] for t in good if part in t.timings])
    }
    figures["took_ms"] = {
        part: spread(values) for part in TOOK if (values := [t.parts[part] for t in good if part in t.parts])
    }
    figures["errors"] = sorted({turn.error for turn in made if turn.error})
    return figures, table


def bench_sessions(subject: Subject) -> tuple[Figures, str]:
    """More and more conversations that speak at once: first audio, late blocks, and how evenly they were served."""
    bundle = subject.load()
    counts = [count for count in SESSIONS if count <= subject.slots]
    seconds = 0.6 if subject.quick else 5.0
    engine = subject.engine(bundle, counts[-1])

    async def talk() -> list[Figures]:
        await engine.start()
        rows = []
        for count in counts:
            sessions = [await engine.open() for _ in range(count)]
            turns = await asyncio.gather(
                *(
                    _turn(session, number, seconds, delay=number / count, ahead=1.0)
                    for number, session in enumerate(sessions)
                )
            )
            for session in sessions:
                await session.close()
            rows.append(_row(count, turns))
        await engine.stop()
        return rows

    rows = asyncio.run(talk())
    able = [row["sessions"] for row in rows if row["in_time"]]
    figures = _head("sessions", subject, engine)
    figures["seconds_each"], figures["rows"], figures["in_real_time"] = seconds, rows, max(able, default=0)
    return figures, ""


def _row(count: int, turns: list[_Turn]) -> Figures:
    firsts = [turn.timings["first_audio"] for turn in turns if "first_audio" in turn.timings]
    totals = [turn.timings["total"] for turn in turns if "total" in turn.timings]
    failed = sum(turn.error is not None for turn in turns)
    first = spread(firsts) if firsts else None
    late = max(turn.late_ms for turn in turns)
    return {
        "sessions": count,
        "failed": failed,
        "first_audio_ms": first,
        "latest_block_ms": round(late, 1),
        # The slowest answer's time over the quickest's: 1 is even-handed.
        "unevenness": round(max(totals) / max(min(totals), 1e-9), 3) if totals else None,
        "in_time": not failed and first is not None and first["p95"] <= IN_TIME_MS and late <= 0,
    }


async def _turn(
    session: EngineSession, seed: int, seconds: float, delay: float = 0.0, ahead: float | None = None
) -> _Turn:
    """Say something to a session, then hear its answer out."""
    turn = _Turn()
    noise = (0.05 * np.random.default_rng(seed).standard_normal(5 * _PIECE + 100)).astype(np.float32)
    await asyncio.sleep(delay)
    session.begin_turn([])
    for start in range(0, len(noise), _PIECE):
        session.listen(noise[start : start + _PIECE])
        await asyncio.sleep(0.03)  # understood by and by, as a live turn would be, if not at its pace
    request = Request(mode="direct", seed=seed, max_seconds=seconds, max_ahead_seconds=ahead)
    began: float | None = None
    async for output in session.generate(request):
        if isinstance(output, Audio):
            now = time.perf_counter()
            began = now if began is None else began
            turn.late_ms = max(turn.late_ms, 1000 * (now - began - 0.02 * output.start_frame))
        if isinstance(output, Finished):
            turn.timings, turn.parts, turn.error = output.timings, output.parts, output.error
    return turn


def _head(name: str, subject: Subject, engine: BatchedEngine) -> Figures:
    return {
        "bench": name,
        "model": subject.model,
        "precision": subject.weights,
        "kv_cache": subject.kv_cache or "as the weights",
        "machine": machine(subject.device),
        "capture_s": round(engine.capture_seconds, 2),
        "peak_memory_gb": peak_memory_gb(engine.device),
    }
