"""The stock @openai/agents, unmodified: three spoken turns, one interrupted, and history is what was heard."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from num2words import num2words
from numpy.typing import NDArray
from playwright.sync_api import Browser

from speechgpt_gen.streaming.engine.tones import decode_words

HERE = Path(__file__).parent / "agents"
WORDS = 8
TOKEN = "a token"
PAGE = "https://app.example"
BUNDLE = HERE / "node_modules" / "@openai" / "agents-realtime" / "dist" / "bundle"

pytestmark = pytest.mark.slow


@pytest.fixture
def node() -> str:
    """Node, with the SDK installed."""
    found = shutil.which("node")
    if found is None:
        reason = "no Node is installed"
        if os.environ.get("SPEECHGPT_GEN_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    assert (HERE / "node_modules").is_dir(), f"run `npm --prefix {HERE} ci`, as `make test` does"
    return found


def check(history: list[dict[str, str]], recordings: list[NDArray[np.float32]], rate: int) -> None:
    """Three turns; what the answers are said to have been is what the recordings hold, within a word."""
    assert [item["role"] for item in history] == ["user", "assistant"] * 3
    assert {item["text"] for item in history[::2]} == {"how are you"}
    for index, (item, recording) in enumerate(zip(history[1::2], recordings, strict=True)):
        heard = [word for word, _ in groupby(decode_words(recording, rate))]
        assert heard == list(range(1, len(heard) + 1))
        said = item["text"].split()
        assert said == [num2words(number) for number in range(1, len(said) + 1)]
        assert abs(len(said) - len(heard)) <= 1
        if index == 1:
            assert 1 <= len(said) <= 5, "it was interrupted in the third word"
            assert item["status"] == "incomplete"
        else:
            assert len(said) == len(heard) == WORDS


def test_node_over_websocket(
    node: str, serve: Callable[..., Any], tmp_path: Path, utterance_pcm: Callable[[float, int], NDArray[np.float32]]
) -> None:
    server = serve(words=WORDS, settings={"token": TOKEN})
    question = tmp_path / "question.pcm"
    question.write_bytes((32767 * utterance_pcm(1.2, 24_000)).astype("<i2").tobytes())
    url = f"ws://127.0.0.1:{server.port}/v1/realtime?model=nano"
    ran = subprocess.run(
        [node, "talk.mjs", url, TOKEN, question], cwd=HERE, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout)
    assert told["failures"] == []
    sounds = [np.frombuffer(base64.b64decode(sound), "<i2").astype(np.float32) / 32768 for sound in told["sounds"]]
    check(told["history"], sounds, 24_000)


@pytest.mark.browser
def test_chromium_over_webrtc(
    browser: Browser,
    serve: Callable[..., Any],
    utterance_pcm: Callable[[float, int], NDArray[np.float32]],
    decoded: Callable[[str], NDArray[np.float32]],
) -> None:
    """A page of another origin, with a client secret as its only key."""
    server = serve(words=WORDS, settings={"token": TOKEN, "origins": [PAGE]})
    wanted = {"session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}}}
    request = urllib.request.Request(
        f"{server.url}v1/realtime/client_secrets",
        json.dumps(wanted).encode(),
        {"Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        secret = json.loads(answer.read())["value"]

    # A public page that calls a server on this machine needs its visitor's consent.
    context = browser.new_context(permissions=["local-network-access"])
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    html = '<!doctype html><audio></audio><button>start</button><script type="module" src="/call.mjs"></script>'
    page.route(f"{PAGE}/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.route(f"{PAGE}/call.mjs", lambda route: route.fulfill(path=HERE / "call.mjs"))
    page.route(f"{PAGE}/sdk/*", lambda route: route.fulfill(path=BUNDLE / route.request.url.rpartition("/")[2]))
    page.goto(f"{PAGE}/")
    page.click("button")  # a page may make no sound before somebody has touched it
    page.wait_for_function("Boolean(window.heard)")
    samples = utterance_pcm(1.2, 48_000).astype(float).round(4).tolist()
    page.evaluate("(given) => start(...given)", [f"{server.url}v1/realtime/calls", secret, samples])

    def until(condition: str) -> None:
        page.wait_for_function(f"state.failures.length || ({condition})", timeout=60_000)
        assert page.evaluate("state.failures") == []

    page.evaluate("say()")
    until("state.done === 1")
    page.evaluate("say()")
    until("state.sounding === 2")
    page.wait_for_timeout(1300)
    page.evaluate("say()")
    until("state.done === 3")
    page.wait_for_timeout(500)
    told = page.evaluate("heard()")
    context.close()
    assert faults == []
    check(told["history"], per_answer(decoded(told["recording"])), 48_000)


def per_answer(recording: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """A recording cut where a second of silence or more parts the answers."""
    loud = np.flatnonzero(np.abs(recording) > 0.02)
    cuts = np.flatnonzero(np.diff(loud) > 48_000) + 1
    return [recording[part[0] : part[-1] + 1] for part in np.split(loud, cuts)]
