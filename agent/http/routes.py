"""The audio endpoints' addresses."""

from __future__ import annotations

from starlette.routing import Route

from ...streaming.clock import Clock
from ..refusals import answered
from ..settings import Settings
from ..voices import VoiceBook
from .conversions import Conversions
from .models import Models
from .speech import Speech
from .transcriptions import Transcriptions
from .voices import Voices


def routes(engine: VoiceBook, settings: Settings, clock: Clock) -> list[Route]:
    """All of them, for the application."""
    voices, models = Voices(engine, settings), Models(engine)
    speech, conversions = Speech(engine, settings), Conversions(engine, settings)
    transcriptions = Transcriptions(engine, settings, clock)
    return [
        Route("/v1/audio/speech", answered("speech")(speech.answer), methods=["POST"]),
        Route("/v1/audio/transcriptions", answered("transcriptions", "file")(transcriptions.answer), methods=["POST"]),
        Route("/v1/audio/conversions", answered("conversions", "file")(conversions.answer), methods=["POST"]),
        Route("/v1/voices", answered("voices")(voices.list), methods=["GET"]),
        Route("/v1/voices", answered("voices", "file")(voices.make), methods=["POST"]),
        Route("/v1/voices/{id}", answered("voices")(voices.delete), methods=["DELETE"]),
        Route("/v1/models", answered("models")(models.list), methods=["GET"]),
        Route("/v1/models/{name:path}", answered("models")(models.one), methods=["GET"]),
    ]
