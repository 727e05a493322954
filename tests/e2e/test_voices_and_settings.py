"""Voices of one's own, and choices that last."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def recording(seconds: float, level: float = 0.3) -> dict[str, Any]:
    """A file to upload: a stereo WAV at 44.1 kHz, half a second of silence and then a tone."""
    time = np.arange(round(44_100 * seconds)) / 44_100
    tone = level * np.sin(2 * np.pi * 220 * time) * (time > 0.5)
    pcm = (np.stack([tone, tone], axis=1) * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(pcm.tobytes())
    return {"name": "Grandma.wav", "mimeType": "audio/wav", "buffer": buffer.getvalue()}


def test_a_voice_is_uploaded_chosen_and_kept(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    user = visit(server.url)
    user.page.wait_for_selector("#voice option:text('second')", state="attached")
    user.page.click("#voice-add")
    assert user.page.is_disabled("#voice-save")
    user.page.set_input_files("#voice-file", recording(6))
    user.page.wait_for_selector("#voice-status:text('3.0 seconds')")
    assert user.page.input_value("#voice-name") == "Grandma"
    user.page.click("#voice-save")
    user.page.wait_for_selector("#voice-dialog", state="hidden")
    made = server.get("v1/voices")["data"][-1]
    assert made["name"] == "Grandma"
    assert user.page.input_value("#voice") == made["id"]
    user.page.reload()
    user.page.wait_for_selector("#voice option:text('Grandma')", state="attached")
    assert user.page.input_value("#voice") == made["id"]


def test_a_voice_of_ones_own_is_removed(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    user = visit(server.url)
    user.page.wait_for_selector("#voice option:text('second')", state="attached")
    assert user.page.is_hidden("#voice-remove")
    before = server.get("v1/voices")["data"]  # other visitors' too
    user.page.click("#voice-add")
    user.page.set_input_files("#voice-file", recording(6))
    user.page.wait_for_selector("#voice-status:text('3.0 seconds')")
    user.page.click("#voice-save")
    user.page.wait_for_selector("#voice-dialog", state="hidden")
    user.page.once("dialog", lambda question: question.dismiss())
    user.page.click("#voice-remove")
    *others, made = server.get("v1/voices")["data"]
    assert (made["name"], others) == ("Grandma", before)
    user.page.once("dialog", lambda question: question.accept())
    user.page.click("#voice-remove")
    user.page.wait_for_selector("#voice-remove", state="hidden")
    assert server.get("v1/voices")["data"] == before
    assert user.page.input_value("#voice") == "first"


def test_a_voice_is_recorded(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    user = visit(server.url)
    user.page.click("#voice-add")
    user.page.click("#voice-record")
    user.page.wait_for_selector("#voice-status:text('Speak')")
    user.page.wait_for_selector("#voice-save:enabled")
    user.page.fill("#voice-name", "Mine")
    user.page.click("#voice-save")
    user.page.wait_for_selector("#voice-dialog", state="hidden")
    assert server.get("v1/voices")["data"][-1]["name"] == "Mine"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"no sound at all"}, "This is not a recording"),
        (recording(3, level=0.0), "Nothing was heard"),
        (recording(1.0), "That is only 0.6 seconds"),
    ],
)
def test_what_is_no_voice_is_told(
    serve: Callable[..., Any], visit: Callable[..., Any], file: dict[str, Any], words: str
) -> None:
    user = visit(serve().url)
    user.page.click("#voice-add")
    user.page.set_input_files("#voice-file", file)
    user.page.wait_for_selector(f"#voice-status:text('{words}')")
    assert user.page.is_disabled("#voice-save")


def test_settings_last(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url)
    user.page.click("#latency-toggle")
    user.page.select_option("#voice", "second")
    user.page.click("#settings-open")
    user.page.check("input[value=hold]")
    user.page.check("#clean")
    user.page.click("#settings .strong")
    user.page.wait_for_selector("#settings", state="hidden")
    user.page.reload()
    assert user.page.is_visible("#latency")
    user.page.wait_for_function("document.querySelector('#voice').value === 'second'")
    user.page.click("#settings-open")
    assert user.page.is_checked("input[value=hold]")
    assert user.page.is_checked("#clean")


def test_the_microphone_is_changed_in_a_call(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url)
    user.page.click("#talk")
    user.look("listening", "hearing")
    user.page.click("#settings-open")
    user.page.wait_for_function("document.querySelectorAll('#microphone option').length > 1")
    other = user.page.eval_on_selector_all("#microphone option", "options => options.at(-1).value")
    user.page.select_option("#microphone", other)
    user.page.keyboard.press("Escape")
    user.page.wait_for_selector(".assistant.done", timeout=40_000)
    assert user.page.inner_text("#link") == "Connected"
