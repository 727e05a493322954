"""Talk to a server of the OpenAI Realtime protocol, ours or another, from Python.

    import asyncio
    from speechgpt_gen.client import Client, Microphone, Speaker

    async def talk():
        with Microphone() as microphone, Speaker() as speaker:
            async with Client("http://127.0.0.1:8080", microphone, speaker) as client:
                async for event in client:
                    if event["type"] == "response.output_audio_transcript.done":
                        print(event["transcript"])

    asyncio.run(talk())

Without a sound card, speak from a `Playout` that the program fills and hear with an `Ear`.
"""

from .agent.client import (
    Client,
    Ear,
    Event,
    Microphone,
    RefusedError,
    ServerError,
    Sink,
    Source,
    Speaker,
    Transport,
)
from .streaming.playout import Playout

__all__ = [
    "Client",
    "Ear",
    "Event",
    "Microphone",
    "Playout",
    "RefusedError",
    "ServerError",
    "Sink",
    "Source",
    "Speaker",
    "Transport",
]
