"""Transformed linears stay close to the fp32 ones."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from speechgpt_gen.kernels.linear import BFloat16Linear, Int8Linear, quantize_linears_


@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.01), ("bf16", 0.005)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 48), (2, 25, 48), (7, 48), (48,)])
def test_close_to_fp32(dtype: Literal["int8", "bf16"], error: float, bias: bool, shape: tuple[int, ...]) -> None:
    linear = nn.Linear(48, 33, bias=bias)
    with torch.no_grad():
        linear.weight[3] *= 40  # one loud output channel must not cost the others their precision
        linear.weight[5] = 0
    x = torch.randn(shape)
    expected = linear(x)
    light = quantize_linears_(nn.Sequential(copy.deepcopy(linear)), dtype)
    with torch.inference_mode():
        got = light(x)
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    worst = (got - expected).reshape(-1, 33).abs().amax(dim=0)
    scale = linear.weight.norm(dim=1) * x.reshape(-1, 48).norm(dim=1).max()  # the largest product there could be
    assert (worst <= error * scale + 1e-3).all()
    if dtype == "int8":
        assert not light.state_dict()


@pytest.mark.parametrize("bias", [True, False])
def test_a_loud_row_does_not_cost_the_others_their_precision(bias: bool) -> None:
    linear = nn.Linear(48, 33, bias=bias)
    x = torch.randn(2, 5, 48)
    light = Int8Linear(linear)
    with torch.inference_mode():
        apart = light(x)
        loud = x.clone()
        loud[0, 0] *= 1e4
        together = light(loud)
    torch.testing.assert_close(together[1], apart[1], rtol=0.01, atol=0.02)
    torch.testing.assert_close(together[0, 1:], apart[0, 1:], rtol=0.01, atol=0.02)


def test_skips_by_path_and_by_name() -> None:
    def build() -> nn.Module:
        return nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "head": nn.Linear(4, 4)})

    whole = quantize_linears_(build())
    assert [type(m) for m in whole.modules() if not list(m.children())] == [Int8Linear, nn.ReLU, Int8Linear]
    assert isinstance(quantize_linears_(build(), skip=["head"]).get_submodule("head"), nn.Linear)
    part = quantize_linears_(build(), "bf16", skip=["a.0"])
    assert isinstance(part.get_submodule("a.0"), nn.Linear)
    assert isinstance(part.get_submodule("head"), BFloat16Linear)


def test_the_tied_embedding_stays() -> None:
    module = nn.ModuleDict({"embed": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    module["head"].weight = module["embed"].weight
    before = module["embed"].weight.detach().clone()
    quantize_linears_(module)
    torch.testing.assert_close(module["embed"].weight, before, rtol=0, atol=0)


def test_the_global_engine_is_left_alone() -> None:
    before = torch.backends.quantized.engine
    Int8Linear(nn.Linear(4, 4))
    assert torch.backends.quantized.engine == before
