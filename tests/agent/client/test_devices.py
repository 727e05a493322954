"""Microphone and loudspeaker on a stand-in for PortAudio: what its threads give and get."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speechgpt_gen.client import Microphone, Speaker
from speechgpt_gen.models.errors import AudioError, ConfigError
from speechgpt_gen.streaming.engine.tones import decode_words, word_tone

RATE = 48_000


class Streams(ModuleType):
    """sounddevice as far as it is used, with one device of 48 kHz."""

    class PortAudioError(Exception):
        """What PortAudio complains of."""

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.open: dict[str, SimpleNamespace] = {}
        self.InputStream = lambda **options: self._stream("input", options)
        self.OutputStream = lambda **options: self._stream("output", options)

    def _stream(self, kind: str, options: dict[str, Any]) -> SimpleNamespace:
        if options["device"] == "nowhere":
            raise ValueError("No input device matching\n'nowhere'")
        state = SimpleNamespace(samplerate=float(RATE), running=False, **options)
        state.start = lambda: setattr(state, "running", True)
        state.close = lambda: setattr(state, "running", False)
        self.open[kind] = state
        return state


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    fake = Streams()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_the_microphone_gives_what_was_said_and_silence_else(streams: Streams) -> None:
    words = np.concatenate([word_tone(1), word_tone(2)])
    sound = np.repeat(words, 3)[:, None]
    heard = []
    with Microphone() as microphone:
        assert streams.open["input"].running
        for start in range(0, len(sound), 480):
            streams.open["input"].callback(sound[start : start + 480], 480, None, None)
            heard.append(microphone.pull(160))
        heard += [microphone.pull(160) for _ in range(10)]
        assert decode_words(np.concatenate(heard)) == [1, 2]
        streams.open["input"].callback(sound[:48_000], 48_000, None, None)
        waiting = 0
        while np.abs(microphone.pull(160)).max() > 0:
            waiting += 160
        assert waiting <= 16_000 + 1600 + 160
        microphone.muted = True
        streams.open["input"].callback(sound[:4800], 4800, None, None)
        assert np.abs(microphone.pull(1600)).max() == 0
        assert microphone.level == -100
    assert not streams.open["input"].running


def test_the_speaker_plays_all_of_it_and_stops_at_once(streams: Streams) -> None:
    played = []
    with Speaker() as speaker:
        callback = streams.open["output"].callback

        def play(frames: int) -> np.ndarray:
            out = np.empty((frames, 1), np.float32)
            callback(out, frames, None, None)
            return out[:, 0]

        assert np.abs(play(700)).max() == 0
        speaker.begin(paced=False)
        for word in (1, 2, 3):
            speaker.push(word_tone(word))
        played = [play(997) for _ in range(80)]
        assert decode_words(np.concatenate(played), RATE) == [1, 2, 3]
        speaker.push(word_tone(4))
        play(4800)
        assert speaker.flush() > 5000
        play(4800)
        assert np.abs(play(4800)).max() == 0


def test_what_the_sound_card_refuses_is_one_line(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="choose another device") as refused:
        Microphone("nowhere")
    assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"speechgpt-gen\[audio\]"):
        Speaker()
