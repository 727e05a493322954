"""One training loop for every recipe: bf16, warm-up and cosine, checkpoints that resume, a log for TensorBoard.

A recipe gives a module and a function from step to losses; everything else (clipping, schedule, a stop on NaN,
saving, progress) is here.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ..errors import ConfigError, SpeechGPTGenError


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation settings that every recipe shares."""

    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    beta2: float = 0.98
    save_every: int = 200
    threads: int = 1
    seed: int = 0
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (0: none); the average is what is exported."""


class DivergedError(SpeechGPTGenError):
    """The loss is no longer finite."""


def _write_atomically(state: dict[str, Any], path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


class Loop:
    """Trains `module` in `folder`: `checkpoint.pt` (resumed when there), `log.jsonl` and TensorBoard events.

    Raises DivergedError as soon as a loss is not finite: the last checkpoint is from before it.
    """

    def __init__(self, folder: Path, module: nn.Module, config: LoopConfig) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        self.folder, self.module, self.config = folder, module, config
        decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
        )
        self.step = 0
        self.average: dict[str, Tensor] | None = None
        if config.ema:
            self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        checkpoint = folder / "checkpoint.pt"
        if checkpoint.is_file():
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            try:
                module.load_state_dict(state["module"])
            except RuntimeError as error:
                raise ConfigError(f"{checkpoint} was made with another configuration: use another folder") from error
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            if self.average is not None:
                self.average = state["average"]

    def rate(self) -> float:
        """Learning rate of the present step: linear warm-up, then a cosine down to a twentieth."""
        c = self.config
        if self.step < c.warmup:
            return c.learning_rate * (self.step + 1) / c.warmup
        part = min(1.0, (self.step - c.warmup) / max(1, c.steps - c.warmup))
        return c.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * part)))

    def save(self) -> None:
        """Write the checkpoint; a killed process never leaves half a file."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "average": self.average,
        }
        _write_atomically(state, self.folder / "checkpoint.pt")

    def run(self, losses: Callable[[int], dict[str, Tensor]], *, until: int | None = None) -> None:
        """Train to `until` (default: all steps). `losses(step)` returns named terms; `loss` is what is minimised."""
        from torch.utils.tensorboard import SummaryWriter

        last = min(self.config.steps, until or self.config.steps)
        writer = SummaryWriter(str(self.folder))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.module.train()
        with (
            (self.folder / "log.jsonl").open("a") as log,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            bar = progress.add_task(self.folder.name, total=last, completed=self.step)
            while self.step < last:
                began = time.perf_counter()
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate()
                terms = losses(self.step)
                values = {name: float(value.detach()) for name, value in terms.items()}
                if not math.isfinite(values["loss"]):
                    raise DivergedError(f"loss is {values['loss']} at step {self.step}: lower the learning rate")
                self.optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
                if torch.isfinite(norm):
                    self.optimizer.step()
                self._follow()
                self.step += 1
                values |= {"norm": float(norm), "rate": self.rate(), "seconds": time.perf_counter() - began}
                for name, value in values.items():
                    writer.add_scalar(name, value, self.step)
                log.write(json.dumps({"step": self.step, **{k: round(v, 5) for k, v in values.items()}}) + "\n")
                log.flush()
                progress.update(bar, completed=self.step, description=f"loss {values['loss']:.3f}")
                if self.step % self.config.save_every == 0 or self.step == last:
                    self.save()
        writer.close()

    @torch.no_grad()
    def _follow(self) -> None:
        if self.average is None:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
