"""A conversation with the batched engine, as a GPU would serve it: what its parts took reaches the client."""

import asyncio
import json
from typing import ClassVar

from speechgpt_gen.agent.session.conversation import Conversation
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.batched import BatchedEngine
from speechgpt_gen.streaming.playout import Playout


class Deaf:
    """Nobody speaks here."""

    window: ClassVar[int] = 320

    def speech(self, pcm):
        return 0.0

    def reset(self):
        """Remembers nothing."""


async def test_parts_of_the_first_sound_are_told_with_the_answer():
    engine = BatchedEngine(load_bundle("tiny"), 2, device="cpu", context=512)
    await engine.start()
    seen = []
    done = asyncio.Event()

    def send(event):
        seen.append(json.loads(event.to_json()))
        if seen[-1]["type"] in ("response.done", "error"):
            done.set()

    conversation = Conversation(
        engine,
        Settings(max_answer_s=0.6),
        send=send,
        playout=Playout(),
        transport="websocket",
        clock=RealClock(),
        vad=Deaf(),
    )
    task = asyncio.ensure_future(conversation.run())
    content = [{"type": "input_text", "text": "hello there"}]
    item = {"type": "message", "role": "user", "content": content}
    conversation.receive(json.dumps({"type": "conversation.item.create", "item": item}))
    conversation.receive(json.dumps({"type": "response.create"}))
    await asyncio.wait_for(done.wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.stop()
    metadata = seen[-1]["response"]["metadata"]
    assert seen[-1]["response"]["status"] in ("completed", "incomplete")
    took = [float(metadata[f"{part}_ms"]) for part in ("queue", "prefill", "decode", "flow", "codec")]
    assert all(value > 0 for value in took[1:])
    assert sum(took) <= float(metadata["first_audio_ms"]) + 1
