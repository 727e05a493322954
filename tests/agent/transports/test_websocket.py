"""The WebSocket door against clients that misbehave, over a bare ASGI connection."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket

from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.transports.websocket import converse
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine


class Wire:
    """An ASGI connection: what the client sends is queued, what it gets is kept until it stops reading."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.outgoing: list[dict[str, Any]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "subprotocols": [], "extensions": {}}
        self.websocket = WebSocket(scope, self.incoming.get, self._send)

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reading.wait()
        self.outgoing.append(message)

    def send(self, **event: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(event)})

    def ask(self) -> None:
        """A typed turn."""
        content = [{"type": "input_text", "text": "Hi."}]
        self.send(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
        self.send(type="response.create", response={"output_modalities": ["text"]})


async def until(true: Callable[[], object]) -> None:
    """Let others run until something is true."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0)


async def test_a_client_that_stops_reading_is_dropped_and_its_slot_is_free():
    engine, wire = FakeEngine(words=500), Wire()
    talk = asyncio.create_task(converse(wire.websocket, engine, Settings(max_outgoing_bytes=4096), RealClock()))
    await until(lambda: wire.outgoing)
    wire.reading.clear()
    wire.ask()
    async with asyncio.timeout(10):
        await talk
    assert engine.in_use == 0


async def test_a_slow_client_that_reads_again_is_told_why():
    engine, wire = FakeEngine(words=500), Wire()
    talk = asyncio.create_task(converse(wire.websocket, engine, Settings(max_outgoing_bytes=4096), RealClock()))
    await until(lambda: wire.outgoing)
    wire.reading.clear()
    wire.ask()
    await until(lambda: not engine.in_use)
    wire.reading.set()
    await talk
    assert wire.outgoing[-1]["type"] == "websocket.close"
    assert wire.outgoing[-1]["code"] == 1008
    assert "slowly" in wire.outgoing[-1]["reason"]


async def test_a_client_that_hangs_up_frees_its_slot():
    engine, wire = FakeEngine(words=500), Wire()
    wire.ask()
    wire.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    async with asyncio.timeout(10):
        await converse(wire.websocket, engine, Settings(), RealClock())
    assert engine.in_use == 0
    assert all(message["type"] != "websocket.close" for message in wire.outgoing)


async def test_a_server_that_cancels_the_connection_frees_its_slot():
    engine, wire = FakeEngine(words=500), Wire()
    talk = asyncio.create_task(converse(wire.websocket, engine, Settings(), RealClock()))
    wire.ask()
    await until(lambda: any("response.created" in message.get("text", "") for message in wire.outgoing))
    talk.cancel()
    await until(lambda: not engine.in_use)


async def test_where_http_answers_are_impossible_a_full_server_closes_before_accepting():
    engine, wire = FakeEngine(slots=1), Wire()
    await engine.open()
    await converse(wire.websocket, engine, Settings(), RealClock())
    assert wire.outgoing == [{"type": "websocket.close", "code": 1013, "reason": "session_limit_reached"}]
