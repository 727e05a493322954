"""The search against every way through a few frames, and against itself cut in other ways."""

import math
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.recognition.beam_search import BeamSearch, SearchConfig
from speechgpt_gen.models.recognition.letters import SYMBOLS
from speechgpt_gen.models.recognition.word_model import WordModel

WORDS = WordModel.fit([("a b a", 2.0), ("ba ab", 1.0), ("b a", 1.0)], rare=0.0)
WIDE = SearchConfig(width=10_000, unlikely=-60.0, silent=0.0)
USED = [0, 1, SYMBOLS.index("a"), SYMBOLS.index("b")]


def frames(count: int, seed: int, sharp: float = 1.5) -> np.ndarray:
    """Log-probabilities of four symbols; the others are as good as impossible."""
    logits = np.full((count, len(SYMBOLS)), -80.0, np.float32)
    logits[:, USED] = np.random.default_rng(seed).normal(scale=sharp, size=(count, len(USED)))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))  # type: ignore[no-any-return]


def weight(text: str, config: SearchConfig) -> float:
    """What the word model says of a whole turn."""
    context, total = WORDS.begin, 0.0
    for word in text.split():
        total += config.word_weight * WORDS.log_prob(context, word) + config.word_bonus
        context = WORDS.after(context, word)
    return total + config.word_weight * WORDS.log_end(context)


def exhaustive(log_probs: np.ndarray, config: SearchConfig) -> dict[str, float]:
    """Every text, by all of its ways through the frames."""
    sound: dict[str, float] = {}
    for way in product(USED, repeat=len(log_probs)):
        spaced = "".join(SYMBOLS[symbol] for symbol, _ in groupby(way) if symbol)
        if spaced.startswith(" ") or "  " in spaced:
            continue  # a space is said after a word
        p = float(sum(frame[symbol] for frame, symbol in zip(log_probs, way, strict=True)))
        text = spaced.strip()
        sound[text] = np.logaddexp(sound.get(text, -np.inf), p)
    return {text: p + weight(text, config) for text, p in sound.items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("word_weight", [0.0, 0.6, 2.0])
def test_a_wide_search_finds_what_trying_everything_finds(seed: int, word_weight: float) -> None:
    config = SearchConfig(WIDE.width, word_weight, 0.7, WIDE.unlikely, WIDE.silent)
    log_probs = frames(5, seed)
    scores = exhaustive(log_probs, config)
    expected = sorted(scores, key=lambda text: -scores[text])
    search = BeamSearch(WORDS, config)
    found = search.texts(search.step(search.begin(), log_probs))
    assert found[:20] == expected[:20]
    assert set(found) == set(expected)


def test_words_decide_between_letters_that_sound_alike() -> None:
    logits = frames(3, 0, sharp=0.0)
    logits[0, USED[2]] += 5  # a, a space, then as likely a as b
    logits[1, 1] += 5
    logits[2, [0, 1]] -= 9
    for said in ("a b", "a a"):
        search = BeamSearch(WordModel.fit([(said, 3.0), ("b", 1.0)], rare=0.0), SearchConfig())
        assert search.texts(search.step(search.begin(), logits))[0] == said


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 20))
def test_any_cutting_of_the_frames_gives_the_same(cuts: list[int], seed: int) -> None:
    log_probs = frames(40, seed, sharp=4.0)
    search = BeamSearch(WORDS, SearchConfig(width=8))
    beam = search.begin()
    for part in np.split(log_probs, sorted(cuts)):
        beam = search.step(beam, part)
    assert beam == search.step(search.begin(), log_probs)
    assert len(beam) == 8


def test_silence_says_nothing_and_leaves_the_beam_a_value() -> None:
    silence = np.full((9, len(SYMBOLS)), -40.0, np.float32)
    silence[:, 0] = math.log(1 - 1e-6)
    search = BeamSearch(WORDS, SearchConfig())
    before = search.begin()
    assert search.texts(search.step(before, silence)) == [""]
    assert before == search.begin()
