"""The parts of the published backbones, each against its formula."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechgpt_gen.models.perceptual.attention import Attention, Rotary
from speechgpt_gen.models.perceptual.backbone import AdaptiveRMSNorm, BackboneOptions, RMSNorm, UStack
from speechgpt_gen.models.perceptual.conformer import ConformerBlock
from speechgpt_gen.models.perceptual.transformer import TransformerBlock

DIM = 16


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions of x (T, width), pair by pair, as plane rotations."""
    out = x.clone()
    half = x.shape[1] // 2
    for frame in range(x.shape[0]):
        for pair in range(half):
            angle = torch.tensor(frame * 10000.0 ** (-pair / half))
            a, b = x[frame, pair], x[frame, pair + half]
            out[frame, pair] = a * angle.cos() - b * angle.sin()
            out[frame, pair + half] = b * angle.cos() + a * angle.sin()
    return out


def _attended(layer: Attention, x: Tensor, mask: Tensor, *, rotate_keys: bool) -> Tensor:
    """Attention over x (T, dim), head by head and softmax by hand."""
    width = DIM // layer.heads
    q, (k, v) = x @ layer.to_q.weight.T, (x @ layer.to_kv.weight.T).split(DIM, dim=-1)
    heads = []
    for head in range(layer.heads):
        at = slice(head * width, (head + 1) * width)
        keys = _rotated(k[:, at]) if rotate_keys else k[:, at]
        scores = _rotated(q[:, at]) @ keys.T / width**0.5
        weights = scores.exp() * mask
        heads.append(weights / weights.sum(-1, keepdim=True) @ v[:, at])
    return torch.cat(heads, dim=-1) @ layer.to_out.weight.T + layer.to_out.bias


@pytest.mark.parametrize("rotate_keys", [True, False])
def test_attention_is_its_formula(rotate_keys: bool) -> None:
    layer = Attention(DIM, 2, dropout=0.0, rotate_keys=rotate_keys)
    x = torch.randn(1, 5, DIM)
    mask = torch.tensor([[True, True, False, True, True]])
    got = layer(x, Rotary.of(5, DIM // 2, x), mask)[0]
    torch.testing.assert_close(got, _attended(layer, x[0], mask[0], rotate_keys=rotate_keys), atol=1e-5, rtol=1e-5)


def _convolved(block: ConformerBlock, x: Tensor, mask: Tensor) -> Tensor:
    """The convolution module on x (T, dim), frame by frame."""
    norm, wide = block.conv.net1[0], block.conv.net1[2]
    depthwise, channel_norm, narrow = block.conv.ds_conv["conv"], block.conv.net2[1], block.conv.net2[2]
    inner = depthwise.weight.shape[0]
    gates = norm(x) @ wide.weight[:, :, 0].T + wide.bias
    y = gates[:, :inner] * torch.sigmoid(gates[:, inner:]) * mask[:, None]
    reach = depthwise.weight.shape[-1] // 2
    rows = []
    for frame in range(len(x)):
        total = depthwise.bias.clone()
        for tap in range(2 * reach + 1):
            at = frame + tap - reach
            if 0 <= at < len(x):
                total = total + y[at] * depthwise.weight[:, 0, tap]
        rows.append(total * mask[frame])
    z = torch.stack(rows)
    z = z * torch.sigmoid(z)
    variance = ((z - z.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True).clamp(min=1e-6)
    z = (z - z.mean(1, keepdim=True)) / variance.sqrt() * channel_norm.gamma[0, :, 0]
    return z @ narrow.weight[:, :, 0].T + narrow.bias


def _fed(net: nn.Module, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    first, second = net[0], net[3]  # type: ignore[index]
    return activation(x @ first.weight.T + first.bias) @ second.weight.T + second.bias


@pytest.mark.parametrize("adaptive", [False, True])
def test_conformer_block_is_its_formula(adaptive: bool) -> None:
    options = BackboneOptions(dim=DIM, depth=1, heads=2, conv_kernel_size=5, cond_dim=6 if adaptive else None)
    block = ConformerBlock(options).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, cond = torch.randn(1, 6, DIM), torch.randn(1, 6) if adaptive else None
    mask = torch.tensor([[True, True, True, True, False, False]])

    def norm(layer: nn.Module, value: Tensor) -> Tensor:
        return layer(value[None], cond)[0] if adaptive else layer(value)  # type: ignore[no-any-return]

    def swish(value: Tensor) -> Tensor:
        return value * torch.sigmoid(value)

    y = x[0]
    y = y + 0.5 * _fed(block.ff1.fn.fn.net, norm(block.ff1.fn.norm, y), swish)
    y = y + _attended(block.attn.fn, norm(block.attn.norm, y), mask[0], rotate_keys=True)
    y = y + _convolved(block, y, mask[0].float())
    y = y + 0.5 * _fed(block.ff2.fn.fn.net, norm(block.ff2.fn.norm, y), swish)
    y = block.post_norm(y)
    torch.testing.assert_close(block(x, Rotary.of(6, DIM // 2, x), mask, cond)[0], y, atol=1e-4, rtol=1e-4)


def test_transformer_block_is_its_formula() -> None:
    block = TransformerBlock(BackboneOptions(dim=DIM, depth=1, heads=2)).eval()
    x = torch.randn(1, 5, DIM)
    mask = torch.ones(1, 5, dtype=torch.bool)
    y = block.attn.norm(x[0] + _attended(block.attn.fn, x[0], mask[0], rotate_keys=False))
    y = block.ffn.norm(y + _fed(block.ffn.fn.net, y, F.elu))
    torch.testing.assert_close(block(x, Rotary.of(5, DIM // 2, x), mask, None)[0], y, atol=1e-5, rtol=1e-5)


def test_norms_are_their_formulas() -> None:
    x, cond = torch.randn(2, 3, DIM), torch.randn(2, 6)
    plain, adaptive = RMSNorm(DIM), AdaptiveRMSNorm(DIM, 6)
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(plain(x), rms)
    torch.testing.assert_close(adaptive(x, cond), rms)  # begins as a plain one
    nn.init.normal_(adaptive.to_gamma.weight)
    nn.init.normal_(adaptive.to_beta.weight)
    gamma = 1 + cond @ adaptive.to_gamma.weight.T
    torch.testing.assert_close(adaptive(x, cond), rms * gamma[:, None] + (cond @ adaptive.to_beta.weight.T)[:, None])


class _Add(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x + self.amount


class _AddTenfoldSkip(nn.Module):
    def forward(self, pair: Tensor) -> Tensor:
        return pair[..., :2] + 10 * pair[..., 2:]


@pytest.mark.parametrize(
    ("depth", "sizes", "end"),
    # depth 5: 1, 3 | 6 | 6 + 10 * 3 + 4 = 40, 40 + 10 * 1 + 5 = 55.  depth 4: 1 | 3, 6 | 6 + 10 * 1 + 4 = 20.
    [(5, (2, 1, 2), 55.0), (4, (1, 2, 1), 20.0), (2, (0, 2, 0), 3.0), (1, (0, 1, 0), 1.0), (12, (5, 2, 5), None)],
)
def test_a_u_joins_each_block_with_its_mirror(depth: int, sizes: tuple[int, int, int], end: float | None) -> None:
    amounts = iter(range(1, 99))
    net = UStack(
        BackboneOptions(dim=2, depth=depth, heads=1), lambda _: _Add(next(amounts)), lambda _: _AddTenfoldSkip()
    )
    assert (len(net.contracting_layers), len(net.bottleneck_layers), len(net.expanding_layers)) == sizes
    if end is not None:
        assert net(torch.zeros(1, 3, 2)).unique().tolist() == [end]
