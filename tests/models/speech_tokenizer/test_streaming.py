"""The streaming tokenizer: any chunking equals the whole signal."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.speech_tokenizer.fsq import FiniteScalarQuantizer
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.spectral import LOOKAHEAD
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig

TINY = StreamingTokenizerConfig(
    semantic=SemanticEncoderConfig(bands=20, dim=32, layers=2, heads=2, window=6, lookahead=2, detail=4),
    encoder_dim=16,
    encoder_layers=1,
    decoder_dim=16,
    decoder_layers=2,
    heads=2,
    reach=5,
    latent_dim=8,
)


@pytest.fixture(scope="module", params=[1, 4], ids=lambda block: f"block-{block}")
def tokenizer(request: pytest.FixtureRequest) -> StreamingSpeechTokenizer:
    torch.manual_seed(1)
    model = StreamingSpeechTokenizer(replace(TINY, semantic=replace(TINY.semantic, block=request.param))).eval()
    model.codebooks.vectors.normal_()
    return model


def cuts(total: int, points: list[float]) -> list[int]:
    edges = sorted({0, total, *(int(p * total) for p in points)})
    return [b - a for a, b in pairwise(edges)]


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 6000), points=st.lists(st.floats(0, 1), max_size=6))
def test_units_of_a_stream_equal_units_of_the_whole(
    tokenizer: StreamingSpeechTokenizer, samples: int, points: list[float]
) -> None:
    wav = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    whole = tokenizer.hear(wav[None, None])[0]
    state, units = tokenizer.semantic_state(), []
    for chunk in wav.split(cuts(samples, points)):
        found, state = tokenizer.hear_chunk(chunk, state)
        units.append(found)
    found, state = tokenizer.hear_chunk(wav[:0], state, end=True)
    assert torch.equal(torch.cat([*units, found]), whole)
    assert len(whole) == -(-samples // 320)
    assert torch.equal(tokenizer.encode_semantic(wav[None, None])[0], whole % 1024), "who speaks has no use for detail"


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 24), points=st.lists(st.floats(0, 1), max_size=6))
def test_sound_of_a_stream_equals_sound_of_the_whole(
    tokenizer: StreamingSpeechTokenizer, frames: int, points: list[float]
) -> None:
    latents = torch.randn(2, frames, TINY.latent_dim, generator=torch.Generator().manual_seed(frames))
    whole = tokenizer.decode(latents)
    state, parts = tokenizer.decoder_state(2), []
    for chunk in latents.split(cuts(frames, points), 1):
        wav, state = tokenizer.decode_chunk(chunk, state)
        parts.append(wav)
    assert whole.shape == (2, 1, 320 * frames)
    torch.testing.assert_close(torch.cat(parts, -1), whole, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_codes_sum_to_latents_that_near_the_encoder(tokenizer: StreamingSpeechTokenizer) -> None:
    wav = torch.randn(2, 1, 3200) * 0.1
    codes = tokenizer.encode(wav)
    assert codes.shape == (8, 2, 10)
    assert torch.equal(codes[:1], tokenizer.encode(wav, 1))
    assert torch.equal(codes[0], tokenizer.encode_semantic(wav))
    by_hand = sum(tokenizer.codebooks.vectors[q][codes[q]] for q in range(8))
    torch.testing.assert_close(tokenizer.latents(codes), by_hand)
    torch.testing.assert_close(tokenizer.latents(codes[:1]), tokenizer.semantic_latents(codes[0]))


@torch.inference_mode()
def test_residual_levels_take_the_nearest_code(tokenizer: StreamingSpeechTokenizer) -> None:
    wav = torch.randn(1, 1, 1600) * 0.1
    codes = tokenizer.encode(wav, 2)
    residual = tokenizer.continuous(wav) - tokenizer.semantic_latents(codes[0])
    distances = torch.cdist(residual, tokenizer.codebooks.vectors[1][None])
    assert torch.equal(codes[1], distances.argmin(-1))


def test_every_unit_has_its_own_digits() -> None:
    quantizer = FiniteScalarQuantizer()
    units = torch.arange(1024)
    values = quantizer.value(units)
    assert len(torch.unique(values, dim=0)) == 1024
    assert torch.equal(quantizer.index((values + 1) * 1.5), units)


def test_the_past_never_sees_the_future(tokenizer: StreamingSpeechTokenizer) -> None:
    wav = torch.randn(1, 1, 6400) * 0.1
    changed = wav.clone()
    changed[..., 4800:] = 0
    with torch.inference_mode():
        before, after = tokenizer.encode_semantic(wav), tokenizer.encode_semantic(changed)
        sound, other = tokenizer.decode(tokenizer.continuous(wav)), tokenizer.decode(tokenizer.continuous(changed))
    config = tokenizer.semantic.config
    held = 4800 // 320 // config.block * config.block - config.lookahead
    assert torch.equal(before[:, :held], after[:, :held])
    known = 4800 - 320 * (LOOKAHEAD + 1)  # a spectrum reaches half a frame beyond its own
    torch.testing.assert_close(sound[..., :known], other[..., :known])
    assert not torch.allclose(sound[..., 4800:], other[..., 4800:])
