"""An engine without models: it hears a configured transcript and answers in numbered words, exactly the same each time.

For everything above the engine: sessions, transports, the page. `tones.decode_words` reads a recording of it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from num2words import num2words
from numpy.typing import NDArray

from ...models.errors import AudioError, ConfigError, EngineError, EngineFullError, TextError
from ...models.semantic.pieces import Message
from ...models.semantic.text import normalise
from .protocol import Audio, EngineInfo, Finished, FinishReason, Output, Request, Text, Transcript, Voice, Word
from .tones import FRAME, MAX_WORD, WORD_FRAMES, word_tone

if TYPE_CHECKING:
    from ..clock import Clock

BLOCK_FRAMES = 5
HEARD_WORD_FRAMES = 20


class FakeEngine:
    """Speaks "one two three ..." of `words` words, half a second each, whatever it is asked; "convert" speaks as many
    of them as the turn had half seconds, without a word of text.

    transcript: what every turn with any audio is heard as; one more of its words is heard per 0.4 s listened, the
    whole at the end of the turn. delay: seconds of `clock` from generate() to the first answer output. pace: seconds
    of `clock` per second of sound (0: all at once; 1: real time). fail_at: number of the word at which every
    generation fails (None: never). parts: what every answer says its first sound took.
    Without a clock nothing is waited for and every timing is 0.
    """

    def __init__(
        self,
        words: int = 10,
        slots: int = 4,
        transcript: str = "hello",
        delay: float = 0.0,
        *,
        pace: float = 0.0,
        clock: Clock | None = None,
        voices: tuple[str, ...] = ("first", "second"),
        fail_at: int | None = None,
        parts: Mapping[str, float] | None = None,
    ) -> None:
        self.words = words
        self.transcript = transcript
        self.delay = delay
        self.pace = pace
        self.clock = clock
        self.fail_at = fail_at
        self.parts = parts or {}
        self._info = EngineInfo("fake", slots, voices)
        self._sessions: set[FakeSession] = set()
        self._ids = count(1)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def in_use(self) -> int:
        return len(self._sessions)

    @property
    def sessions(self) -> tuple[FakeSession, ...]:
        """The open sessions, for tests that look at what they were given."""
        return tuple(self._sessions)

    async def start(self) -> None:
        """There is nothing to load."""

    async def stop(self) -> None:
        for session in list(self._sessions):
            await session.close()

    async def open(self, *, voice: str | Voice | None = None) -> FakeSession:
        if len(self._sessions) >= self._info.slots:
            raise EngineFullError(f"all {self._info.slots} slots are taken: try again when somebody has hung up")
        session = FakeSession(self, next(self._ids), self._sessions.discard)
        session.set_voice(voice if voice is not None else self._info.voices[0])
        self._sessions.add(session)
        return session

    async def make_voice(self, pcm: NDArray[np.float32], name: str) -> Voice:
        frames = len(pcm) // FRAME
        if frames < 25 or not np.isfinite(pcm).all():
            raise AudioError(f"voice {name!r} has {len(pcm) / 16_000:.2f} s of usable audio: record at least 0.5 s")
        return Voice(name, torch.zeros(frames, dtype=torch.int64), torch.zeros(frames, 1))

    def next_id(self) -> int:
        """The next generation's id."""
        return next(self._ids)


class FakeSession:
    """One slot of a FakeEngine. Shows what it was given: `voice`, `history`, `samples` listened in this turn."""

    def __init__(self, engine: FakeEngine, number: int, closed: Callable[[FakeSession], None]) -> None:
        self.number = number
        self.history: tuple[Message, ...] = ()
        self.samples = 0
        self.voice: str | Voice = ""
        self.requests: list[Request] = []
        self._engine = engine
        self._closed: Callable[[FakeSession], None] | None = closed
        self._generation: FakeGeneration | None = None

    @property
    def heard(self) -> str:
        words = self._engine.transcript.split()
        return " ".join(words[: self.samples // FRAME // HEARD_WORD_FRAMES])

    def begin_turn(self, history: Sequence[Message]) -> None:
        self._check_open()
        self._cancel()
        self.history = tuple(history)
        self.samples = 0

    def listen(self, pcm: NDArray[np.float32]) -> None:
        self._check_open()
        if not np.isfinite(pcm).all():
            raise AudioError("the audio holds NaN or infinite samples: repair it first")
        self.samples += len(pcm)

    def generate(self, request: Request) -> FakeGeneration:
        self._check_open()
        self._cancel()
        self.requests.append(request)
        transcript = self._engine.transcript if self.samples else ""
        self._generation = FakeGeneration(self._engine, request, transcript, self.history, self.samples)
        return self._generation

    def set_voice(self, voice: str | Voice) -> None:
        names = self._engine.info.voices
        if isinstance(voice, str) and voice not in names:
            raise ConfigError(f"unknown voice {voice!r}: choose one of {', '.join(names)}")
        self.voice = voice

    async def close(self) -> None:
        self._cancel()
        if self._closed is not None:
            self._closed(self)
            self._closed = None

    def _cancel(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    def _check_open(self) -> None:
        if self._closed is None:
            raise EngineError("this engine session is closed: open another")


class FakeGeneration:
    """One answer of a FakeSession; nothing is computed before it is iterated."""

    def __init__(
        self, engine: FakeEngine, request: Request, transcript: str, history: Sequence[Message], samples: int
    ) -> None:
        self.id = engine.next_id()
        self._engine = engine
        self._request = request
        self._transcript = transcript
        self._heard_frames = -(-samples // FRAME)
        self._answers_history = bool(history) and history[-1].role == "user"
        self._cancelled = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began = self._now()
        self._timings: dict[str, float] = {}
        self._frames = 0
        self._whole = True

    def cancel(self) -> None:
        # The event is set on its own loop: asyncio's events are not safe to touch from elsewhere.
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._cancelled.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancelled.set)

    async def __aiter__(self) -> AsyncIterator[Output]:
        reason: FinishReason = "completed"
        error = None
        try:
            async for output in self._speak():
                # Even without a clock every output gives others a turn, as a real engine's would.
                await self._wait(0.0)
                if self._cancelled.is_set():
                    break
                yield output
        except (EngineError, TextError) as failure:
            reason, error = "failed", str(failure)
        if self._cancelled.is_set():
            reason, error = "cancelled", None
        elif reason == "completed" and not self._whole:
            reason = "length"
        self._mark("total")
        parts = dict(self._engine.parts)
        yield Finished(reason, error, dict(self._timings), self._frames, self._frames * 0.02, parts)

    async def _speak(self) -> AsyncIterator[Output]:
        request = self._request
        converts = request.kind == "convert"
        if self._transcript and request.kind in ("reply", "transcribe") and request.text is None:
            self._mark("transcript")
            yield Transcript(self._transcript, final=True)
        if request.kind == "transcribe":
            return
        words = self._words()
        await self._wait(self._engine.delay)
        self._mark("first_token")
        if not converts and (request.mode == "text" or request.kind == "say" or not request.speak):
            for index, word in enumerate(words):
                yield Text(word if index == 0 else " " + word)
        if not request.speak:
            return
        for number, word in enumerate(words, 1):
            if number == self._engine.fail_at:
                raise EngineError(f"the fake engine fails at word {number}, as it was told")
            if request.mode == "direct" and request.kind == "reply":
                yield Text(word if number == 1 else " " + word)
            if not converts:
                yield Word(word, self._frames)
            self._mark("first_unit")
            tone = word_tone((number - 1) % MAX_WORD + 1)
            for start in range(0, WORD_FRAMES, BLOCK_FRAMES):
                if converts and self._frames >= self._heard_frames:
                    return
                if self._frames >= self._limit():
                    self._whole = False
                    return
                await self._wait(self._engine.pace * BLOCK_FRAMES * 0.02)
                if self._cancelled.is_set():
                    return
                self._mark("first_block")
                self._mark("first_audio")
                begin = self._frames
                size = min(BLOCK_FRAMES, self._heard_frames - begin) if converts else BLOCK_FRAMES
                self._frames += size
                pcm = tone[start * FRAME : (start + size) * FRAME]
                yield Audio(pcm, begin, self._frames)

    def _words(self) -> list[str]:
        request = self._request
        if request.kind == "convert":
            if not self._heard_frames:
                raise EngineError("there is nothing to convert: listen to some audio first")
            return [num2words(number) for number in range(1, -(-self._heard_frames // WORD_FRAMES) + 1)]
        if request.kind == "say":
            words = (request.text or "").split()
            normalise(request.text or "")
            return words
        if request.text is None and not self._transcript and not self._answers_history:
            raise EngineError("there is nothing to answer: listen to some audio or give a text first")
        return [num2words(number) for number in range(1, self._engine.words + 1)]

    def _limit(self) -> int:
        return int(self._request.max_seconds * 50)

    async def _wait(self, seconds: float) -> None:
        """Let `seconds` of the clock pass, or less if the generation is cancelled meanwhile."""
        if self._engine.clock is None or seconds <= 0:
            await asyncio.sleep(0)
            return
        sleep = asyncio.ensure_future(self._engine.clock.sleep(seconds))
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({sleep, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            cancelled.cancel()

    def _now(self) -> float:
        return self._engine.clock.now() if self._engine.clock is not None else 0.0

    def _mark(self, name: str) -> None:
        self._timings.setdefault(name, 1000 * (self._now() - self._began))
