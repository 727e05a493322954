"""Turns: where in the audio somebody begins to speak, may have finished, goes on, and has finished.

Everything is counted in samples of audio received, never in wall time, so that a late or early packet changes nothing
and a test takes the same path as a call. Audio may come in chunks of any length: it is judged in the detector's
windows, and the events do not depend on the chunks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

import numpy as np

from ..models.errors import ConfigError
from .frames import Framer, Pcm, samples, samples_of_ms
from .vad.base import Vad

RELEASE = 0.15
"""Within a turn this much less probability still counts as speech: a detector is least sure at the end of a word."""

LOOKBACK = samples(1.0)
"""How far back the first syllable of a turn may lie when the detector has become sure."""


@dataclass(frozen=True)
class TurnOptions:
    """When a turn begins and ends.

    Attributes:
        threshold: probability from which a window counts as speech, 0 to 1. Higher for noisy rooms.
        min_speech_ms: speech that must come together before a turn starts. Shorter finds a quick "no" sooner, longer
            ignores coughs and clicks.
        resume_ms: speech that must come together after a soft end before the turn goes on. Short, because a word that
            follows a pause must not be lost, and a flicker only costs an answer prepared in vain.
        prefix_padding_ms: audio before the first speech that belongs to the turn: soft consonants come before a
            detector is sure.
        soft_end_ms: silence after which an answer may be prepared; not sooner than the next word usually comes.
        silence_ms: silence that ends the turn. Shorter answers sooner, longer lets people think.
        max_turn_s: longest turn; it is ended even while somebody speaks, so that memory is bounded.

    Raises:
        ConfigError: a value that makes no sense.
    """

    threshold: float = 0.5
    min_speech_ms: int = 96
    resume_ms: int = 64
    prefix_padding_ms: int = 300
    soft_end_ms: int = 160
    silence_ms: int = 400
    max_turn_s: float = 60.0

    def __post_init__(self) -> None:
        limits = {
            "threshold": (0.0, 1.0),
            "min_speech_ms": (0, 2_000),
            "resume_ms": (0, 2_000),
            "prefix_padding_ms": (0, 5_000),
            "soft_end_ms": (20, 60_000),
            "silence_ms": (20, 60_000),
            "max_turn_s": (0.5, 3_600),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"turn option {name} is {value}; it must lie between {low} and {high}")


@dataclass(frozen=True, eq=False)
class SpeechStarted:
    """A turn has begun.

    Attributes:
        at: the sample up to which audio had been judged.
        onset: the first sample of speech.
        start: the first sample of the turn: `prefix_padding_ms` before the onset, but never before the last turn's end.
        pre_roll: the turn's audio from `start` to `at`.
    """

    at: int
    onset: int
    start: int
    pre_roll: Pcm


@dataclass(frozen=True, eq=False)
class Speech:
    """The next audio of the turn, (at - start,), pauses included; pre-roll and these together have no gap."""

    at: int
    pcm: Pcm


@dataclass(frozen=True)
class SoftEnd:
    """The turn may be over: `soft_end_ms` of silence have followed `last_voiced`, the sample after the last speech."""

    at: int
    last_voiced: int


@dataclass(frozen=True)
class SpeechResumed:
    """The turn goes on after a soft end, with new speech from `onset`; what was prepared for its end is void."""

    at: int
    onset: int


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over.

    Attributes:
        at: the sample after the turn's last audio.
        last_voiced: the sample after the last speech.
        reason: `silence`; `length` (longest turn reached); `forced` (somebody called `end`); `gap` (the stream paused).
    """

    at: int
    last_voiced: int
    reason: Literal["silence", "length", "forced", "gap"]


TurnEvent: TypeAlias = SpeechStarted | Speech | SoftEnd | SpeechResumed | TurnEnded


class TurnState(Enum):
    """Where the segmenter is: nobody speaks, somebody does, or perhaps not any more."""

    IDLE = "idle"
    SPEAKING = "speaking"
    PAUSING = "pausing"


class TurnSegmenter:
    """Cuts one stream of 16 kHz audio into turns.

    Args:
        vad: a detector of its own; the segmenter resets it.
        options: may be replaced at any time through the attribute of this name; it holds from the next window on.
    """

    def __init__(self, vad: Vad, options: TurnOptions | None = None) -> None:
        self.vad = vad
        self.options = options or TurnOptions()
        self.state = TurnState.IDLE
        self._framer = Framer(vad.window)
        self._judged = 0
        self._recent: deque[Pcm] = deque()
        self._evidence = 0
        self._onset = 0
        self._start = 0
        self._last_voiced = 0

    @property
    def position(self) -> int:
        """Samples of audio time that have passed, whether judged yet or not."""
        return self._judged + self._framer.pending

    def push(self, pcm: Pcm) -> list[TurnEvent]:
        """Add the next audio, (N,), any N; returns what happened, in order."""
        events: list[TurnEvent] = []
        for window in self._framer.push(pcm):
            events += self._judge(window)
        return events

    def gap(self, count: int) -> list[TurnEvent]:
        """Let `count` samples pass for which no audio came (a sender that is silent, a clock that jumped): silence.

        A long gap costs no more than the silence that ends a turn: the rest only moves the position, and what follows
        is judged afresh.
        """
        quiet = min(count, samples_of_ms(self.options.silence_ms) + LOOKBACK)
        events = self.push(np.zeros(quiet, np.float32))
        if count > quiet:
            self._judged += count - quiet
            if self.state is not TurnState.IDLE:
                events.append(self._finish("gap"))
            self.reset()
        return events

    def end(self) -> list[TurnEvent]:
        """End the turn now, whoever speaks, with all the audio that has come; nothing happens when nobody speaks."""
        if self.state is TurnState.IDLE:
            return []
        events: list[TurnEvent] = []
        rest = self._framer.flush()
        if len(rest):
            self._judged += len(rest)
            events.append(Speech(self._judged, rest))
        return [*events, self._finish("forced")]

    def reset(self) -> None:
        """Drop the turn and all that is remembered of the audio; the position goes on counting."""
        self._judged += len(self._framer.flush())
        self._recent.clear()
        self._evidence = 0
        self.state = TurnState.IDLE
        self.vad.reset()

    def _judge(self, window: Pcm) -> list[TurnEvent]:
        probability = self.vad.speech(window)
        voiced = probability >= self.options.threshold
        begin, self._judged = self._judged, self._judged + len(window)
        # Evidence leaks instead of starting over, so that one doubtful window in a word does not count for much.
        if voiced:
            if not self._evidence:
                self._onset = begin
            self._evidence += len(window)
        else:
            self._evidence = max(0, self._evidence - len(window))
        if self.state is TurnState.IDLE:
            return self._wait(window, voiced)
        return [Speech(self._judged, window), *self._follow(probability, voiced)]

    def _wait(self, window: Pcm, voiced: bool) -> list[TurnEvent]:
        """Nobody speaks yet: remember the audio for the pre-roll, start a turn once there is evidence enough."""
        padding = samples_of_ms(self.options.prefix_padding_ms)
        self._recent.append(window)
        while (len(self._recent) - 1) * len(window) >= padding + LOOKBACK:
            self._recent.popleft()
        if not voiced or self._evidence < samples_of_ms(self.options.min_speech_ms):
            return []
        remembered = np.concatenate(self._recent)
        self._recent.clear()
        earliest = self._judged - len(remembered)
        self._onset = max(self._onset, earliest)
        self._start = max(self._onset - padding, earliest)
        self._last_voiced = self._judged
        self.state = TurnState.SPEAKING
        return [SpeechStarted(self._judged, self._onset, self._start, remembered[self._start - earliest :])]

    def _follow(self, probability: float, voiced: bool) -> list[TurnEvent]:
        """Somebody speaks, or pauses: does the turn go on or end?"""
        options = self.options
        events: list[TurnEvent] = []
        if self.state is TurnState.SPEAKING:
            if probability >= options.threshold - RELEASE:
                self._last_voiced = self._judged
        elif voiced and self._evidence >= samples_of_ms(options.resume_ms):
            self._last_voiced = self._judged
            self.state = TurnState.SPEAKING
            events.append(SpeechResumed(self._judged, self._onset))
        silence = self._judged - self._last_voiced
        if self._judged - self._start >= samples(options.max_turn_s):
            events.append(self._finish("length"))
        # A window that sounds like speech holds the end back: the next one tells whether it is.
        elif silence >= samples_of_ms(options.silence_ms) and not voiced:
            events.append(self._finish("silence"))
        elif silence >= samples_of_ms(options.soft_end_ms) and self.state is TurnState.SPEAKING:
            self.state = TurnState.PAUSING
            self._evidence = 0
            events.append(SoftEnd(self._judged, self._last_voiced))
        return events

    def _finish(self, reason: Literal["silence", "length", "forced", "gap"]) -> TurnEnded:
        self.state = TurnState.IDLE
        self._evidence = 0
        return TurnEnded(self._judged, self._last_voiced, reason)
