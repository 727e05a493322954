"""The semantic half of the streaming tokenizer: log-mel frames, a causal transformer, and 1024 units by finite
scalar quantisation.

Units are supervised: a recogniser (CTC over characters) and a spectrum predictor that knows the speaker read them
during training, so that a unit says what is spoken and not who speaks. An own branch for the semantic level follows
Mimi (arXiv 2410.00037, split RVQ); supervised units follow CosyVoice 2 (arXiv 2412.10117, FSQ).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .causal import AttentionState, CausalConv1d, CausalTransformer, Chain, Elu, State

HOP = 320
_MEL_HOP, _WINDOW, _FFT = 160, 400, 512


def mel_filters(bands: int, fft: int, sample_rate: int = 16_000) -> Tensor:
    """Triangular filters on the mel scale (HTK), shape (bands, fft // 2 + 1)."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sample_rate / 2 / 700.0)).item()
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, bands + 2) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, sample_rate / 2, fft // 2 + 1)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0.0)


class LogMel(nn.Module):
    """Two 10 ms log-mel vectors a frame, from this frame's samples and 15 ms before them.

    Shapes: (B, N) with N a multiple of 320, preceded by `context` samples of the past -> (B, N / 320, 2 * bands).
    """

    window: Tensor
    filters: Tensor
    context = _WINDOW - _MEL_HOP

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(bands, _FFT), persistent=False)

    def forward(self, padded: Tensor) -> Tensor:
        frames = padded.float().unfold(-1, _WINDOW, _MEL_HOP) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames, _FFT)).square().sum(-1)
        # The scale of the logarithm keeps speech at about zero mean and unit variance.
        mel = (power @ self.filters.T + 1e-5).log() * 0.3 + 0.6
        return mel.reshape(mel.shape[0], -1, 2 * mel.shape[-1])


class FiniteScalarQuantizer(nn.Module):
    """1024 units: five numbers, each rounded to one of four levels (arXiv 2309.15505). No codebook can collapse."""

    digits = 5
    levels = 4

    def bound(self, z: Tensor) -> Tensor:
        """Real digits in (-0.5, 3.5), shape as z (..., 5)."""
        return (torch.tanh(z) + 1.0) * (self.levels / 2) - 0.5

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 5) -> levels in [-1, 1] with a straight-through gradient (..., 5), and units (...)."""
        bounded = self.bound(z.float())
        digits = bounded.round().clamp(0, self.levels - 1)
        value = bounded + (digits - bounded).detach()
        return value / 1.5 - 1.0, self.index(digits)

    def index(self, digits: Tensor) -> Tensor:
        """Digits 0..3 (..., 5) -> unit (...) int64."""
        weights = self.levels ** torch.arange(self.digits, device=digits.device)
        return (digits.long() * weights).sum(-1)

    def value(self, units: Tensor) -> Tensor:
        """Units (...) -> levels in [-1, 1], shape (..., 5)."""
        weights = self.levels ** torch.arange(self.digits, device=units.device)
        return ((units[..., None] // weights) % self.levels).float() / 1.5 - 1.0


@dataclass(frozen=True)
class SemanticEncoderConfig:
    """Sizes of the semantic branch; `lookahead` and `window` are in frames of 20 ms."""

    bands: int = 80
    dim: int = 256
    layers: int = 6
    heads: int = 4
    window: int = 100
    lookahead: int = 4


@dataclass(frozen=True)
class SemanticState:
    """Stream state: samples not yet used, the mel context before them, convolution and attention states, frames still
    owed."""

    pending: Tensor
    context: Tensor
    front: State
    attention: AttentionState
    skip: int


class SemanticEncoder(nn.Module):
    """Waveform (B, N) -> units (B, ceil(N / 320)). A unit sees `lookahead` frames of its future and a window of past."""

    def __init__(self, config: SemanticEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.bands)
        # Convolutions first: without them attention needs ten times the steps to find what neighbours mean.
        self.front = Chain(
            CausalConv1d(2 * config.bands, config.dim, 5), Elu(), CausalConv1d(config.dim, config.dim, 5), Elu()
        )
        self.transformer = CausalTransformer(config.dim, config.layers, config.heads, config.window)
        self.project = nn.Linear(config.dim, FiniteScalarQuantizer.digits)
        self.quantizer = FiniteScalarQuantizer()

    def features(self, mel: Tensor) -> Tensor:
        """Mel frames (B, T + lookahead, 2 * bands) -> values before quantisation (B, T, 5)."""
        hidden = self.transformer(self.front(mel.transpose(1, 2)).transpose(1, 2))
        return self.project(hidden[:, self.config.lookahead :])  # type: ignore[no-any-return]

    def mel_frames(self, wav: Tensor) -> Tensor:
        """(B, N) -> (B, ceil(N / 320) + lookahead, 2 * bands); the future after the end is silence."""
        tail = -wav.shape[-1] % HOP + self.config.lookahead * HOP
        return self.mel(F.pad(wav, (self.mel.context, tail)))  # type: ignore[no-any-return]

    def forward(self, wav: Tensor) -> Tensor:
        return self.quantizer(self.features(self.mel_frames(wav)))[1]  # type: ignore[no-any-return]

    def init_state(self) -> SemanticState:
        """State of a stream that has heard nothing (batch 1)."""
        weight = self.project.weight
        return SemanticState(
            weight.new_zeros(1, 0),
            weight.new_zeros(1, self.mel.context),
            self.front.init_state(1),
            self.transformer.init_state(1),
            self.config.lookahead,
        )

    def step(self, wav: Tensor, state: SemanticState, *, end: bool = False) -> tuple[Tensor, SemanticState]:
        """Next samples (N,) of a stream -> units (t,) known by now; at `end` the frames held back come too."""
        pending = torch.cat([state.pending, wav[None].to(state.pending)], -1)
        if end and (pending.shape[-1] > 0 or state.attention.position > 0):
            tail = -pending.shape[-1] % HOP + self.config.lookahead * HOP
            pending = F.pad(pending, (0, tail))
        whole = pending.shape[-1] // HOP * HOP
        if whole == 0:
            return torch.zeros(0, dtype=torch.int64), replace(state, pending=pending)
        padded = torch.cat([state.context, pending[:, :whole]], -1)
        local, front = self.front.step(self.mel(padded).transpose(1, 2), state.front)
        hidden, attention = self.transformer.step(local.transpose(1, 2), state.attention)
        dropped = min(state.skip, hidden.shape[1])
        units = self.quantizer(self.project(hidden[:, dropped:]))[1][0]
        context = padded[:, padded.shape[-1] - self.mel.context :]
        return units, SemanticState(pending[:, whole:], context, front, attention, state.skip - dropped)


class SemanticReader(nn.Module):
    """What supervises the units: characters by CTC, and the spectrum given the speaker.

    Shapes: values (B, T, 5) -> characters (B, T, symbols) logits and mel (B, T, 2 * bands).
    """

    def __init__(self, config: SemanticEncoderConfig, symbols: int, speakers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(FiniteScalarQuantizer.digits, config.dim)
        self.transformer = CausalTransformer(config.dim, 2, config.heads, config.window)
        self.characters = nn.Linear(config.dim, symbols)
        self.spectrum_in = nn.Conv1d(FiniteScalarQuantizer.digits, config.dim, 9, padding=4)
        self.speaker = nn.Embedding(speakers, config.dim)
        self.spectrum_mid = nn.Conv1d(config.dim, config.dim, 5, padding=2)
        self.spectrum_out = nn.Linear(config.dim, 2 * config.bands)

    def forward(self, values: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.read(values)
        hidden = F.relu(self.spectrum_in(values.transpose(1, 2)) + self.speaker(speaker)[:, :, None])
        hidden = F.relu(self.spectrum_mid(hidden))
        return logits, self.spectrum_out(hidden.transpose(1, 2))

    def read(self, values: Tensor) -> Tensor:
        """Character logits (B, T, symbols)."""
        return self.characters(self.transformer(self.embed(values)))  # type: ignore[no-any-return]
