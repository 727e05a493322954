"""One training loop for every recipe: warm-up, plateau and decay, checkpoints that resume, a log for TensorBoard.

A recipe gives a module and a function from step to losses; everything else (clipping, schedule, a stop on NaN,
saving, progress) is here. A run ends after a number of steps or, given a budget, when its seconds are spent; the rate
decays towards whichever end is nearer, so that a run of any length leaves finished weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..config import positive
from ..errors import ConfigError, SpeechGPTGenError
from .allocation import keep_large_blocks
from .muon import Muon
from .parallel import ALONE, World, local, spread, whole
from .progress import Watcher
from .saving import replacing, room


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation settings that every recipe shares."""

    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    """Share of the run, at its end, in which the learning rate falls to a fiftieth."""
    accumulate: int = 1
    """Batches whose gradients are averaged in one step."""
    weight_decay: float = 0.01
    clip: float = 1.0
    beta2: float = 0.98
    save_every: int = 200
    threads: int = 1
    seed: int = 0
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (0: none); the average is what is exported."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" moves the matrices of repeated layers by Muon (Jordan 2024; scaled to AdamW's rates, arXiv 2502.16982) and
    the rest by AdamW; in one process only."""

    def __post_init__(self) -> None:
        positive(self, "steps", "accumulate", "clip", "save_every", "threads")
        for name in ("decay", "beta2", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 0 to 1")


class DivergedError(SpeechGPTGenError):
    """The loss is no longer finite."""


def _write(state: dict[str, Any], path: Path) -> None:
    with replacing(path, "make room, and run it again to go on from before") as part:
        torch.save(state, part)


def _optimizers(module: nn.Module, config: LoopConfig, world: World) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or for what Muon leaves."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    repeated = [name for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    hidden: list[nn.Parameter] = []
    if config.optimizer == "muon":
        if world.size > 1:
            raise ConfigError('optimizer "muon" works on whole matrices: train in one process, or choose "adamw"')
        hidden = [p for name, p in trained.items() if p.ndim == 2 and any(name.startswith(f"{r}.") for r in repeated)]
    taken = set(map(id, hidden))
    decayed = [p for p in trained.values() if p.ndim > 1 and id(p) not in taken]
    plain = [p for p in trained.values() if p.ndim <= 1]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            fused=next(module.parameters()).is_cuda,
        )
    ]
    if hidden:
        made.append(Muon(hidden, config.learning_rate, weight_decay=config.weight_decay))
    return made


class Loop:
    """Trains `module` in `folder`: `checkpoint.pt` (resumed when there), `log.jsonl` and TensorBoard events.

    Made by every process of a `world`, after the module was sharded; one that was not is the same in all of them and
    stays so. Each process trains on batches of its own and keeps its own `checkpoint-RANK-of-SIZE.pt`; the whole
    weights are left in `weights.pt`.

    budget: seconds that `run` may take, counted from here; None for no limit. evaluate: figures of the module so far,
    logged under "valid_" every `evaluate_every` steps and at the end. listen: what it makes of held-out speech then,
    (N,) at 16 kHz, left in `valid.wav` and TensorBoard; every process makes it, the first writes it. beside: what
    learns from the same losses to no other end, with an optimizer of its own if it has weights; the checkpoint keeps it
    to go on.
    Raises DivergedError as soon as a loss is not finite: the last checkpoint is from before it; UnsavedError when the
    disk is full: the last checkpoint stays.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        config: LoopConfig,
        *,
        budget: float | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        evaluate_every: int = 0,
        listen: Callable[[], Tensor] | None = None,
        beside: nn.Module | None = None,
        world: World = ALONE,
    ) -> None:
        if world.size > 1 and budget is not None:
            raise ConfigError("several processes end by steps, not by the clock: leave the budget out")
        folder.mkdir(parents=True, exist_ok=True)
        if next(module.parameters()).device.type == "cpu":
            torch.set_num_threads(config.threads)
            keep_large_blocks()
        self.folder, self.module, self.config = folder, module, config
        self.began, self.budget = time.monotonic(), budget
        self.evaluate, self.evaluate_every, self.listen = evaluate, evaluate_every, listen
        self.world = world
        self.beside, self.weights_beside = beside, [] if beside is None else list(beside.parameters())
        self.optimizers = _optimizers(module, config, world)
        if beside is not None and self.weights_beside:
            self.optimizers += _optimizers(beside, config, world)
        self.step = 0
        self.average: dict[str, Tensor] | None = None
        if config.ema:
            self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where this process keeps its state."""
        w = self.world
        return self.folder / ("checkpoint.pt" if w.size == 1 else f"checkpoint-{w.rank}-of-{w.size}.pt")

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            others = sorted(path.name for path in self.folder.glob("checkpoint*.pt"))
            if others:
                raise ConfigError(f"{self.folder} has {others[0]}: go on with as many processes as began")
            return
        device = next(self.module.parameters()).device
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        try:
            with torch.no_grad():
                own = self.module.state_dict()
                self.module.load_state_dict({name: spread(state["module"][name], own[name]) for name in own})
            if self.beside is not None:
                self.beside.load_state_dict(state["beside"] or {})
        except (KeyError, RuntimeError) as error:
            raise ConfigError(f"{self.checkpoint} was made with another configuration: use another folder") from error
        if len(state["optimizers"]) != len(self.optimizers):
            raise ConfigError(f"{self.checkpoint} was made with another optimizer: use another folder")
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = kept["state"]
            for number, values in moments.items():
                moments[number] = {key: spread(value, parameters[number]) for key, value in values.items()}
            optimizer.load_state_dict(kept)
        self.step = state["step"]
        if self.average is not None:
            self.average = {name: spread(value, own[name]) for name, value in state["average"].items()}

    def done(self) -> float:
        """Share of the run that is over, by steps or by seconds, whichever is further; 1 at its end."""
        share = self.step / self.config.steps
        if self.budget is not None:
            share = max(share, (time.monotonic() - self.began) / self.budget)
        return min(1.0, share)

    def rate(self) -> float:
        """Learning rate of the present step: linear warm-up, a plateau, and a linear fall at the end."""
        c = self.config
        rise = min(1.0, (self.step + 1) / max(1, c.warmup))
        fall = min(1.0, (1.0 - self.done()) / c.decay) if c.decay else 1.0
        return c.learning_rate * rise * max(0.02, fall)

    def save(self) -> None:
        """Write the checkpoint; a killed process never leaves half a file."""
        state = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "average": self.average,
            "beside": None if self.beside is None else self.beside.state_dict(),
        }
        _write(local(state), self.checkpoint)
        if self.world.size > 1:
            weights = whole(self.average or self.module.state_dict())
            if self.world.first:
                _write(weights, self.folder / "weights.pt")
            self.world.wait()

    def run(self, losses: Callable[[int], dict[str, Tensor]], *, until: int | None = None) -> None:
        """Train to the end, or to step `until`. `losses(n)` returns the named terms of batch n; `loss` is minimised."""
        with room(self.folder):
            self._run(losses, min(self.config.steps, until or self.config.steps))

    def _run(self, losses: Callable[[int], dict[str, Tensor]], last: int) -> None:
        self.module.train()
        with Watcher(self.folder, self.step, last, quiet=not self.world.first) as watcher:
            while self.step < last and self.done() < 1.0:
                began = time.perf_counter()
                values = self._advance(losses)
                self.step += 1
                ended = self.step == last or self.done() >= 1.0
                if ended or (self.evaluate_every and self.step % self.evaluate_every == 0):
                    values |= self._judge(watcher)
                watcher(self.step, values | {"rate": self.rate(), "seconds": time.perf_counter() - began})
                if ended or self.step % self.config.save_every == 0:
                    self.save()

    def _judge(self, watcher: Watcher) -> dict[str, float]:
        self.module.eval()
        figures = self.evaluate() if self.evaluate else {}
        if self.listen is not None:
            watcher.play(self.step, self.listen())
        self.module.train()
        return {f"valid_{name}": value for name, value in figures.items()}

    def _advance(self, losses: Callable[[int], dict[str, Tensor]]) -> dict[str, float]:
        """One optimiser step; returns the mean of every term and the gradient's norm."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.zero_grad(set_to_none=True)
        parts = self.config.accumulate
        values: dict[str, float] = {}
        for part in range(parts):
            terms = losses((self.step * parts + part) * self.world.size + self.world.rank)
            for name, value in terms.items():
                values[name] = values.get(name, 0.0) + float(value.detach()) / parts
            (terms["loss"] / parts).backward()  # type: ignore[no-untyped-call]
        trained = [*self.module.parameters(), *self.weights_beside]
        self.world.mean_(p.grad for p in trained if p.grad is not None)
        values = self.world.mean(values)  # what is not finite in one process stops all
        if not math.isfinite(values["loss"]):
            raise DivergedError(f"loss is {values['loss']} at step {self.step}: lower the learning rate")
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        size = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if self.weights_beside:
            size_beside = float(nn.utils.clip_grad_norm_(self.weights_beside, self.config.clip))
            size = size if math.isfinite(size_beside) else size_beside
        if math.isfinite(size):
            for optimizer in self.optimizers:
                optimizer.step()
        norms = [m for m in self.module.modules() if isinstance(m, nn.BatchNorm1d)]
        self.world.mean_(b for m in norms for b in (m.running_mean, m.running_var) if b is not None)
        self._follow()
        return values | {"norm": size}

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


def saved(folder: Path) -> Path | None:
    """The file with a stage's whole weights, if it has saved any."""
    return next((folder / name for name in ("checkpoint.pt", "weights.pt") if (folder / name).is_file()), None)


def restore(module: nn.Module, folder: Path) -> None:
    """Load a stage's weights (their moving average, if it kept one) and set the module to eval."""
    if (path := saved(folder)) is None:
        raise ConfigError(f"{folder} has no checkpoint: run the stage before this one first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict((state["average"] or state["module"]) if "optimizers" in state else state)
    module.eval()
