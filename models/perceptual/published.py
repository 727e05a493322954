"""The published perceptual model: conditional flow matching over whole utterances, with an in-context voice prompt.

Source: SpeechGPT-Gen (arXiv 2401.13527) and its published code; folders of `model_config.yml` and
`ConditionalFlowMatcher_best_dev.pt` load as they are.
"""

import math
import random
from os import PathLike
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from ...kernels.noise import normal
from ..checkpoint import load_state, load_strict
from ..errors import ConfigError, ModelNotFoundError
from .conformer import Conformer, UConformer
from .flow_matching import FlowMatching, Solver
from .published_config import ConditionalFlowConfig
from .transformer import Transformer, Uformer

PROMPT_FRAMES: Final = 150
"""Frames of a voice prompt that are used, from its start (3 s)."""
_LONGEST_TRAINED_PROMPT: Final = 300
_CHECKPOINT: Final = "ConditionalFlowMatcher_best_dev"
_BACKBONES: Final = {"uconformer": UConformer, "conformer": Conformer, "uformer": Uformer, "transformer": Transformer}


class ConditionalFlowMatcher(nn.Module):
    """Flow from noise around v1 to v1:8, over whole utterances: every frame sees every other.

    Latents are of a speech tokenizer with `config.options.dim` channels; frames are 20 ms. For inference call `eval()`.
    """

    def __init__(self, config: ConditionalFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.flow = FlowMatching(config.flow)
        dim, cond_dim = config.options.dim, config.options.cond_dim
        self.net = _BACKBONES[config.backbone](config.options)
        self.to_embed = nn.Linear((3 if config.concat_cond else 2) * dim + 1, dim)
        if cond_dim is not None:
            self.sinu_pos_emb = nn.Sequential(FourierTime(dim), nn.Linear(dim, cond_dim), nn.SiLU())
        self.to_pred = nn.Linear(dim, dim, bias=False)

    def velocity(self, x: Tensor, t: Tensor, v1: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Estimated velocity at x (B, T, D) and time t (B,): (B, T, D).

        v1 (B, T, D); context (B, T, D) is v1:8 on the prompt's frames and 0 elsewhere; mask (B, T) True on real frames.
        """
        time = t.to(x.dtype)[:, None, None].expand(-1, x.shape[1], 1)
        seen = (x, v1, context, time) if self.config.concat_cond else (x, context, time)
        cond = None if self.config.options.cond_dim is None else self.sinu_pos_emb(t.to(x.dtype))
        out: Tensor = self.to_pred(self.net(self.to_embed(torch.cat(seen, dim=-1)), mask, cond))
        return out

    def loss(
        self, x1: Tensor, v1: Tensor, noise: Tensor, t: Tensor, *, prompt_frames: int, mask: Tensor | None = None
    ) -> Tensor:
        """Training loss, a scalar: the first `prompt_frames` of each utterance are given, the rest is to be learned.

        x1 is v1:8; it, v1 and the standard normal noise are (B, T, D), t (B,) in [0, 1), mask (B, T) True on real
        frames. Padding is neither given nor learned, and no argument is changed.
        """
        real = x1.new_ones(x1.shape[:2], dtype=torch.bool) if mask is None else mask
        prompt = torch.arange(x1.shape[1], device=x1.device) < prompt_frames
        context = x1.masked_fill(~(real & prompt).unsqueeze(-1), 0.0)
        return self.flow.loss(
            lambda x, at: self.velocity(x, at, v1, context, mask), x1, v1, noise, t, mask=real & ~prompt
        )

    @torch.no_grad()
    def generate(
        self,
        v1: Tensor,
        *,
        prompt: Tensor | None = None,
        prompt_v1: Tensor | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
        seed: int | None = None,
        solver: Solver | None = None,
        prompt_frames: int = PROMPT_FRAMES,
    ) -> Tensor:
        """Complete representation v1:8 (B, T, D) of v1 (B, T, D), in the voice of a prompt where one is given.

        prompt, prompt_v1: v1:8 and v1 of the voice (B, P, D), of which the first `prompt_frames` are used. They precede
        the utterance in time and take part in the flow: evolved like the rest, not held fixed, and cut off at the end.
        mask (B, T): True on real frames; None: all.
        noise: standard normal (B, P' + T, D), of the prompt frames used and then of the utterance; or else a seed: the
        noise of utterance b's frame n is then that of (seed + b, n), the prompt's frames being those before 0.
        An explicit chain's v1 is already added. Raises ConfigError for a prompt without its v1, shapes that do not
        fit, or neither noise nor seed.
        """
        frames = v1.shape[1]
        if (prompt is None) != (prompt_v1 is None):
            raise ConfigError(
                "a voice prompt needs both its latents and its semantic latents: give prompt and prompt_v1"
            )
        context = torch.zeros_like(v1)
        if prompt is not None and prompt_v1 is not None:
            if prompt.shape != prompt_v1.shape or prompt.shape[::2] != v1.shape[::2]:
                raise ConfigError(
                    f"prompt {tuple(prompt.shape)}, prompt_v1 {tuple(prompt_v1.shape)} and v1 {tuple(v1.shape)} must "
                    "agree in batch and channels, the first two in frames"
                )
            prompt, prompt_v1 = prompt[:, :prompt_frames], prompt_v1[:, :prompt_frames]
            context = torch.cat([prompt, context], dim=1)
            v1 = torch.cat([prompt_v1, v1], dim=1)
            if mask is not None:
                mask = F.pad(mask, (prompt.shape[1], 0), value=True)
        if noise is None:
            if seed is None:
                raise ConfigError("give noise, or a seed to draw it from")
            at = range(frames - v1.shape[1], frames)
            noise = torch.stack([normal(seed + row, at, v1.shape[2], device=v1.device) for row in range(len(v1))])
        if noise.shape != v1.shape:
            raise ConfigError(f"noise must be {tuple(v1.shape)}, prompt frames first, not {tuple(noise.shape)}")
        whole = self.flow.solve(
            lambda x, t: self.velocity(x, t, v1, context, mask), v1, noise.to(v1.dtype), solver or self.config.solver
        )
        return whole[:, whole.shape[1] - frames :]


class FourierTime(nn.Module):
    """Sines and cosines of t at learned frequencies: (B,) -> (B, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t[:, None] * self.weights
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def draw_prompt_frames(shortest: int, source: random.Random) -> int:
    """Prompt length for a training batch whose shortest utterance has `shortest` >= 1 frames.

    Uniform from 0 (no prompt) to 298 frames (6 s), and always short of the shortest utterance's last frame.
    """
    return source.randrange(max(1, min(shortest, _LONGEST_TRAINED_PROMPT) - 1))


def load_conditional_flow_matcher(
    folder: str | PathLike[str], checkpoint: str | PathLike[str] | None = None
) -> ConditionalFlowMatcher:
    """Load a published perceptual model from its folder, in evaluation mode on the CPU.

    The folder holds `model_config.yml` (or a trainer's `config.yml`) and `ConditionalFlowMatcher_best_dev.pt` (or
    `.safetensors`). checkpoint: other weights to use, also a trainer's checkpoint, which keeps them under `model`.
    Raises ModelNotFoundError, ConfigError, CheckpointError.
    """
    folder = Path(folder)
    config_path = _first_file(folder, "model_config.yml", "config.yml")
    weights = (
        _first_file(folder, f"{_CHECKPOINT}.pt", f"{_CHECKPOINT}.safetensors") if checkpoint is None else checkpoint
    )
    try:
        values = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config_path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{config_path} must hold keys and values, not {type(values).__name__}")
    state = load_state(weights, wrapper="model")
    try:
        config = ConditionalFlowConfig.from_dict(values, state)
    except ConfigError as error:
        raise ConfigError(f"{config_path}: {error}") from None
    with torch.device("meta"):
        model = ConditionalFlowMatcher(config)
    load_strict(model, state, weights)
    return model.eval()


def _first_file(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelNotFoundError(f"{folder} has no {' or '.join(names)}: give the folder of a perceptual model")
