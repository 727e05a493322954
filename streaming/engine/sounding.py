"""The sounding thread: blocks of units of many conversations become sound together, first blocks first.

The batch twin of `SpeakingThread`, with the same face. Each cycle takes the next block of some answers: those whose
listener hears nothing yet, then those whose sound runs out soonest. A batch is no larger than its first blocks need,
rounded up to a size that is captured; later blocks fill the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from ...models.errors import EngineError
from ...models.sound import SoundSlots
from .protocol import Audio
from .slots import Answer, SpeechJob, one_line
from .worker import Job, T, Worker, job_of

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Utterance:
    """An answer that is being spoken, in a slot."""

    answer: Answer
    slot: int
    jobs: deque[SpeechJob] = field(default_factory=deque)
    since: float = 0.0
    """When the first job came."""

    def due(self, frames: int) -> float:
        """When the listener will have heard all that was made, in the generation's seconds; at once if nothing was."""
        since = self.answer.generation.audible_since
        return -float("inf") if since is None else since + 0.02 * frames


class SoundLoop(Worker):
    """The thread that owns a SoundSlots, which has a slot for each conversation. now: seconds, monotonic."""

    def __init__(self, sound: SoundSlots, slots: int, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__("sounding")
        self.sound = sound
        self._now = now
        self._free = list(range(slots))
        self._utterances: dict[Answer, _Utterance] = {}
        self._new: deque[SpeechJob] = deque()
        self._calls: deque[Job] = deque()
        self._tidy = False

    def speak(self, job: SpeechJob) -> None:
        """Queue a block."""
        with self._changed:
            self._new.append(job)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Queue some other use of the speech tokenizer."""
        run, future = job_of(function)
        with self._changed:
            self._calls.append(run)
            self._changed.notify()
        return future

    def forget(self) -> None:
        """Let go of the answers that are over."""
        with self._changed:
            self._tidy = True
            self._changed.notify()

    def _run(self) -> None:
        if self.sound.lane.device.type == "cpu":
            torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopping
                        or self._tidy
                        or self._new
                        or self._calls
                        or any(u.jobs for u in self._utterances.values())
                    )
                )
                if self._stopping:
                    return
            try:
                with self.sound.lane.entered(), torch.inference_mode():
                    self.cycle()
            except BaseException as error:  # whatever it is, the thread lives on and the others are told
                log.exception("a cycle of the sounding thread failed")
                for utterance in list(self._utterances.values()):
                    utterance.answer.generation.finish("failed", one_line(EngineError(f"the engine's sound: {error}")))

    def cycle(self) -> None:
        """Take in what is new, speak one batch, and do one other call."""
        with self._changed:
            new, self._new, self._tidy = self._new, deque(), False
            call = self._calls.popleft() if self._calls else None
        self._let_go()
        for job in new:
            self._take(job)
        if batch := self._choose():
            self._speak(batch)
        if call is not None:
            call()
        self._let_go()

    def _let_go(self) -> None:
        for answer in [answer for answer in self._utterances if answer.generation.over]:
            self._free.append(self._utterances.pop(answer).slot)

    def _take(self, job: SpeechJob) -> None:
        generation = job.answer.generation
        if generation.over:
            return
        utterance = self._utterances.get(job.answer)
        if utterance is None:
            utterance = _Utterance(job.answer, self._free.pop())
            self._utterances[job.answer] = utterance
            try:
                self.sound.open(utterance.slot, job.answer.voice, job.answer.seed)
            except Exception as error:
                generation.finish("failed", one_line(error))
                return
        if job.units != ():
            utterance.since = utterance.since or self._now()
            utterance.jobs.append(job)
            self._end_if_said(utterance)

    def _end_if_said(self, utterance: _Utterance) -> None:
        job = utterance.jobs[0] if utterance.jobs else None
        if job is not None and job.units is None:
            utterance.jobs.clear()
            utterance.answer.generation.finish("length" if job.length_reached else "completed")

    def _choose(self) -> list[_Utterance]:
        """Whose next blocks make the next batch, the most urgent first."""
        waiting = [each for each in self._utterances.values() if each.jobs and not each.answer.generation.over]
        waiting.sort(key=lambda each: each.due(self.sound.frame(each.slot)))
        firsts = sum(each.answer.generation.audible_since is None for each in waiting)
        sizes = self.sound.buckets
        wanted = firsts or len(waiting)
        return waiting[: next((size for size in sizes if size >= wanted), sizes[-1])]

    def _speak(self, batch: Sequence[_Utterance]) -> None:
        starts, began = [self.sound.frame(each.slot) for each in batch], self._now()
        try:
            sounds = self.sound.speak([(each.slot, each.jobs[0].units or ()) for each in batch])
        except Exception as error:
            for each in batch:  # tried again alone, so that only what is at fault ends
                if len(batch) > 1:
                    self._speak([each])
                else:
                    each.jobs.clear()
                    each.answer.generation.finish("failed", one_line(error))
            return
        for each, start, pcm in zip(batch, starts, sounds, strict=True):
            each.jobs.popleft()
            generation = each.answer.generation
            if not np.isfinite(pcm).all():
                reason = f"the sound from frame {start} on is not finite: the model's weights are broken"
                generation.finish("failed", reason)
                continue
            for part, seconds in {"queue": began - each.since, **self.sound.spent}.items():
                generation.spend(part, seconds)
            generation.put(Audio(np.clip(pcm, -1.0, 1.0), start, start + len(pcm) // 320))
            self._end_if_said(each)
