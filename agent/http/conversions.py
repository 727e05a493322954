"""POST /v1/audio/conversions: a recording spoken again in another voice (zero-shot voice conversion)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from ...streaming.engine.protocol import EngineSession
from ...streaming.engine.protocol import Request as EngineRequest
from ...streaming.frames import Pcm, seconds
from ..bodies import form_fields, read_form, uploaded
from ..settings import Settings
from ..speech import sound_of
from ..voices import VoiceBook
from .files import Format, SoundFile, media_type
from .recordings import phrases, read_recording
from .speech import chosen_voice
from .work import StreamFormat, streamed_sound


class ConversionAsk(BaseModel):
    """The fields beside `file`, named as in /v1/audio/speech."""

    model: str = ""
    voice: str
    response_format: Format = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: StreamFormat = "audio"


class Conversions:
    """The endpoint."""

    def __init__(self, engine: VoiceBook, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    async def answer(self, request: Request) -> Response:
        async with read_form(request, self._settings.max_upload_bytes) as form:
            ask = form_fields(form, ConversionAsk)
            data = await uploaded(form, "file")
        voice = chosen_voice(ask.voice, self._engine, self._settings)
        pcm = await read_recording(data, self._settings.max_recording_s)
        session = await self._engine.open(voice=voice)
        return await streamed_sound(
            request,
            session=session,
            sounds=_converted(session, pcm),
            file=SoundFile(ask.response_format, ask.speed),
            media_type=media_type(ask.response_format),
            stream_format=ask.stream_format,
        )


async def _converted(session: EngineSession, pcm: Pcm) -> AsyncGenerator[Pcm, None]:
    """The recording in the session's voice, (N,) at 16 kHz: as long as it was, to a frame for each of its pieces."""
    for begin, end in phrases(pcm):
        session.begin_turn(())
        session.listen(pcm[begin:end])
        again = EngineRequest("convert", max_seconds=seconds(end - begin) + 1, max_ahead_seconds=None)
        async for piece in sound_of(session, again):
            yield piece
