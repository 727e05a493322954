"""The agent's voice: one answer at a time, from the engine's outputs to what the listener has heard of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...streaming.clock import Clock
from ...streaming.engine.protocol import Audio, Finished, FunctionCall, Output, Text, Trouble, Word
from ...streaming.frames import seconds
from ...streaming.playout import FADE, Playout
from .. import events, metrics
from ..event_objects import ResponseError, StatusDetails
from ..events import EventError, ServerEvent
from .pacing import Pacer
from .reply import Reply
from .timeline import Timeline

Reason = Literal["turn_detected", "client_cancelled"]


class Speaker:
    """Plays answers and closes them: when all was heard, or where they were cut.

    pacer: the buffer of a client that gets sound in events (WebSocket); None where a track pulls it (WebRTC).
    on_closed: called after the last event of an answer.

    Attributes:
        reply: the answer on its way, None when the agent is silent.
        last_id: id of the latest response, empty before the first.
    """

    def __init__(
        self,
        playout: Playout,
        pacer: Pacer | None,
        clock: Clock,
        emit: Callable[[ServerEvent], None],
        on_closed: Callable[[Reply], None],
    ) -> None:
        self.reply: Reply | None = None
        self.last_id = ""
        self._playout, self._pacer, self._clock = playout, pacer, clock
        self._emit, self._on_closed = emit, on_closed
        self._timeline = Timeline(0.0, 0.0, 0.0)
        self._gaps_before = 0

    def begin(self, reply: Reply, timeline: Timeline) -> None:
        """Open an answer; `timeline` tells how it came to be."""
        self.reply, self._timeline = reply, timeline
        self.last_id = reply.id
        self._gaps_before = self._gaps
        reply.open()

    def take(self, reply: Reply, output: Output) -> None:
        """What the engine gives for the answer on its way."""
        if isinstance(output, Word):
            reply.words.append(output)
        elif isinstance(output, Text):
            if output.text.strip():
                reply.open_message()
            if reply.modality == "text" and reply.opened:
                self._write(reply, output.text)
        elif isinstance(output, FunctionCall):
            reply.call(output)
        elif isinstance(output, Trouble):
            self._emit(EventError(output.code, output.message, type="server_error").event())
            reply.trouble = ResponseError(code=output.code, message=output.message)
        elif isinstance(output, Audio):
            reply.open_message()
            reply.generated += len(output.pcm)
            self._playout.push(reply.generation.id, output.pcm)
            self._send(reply)
        elif isinstance(output, Finished):
            self._finish(reply, output)

    def interrupt(self, reason: Reason) -> None:
        """Stop the sound at once and keep of the answer what was heard; nothing happens when there is none."""
        if self.reply is not None:
            self._cut(self.reply, StatusDetails(type="cancelled", reason=reason))

    def nothing_said(self, reply: Reply) -> None:
        """What was taken for speech had no words: a cough gets no answer, and is nobody's error."""
        error = ResponseError(code="no_speech", message="no words were heard in this turn")
        self._cut(reply, StatusDetails(type="failed", error=error))

    def tick(self) -> None:
        """Called every 20 ms or so: sends sound that is due, and ends what has been heard to its end."""
        reply = self.reply
        if reply is None:
            return
        self._send(reply)
        if self._pacer is None:
            reply.caption(self._playout.heard(reply.generation.id))
        if reply.drained and (self._pacer is None or not self._pacer.in_flight):
            self._close(reply, _end_of(reply), None)

    def started(self, generation: int, at: float) -> None:
        """The first sound of a generation left for the listener at this instant of the clock."""
        reply = self.reply
        if reply is not None and reply.generation.id == generation:
            reply.sounding = True
            self._timeline.played = at
            if self._pacer is None:
                self._emit(events.PlaybackStarted(response_id=reply.id))

    def drained(self, generation: int) -> None:
        """The last sound of a generation left."""
        if self.reply is not None and self.reply.generation.id == generation:
            self.reply.drained = True

    @property
    def _gaps(self) -> int:
        return self._playout.underruns if self._pacer is None else self._pacer.underruns

    def _send(self, reply: Reply) -> None:
        """Send what a WebSocket client may have now."""
        if self._pacer is None or self._playout.playing != reply.generation.id:
            return
        due = min(self._pacer.room, self._playout.waiting)
        if due:
            self._pacer.sent(due)
            reply.sound(self._playout.pull(due))
            if reply.finished is not None and not self._playout.waiting:
                self._pacer.ended()

    def _write(self, reply: Reply, piece: str) -> None:
        limit = reply.response.max_output_tokens
        if limit != "inf" and reply.pieces >= limit:
            self._cut(reply, StatusDetails(type="incomplete", reason="max_output_tokens"))
        else:
            reply.write(piece)

    def _finish(self, reply: Reply, finished: Finished) -> None:
        reply.finished = finished
        if finished.reason in ("failed", "cancelled"):
            message = finished.error or "the engine has stopped this answer"
            if reply.source is not None and not reply.source.transcript:
                self.nothing_said(reply)
                return
            self._emit(EventError("engine_error", message, type="server_error").event())
            error = ResponseError(code="engine_error", message=message)
            self._cut(reply, StatusDetails(type="failed", error=error))
        elif reply.modality == "text":
            self._close(reply, _end_of(reply), None)
        else:
            self._playout.end(reply.generation.id)

    def _cut(self, reply: Reply, details: StatusDetails) -> None:
        reply.generation.cancel()
        in_flight = self._pacer.in_flight if self._pacer is not None else 0
        heard = max(0, self._playout.heard(reply.generation.id) - in_flight)
        self._playout.stop(reply.generation.id)
        if self._pacer is not None:
            self._playout.pull(FADE)  # the client cuts its own sound; the fade must not begin the next answer
            self._pacer.flush()
        self._close(reply, details, heard)

    def _close(self, reply: Reply, details: StatusDetails, heard: int | None) -> None:
        if self._pacer is None:
            reply.entry.samples = self._playout.heard(reply.generation.id)
        else:
            self._pacer.ended()
        gaps = self._gaps - self._gaps_before
        played = reply.generated if heard is None else heard
        metrics.UNDERRUNS.inc(gaps)
        metrics.RESPONSES.labels(details.type, details.reason or "").inc()
        metrics.AUDIO_SECONDS.labels("played").inc(seconds(played))
        reply.close(details, heard, self._timeline.report(reply.finished, gaps))
        self.reply = None
        if self._pacer is None and reply.sounding:
            if heard is None:
                self._emit(events.PlaybackStopped(response_id=reply.id))
            else:
                self._emit(events.PlaybackCleared(response_id=reply.id))
        self._on_closed(reply)


def _end_of(reply: Reply) -> StatusDetails:
    """How an answer that was not interrupted ended."""
    if reply.trouble is not None:
        return StatusDetails(type="failed", error=reply.trouble)
    if reply.finished is not None and reply.finished.reason == "length":
        return StatusDetails(type="incomplete", reason="max_output_tokens")
    return StatusDetails(type="completed")
