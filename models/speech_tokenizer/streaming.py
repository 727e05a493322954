"""The streaming speech tokenizer: a causal SEANet whose first level of codes is semantic.

    latents v1:8 = v1 (codebook 0, looked up by the semantic unit) + seven residual levels of what v1 leaves open

The semantic unit comes from its own small branch (semantic_encoder.py), so reading a user's speech never runs the
waveform encoder. Decoding takes the continuous sum of code vectors, as in the published SpeechTokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .causal import (
    AttentionState,
    CausalConv1d,
    CausalConvTranspose1d,
    CausalTransformer,
    Chain,
    Elu,
    ResidualUnit,
    State,
)
from .semantic_encoder import HOP, SemanticEncoder, SemanticEncoderConfig, SemanticState

STRIDES = (8, 5, 4, 2)
"""Upsampling of the decoder; the encoder uses them in reverse. Their product is one frame of 320 samples."""


@dataclass(frozen=True)
class StreamingTokenizerConfig:
    """Sizes. `latent_dim` is D, `window` the reach of the bottleneck transformers in frames."""

    semantic: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    encoder_filters: int = 16
    decoder_filters: int = 24
    layers: int = 4
    heads: int = 4
    window: int = 32
    latent_dim: int = 64
    n_q: int = 8
    codebook_size: int = 1024


class Bottleneck(nn.Module):
    """A causal transformer at the frame rate between convolutions: (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.transformer = CausalTransformer(channels, layers, heads, window)

    def init_state(self, batch: int) -> AttentionState:
        return self.transformer.init_state(batch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.transformer(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.transformer.step(x.transpose(1, 2), state)
        return x + y.transpose(1, 2), state


def _encoder(config: StreamingTokenizerConfig) -> Chain:
    channels = config.encoder_filters
    blocks: list[nn.Module] = [CausalConv1d(1, channels, 7)]
    for stride in reversed(STRIDES):
        blocks += [ResidualUnit(channels), Elu(), CausalConv1d(channels, 2 * channels, 2 * stride, stride)]
        channels *= 2
    blocks += [Bottleneck(channels, config.layers, config.heads, config.window), Elu()]
    return Chain(*blocks, CausalConv1d(channels, config.latent_dim, 3))


def _decoder(config: StreamingTokenizerConfig) -> Chain:
    channels = 16 * config.decoder_filters
    blocks: list[nn.Module] = [CausalConv1d(config.latent_dim, channels, 5)]
    blocks.append(Bottleneck(channels, config.layers, config.heads, config.window))
    for stride in STRIDES:
        blocks += [Elu(), CausalConvTranspose1d(channels, channels // 2, stride), ResidualUnit(channels // 2)]
        channels //= 2
    return Chain(*blocks, Elu(), CausalConv1d(channels, 1, 7))


class ResidualCodebooks(nn.Module):
    """Code vectors of all levels, (n_q, codebook_size, D). Level 0 belongs to the semantic unit."""

    vectors: Tensor

    def __init__(self, n_q: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(n_q, size, dim))

    def nearest(self, residual: Tensor, level: int) -> Tensor:
        """Index of the nearest code of a level: (..., D) -> (...) int64; the first of equals."""
        book = self.vectors[level]
        return (residual @ book.T - 0.5 * book.square().sum(-1)).argmax(-1)

    def sum(self, codes: Tensor) -> Tensor:
        """(q, B, T) -> (B, T, D), q <= n_q levels from the first."""
        return torch.stack([F.embedding(c, book) for c, book in zip(codes, self.vectors, strict=False)]).sum(0)


class StreamingSpeechTokenizer(nn.Module):
    """Causal tokenizer: 16 kHz mono in and out, one frame of 320 samples is 20 ms."""

    sample_rate = 16_000
    hop = HOP

    def __init__(self, config: StreamingTokenizerConfig) -> None:
        super().__init__()
        self.config, self.n_q, self.dim = config, config.n_q, config.latent_dim
        self.semantic = SemanticEncoder(config.semantic)
        self.encoder, self.decoder = _encoder(config), _decoder(config)
        self.codebooks = ResidualCodebooks(config.n_q, config.codebook_size, config.latent_dim)

    def continuous(self, wav: Tensor) -> Tensor:
        """Latents before quantisation: (B, 1, N) -> (B, ceil(N / 320), D), each of unit variance."""
        padded = F.pad(wav, (0, -wav.shape[-1] % HOP))
        latents = self.encoder(padded).transpose(1, 2).float()
        return F.layer_norm(latents, latents.shape[-1:])

    def encode_semantic(self, wav: Tensor) -> Tensor:
        """Units only: (B, 1, N) -> (B, ceil(N / 320)) int64."""
        return self.semantic(wav[:, 0])  # type: ignore[no-any-return]

    def encode(self, wav: Tensor, n_q: int | None = None) -> Tensor:
        """Codes of the first `n_q` levels (default all): (B, 1, N) -> (n_q, B, ceil(N / 320)) int64."""
        codes = [self.encode_semantic(wav)]
        if n_q == 1:
            return torch.stack(codes)
        residual = self.continuous(wav) - self.semantic_latents(codes[0])
        for level in range(1, n_q or self.n_q):
            codes.append(self.codebooks.nearest(residual, level))
            residual = residual - F.embedding(codes[-1], self.codebooks.vectors[level])
        return torch.stack(codes)

    def latents(self, codes: Tensor) -> Tensor:
        """Sum of code vectors: (q, B, T) -> (B, T, D)."""
        return self.codebooks.sum(codes)

    def semantic_latents(self, units: Tensor) -> Tensor:
        """Codebook 0: (B, T) -> (B, T, D)."""
        return F.embedding(units, self.codebooks.vectors[0])

    def decode(self, latents: Tensor) -> Tensor:
        """(B, T, D) -> waveform (B, 1, 320 * T)."""
        return self.decoder(latents.transpose(1, 2))  # type: ignore[no-any-return]

    def semantic_state(self) -> SemanticState:
        """State of a stream of user audio that has heard nothing."""
        return self.semantic.init_state()

    def encode_semantic_chunk(
        self, wav: Tensor, state: SemanticState, end: bool = False
    ) -> tuple[Tensor, SemanticState]:
        """Next samples (N,) -> units (t,) known by now; `lookahead` frames are held back until `end`."""
        return self.semantic.step(wav, state, end=end)

    def decoder_state(self, batch: int = 1) -> State:
        """State of a decoder that has played nothing."""
        return self.decoder.init_state(batch)

    def decode_chunk(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Next frames (B, t, D) -> waveform (B, 1, 320 * t)."""
        return self.decoder.step(latents.transpose(1, 2), state)
