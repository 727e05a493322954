"""The acoustic half of the streaming tokenizer: log-mel spectra in, complex spectra out, by overlap and add.

Everything between runs at the frame rate, so it is matrix products and nothing else: on a CPU that trains ten times as
fast as convolutions at the sample rate, and a spectrum's magnitudes are learnt long before a waveform is. Source of the
decoder: Vocos (arXiv 2306.00814), made causal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .causal import CausalConv1d, CausalTransformer, Chain, Gelu, State
from .semantic_encoder import HOP, mel_filters

_WINDOW, _STEP = 640, 160
_BINS = _WINDOW // 2 + 1
_PER_FRAME = HOP // _STEP
_BANDS = 100
LOOKAHEAD = 2
"""Frames after its own that a latent describes: a decoded spectrum reaches 30 ms beyond its frame."""


class AcousticEncoder(nn.Module):
    """Waveform (B, N), N a multiple of 320 -> latents (B, N / 320, D) of unit variance. Offline: it looks ahead."""

    window: Tensor
    filters: Tensor

    def __init__(self, latent_dim: int, dim: int, layers: int, heads: int, reach: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(_BANDS, _WINDOW), persistent=False)
        self.front = nn.Sequential(CausalConv1d(_BANDS * _PER_FRAME, dim, 3), Gelu())
        self.transformer = CausalTransformer(dim, layers, heads, reach)
        self.out = nn.Linear(dim, latent_dim)

    def features(self, wav: Tensor) -> Tensor:
        """Log-mel vectors of each frame side by side, (B, N / 320 + LOOKAHEAD, 2 * bands); vectors every 10 ms."""
        padded = F.pad(wav.float(), (_WINDOW - HOP, LOOKAHEAD * HOP + HOP - _STEP))
        frames = padded.unfold(-1, _WINDOW, _STEP) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
        with torch.autocast(power.device.type, enabled=False):
            mel = (power @ self.filters.T).clamp_min(1e-6).log()
        whole = mel.shape[1] // _PER_FRAME * _PER_FRAME
        scaled: Tensor = mel[:, :whole] * 0.25 + 1.0
        return scaled.reshape(len(scaled), -1, _PER_FRAME * _BANDS)

    def forward(self, wav: Tensor) -> Tensor:
        hidden = self.transformer(self.front(self.features(wav).transpose(1, 2)).transpose(1, 2))
        latents = self.out(hidden[:, LOOKAHEAD:]).float()
        return F.layer_norm(latents, latents.shape[-1:])


@dataclass(frozen=True)
class DecoderState:
    """Stream state: of the network, and (B, 480) samples that wait for the spectra that overlap them."""

    network: State
    tail: Tensor


class Bottleneck(nn.Module):
    """A causal transformer around its input, channels first: (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, layers: int, heads: int, reach: int) -> None:
        super().__init__()
        self.transformer = CausalTransformer(channels, layers, heads, reach)

    def init_state(self, batch: int) -> State:
        return self.transformer.init_state(batch)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.transformer(x.transpose(1, 2))
        return x + y.transpose(1, 2)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.transformer.step(x.transpose(1, 2), state)
        return x + y.transpose(1, 2), state


class AcousticDecoder(nn.Module):
    """Latents (B, T, D) -> waveform (B, 320 * T). A frame makes two spectra, whose windows start with the frame."""

    window: Tensor

    def __init__(self, latent_dim: int, dim: int, layers: int, heads: int, reach: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.body = Chain(CausalConv1d(latent_dim, dim, 5), Bottleneck(dim, layers, heads, reach))
        self.head = nn.Linear(dim, 2 * _BINS * _PER_FRAME)

    def init_state(self, batch: int) -> DecoderState:
        return DecoderState(self.body.init_state(batch), self.head.weight.new_zeros(batch, _WINDOW - _STEP))

    def forward(self, latents: Tensor) -> Tensor:
        return self._synthesize(self.body(latents.transpose(1, 2)), self.init_state(len(latents)))[0]

    def step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Next frames (B, t, D) -> waveform (B, 320 * t)."""
        hidden, network = self.body.step(latents.transpose(1, 2), state.network)
        return self._synthesize(hidden, replace(state, network=network))

    def spectra(self, hidden: Tensor) -> Tensor:
        """Windowed waves (B, 2 * T, window) of the network's states (B, T, dim)."""
        spectra = self.head(hidden).float().unflatten(-1, (_PER_FRAME, 2, _BINS)).flatten(1, 2)
        log_magnitude, phase = spectra.unbind(2)
        magnitude = log_magnitude.clamp(max=6.0).exp()
        waves: Tensor = torch.fft.irfft(torch.complex(magnitude * phase.cos(), magnitude * phase.sin()), _WINDOW)
        # Squared Hann windows a quarter apart add up to 1.5.
        return waves * self.window / 1.5

    def overlap(self, waves: Tensor) -> Tensor:
        """Waves (B, n, window), a step apart, added up: (B, (n - 1) * step + window)."""
        length = (waves.shape[1] - 1) * _STEP + _WINDOW
        return F.fold(waves.transpose(1, 2), (1, length), (1, _WINDOW), stride=(1, _STEP)).flatten(1)

    def _synthesize(self, hidden: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        waves = self.spectra(hidden.transpose(1, 2))
        count, kept = waves.shape[1], _WINDOW - _STEP
        added = self.overlap(waves)
        added = torch.cat([added[:, :kept] + state.tail.to(added.dtype), added[:, kept:]], -1)
        return added[:, : count * _STEP], replace(state, tail=added[:, count * _STEP :])
