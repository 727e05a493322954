"""A burst as a loop on the device (a WHILE node) against plain bursts: milliseconds, with and without an early end.

A plain burst launches all its steps; one that everybody left early reads the weights to the end all the same. A loop
asks after each step, on the device. Both draw the same tokens, which is checked with every measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ...kernels.gpu.while_node import WhileLoop, refusal
from ...kernels.graph import Download, Lane
from ...models.errors import ConfigError
from ...models.semantic.decoder import Draws
from ...models.semantic.grammar import DecodingLimits, Grammar, Phase
from ...models.semantic.sampling import SamplingOptions
from ...models.semantic.slots import NOTHING, SlotModel, SlotOptions, Start
from .common import Figures, Subject, machine, peak_memory_gb, profile_table, spread, times_ms

BURSTS: Final = (2, 8, 32)
_WORD = 1 << 20
"""Units of a word, so many that none ends by itself; from a count just below it, one soon does."""
_SOON = 3


class PlainBurst:
    """`most` steps of the first `size` rows in one graph."""

    def __init__(self, model: SlotModel, size: int, most: int) -> None:
        self._model, self._size, self._most = model, size, most
        self.drawn = torch.full((most, size), NOTHING, dtype=torch.int64, device=model.lane.device)
        self._graph = model.lane.graph(self._run)

    @torch.inference_mode()
    def _run(self) -> None:
        for step in range(self._most):
            self.drawn[step] = self._model.step(self._size)

    def __call__(self, rows: Sequence[int]) -> Download:
        """Draw for some slots, (steps, rows)."""
        self._model.lane.upload(list(rows), self._model.rows[: self._size])
        self._graph()
        return self._model.lane.download(self.drawn)


class LoopBurst:
    """The same, until nobody draws any more, as a loop. Raises RuntimeError when the driver takes no such graph."""

    def __init__(self, model: SlotModel, size: int, most: int) -> None:
        self._model, self._size, self._most = model, size, most
        device = model.lane.device
        self.drawn = torch.full((most, size), NOTHING, dtype=torch.int64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._goes_on = torch.zeros((), dtype=torch.int32, device=device)
        before, body = model.lane.graph(self._begin), model.lane.graph(self._turn)
        self.loop = WhileLoop(before, body, self._goes_on)

    @torch.inference_mode()
    def _begin(self) -> None:
        self._step.zero_()
        self.drawn.fill_(NOTHING)

    @torch.inference_mode()
    def _turn(self) -> None:
        # Capturing calls this without a beginning: it must not write past the end however often.
        at = self._step.clamp(max=self._most - 1)
        self.drawn.index_copy_(0, at, self._model.step(self._size)[None])
        self._step += 1
        self._goes_on.copy_((self._step[0] < self._most) & self._model.running(self._size))

    def __call__(self, rows: Sequence[int]) -> Download:
        """Draw for some slots, (steps, rows); NOTHING in steps that were not made."""
        self._model.lane.upload(list(rows), self._model.rows[: self._size])
        self.loop()
        return self._model.lane.download(self.drawn)


def place(model: SlotModel, size: int, length: int, *, soon: bool) -> None:
    """Let rows draw the units of a word that goes on, or soon ends, whatever the cache holds before `length`."""
    count = _WORD - _SOON if soon else 1
    for row in range(size):
        model.set(row, Start(length, Phase.WORD, Draws(SamplingOptions(), row), count=count, token=0))


def bench_loop(subject: Subject) -> tuple[Figures, str]:
    """Figures by batch size and length of burst, and a profile of one loop. Raises ConfigError where there is none."""
    bundle = subject.load()
    device = bundle.device
    if device.type == "cuda" and (reason := refusal(device)) is not None:
        raise ConfigError(reason)
    bundle.semantic.fuse_()
    sizes = tuple(size for size in (1, 4, 16) if size <= subject.slots)
    grammar = Grammar(bundle.vocabulary, DecodingLimits(word_frames=_WORD))
    options = SlotOptions(sizes[-1], subject.context, sizes, {sizes[-1]: 1}, fp8_cache=subject.kv_cache is not None)
    model = SlotModel(bundle.semantic, grammar, options, Lane(device))
    length = min(1024, subject.context // 2)
    rows: list[Figures] = []
    with model.lane.entered(), torch.inference_mode():
        for size in sizes:
            for most in BURSTS:
                plain, loop = PlainBurst(model, size, most), LoopBurst(model, size, most)
                row: Figures = {"slots": size, "burst": most}
                for name, soon in (("whole", False), ("early", True)):
                    row |= {name: _both(model, plain, loop, size, length, soon=soon, repeats=subject.repeats)}
                rows.append(row)
        place(model, 1, length, soon=False)
        profile = profile_table(lambda: loop(list(range(sizes[-1]))).take(), device)
    figures: Figures = {
        "bench": "loop",
        "model": subject.model,
        "precision": subject.weights,
        "machine": machine(subject.device),
        "on_device": loop.loop.on_device,
        "graphs": {"captured": model.lane.captured, "refused": model.lane.refused},
        "rows": rows,
        "equal": all(row[name]["equal"] for row in rows for name in ("whole", "early")),
        "peak_memory_gb": peak_memory_gb(device),
    }
    return figures, profile


def _both(
    model: SlotModel, plain: PlainBurst, loop: LoopBurst, size: int, length: int, *, soon: bool, repeats: int
) -> Figures:
    """Both ways from the same beginnings."""
    which, figures = list(range(size)), {}
    drawn: dict[str, Tensor] = {}
    for name, burst in (("plain", plain), ("loop", loop)):

        def draw(name: str = name, burst: PlainBurst | LoopBurst = burst) -> None:
            drawn[name] = burst(which).take()[0]

        times = []
        for _ in range(repeats + 3):
            place(model, size, length, soon=soon)  # outside the time
            times += times_ms(draw, model.lane.device, 1, warm=0)
        figures[f"{name}_ms"] = spread(times[3:])
    equal = torch.equal(drawn["plain"], drawn["loop"])
    return {**figures, "steps": int((drawn["loop"] != NOTHING).any(1).sum()), "equal": equal}
