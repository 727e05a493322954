"""Speech to text for one Wyoming request: sound of any format in, the transcript as it grows out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk
from wyoming.event import Event

from ...models.errors import EngineError
from ...streaming.engine.protocol import EngineSession, Finished, Request
from ...streaming.engine.protocol import Transcript as Heard
from ...streaming.frames import SAMPLE_RATE, seconds
from ...streaming.pcm import from_linear
from ...streaming.resample import StreamResampler
from .wire import WyomingError

LANGUAGE = "en"


class Listener:
    """Listens on one slot, which it closes.

    slot: takes the sound. write: sends an event. max_seconds: of one utterance.
    """

    def __init__(self, slot: EngineSession, write: Callable[[Event], Awaitable[None]], max_seconds: float) -> None:
        self._slot, self._write, self._max_seconds = slot, write, max_seconds
        self._format: tuple[int, int, int] | None = None
        self._resampler = StreamResampler(SAMPLE_RATE, SAMPLE_RATE)
        self._rest = b""
        self._samples = 0
        self._told = ""
        self._started = False
        slot.begin_turn(())

    async def hear(self, chunk: AudioChunk) -> None:
        """More sound. Raises WyomingError when there is too much of it, AudioError for a format that does not exist."""
        form = (chunk.rate, chunk.width, chunk.channels)
        if form != self._format:
            resampler = StreamResampler(chunk.rate, SAMPLE_RATE)
            self._slot.listen(self._resampler.flush())
            self._format, self._resampler, self._rest = form, resampler, b""
        data = self._rest + chunk.audio
        frame = max(1, chunk.width * chunk.channels)
        whole = len(data) - len(data) % frame
        self._rest = data[whole:]
        pcm = self._resampler.process(from_linear(data[:whole], chunk.width, chunk.channels))
        self._samples += len(pcm)
        if seconds(self._samples) > self._max_seconds:
            raise WyomingError("too-long", f"at most {self._max_seconds:g} s of speech are taken at a time")
        self._slot.listen(pcm)
        await self._tell(self._slot.heard)

    async def finish(self) -> None:
        """The utterance is over: send its transcript. Raises EngineError."""
        self._slot.listen(self._resampler.flush())
        text = self._told
        async for output in self._slot.generate(Request("transcribe")):
            if isinstance(output, Heard):
                await self._tell(output.text)
                text = output.text
            elif isinstance(output, Finished) and output.reason != "completed":
                raise EngineError(output.error or "the engine has stopped this transcription")
        if self._started:
            await self._write(TranscriptStop().event())
        await self._write(Transcript(text, language=LANGUAGE).event())

    async def close(self) -> None:
        """Free the slot."""
        await self._slot.close()

    async def _tell(self, heard: str) -> None:
        """Send what continues the words already sent; the final transcript sets the rest right."""
        if heard == self._told or not heard.startswith(self._told):
            return
        if not self._started:
            self._started = True
            await self._write(TranscriptStart(language=LANGUAGE).event())
        piece, self._told = heard[len(self._told) :], heard
        await self._write(TranscriptChunk(piece).event())
