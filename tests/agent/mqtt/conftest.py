"""Satellites without a broker: the door, a virtual clock, and what was published when."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen.agent.mqtt.door import MqttDoor
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.speech import Phrases
from speechgpt_gen.agent.voices import VoiceBook
from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words, word_tone

Pcm = NDArray[np.float32]


class EnergyVad:
    """Speech is what is loud: exact to the frame."""

    window: ClassVar[int] = 320

    def speech(self, pcm: Pcm) -> float:
        return float(np.abs(pcm).max() > 0.01)

    def reset(self) -> None:
        """Remembers nothing."""


def wav_of(pcm: Pcm, rate: int = 16_000) -> bytes:
    """A WAV message of 16 bits mono."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(pcm * 32767).astype("<i2").tobytes())
    return target.getvalue()


def sound_of(data: bytes) -> Pcm:
    """The sound of a WAV message, which must be 16 kHz, 16 bits, mono."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16_000, 2, 1)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


class House:
    """A door with a fake engine, and satellites that play what they get and say so."""

    def __init__(self, engine: FakeEngine, clock: VirtualClock, *, tells: bool = True, **settings: Any) -> None:
        self.engine, self.clock, self.tells = engine, clock, tells
        self.connected = True
        self.sent: list[tuple[float, str, bytes]] = []
        self.phrases = Phrases()
        self.phrases.wait, self.phrases.sorry = word_tone(99), word_tone(98)
        self._held: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._players: set[asyncio.Task[None]] = set()
        self.door = MqttDoor(
            VoiceBook(engine, 4),
            Settings(mqtt="mqtt://test", **settings),
            clock,
            self.phrases,
            link=self,
            vad=EnergyVad,
        )

    # The way to the broker ---------------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.connected:
            self._deliver(topic, payload, done)
        else:
            self._held.append((topic, payload, done))
        return done

    def reconnect(self) -> None:
        self.connected = True
        for held in self._held:
            if not held[2].done():
                self._deliver(*held)
        self._held.clear()

    def _deliver(self, topic: str, payload: bytes, done: asyncio.Future[None]) -> None:
        done.set_result(None)
        self.sent.append((self.clock.now(), topic, payload))
        self.door.take(topic, payload)  # a broker sends to everybody who reads the topic, also to who wrote it
        if "/playBytes/" in topic and self.tells:
            task = asyncio.ensure_future(self._play(topic, payload))
            self._players.add(task)
            task.add_done_callback(self._players.discard)

    async def _play(self, topic: str, payload: bytes) -> None:
        await self.clock.sleep(len(sound_of(payload)) / 16_000)
        _, _, site, _, id = topic.split("/")
        self.tell(f"hermes/audioServer/{site}/playFinished", id=id)

    # What satellites do ------------------------------------------------------------------------------------------

    def tell(self, topic: str, **fields: Any) -> None:
        self.door.take(topic, json.dumps(fields).encode())

    async def wake(self, site: str = "default", word: str = "computer") -> None:
        self.tell(f"hermes/hotword/{word}/detected", siteId=site, modelId=word)
        await self.clock.settle()

    async def say(self, *parts: float, site: str = "default", level: float = 0.1) -> None:
        """Speak, pause, speak, ...: seconds of each, in frames of 20 ms."""
        for index, seconds in enumerate(parts):
            frame = wav_of(np.full(320, 0.0 if index % 2 else level, np.float32))
            for _ in range(round(seconds * 50)):
                self.door.take(f"hermes/audioServer/{site}/audioFrame", frame)
                await self.clock.advance(0.02)

    # What came of it ---------------------------------------------------------------------------------------------

    def all(self, topic: str, site: str | None = None) -> list[dict[str, Any]]:
        """JSON messages of a topic (its last levels), of one site."""
        found = [json.loads(payload) for _, name, payload in self.sent if name.endswith(topic)]
        return [message for message in found if site in (None, message.get("siteId"))]

    def one(self, topic: str, site: str | None = None) -> dict[str, Any]:
        (message,) = self.all(topic, site)
        return message

    def pieces(self, site: str = "default") -> list[tuple[float, Pcm]]:
        """When a site was sent sound, and what."""
        begin = f"hermes/audioServer/{site}/playBytes/"
        return [(time, sound_of(payload)) for time, topic, payload in self.sent if topic.startswith(begin)]

    def words(self, site: str = "default") -> list[int]:
        """The numbered words that a site was sent."""
        pieces = self.pieces(site)
        return decode_words(np.concatenate([pcm for _, pcm in pieces])) if pieces else []

    @property
    def topics(self) -> list[str]:
        """Topics in order, without the ids of sounds; repeated ones once."""
        found: list[str] = []
        for _, topic, _ in self.sent:
            name = topic.rpartition("/")[0] if "/playBytes/" in topic else topic
            if not found or found[-1] != name:
                found.append(name)
        return found


@pytest.fixture
async def house() -> AsyncIterator[Callable[..., House]]:
    """house(words=3, transcript="hello", slots=4, delay=0.0, fail_at=None, tells=True, **settings)."""
    houses: list[House] = []
    clock = VirtualClock()

    def build(
        words: int = 3,
        transcript: str = "hello",
        slots: int = 4,
        delay: float = 0.0,
        fail_at: int | None = None,
        **rest: Any,
    ) -> House:
        engine = FakeEngine(words, slots, transcript, delay, clock=clock, fail_at=fail_at)
        houses.append(House(engine, clock, **rest))
        return houses[-1]

    yield build
    for built in houses:
        await built.door.close()


@pytest.fixture(scope="session")
def house_class() -> type[House]:
    """The house, for tests that make their own event loop."""
    return House


@pytest.fixture(scope="session")
def energy_vad() -> type[EnergyVad]:
    """A detector for which speech is what is loud."""
    return EnergyVad


@pytest.fixture(scope="session")
def utterance() -> Callable[[float], list[bytes]]:
    """utterance(seconds): WAV messages of 20 ms of a voice, and of the silence that ends its turn."""

    def frames(seconds: float) -> list[bytes]:
        loud, still = (wav_of(np.full(320, level, np.float32)) for level in (0.1, 0.0))
        return [loud] * round(50 * seconds) + [still] * 40

    return frames


@pytest.fixture(scope="session", name="sound_of")
def _sound_of() -> Callable[[bytes], Pcm]:
    """sound_of(wav): the sound of a message."""
    return sound_of
