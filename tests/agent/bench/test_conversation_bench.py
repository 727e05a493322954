"""The measuring client against a real server with the fake engine: its plumbing, not its figures."""

import asyncio
import json
import re
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
from speechgpt_gen.agent.bench.conversation import Turn, hold_conversation
from speechgpt_gen.agent.bench.lateness import Lateness
from speechgpt_gen.agent.bench.network import BadNetwork
from speechgpt_gen.agent.bench.page import page
from speechgpt_gen.agent.bench.report import percentiles, raised, report
from speechgpt_gen.agent.bench.sessions import Plan, Session
from speechgpt_gen.agent.cli.bench import register
from speechgpt_gen.agent.client.webrtc import WebRtcConnection
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.client import Client, Ear, Playout, ServerError, Transport
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
        Client(url, Playout(), Ear(clock), transport=transport) as client,
    ):
        turns = [turn async for turn in hold_conversation(client, question, clock, turns=2)]
    for turn in turns:
        assert turn.error is None
        assert turn.voice_to_voice is not None
        assert turn.transport is not None
        assert turn.voice_to_voice > turn.parts["end_of_turn"] > 0
        assert turn.voice_to_voice == pytest.approx(turn.parts["played"] + turn.transport)
        assert turn.endpointing is not None
        assert turn.answering == pytest.approx(turn.voice_to_voice - turn.endpointing)
        assert turn.answer == "one two"


async def test_a_bad_network_touches_the_packets_of_a_call() -> None:
    clock, network = RealClock(), BadNetwork(0.05, 0.03)
    async with (
        serving(FakeEngine()) as url,
        Client(url, Playout(), Ear(clock), network=network) as client,
    ):
        call = client.connection
        assert isinstance(call, WebRtcConnection)
        lateness = Lateness(call, clock)
        while len(lateness.seconds) < 250:
            await clock.sleep(0.05)
        # A busy machine makes packets later, never less so.
        assert np.percentile(lateness.seconds, 95) > 0.015
        assert call.receiver.stats.lost + call.receiver.stats.late > 2


async def test_a_bad_network_delays_what_goes_over_a_websocket() -> None:
    clock, network = RealClock(), BadNetwork(0.0, 0.05)
    async with (
        serving(FakeEngine()) as url,
        Client(url, Playout(), Ear(clock), transport="websocket", network=network) as client,
    ):
        began = clock.now()
        for number in range(10):
            client.send({"type": "conversation.item.retrieve", "item_id": "none", "event_id": str(number)})
            async for event in client:
                if event["type"] == "error":
                    assert event["error"]["event_id"] == str(number)
                    break
        assert clock.now() - began > 0.2, "ten ways there and back take half a second on the average"


async def test_the_command_prints_one_object_and_writes_a_page(speechlike: Speech, tmp_path: Path) -> None:
    audio, html = tmp_path / "question.wav", tmp_path / "report.html"
    write_wav(audio, speechlike(0.7))
    app = typer.Typer()
    register(app)
    async with serving(FakeEngine(words=1)) as url:
        arguments = ["bench", "conversation", "--audio", str(audio), "--url", url, "--turns", "1", "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--html", str(html)])
        table = await asyncio.to_thread(CliRunner().invoke, app, arguments[:-1])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["turns"], figures["failed"], figures["transport"]) == (1, 0, "webrtc")
    assert set(figures["voice_to_voice_ms"]) == {"p50", "p95", "count"}
    assert "first voice heard" in table.stdout
    text = html.read_text()
    assert text.count("<svg") >= 3
    assert not re.search(r"<script|https?://(?!127)|@import|url\(", text), "the page fetches nothing and runs nothing"


@pytest.mark.parametrize("flag", ["--transport=pigeon", "--html=/no/such/folder/r.html", "--url=ftp://x"])
def test_a_wrong_flag_gets_one_line(flag: str, speechlike: Speech, tmp_path: Path) -> None:
    write_wav(tmp_path / "question.wav", speechlike(0.7))
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["bench", "conversation", "--audio", str(tmp_path / "question.wav"), flag])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


async def test_a_refusal_of_the_server_is_told() -> None:
    async with serving(FakeEngine(slots=1)) as url, Client(url, Playout(), Ear(RealClock())):
        for transport in ("webrtc", "websocket"):
            with pytest.raises(ServerError, match="slot") as refused:
                async with Client(url, Playout(), Ear(RealClock()), transport=transport):  # type: ignore[arg-type]
                    pass
            assert refused.value.retry_after == 5


async def test_a_silent_question_is_refused() -> None:
    clock = RealClock()
    async with (
        serving(FakeEngine()) as url,
        Client(url, Playout(), Ear(clock), transport="websocket") as client,
    ):
        with pytest.raises(AudioError, match="no voiced sample"):
            await anext(hold_conversation(client, SILENCE, clock, turns=1))


PLAN = Plan("http://127.0.0.1:1", SILENCE)


def test_failed_turns_count_as_failed() -> None:
    turns = [Turn(100.0, 60.0, {"end_of_turn": 40.0}, 10.0), Turn(error="<silent>")]
    session = Session(1, turns, lateness=[0.0, 0.01], lags=[(0.0, 1.0), (1.0, 1.1)], lasted=(0.0, 2.0))
    figures = report(PLAN, [session])
    assert (figures["turns"], figures["failed"]) == (2, 1)
    assert figures["voice_to_voice_ms"] == {"p50": 100.0, "p95": 100.0, "count": 1}
    assert figures["answering_ms"]["p50"] == 40.0
    assert figures["parts_ms"]["first_token"] is None
    assert "&lt;silent&gt;" in page(figures, [session])
    nothing = Session(1, [Turn(error="gone")])
    assert "gone" in page(report(PLAN, [nothing]), [nothing]), "a report of nothing but failures can be read too"


def test_percentiles_skip_what_is_not_there() -> None:
    assert percentiles([None, 100.0, 200.0]) == {"p50": 150.0, "p95": 195.0, "count": 2}
    assert percentiles([None]) is None


def test_a_delay_that_stays_is_told_from_one_that_goes() -> None:
    passing = [(0.0, 3.0), (4.0, 3.2), (4.5, 3.0)]
    assert raised(passing, 10.0) == pytest.approx((0.0, 0.2, 0.5))
    staying = [(0.0, 3.0), (4.0, 3.2)]
    assert raised(staying, 6.0) == pytest.approx((0.0, 0.2, 2.0))
