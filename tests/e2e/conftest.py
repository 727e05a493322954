"""A real server and a real browser whose microphone is a recording."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--host-resolver-rules=MAP insecure.test 127.0.0.1",
]
LEAD_SECONDS, SPEECH_SECONDS, LOOP_SECONDS = 0.9, 1.6, 8.0
"""Whenever it is opened the microphone is quiet for a moment, speaks, and is quiet; then again, until it is closed."""

STATE = "speechgpt-gen.settings"
RAW = {"clean": False}
"""Settings of a microphone that passes sound as it is: echo cancellation takes a looped recording for an echo."""


def utterance(seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    """Vowel-like sound that detectors take for speech: 20 harmonics of a wavering pitch, in four syllables a second."""
    t = np.arange(round(seconds * rate)) / rate
    pitch = 130 + 20 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formant = 600 + 250 * np.sin(2 * np.pi * 1.3 * t)
    pcm = sum(np.sin(k * phase) / (1 + ((k * pitch - formant) / 120) ** 2) for k in range(1, 21))
    pcm *= 0.2 + np.abs(np.sin(2 * np.pi * 2 * t))
    return (0.25 * pcm / np.sqrt(np.mean(pcm**2)) / 3).astype(np.float32)


def write_wav(path: Path, pcm: NDArray[np.float32], rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that serves the page; it can stop, be killed and come back on the same port."""

    def __init__(self, command: Callable[[int], list[str]]) -> None:
        """command: what serves on a port."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._command = command(self.port)
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def fake(cls, engine: dict[str, Any], settings: dict[str, Any]) -> Server:
        """One with a FakeEngine of these arguments."""

        def command(port: int) -> list[str]:
            wanted = json.dumps({"engine": engine, "settings": {**settings, "port": port}})
            return [sys.executable, str(HERE / "serve_fake.py"), wanted]

        return cls(command)

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "the server ended by itself"
            with suppress(OSError):
                self.get("readyz")
                return
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.1)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.loads(answer.read())

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests go last: playwright keeps an event loop running, beside which no asynchronous test can run."""
    items.sort(key=lambda item: bool({"visit", "browser", "chromium"} & set(getattr(item, "fixturenames", ()))))


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Server]]:
    """`serve(words=10, settings={...})`: a running server with a FakeEngine of these arguments.

    Tests that ask for the same one share it, since a start takes seconds; one that was ended starts anew.
    """
    servers: dict[str, Server] = {}

    def start(settings: dict[str, Any] | None = None, **engine: Any) -> Server:
        key = json.dumps([settings, engine], sort_keys=True)
        server = servers.setdefault(
            key, Server.fake({"transcript": "how are you", "words": 5, **engine}, settings or {})
        )
        if server.process is None:
            server.start()
        return server

    yield start
    for server in servers.values():
        server.end()


@pytest.fixture
def nano() -> Iterator[Server]:
    """`speechgpt-gen serve` as it comes, with the weights in the package."""
    script = Path(sys.executable).with_name("speechgpt-gen")
    server = Server(lambda port: [str(script), "serve", "--port", str(port)])
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="session")
def utterance_pcm() -> Callable[[float, int], NDArray[np.float32]]:
    """`utterance_pcm(seconds, rate)`: a question."""
    return utterance


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """One for all: a second one in this process would find the first one's event loop running."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def chromium(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[NDArray[np.float32]], Browser]]:
    """`chromium(recording)`: a browser whose microphone plays 16 kHz samples (N,), again and again."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = "no Chromium is installed: install Debian's `chromium`, or name one in CHROMIUM"
        if os.environ.get("SPEECHGPT_GEN_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    launched: list[Browser] = []

    def launch(recording: NDArray[np.float32]) -> Browser:
        microphone = write_wav(tmp_path_factory.mktemp("microphone") / "question.wav", recording)
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        launched.append(playwright.chromium.launch(executable_path=path, args=flags))
        return launched[-1]

    yield launch
    for each in launched:
        each.close()


@pytest.fixture(scope="session")
def browser(chromium: Callable[[NDArray[np.float32]], Browser]) -> Browser:
    """Chromium, silent until a page is opened."""
    recording = np.zeros(round(LOOP_SECONDS * 16_000), np.float32)
    question = utterance(SPEECH_SECONDS)
    recording[round(LEAD_SECONDS * 16_000) :][: len(question)] = question
    return chromium(recording)


def decode_recording(text: str) -> NDArray[np.float32]:
    """What a MediaRecorder has made, in base64, as (N,) at 48 kHz."""
    with av.open(io.BytesIO(base64.b64decode(text))) as container:
        to_mono = av.AudioResampler(format="flt", layout="mono", rate=48_000)
        pieces = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in to_mono.resample(frame)]
    return np.concatenate(pieces)


@pytest.fixture(scope="session")
def decoded() -> Callable[[str], NDArray[np.float32]]:
    """`decoded(base64)`: a recording of the page as (N,) at 48 kHz."""
    return decode_recording


class User:
    """Somebody at the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.set_default_timeout(20_000)

    def look(self, *looks: str, timeout: float = 20) -> None:
        """Wait until the talk button looks like one of these states."""
        selector = ", ".join(f'#stage[data-look="{look}"]' for look in looks)
        self.page.wait_for_selector(selector, timeout=1000 * timeout)

    def lines(self) -> list[tuple[str, str]]:
        """Captions: (who, words), with words that were not heard left out."""
        script = """rows => rows.filter(row => !row.hidden).map(row => {
            const words = row.querySelector(".words").cloneNode(true);
            words.querySelectorAll(".unheard, .mark").forEach(part => part.remove());
            return [row.querySelector(".who").textContent, words.textContent.trim()];
        })"""
        return [tuple(line) for line in self.page.eval_on_selector_all("#captions > li", script)]

    def record(self) -> None:
        """Record the agent's voice from now on."""
        self.page.evaluate(
            """() => {
                const stream = document.querySelector("#agent").srcObject;
                window.recorder = new MediaRecorder(stream, { audioBitsPerSecond: 128000 });
                window.recorded = [];
                window.recorder.ondataavailable = ({ data }) => window.recorded.push(data);
                window.recorder.start(200);
            }"""
        )

    def recording(self) -> NDArray[np.float32]:
        """What was recorded, (N,) at 48 kHz; the recording ends."""
        text = self.page.evaluate(
            """async () => {
                const stopped = new Promise(resolve => window.recorder.onstop = resolve);
                window.recorder.stop();
                await stopped;
                const reader = new FileReader();
                reader.readAsDataURL(new Blob(window.recorded));
                await new Promise(resolve => reader.onload = resolve);
                return reader.result.split(",")[1];
            }"""
        )
        return decode_recording(text)


@pytest.fixture
def visit(request: pytest.FixtureRequest) -> Iterator[Callable[..., User]]:
    """`visit(url, keep={...})`: a new visitor's page, with these settings kept; other options are of the context.

    It is opened in the session's browser, or in `using`.
    """
    contexts: list[BrowserContext] = []
    users: list[User] = []

    def open_page(
        url: str,
        *,
        microphone: bool = True,
        keep: dict[str, Any] | None = None,
        using: Browser | None = None,
        **options: Any,
    ) -> User:
        opened = using or request.getfixturevalue("browser")
        context = opened.new_context(permissions=["microphone"] if microphone else [], **options)
        contexts.append(context)
        kept = json.dumps(json.dumps({**RAW, **(keep or {})}))
        context.add_init_script(f"localStorage.getItem('{STATE}') ?? localStorage.setItem('{STATE}', {kept})")
        user = User(context.new_page())
        users.append(user)
        user.page.goto(url)
        return user

    yield open_page
    for context in contexts:
        context.close()
    assert not [fault for user in users for fault in user.faults]
