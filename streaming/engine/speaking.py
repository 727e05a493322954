"""The speaking thread: blocks of units of every conversation become sound, whoever waits for a first block first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count

import torch

from ...models.generation import Speaker, Utterance
from .one_at_a_time import OneAtATime
from .protocol import Audio
from .slots import Answer, SpeechJob, one_line
from .worker import Job, T, Worker, job_of


class SpeakingThread(Worker):
    """Runs the perceptual model and the speech tokenizer, in `turns` with the language model. Jobs of one answer keep
    their order."""

    def __init__(self, speaker: Speaker, turns: OneAtATime) -> None:
        super().__init__("speaking")
        self._speaker, self._turns = speaker, turns
        self._utterances: dict[Answer, Utterance] = {}
        self._jobs: list[tuple[bool, int, Job]] = []
        self._order = count()

    def speak(self, job: SpeechJob) -> None:
        """Queue a block."""
        self._queue(lambda: self._speak(job), later=job.units is None or job.index > 0)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Queue some other use of the speech tokenizer."""
        run, future = job_of(function)
        self._queue(run, later=True)
        return future

    def forget(self) -> None:
        """Let go of the answers that are over."""
        self._queue(lambda: None, later=True)

    def _queue(self, job: Job, *, later: bool) -> None:
        with self._changed:
            heapq.heappush(self._jobs, (later, next(self._order), job))
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                *_, job = heapq.heappop(self._jobs)
            job()
            del job  # or an answer's state would live until the next job comes
            for answer in [answer for answer in self._utterances if answer.generation.over]:
                del self._utterances[answer]

    def _speak(self, job: SpeechJob) -> None:
        generation = job.answer.generation
        if generation.over:
            return
        try:
            if job.units is None:
                generation.finish("length" if job.length_reached else "completed")
                return
            with self._turns.sound():
                utterance = self._utterances.get(job.answer)
                if utterance is None:
                    utterance = self._utterances[job.answer] = self._speaker.open(job.answer.voice, job.answer.seed)
                block = utterance.speak(job.units) if job.units else None
            if block is not None:
                generation.put(Audio(block.pcm, block.start_frame, block.end_frame))
        except Exception as error:
            generation.finish("failed", one_line(error))
