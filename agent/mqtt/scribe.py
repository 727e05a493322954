"""Speech to text alone, for sessions that another dialogue manager holds: startListening to textCaptured."""

from __future__ import annotations

import numpy as np

from ...streaming.frames import Pcm, seconds
from .. import events
from .desk import Desk
from .line import Line
from .messages import HermesError, StartListening
from .wav import encode_wav

PATIENCE_S = 60.0
"""Seconds without an utterance after which listening ends: whoever asked for it has gone."""


class Scribe:
    """Listens for one utterance of a site."""

    def __init__(self, desk: Desk, start: StartListening) -> None:
        self._desk, self._start = desk, start
        self._line: Line | None = None
        self._kept: list[Pcm] = []
        self._length = 0
        self._stopped = False
        self._muted = False

    def hear(self, pcm: Pcm) -> None:
        """The site's microphone, (N,) at 16 kHz."""
        if self._line is None or self._muted or self._stopped:
            return
        self._line.hear(pcm)
        if self._start.send_audio_captured and seconds(self._length) < self._desk.settings.max_turn_s:
            self._kept.append(pcm)
            self._length += len(pcm)

    def mute(self, muted: bool) -> None:
        """Whether the site may be listened to."""
        self._muted = muted

    def stop_listening(self) -> None:
        """The utterance is over."""
        self._stopped = True
        if self._line is not None:
            self._line.send("input_audio_buffer.commit")

    async def run(self) -> None:
        """Listen, and tell what was said. Raises EngineFullError."""
        by_itself = self._start.stop_on_silence is not False
        detection = {"create_response": False} if by_itself else None
        async with Line.on(self._desk, {"audio": {"input": {"turn_detection": detection}}}) as line:
            self._line = line
            if not by_itself:
                line.send("input_audio_buffer.clear")  # marks the begin of the turn
            if self._stopped:
                line.send("input_audio_buffer.commit")
            text, took = await self._transcript(line)
        site, session = self._start.site_id, self._start.session_id
        self._desk.publish(
            "hermes/asr/textCaptured",
            text=text,
            likelihood=1.0 if text else 0.0,
            seconds=round(took, 3),
            siteId=site,
            sessionId=session,
            wakewordId=self._start.wakeword_id,
            lang=self._start.lang,
        )
        if self._kept:
            topic = f"rhasspy/asr/{site}/{session or 'default'}/audioCaptured"
            self._desk.link.send(topic, encode_wav(np.concatenate(self._kept)))

    async def _transcript(self, line: Line) -> tuple[str, float]:
        """What was said, and how many seconds after its end that was known; nothing where nobody spoke."""
        clock = self._desk.clock
        since = ended = clock.now()
        while True:
            event = await line.events.get()
            match event:
                case events.TranscriptionCompleted(transcript=text):
                    return text.strip(), clock.now() - ended
                case events.AudioCommitted():
                    ended = clock.now()
                case events.SpeechStarted():
                    since = clock.now()
                case events.Error(error=error):
                    if error.code != "input_audio_buffer_commit_empty":
                        site, session = self._start.site_id, self._start.session_id
                        self._desk.complain(HermesError("asr", error.message, site, session))
                    return "", 0.0
                case None if line.ended or clock.now() - since > PATIENCE_S:
                    return "", 0.0
