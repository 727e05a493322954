"""Interruptions over a bad network, measured from end to end in virtual time.

Each session has its own line to a conversation of the server, through codecs and jitter buffers, and
packets are lost and late as `BadNetwork` draws them: the same on any machine, however busy it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen.agent.bench.network import RETRANSMISSION, BadNetwork
from speechgpt_gen.agent.bench.report import report
from speechgpt_gen.agent.bench.sessions import Plan, measure
from speechgpt_gen.agent.client.webrtc import WebRtcConnection
from speechgpt_gen.agent.client.websocket import WebSocketConnection
from speechgpt_gen.agent.session.conversation import Conversation
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.agent.transports.receive import AudioReceiver
from speechgpt_gen.agent.transports.track import PlayoutTrack
from speechgpt_gen.client import Playout, Transport
from speechgpt_gen.streaming.clock import Clock, VirtualClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

Speech = Callable[..., NDArray[np.float32]]
SILENCE = np.zeros(4800, np.float32)
WORDS = "one two three four five six seven eight nine ten eleven twelve"


class Line:
    """One way through a bad network. ordered: nothing overtakes, and what is lost is sent again, as by TCP and SCTP."""

    def __init__(self, clock: Clock, network: BadNetwork, deliver: Callable[[Any], None], *, ordered: bool) -> None:
        self._clock, self._network, self._deliver, self._ordered = clock, network, deliver, ordered
        self._due = 0.0
        self._under_way: set[asyncio.Task[None]] = set()

    def put(self, what: Any) -> None:
        lost, now = self._network.lost, self._clock.now()
        if lost and not self._ordered:
            return
        due = now + self._network.delay + (RETRANSMISSION if lost else 0.0)
        self._due = max(due, self._due) if self._ordered else due
        task = asyncio.create_task(self._carry(what, self._due - now))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _carry(self, what: Any, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._deliver(what)


class Call(WebRtcConnection):
    """A call whose packets and events go by `Line` in place of ICE, DTLS and SCTP."""

    engine: ClassVar[FakeEngine]

    async def open(self) -> None:
        assert isinstance(self._network, BadNetwork)
        playout, line = Playout(), partial(Line, self._clock, self._network)
        events = line(self._take, ordered=True)
        conversation = Conversation(
            self.engine,
            load_settings(vad="webrtc"),
            send=lambda event: events.put(event.to_json()),
            playout=playout,
            transport="webrtc",
            clock=self._clock,
        )
        server = AudioReceiver(conversation.hear, self._clock)
        self._sink.begin(paced=True)
        up = line(lambda packet: server.receive(*packet), ordered=False)
        down = line(lambda packet: self.receiver.receive(*packet), ordered=False)

        async def sound(track: PlayoutTrack, way: Line) -> None:
            while True:
                packet = await track.recv()
                assert packet.pts is not None
                way.put((packet.pts // 960 % 2**16, packet.pts % 2**32, bytes(packet)))

        async def tick() -> None:
            while True:
                await self._clock.sleep(0.02)
                server.tick()
                self.receiver.tick()

        work = (
            conversation.run(),
            sound(PlayoutTrack(self._source, self._clock), up),
            sound(PlayoutTrack(playout, self._clock), down),
            tick(),
        )
        self._tasks = [asyncio.ensure_future(each) for each in work]


class Socket(WebSocketConnection):
    """A WebSocket whose messages go by `Line`."""

    engine: ClassVar[FakeEngine]

    async def open(self) -> None:
        assert isinstance(self._network, BadNetwork)
        self._sink.begin(paced=False)
        down = Line(self._clock, self._network, self._take, ordered=True)
        conversation = Conversation(
            self.engine,
            load_settings(vad="webrtc"),
            send=lambda event: down.put(event.to_json()),
            playout=Playout(),
            transport="websocket",
            clock=self._clock,
        )
        up = Line(self._clock, self._network, conversation.receive, ordered=True)

        async def write() -> None:
            while True:
                up.put(await self._outgoing.get())

        self._tasks = [asyncio.ensure_future(each) for each in (conversation.run(), self._speak(), write())]

    def _take(self, text: str) -> None:
        event = json.loads(text)
        self._play(event)
        self.events.put_nowait(event)


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
async def test_answers_are_interrupted_over_a_bad_network(
    transport: Transport, speechlike: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechgpt_gen.agent.client.webrtc.WebRtcConnection", Call)
    monkeypatch.setattr("speechgpt_gen.agent.client.websocket.WebSocketConnection", Socket)
    clock = VirtualClock()
    Call.engine = Socket.engine = FakeEngine(words=12, clock=clock)
    question = np.concatenate((SILENCE, speechlike(0.9), SILENCE))
    plan = Plan("http://nowhere", question, transport, turns=2, sessions=2, barge_in=0.8, loss=0.05, jitter=0.03)
    figures = report(plan, await clock.run(measure(plan, clock)))
    assert figures["failed"] == 0
    assert [turn["session"] for turn in figures["each"]] == [1, 1, 2, 2]
    assert [turn["answer"] == WORDS for turn in figures["each"]] == [False, True] * 2
    # TCP repeats what it lost before anything behind it is heard.
    longest = 200 if transport == "webrtc" else 200 + 1000 * RETRANSMISSION
    assert all(0 < turn["barge_in_stop_ms"] <= longest for turn in figures["each"][::2])
    assert all(turn["barge_in_stop_ms"] is None for turn in figures["each"][1::2])
    if transport == "webrtc":
        assert 1 < figures["packets"]["lost_percent"] < 12
        assert 15 < figures["packets"]["late_ms"]["p95"] <= 30
        assert figures["longest_stall_ms"] <= 100
        assert figures["delay"]["longest_raised_ms"] <= 1000
