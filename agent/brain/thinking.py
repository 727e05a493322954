"""One answer: what was heard goes to the brain; what comes back is spoken sentence by sentence, as it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing

from ...models.errors import EngineError, SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.engine.generation import LocalGeneration
from ...streaming.engine.protocol import (
    Audio,
    EngineSession,
    Finished,
    FunctionCall,
    Message,
    Request,
    Text,
    Transcript,
    Trouble,
    Word,
)
from ...streaming.frames import FRAME_RATE
from ..sentences import Sentences, speakable
from .chat import BrainError, ChatModel

log = logging.getLogger(__name__)

SORRY = "Sorry, I cannot think right now."
"""Said aloud when the brain fails, whose reason is told in an event."""


class Thinking:
    """The work behind one generation, whose outputs it puts there. The task that runs it is cancelled with it."""

    def __init__(self, slot: EngineSession, brain: ChatModel, clock: Clock, out: LocalGeneration) -> None:
        self._slot, self._brain, self._clock, self._out = slot, brain, clock, out
        self._request = out.request
        self._frames = 0
        self._said = False
        self._sentences: asyncio.Queue[str | BrainError | None] = asyncio.Queue()

    async def run(self, history: Sequence[Message], *, heard: bool) -> None:
        """Do it. A reply answers a history and then the request's text, or else what was `heard`; without either, the
        history's last message. The inner engine does all other requests alone."""
        try:
            if self._request.kind == "reply":
                await self._reply(history, heard=heard)
            else:
                await self._relay()
        except SpeechGPTGenError as error:
            self._out.finish("failed", " ".join(str(error).split()))
        except Exception as error:
            log.exception("an answer of the brain failed")
            self._out.finish("failed", f"internal error: {type(error).__name__}")

    async def _relay(self) -> None:
        generation = self._slot.generate(self._request)
        try:
            async for output in generation:
                if isinstance(output, Finished):
                    self._out.finish(output.reason, output.error)
                else:
                    self._out.put(output)
        finally:
            generation.cancel()

    async def _reply(self, history: Sequence[Message], *, heard: bool) -> None:
        asked = self._request.text
        if asked is None and heard:
            asked = await self._transcribe()
            if not asked.strip():
                self._out.finish("failed", "no words were heard in this turn")
                return
        if asked is not None:
            history = [*history, Message("user", asked)]
        elif not history or history[-1].role != "user":
            raise EngineError("there is nothing to answer: listen to some audio or give a text first")
        await self._answer(history)

    async def _transcribe(self) -> str:
        text = ""
        generation = self._slot.generate(Request("transcribe"))
        try:
            async for output in generation:
                if isinstance(output, Transcript):
                    text = output.text
                elif isinstance(output, Finished) and output.reason != "completed":
                    raise EngineError(output.error or "the engine has stopped listening")
        finally:
            generation.cancel()
        self._out.mark("transcript")
        self._out.put(Transcript(text, final=True))
        return text

    async def _answer(self, history: Sequence[Message]) -> None:
        reading = asyncio.create_task(self._read(history))
        try:
            whole = True
            while whole and (sentence := await self._sentences.get()) is not None:
                if isinstance(sentence, BrainError):
                    self._out.put(Trouble("brain_error", str(sentence)))
                    sentence = SORRY
                    self._out.put(Text(f" {SORRY}" if self._said else SORRY))
                if self._request.speak and speakable(sentence):
                    whole = await self._speak(sentence)
            if self._request.speak and self._said and not self._frames:
                self._out.put(Trouble("unspeakable_answer", f"{self._brain.where} answers what cannot be spoken"))
                whole = await self._speak(SORRY)
            self._out.finish("completed" if whole else "length")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, history: Sequence[Message]) -> None:
        """Cut what the brain says into sentences, ahead of the voice; last comes None, before it maybe the failure."""
        sentences = Sentences()
        try:
            async with aclosing(self._brain.answer(history, self._request)) as answer:
                async for piece in answer:
                    self._out.mark("first_token")
                    self._out.put(piece)
                    if isinstance(piece, FunctionCall):
                        continue
                    self._said = self._said or bool(piece.text.strip())
                    for sentence in sentences.push(piece.text):
                        self._sentences.put_nowait(sentence)
        except BrainError as error:
            log.warning("the brain failed: %s", error)
            self._sentences.put_nowait(error)
        except Exception as error:
            log.exception("the brain's answer could not be read")
            self._sentences.put_nowait(BrainError(f"internal error: {type(error).__name__}"))
        else:
            for sentence in sentences.flush():
                self._sentences.put_nowait(sentence)
        self._sentences.put_nowait(None)

    async def _speak(self, sentence: str) -> bool:
        """Speak one sentence behind those before; False when the answer has become too long."""
        await self._keep_ahead()
        begin = self._frames
        left = self._request.max_seconds - begin / FRAME_RATE
        if left <= 0:
            return False
        generation = self._slot.generate(
            Request("say", sentence, seed=self._request.seed, max_seconds=left, max_ahead_seconds=None)
        )
        try:
            async for output in generation:
                if isinstance(output, Word):
                    self._out.put(Word(output.text, begin + output.frame))
                elif isinstance(output, Audio):
                    self._frames = begin + output.end_frame
                    self._out.put(Audio(output.pcm, begin + output.start_frame, self._frames))
                elif isinstance(output, Finished):
                    if output.reason == "failed":
                        raise EngineError(output.error or "the engine has stopped speaking")
                    return output.reason == "completed"
        finally:
            generation.cancel()
        return False

    async def _keep_ahead(self) -> None:
        """Wait until the voice is no further ahead of the listener than the request allows."""
        ahead, since = self._request.max_ahead_seconds, self._out.audible_since
        if ahead is not None and since is not None:
            await self._clock.sleep(since + self._frames / FRAME_RATE - ahead - self._clock.now())
