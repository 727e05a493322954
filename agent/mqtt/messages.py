"""Hermes messages that come in, as JSON on a topic, and what is wrong with those that cannot be read.

Source: Rhasspy's reference of the Hermes protocol, MQTT API (names in camelCase, `siteId` "default" where missing).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

MAX_JSON = 2**16
"""Bytes of a JSON message."""

MAX_TEXT = 4000
"""Characters to be spoken at a time."""

Component = Literal["asr", "tts", "dialogueManager"]


class HermesError(Exception):
    """A message that cannot be done; becomes a message on `hermes/error/<component>`.

    str: one line. site, session: where it belongs, as far as that is known.
    """

    def __init__(self, component: Component, message: str, site: str | None = None, session: str | None = None) -> None:
        super().__init__(message)
        self.component, self.site, self.session = component, site, session


def _named(value: object) -> object:
    return "default" if value is None else value


_LEVEL = r"^[^/+#\x00-\x1f\x7f]+$"
"""What can be one level of a topic."""

Name = Annotated[str, Field(max_length=128, pattern=_LEVEL)]
SiteId = Annotated[Name, BeforeValidator(_named)]
SessionId = Annotated[str, Field(max_length=128)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Data = Annotated[str, Field(max_length=8192)]


class Hermes(BaseModel):
    """Base of all: unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    site_id: SiteId = "default"


class Init(BaseModel):
    """How a session begins. notification: says its text and ends."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    type: Literal["action", "notification"] = "action"
    text: Text | None = None
    can_be_enqueued: bool | None = True
    send_intent_not_recognized: bool | None = False


class StartSession(Hermes):
    """Begin a session; one at a time on a site."""

    init: Init
    custom_data: Data | None = None
    lang: str | None = Field(None, max_length=64)


class ContinueSession(Hermes):
    """Say something in a session, and listen again."""

    session_id: SessionId
    text: Text | None = None
    custom_data: Data | None = None
    send_intent_not_recognized: bool | None = None


class EndSession(Hermes):
    """Say something, if anything, and end the session."""

    session_id: SessionId
    text: Text | None = None
    custom_data: Data | None = None


class Detected(Hermes):
    """A wake word was heard."""

    model_id: str | None = Field(None, max_length=256)
    lang: str | None = Field(None, max_length=64)


class StartListening(Hermes):
    """Transcribe the next utterance of a site."""

    session_id: SessionId | None = None
    wakeword_id: str | None = Field(None, max_length=256)
    stop_on_silence: bool | None = True
    send_audio_captured: bool | None = False
    lang: str | None = Field(None, max_length=64)


class StopListening(Hermes):
    """The utterance is over."""

    session_id: SessionId | None = None


class AsrToggle(Hermes):
    """Do not listen on a site for a reason, or listen again as far as that reason goes."""

    reason: Literal["", "dialogueSession", "playAudio", "ttsSay"] | None = ""


class Say(Hermes):
    """Speak a text on a site."""

    text: Text
    id: Name | None = None
    session_id: SessionId | None = None
    volume: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    lang: str | None = Field(None, max_length=64)


class PlayFinished(BaseModel):
    """A site has played a sound to its end."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, max_length=256)


class GetVoices(Hermes):
    """Which voices are there?"""

    id: str | None = Field(None, max_length=256)


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], payload: bytes, component: Component) -> M:
    """A message of a kind. Raises HermesError, which names the site and session where they can be read."""
    if len(payload) > MAX_JSON:
        raise HermesError(component, f"the message has {len(payload)} bytes: at most {MAX_JSON} are taken")
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        raise HermesError(component, "the message is not valid JSON") from None
    if not isinstance(fields, dict):
        raise HermesError(component, "the message is not a JSON object")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in fault["loc"])[:200] or "message"
        site, session = _short(fields.get("siteId")), _short(fields.get("sessionId"))
        raise HermesError(component, f"{where}: {fault['msg'][:400]}", site, session) from None


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= 128 else None
