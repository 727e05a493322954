"""`chat` without a sound card: recordings in, captions and a recording out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import typer
import uvicorn
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.cli import bench, chat
from speechgpt_gen.agent.cli.chat_screen import Captions, draw
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.models.audio import load_audio, write_wav
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words

Speech = Callable[..., NDArray[np.float32]]


@asynccontextmanager
async def serving(engine: FakeEngine) -> AsyncIterator[str]:
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


def command_line() -> typer.Typer:
    app = typer.Typer()
    chat.register(app)
    bench.register(app)
    return app


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_recordings_are_said_and_the_answers_written(transport: str, speechlike: Speech, tmp_path: Path) -> None:
    question, answer = tmp_path / "question.wav", tmp_path / "answer.wav"
    write_wav(question, speechlike(0.8))
    arguments = ["chat", "--transport", transport, "--audio", str(question), "--audio", str(question)]
    async with serving(FakeEngine(words=3, transcript="how are you")) as url:
        result = await asyncio.to_thread(
            CliRunner().invoke, command_line(), [*arguments, "--url", url, "-o", str(answer), "--voice", "second"]
        )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["you: how are you", "agent: one two three"] * 2
    heard = decode_words(load_audio(answer))
    assert heard[:1] + heard[-1:] == [1, 3]
    assert set(heard) == {1, 2, 3}


@pytest.mark.parametrize(
    "arguments", [["-o", "x.wav"], ["--audio", "/no/such.wav"], ["--url", "http://127.0.0.1:9", "--audio", "q.wav"]]
)
def test_a_mistake_gets_one_line(
    arguments: list[str], speechlike: Speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "q.wav", speechlike(0.5))
    result = CliRunner().invoke(command_line(), ["chat", *arguments])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_captions_follow_both_sides() -> None:
    captions = Captions()
    added = {"id": "2", "type": "message", "role": "assistant"}
    heard = {"id": "2", "content": [{"transcript": "one two"}]}
    for event in (
        {"type": "session.created", "session": {}},
        {"type": "input_audio_buffer.speech_started", "item_id": "1"},
        {"type": "conversation.item.added", "item": added},
        {"type": "response.output_audio_transcript.delta", "item_id": "2", "delta": "one two three"},
        {"type": "conversation.item.input_audio_transcription.delta", "item_id": "1", "delta": "hel"},
        {"type": "conversation.item.input_audio_transcription.completed", "item_id": "1", "transcript": "hello"},
        {"type": "output_audio_buffer.started", "response_id": "r"},
    ):
        captions.take(event)
    assert captions.state == "speaking"
    response = {"id": "r", "status": "cancelled", "output": [heard], "metadata": {"played_ms": "612"}}
    captions.take({"type": "response.done", "response": response})
    captions.take({"type": "client.reconnecting", "reason": "lost [it]", "attempt": 1, "in_seconds": 0.5})
    console = Console(width=80, record=True)
    console.print(draw(captions, -12.0, -100.0, height=20))
    text = console.export_text()
    rows = [row.rstrip() for row in text.splitlines()]
    assert rows[:2] == ["  you hello", "agent one two — interrupted"]
    assert rows[3].count("█") > rows[4].count("█") == 0
    assert "reconnecting in 0.5 s" in rows[5]
    assert "612 ms" in text
    assert "lost [it]" in text
