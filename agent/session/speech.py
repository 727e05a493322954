"""What the user says in one turn: its sound, and the transcript as it becomes known."""

from __future__ import annotations

from collections.abc import Callable

from ...streaming.frames import Pcm, seconds
from ..event_objects import ResponseError
from ..events import DurationUsage, ServerEvent, TranscriptionCompleted, TranscriptionDelta, TranscriptionFailed


class UserSpeech:
    """One turn of the user. The sound is kept until it is answered, so that an engine can hear it again.

    item_id: of the item it becomes. emit: takes the transcript's events; None for transcripts nobody asked for.
    """

    def __init__(self, item_id: str, emit: Callable[[ServerEvent], None] | None) -> None:
        self.item_id = item_id
        self.chunks: list[Pcm] = []
        self.samples = 0
        self.transcript = ""
        self.complete = False
        self._emit = emit

    def append(self, pcm: Pcm) -> None:
        """More sound, (N,) at 16 kHz."""
        self.chunks.append(pcm)
        self.samples += len(pcm)

    def drop(self, count: int) -> None:
        """Forget the first chunks, at least `count` samples; only before an engine has heard them."""
        while self.chunks and count > 0:
            gone = len(self.chunks.pop(0))
            self.samples -= gone
            count -= gone

    def heard(self, transcript: str) -> None:
        """The transcript so far. Only what continues the words already sent is sent; the end sets the rest right."""
        if self.complete or not transcript.startswith(self.transcript) or transcript == self.transcript:
            return
        delta, self.transcript = transcript[len(self.transcript) :], transcript
        if self._emit is not None:
            self._emit(TranscriptionDelta(item_id=self.item_id, delta=delta))

    def finish(self, transcript: str) -> None:
        """The whole transcript; later ones are ignored."""
        if self.complete:
            return
        self.heard(transcript)
        self.transcript, self.complete = transcript, True
        if self._emit is not None:
            usage = DurationUsage(seconds=round(seconds(self.samples), 3))
            self._emit(TranscriptionCompleted(item_id=self.item_id, transcript=transcript, usage=usage))

    def fail(self, message: str) -> None:
        """The transcript cannot be had; the client is told why."""
        if self.complete:
            return
        self.complete = True
        if self._emit is not None:
            error = ResponseError(code="engine_error", message=message)
            self._emit(TranscriptionFailed(item_id=self.item_id, error=error))
