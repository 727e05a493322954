"""Things that tests of conversations need: a user's voice that detectors take for one, and what a bad client sends."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

RATE = 16_000
VOWELS = ((700, 1220, 2600), (300, 2300, 3000), (450, 800, 2830), (530, 1840, 2480))


def _resonate(source: NDArray[np.float64], frequency: float, width: float) -> NDArray[np.float64]:
    """One formant: a resonator at `frequency` Hz of `width` Hz, as its impulse response."""
    time = np.arange(RATE // 20) / RATE
    response = np.exp(-np.pi * width * time) * np.sin(2 * np.pi * frequency * time)
    return np.convolve(source, response)[: len(source)]


@pytest.fixture(scope="session")
def speechlike() -> Callable[..., NDArray[np.float32]]:
    """speechlike(seconds, seed=0): float32 (N,) at 16 kHz, -14 dBFS: glottal pulses through the formants of vowels."""

    def make(seconds: float, seed: int = 0) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        n = round(seconds * RATE)
        time = np.arange(n) / RATE
        phase = np.cumsum(120 + 15 * np.sin(2 * np.pi * 2.3 * time)) / RATE
        pulses = (np.diff(np.floor(phase), prepend=0) > 0) + rng.normal(0, 0.01, n)
        out = np.zeros(n)
        for start in range(0, n, RATE * 18 // 100):
            syllable = pulses[start : start + RATE * 18 // 100]
            vowel = VOWELS[rng.integers(len(VOWELS))]
            sound = sum(_resonate(syllable, f, 80 + 30 * i) * 0.6**i for i, f in enumerate(vowel))
            edge = np.minimum(np.arange(len(syllable)), np.arange(len(syllable))[::-1])
            out[start : start + len(syllable)] = sound * np.minimum(1, edge / (0.03 * RATE))
        return np.clip(0.2 * out / np.sqrt(np.mean(out**2)), -1, 1).astype(np.float32)

    return make


SHAPES: dict[str, dict[str, Any]] = {
    "session.update": {"session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}},
    "input_audio_buffer.append": {"audio": "AAAA"},
    "input_audio_buffer.commit": {},
    "conversation.item.create": {
        "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        "previous_item_id": "root",
    },
    "conversation.item.retrieve": {"item_id": "item_unknown"},
    "conversation.item.delete": {"item_id": "item_unknown"},
    "conversation.item.truncate": {"item_id": "item_unknown", "content_index": 0, "audio_end_ms": 0},
    "response.create": {"response": {"output_modalities": ["audio"], "max_output_tokens": 1, "metadata": {"a": "b"}}},
    "response.cancel": {"response_id": "resp_unknown"},
}
"""An event of each kind; some are errors as they are."""

ODD = st.one_of(
    st.sampled_from(
        [True, -1, 10**400, 1.5, float("nan"), float("inf"), [], {}, [[]], {"type": "x"}, "\x00", "\ud800"]
    ),
    st.text(max_size=5).map(lambda text: {text: text}),
    st.integers(1, 3).map(lambda depth: json.loads("[" * 200 * depth + "]" * 200 * depth)),
    st.just("x" * 150_000),
)


@st.composite
def _hostile(draw: st.DrawFn) -> str | bytes:
    """Broken JSON, or an event with a part that is odd, unknown or missing; a few of them happen to be right."""
    kind = draw(st.sampled_from(["text", "bytes", "json", "type", "unknown", "odd", "missing"]))
    if kind == "text":
        return draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "{" not in text))
    if kind == "bytes":
        return draw(st.binary(max_size=40).map(lambda data: b"\xff" + data))
    if kind == "json":
        return json.dumps(draw(ODD.filter(lambda value: not isinstance(value, dict))))
    name = draw(st.sampled_from(sorted(SHAPES)))
    event = json.loads(json.dumps({"type": name, "event_id": "mine", **SHAPES[name]}))
    if kind == "type":
        event["type"] = draw(st.one_of(ODD, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)))
        return json.dumps(event)
    # Somewhere inside the event: any object or list of it, and there any member.
    places: list[Any] = [event]
    for place in places:
        members = place.values() if isinstance(place, dict) else place
        places += [member for member in members if isinstance(member, dict | list)]
    place = draw(st.sampled_from([each for each in places if isinstance(each, dict) and "a" not in each]))
    if kind == "unknown":
        place["x" + draw(st.text("abc_.", max_size=300))] = draw(ODD)
    elif kind == "odd":
        place[draw(st.sampled_from(sorted(place)))] = draw(ODD)
    else:
        del place[draw(st.sampled_from(sorted(place)))]
    return json.dumps(event)


@pytest.fixture(scope="session")
def hostile_messages() -> list[str | bytes]:
    """300 messages of a client that means ill, or is broken; two in three at least are wrong."""
    found: list[str | bytes] = []

    @settings(max_examples=300, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(_hostile())
    def collect(message: str | bytes) -> None:
        found.append(message)

    collect()
    return found
