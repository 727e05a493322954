"""Calls over real WebRTC on loopback: an aiortc peer against the HTTP route, the conversation and the fake engine."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from numpy.typing import NDArray
from starlette.applications import Starlette

from speechgpt_gen.agent.client.ear import voiced
from speechgpt_gen.agent.client.webrtc import WebRtcConnection
from speechgpt_gen.agent.events import EventError
from speechgpt_gen.agent.settings import Settings, load_settings
from speechgpt_gen.agent.transports.webrtc import Calls
from speechgpt_gen.client import Client, Ear, Event, Playout, ServerError
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.semantic.pieces import Message
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.batched import BatchedEngine
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words

Speech = Callable[..., NDArray[np.float32]]
Caller = Client[Playout, Ear]


class Server:
    """A server on a free port of 127.0.0.1, its calls and its engine in reach."""

    def __init__(self, engine: Any, settings: Settings) -> None:
        self.engine = engine
        self.calls = Calls(engine, settings)
        app = Starlette(routes=self.calls.routes())
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self.url = ""

    async def __aenter__(self) -> "Server":
        self._serving = asyncio.create_task(self._uvicorn.serve())
        await eventually(lambda: self._uvicorn.started)
        port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.calls.close()
        self._uvicorn.should_exit = True
        await self._serving


async def eventually(condition: Callable[[], Any], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def talking(
    engine: FakeEngine | BatchedEngine | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, Caller]]:
    """A server, and a client whose session has begun."""
    async with (
        Server(engine or FakeEngine(words=4), load_settings(vad="webrtc", **settings)) as server,
        caller(server) as client,
    ):
        await event(client, "session.created")
        yield server, client


def caller(server: Server) -> Caller:
    return Client(server.url, Playout(), Ear(RealClock()), reconnect=False)


def call_of(client: Caller) -> WebRtcConnection:
    assert isinstance(client.connection, WebRtcConnection)
    return client.connection


async def event(client: Caller, kind: str, within: float = 15.0) -> Event:
    """The next event of a kind; those before it are dropped."""
    async with asyncio.timeout(within):
        while (found := await anext(client))["type"] != kind:
            assert found["type"] != "error", found
    return found


def words(client: Caller) -> list[int]:
    """Numbers of the words heard; one that a stall of a busy machine has split counts once."""
    return [number for number, _ in groupby(decode_words(client.speaker.recording()))]


async def test_a_spoken_turn_is_heard_back(speechlike: Speech) -> None:
    async with talking(FakeEngine(words=4, transcript="what comes next")) as (_, client):
        client.microphone.push(1, speechlike(1.0))
        client.microphone.end(1)
        done = (await event(client, "response.done"))["response"]
        assert done["status"] == "completed"
        assert done["output"][0]["content"][0]["transcript"] == "one two three four"
        await asyncio.sleep(0.1)
        assert words(client) == [1, 2, 3, 4]
        assert float(done["metadata"]["played_ms"]) > 0
        assert call_of(client).receiver.stats.lost == 0


async def test_a_call_to_the_engine_that_a_gpu_serves_by(speechlike: Speech) -> None:
    """The batched engine of `serve --device cuda`, its kernels' plain twins, a small model: a spoken turn by WebRTC."""
    engine = BatchedEngine(load_bundle("tiny"), 2, device="cpu", context=512)
    await engine.start()
    async with talking(engine, max_answer_s=0.6) as (_, client):
        client.microphone.push(1, speechlike(1.0))
        client.microphone.end(1)
        done = (await event(client, "response.done", within=60.0))["response"]
        assert done["status"] in ("completed", "incomplete")
        parts = [float(done["metadata"][f"{part}_ms"]) for part in ("prefill", "decode", "flow", "codec")]
        assert min(parts) > 0
        await eventually(lambda: np.abs(client.speaker.recording()).max(initial=0.0) > 0)
    await engine.stop()


async def test_the_buffer_events_bracket_the_sound(speechlike: Speech) -> None:
    async with talking(FakeEngine(words=2)) as (_, client):
        client.microphone.push(1, speechlike(0.8))
        client.microphone.end(1)
        response = (await event(client, "response.created"))["response"]["id"]
        assert (await event(client, "output_audio_buffer.started"))["response_id"] == response
        assert (await event(client, "output_audio_buffer.stopped"))["response_id"] == response


async def test_barge_in_stops_the_sound_and_history_keeps_what_was_heard(speechlike: Speech) -> None:
    async with talking(FakeEngine(words=20)) as (server, client):
        client.microphone.push(1, speechlike(0.8))
        client.microphone.end(1)
        await event(client, "output_audio_buffer.started")
        for _ in range(4):  # captions come as the words are spoken
            await event(client, "response.output_audio_transcript.delta")
        client.microphone.push(2, speechlike(1.0, seed=1))
        client.microphone.end(2)
        await event(client, "input_audio_buffer.speech_started")
        cancelled = (await event(client, "response.done"))["response"]
        assert cancelled["status"] == "cancelled"
        await event(client, "output_audio_buffer.cleared")
        cut = (await event(client, "conversation.item.truncated"))["audio_end_ms"]
        await asyncio.sleep(0.25)
        sound = client.speaker.recording()
        loud = sum(voiced(sound[start : start + 160]) is not None for start in range(0, len(sound), 160))
        # Where a busy machine stalled, the client hid the gap.
        invented = call_of(client).receiver.stats.gap_samples / 48
        assert 10 * loud <= cut + 200 + invented  # nothing more has left than was counted as heard
        heard = words(client)
        said = cancelled["output"][0]["content"][0]["transcript"].split()
        assert heard == list(range(1, len(heard) + 1))
        assert 3 <= len(heard) < 12
        assert abs(len(said) - len(heard)) <= 1
        await event(client, "output_audio_buffer.started")  # and the second turn gets its answer
        history = server.engine.sessions[0].history
        assert Message("assistant", " ".join(said)) in history


async def test_loss_and_jitter_on_the_way_in_do_not_spoil_the_turn(speechlike: Speech) -> None:
    """A tenth of the packets lost, the others up to 40 ms late and out of order, injected before the jitter buffer."""
    async with talking() as (server, client):
        (call,) = server.calls
        receive, rng = call.receiver.receive, np.random.default_rng(5)
        loop = asyncio.get_running_loop()

        def rough(sequence: int, timestamp: int, payload: bytes) -> None:
            if rng.random() > 0.1:
                loop.call_later(rng.uniform(0, 0.04), receive, sequence, timestamp, payload)

        call.receiver.receive = rough
        before = call.receiver.stats.received
        client.microphone.push(1, speechlike(2.0))
        client.microphone.end(1)
        await event(client, "input_audio_buffer.speech_started")
        stopped = await event(client, "input_audio_buffer.speech_stopped")
        assert call.receiver.stats.lost > 0
        assert call.receiver.stats.reordered > 0
        assert call.receiver.buffer.delay <= 0.1
        assert call.receiver.stats.received > before
        assert (await event(client, "response.done"))["response"]["status"] == "completed"
        assert stopped["audio_end_ms"] > 1900


async def test_hanging_up_frees_the_slot() -> None:
    async with Server(FakeEngine(slots=1), load_settings()) as server:
        for _ in range(3):
            async with caller(server) as client:
                await event(client, "session.created")
                assert server.engine.in_use == 1
            await eventually(lambda: server.engine.in_use == 0 and not len(server.calls))


@pytest.mark.parametrize(("method", "path", "status"), [("DELETE", "", 204), ("POST", "/hangup", 200)])
async def test_a_call_ends_by_http(method: str, path: str, status: int) -> None:
    async with talking() as (server, client), httpx.AsyncClient(base_url=server.url) as http:
        location = call_of(client).location
        assert location is not None
        assert (await http.request(method, location + path)).status_code == status
        assert server.engine.in_use == 0
        gone = await http.request(method, location + path)
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "no_such_call"


async def test_events_of_the_client_are_answered() -> None:
    async with talking() as (_, client):
        client.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief."}})
        assert (await event(client, "session.updated"))["session"]["instructions"] == "Be brief."
        client.send({"type": "no.such.event", "event_id": "mine"})
        error = (await next_event(client))["error"]
        assert (error["code"], error["event_id"]) == ("unknown_event", "mine")
        # A client that does not keep to what was announced.
        call_of(client)._channel.transport._remote_max_message_size = 0
        client.send({"type": "input_audio_buffer.append", "audio": "A" * 300_000})
        assert (await next_event(client))["error"]["code"] == "event_too_large"
        client.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Go on."}})
        await event(client, "session.updated")


async def next_event(client: Caller) -> Event:
    async with asyncio.timeout(30):  # how long a busy machine may take; nothing waits for it otherwise
        return await anext(client)


async def offer_of(candidates: bool = False) -> str:
    """An offer that nobody will follow up."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("audio")
    peer.createDataChannel("oai-events")
    offer = await peer.createOffer()
    if candidates:
        await peer.setLocalDescription(offer)
        offer = peer.localDescription
    await peer.close()
    sdp: str = offer.sdp
    return sdp


async def post(server: Server, sdp: str, path: str = "/v1/realtime/calls") -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url) as http:
        return await http.post(path, content=sdp, headers={"Content-Type": "application/sdp"})


async def test_the_answer_is_complete_and_given_once() -> None:
    async with Server(FakeEngine(), load_settings()) as server:
        sdp = await offer_of()
        first = await post(server, sdp)
        assert first.status_code == 201
        assert first.headers["content-type"].startswith("application/sdp")
        assert "a=candidate:" in first.text
        assert " 127.0.0.1 " in first.text
        assert "a=end-of-candidates" in first.text
        assert "opus/48000" in first.text
        assert "PCMU" not in first.text
        again = await post(server, sdp)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_answered")
        onto = await post(server, await offer_of(), first.headers["location"])
        assert (onto.status_code, onto.json()["error"]["code"]) == (409, "already_answered")
        assert server.engine.in_use == 1


async def test_a_full_server_says_when_to_try_again() -> None:
    async with Server(FakeEngine(slots=1), load_settings()) as server:
        assert (await post(server, await offer_of())).status_code == 201
        refused = await post(server, await offer_of())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "session_limit_reached"


async def test_bad_offers_take_no_slot() -> None:
    async with Server(FakeEngine(), load_settings(max_offer_bytes=20_000)) as server:
        good = await offer_of()
        for sdp, status in (("nonsense", 400), (good.replace("opus", "speex"), 400), ("x" * 20_001, 413)):
            refused = await post(server, sdp)
            assert refused.status_code == status
            assert set(refused.json()["error"]) == {"type", "code", "message"}
        assert server.engine.in_use == 0
        assert len(server.calls) == 0


async def test_a_call_that_never_connects_is_dropped() -> None:
    async with Server(FakeEngine(), load_settings(connect_timeout_s=0.5)) as server:
        assert (await post(server, await offer_of())).status_code == 201
        assert server.engine.in_use == 1
        await eventually(lambda: server.engine.in_use == 0)


async def test_a_quiet_peer_is_kept_and_a_dead_one_dropped() -> None:
    async with talking(peer_timeout_s=1.0) as (server, client):
        transport = call_of(client)._peer.getTransceivers()[0].sender.transport.transport

        async def lose(_: bytes) -> None:
            return None

        transport._send = lose  # no more sound, no reports: but it still answers checks
        await asyncio.sleep(2.5)
        assert server.engine.in_use == 1
        for protocol in transport._connection._protocols:  # now not even those, and no good-bye
            protocol.send_stun = lambda *_: None
        await eventually(lambda: server.engine.in_use == 0)


async def test_events_for_a_peer_that_has_just_gone_are_lost_without_complaint() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with talking() as (server, client):
        (call,) = server.calls
        peer = call._peer
        assert peer is not None
        peer.sctp.transport.on("statechange", lambda: call._send(EventError("late", "nobody hears this").event()))
        await call_of(client)._peer.sctp.transport.stop()
        await eventually(lambda: not len(server.calls))
        gc.collect()
        await asyncio.sleep(0)
    assert not complaints


def test_settings_of_servers_that_cannot_be_are_refused() -> None:
    from speechgpt_gen.models.errors import ConfigError

    with pytest.raises(ConfigError, match="no STUN or TURN address"):
        Calls(FakeEngine(), load_settings(stun=["example.org"]))


async def test_the_session_of_a_form_is_there_from_the_first_event_or_refused_by_name() -> None:
    async with Server(FakeEngine(slots=2), load_settings(vad="webrtc", max_sessions_per_client=1)) as server:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver("audio")
        channel = peer.createDataChannel("oai-events")
        came: asyncio.Queue[str] = asyncio.Queue()
        channel.on("message", came.put_nowait)
        await peer.setLocalDescription(await peer.createOffer())

        async def post(session: dict[str, Any]) -> httpx.Response:
            form = {"sdp": (None, peer.localDescription.sdp), "session": (None, json.dumps(session))}
            async with httpx.AsyncClient() as http:
                return await http.post(f"{server.url}/v1/realtime/calls", files=form)

        refused = await post({"audio": {"output": {"voice": "nobody"}}})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "session.audio.output.voice"
        assert server.engine.in_use == len(server.calls) == 0
        answer = await post({"type": "realtime", "instructions": "Be brief."})
        assert answer.status_code == 201
        another = await post({})
        assert another.status_code == 409
        with pytest.raises(ServerError, match="one client may hold 1"):
            await caller(server).__aenter__()
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        async with asyncio.timeout(15):
            created = json.loads(await came.get())
        assert created["session"]["instructions"] == "Be brief."
        await peer.close()
        await eventually(lambda: not len(server.calls))
        async with caller(server) as client:
            await event(client, "session.created")
