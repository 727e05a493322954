"""What should never have been sent: each a 4xx in OpenAI's error form, and the server goes on."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.engine.fake import FakeEngine


def sound_file(pcm: Any, rate: int = 16_000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    target = io.BytesIO()
    sf.write(target, pcm, rate, format=format, subtype=subtype)
    return target.getvalue()


TONE = (0.1 * np.sin(np.arange(16_000) / 10)).astype(np.float32)
GOOD = sound_file(TONE)
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n"
BAD_RECORDINGS = {
    "empty": b"",
    "text": b"no sound at all",
    "truncated": GOOD[: len(GOOD) // 2],
    "only a header": GOOD[:44],
    "zero samples": sound_file(np.zeros(0)),
    "NaN": sound_file(np.where(np.arange(16_000) == 7, np.nan, TONE), subtype="FLOAT"),
    "infinite": sound_file(np.where(np.arange(16_000) == 7, np.inf, TONE), subtype="FLOAT"),
    "far too loud": sound_file(1e6 * TONE, subtype="FLOAT"),
    "an hour": sound_file(np.zeros(3600 * 4000, np.float32), 4000, "FLAC"),
    "hundreds of megabytes when unpacked": sound_file(np.zeros((500 * 20_000, 8)), 20_000, "FLAC"),
    "too low a rate": sound_file(TONE, 2000),
    "too many channels": sound_file(np.zeros((800, 20))),
    "a playlist": PLAYLIST,
    "webm that ends": b"\x1a\x45\xdf\xa3" + bytes(100),
    "mp4 that ends": b"\x00\x00\x00\x20ftypisom" + bytes(100),
    "a wav that lies about its rate": GOOD[:24] + struct.pack("<I", 0) + GOOD[28:],
}


@pytest.fixture(scope="module")
def client():
    with TestClient(
        create_app(FakeEngine(slots=2), Settings(max_voice_bytes=2**24)), base_url="http://localhost"
    ) as it:
        yield it


def assert_refused(answer: Any, status: int = 400, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) - {"param"} == {"type", "code", "message"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "\n" not in error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize("name", BAD_RECORDINGS)
def test_recordings_that_cannot_be_used(client, name):
    file = {"file": ("a.wav", BAD_RECORDINGS[name])}
    assert_refused(client.post("/v1/audio/transcriptions", data={"model": "x"}, files=file), param="file")
    assert_refused(client.post("/v1/audio/conversions", data={"voice": "first"}, files=file), param="file")
    assert_refused(client.post("/v1/voices", data={"consent": "true"}, files=file), param="file")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"voice": 3}, "voice"),
        ({"voice": None}, "voice"),
        ({"input": ""}, "input"),
        ({"input": " \u2014 \U0001f600 ...!"}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"input": ["Hi"]}, "input"),
        ({"response_format": "mp4"}, "response_format"),
        ({"speed": 0.1}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"stream_format": "x"}, "stream_format"),
        ({"model": None}, "model"),
    ],
)
def test_speech_that_cannot_be_made(client, change, param):
    ask = {"model": "x", "voice": "first", "input": "Hi.", **change}
    assert_refused(client.post("/v1/audio/speech", json=ask), param=param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"model": "x"}'])
def test_bodies_that_are_no_request(client, body):
    assert_refused(client.post("/v1/audio/speech", content=body))


def test_json_may_hold_not_a_number(client):
    body = json.dumps({"model": "x", "voice": "first", "input": "Hi.", "speed": float("nan")})
    assert_refused(client.post("/v1/audio/speech", content=body), param="speed")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "model"),
        ({"model": "x", "language": "de"}, "language"),
        ({"model": "x", "response_format": "srt"}, "response_format"),
        ({"model": "x", "timestamp_granularities[]": "word"}, "timestamp_granularities[0]"),
        ({"model": "x", "stream": "perhaps"}, "stream"),
    ],
)
def test_transcriptions_that_cannot_be_made(client, fields, param):
    file = {"file": ("a.wav", GOOD)}
    assert_refused(client.post("/v1/audio/transcriptions", data=fields, files=file), param=param)


def test_forms_that_are_none(client):
    for path in ("/v1/audio/transcriptions", "/v1/audio/conversions"):
        assert_refused(client.post(path, content=GOOD), 415)
        assert_refused(client.post(path, data={"model": "x"}), 415)
        assert_refused(client.post(path, files={"other": b"x"}, data={"model": "x", "voice": "first"}), param="file")
        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert_refused(client.post(path, content=b"--y\r\nrubbish", headers=headers))
        headers = {"content-type": "multipart/form-data"}
        assert_refused(client.post(path, content=b"--y\r\nrubbish", headers=headers))
        many = {f"field{number}": "x" for number in range(1000)}
        assert_refused(client.post(path, data=many, files={"file": GOOD}))


def test_wrong_addresses_and_methods(client):
    assert_refused(client.get("/v1/audio/speech"), 405)
    assert_refused(client.post("/v1/audio/nothing"), 404)
    assert_refused(client.get("/v1/models/another"), 404)


def test_what_is_too_large_is_refused_before_it_is_all_read():
    limits = Settings(max_upload_bytes=50_000, max_voice_bytes=50_000)

    def endless():
        for _ in range(100):
            yield bytes(10_000)

    with TestClient(create_app(FakeEngine(), limits), base_url="http://localhost") as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        for body in (endless(), bytes(60_000)):
            assert_refused(client.post("/v1/audio/transcriptions", content=body, headers=headers), 413)
        assert_refused(client.post("/v1/voices?consent=true", content=endless()), 413)
        assert_refused(client.post("/v1/audio/speech", content=bytes(2**20 + 1)), 413)


# Fuzzed by the protocol's own shapes ---------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.just("first"),
    st.just({"id": "first"}),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
formats = st.sampled_from(["mp3", "opus", "aac", "flac", "wav", "pcm", "text", "json", "verbose_json", "x"])
names = ["model", "input", "voice", "response_format", "speed", "stream_format", "instructions", "language", "stream"]
requests = st.fixed_dictionaries(
    {"model": values | st.just("x"), "voice": values | st.just("first"), "input": values | st.text(max_size=60)},
    optional={"response_format": formats | values, "speed": values | st.floats(0.2, 5), "stream_format": values},
)
fields = st.dictionaries(
    st.sampled_from([*names, "timestamp_granularities[]", "consent", "name"]),
    st.text(max_size=12) | formats,
    max_size=6,
)
FILES = [GOOD, *BAD_RECORDINGS.values()]


@st.composite
def recordings(draw: Callable[..., Any]) -> bytes:
    """A recording with bytes changed, cut out or put in; or none at all."""
    data = bytearray(draw(st.sampled_from([file for file in FILES if len(file) < 2**17])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
    return bytes(data)


def assert_answered(answer: Any) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert_refused(answer, answer.status_code)


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@FUZZ
@given(ask=requests | values)
def test_fuzzed_speech(client, ask):
    assert_answered(client.post("/v1/audio/speech", content=json.dumps(ask)))


@FUZZ
@given(form=fields, file=recordings(), path=st.sampled_from(["audio/transcriptions", "audio/conversions", "voices"]))
def test_fuzzed_uploads(client, form, file, path):
    form = {"model": "x", "voice": "first", **form}
    assert_answered(client.post(f"/v1/{path}", data=form, files={"file": ("a", file)}))


@FUZZ
@given(
    body=st.binary(max_size=300), boundary=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=5)
)
def test_fuzzed_forms(client, body, boundary):
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    body = body.replace(b"|", f"\r\n--{boundary}\r\n".encode())
    assert_answered(client.post("/v1/audio/transcriptions", content=body, headers=headers))


def test_after_all_that_no_slot_is_taken_and_it_still_speaks(client):
    assert client.get("/readyz").json()["slots_in_use"] == 0
    ask = {"model": "x", "voice": "first", "input": "Hi.", "response_format": "pcm"}
    assert len(client.post("/v1/audio/speech", json=ask).content) == 24_000


async def test_many_at_once_are_all_answered(serve):
    server = await serve(FakeEngine(slots=2))
    ask = {"model": "x", "voice": "first", "input": "Hi there.", "response_format": "opus"}
    answers = await asyncio.gather(*(server.http.post("/v1/audio/speech", json=ask) for _ in range(20)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    await server.settled()
