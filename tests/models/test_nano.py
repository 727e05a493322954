"""The model inside the package: it loads, speaks within its limits and weighs what a package may weigh."""

import numpy as np

from speechgpt_gen import SpeechGPTGen
from speechgpt_gen.models.bundle import builtin_models
from speechgpt_gen.models.semantic.vocabulary import N_UNITS


def test_nano_speaks_in_its_own_voices() -> None:
    agent = SpeechGPTGen.load("nano", dtype="int8")
    assert agent.voices[0] == "af_heart"
    for voice in agent.bundle.voices.values():
        assert (voice.units >= N_UNITS).all(), "its flow is told a prompt's detail"
    made = agent.say("Hello.", voice=agent.voices[-1])
    assert made.text == "Hello."
    assert 5 <= made.end_frame <= 200
    assert np.isfinite(made.pcm).all()
    assert 0.005 < made.pcm.std() < 0.5


def test_nano_is_small_enough_to_ship() -> None:
    sizes = [file.stat().st_size for file in builtin_models()["nano"].iterdir()]
    assert max(sizes) <= 45e6
    assert sum(sizes) < 100e6
