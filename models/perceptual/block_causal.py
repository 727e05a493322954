"""The streaming perceptual model: a block-causal transformer that estimates the flow's velocity.

A frame sees its whole block, a finite window of earlier blocks and the voice prompt. The condition is the flow's time
(through adaptive layer norm, shared between layers but for a learned offset, as in PixArt) and, per frame, v1 and the
prompt. Prompt frames enter clean, with no noise and no trajectory of their own: what they contribute depends on the
voice and the time alone, so their keys and values can be computed once per voice.

`velocity` is the masked run over whole utterances that training and offline synthesis use; `streaming.py` runs the same
layers block by block.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.attention import attend
from ..config import check_heads, positive
from ..errors import ConfigError
from .flow_matching import Chain, FlowMatching, FlowOptions, Prior
from .schedule import PROMPT, visible

Remember: TypeAlias = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(layer, new keys, new values), each (B, heads, T, d), to all the keys and values that the new frames may see."""


@dataclass(frozen=True)
class BlockCausalConfig:
    """Sizes and flow of a block-causal perceptual model; flat, so that it is written to JSON as it is."""

    latent_dim: int = 64
    """Width D of the speech tokenizer's latents."""
    dim: int = 384
    depth: int = 8
    heads: int = 6
    ff_mult: float = 4.0
    window_frames: int = 100
    """A block sees the earlier blocks that start at most so many frames before it does (100 = 2 s)."""
    concat_cond: bool = True
    """Give v1 to the network as well as to the prior: without it, content must be read through the prior's noise."""
    detail: int = 0
    """Digits of a unit's detail (`speech_tokenizer/detail.py`) that stand beside v1."""
    rope_theta: float = 10000.0
    chain: Chain = "implicit"
    prior: Prior = "semantic"
    prior_sigma: float = 1.0
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "latent_dim", "dim", "depth", "heads", "ff_mult")
        check_heads("dim", self.dim, self.heads)
        if self.detail < 0 or (self.detail and not self.concat_cond):
            raise ConfigError(f"perceptual detail must be 0 or, with concat_cond, positive, not {self.detail}")
        if self.window_frames < 0:
            raise ConfigError(f"perceptual window_frames must not be negative, not {self.window_frames}")
        _ = self.options  # validates the flow's part

    @property
    def options(self) -> FlowOptions:
        return FlowOptions(self.chain, self.prior, self.prior_sigma, self.sigma_min)


class Modulation(NamedTuple):
    """Adaptive-norm values for n flow times: a table of these is all that a solver's grid of times amounts to."""

    layers: Tensor
    """(n, depth, 6, dim): shift, scale, gate of attention, then of the feed-forward part."""
    head: Tensor
    """(n, 2, dim): shift, scale before the output projection."""

    def at(self, index: int) -> "Modulation":
        """The values of one time, n = 1."""
        return Modulation(self.layers[index : index + 1], self.head[index : index + 1])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of x (..., T, any, heads, d) by rotation (T, 1, 1, d / 2) complex64, in float32.

    Returns x's dtype.
    """
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """Attention and feed-forward, each inside an adaptive layer norm and a gate."""

    def __init__(self, config: BlockCausalConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.ff_mult)
        self.heads = config.heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        remember: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """x (B, T, dim), modulation (B or 1, 6, dim), mask broadcastable to (B, heads, T, keys) or None: see all."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation[:, :, None].unbind(1)
        attended = self._attend(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale), rotation, mask, remember)
        x = torch.addcmul(x, gate, attended)
        h = torch.addcmul(ff_shift, F.layer_norm(x, x.shape[-1:]), ff_scale)
        return torch.addcmul(x, ff_gate, self.down(F.silu(self.up(h))))

    def _attend(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        remember: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, d)
        q, k = rotate(qkv[:, :, :2], rotation).transpose(1, 3).unbind(2)  # (B, heads, T, d)
        v = qkv[:, :, 2].transpose(1, 2)
        if remember is not None:
            k, v = remember(k, v)
        attended = attend(q, k, v, mask)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class BlockCausalFlow(nn.Module):
    """Velocity of the flow from v1 to v1:8, block by block.

    Outside, latents are the tokenizer's; inside, both v1 and v1:8 are normalised by the buffers latent_mean and
    latent_std (D,), so that the prior's noise has the latents' scale in every channel.
    """

    latent_mean: Tensor
    latent_std: Tensor
    rope_frequencies: Tensor
    one_per_scale: Tensor

    def __init__(self, config: BlockCausalConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BlockCausalConfig()
        self.flow = FlowMatching(config.options)
        dim, latent, head = config.dim, config.latent_dim, config.dim // config.heads
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_std", torch.ones(latent))
        self.in_proj = nn.Linear((3 if config.concat_cond else 2) * latent + config.detail, dim)
        self.prompt_embedding = nn.Parameter(torch.zeros(dim))
        self.time_in = nn.Linear(_TIME_FEATURES, dim)
        self.time_out = nn.Linear(dim, dim)
        self.modulation = nn.Linear(dim, 8 * dim)
        self.layer_modulation = nn.Parameter(torch.zeros(config.depth, 6, dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.out_proj = nn.Linear(dim, latent)
        frequencies = config.rope_theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
        self.register_buffer("rope_frequencies", frequencies.float(), persistent=False)
        self.register_buffer("one_per_scale", torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1])[:, None], persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # adaLN-zero: every gate starts shut and the velocity at 0, so the first steps can't blow up.
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.out_proj.weight)

    def normalise(self, latents: Tensor) -> Tensor:
        """Tokenizer latents (..., D) to the flow's scale, float32."""
        return (latents.float() - self.latent_mean.float()) / self.latent_std.float()

    def normalise_semantics(self, v1: Tensor) -> Tensor:
        """v1 with the digits of detail beside it to the flow's scale, (..., D + detail); more digits are not looked at.

        Raises ValueError when there are fewer.
        """
        dim, detail = self.config.latent_dim, self.config.detail
        if v1.shape[-1] < dim + detail:
            raise ValueError(f"v1 has {v1.shape[-1]} channels, this flow takes {dim} and {detail} digits of detail")
        return torch.cat((self.normalise(v1[..., :dim]), v1[..., dim : dim + detail].float()), dim=-1)

    def denormalise(self, z: Tensor) -> Tensor:
        """The flow's scale (..., D) back to tokenizer latents, float32."""
        return z.float() * self.latent_std.float() + self.latent_mean.float()

    def modulations(self, t: Tensor) -> Modulation:
        """Adaptive-norm values for flow times t (n,) in [0, 1]; never under autocast: all layers hang on them."""
        dtype = self.layer_modulation.dtype
        with torch.autocast(t.device.type, enabled=False):
            h = F.silu(self.time_in(_time_features(t).to(dtype)))
            h = self.modulation(F.silu(self.time_out(h))).unflatten(-1, (8, -1)) + self.one_per_scale.to(dtype)
            return Modulation(h[:, None, :6] + self.layer_modulation, h[:, 6:])

    def rotation(self, positions: Tensor) -> Tensor:
        """Rotary factors (T, 1, 1, d / 2) complex64 for absolute frame positions (T,) int64."""
        angles = positions.to(torch.float64)[:, None, None, None] * self.rope_frequencies.to(torch.float64)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def embed(self, x: Tensor, v1: Tensor, context: Tensor) -> Tensor:
        """Input projection of x_t (B, T, D), v1 (B, T, D + detail) and prompt context (B, T, D), all normalised, to
        (B, T, dim)."""
        parts = (x, v1, context) if self.config.concat_cond else (x, context)
        h: Tensor = self.in_proj(torch.cat(parts, dim=-1).to(self.layer_modulation.dtype))
        return h.to(self.layer_modulation.dtype)  # the residual stream keeps the weights' precision under autocast

    def run(
        self,
        h: Tensor,
        modulation: Modulation,
        rotation: Tensor,
        *,
        mask: Tensor | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """All layers over embedded frames h (B, T, dim); returns the velocity (B, T, D) float32."""
        for layer, block in enumerate(self.blocks):
            extend = None if remember is None else _of_layer(remember, layer)
            h = block(h, modulation.layers[:, layer], rotation, mask, extend)
        shift, scale = modulation.head[:, :, None].unbind(1)
        velocity: Tensor = self.out_proj(torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), scale))
        return velocity.float()

    def velocity(
        self,
        x: Tensor,
        t: Tensor,
        v1: Tensor,
        context: Tensor,
        block_of: Tensor,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, T, D) float32 of whole utterances under the block mask.

        x (B, T, D) and v1 (B, T, D + detail) normalised; context (B, T, D) the prompt's clean normalised latents, 0
        outside the prompt;
        t (B,) in [0, 1]; block_of (T,) int64 from `BlockSchedule.table`; positions (T,) absolute frames, default
        0 ... T - 1; valid (B, T) bool, False on padding (None: all valid). What x holds on prompt frames is of no
        consequence, nor is the velocity returned there and on padding.
        """
        prompt = (block_of == PROMPT)[:, None]
        h = self.embed(x.masked_fill(prompt, 0.0), v1, context) + prompt * self.prompt_embedding
        mask = visible(block_of, self.config.window_frames)[None, None]
        if valid is not None:  # a padding frame still sees itself: softmax over nothing would be NaN
            mask = (mask & valid[:, None, None, :]) | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        return self.run(h, self.modulations(t), self.rotation(positions), mask=mask)


_TIME_FEATURES = 256


def _time_features(t: Tensor) -> Tensor:
    """Sine and cosine features (n, 256) of flow times t (n,), wavelengths from 2 pi / 1000 to 20 pi."""
    half = _TIME_FEATURES // 2
    frequencies = 1000.0 * torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _of_layer(remember: Remember, layer: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda keys, values: remember(layer, keys, values)
