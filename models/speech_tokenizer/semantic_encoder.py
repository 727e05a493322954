"""The semantic half of the streaming tokenizer: log-mel frames, a causal transformer, and 1024 units by finite
scalar quantisation.

Units are supervised: a recogniser (CTC over characters) and a spectrum predictor that knows the speaker read them
during training, so that a unit says what is spoken and not who speaks. An own branch for the semantic level follows
Mimi (arXiv 2410.00037, split RVQ); supervised units follow CosyVoice 2 (arXiv 2412.10117, FSQ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import check_heads, positive
from .causal import AttentionState, CausalConv1d, CausalTransformer, Chain, Gelu, State
from .detail import Detail
from .fsq import FiniteScalarQuantizer

HOP = 320
UNITS = FiniteScalarQuantizer.levels**FiniteScalarQuantizer.digits
_MEL_HOP, _WINDOW = 160, 400


def mel_filters(bands: int, fft: int, sample_rate: int = 16_000) -> Tensor:
    """Triangular filters of equal area on Slaney's mel scale, shape (bands, fft // 2 + 1)."""

    def to_hertz(mel: Tensor) -> Tensor:
        return torch.where(mel < 15.0, mel * 200 / 3, 1000.0 * torch.exp((mel - 15.0) * math.log(6.4) / 27.0))

    top = 15.0 + 27.0 * math.log(sample_rate / 2000.0) / math.log(6.4)
    edges = to_hertz(torch.linspace(0.0, top, bands + 2, dtype=torch.float64))
    bins = torch.linspace(0.0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])[:, None]
    return (torch.minimum(rising, falling).clamp_min(0.0) * area).float()


class LogMel(nn.Module):
    """A log-mel vector every 10 ms, scaled as Whisper's, from 25 ms of the past.

    Shapes: (B, N) with N a multiple of 320, preceded by `context` samples of the past -> (B, bands, N / 160). Whisper
    floors the spectrum 8 decades below its loudest bin; a stream cannot know that one, so the floor is fixed.
    """

    window: Tensor
    filters: Tensor
    context = _WINDOW - _MEL_HOP

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(bands, _WINDOW), persistent=False)

    def forward(self, padded: Tensor) -> Tensor:
        frames = padded.float().unfold(-1, _WINDOW, _MEL_HOP) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
        with torch.autocast(power.device.type, enabled=False):  # soft frames would drown in 8 bits of mantissa
            mel = (power @ self.filters.T).clamp_min(10.0**-7).log10()
        return ((mel + 4.0) / 4.0).transpose(1, 2)


@dataclass(frozen=True)
class SemanticEncoderConfig:
    """Sizes of the semantic branch; `lookahead`, `window` and `block` are in frames of 20 ms.

    block: a frame sees the rest of its block, so units come a block at a time; 1: they come one by one. Whisper's
    layers, which know the future, do in blocks nearly what they did, and one by one must learn it anew.
    """

    bands: int = 80
    dim: int = 512
    layers: int = 4
    heads: int = 8
    window: int = 100
    lookahead: int = 6
    block: int = 1
    reader_dim: int = 256
    detail: int = 0
    """Digits of four levels that a listener is told of a frame beyond its unit (`detail.py`)."""

    def __post_init__(self) -> None:
        positive(self, "bands", "dim", "layers", "window", "block")
        check_heads("dim", self.dim, self.heads, rotary=False)


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
    """Waveform (B, N) -> units as they are heard (B, ceil(N / 320)). A unit sees a window of past, and of the future
    the block that it is known with, `lookahead` frames after its own."""

    def __init__(self, config: SemanticEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.bands)
        # Convolutions, sinusoids and layers have the shapes of Whisper's encoder, so that it can start from one.
        self.front = Chain(
            CausalConv1d(config.bands, config.dim, 3), Gelu(), CausalConv1d(config.dim, config.dim, 3, 2), Gelu()
        )
        self.transformer = CausalTransformer(
            config.dim, config.layers, config.heads, config.window, block=config.block, rotary=False
        )
        self.project = nn.Linear(config.dim, FiniteScalarQuantizer.digits)
        # Keeps each digit's values spread over its four levels; without it the units gather in a few codes.
        self.spread = nn.BatchNorm1d(FiniteScalarQuantizer.digits, affine=False)
        self.quantizer = FiniteScalarQuantizer()
        self.detail = Detail(config.dim, config.detail) if config.detail else None

    def start_from(self, other: SemanticEncoder) -> None:
        """Take the weights of an encoder of this shape; its detail, if both have some."""
        own, theirs = self.state_dict(), other.state_dict()
        self.load_state_dict({name: theirs.get(name, value) for name, value in own.items()})

    def digits(self, hidden: Tensor) -> Tensor:
        """States (B, T, dim) -> what is quantised (B, T, 5), not yet bounded."""
        return self.spread(self.project(hidden).float().transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]

    def quantize(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, dim) -> levels in [-1, 1] (B, T, 5) and units (B, T)."""
        return self.quantizer(self.digits(hidden))  # type: ignore[no-any-return]

    def heard(self, hidden: Tensor) -> Tensor:
        """States (B, T, dim) -> units as a listener takes them (B, T) int64: with their detail, if there is any."""
        _, units = self.quantize(hidden)
        return units if self.detail is None else units + UNITS * self.detail(hidden)

    def hidden(self, mel: Tensor, start: int = 0) -> Tensor:
        """Mel (B, bands, 2 * (T + lookahead)) -> states (B, T, dim); `start` is the index of the first frame."""
        return self.upper(self.lower(mel, 0, start), 0, start)

    def lower(self, mel: Tensor, layers: int, start: int = 0) -> Tensor:
        """Mel as in `hidden` -> states (B, T + lookahead, dim) after the convolutions and so many layers."""
        local = self.front(mel).transpose(1, 2)
        positions = torch.arange(start, start + local.shape[1], device=local.device)
        return self.transformer.through(self.transformer.placed(local, positions), start, slice(layers))

    def upper(self, states: Tensor, layers: int, start: int = 0) -> Tensor:
        """What `lower` gave after so many layers, through the others -> states (B, T, dim)."""
        states = self.transformer.norm(self.transformer.through(states, start, slice(layers, None)))
        return states[:, self.config.lookahead :]

    def mel_frames(self, wav: Tensor) -> Tensor:
        """(B, N) -> (B, bands, 2 * (ceil(N / 320) + lookahead)); the future after the end is silence."""
        tail = -wav.shape[-1] % HOP + self.config.lookahead * HOP
        return self.mel(F.pad(wav, (self.mel.context, tail)))  # type: ignore[no-any-return]

    def forward(self, wav: Tensor) -> Tensor:
        return self.heard(self.hidden(self.mel_frames(wav)))

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
        """Next samples (N,) of a stream -> units (t,) as they are heard, known by now; at `end` those held back too."""
        pending = torch.cat([state.pending, wav[None].to(state.pending)], -1)
        if end and (pending.shape[-1] > 0 or state.attention.position > 0):
            tail = -pending.shape[-1] % HOP + self.config.lookahead * HOP
            pending = F.pad(pending, (0, tail))
        piece = HOP if end else HOP * self.config.block
        whole = pending.shape[-1] // piece * piece
        if whole == 0:
            return torch.zeros(0, dtype=torch.int64), replace(state, pending=pending)
        padded = torch.cat([state.context, pending[:, :whole]], -1)
        local, front = self.front.step(self.mel(padded), state.front)
        hidden, attention = self.transformer.step(local.transpose(1, 2), state.attention)
        dropped = min(state.skip, hidden.shape[1])
        units = self.heard(hidden[:, dropped:])[0]
        context = padded[:, padded.shape[-1] - self.mel.context :]
        return units, SemanticState(pending[:, whole:], context, front, attention, state.skip - dropped)


class SemanticReader(nn.Module):
    """What supervises the units: characters by CTC, and the spectrum given the speaker.

    Shapes: values (B, T, 5) -> characters (B, T, symbols) logits and mel (B, bands, 2 * T).
    """

    def __init__(self, config: SemanticEncoderConfig, symbols: int, speakers: int) -> None:
        super().__init__()
        dim = config.reader_dim
        self.embed = nn.Linear(FiniteScalarQuantizer.digits, dim)
        self.transformer = CausalTransformer(dim, 2, config.heads // 2, config.window)
        self.characters = nn.Linear(dim, symbols)
        self.spectrum_in = nn.Conv1d(FiniteScalarQuantizer.digits, dim, 9, padding=4)
        self.speaker = nn.Embedding(speakers, dim)
        self.spectrum_mid = nn.Conv1d(dim, dim, 5, padding=2)
        self.spectrum_out = nn.ConvTranspose1d(dim, config.bands, 2, 2)

    def forward(self, values: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.read(values)
        hidden = F.relu(self.spectrum_in(values.transpose(1, 2)) + self.speaker(speaker)[:, :, None])
        return logits, self.spectrum_out(F.relu(self.spectrum_mid(hidden)))

    def read(self, values: Tensor) -> Tensor:
        """Character logits (B, T, symbols)."""
        return self.characters(self.transformer(self.embed(values)))  # type: ignore[no-any-return]
