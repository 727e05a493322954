"""Conversations of several turns, questions that nobody could answer, and sounds that are no question.

Most end in a question whose answer depends on earlier turns: what somebody told of themselves, or what a pronoun stands
for. Telling it is a dialogue too, and so is asking for what was never told. Phrasings of questions are split, not
slots: a valid question was never asked in these words in training.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from num2words import num2words
from numpy.typing import NDArray

VALID_EVERY = 5
"""Of a template's phrasings each fifth is kept for judging."""


@dataclass(frozen=True)
class Dialogue:
    """Earlier turns (user, assistant), oldest first, then a question and the answers that are accepted."""

    template: str
    phrasing: str
    split: str
    turns: tuple[tuple[str, str], ...]
    question: str
    answers: tuple[str, ...]


_TEMPLATES: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_SMALL_TALK = (
    ("How are you?", "I am fine, thank you."),
    ("Thank you.", "You are welcome."),
    ("Okay.", "I am listening."),
)
Turns = tuple[tuple[str, str], ...]


def _split(phrasing: int) -> str:
    return "valid" if phrasing % VALID_EVERY == VALID_EVERY - 1 else "train"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _each(kind: str, turns: Turns, t: dict[str, Any], slots: dict[str, str]) -> Iterator[Dialogue]:
    """One dialogue for each way to ask."""
    answers = tuple(_start(answer.format(**slots)) for answer in t["answers"])
    for number, ask in enumerate(t["ask"]):
        yield Dialogue(kind, f"{kind}/{number}", _split(number), turns, ask.format(**slots), answers)


def dialogues(seed: int = 0) -> list[Dialogue]:
    """Every dialogue, in a fixed order: each slot value with each way to ask."""
    rng = random.Random(seed)
    made: list[Dialogue] = []
    for name, t in _TEMPLATES["told"].items():
        for value in t["values"]:
            told = rng.choice(t["tell"]).format(x=value), _start(rng.choice(t["reply"]).format(x=value))
            # Now and then something unrelated lies between what was told and the question.
            turns = (told, rng.choice(_SMALL_TALK)) if rng.random() < 0.3 else (told,)
            made += _each(f"turns.{name}", turns, t, {"x": value})
    for name, t in _TEMPLATES["about"].items():
        for place, facts in _TEMPLATES["places"].items():
            slots = {"x": place, **facts}
            question, answer = (text.format(**slots) for text in t["first"])
            made += _each(f"turns.{name}", ((question, answer),), t, slots)
    for a, b, c in (rng.sample(range(1, 7), 3) for _ in range(30)):
        x, y, z, two, three = (num2words(n) for n in (a, b, c, a + b, a + b + c))
        first = (f"What is {x} plus {y}?", f"{_start(x)} plus {y} is {two}.")
        t = {"ask": _TEMPLATES["add"]["ask"], "answers": [f"{two} plus {z} is {three}."]}
        made += _each("turns.add", (first,), t, {"x": z})
    for name, t in _TEMPLATES["cannot"].items():
        made += _each(f"cannot.{name}", (), t, {})
    for name, t in _TEMPLATES["told"].items():
        made += _each(f"untold.{name}", (), {**t, "answers": _TEMPLATES["cannot"]["mine"]["answers"]}, {})
        for value in t["values"]:  # what is told has to be heard before it can be remembered
            replies = tuple(_start(reply.format(x=value)) for reply in t["reply"])
            for number, tell in enumerate(t["tell"]):
                phrasing = f"told.{name}/{number}"
                made.append(Dialogue(f"told.{name}", phrasing, "train", (), tell.format(x=value), replies))
    return list(dict.fromkeys(made))


def several_turns(split: str, seed: int = 0) -> list[Dialogue]:
    """Those of a split that need an earlier turn."""
    return [d for d in dialogues(seed) if d.turns and d.split == split]


def no_speech(seed: int, seconds: float = 2.0) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What is not speech, 16 kHz: near silence, white and low noise, a hum, a chord, a cough-like burst, a click."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 16_000)
    time = np.arange(n) / 16_000
    white = rng.standard_normal(n)
    notes = 220.0 * 2 ** (rng.choice(24, 3, replace=False) / 12)
    at = seconds * rng.uniform(0.2, 0.7)
    made = {
        "near silence": 10 ** rng.uniform(-4.5, -3.5) * white,
        "white noise": 10 ** rng.uniform(-2.5, -1) * white,
        "low noise": 10 ** rng.uniform(-1.5, -0.3) * np.convolve(white, np.ones(64) / 64, "same"),
        "hum": 10 ** rng.uniform(-2.5, -1) * np.sin(2 * np.pi * rng.choice([50, 60, 100, 120]) * time),
        "chord": 0.05 * np.sum([np.sin(2 * np.pi * f * time) for f in notes], axis=0),
        "cough": 0.3 * white * np.exp(-((time - at) ** 2) / rng.uniform(0.002, 0.02)),
        "click": np.where(np.arange(n) == round(at * 16_000), 0.9, 1e-4 * white),
    }
    for name, pcm in made.items():
        yield name, np.clip(pcm, -1, 1).astype(np.float32)
