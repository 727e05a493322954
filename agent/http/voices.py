"""/v1/voices: the voices there are, new ones from three seconds of somebody who agrees, and the end of those."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..bodies import checked, form_fields, read_body, read_form, uploaded
from ..refusals import Refused
from ..settings import Settings
from ..voice_files import MAX_VOICE_SECONDS
from ..voices import VoiceBook
from .recordings import read_recording


class VoiceAsk(BaseModel):
    """consent: whether the speaker agrees that this voice is made. name: what people call it."""

    name: Annotated[str, StringConstraints(max_length=64)] = ""
    consent: bool = False


class Voices:
    """The endpoints."""

    def __init__(self, engine: VoiceBook, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    async def list(self, request: Request) -> Response:
        """GET: all voices, the default first."""
        voices = [{"id": key, "name": name} for key, name in self._engine.catalogue()]
        return JSONResponse({"object": "list", "data": voices})

    async def make(self, request: Request) -> Response:
        """POST: a form (file, name, consent), or the recording itself with name and consent in the query."""
        limit = self._settings.max_voice_bytes
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with read_form(request, limit) as form:
                ask = form_fields(form, VoiceAsk)
                _check_consent(ask)
                data = await uploaded(form, "file")
        else:
            ask = checked(dict(request.query_params), VoiceAsk)
            _check_consent(ask)
            data = await read_body(request, limit)
        name = " ".join(ask.name.split()) or "recorded voice"
        pcm = await read_recording(data, MAX_VOICE_SECONDS)
        key = await self._engine.add_voice(pcm, name)
        return JSONResponse({"id": key, "name": name}, status_code=201)

    async def delete(self, request: Request) -> Response:
        """DELETE: forget a recorded voice and its recording."""
        key = request.path_params["id"]
        if not await self._engine.delete_voice(key):
            raise Refused(404, "no_such_voice", f"there is no recorded voice {key[:80]!r}; it may be gone already")
        return Response(status_code=204)


def _check_consent(ask: VoiceAsk) -> None:
    if not ask.consent:
        raise Refused(
            400, "consent_required", "send consent=true if the speaker agrees that this voice is made", "consent"
        )
