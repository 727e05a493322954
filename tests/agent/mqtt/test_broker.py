"""Against a real mosquitto: sessions, a broker that is killed and comes back, passwords, TLS and the last will."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiomqtt import Client, MqttError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from speechgpt_gen.agent.mqtt import link
from speechgpt_gen.agent.mqtt.door import MqttDoor
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.speech import Phrases
from speechgpt_gen.agent.voices import VoiceBook
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.clock import Clock, RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed (Debian: apt install mosquitto)")

LIMIT = 60


async def until(true: Callable[[], Any]) -> None:
    """Wait for what has no event to wait for."""
    async with asyncio.timeout(LIMIT):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Broker:
    """A mosquitto of its own on a free port."""

    def __init__(self, folder: Path, *config: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(["user root", f"listener {self.port} 127.0.0.1", *config, ""]))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(self._config), stderr=asyncio.subprocess.DEVNULL
        )
        await until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class Satellite:
    """A microphone and a loudspeaker on the broker, which connects again as often as it must."""

    def __init__(self, broker: Broker, site: str, **options: Any) -> None:
        self.site = site
        self.plays = True
        self.connections = 0
        self.seen: list[tuple[str, bytes]] = []
        self._broker, self._options = broker, options
        self._client: Client | None = None
        self._changed = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._life = asyncio.create_task(self._live())

    async def close(self) -> None:
        for task in (self._life, *self._telling):
            task.cancel()
        await asyncio.gather(self._life, *self._telling, return_exceptions=True)

    async def _live(self) -> None:
        while True:
            try:
                async with Client("127.0.0.1", self._broker.port, **self._options) as client:
                    await client.subscribe([("hermes/#", 1), ("+/status", 1)])
                    self._client = client
                    self.connections += 1
                    self._changed.set()
                    async for message in client.messages:
                        self._take(str(message.topic), message.payload)
            except MqttError:
                self._client = None
                await asyncio.sleep(0.05)

    def _take(self, topic: str, payload: Any) -> None:
        self.seen.append((topic, payload))
        self._changed.set()
        if self.plays and topic.startswith(f"hermes/audioServer/{self.site}/playBytes/"):
            # Played at once, if at all: a test need not wait for the sound.
            finished = self.send(f"hermes/audioServer/{self.site}/playFinished", {"id": topic.rpartition("/")[2]})
            self._telling.add(asyncio.create_task(finished))

    async def send(self, topic: str, payload: Any, qos: int = 1) -> None:
        async with asyncio.timeout(LIMIT):
            while True:
                if (client := self._client) is not None:
                    try:
                        await client.publish(topic, payload if isinstance(payload, bytes) else json.dumps(payload), qos)
                    except MqttError:
                        pass
                    else:
                        return
                await asyncio.sleep(0.05)

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def all(self, topic: str) -> list[dict[str, Any]]:
        mine = [json.loads(payload) for name, payload in self.seen if name.endswith(topic)]
        return [message for message in mine if message.get("siteId") == self.site]

    @property
    def seconds(self) -> float:
        """Of sound that has come."""
        begin = f"hermes/audioServer/{self.site}/playBytes/"
        return sum((len(payload) - 44) / 32_000 for topic, payload in self.seen if topic.startswith(begin))

    def words(self, sound_of: Callable[[bytes], np.ndarray]) -> list[int]:
        begin = f"hermes/audioServer/{self.site}/playBytes/"
        pieces = [sound_of(payload) for topic, payload in self.seen if topic.startswith(begin)]
        return decode_words(np.concatenate(pieces)) if pieces else []

    async def speak(self, frames: Callable[[float], list[bytes]]) -> None:
        for frame in frames(1.0):
            await self.send(f"hermes/audioServer/{self.site}/audioFrame", frame, qos=0)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """await broker(*config): a running broker."""
    brokers: list[Broker] = []

    async def start(*config: str) -> Broker:
        brokers.append(Broker(tmp_path, *config))
        await brokers[-1].start()
        return brokers[-1]

    yield start
    for each in brokers:
        await each.kill()


@pytest.fixture
async def open_door(energy_vad) -> AsyncIterator[Callable[..., Any]]:
    """await open_door(broker, engine, **settings): a door that is connected."""
    doors: list[MqttDoor] = []

    async def start(
        broker: Broker, engine: FakeEngine, wait: bool = True, clock: Clock | None = None, **settings: Any
    ) -> MqttDoor:
        settings = {"mqtt": f"mqtt://127.0.0.1:{broker.port}", "mqtt_follow_up_s": 300.0, **settings}
        door = MqttDoor(VoiceBook(engine, 2), Settings(**settings), clock or RealClock(), Phrases(), vad=energy_vad)
        doors.append(door)
        await door.open()
        await until(lambda: door.connected or not wait)
        return door

    yield start
    for door in doors:
        await door.close()


@pytest.fixture
async def satellite() -> AsyncIterator[Callable[..., Any]]:
    """await satellite(broker, site, **options): one that is connected."""
    made: list[Satellite] = []

    async def start(broker: Broker, site: str, **options: Any) -> Satellite:
        made.append(Satellite(broker, site, **options))
        await made[-1].until(lambda: made[-1]._client is not None)
        return made[-1]

    yield start
    for each in made:
        await each.close()


async def test_two_satellites_talk_at_once(broker, open_door, satellite, utterance, sound_of):
    b = await broker("allow_anonymous true")
    await open_door(b, FakeEngine(words=6, transcript="good evening"))
    kitchen, hall = await satellite(b, "kitchen"), await satellite(b, "hall")
    for each in (kitchen, hall):
        await each.send("hermes/hotword/computer/detected", {"siteId": each.site, "modelId": "computer"})
        await each.until(lambda each=each: each.all("startListening"))
        await each.speak(utterance)
    for each in (kitchen, hall):
        await each.until(lambda each=each: len(each.all("startListening")) == 2)
        assert each.words(sound_of) == [1, 2, 3, 4, 5, 6]
        assert [captured["text"] for captured in each.all("textCaptured")] == ["good evening"]
        await each.send("hermes/dialogueManager/endSession", {"sessionId": each.all("sessionStarted")[0]["sessionId"]})
        await each.until(lambda each=each: each.all("sessionEnded"))
        assert each.all("sessionEnded")[0]["termination"] == {"reason": "nominal"}
    assert not [topic for topic, _ in kitchen.seen if topic.startswith("hermes/error/")]


async def test_a_broker_killed_within_an_answer_costs_nothing_of_it_and_the_session_goes_on(
    broker, open_door, satellite, utterance, sound_of
):
    class Patient(RealClock):
        """Gives the satellite the time it needs to connect again, however busy the machine."""

        async def sleep(self, seconds: float) -> None:
            if seconds == link.SETTLE_S:
                await sat.until(lambda: sat.connections == 2)
            else:
                await super().sleep(seconds)

    b = await broker("allow_anonymous true")
    sat = await satellite(b, "kitchen")
    door = await open_door(b, FakeEngine(words=24, transcript="tell me a story"), clock=Patient())
    await sat.send("hermes/hotword/computer/detected", {"siteId": "kitchen"})
    await sat.until(lambda: sat.all("startListening"))
    sat.plays = False
    await sat.speak(utterance)
    await sat.until(lambda: sat.seconds > 0)
    await b.kill()
    await until(lambda: not door.connected)
    before = sat.seconds
    assert 0 < before < 12
    sat.plays = True
    await b.start()
    await sat.until(lambda: sat.seconds >= 12)
    assert sat.words(sound_of) == list(range(1, 25))
    await sat.until(lambda: len(sat.all("startListening")) == 2)
    await sat.speak(utterance)
    await sat.until(lambda: len(sat.all("textCaptured")) == 2)
    session = sat.all("sessionStarted")[0]["sessionId"]
    assert {captured["sessionId"] for captured in sat.all("textCaptured")} == {session}
    assert not sat.all("sessionEnded")


async def test_a_broker_that_comes_late_is_waited_for(broker, open_door, satellite):
    b = await broker("allow_anonymous true")
    await b.kill()
    door = await open_door(b, FakeEngine(), wait=False)
    await asyncio.sleep(0.3)
    assert not door.connected
    await b.start()
    sat = await satellite(b, "hall")
    await sat.until(lambda: _status(sat) == b"online")


async def test_the_last_will_tells_that_we_are_gone(broker, open_door, satellite, monkeypatch):
    clients: list[Client] = []

    def make(*args: Any, **options: Any) -> Client:
        clients.append(Client(*args, **options))
        return clients[-1]

    monkeypatch.setattr(link, "Client", make)
    b = await broker("allow_anonymous true")
    sat = await satellite(b, "hall")
    door = await open_door(b, FakeEngine(), mqtt_client_id="house")
    await sat.until(lambda: _status(sat) == b"online")
    clients[0]._client.socket().shutdown(socket.SHUT_RDWR)  # as a crash: no good-bye
    await sat.until(lambda: [data for topic, data in sat.seen if topic == "house/status"] == [b"online", b"offline"])
    await sat.until(lambda: _status(sat) == b"online")  # and it comes back by itself
    await until(lambda: door.connected)
    await door.close()
    await sat.until(lambda: _status(sat) == b"offline")


def _status(sat: Satellite) -> bytes | None:
    return next((payload for topic, payload in reversed(sat.seen) if topic.endswith("/status")), None)


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate with its key for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def build(name: str, issuer: str, public: Any, *, ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    files = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(build("house", "house", ca_key.public_key(), ca=True).public_bytes(pem))
    files[1].write_bytes(build("broker", "house", key.public_key(), ca=False).public_bytes(pem))
    files[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


async def test_tls_with_a_ca_of_ones_own_and_a_password(tmp_path, broker, open_door, satellite, caplog):
    ca, cert, key = certificates(tmp_path)
    users = tmp_path / "users"
    tool = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
    making = await asyncio.create_subprocess_exec(tool, "-b", "-c", str(users), "talker", "pä ss:w@rd")
    assert await making.wait() == 0
    b = await broker(f"certfile {cert}", f"keyfile {key}", "allow_anonymous false", f"password_file {users}")
    login = {"username": "talker", "password": "pä ss:w@rd"}
    sat = await satellite(b, "hall", **login, tls_context=ssl.create_default_context(cafile=ca))
    # User and password by settings of their own, and within the address.
    settings = {"mqtt_ca": ca, "mqtt_username": "talker", "mqtt_password": "pä ss:w@rd", "mqtt_client_id": "one"}
    await open_door(b, FakeEngine(), mqtt=f"mqtts://127.0.0.1:{b.port}", **settings)
    await sat.until(lambda: ("one/status", b"online") in sat.seen)
    address = f"mqtts://talker:p%C3%A4%20ss%3Aw%40rd@127.0.0.1:{b.port}"
    await open_door(b, FakeEngine(), mqtt=address, mqtt_ca=ca, mqtt_client_id="two")
    await sat.until(lambda: ("two/status", b"online") in sat.seen)
    # A broker whose certificate nobody has signed for us, and a wrong password: refused, told, tried again.
    strange = await open_door(b, FakeEngine(), wait=False, mqtt=address, mqtt_client_id="three")
    wrong = {**settings, "mqtt_password": "guess", "mqtt_client_id": "four"}
    guessed = await open_door(b, FakeEngine(), wait=False, mqtt=f"mqtts://127.0.0.1:{b.port}", **wrong)
    await until(lambda: "certificate verify failed" in caplog.text and "not authorized" in caplog.text.lower())
    assert not strange.connected
    assert not guessed.connected
    assert "ss:w@rd" not in caplog.text
    assert "guess" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"mqtt": "http://host"}, "mqtt://host"),
        ({"mqtt": "mqtt://host:secretport"}, "mqtt://host"),
        ({"mqtt": "mqtt://:secret@host"}, "mqtt_username"),
        ({"mqtt": "mqtt://host", "mqtt_ca": "/nowhere"}, "mqtts://"),
        ({"mqtt": "mqtts://host", "mqtt_ca": "/nowhere"}, "/nowhere"),
        ({"mqtt": "mqtt://host", "mqtt_roles": ["boss"]}, "boss"),
    ],
)
async def test_settings_that_cannot_work(settings, part):
    with pytest.raises(ConfigError, match=part) as told:
        MqttDoor(VoiceBook(FakeEngine(), 2), Settings(**settings), RealClock(), Phrases())
    assert "secret" not in str(told.value)
