"""The stock `openai` Python SDK, unmodified, holds conversations over WebSocket with the real server."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from num2words import num2words
from openai import AsyncOpenAI

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words
from speechgpt_gen.streaming.resample import resample


class Running:
    """A server in this process, on a free port, and SDK clients of it."""

    def __init__(self, port: int, engine: FakeEngine) -> None:
        self.port, self.engine = port, engine

    def client(self, key: str = "local") -> AsyncOpenAI:
        where = f"127.0.0.1:{self.port}/v1"
        return AsyncOpenAI(api_key=key, base_url=f"http://{where}", websocket_base_url=f"ws://{where}")


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    engine = FakeEngine(words=4, slots=1, transcript="what is the time", clock=RealClock(), pace=0.2)
    app = create_app(engine, Settings(token="local", vad="webrtc"))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    task = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    yield Running(running.servers[0].sockets[0].getsockname()[1], engine)
    running.should_exit = True
    await task


def pcm24(pcm: Any) -> str:
    """16 kHz float as the SDK sends it."""
    data = (32767 * resample(pcm, 16_000, 24_000)).astype("<i2")
    return base64.b64encode(data.tobytes()).decode()


async def until(connection: Any, *types: str) -> list[Any]:
    """Events up to the first of these types."""
    events = []
    async with asyncio.timeout(20):
        async for event in connection:
            events.append(event)
            if event.type in types:
                return events
    raise AssertionError(f"the connection ended without {types}")


async def test_spoken_turns_with_server_vad_and_barge_in(server, speechlike):
    async with server.client().realtime.connect(model="nano") as connection:
        (created,) = await until(connection, "session.created")
        assert created.session.audio.input.turn_detection.type == "server_vad"
        await connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        await until(connection, "session.updated")

        question = np.concatenate((speechlike(0.8), np.zeros(12_000, np.float32)))
        for start in range(0, len(question), 1600):
            await connection.input_audio_buffer.append(audio=pcm24(question[start : start + 1600]))
        events = await until(connection, "response.done")
        types = [event.type for event in events]
        assert types.index("input_audio_buffer.speech_started") < types.index("response.created")
        assert events[-1].response.status == "completed"
        assert events[-1].response.output[0].content[0].transcript == "one two three four"
        sound = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
        assert decode_words(np.frombuffer(sound, "<i2").astype(np.float32) / 32768, 24_000) == [1, 2, 3, 4]
        said = [e for e in events if e.type == "conversation.item.input_audio_transcription.completed"]
        assert said[0].transcript == "what is the time"

        await connection.input_audio_buffer.append(audio=pcm24(question))
        await until(connection, "response.output_audio.delta")
        await connection.input_audio_buffer.append(audio=pcm24(speechlike(0.4)))
        events = await until(connection, "response.done")
        assert events[-1].response.status == "cancelled"
        assert events[-1].response.status_details.reason == "turn_detected"
        item = events[-1].response.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=0)
        await until(connection, "conversation.item.truncated")
    async with asyncio.timeout(5):
        while server.engine.in_use:  # noqa: ASYNC110 (the fake engine has no event for it)
            await asyncio.sleep(0.01)


class Loudspeaker:
    """Plays what comes at once and without gaps; what is told to be unheard was not played."""

    def __init__(self) -> None:
        self.played: dict[str, bytes] = {}
        self._empty_at = 0.0
        self._item = ""

    def play(self, item: str, data: bytes) -> None:
        self._item = item
        self.played[item] = self.played.get(item, b"") + data
        self._empty_at = max(self._empty_at, time.monotonic()) + len(data) / 48_000

    def flush(self) -> int:
        """Forget what was not played; milliseconds of the last item that were."""
        unplayed = 2 * round(max(0.0, self._empty_at - time.monotonic()) * 24_000)
        sound = self.played[self._item]
        self.played[self._item] = sound[: max(0, len(sound) - unplayed)]
        self._empty_at = 0.0
        return len(self.played[self._item]) // 48

    def words(self) -> list[list[int]]:
        return [
            decode_words(np.frombuffer(sound, "<i2").astype(np.float32) / 32768, 24_000)
            for sound in self.played.values()
        ]


async def test_three_spoken_turns_and_history_is_what_was_heard(server, speechlike):
    server.engine.words = 8
    question = np.concatenate((speechlike(0.8), np.zeros(12_000, np.float32)))
    speaker, items, cut = Loudspeaker(), [], []
    async with server.client().realtime.connect(model="nano") as connection:
        await until(connection, "session.created")
        await connection.input_audio_buffer.append(audio=pcm24(question))
        async with asyncio.timeout(60):
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    speaker.play(event.item_id, base64.b64decode(event.delta))
                    if len(speaker.played) == 2 and not cut and len(speaker.played[event.item_id]) > 1.5 * 48_000:
                        cut.append(event.item_id)
                        await connection.input_audio_buffer.append(audio=pcm24(question))
                elif event.type == "input_audio_buffer.speech_started" and cut:
                    heard = speaker.flush()
                    await connection.conversation.item.truncate(item_id=cut[0], content_index=0, audio_end_ms=heard)
                elif event.type == "conversation.item.added":
                    items.append(event.item.id)
                elif event.type == "response.done" and len(speaker.played) == 1:
                    await connection.input_audio_buffer.append(audio=pcm24(question))
                elif event.type == "response.done" and len(speaker.played) == 3:
                    break
        history = []
        for item in items:
            await connection.conversation.item.retrieve(item_id=item)
            history.append((await until(connection, "conversation.item.retrieved"))[-1].item)
    assert [item.role for item in history] == ["user", "assistant"] * 3
    assert {item.content[0].transcript for item in history[::2]} == {"what is the time"}
    said = [item.content[0].transcript.split() for item in history[1::2]]
    heard_words = speaker.words()
    for words, numbers in zip(said, heard_words, strict=True):
        assert words == [num2words(number) for number in range(1, len(words) + 1)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert abs(len(words) - len(numbers)) <= 1
    assert [len(words) for words in said[::2]] == [8, 8]
    assert 1 <= len(said[1]) <= 5
    assert history[3].status == "incomplete"


async def test_push_to_talk_with_a_cancel_when_nothing_is_active(server, speechlike):
    async with server.client().realtime.connect(model="nano") as connection:
        await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        updated = (await until(connection, "session.updated"))[-1]
        assert updated.session.audio.input.turn_detection is None
        await connection.response.cancel()
        error = (await until(connection, "error"))[-1].error
        assert error.code == "response_cancel_not_active"
        await connection.input_audio_buffer.append(audio=pcm24(speechlike(0.5)))
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        done = (await until(connection, "response.done", "error"))[-1]
        assert done.response.status == "completed"


async def test_typed_turn_by_handlers(server):
    async with server.client().realtime.connect(model="nano") as connection:
        content = [{"type": "input_text", "text": "Hello."}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create(response={"output_modalities": ["text"]})
        pieces = []
        connection.on("response.output_text.delta", lambda event: pieces.append(event.delta))

        async def done(event: Any) -> None:
            await connection.close()

        connection.on("response.done", done)
        async with asyncio.timeout(10):
            await connection.dispatch_events()
        assert "".join(pieces) == "one two three four"


async def test_a_wrong_key_and_a_full_server_are_refused_with_their_status(server):
    with pytest.raises(Exception, match=r"\d{3}") as refused:
        await server.client("wrong").realtime.connect(model="nano").enter()
    assert "401" in str(refused.value)
    async with server.client().realtime.connect(model="nano") as connection:
        await until(connection, "session.created")
        with pytest.raises(Exception, match=r"\d{3}") as refused:
            await server.client().realtime.connect(model="nano").enter()
        assert "503" in str(refused.value)
