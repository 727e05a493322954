"""Hundreds of hostile messages at each door: errors in one line, no crash, and other sessions know nothing of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from httpx import AsyncClient
from websockets.asyncio.client import connect

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

pytestmark = pytest.mark.slow

TYPED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}


@pytest.fixture
async def port():
    app = create_app(FakeEngine(words=4, clock=RealClock()), Settings(vad="webrtc"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


class Other:
    """Somebody else's session: asks again and again, and must always be answered."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = []
        self._port = port
        self._task = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        async with connect(f"ws://127.0.0.1:{self._port}/v1/realtime") as socket:
            while True:
                await socket.send(json.dumps({"type": "conversation.item.create", "item": TYPED}))
                await socket.send(json.dumps({"type": "response.create"}))
                while (event := json.loads(await socket.recv()))["type"] != "response.done":
                    assert event["type"] != "error"
                self.answers.append(event["response"]["output"][0]["content"][0]["transcript"])

    async def check(self) -> None:
        count = len(self.answers)
        async with asyncio.timeout(20):
            while len(self.answers) == count and not self._task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not self._task.done()
        assert set(self.answers) == {"one two three four"}
        self._task.cancel()


def wrong(message: str | bytes, events: list[dict[str, Any]]) -> bool:
    """Whether a message was refused, by what came back up to the answer to the harmless event behind it."""
    errors = [event["error"] for event in events if event["type"] == "error"]
    for error in errors:
        assert error["type"] == "invalid_request_error", message[:300]
        assert "\n" not in error["message"]
        assert len(error["message"]) < 1000
    return bool(errors)


async def test_websocket(port, hostile_messages):
    other, refused = Other(port), 0
    async with connect(f"ws://127.0.0.1:{port}/v1/realtime", max_size=None) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
        for message in hostile_messages:
            await socket.send(message)
            await socket.send('{"type": "session.update", "session": {}}')
            events = [json.loads(await socket.recv())]
            while events[-1]["type"] != "session.updated":
                events.append(json.loads(await socket.recv()))
            refused += wrong(message, events)
    assert refused >= 200
    await other.check()


async def test_data_channel(port, hostile_messages):
    other, refused = Other(port), 0
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("audio")
    channel = peer.createDataChannel("oai-events")
    incoming: asyncio.Queue[str] = asyncio.Queue()
    channel.on("message", incoming.put_nowait)
    await peer.setLocalDescription(await peer.createOffer())
    async with AsyncClient() as http:
        answer = await http.post(
            f"http://127.0.0.1:{port}/v1/realtime/calls",
            content=peer.localDescription.sdp,
            headers={"content-type": "application/sdp"},
        )
    await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    async with asyncio.timeout(60):
        assert json.loads(await incoming.get())["type"] == "session.created"
        for message in hostile_messages:
            channel.send(message)
            channel.send('{"type": "session.update", "session": {}}')
            events = [json.loads(await incoming.get())]
            while events[-1]["type"] != "session.updated":
                events.append(json.loads(await incoming.get()))
            refused += wrong(message, events)
    assert refused >= 200
    await peer.close()
    await other.check()
