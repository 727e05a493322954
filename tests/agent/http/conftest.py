"""A real server in this process, on a free port, with a fake engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from openai import AsyncOpenAI

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.models.audio import write_wav
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.protocol import Engine
from speechgpt_gen.streaming.engine.tones import word_tone


class Running:
    """The server, and clients of it."""

    def __init__(self, port: int, engine: Engine) -> None:
        self.engine = engine
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=60)
        self.sdk = AsyncOpenAI(api_key="none", base_url=f"{self.url}/v1", max_retries=0)

    async def settled(self, in_use: int = 0) -> None:
        """Wait until this many slots are taken."""
        async with asyncio.timeout(60):
            while self.engine.in_use != in_use:  # noqa: ASYNC110 (engines have no event for it)
                await asyncio.sleep(0.01)


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """serve(engine=None, **settings): a running server."""
    started: list[tuple[uvicorn.Server, asyncio.Task[None], Running]] = []

    async def start(engine: Engine | None = None, **settings: Any) -> Running:
        engine = engine or FakeEngine(transcript="what is the time")
        app = create_app(engine, Settings(**settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        await app.state.server.started.wait()
        running = Running(server.servers[0].sockets[0].getsockname()[1], engine)
        started.append((server, task, running))
        return running

    yield start
    for server, task, running in started:
        await running.http.aclose()
        await running.sdk.close()
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
def wav() -> Callable[[NDArray[np.float32]], bytes]:
    """wav(pcm): 16 kHz float32 as a WAV file."""

    def encode(pcm: NDArray[np.float32]) -> bytes:
        target = io.BytesIO()
        write_wav(target, pcm)
        return target.getvalue()

    return encode


@pytest.fixture(scope="session")
def spoken() -> NDArray[np.float32]:
    """Two seconds of sound: four words of the fake engine."""
    return np.concatenate([word_tone(number) for number in range(1, 5)])
