"""The client against servers that come, go, refuse and interrupt."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection, serve

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.client.connection import Address
from speechgpt_gen.agent.client.memory import Memory
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.client import Client, Ear, Event, Playout, RefusedError, ServerError, Transport
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

Speech = Callable[..., NDArray[np.float32]]


class Server:
    """The whole application, on one port however often it starts."""

    def __init__(self, **settings: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.engine = FakeEngine(words=4, slots=2, transcript="how are you")
        self._settings = settings

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        app = create_app(self.engine, load_settings(vad="webrtc", **self._settings))
        config = uvicorn.Config(app, port=self.port, log_level="error", ws="websockets-sansio")
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        await asyncio.wait_for(app.state.server.started.wait(), 20)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = True
            await running


def client_of(url: str, **options: Any) -> Client[Playout, Ear]:
    return Client(url, Playout(), Ear(RealClock()), **options)


async def event(client: Client[Playout, Ear], kind: str, within: float = 40.0) -> Event:
    async with asyncio.timeout(within):
        while (found := await anext(client))["type"] != kind:
            pass
    return found


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_a_lost_server_is_called_again_and_told_what_was_said(transport: Transport, speechlike: Speech) -> None:
    server = Server()
    async with asyncio.timeout(120):
        async with server.up():
            client = await client_of(server.url, transport=transport).__aenter__()
            client.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief."}})
            client.microphone.push(1, speechlike(0.8))
            client.microphone.end(1)
            assert (await event(client, "response.done"))["response"]["status"] == "completed"
        try:
            trying = await event(client, "client.reconnecting")
            assert (trying["attempt"], trying["in_seconds"]) == (1, 0.5)
            assert "lost" in trying["reason"]
            assert (await event(client, "client.reconnecting"))["in_seconds"] >= 1
            async with server.up():
                await event(client, "session.created")
                session = (await event(client, "session.updated"))["session"]
                assert session["instructions"] == "Be brief."
                said = [(await event(client, "conversation.item.done"))["item"] for _ in range(2)]
                texts = [(item["role"], item["content"][0]["text"]) for item in said]
                assert texts == [("user", "how are you"), ("assistant", "one two three four")]
                client.microphone.push(2, speechlike(0.8))
                client.microphone.end(2)
                assert (await event(client, "response.done"))["response"]["status"] == "completed"
                await client.close()
                with pytest.raises(StopAsyncIteration):
                    await anext(client)
        finally:
            await client.close()


async def test_without_reconnecting_the_loss_is_raised() -> None:
    server = Server()
    async with server.up():
        client = await client_of(server.url, transport="websocket", reconnect=False).__aenter__()
        await event(client, "session.created")
    with pytest.raises(ServerError, match="lost"):
        await event(client, "never")
    await client.close()


async def test_a_session_that_the_server_ends_by_its_rules_is_over() -> None:
    server = Server(idle_timeout_s=0.3)
    async with server.up(), client_of(server.url, transport="websocket") as client:
        seen = [each async for each in client]
    assert seen[-1]["type"] == "error"
    assert seen[-1]["error"]["code"] == "session_idle"


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_a_wrong_token_is_refused_at_once(transport: Transport) -> None:
    server = Server(token="right")
    async with server.up():
        with pytest.raises(RefusedError, match="token"):
            await client_of(server.url, transport=transport, token="wrong").__aenter__()
        async with client_of(server.url, transport=transport, token="right") as client:
            await event(client, "session.created")


async def test_nobody_there_is_told_in_one_line() -> None:
    for transport in ("webrtc", "websocket"):
        with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
            await client_of("http://127.0.0.1:9", transport=transport).__aenter__()
    with pytest.raises(ConfigError, match="pigeon"):
        client_of("http://127.0.0.1:9", transport="pigeon")


async def test_the_listener_says_how_much_of_an_unpaced_answer_it_has_heard() -> None:
    """A server of somebody else's, which sends the whole answer at once and knows no metadata of ours."""
    second = base64.b64encode((3000 * np.sin(np.arange(24_000) / 5)).astype("<i2").tobytes()).decode()
    received: list[Event] = []

    async def converse(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "session.created", "session": {"id": "x"}}))
        for _ in range(3):
            delta = {"type": "response.output_audio.delta", "item_id": "item_1", "delta": second}
            await connection.send(json.dumps(delta))
        await connection.send(json.dumps({"type": "response.output_audio.done", "item_id": "item_1"}))
        await asyncio.sleep(0.5)
        await connection.send(json.dumps({"type": "input_audio_buffer.speech_started", "item_id": "item_2"}))
        async for text in connection:
            received.append(json.loads(text))

    async with serve(converse, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with client_of(url, transport="websocket") as client:
            await event(client, "input_audio_buffer.speech_started")
            heard = len(client.speaker.recording()) / 16
            async with asyncio.timeout(10):
                while not (cut := [each for each in received if each["type"] == "conversation.item.truncate"]):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            assert client.speaker.quiet
    assert (cut[0]["item_id"], cut[0]["content_index"]) == ("item_1", 0)
    assert cut[0]["audio_end_ms"] == pytest.approx(heard, abs=20)
    assert 0 < cut[0]["audio_end_ms"] < 3000
    assert received[0]["type"] == "input_audio_buffer.append"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://host:80", "http://host:80/v1/realtime"),
        ("wss://host/v1/", "https://host/v1/realtime"),
        ("https://host/x/v1/realtime", "https://host/x/v1/realtime"),
    ],
)
def test_addresses_are_read_as_people_write_them(written: str, meant: str) -> None:
    assert Address.of(written).url == meant


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RefusedError, match="no address"):
        client_of(url)


def test_memory_keeps_words_in_order_and_of_a_cut_answer_what_was_heard() -> None:
    memory = Memory()
    memory.sent({"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": "a"}}}})
    memory.sent({"type": "session.update", "session": {"audio": {"output": {"voice": "b"}}, "instructions": "x"}})

    def item(id: str, role: str, **part: str) -> Event:
        return {"id": id, "type": "message", "role": role, "content": [part] if part else []}

    memory.received({"type": "conversation.item.added", "item": item("1", "user")})
    memory.received({"type": "conversation.item.added", "item": item("2", "assistant")})
    cut = {"status": "cancelled", "output": [item("2", "assistant", transcript="one two")]}
    memory.received({"type": "response.done", "response": cut})
    late = {"type": "conversation.item.input_audio_transcription.completed", "item_id": "1", "transcript": "hello"}
    memory.received(late)
    memory.received({"type": "conversation.item.added", "item": item("3", "user")})
    session, *items = memory.replay()
    expected = {"type": "realtime", "audio": {"output": {"voice": "b"}}, "instructions": "x"}
    assert session == {"type": "session.update", "session": expected}
    assert [(each["item"]["role"], each["item"]["content"][0]["text"]) for each in items] == [
        ("user", "hello"),
        ("assistant", "one two"),
    ]


def test_the_client_needs_neither_torch_nor_aiortc_over_websocket() -> None:
    code = "import sys, speechgpt_gen.client, speechgpt_gen.agent.client.websocket as w; "
    code += "print([name for name in ('torch', 'aiortc', 'sounddevice') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
