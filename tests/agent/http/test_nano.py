"""The weights in the package speak, listen and convert for the stock SDK."""

import io

import pytest

from speechgpt_gen import SpeechGPTGen
from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.streaming.engine.local import LocalEngine

TEXT = "The weather is very nice today, and I would like to go for a walk."


@pytest.mark.slow
async def test_nano_speaks_hears_itself_and_changes_its_voice(serve):
    server = await serve(LocalEngine("nano", 1))
    ask = {"model": "nano", "voice": "am_adam", "input": TEXT, "response_format": "wav"}
    pieces = []
    async with server.sdk.audio.speech.with_streaming_response.create(**ask) as response:
        async for piece in response.iter_bytes():
            pieces.append(piece)
    assert len(pieces) > 3
    wav = b"".join(pieces)
    said = load_audio(io.BytesIO(wav))
    assert 2.5 < len(said) / 16_000 < 8
    heard = await server.sdk.audio.transcriptions.create(model="nano", file=("a.wav", wav))
    assert heard.text == SpeechGPTGen.load("nano", dtype="int8").transcribe(io.BytesIO(wav)).strip()
    files, form = {"file": ("a.wav", wav)}, {"voice": "bf_alice", "response_format": "wav"}
    answer = await server.http.post("/v1/audio/conversions", data=form, files=files)
    converted = load_audio(io.BytesIO(answer.content))
    assert len(converted) / 16_000 == pytest.approx(len(said) / 16_000, abs=0.03)
    assert 0.005 < converted.std() < 0.5
    await server.settled()
