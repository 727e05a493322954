"""The MQTT door: which messages are read, and whom they concern."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from pydantic import TypeAdapter, ValidationError

from ...models.errors import ConfigError
from ...streaming.clock import Clock
from ...streaming.vad import Vad
from .. import metrics
from ..settings import Settings
from ..speech import Phrases
from ..voices import VoiceBook
from .address import broker_of
from .desk import Desk, Out
from .link import Link
from .messages import (
    AsrToggle,
    Component,
    ContinueSession,
    Detected,
    EndSession,
    GetVoices,
    HermesError,
    Init,
    Name,
    PlayFinished,
    Say,
    StartListening,
    StartSession,
    StopListening,
    parse,
)
from .orders import Continue, End
from .site import Site

log = logging.getLogger(__name__)

MAX_SITES = 256
"""Sites that are remembered; the one that was idle for longest is forgotten."""

ROLES = ("asr", "tts", "dialogue")

_LISTEN = ["hermes/asr/startListening", "hermes/asr/stopListening", "hermes/asr/toggleOn", "hermes/asr/toggleOff"]
_FINISHED = "hermes/audioServer/+/playFinished"
_TOPICS = {
    "asr": _LISTEN,
    "tts": ["hermes/tts/say", "rhasspy/tts/getVoices", _FINISHED],
    "dialogue": [
        *_LISTEN,
        *(f"hermes/dialogueManager/{order}Session" for order in ("start", "continue", "end")),
        "hermes/hotword/+/detected",
        _FINISHED,
    ],
}
_SOUND = ["hermes/audioServer/+/audioFrame", "hermes/audioServer/+/+/audioSessionFrame"]

_NAME: TypeAdapter[str] = TypeAdapter(Name)


class MqttDoor:
    """Serves satellites over a broker, from `open` to `close`.

    link: the way to the broker; None makes the connection that the settings name. vad: makes detectors of speech.
    Raises ConfigError for settings that cannot work.
    """

    def __init__(
        self,
        engine: VoiceBook,
        settings: Settings,
        clock: Clock,
        phrases: Phrases,
        *,
        link: Out | None = None,
        vad: Callable[[], Vad] | None = None,
    ) -> None:
        unknown = [role for role in settings.mqtt_roles if role not in ROLES]
        if unknown or not settings.mqtt_roles:
            raise ConfigError(f"mqtt_roles: {', '.join(unknown) or 'none'} is no role: choose of {', '.join(ROLES)}")
        self._roles = set(settings.mqtt_roles)
        self._link: Link | None = None
        if link is None:
            broker = broker_of(settings)
            link = self._link = Link(broker, clock, self.take, self._topics(), f"{broker.identifier}/status")
        self._desk = Desk(engine, settings, clock, phrases, link, vad)
        self._sites: OrderedDict[str, Site] = OrderedDict()

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._desk.link.connected

    async def open(self) -> None:
        """Connect to the broker; it may come later."""
        if self._link is not None:
            self._link.open()

    async def close(self) -> None:
        """End every session, tell so, and part from the broker."""
        await asyncio.gather(*(site.close() for site in self._sites.values()))
        if self._link is not None:
            await self._link.close()

    def take(self, topic: str, payload: bytes) -> None:
        """One message from the broker."""
        if self._desk.is_echo(topic, payload):
            return
        component: Component = "dialogueManager"
        if topic.startswith(("hermes/asr/", "hermes/audioServer/")):
            component = "asr"
        elif "/tts/" in topic:
            component = "tts"
        try:
            self._route(topic, payload, component)
        except HermesError as error:
            self._desk.complain(error, topic[:256])
        except Exception:
            log.exception("a Hermes message made us stumble")
            metrics.ERRORS.labels("internal").inc()
            self._desk.complain(HermesError(component, "something went wrong inside the server"), topic[:256])

    def _topics(self) -> list[tuple[str, int]]:
        spoken = sorted({topic for role in self._roles for topic in _TOPICS[role]})
        sound = _SOUND if self._roles & {"asr", "dialogue"} else []
        return [(topic, 1) for topic in spoken] + [(topic, 0) for topic in sound]

    def _route(self, topic: str, payload: bytes, component: Component) -> None:
        match topic.split("/"):
            case ["hermes", "audioServer", name, "audioFrame"]:
                if (site := self._known(name)) is not None:
                    site.hear(payload)
            case ["hermes", "audioServer", name, session, "audioSessionFrame"]:
                if (site := self._known(name)) is not None:
                    site.hear(payload, session)
            case ["hermes", "audioServer", name, "playFinished"]:
                finished = parse(PlayFinished, payload, "tts")
                if (site := self._known(name)) is not None:
                    site.player.finished(finished.id or "")
            case ["hermes", "asr", "startListening"]:
                listening = parse(StartListening, payload, component)
                if "asr" in self._roles and (site := self._site(listening.site_id)):
                    site.start_listening(listening)
            case ["hermes", "asr", "stopListening"]:
                stopping = parse(StopListening, payload, component)
                if (site := self._known(stopping.site_id)) is not None:
                    site.stop_listening(stopping)
            case ["hermes", "asr", "toggleOn" | "toggleOff" as way]:
                toggle = parse(AsrToggle, payload, component)
                if site := self._site(toggle.site_id):
                    site.toggle(toggle, way == "toggleOn")
            case ["hermes", "tts", "say"]:
                say = parse(Say, payload, component)
                if site := self._site(say.site_id):
                    site.say(say)
            case ["rhasspy", "tts", "getVoices"]:
                asked = parse(GetVoices, payload, component)
                voices = [{"voiceId": key, "description": name} for key, name in self._desk.engine.catalogue()]
                self._desk.publish("rhasspy/tts/voices", voices=voices, id=asked.id, siteId=asked.site_id)
            case ["hermes", "hotword", wakeword, "detected"]:
                detected = parse(Detected, payload, component)
                if site := self._site(detected.site_id):
                    start = StartSession(site_id=site.name, init=Init(can_be_enqueued=False), lang=detected.lang)
                    site.wake(start, wakeword)
            case ["hermes", "dialogueManager", "startSession"]:
                start = parse(StartSession, payload, component)
                if site := self._site(start.site_id):
                    site.start(start)
            case ["hermes", "dialogueManager", "continueSession"]:
                going_on = parse(ContinueSession, payload, component)
                self._order(going_on.session_id, Continue(going_on.text), going_on.custom_data)
            case ["hermes", "dialogueManager", "endSession"]:
                ending = parse(EndSession, payload, component)
                self._order(ending.session_id, End(text=ending.text), ending.custom_data)

    def _order(self, session: str, order: Continue | End, custom_data: str | None) -> None:
        for site in self._sites.values():
            if site.dialogue is not None and site.dialogue.id == session:
                site.dialogue.order(order, custom_data)
                return
        raise HermesError("dialogueManager", "there is no such session", session=session)

    def _known(self, name: str) -> Site | None:
        """A site where something has happened already."""
        return self._sites.get(name)

    def _site(self, name: str) -> Site | None:
        """A site, new or known; None for one that others serve."""
        wanted = self._desk.settings.mqtt_sites
        if wanted and name not in wanted:
            return None
        site = self._sites.get(name)
        if site is None:
            if len(self._sites) >= MAX_SITES:
                idle = next((other for other in self._sites.values() if not other.busy), None)
                if idle is None:
                    raise HermesError("dialogueManager", f"{MAX_SITES} sites are busy already", name)
                del self._sites[idle.name]
            site = self._sites[name] = Site(self._desk, _checked(name))
        self._sites.move_to_end(name)
        return site


def _checked(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        raise HermesError("dialogueManager", "siteId: not usable as a level of a topic") from None
