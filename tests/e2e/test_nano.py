"""nano in the page: a recorded question at the microphone, and an answer that a recogniser reads as its caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soxr

from speechgpt_gen import SpeechGPTGen
from speechgpt_gen.models.evaluation.judges import Judges

pytestmark = [pytest.mark.browser, pytest.mark.slow]

QUESTION = "What is the capital of France?"
LOOP_SECONDS = 20.0
"""The answer ends before the question is asked again."""


def test_what_is_heard_is_what_is_captioned(nano: Any, chromium: Callable[..., Any], visit: Callable[..., Any]) -> None:
    question = SpeechGPTGen.load("nano").say(QUESTION, voice="am_michael").pcm
    recording = np.zeros(round(LOOP_SECONDS * 16_000), np.float32)
    recording[16_000:][: len(question)] = question
    user = visit(nano.url, using=chromium(recording))
    user.page.click("#talk")
    user.look("listening", "hearing")
    user.record()
    user.look("speaking", timeout=40)
    user.look("listening", timeout=40)
    user.page.wait_for_timeout(500)
    (_, asked), (who, answer) = user.lines()[:2]
    assert who == "Agent"
    assert asked

    judges = Judges()
    heard = judges.read(soxr.resample(user.recording(), 48_000, 16_000))
    wrong, words = judges.errors(answer, heard)
    assert words >= 2
    assert wrong <= 0.5 * words, f"captioned {answer!r}, heard {heard!r}"
