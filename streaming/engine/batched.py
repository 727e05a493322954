"""The engine of one GPU: every conversation's tokens and sound in shared batches of captured graphs.

Three kinds of threads: one per conversation, which hears, writes and decides (the same code as on the CPU); the
decoding thread with the semantic model; the sounding thread with the perceptual model and the speech tokenizer. On a
CPU the graphs are plain calls and everything else is the same.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ...kernels.graph import Lane
from ...kernels.selection import attention_backend
from ...models.audio import HOP
from ...models.bundle import Bundle, read_config
from ...models.errors import ConfigError, EngineError
from ...models.generation import LISTEN_SAMPLES, Listener
from ...models.memory import check_memory
from ...models.semantic.decoder import Draws
from ...models.semantic.grammar import Grammar, Phase
from ...models.semantic.sampling import SamplingOptions
from ...models.semantic.slots import SlotModel, SlotOptions, Start
from ...models.sound import SoundSlots
from ...models.speech_tokenizer.ear import CapturedEar
from .capacity import Load, admitted, median_seconds
from .decoding import DecodeLoop
from .listening import ListeningThread
from .local import LocalEngine, Parts, warm_up
from .slots import Slot
from .sounding import SoundLoop

log = logging.getLogger(__name__)

SOUND_ROWS = 16
"""Blocks of one batch at most: beyond so many a solve is no longer bound by its weights."""


class BatchedEngine(LocalEngine):
    """Engine over a bundle, for many conversations at once.

    context: tokens that one conversation can hold, by default what the model was made for. buckets: batch sizes to
    capture, by default powers of two up to `slots`; with a single one, a conversation's numbers do not depend on how
    many others there are, to the last bit. measure: take no more conversations than the machine keeps up with, as
    measured at the start; by default on a GPU. kv_cache: "fp8" rounds the semantic model's keys and values, in half the
    memory and time; None keeps the weights' precision. The rest as for LocalEngine.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        slots: int = 8,
        *,
        device: str = "cuda",
        precision: str | None = None,
        now: Callable[[], float] = time.monotonic,
        context: int | None = None,
        buckets: tuple[int, ...] | None = None,
        measure: bool | None = None,
        kv_cache: Literal["fp8"] | None = None,
    ) -> None:
        super().__init__(bundle, slots, device=device, precision=precision or "bfloat16", now=now)
        self._context = context
        self._buckets = buckets
        self._measure = measure
        self._fp8_cache = kv_cache == "fp8"
        self.loads: list[Load] = []
        """What was measured at the start."""
        self.capture_seconds = 0.0
        """Seconds that capturing and warming up took."""

    def _build(self) -> Parts:
        if not isinstance(self._source, Bundle) and self.device.type == "cuda" and torch.cuda.is_available():
            config = read_config(self._source)
            free = torch.cuda.mem_get_info(self.device)[0]
            context = self._context or config.semantic.max_position_embeddings
            name, rounded = str(self._source), self._fp8_cache
            check_memory(config, self._precision, context, slots=self._count, free=free, name=name, fp8_cache=rounded)
        return super()._build()

    def _assemble(self, bundle: Bundle) -> Parts:
        if bundle.device.type == "cpu" and self._precision == "int8":
            raise ConfigError("int8 on the CPU serves one conversation at a time: choose bfloat16, or a GPU")
        bundle.semantic.fuse_()
        began = time.perf_counter()
        context = self._context or bundle.semantic.config.max_position_embeddings
        options = SlotOptions.of(self._count, context)
        options = replace(options, buckets=self._buckets or options.buckets, fp8_cache=self._fp8_cache)
        device = bundle.device
        if self._fp8_cache:
            check_fp8(device)
        if device.type == "cuda":
            # Python hands itself from thread to thread every 5 ms otherwise: as long as a whole decode step.
            sys.setswitchinterval(0.0005)
        able = attention_backend(device) != "torch"
        if device.type == "cuda" and not able:
            log.warning("no CUDA graphs for decoding: torch's attention over a cache looks at lengths on the host")
        decoding = Lane(device, capture=able)
        model = SlotModel(bundle.semantic, Grammar(bundle.vocabulary), options, decoding)
        sounding = Lane(device, urgent=True)
        sizes = sorted({min(size, SOUND_ROWS) for size in options.buckets})
        sound = SoundSlots(bundle, sounding, slots=self._count, buckets=sizes)
        ear = CapturedEar(bundle.tokenizer.semantic, Lane(device), LISTEN_SAMPLES // HOP)
        model.capture()
        sound.capture()
        ear.capture()
        if self._measure if self._measure is not None else device.type == "cuda":
            self._admit(bundle, model, sound)
        self.capture_seconds = time.perf_counter() - began
        decode, speak = DecodeLoop(model, self._now), SoundLoop(sound, self._count, self._now)

        def say(units: Sequence[int]) -> None:
            sound.open(0, bundle.voice(None), 0)
            if not np.isfinite(sound.speak([(0, units)])[0]).all():
                raise EngineError("the sound is not finite: the model's weights are broken")

        slots = []
        for index in range(self._count):
            decoder, changed = decode.decoder(index), threading.Condition()
            slots.append(Slot(bundle, speak.speak, self._now, changed, decoder=decoder, ear=ear, spent=decoder.spent))
        listening = [ListeningThread([slot], slot.changed, self._now) for slot in slots]
        parts = Parts(bundle, slots, listening, speak, (decode,))
        parts.start()
        try:
            listener = Listener(bundle, decode.decoder(0), ear)
            warm_up(bundle, listener, lambda units: speak.call(lambda: say(units)).result())
        except BaseException:
            parts.stop()
            raise
        return parts

    def _admit(self, bundle: Bundle, model: SlotModel, sound: SoundSlots) -> None:
        """Find out how many conversations at once the machine keeps up with."""
        self.loads = measure_loads(bundle, model, sound, self._now)
        able = admitted(self.loads, self._count)
        if able < self._count:
            log.warning(
                "this machine keeps up with %d conversations at once, not %d: taking so many", able, self._count
            )
            self._count = able


def check_fp8(device: torch.device) -> None:
    """Raise ConfigError, in one line, where a cache in fp8 could not be read quickly. A CPU reads it for tests."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9):
        return
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    raise ConfigError(
        f"kv_cache 'fp8' needs compute capability 8.9 or newer, {name} has {major}.{minor}: leave kv_cache unset"
    )


def measure_loads(bundle: Bundle, model: SlotModel, sound: SoundSlots, now: Callable[[], float]) -> list[Load]:
    """What every batch size takes at half the context, on idle lanes whose slots nobody uses."""
    half = model.options.capacity // 2
    voice, longest = bundle.voice(None), bundle.config.blocks.longest
    loads = []
    for size in model.options.buckets:
        rows = list(range(size))
        blocks = [(row, [0] * longest) for row in rows[: sound.buckets[-1]]]
        batches = -(-size // sound.buckets[-1])

        def burst(rows: list[int] = rows) -> None:
            model.burst(rows).take()

        with model.lane.entered(), torch.inference_mode():
            steps = model.options.burst.get(size, 1)
            for row in rows:
                model.set(row, Start(half, Phase.SOUND_FIRST, Draws(SamplingOptions(), row), token=0))
            token = median_seconds(burst, now) / steps
        with sound.lane.entered(), torch.inference_mode():
            for row, _ in blocks:
                sound.open(row, voice, 0)

            def speak(blocks: list[tuple[int, list[int]]] = blocks) -> None:
                sound.speak(blocks)

            block = median_seconds(speak, now) * batches
        loads.append(Load(size, token, block, longest))
    return loads
