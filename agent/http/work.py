"""Engine work for one request: while its caller is there, and with the slot given back at once when it is over."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Literal, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...models.errors import EngineError, SpeechGPTGenError
from ...streaming.engine.protocol import EngineSession
from ...streaming.frames import Pcm
from .files import SoundFile

log = logging.getLogger(__name__)

T = TypeVar("T")

StreamFormat = Literal["audio", "sse"]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the caller has gone; then ClientDisconnect is raised.

    The body must have been read.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def streamed_sound(
    request: Request,
    *,
    session: EngineSession,
    sounds: AsyncGenerator[Pcm, None],
    file: SoundFile,
    media_type: str,
    stream_format: StreamFormat,
) -> Response:
    """A response that carries sound as it is made. It begins with the first sound, so that what fails before that is
    still told by a status. The slot is closed when all is sent, or the caller has gone."""
    try:
        first = await while_connected(request.receive, _first(sounds))
    except BaseException:
        await session.close()
        raise
    pieces = _encoded(first, sounds, file)
    if stream_format == "sse":
        return Streamed(_as_events(pieces), "text/event-stream", session.close)
    return Streamed(_as_bytes(pieces), media_type, session.close)


def server_event(fields: dict[str, Any]) -> bytes:
    """One event of a text/event-stream."""
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


def failure_event(error: SpeechGPTGenError) -> bytes:
    """The event that ends a stream in which something failed."""
    return server_event({"type": "error", "error": {"code": "engine_error", "message": str(error)}})


class Streamed(Response):
    """A body that is sent while it is made, until the caller has gone. release: called when it is over, always."""

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], media_type: str, release: Callable[[], Awaitable[None]]
    ) -> None:
        self.status_code, self.media_type, self.background = 200, media_type, None
        self._chunks, self._release = chunks, release
        self.init_headers({"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks):
                await while_connected(receive, self._send(send))
        except ClientDisconnect:
            pass
        except SpeechGPTGenError as error:
            # The status is sent already. A body without its end is how HTTP tells that it is not whole.
            log.error("a streamed answer broke off: %s", error)
        finally:
            await self._release()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(sounds: AsyncIterator[Pcm]) -> Pcm:
    try:
        return await anext(sounds)
    except StopAsyncIteration:
        raise EngineError("the engine gave no sound: try again") from None


async def _encoded(
    first: Pcm, sounds: AsyncGenerator[Pcm, None], file: SoundFile
) -> AsyncGenerator[tuple[bytes, int], None]:
    """Bytes of the file, each with the samples that went into it."""
    async with aclosing(sounds):
        yield file.write(first), len(first)
        async for pcm in sounds:
            yield file.write(pcm), len(pcm)
        yield file.close(), 0


async def _as_bytes(pieces: AsyncGenerator[tuple[bytes, int], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for data, _ in pieces:
            yield data


async def _as_events(pieces: AsyncGenerator[tuple[bytes, int], None]) -> AsyncGenerator[bytes, None]:
    """OpenAI's speech events. Tokens are semantic units, 20 ms each; those of the text are not counted."""
    samples = 0
    async with aclosing(pieces):
        try:
            async for data, count in pieces:
                samples += count
                if data:
                    yield server_event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        except SpeechGPTGenError as error:
            yield failure_event(error)
            return
    units = samples // 320
    usage = {"input_tokens": 0, "output_tokens": units, "total_tokens": units}
    yield server_event({"type": "speech.audio.done", "usage": usage})
