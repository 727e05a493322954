"""POST /v1/realtime/client_secrets: a key for a browser, good for some minutes and for one kind of session."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..streaming.engine.protocol import Engine
from .bodies import read_body
from .client_events import event_error
from .event_objects import Object
from .keys import Keys
from .refusals import answered
from .session.config import first_session, updated_session
from .settings import Settings

PATH = "/v1/realtime/client_secrets"
MAX_BYTES = 2**18


class ExpiresAfter(Object):
    """How long a client secret opens new sessions; a session that was opened goes on."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(600, ge=10, le=7200)


class Wanted(Object):
    """The body of the request; `session` has the fields of session.update."""

    expires_after: ExpiresAfter = Field(default_factory=ExpiresAfter)
    session: dict[str, object] = Field(default_factory=dict)


class ClientSecrets:
    """Makes client secrets for those who have a token."""

    def __init__(self, keys: Keys, engine: Engine, settings: Settings) -> None:
        self._keys, self._engine, self._settings = keys, engine, settings

    def routes(self) -> list[BaseRoute]:
        """Routes to mount at the root of the application."""
        return [Route(PATH, answered("client_secrets")(self._create), methods=["POST"])]

    async def _create(self, request: Request) -> Response:
        body = await read_body(request, MAX_BYTES)
        try:
            wanted = Wanted.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise event_error(error) from None
        info = self._engine.info
        first = first_session(self._settings, info.name, self._settings.voice or info.voices[0])
        session = updated_session(first, wanted.session, info)
        seconds = wanted.expires_after.seconds
        return JSONResponse(
            {
                "value": self._keys.issue(wanted.session, seconds),
                "expires_at": int(time.time()) + seconds,
                "session": session.model_dump(),
            }
        )
