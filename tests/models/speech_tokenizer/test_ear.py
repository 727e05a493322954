"""The captured ear against plain calls of the same encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.generation import LISTEN_SAMPLES, Ear, PlainEar
from speechgpt_gen.models.speech_tokenizer.ear import CapturedEar
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoder

FRAMES = LISTEN_SAMPLES // 320


@pytest.fixture(scope="module", params=[1, 4, 24], ids=lambda block: f"block-{block}")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    made = load_bundle("tiny")
    config = replace(made.tokenizer.semantic.config, block=request.param)
    encoder = SemanticEncoder(config).eval()
    encoder.load_state_dict(made.tokenizer.semantic.state_dict())
    made.tokenizer.take(encoder)
    return made


@pytest.fixture(scope="module")
def ear(bundle: Bundle) -> CapturedEar:
    made = CapturedEar(bundle.tokenizer.semantic, Lane(torch.device("cpu")), FRAMES)
    made.capture()
    return made


def units(ear: Ear, pcm: NDArray[np.float32], *, taken_back: bool = False) -> list[int]:
    """Of a whole recording, piece by piece; on the way its end may be heard at every piece, and taken back."""
    state, given = ear.open(), []
    while len(pcm) >= LISTEN_SAMPLES:
        if taken_back:
            ear.step(pcm[:1000], state, end=True)
        some, state = ear.step(pcm[:LISTEN_SAMPLES], state, end=False)
        given += some
        pcm = pcm[LISTEN_SAMPLES:]
    return given + ear.step(pcm, state, end=True)[0]


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(0, 60_000), seed=st.integers(0, 99), taken_back=st.booleans())
def test_it_hears_what_plain_calls_hear(
    bundle: Bundle, ear: CapturedEar, samples: int, seed: int, taken_back: bool
) -> None:
    pcm = (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)
    heard = units(ear, pcm, taken_back=taken_back)
    assert heard == units(PlainEar(bundle), pcm)
    assert len(heard) == -(-samples // 320)


def test_two_streams_in_turns_do_not_mix(ear: CapturedEar) -> None:
    both = [(0.1 * np.random.default_rng(seed).standard_normal(20_000)).astype(np.float32) for seed in (1, 2)]
    wanted = [units(ear, pcm) for pcm in both]
    states, given = [ear.open(), ear.open()], [[], []]  # type: ignore[var-annotated]
    for start in range(0, 20_000, LISTEN_SAMPLES):
        for which in (0, 1):
            pcm = both[which][start : start + LISTEN_SAMPLES]
            some, states[which] = ear.step(pcm, states[which], end=len(pcm) < LISTEN_SAMPLES)
            given[which] += some
    assert given == wanted
