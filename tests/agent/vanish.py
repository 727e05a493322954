"""Callers that vanish: `vanish.py URL COUNT` connects so many, half of them by WebRTC, and dies without a good-bye."""

import asyncio
import os
import sys

from speechgpt_gen.client import Client, Ear, Playout, Transport
from speechgpt_gen.streaming.clock import RealClock


async def call(url: str, transport: Transport) -> None:
    """Connect and speak for a moment; the client is kept open."""
    client = await Client(url, Playout(), Ear(RealClock()), transport=transport, reconnect=False).__aenter__()
    while (await anext(client))["type"] != "session.created":
        pass
    client.send({"type": "response.create", "response": {"input": [QUESTION]}})
    while (await anext(client))["type"] != "response.created":
        pass
    OPEN.append(client)


OPEN: list[Client[Playout, Ear]] = []
QUESTION = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Count."}]}


async def main() -> None:
    """Connect all at once, then die."""
    url, count = sys.argv[1], int(sys.argv[2])
    calls = (call(url, "websocket" if number % 2 else "webrtc") for number in range(count))
    # One that a busy machine does not connect in time vanishes in the middle of it, which is as good.
    await asyncio.gather(*calls, return_exceptions=True)
    print(len(OPEN), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
