"""Voice to voice in Chromium: how long a person at the page waits, endpointing counted.

`python tests/e2e/measure_voice_to_voice.py --audio question.wav --url http://127.0.0.1:8080 --turns 10 --json`

The browser's fake microphone plays the question and a silence, again and again. The page's own microphone stream and
the agent's stream are recorded on one audio clock, and the time is read from that recording: the last voiced sample of
the question to the first voiced sample of the answer. What the loudspeaker's own buffer adds is not in it; it is told.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from conftest import FLAGS, NAMES, STATE, write_wav
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright

from speechgpt_gen.agent.bench.report import percentiles
from speechgpt_gen.agent.client.ear import voiced
from speechgpt_gen.models.audio import load_audio

RATE = 16_000
LEAD_S = 0.6

KEEP_MICROPHONE = """
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => (window.microphone = await open(wanted));
"""

RECORD = """
async () => {
  const context = new AudioContext({ sampleRate: 16000 });
  const worklet = `registerProcessor("both", class extends AudioWorkletProcessor {
    process([sound]) { this.port.postMessage(sound.map((channel) => channel.slice())); return true; } });`;
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], { type: "text/javascript" })));
  const both = new AudioWorkletNode(context, "both", { channelCount: 2, channelCountMode: "explicit" });
  const merger = new ChannelMergerNode(context, { numberOfInputs: 2 });
  const mono = { channelCount: 1, channelCountMode: "explicit" };
  const streams = [window.microphone, document.querySelector("#agent").srcObject];
  streams.forEach((stream, side) => {
    const gain = new GainNode(context, mono);
    context.createMediaStreamSource(stream).connect(gain).connect(merger, 0, side);
  });
  merger.connect(both);
  window.sound = [[], []];
  both.port.onmessage = ({ data }) => window.sound.forEach((side, n) => side.push(data[n] ?? new Float32Array(128)));
  window.outputLatency = context.outputLatency || context.baseLatency;
}
"""

TAKE = """
() => {
  const bytes = (blocks) => {
    const all = new Float32Array(blocks.length * 128);
    blocks.forEach((block, n) => all.set(block, n * 128));
    let text = "";
    for (const byte of new Uint8Array(all.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
  };
  return { sound: window.sound.map(bytes), latency: window.outputLatency };
}
"""


def spoken(sound: NDArray[np.float32], pause: float) -> list[tuple[float, float]]:
    """(begin, end) in seconds of each stretch of voice; shorter silences than `pause` do not part it."""
    stretches: list[tuple[float, float]] = []
    window = RATE // 100
    for start in range(0, len(sound), window):
        if voiced(sound[start : start + window]) is None:
            continue
        begin, end = start / RATE, (start + window) / RATE
        if stretches and begin - stretches[-1][1] < pause:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((begin, end))
    return stretches


def measure(user: NDArray[np.float32], agent: NDArray[np.float32], pause: float) -> list[float]:
    """Milliseconds from each question's end to the first voice of the agent before the next question begins."""
    asked = spoken(user, pause)
    found = []
    for (_, end), until in zip(asked, [*(begin for begin, _ in asked[1:]), len(user) / RATE], strict=True):
        after = agent[round(end * RATE) : round(until * RATE)]
        first = voiced(after)
        if first is not None and until - end > 0.5 * pause:
            found.append(1000 * first[0] / RATE)
    return found


def record(page: Page, url: str, seconds: float) -> tuple[list[NDArray[np.float32]], float, list[str]]:
    """Both sides of a conversation on the page, (N,) each, the loudspeaker's delay and the captions."""
    page.add_init_script(KEEP_MICROPHONE)
    page.add_init_script(f"localStorage.setItem('{STATE}', '{json.dumps({'clean': False})}')")
    page.goto(url)
    page.click("#talk")
    page.wait_for_function("document.querySelector('#agent').srcObject && window.microphone")
    page.evaluate(RECORD)
    page.wait_for_timeout(1000 * seconds)
    taken = page.evaluate(TAKE)
    captions = page.eval_on_selector_all("#captions > li", "rows => rows.map(row => row.innerText)")
    page.click("#end")
    sides = [np.frombuffer(base64.b64decode(side), "<f4") for side in taken["sound"]]
    return sides, float(taken["latency"]), [" ".join(line.split()) for line in captions]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", required=True, help="the question")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two questions: longer than an answer")
    parser.add_argument("--chromium", help="its path")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    question = load_audio(arguments.audio)
    loop = np.concatenate([np.zeros(round(LEAD_S * RATE)), question, np.zeros(round(arguments.pause * RATE))])
    seconds = (arguments.turns + 0.5) * len(loop) / RATE
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        microphone = write_wav(Path(folder) / "microphone.wav", loop.astype(np.float32))
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        path = arguments.chromium or _chromium()
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_context(permissions=["microphone"], bypass_csp=True).new_page()
        (user, agent), latency, captions = record(page, arguments.url, seconds)
        version = browser.version
        browser.close()
    times = measure(user, agent, pause=min(1.5, arguments.pause / 2))[: arguments.turns]
    figures: dict[str, Any] = {
        "browser": f"Chromium {version}",
        "turns": len(times),
        "voice_to_voice_ms": percentiles(times),
        "loudspeaker_ms": round(1000 * latency, 1),
        "each": [round(value) for value in times],
        "captions": captions,
    }
    print(json.dumps(figures) if arguments.json else json.dumps(figures, indent=2))


def _chromium() -> str | None:
    import shutil

    return next(filter(None, map(shutil.which, NAMES)), None)


if __name__ == "__main__":
    main()
