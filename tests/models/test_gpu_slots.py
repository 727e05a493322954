"""Captured graphs against the plain calls of the same functions, and against the plain twins, on a GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.kernels.selection import flash_refusal, using
from speechgpt_gen.kernels.weight_only import round_weights_
from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.eightb import eight_config, random_bundle
from speechgpt_gen.models.generation import LISTEN_SAMPLES, Ear, PlainEar
from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig
from speechgpt_gen.models.perceptual.streaming import solve_offline
from speechgpt_gen.models.semantic.decoder import Draws
from speechgpt_gen.models.semantic.grammar import Grammar, Phase
from speechgpt_gen.models.semantic.sampling import SamplingOptions
from speechgpt_gen.models.semantic.slots import Chunk, SlotModel, SlotOptions, Start
from speechgpt_gen.models.sound import SoundSlots
from speechgpt_gen.models.speech_tokenizer.ear import CapturedEar

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: graphs cannot be captured")
BLOCKS = ((1, 10), (2, 15), (3, 25), (4, 7))


def small(device: str) -> Bundle:
    """Heads and widths that the kernels take, few layers."""
    config, tiny = eight_config(), load_bundle("tiny").config
    semantic = replace(
        config.semantic,
        vocab_size=500 + 1024 + 11,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    perceptual = BlockCausalConfig(latent_dim=8, dim=256, depth=3, heads=4, window_frames=50)
    config = replace(tiny, semantic=semantic, perceptual=perceptual, voices=("random",), blocks=config.blocks)
    return random_bundle("small", config, torch.device(device))


def drawn(
    bundle: Bundle, *, capture: bool, slots: tuple[int, ...] = (0, 1, 2), fp8_cache: bool = False
) -> list[list[int]]:
    lane = Lane(torch.device("cuda"), capture=capture)
    options = SlotOptions(4, 256, (1, 2, 4), {1: 4, 2: 4, 4: 4}, fp8_cache=fp8_cache)
    model = SlotModel(bundle.semantic, Grammar(bundle.vocabulary), options, lane)
    model.capture()
    assert (lane.captured, lane.refused) == ((3 + len(model.shapes), 0) if capture else (0, 0))
    told: list[list[int]] = [[] for _ in slots]
    with lane.entered(), torch.inference_mode():
        for row, slot in enumerate(slots):
            prompt = [bundle.vocabulary.human, *range(3 + 9 * row)]
            sampling = SamplingOptions(text_temperature=0.5 * row, repetition_penalty=1.2)
            phase = (Phase.SPELL_FIRST, Phase.TEXT_FIRST, Phase.WORD_FIRST)[row % 3]
            model.set(slot, Start(len(prompt), phase, Draws(sampling, 7 + row)))
            chunk = Chunk(slot, 0, prompt)
            told[row].append(int(model.prefill([chunk]).take()[0][0, -1]))
        for _ in range(5):
            codes = model.burst(list(slots)).take()[0]
            for row in range(len(slots)):
                told[row] += codes[:, row].tolist()
    return told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8", "int8"])
def test_captured_bursts_draw_what_plain_calls_draw(dtype: str) -> None:
    bundle = small("cuda")
    bundle.semantic.fuse_()
    if dtype == "float32":
        bundle.semantic.float()
    if dtype in ("fp8", "int8"):
        round_weights_(bundle.semantic, "fp8" if dtype == "fp8" else "int8")
    wanted = drawn(bundle, capture=False)
    assert drawn(bundle, capture=True) == wanted
    assert drawn(bundle, capture=True, slots=(3, 0, 1)) == wanted
    assert all(codes[0] >= 0 for codes in wanted)


def test_captured_bursts_by_flash_attention_draw_what_plain_calls_draw() -> None:
    reason = flash_refusal("cuda")
    if reason is not None:
        pytest.skip(reason)
    bundle = small("cuda")
    bundle.semantic.fuse_()
    with using("flash"):
        wanted = drawn(bundle, capture=False)
        assert drawn(bundle, capture=True) == wanted
    assert all(codes[0] >= 0 for codes in wanted)


def test_captured_bursts_over_an_fp8_cache_draw_what_plain_calls_draw() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    bundle = small("cuda")
    bundle.semantic.fuse_()
    wanted = drawn(bundle, capture=False, fp8_cache=True)
    assert drawn(bundle, capture=True, fp8_cache=True) == wanted
    assert drawn(bundle, capture=True, slots=(3, 0, 1), fp8_cache=True) == wanted


def spoken(bundle: Bundle, *, capture: bool, alone: bool) -> list[torch.Tensor]:
    """Latents of the second utterance, with or without company, in one batch size."""
    lane = Lane(torch.device("cuda"), capture=capture)
    sound = SoundSlots(bundle, lane, slots=4, buckets=(4,))
    sound.capture()
    assert (lane.captured, lane.refused) == ((2, 0) if capture else (0, 0))
    latents = []
    with lane.entered(), torch.inference_mode():
        for slot in range(4):
            sound.open(slot, bundle.voice(None), slot)
        for seed, length in BLOCKS:
            units = torch.randint(1024, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
            batch = [(1, units)] if alone else [(3, units[::-1]), (1, units), (0, units[:3])]
            sound.speak(batch)
            latents.append(sound.flow.latents[0 if alone else 1, :length].clone())
    return latents


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The difference, relative to what there should be; NaN is no difference below any tolerance."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_captured_solve_is_the_masked_run_and_company_changes_no_bit(dtype: torch.dtype, tolerance: float) -> None:
    bundle = small("cuda")
    for parameter in bundle.perceptual.parameters():
        parameter.data = parameter.data.to(dtype)
    alone = spoken(bundle, capture=True, alone=True)
    for ours, theirs in zip(alone, spoken(bundle, capture=True, alone=False), strict=True):
        assert torch.equal(ours, theirs)
    plain = torch.cat(spoken(bundle, capture=False, alone=True))
    assert apart(torch.cat(alone), plain) < tolerance
    units = [
        torch.randint(1024, (length,), generator=torch.Generator().manual_seed(seed)).cuda() for seed, length in BLOCKS
    ]
    codebook, voice = bundle.tokenizer.codebooks.vectors[0], bundle.voice(None)
    from speechgpt_gen.models.generation import SOUND_SEED

    offline = solve_offline(
        bundle.perceptual,
        codebook[torch.cat(units)][None],
        seed=1 ^ SOUND_SEED,
        solver=bundle.config.solver,
        schedule=bundle.config.blocks,
        prompt=(voice.latents, codebook[voice.units]),
    )
    assert apart(torch.cat(alone), offline[0]) < tolerance


def test_the_captured_ear_hears_what_plain_calls_hear() -> None:
    bundle = small("cuda")
    pcm = (0.1 * np.random.default_rng(1).standard_normal(70_000)).astype(np.float32)

    def heard(ear: Ear) -> list[int]:
        state, units = ear.open(), []
        for start in range(0, len(pcm), LISTEN_SAMPLES):
            piece = pcm[start : start + LISTEN_SAMPLES]
            some, state = ear.step(piece, state, end=len(piece) < LISTEN_SAMPLES)
            units += some
        return units

    given = []
    for capture in (True, False):
        lane = Lane(torch.device("cuda"), capture=capture)
        ear = CapturedEar(bundle.tokenizer.semantic, lane, LISTEN_SAMPLES // 320)
        ear.capture()
        assert (lane.captured, lane.refused) == ((2, 0) if capture else (0, 0))
        given.append(heard(ear))
    assert given[0] == given[1]
    # Other shapes may round otherwise, and a digit that stands on the edge between two levels may fall to either side.
    plain = heard(PlainEar(bundle))
    assert np.mean(np.array(given[0]) == np.array(plain)) > 0.97
