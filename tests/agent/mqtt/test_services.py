"""Listening and speaking as services, for other dialogue managers on the broker."""

import io
import wave

import numpy as np
import pytest

from speechgpt_gen.agent.mqtt.wav import MAX_WAV, WavDecoder
from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming.engine.tones import decode_words, word_tone


async def test_listening_for_another_dialogue_manager(house):
    h = house(transcript="dim the lights", mqtt_roles=["asr"])
    h.tell("hermes/asr/startListening", siteId="hall", sessionId="theirs", wakewordId="w", sendAudioCaptured=True)
    await h.clock.settle()
    await h.say(1.0, 0.6, site="hall")
    captured = h.one("textCaptured")
    assert captured["text"] == "dim the lights"
    assert (captured["siteId"], captured["sessionId"], captured["wakewordId"]) == ("hall", "theirs", "w")
    assert captured["likelihood"] == 1.0
    assert captured["seconds"] >= 0
    (recorded,) = [payload for _, topic, payload in h.sent if topic == "rhasspy/asr/hall/theirs/audioCaptured"]
    with wave.open(io.BytesIO(recorded)) as file:
        assert 1.2 < file.getnframes() / 16_000 <= 1.6
    assert h.engine.in_use == 0
    assert not h.pieces("hall")


async def test_without_stop_on_silence_only_stop_listening_ends_it(house):
    h = house(mqtt_roles=["asr"])
    h.tell("hermes/asr/startListening", sessionId="theirs", stopOnSilence=False)
    await h.clock.settle()
    await h.say(0.5, 2.0, 0.5)
    assert not h.all("textCaptured")
    h.tell("hermes/asr/stopListening", sessionId="theirs")
    await h.clock.advance(0.1)
    assert h.one("textCaptured")["text"] == "hello"


async def test_where_nobody_spoke_the_text_is_empty(house):
    h = house(mqtt_roles=["asr"])
    h.tell("hermes/asr/startListening", sessionId="theirs")
    await h.clock.settle()
    await h.say(0, 1.0)
    h.tell("hermes/asr/stopListening", sessionId="theirs")
    await h.clock.advance(0.1)
    captured = h.one("textCaptured")
    assert (captured["text"], captured["likelihood"]) == ("", 0.0)
    assert not h.all("error/asr")


async def test_frames_of_one_session_are_heard_by_that_session(house):
    h = house(mqtt_roles=["asr"])
    h.tell("hermes/asr/startListening", siteId="hall", sessionId="a")
    h.tell("hermes/asr/startListening", siteId="hall", sessionId="b")
    await h.clock.settle()
    frame = wav(np.full(16_000, 0.1, np.float32))
    h.door.take("hermes/audioServer/hall/b/audioSessionFrame", frame)
    h.door.take("hermes/audioServer/hall/b/audioSessionFrame", wav(np.zeros(16_000, np.float32)))
    await h.clock.advance(0.2)
    assert h.one("textCaptured")["sessionId"] == "b"


async def test_listening_is_refused_when_it_is_full(house):
    h = house(slots=1, mqtt_roles=["asr"])
    slot = await h.engine.open()
    h.tell("hermes/asr/startListening", siteId="hall", sessionId="theirs")
    await h.clock.advance(0.1)
    error = h.one("hermes/error/asr")
    assert "slots are taken" in error["error"]
    assert (error["siteId"], error["sessionId"]) == ("hall", "theirs")
    await slot.close()


async def test_say_is_played_and_finished(house):
    h = house()
    h.tell("hermes/tts/say", text="one two three", siteId="hall", id="mine", sessionId="s")
    await h.clock.advance(1.4)
    assert [topic.rpartition("/")[2] for _, topic, _ in h.sent] == ["mine", "mine-1"]
    await h.clock.advance(0.2)
    assert h.words("hall") == [1, 2, 3]
    assert h.one("sayFinished") == {"id": "mine", "siteId": "hall", "sessionId": "s"}
    assert h.engine.in_use == 0


async def test_texts_are_said_one_after_the_other(house):
    h = house()
    for text in ("one two", "one two three"):
        h.tell("hermes/tts/say", text=text)
    await h.clock.advance(0.9)
    assert h.words() == [1, 2]
    await h.clock.advance(3)
    assert h.words() == [1, 2, 1, 2, 3]
    assert len(h.all("sayFinished")) == 2


async def test_volume(house):
    h = house()
    h.tell("hermes/tts/say", text="one", volume=0.5)
    h.tell("hermes/tts/say", text="one", volume=0)
    await h.clock.advance(3)
    (_, half), (_, none) = h.pieces()
    assert np.abs(half).max() == pytest.approx(0.15, abs=0.01)
    assert not none.any()


async def test_say_that_fails_is_told_and_still_finished(house):
    h = house(slots=1)
    slot = await h.engine.open()
    h.tell("hermes/tts/say", text="one", id="i")
    await h.clock.advance(0.1)
    assert "slots are taken" in h.one("error/tts")["error"]
    assert h.one("sayFinished")["id"] == "i"
    await slot.close()
    h.tell("hermes/tts/say", text="...", id="j")
    await h.clock.advance(0.1)
    assert "nothing that can be spoken" in h.all("error/tts")[1]["error"]


async def test_a_long_text_is_said_in_passages_that_an_engine_takes(house):
    h = house()
    text = "The cat sat on the mat. " * 150
    h.tell("hermes/tts/say", text=text)
    await h.clock.advance(1)
    (slot,) = h.engine.sessions
    (request,) = slot.requests
    assert len(request.text) <= 1000
    assert text.startswith(request.text)


async def test_voices(house):
    h = house()
    h.tell("rhasspy/tts/getVoices", id="q", siteId="hall")
    answer = h.one("rhasspy/tts/voices")
    assert answer["id"] == "q"
    assert [voice["voiceId"] for voice in answer["voices"]] == ["first", "second"]


def wav(pcm: np.ndarray, rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        values = np.round(pcm * (2 ** (8 * width - 1) - 1)).astype("<i8") + (128 if width == 1 else 0)
        octets = np.repeat(values[:, None], channels, axis=1).reshape(-1, 1).view(np.uint8).reshape(-1, 8)[:, :width]
        file.writeframes(octets.tobytes())
    return target.getvalue()


@pytest.mark.parametrize(("rate", "width", "channels"), [(16_000, 2, 1), (48_000, 2, 2), (22_050, 1, 1), (8_000, 4, 1)])
def test_any_wav_is_converted(rate, width, channels):
    tone = np.concatenate([word_tone(7), word_tone(12)])
    at = np.linspace(0, len(tone) - 1, len(tone) * rate // 16_000)
    samples = np.interp(at, np.arange(len(tone)), tone).astype(np.float32)
    decode = WavDecoder()
    pieces = [decode(wav(samples[i : i + 1000], rate, width, channels)) for i in range(0, len(samples), 1000)]
    assert decode_words(np.concatenate(pieces)) == [7, 12]


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"not a wav file", wav(np.zeros(10, np.float32))[:30], b"\0" * (MAX_WAV + 1)]
)
def test_what_is_no_wav(data):
    with pytest.raises(AudioError):
        WavDecoder()(data)
