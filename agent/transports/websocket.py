"""The WebSocket door: /v1/realtime, one text frame per event."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ...models.errors import SpeechGPTGenError
from ...streaming.clock import Clock
from ...streaming.engine.protocol import Engine
from ...streaming.playout import Playout
from .. import metrics
from ..events import EventError, ServerEvent
from ..limits import Bucket, Clients, TooManySessionsError
from ..refusals import Refused, refused
from ..security import Caller, caller_of
from ..session.conversation import Conversation
from ..settings import Settings

log = logging.getLogger(__name__)

PATH = "/v1/realtime"
SUBPROTOCOL = "realtime"
TOO_SLOW = "the client reads too slowly"
GONE = "the client has disconnected"
_CLOSE_CODES = {"session_idle": 1000, "session_expired": 1000, TOO_SLOW: 1008}


class Outbox:
    """Events on their way to a client, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, text: str) -> bool:
        """Queue one event; False when the client is too far behind."""
        self._waiting.append(text)
        self._bytes += len(text)
        self._filled.set()
        return self._bytes <= self._limit

    async def drain(self, websocket: WebSocket) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._filled.wait()
            await self.flush(websocket)
            self._filled.clear()

    async def flush(self, websocket: WebSocket) -> None:
        """Send what is queued now."""
        while self._waiting:
            text = self._waiting[0]
            await websocket.send_text(text)
            self._waiting.popleft()
            self._bytes -= len(text)


async def converse(
    websocket: WebSocket, engine: Engine, settings: Settings, clock: Clock, clients: Clients | None = None
) -> None:
    """Hold one conversation over a WebSocket that asks to be opened; returns when it is over and its slot is free.

    clients: counts the conversations of each client.
    """
    caller = caller_of(websocket.scope)
    try:
        with (clients or Clients(settings, clock)).session(caller.client):
            await _converse(websocket, engine, settings, clock, caller)
    except TooManySessionsError as error:
        await _refuse(websocket, refused(error))


async def _converse(websocket: WebSocket, engine: Engine, settings: Settings, clock: Clock, caller: Caller) -> None:
    outbox = Outbox(settings.max_outgoing_bytes)

    def send(event: ServerEvent) -> None:
        if not outbox.put(event.to_json()):
            conversation.close(TOO_SLOW)

    conversation = Conversation(engine, settings, send=send, playout=Playout(), transport="websocket", clock=clock)
    try:
        await conversation.open(caller.session)
    except (EventError, SpeechGPTGenError) as error:
        await _refuse(websocket, refused(error))
        return
    events = Bucket(settings.events_per_second, 2 * settings.events_per_second, clock)
    talk = asyncio.create_task(conversation.run())
    exchange = asyncio.create_task(_exchange(websocket, conversation, outbox, events))
    try:
        await asyncio.wait({talk, exchange}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        conversation.close(GONE)
        exchange.cancel()
        # If the server cancels us here, the conversation still ends by itself: it has been told.
        await asyncio.wait({talk, exchange})
    failures = {task: task.exception() for task in (talk, exchange) if not task.cancelled()}
    if failures.get(talk) is not None:
        log.error("a conversation failed", exc_info=failures[talk])
    if conversation.reason != GONE:
        await _say_goodbye(websocket, outbox, conversation.reason or "", 1011 if failures.get(talk) else None)


async def _exchange(websocket: WebSocket, conversation: Conversation, outbox: Outbox, events: Bucket) -> None:
    """Accept the connection, then carry events both ways until the client has gone."""
    offered = websocket.scope.get("subprotocols", [])
    # Browsers close a connection that does not answer with a subprotocol they have offered.
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    tasks = {asyncio.create_task(_read(websocket, conversation, events)), asyncio.create_task(outbox.drain(websocket))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(websocket: WebSocket, conversation: Conversation, events: Bucket) -> None:
    """Bring client events to the conversation, no faster than it works them off or than `events` allows."""
    while True:
        await events.wait()
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        conversation.receive(text if text is not None else message["bytes"].decode("utf-8", errors="replace"))
        await conversation.settled()


async def _say_goodbye(websocket: WebSocket, outbox: Outbox, reason: str, code: int | None) -> None:
    """Send what is left and close, if the client still takes anything."""
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(1.0):
            if reason != TOO_SLOW:
                await outbox.flush(websocket)
            await websocket.close(code or _CLOSE_CODES.get(reason, 1001), reason)


async def _refuse(websocket: WebSocket, why: Refused) -> None:
    """Refuse the upgrade by an HTTP status, or where the server cannot do that, close before it is accepted."""
    metrics.REFUSED.labels(why.code).inc()
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(why.response())
    else:
        await websocket.close(1008 if why.status == 400 else 1013, why.code)
