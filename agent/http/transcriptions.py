"""POST /v1/audio/transcriptions: the words of a recording, at once or as they are understood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ...models.errors import EngineError
from ...streaming.clock import Clock
from ...streaming.engine.protocol import EngineSession, Finished, Generation, Transcript
from ...streaming.engine.protocol import Request as EngineRequest
from ...streaming.frames import Pcm, seconds
from ..bodies import form_fields, read_form, uploaded
from ..settings import Settings
from ..voices import VoiceBook
from .recordings import phrases, read_recording
from .work import Streamed, failure_event, server_event, while_connected

POLL = 0.1
"""Seconds between two looks at what has been understood so far."""


class TranscriptionAsk(BaseModel):
    """OpenAI's request without `file`. `model` may be any name; `prompt`, `temperature` and others change nothing."""

    model: str
    language: str = "en"
    response_format: Literal["json", "text", "verbose_json"] = "json"
    timestamp_granularities: list[Literal["segment"]] = []
    stream: bool = False

    @field_validator("language")
    @classmethod
    def _is_english(cls, language: str) -> str:
        if language.lower().partition("-")[0] not in ("en", "english", ""):
            raise ValueError("only English ('en') is understood")
        return language


@dataclass(frozen=True)
class Segment:
    """What was said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


class Transcriptions:
    """The endpoint."""

    def __init__(self, engine: VoiceBook, settings: Settings, clock: Clock) -> None:
        self._engine, self._settings, self._clock = engine, settings, clock

    async def answer(self, request: Request) -> Response:
        async with read_form(request, self._settings.max_upload_bytes) as form:
            ask = form_fields(form, TranscriptionAsk)
            data = await uploaded(form, "file")
        pcm = await read_recording(data, self._settings.max_recording_s)
        session = await self._engine.open()
        if ask.stream:
            return Streamed(self._events(session, pcm), "text/event-stream", session.close)
        try:
            segments = await while_connected(request.receive, _all(session, pcm))
        finally:
            await session.close()
        return _answer(ask, segments, seconds(len(pcm)))

    async def _events(self, session: EngineSession, pcm: Pcm) -> AsyncGenerator[bytes, None]:
        """OpenAI's transcript events: deltas while it is understood, then the whole."""
        text = told = ""
        try:
            async with aclosing(_growing(session, pcm, self._clock)) as growing:
                async for text in growing:
                    # What was understood may still change at its end; only what stays is told.
                    if text.startswith(told) and text != told:
                        yield server_event({"type": "transcript.text.delta", "delta": text[len(told) :]})
                        told = text
        except EngineError as error:
            yield failure_event(error)
            return
        done = {"type": "transcript.text.done", "text": text, "usage": _usage(seconds(len(pcm)))}
        yield server_event(done)


def _answer(ask: TranscriptionAsk, segments: list[Segment], length: float) -> Response:
    text = " ".join(segment.text for segment in segments if segment.text)
    if ask.response_format == "text":
        return PlainTextResponse(text + "\n")
    answer: dict[str, Any] = {"text": text, "usage": _usage(length)}
    if ask.response_format == "verbose_json":
        listed = [
            {"id": number, "start": segment.start, "end": segment.end, "text": segment.text}
            for number, segment in enumerate(segments)
        ]
        answer = {"task": "transcribe", "language": "english", "duration": length, **answer, "segments": listed}
    return JSONResponse(answer)


def _usage(length: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(length, 3)}


async def _all(session: EngineSession, pcm: Pcm) -> list[Segment]:
    segments = []
    for begin, end in phrases(pcm):
        text = await _finish(_listen(session, pcm[begin:end]))
        segments.append(Segment(seconds(begin), seconds(end), text))
    return segments


async def _growing(session: EngineSession, pcm: Pcm, clock: Clock) -> AsyncGenerator[str, None]:
    """The transcript so far, as often as it may have grown."""
    before = ""
    for begin, end in phrases(pcm):
        finishing = asyncio.create_task(_finish(_listen(session, pcm[begin:end])))
        try:
            while not finishing.done():
                tick = asyncio.create_task(clock.sleep(POLL))
                await asyncio.wait({finishing, tick}, return_when=asyncio.FIRST_COMPLETED)
                tick.cancel()
                if not finishing.done():
                    yield f"{before} {session.heard}".strip()
            before = f"{before} {finishing.result()}".strip()
            yield before
        finally:
            finishing.cancel()


def _listen(session: EngineSession, pcm: Pcm) -> Generation:
    session.begin_turn(())
    session.listen(pcm)
    return session.generate(EngineRequest("transcribe"))


async def _finish(generation: Generation) -> str:
    """The whole transcript. Raises EngineError."""
    text = ""
    async for output in generation:
        if isinstance(output, Transcript):
            text = output.text.strip()
        elif isinstance(output, Finished) and output.reason in ("failed", "cancelled"):
            raise EngineError(output.error or "the engine has stopped listening")
    return text
