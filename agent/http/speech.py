"""POST /v1/audio/speech: a text spoken in a voice, sent while it is made."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from ..bodies import read_json
from ..event_objects import voice_name
from ..sentences import passages
from ..session.config import known_voice
from ..settings import Settings
from ..speech import say_all
from ..voices import VoiceBook
from .files import Format, SoundFile, media_type
from .work import StreamFormat, streamed_sound

MAX_INPUT = 4096


class SpeechAsk(BaseModel):
    """OpenAI's request. `model` may be any name, there is one model; `instructions` change nothing."""

    model: str
    input: Annotated[str, Field(max_length=MAX_INPUT)]
    voice: Annotated[str, BeforeValidator(voice_name)]
    response_format: Format = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: StreamFormat = "audio"


def chosen_voice(name: str, engine: VoiceBook, settings: Settings) -> str:
    """The voice of this name; names of the hosted service take the default. Raises EventError for an unknown one."""
    voices = engine.info.voices
    return known_voice(name, voices, settings.voice or voices[0], "voice")


class Speech:
    """The endpoint."""

    def __init__(self, engine: VoiceBook, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    async def answer(self, request: Request) -> Response:
        ask = await read_json(request, SpeechAsk)
        # All of a long text takes long to judge: a call on the event loop's time would be heard by everybody.
        texts = await asyncio.to_thread(list, passages(ask.input))
        session = await self._engine.open(voice=chosen_voice(ask.voice, self._engine, self._settings))
        return await streamed_sound(
            request,
            session=session,
            sounds=say_all(session, texts),
            file=SoundFile(ask.response_format, ask.speed),
            media_type=media_type(ask.response_format),
            stream_format=ask.stream_format,
        )
