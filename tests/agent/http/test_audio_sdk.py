"""The stock `openai` SDK speaks and listens through the HTTP endpoints of the real server."""

from __future__ import annotations

import base64
import io
import json

import av
import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine, FakeSession
from speechgpt_gen.streaming.engine.protocol import Request
from speechgpt_gen.streaming.engine.tones import decode_words

TEXT = "One two three. Four, five."
ASK = {"model": "tts-1", "voice": "first", "input": TEXT, "response_format": "pcm"}


def decoded(data: bytes) -> tuple[NDArray[np.float32], int]:
    """The sound of a file, and its rate."""
    with av.open(io.BytesIO(data)) as file:
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
        scale = 32768 if samples.dtype == np.int16 else 1
        return (samples / scale).astype(np.float32), file.streams.audio[0].rate


def from_pcm(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<i2") / np.float32(32768)


@pytest.mark.parametrize("name", ["wav", "pcm", "mp3", "opus", "aac", "flac"])
async def test_speech_streams_in_every_format(serve, name):
    server = await serve()
    pieces = []
    ask = {**ASK, "voice": "second", "response_format": name}
    async with server.sdk.audio.speech.with_streaming_response.create(**ask) as response:
        kinds = {"mp3": "mpeg", "opus": "ogg"}
        assert response.headers["content-type"] == f"audio/{kinds.get(name, name)}"
        async for piece in response.iter_bytes():
            pieces.append(piece)
    data = b"".join(pieces)
    assert len(pieces) > 1
    pcm, rate = (from_pcm(data), 24_000) if name == "pcm" else decoded(data)
    assert decode_words(pcm, rate) == [1, 2, 3, 4, 5]
    assert len(pcm) / rate == pytest.approx(2.5, abs=0.1)
    await server.settled()


async def test_the_hosted_services_voices_and_own_ones_by_object(serve):
    server = await serve()
    for voice in ("alloy", "nova", "first", {"id": "second"}):
        said = await server.sdk.audio.speech.create(model="x", voice=voice, input="Hi.", response_format="pcm")
        assert len(said.content) == 24_000


async def test_speech_as_events(serve):
    server = await serve()
    async with server.http.stream("POST", "/v1/audio/speech", json={**ASK, "stream_format": "sse"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]
    pcm = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert decode_words(from_pcm(pcm), 24_000) == [1, 2, 3, 4, 5]
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["output_tokens"] == 125


@pytest.mark.parametrize("text", ["%", "\u00e9\u00e8", "5 & 6", "\uff21\uff22", "\u00bd", "ok \U0001f600"])
async def test_signs_that_have_a_name_are_spoken(serve, text):
    server = await serve()
    said = await server.sdk.audio.speech.create(**{**ASK, "input": text})
    assert len(said.content) == 24_000 * len(text.split())


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.5, 4.0])
async def test_speed(serve, speed):
    server = await serve()
    said = await server.sdk.audio.speech.create(**{**ASK, "input": f"{TEXT} " * 4}, speed=speed)
    assert len(said.content) / 48_000 == pytest.approx(10 / speed, rel=0.03)


async def test_a_long_text_is_spoken_to_its_end(serve):
    server = await serve()
    text = " ".join(f"This is sentence number {number}." for number in range(130))
    assert 3000 < len(text) <= 4096
    said = await server.sdk.audio.speech.create(**{**ASK, "input": text})
    assert len(said.content) == 24_000 * len(text.split())


@pytest.mark.parametrize("name", ["json", "text", "verbose_json"])
async def test_transcription(serve, wav, spoken, name):
    server = await serve()
    file = ("speech.wav", wav(spoken))
    heard = await server.sdk.audio.transcriptions.create(model="whisper-1", file=file, response_format=name)
    if name == "text":
        assert heard == "what is the time\n"
        return
    assert heard.text == "what is the time"
    assert heard.usage.seconds == 2.0
    if name == "verbose_json":
        assert (heard.duration, heard.language) == (2.0, "english")
        (segment,) = heard.segments
        assert (segment.start, segment.end, segment.text) == (0.0, 2.0, "what is the time")


async def test_a_transcript_streams(serve, wav, spoken):
    server = await serve()
    stream = await server.sdk.audio.transcriptions.create(model="x", file=("a.wav", wav(spoken)), stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == events[-1].text == "what is the time"
    await server.settled()


async def test_a_long_recording_is_heard_in_pieces_cut_where_it_is_quiet(serve, wav):
    server = await serve()
    pcm = 0.1 * np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32)
    pcm[11 * 16_000 : 11 * 16_000 + 8000] = 0
    pcm[21 * 16_000 : 21 * 16_000 + 8000] = 0
    file = ("a.wav", wav(pcm))
    heard = await server.sdk.audio.transcriptions.create(model="x", file=file, response_format="verbose_json")
    begins = [segment.start for segment in heard.segments]
    assert begins[0] == 0
    assert 11.0 < begins[1] < 11.5
    assert 21.0 < begins[2] < 21.5
    assert heard.segments[-1].end == 40.0
    assert heard.text == " ".join(["what is the time"] * len(begins))


@pytest.mark.parametrize(
    ("container", "codec", "rate"), [("webm", "libopus", 48_000), ("mp4", "aac", 44_100), ("mp3", "libmp3lame", 44_100)]
)
async def test_what_browsers_and_phones_record_is_understood(serve, spoken, container, codec, rate):
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(spoken[None], format="flt", layout="mono")
        frame.sample_rate = 16_000
        for converted in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    server = await serve()
    heard = await server.sdk.audio.transcriptions.create(model="x", file=(f"a.{container}", target.getvalue()))
    assert heard.text == "what is the time"
    assert heard.usage.seconds == pytest.approx(2.0, abs=0.1)


async def test_models(serve):
    server = await serve()
    assert [model.id async for model in server.sdk.models.list()] == ["fake"]
    assert (await server.sdk.models.retrieve("fake")).owned_by == "speechgpt-gen"
    with pytest.raises(openai.NotFoundError) as refused:
        await server.sdk.models.retrieve("gpt-4/x")
    assert refused.value.code == "model_not_found"


async def test_a_voice_is_made_and_spoken_in_and_converted_to(serve, wav, spoken):
    server = await serve()
    form = {"name": "  Jo   March ", "consent": "true"}
    made = await server.http.post("/v1/voices", data=form, files={"file": ("jo.wav", wav(spoken))})
    assert made.status_code == 201
    voice = made.json()
    assert voice["name"] == "Jo March"
    assert voice in (await server.http.get("/v1/voices")).json()["data"]
    said = await server.sdk.audio.speech.create(model="x", voice=voice["id"], input="Hi.", response_format="wav")
    assert load_audio(io.BytesIO(said.content)).size == 8000
    form = {"voice": voice["id"], "response_format": "wav"}
    answer = await server.http.post("/v1/audio/conversions", data=form, files={"file": ("a.wav", wav(spoken[:20_000]))})
    assert answer.headers["content-type"] == "audio/wav"
    again = load_audio(io.BytesIO(answer.content))
    assert decode_words(again) == [1, 2, 3]
    assert len(again) == -(-20_000 // 320) * 320
    await server.settled()


async def test_a_voice_needs_consent(serve, wav, spoken):
    server = await serve()
    for form in ({}, {"consent": "false"}):
        refused = await server.http.post("/v1/voices", data=form, files={"file": ("a.wav", wav(spoken))})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "consent_required")
    assert (await server.http.post("/v1/voices", content=wav(spoken))).status_code == 400
    assert (await server.http.post("/v1/voices?consent=true", content=wav(spoken))).status_code == 201


async def test_full_is_503_and_says_when_to_try_again(serve, wav, spoken):
    server = await serve(FakeEngine(slots=1))
    taken = await server.engine.open()
    for path, ask in (
        ("speech", {"json": ASK}),
        ("transcriptions", {"data": {"model": "x"}, "files": {"file": wav(spoken)}}),
        ("conversions", {"data": {"voice": "first"}, "files": {"file": wav(spoken)}}),
    ):
        refused = await server.http.post(f"/v1/audio/{path}", **ask)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "session_limit_reached"
        assert int(refused.headers["retry-after"]) > 0
    await taken.close()
    assert (await server.http.post("/v1/audio/speech", json=ASK)).status_code == 200


async def test_whoever_hangs_up_frees_the_slot_at_once(serve):
    """Before the first sound, and in the middle of it."""
    slow = FakeEngine(slots=1, clock=RealClock(), delay=3600.0)
    server = await serve(slow)
    with pytest.raises(httpx.ReadTimeout):
        await server.http.post("/v1/audio/speech", json=ASK, timeout=0.5)
    await server.settled()
    slow.delay, slow.pace = 0.0, 1.0
    async with server.http.stream("POST", "/v1/audio/speech", json={**ASK, "input": f"{TEXT} " * 30}) as response:
        await anext(response.aiter_bytes())
        assert server.engine.in_use == 1
    await server.settled()


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_whoever_hangs_up_is_not_listened_to_any_more(serve, wav, spoken, monkeypatch, stream):
    generate = FakeSession.generate
    # As long as it takes to begin to speak, the engine does not come to the end of what it heard.
    monkeypatch.setattr(FakeSession, "generate", lambda session, _: generate(session, Request("say", "x")))
    server = await serve(FakeEngine(slots=1, clock=RealClock(), delay=3600.0))
    form = {"model": "x", "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        await server.http.post("/v1/audio/transcriptions", data=form, files={"file": wav(spoken)}, timeout=1.0)
    await server.settled()


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(serve):
    server = await serve(FakeEngine(fail_at=3))
    with pytest.raises(httpx.RemoteProtocolError):
        await server.http.post("/v1/audio/speech", json=ASK)
    await server.settled()
    server.engine.fail_at = 1
    refused = await server.http.post("/v1/audio/speech", json=ASK)
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "engine_error")
    server.engine.fail_at = None
    assert (await server.http.post("/v1/audio/speech", json=ASK)).status_code == 200
