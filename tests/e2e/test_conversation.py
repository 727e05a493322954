"""Talking to the page: a recorded question at the microphone, and what comes out of the loudspeaker."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from num2words import num2words
from numpy.typing import NDArray

from speechgpt_gen.streaming.engine.tones import decode_words

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def spoken(numbers: list[int]) -> str:
    return " ".join(num2words(number) for number in numbers)


def audible(recording: NDArray[np.float32]) -> list[int]:
    """The numbered words of a recording; one that a busy machine broke in two counts once."""
    return [word for word, _ in groupby(decode_words(recording, 48_000))]


def test_a_spoken_turn_is_heard_and_captioned(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url, keep={"latency": True})
    user.look("off")
    user.page.click("#talk")
    user.look("listening", "hearing")
    user.record()
    user.look("hearing")
    user.look("speaking")
    user.look("listening")
    user.page.wait_for_timeout(500)

    answer = spoken([1, 2, 3, 4, 5])
    assert user.lines()[:2] == [("You", "how are you"), ("Agent", answer)]
    assert audible(user.recording()) == [1, 2, 3, 4, 5]
    assert user.page.inner_text("#announce") == f"Agent: {answer}"
    cells = user.page.eval_on_selector_all("#latency-rows tr:first-child td", "cells => cells.map(c => c.textContent)")
    end, token, audio, played = map(int, cells)
    assert 300 <= end < played, "the server waits for silence before it ends a turn"
    assert token <= audio < played
    assert user.page.inner_text("#latency-p50") == user.page.inner_text("#latency-p95") == cells[-1]


def test_the_panel_tells_what_a_shared_engine_did(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    parts = {"queue": 3.2, "prefill": 5.3, "decode": 57.4, "flow": 8.1, "codec": 0.9}
    user = visit(serve(parts=parts).url, keep={"latency": True})
    user.page.click("#talk")
    user.look("speaking")
    user.page.wait_for_selector("#latency-rows .parts li")
    told = user.page.eval_on_selector_all("#latency-rows .parts li", "items => items.map(i => i.textContent)")
    assert told == ["queue 3", "prefill 5", "decode 57", "flow 8", "codec 1"]
    for width, height in ((1280, 800), (390, 844), (320, 640)):
        user.page.set_viewport_size({"width": width, "height": height})
        panel, row = (user.page.locator(name).bounding_box() for name in ("#latency", "#latency-rows .parts ul"))
        assert panel["x"] <= row["x"]
        assert row["x"] + row["width"] <= panel["x"] + panel["width"]
        assert row["height"] < 40, "two lines at most"
        assert user.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_second_utterance_interrupts(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve(words=60).url)
    user.page.click("#talk")
    user.look("listening", "hearing")
    user.record()
    user.look("speaking")
    user.look("hearing")
    user.page.wait_for_selector(".assistant.cut .mark")
    user.page.wait_for_function("document.querySelectorAll('.line.user').length > 1")
    heard = audible(user.recording())
    answer = user.lines()[1][1]

    assert 2 <= len(heard) < 30, "the answer goes on for half a minute unless it is interrupted"
    assert heard == list(range(1, len(heard) + 1))
    # A word that was cut off in its middle is audible, and may or may not count as heard.
    assert answer in (spoken(heard), spoken(heard[:-1]))
    assert user.page.inner_text(".assistant.cut .mark") == "interrupted"


def test_the_button_stops_an_answer_and_mutes(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve(words=60).url)
    user.page.keyboard.press("Space")
    user.look("speaking", timeout=30)
    assert user.page.get_attribute("#talk", "aria-label") == "Stop the answer"
    user.page.keyboard.press("Space")
    user.look("listening", "hearing")
    user.page.wait_for_selector(".assistant.cut")
    assert user.page.is_hidden("#notice")
    user.page.click("#talk")
    user.look("muted")
    spoke = len(user.lines())
    user.page.wait_for_timeout(9000)
    assert len(user.lines()) <= spoke + 1, "a muted microphone is not heard"
    user.page.click("#end")
    user.look("off")
    assert user.lines(), "what was said stays on the page"


def test_typing_needs_no_microphone(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url, microphone=False)
    for count, question in enumerate(["What is the time?", "And now?"], 1):
        user.page.fill("#type-text", question)
        user.page.keyboard.press("Enter")
        user.page.wait_for_selector(f".assistant.done >> nth={count - 1}")
        user.look("muted")
    said = [
        ("You", "What is the time?"),
        ("Agent", "one two three four five"),
        ("You", "And now?"),
        ("Agent", "one two three four five"),
    ]
    assert user.lines() == said


def test_hold_to_talk(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve(words=4, settings={"max_turn_s": 4}).url, keep={"mode": "hold"})
    user.page.click("#talk")
    user.page.wait_for_selector("#state:text('Hold to talk')")
    user.page.wait_for_timeout(6000)
    assert user.lines() == []
    assert user.page.is_hidden("#notice"), "silence between turns is no turn that grows too long"
    user.page.keyboard.down("Space")
    user.look("hearing")
    user.page.wait_for_timeout(800)
    user.page.keyboard.up("Space")
    user.page.wait_for_selector(".assistant.done")
    assert user.lines() == [("You", "how are you"), ("Agent", "one two three four")]
    # A turn that comes while the answer sounds ends it.
    user.page.hover("#talk")
    for _ in range(2):
        user.page.mouse.down()
        user.page.wait_for_timeout(500)
        user.page.mouse.up()
        user.look("speaking")
    user.page.wait_for_selector(".assistant.cut")


def test_a_screen_reader_can_follow(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url, reduced_motion="reduce")
    names = """parts => parts.filter(part => part.checkVisibility()).map(part => part.getAttribute("aria-label")
        || part.labels?.[0]?.textContent || part.textContent.trim() || part.outerHTML)"""
    labels = user.page.eval_on_selector_all("button, input, select", names)
    assert len(labels) >= 6
    assert not [label for label in labels if not re.match(r"[A-Z]", label)]
    user.page.keyboard.press("Tab")
    assert user.page.evaluate("document.activeElement.textContent") == "Skip to the talk button"
    user.page.keyboard.press("Enter")
    user.page.keyboard.press("Tab") if user.page.evaluate("document.activeElement.id") != "talk" else None
    user.page.wait_for_function("document.activeElement.id === 'talk'")
    user.page.keyboard.press("Enter")
    user.page.wait_for_selector("#announce:text('Agent: one two')", state="attached", timeout=40_000)
    assert user.page.get_attribute("#announce", "aria-live") == "polite"


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_cut_off_on_a_phone(serve: Callable[..., Any], visit: Callable[..., Any], width: int) -> None:
    user = visit(serve().url, viewport={"width": width, "height": 640}, has_touch=True)
    wide = (
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('.hidden, .skip') && "
    )
    wide += "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    for opener in (None, "#latency-toggle", "#settings-open"):
        if opener:
            user.page.click(opener)
        assert user.page.evaluate(wide) == []
        assert user.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
