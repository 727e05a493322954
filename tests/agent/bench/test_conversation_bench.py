"""The measuring client against a real server with the fake engine: its plumbing, not its figures."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import typer
import uvicorn
from numpy.typing import NDArray
from typer.testing import CliRunner

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.bench.client import ServerError, Transport, connect_client
from speechgpt_gen.agent.bench.conversation import Turn, hold_conversation, report
from speechgpt_gen.agent.cli.bench import register
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.models.audio import write_wav
from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

Speech = Callable[..., NDArray[np.float32]]
SILENCE = np.zeros(4800, np.float32)


@asynccontextmanager
async def serving(engine: FakeEngine) -> AsyncIterator[str]:
    """The whole application on a free port; its URL."""
    app = create_app(engine, load_settings(vad="webrtc", idle_timeout_s=60))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    running = asyncio.create_task(server.serve())
    await asyncio.wait_for(app.state.server.started.wait(), 20)
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_turns_are_measured_over_both_transports(transport: Transport, speechlike: Speech) -> None:
    question = np.concatenate((SILENCE, speechlike(0.7), SILENCE))
    clock = RealClock()
    async with (
        serving(FakeEngine(words=2, transcript="one two")) as url,
        connect_client(url, transport, clock) as client,
    ):
        turns = [turn async for turn in hold_conversation(client, question, clock, turns=2)]
    for turn in turns:
        assert turn.error is None
        assert turn.voice_to_voice is not None
        assert turn.transport is not None
        assert turn.voice_to_voice > turn.parts["end_of_turn"] > 0
        assert turn.voice_to_voice == pytest.approx(turn.parts["played"] + turn.transport)
        assert turn.answer == "one two"


async def test_the_command_prints_one_object(speechlike: Speech, tmp_path: Path) -> None:
    audio = tmp_path / "question.wav"
    write_wav(audio, speechlike(0.7))
    app = typer.Typer()
    register(app)
    async with serving(FakeEngine(words=1)) as url:
        arguments = ["bench", "conversation", "--audio", str(audio), "--url", url, "--turns", "1", "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["turns"], figures["failed"], figures["transport"]) == (1, 0, "webrtc")
    assert set(figures["voice_to_voice_ms"]) == {"p50", "p95"}


async def test_a_refusal_of_the_server_is_told() -> None:
    clock = RealClock()
    async with serving(FakeEngine(slots=1)) as url, connect_client(url, "webrtc", clock):
        for transport in ("webrtc", "websocket"):
            with pytest.raises(ServerError, match=r"slot|503"):
                async with connect_client(url, transport, clock):
                    pass


async def test_a_silent_question_is_refused() -> None:
    async with serving(FakeEngine()) as url, connect_client(url, "websocket", RealClock()) as client:
        with pytest.raises(AudioError, match="no voiced sample"):
            await anext(hold_conversation(client, SILENCE, RealClock(), turns=1))


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ServerError, match="no address"):
        async with connect_client(url, "webrtc", RealClock()):
            pass


def test_failed_turns_count_as_failed() -> None:
    figures = report(
        [Turn(100.0, {"end_of_turn": 40.0}, 10.0), Turn(None, error="silent")], url="u", transport="webrtc"
    )
    assert (figures["turns"], figures["failed"]) == (2, 1)
    assert figures["voice_to_voice_ms"] == {"p50": 100.0, "p95": 100.0}
    assert figures["parts_ms"]["first_token"] is None
