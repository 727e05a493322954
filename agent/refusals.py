"""Why a request is refused, in OpenAI's error form: a status, a code for programs, a line for people, a field."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..models.errors import AudioError, ConfigError, EngineFullError, SpeechGPTGenError, TextError
from . import metrics
from .events import EventError
from .limits import TooManySessionsError

log = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds until a caller who was one too many should try again: about one short turn of somebody else."""

Handler = Callable[[Request], Awaitable[Response]]


def refusal(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, *, param: str | None = None
) -> JSONResponse:
    """An HTTP error in the protocol's shape, in one line; 429 and 503 say when to try again."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"type": kind, "code": code, "message": " ".join(message.split()), **({"param": param} if param else {})}
    if status in (429, 503):
        headers = {"Retry-After": str(RETRY_AFTER), **(headers or {})}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


class Refused(Exception):
    """A request that is answered with an error. param: the field at fault."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    def response(self) -> Response:
        """The error as JSON."""
        return refusal(self.status, self.code, self.message, param=self.param)


def refused(error: Exception, param: str | None = None) -> Refused:
    """What an error means to the caller; `param` names the field that holds the audio. Unknown errors are raised."""
    match error:
        case Refused():
            return error
        case EventError():
            return Refused(400, error.code, error.message, error.param)
        case AudioError():
            return Refused(400, "invalid_audio", str(error), param)
        case TextError():
            return Refused(400, "invalid_value", str(error), "input")
        case TooManySessionsError():
            return Refused(429, "too_many_sessions", str(error))
        case EngineFullError():
            return Refused(503, "session_limit_reached", str(error))
        case ConfigError():
            return Refused(400, "invalid_value", str(error))
        case SpeechGPTGenError():
            return Refused(500, "engine_error", str(error))
        case HTTPException():
            return Refused(error.status_code, "malformed_form", " ".join(str(error.detail).split()))
    raise error


def answered(endpoint: str, param: str | None = None) -> Callable[[Handler], Handler]:
    """Decorate a handler: what it raises becomes an error response, and the request is counted.

    param: the field that holds the audio, named when that cannot be used.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            try:
                response = await handler(request)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception as error:
                reason = refused(error, param)
                metrics.REFUSED.labels(reason.code).inc()
                if reason.status == 500:
                    log.error("%s failed: %s", endpoint, reason.message)
                response = reason.response()
            metrics.HTTP_REQUESTS.labels(endpoint, str(response.status_code)).inc()
            return response

        return guarded

    return decorate
