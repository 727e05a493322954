"""Playout: the agent's voice on its way to the listener, and what of it was heard.

Whoever sends audio to the listener pulls, at the transport's own pace, and always gets exactly what was asked for:
speech when there is some, silence when not. What was pulled counts as heard: that position is the truth from which
history is written, captions are timed and an interrupted answer is cut.

One generation is one answer. Its number only grows, so anything that arrives late from an answer that was stopped is
known by its number and dropped. Not thread-safe: everything happens on the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..models.errors import SpeechGPTGenError
from .frames import Pcm, as_pcm, dbfs, samples, seconds

FADE = samples(0.005)
"""A voice cut off within one sample clicks; five milliseconds of fading are too short to be heard as anything."""

REMEMBERED = 64
"""Generations whose heard position can still be asked for."""


class Source(Protocol):
    """What a transport pulls sound from, in real time: a `Playout`, a microphone."""

    def pull(self, n: int) -> Pcm:
        """The next samples, exactly (n,); silence where there are none."""
        ...


class PlayoutFullError(SpeechGPTGenError):
    """More audio was pushed than playout may hold; wait until `room` has grown."""


class _Voice:
    """One generation: audio that waits, whether more will come, and whether it has begun to sound."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.blocks: deque[Pcm] = deque()
        self.waiting = 0
        self.ended = False
        self.started = False
        self.starved = False

    def take(self, n: int) -> Pcm:
        """The next min(n, waiting) samples."""
        taken: list[Pcm] = []
        missing = min(n, self.waiting)
        self.waiting -= missing
        while missing:
            block = self.blocks.popleft()
            if len(block) > missing:
                self.blocks.appendleft(block[missing:])
                block = block[:missing]
            taken.append(block)
            missing -= len(block)
        return taken[0] if len(taken) == 1 else np.concatenate((np.zeros(0, np.float32), *taken))


class Playout:
    """Unplayed audio of one session, pulled by its transport.

    Args:
        capacity: seconds of unplayed audio it may hold; an answer is made faster than it is heard, so this bounds the
            memory of a session (64 kB a second).

    Attributes:
        on_started: called with the generation whose first sample is in the block that is being pulled.
        on_drained: called with the generation that has ended when its last sample has been pulled, at once if there is
            none. Never called for one that was stopped.
        underruns: how often a voice that had begun ran dry before its end, once per gap.
    """

    def __init__(self, *, capacity: float = 120.0) -> None:
        self.capacity = samples(capacity)
        self.on_started: Callable[[int], None] = _ignore
        self.on_drained: Callable[[int], None] = _ignore
        self.underruns = 0
        self._voices: deque[_Voice] = deque()
        self._heard: dict[int, int] = {}
        self._newest = -1
        self._stopped = -1
        self._fade: Pcm = np.zeros(0, np.float32)
        self._last_block: Pcm = self._fade

    @property
    def playing(self) -> int | None:
        """The generation that sounds now, or will sound next; None when idle."""
        return self._voices[0].generation if self._voices else None

    @property
    def waiting(self) -> int:
        """Samples that have not been pulled yet."""
        return sum(voice.waiting for voice in self._voices)

    @property
    def room(self) -> int:
        """Samples that may be pushed before `PlayoutFullError`."""
        return self.capacity - self.waiting

    @property
    def level(self) -> float:
        """Level of the block pulled last, dBFS."""
        return dbfs(self._last_block)

    def heard(self, generation: int) -> int:
        """Samples of this generation that have been pulled; 0 for one that never sounded or is long past."""
        return self._heard.get(generation, 0)

    def push(self, generation: int, pcm: Pcm) -> bool:
        """Queue the next audio of a generation, (N,), any N.

        A newer generation waits until the older one has been heard, and tells that the older one gets nothing more.

        Returns:
            False if the audio is stale (the generation was stopped, ended or overtaken) and was dropped.

        Raises:
            AudioError: not 1-D float audio.
            PlayoutFullError: there is no room for it; nothing of it was taken.
        """
        pcm = as_pcm(pcm)
        voice = self._voice(generation)
        if voice is None:
            return False
        if len(pcm) > self.room:
            raise PlayoutFullError(
                f"{seconds(self.waiting):.1f} s of audio are unplayed and {seconds(self.capacity):.0f} s are allowed; "
                "is the transport still pulling?"
            )
        if len(pcm):
            voice.blocks.append(pcm)
            voice.waiting += len(pcm)
        return True

    def end(self, generation: int) -> None:
        """Nothing more will be pushed for this generation; `on_drained` follows when all of it has been pulled."""
        voice = self._voice(generation)
        if voice is not None:
            voice.ended = True
            self._retire()

    def stop(self, upto: int | None = None) -> int:
        """Stop the sound at once and drop everything unplayed; the next pull begins with a 5 ms fade, then silence.

        Args:
            upto: pushes of generations up to this one are stale from now on, also of those that have pushed nothing
                yet; by default the newest one seen.

        Returns:
            Samples heard of the generation that was sounding, without the fade; 0 when idle.
        """
        self._stopped = max(self._stopped, self._newest, -1 if upto is None else upto)
        if not self._voices:
            return 0
        voice = self._voices[0]
        if voice.started and not voice.starved:
            tail = voice.take(FADE)
            self._fade = tail * _ramp(len(tail))
        self._voices.clear()
        return self.heard(voice.generation)

    def pull(self, n: int) -> Pcm:
        """The next n samples for the listener, (n,): speech, or silence where there is none."""
        out = np.zeros(n, np.float32)
        fade, self._fade = self._fade[:n], self._fade[n:]
        filled = 0
        while filled < n and self._voices:
            voice = self._voices[0]
            taken = voice.take(n - filled)
            if len(taken):
                out[filled : filled + len(taken)] = taken
                self._play(voice, out[filled : filled + len(taken)])
                filled += len(taken)
            self._retire()
            if self._voices and self._voices[0] is voice and filled < n:
                self._starve(voice, out, filled)
                break
        # Added, not put in front: a fade never delays what comes after it.
        out[: len(fade)] += fade
        self._last_block = out if n else self._last_block
        return out

    def _voice(self, generation: int) -> _Voice | None:
        """The queue of a generation that may still speak, made at its first push; None for a stale one."""
        if generation <= self._stopped or generation < self._newest:
            return None
        if generation > self._newest:
            for older in self._voices:
                older.ended = True
            self._newest = generation
            self._voices.append(_Voice(generation))
            self._retire()
        newest = self._voices[-1] if self._voices else None
        return newest if newest and newest.generation == generation and not newest.ended else None

    def _play(self, voice: _Voice, block: Pcm) -> None:
        """Count a block as heard; in place, the first samples after a gap fade in."""
        if voice.starved:
            voice.starved = False
            fade = min(FADE, len(block))
            block[:fade] *= _ramp(fade)[::-1]
        self._heard[voice.generation] = self.heard(voice.generation) + len(block)
        while len(self._heard) > REMEMBERED:
            self._heard.pop(next(iter(self._heard)))
        if not voice.started:
            voice.started = True
            self.on_started(voice.generation)

    def _starve(self, voice: _Voice, out: Pcm, filled: int) -> None:
        """Note that a voice ran dry after `filled` samples of this pull, and let its last sample die away.

        Before a voice's first sample that is waiting, not an underrun.
        """
        if not voice.started or voice.starved:
            return
        voice.starved = True
        self.underruns += 1
        last = out[filled - 1] if filled else self._last_block[-1]
        tail = last * _ramp(FADE)
        now = min(FADE, len(out) - filled)
        out[filled : filled + now] = tail[:now]
        self._fade = tail[now:]

    def _retire(self) -> None:
        """Let go of voices that have said everything, and tell."""
        while self._voices and self._voices[0].ended and not self._voices[0].waiting:
            self.on_drained(self._voices.popleft().generation)


def _ramp(n: int) -> Pcm:
    """Half a cosine from 1 to 0, (n,)."""
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * (np.arange(n) + 1) / (n + 1)), np.float32)


def _ignore(generation: int) -> None:
    """Nobody listens."""
