"""Both detectors: speech is speech, a room is not, and nothing depends on how the audio was cut or on other streams."""

import numpy as np
import pytest

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.frames import Framer, Pcm
from speechgpt_gen.streaming.vad import VADS, SileroVad, Vad, WebRtcVad, make_vad
from speechgpt_gen.streaming.vad.silero import SileroState, silero

NAMES = sorted(VADS)


def judge(vad: Vad, pcm: Pcm) -> list[float]:
    return [vad.speech(window) for window in Framer(vad.window).push(pcm)]


@pytest.mark.parametrize("name", NAMES)
def test_speech_and_silence(name: str, speech: Pcm, noise: Pcm) -> None:
    assert np.mean(np.array(judge(make_vad(name), speech)) > 0.5) > 0.9
    assert np.mean(np.array(judge(make_vad(name), noise)) < 0.5) > 0.95
    assert max(judge(make_vad(name), np.zeros(16_000, np.float32))) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_quiet_speech_is_found_too(name: str, speech: Pcm) -> None:
    assert np.mean(np.array(judge(make_vad(name), 0.25 * speech)) > 0.5) > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_streams_do_not_mix_and_reset_forgets(name: str, speech: Pcm, noise: Pcm) -> None:
    alone = judge(make_vad(name), speech)
    one, other = make_vad(name), make_vad(name)
    both = zip(Framer(one.window).push(speech), Framer(one.window).push(noise), strict=True)
    assert [(one.speech(a), other.speech(b))[0] for a, b in both] == alone
    assert judge(one, noise) != judge(make_vad(name), noise), "this detector remembers nothing"
    one.reset()
    assert judge(one, speech) == alone


def test_silero_in_one_go_equals_window_by_window(speech: Pcm, noise: Pcm) -> None:
    audio = np.concatenate((noise, speech))
    audio = audio[: len(audio) // SileroVad.window * SileroVad.window]
    whole, state = silero(audio, SileroState.fresh())
    vad = SileroVad()
    assert judge(vad, audio) == pytest.approx(whole.tolist(), abs=1e-6)
    assert np.allclose(vad.state.hidden, state.hidden, atol=1e-5)
    assert np.array_equal(vad.state.context, audio[-64:])


def test_silero_goes_on_from_a_kept_state(speech: Pcm) -> None:
    vad = SileroVad()
    judge(vad, speech[:8192])
    kept = vad.state
    expected = judge(vad, speech[8192:16384])
    vad.state = kept
    assert judge(vad, speech[8192:16384]) == expected


def test_webrtc_gets_used_to_a_fan() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(20 * 16_000)) * np.exp(-np.fft.rfftfreq(20 * 16_000, 1 / 16_000) / 800)
    fan = np.fft.irfft(spectrum)
    fan = (0.04 * fan / fan.std()).astype(np.float32)
    verdicts = judge(WebRtcVad(), fan)
    assert np.mean(verdicts[:250]) > 0.5, "this fan fools nobody"
    assert max(verdicts[-250:]) == 0


def test_unknown_detector() -> None:
    with pytest.raises(ConfigError, match=r"'psychic'; choose one of: silero, webrtc"):
        make_vad("psychic")
