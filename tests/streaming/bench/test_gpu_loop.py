"""The WHILE node against plain bursts, on a GPU."""

from dataclasses import replace

import pytest
import torch

from speechgpt_gen.kernels.gpu.while_node import refusal
from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.eightb import eight_config, random_bundle
from speechgpt_gen.models.semantic.grammar import DecodingLimits, Grammar
from speechgpt_gen.models.semantic.slots import SlotModel, SlotOptions
from speechgpt_gen.streaming.bench import loop
from speechgpt_gen.streaming.bench.loop import LoopBurst, PlainBurst, place

REASON = refusal(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


@pytest.mark.parametrize("most", [2, 8, 32])
@pytest.mark.parametrize("size", [1, 3])
def test_the_device_loops_as_the_host_would(size: int, most: int) -> None:
    config, tiny = eight_config(), load_bundle("tiny").config
    # Heads and widths that the kernels take, few layers.
    semantic = replace(
        config.semantic,
        vocab_size=500 + 1024 + 11,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    bundle = random_bundle("small", replace(tiny, semantic=semantic, voices=("random",)), torch.device("cuda"))
    bundle.semantic.fuse_()
    grammar = Grammar(bundle.vocabulary, DecodingLimits(word_frames=loop._WORD))
    model = SlotModel(bundle.semantic, grammar, SlotOptions(4, 200, (3,), {3: 1}), Lane(torch.device("cuda")))
    with model.lane.entered(), torch.inference_mode():
        plain, looped = PlainBurst(model, size, most), LoopBurst(model, size, most)
        assert looped.loop.on_device
        for soon in (False, True, False):  # a launch begins anew, whatever the last one left behind
            drawn = []
            for burst in (plain, looped):
                place(model, size, 50, soon=soon)
                drawn.append(burst(list(range(size))).take()[0])
            assert torch.equal(drawn[0], drawn[1])
            assert (drawn[1][0] >= 0).all()
