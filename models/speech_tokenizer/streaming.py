"""The streaming speech tokenizer: causal, and its first level of codes is semantic.

    latents v1:8 = v1 (codebook 0, looked up by the semantic unit) + seven residual levels of what v1 leaves open

The semantic unit comes from its own branch (semantic_encoder.py), so reading a user's speech never runs the acoustic
encoder (spectral.py). Decoding takes the continuous sum of code vectors, as in the published SpeechTokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import check_heads, positive
from ..errors import ConfigError
from .detail import semantics
from .semantic_encoder import HOP, UNITS, SemanticEncoder, SemanticEncoderConfig, SemanticState
from .spectral import AcousticDecoder, AcousticEncoder, DecoderState


@dataclass(frozen=True)
class StreamingTokenizerConfig:
    """Sizes. `latent_dim` is D, `reach` what the acoustic transformers see of the past, in frames."""

    semantic: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    encoder_dim: int = 256
    encoder_layers: int = 2
    decoder_dim: int = 384
    decoder_layers: int = 5
    heads: int = 4
    reach: int = 32
    latent_dim: int = 64
    n_q: int = 8
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        positive(self, "encoder_layers", "decoder_layers", "reach", "latent_dim", "n_q")
        check_heads("encoder_dim", self.encoder_dim, self.heads)
        check_heads("decoder_dim", self.decoder_dim, self.heads)
        if self.codebook_size < UNITS:
            raise ConfigError(f"codebook_size is {self.codebook_size}: there are {UNITS} units")


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
        sizes = (config.heads, config.reach)
        self.encoder = AcousticEncoder(config.latent_dim, config.encoder_dim, config.encoder_layers, *sizes)
        self.decoder = AcousticDecoder(config.latent_dim, config.decoder_dim, config.decoder_layers, *sizes)
        self.codebooks = ResidualCodebooks(config.n_q, config.codebook_size, config.latent_dim)

    def take(self, encoder: SemanticEncoder) -> None:
        """Hear by another encoder, of any shape, whose units mean the same."""
        self.semantic, self.config = encoder, replace(self.config, semantic=encoder.config)

    def continuous(self, wav: Tensor) -> Tensor:
        """Latents before quantisation: (B, 1, N) -> (B, ceil(N / 320), D), each of unit variance."""
        return self.encoder(F.pad(wav[:, 0], (0, -wav.shape[-1] % HOP)))  # type: ignore[no-any-return]

    def encode_semantic(self, wav: Tensor) -> Tensor:
        """Units only: (B, 1, N) -> (B, ceil(N / 320)) int64."""
        return self.hear(wav).remainder(UNITS)

    def hear(self, wav: Tensor) -> Tensor:
        """Units as a listener takes them, with their detail (`detail.py`): (B, 1, N) -> (B, ceil(N / 320)) int64."""
        return self.semantic(wav[:, 0])  # type: ignore[no-any-return]

    def encode(self, wav: Tensor, n_q: int | None = None) -> Tensor:
        """Codes of the first `n_q` levels (default all): (B, 1, N) -> (n_q, B, ceil(N / 320)) int64."""
        units = self.encode_semantic(wav)
        return units[None] if n_q == 1 else self._levels(wav, units, n_q or self.n_q)

    def encode_voice(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """What a flow is prompted with: units with their detail and the latents of all levels, (B, 1, N) -> (B, T)
        int64 and (B, T, D) for T = ceil(N / 320)."""
        heard = self.hear(wav)
        return heard, self.latents(self._levels(wav, heard % UNITS, self.n_q))

    def _levels(self, wav: Tensor, units: Tensor, n_q: int) -> Tensor:
        codes = [units]
        residual = self.continuous(wav) - self.semantic_latents(units)
        for level in range(1, n_q):
            codes.append(self.codebooks.nearest(residual, level))
            residual = residual - F.embedding(codes[-1], self.codebooks.vectors[level])
        return torch.stack(codes)

    def latents(self, codes: Tensor) -> Tensor:
        """Sum of code vectors: (q, B, T) -> (B, T, D)."""
        return self.codebooks.sum(codes)

    def semantic_latents(self, units: Tensor) -> Tensor:
        """Codebook 0: (B, T) -> (B, T, D)."""
        return F.embedding(units, self.codebooks.vectors[0])

    def semantics(self, units: Tensor) -> Tensor:
        """What a flow is told of units with or without detail: (B, T) -> (B, T, D + digits of it)."""
        return semantics(units, self.codebooks.vectors[0], self.config.semantic.detail)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, T, D) -> waveform (B, 1, 320 * T)."""
        wav: Tensor = self.decoder(latents)
        return wav[:, None]

    def semantic_state(self) -> SemanticState:
        """State of a stream of user audio that has heard nothing."""
        return self.semantic.init_state()

    def hear_chunk(self, wav: Tensor, state: SemanticState, end: bool = False) -> tuple[Tensor, SemanticState]:
        """Next samples (N,) -> units (t,) of `hear` known by now; `lookahead` frames are held back until `end`."""
        return self.semantic.step(wav, state, end=end)

    def decoder_state(self, batch: int = 1) -> DecoderState:
        """State of a decoder that has played nothing."""
        return self.decoder.init_state(batch)

    def decode_chunk(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Next frames (B, t, D) -> waveform (B, 1, 320 * t)."""
        wav, state = self.decoder.step(latents, state)
        return wav[:, None], state
