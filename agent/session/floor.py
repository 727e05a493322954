"""Who has the floor: the user's turn, an answer prepared in case the turn is over, and the answer being spoken.

All methods are called by one writer, the conversation's task, and none of them waits. Whatever arrives late from a
generation that was cancelled is known by its id and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...models.semantic.pieces import Message
from ...streaming.clock import Clock
from ...streaming.engine.protocol import EngineSession, Generation, Output, Transcript
from ...streaming.frames import FRAME, Pcm, milliseconds, samples, samples_of_ms, seconds
from ...streaming.playout import Playout
from ...streaming.turns import SoftEnd, Speech, SpeechResumed, SpeechStarted, TurnEnded, TurnEvent, TurnSegmenter
from ...streaming.vad import Vad
from .. import events, metrics
from ..event_objects import (
    Content,
    MessageItem,
    ResponseOptions,
    SemanticVad,
    Session,
    new_id,
)
from ..events import EventError, ServerEvent
from ..settings import Settings
from .codec import AudioEncoder
from .config import known_voice, turn_options
from .ears import Ears
from .items import Entry, Items, heard_words, history
from .pacing import Pacer
from .plan import Plan, make_plan, make_request, make_response
from .reply import Reply, assistant_item
from .speaker import Speaker
from .speculation import Speculation
from .speech import UserSpeech
from .timeline import Timeline

MIN_COMMIT_MS = 100
"""Shorter audio is a slip of the button (the protocol's own limit)."""

_SESSION_DEFAULTS = ResponseOptions()


class Floor:
    """Turn taking of one conversation.

    slot: of the engine. voices: names it can speak in. session: replaced by `configure`. emit: sends an event. follow:
    has a generation's outputs brought to `on_output`. pacer: see Speaker.
    """

    def __init__(
        self,
        *,
        slot: EngineSession,
        voices: Callable[[], tuple[str, ...]],
        session: Session,
        items: Items,
        settings: Settings,
        playout: Playout,
        pacer: Pacer | None,
        clock: Clock,
        vad: Vad,
        emit: Callable[[ServerEvent], None],
        follow: Callable[[Generation], None],
    ) -> None:
        self.turn: UserSpeech | None = None
        self.speaker = Speaker(playout, pacer, clock, emit, self._on_closed)
        self._slot, self._voices, self._session, self._items, self._settings = slot, voices, session, items, settings
        self._clock, self._emit, self._follow = clock, emit, follow
        self._ears = Ears(slot, items, follow)
        self._in_events = pacer is not None
        self._segmenter = TurnSegmenter(vad)
        self._speculation: Speculation | None = None
        self._received = 0
        self._offset = 0
        self._owed = False
        self._held = False
        self._voice: str | None = None
        self.configure(session)

    @property
    def state(self) -> Literal["listening", "thinking", "speaking"]:
        """What the agent does now."""
        reply = self.speaker.reply
        if reply is None:
            return "listening"
        return "speaking" if reply.sounding else "thinking"

    def configure(self, session: Session) -> None:
        """Take over a changed session; a turn under way is dropped if turns are found in another way from now on."""
        old, new = self._session.audio.input.turn_detection, session.audio.input.turn_detection
        if new is not None:
            self._segmenter.options = turn_options(self._settings, new)
        if (old is None) != (new is None):
            self._drop_turn()
        self._session = session

    # The user speaks -----------------------------------------------------------------------------------------------

    def hear(self, pcm: Pcm) -> None:
        """The user's microphone, (N,) at 16 kHz. Raises EventError when appended sound makes a turn too long."""
        self._received += len(pcm)
        metrics.AUDIO_SECONDS.labels("received").inc(seconds(len(pcm)))
        detection = self._session.audio.input.turn_detection
        if detection is None:
            self._hear_by_hand(pcm)
            return
        # What was said decides how long to wait, so it is asked again with every frame.
        step = FRAME if isinstance(detection, SemanticVad) else len(pcm)
        for begin in range(0, len(pcm), step or 1):
            for event in self._segmenter.push(pcm[begin : begin + step]):
                self._on_turn(event)
            if isinstance(detection, SemanticVad):
                self._segmenter.options = turn_options(self._settings, detection, self._words)

    def _hear_by_hand(self, pcm: Pcm) -> None:
        """Manual turns. A track never pauses: between turns only the last of it is kept, and the engine is spared.

        A client with a track marks the begin of a turn by clearing the buffer.
        """
        turn = self.turn = self.turn or self._new_speech()
        if turn.samples + len(pcm) > samples(self._settings.max_turn_s):
            if self._in_events:
                limit = self._settings.max_turn_s
                raise EventError("input_audio_buffer_full", f"a turn may last {limit:g} s: commit or clear the buffer")
            if self._held:
                return
            turn.drop(len(pcm))
        turn.append(pcm)
        if self._in_events or self._held:
            self._feed(turn)

    def commit(self) -> None:
        """End the user's turn by hand. Raises EventError when there is next to nothing in it."""
        if self._session.audio.input.turn_detection is not None and self.turn is not None:
            for event in self._segmenter.end():
                self._on_turn(event)
            return
        length = self.turn.samples if self.turn is not None else 0
        if self.turn is None or length < samples_of_ms(MIN_COMMIT_MS):
            raise EventError(
                "input_audio_buffer_commit_empty",
                f"the buffer holds {milliseconds(length):.0f} ms of audio: append at least {MIN_COMMIT_MS} ms",
            )
        self._held = False
        self._transcribe(self._add_turn(self.turn))

    def clear(self) -> None:
        """Forget the user's turn."""
        self._drop_turn()
        self._held = True
        self._emit(events.AudioCleared())

    def _on_turn(self, event: TurnEvent) -> None:
        if isinstance(event, SpeechStarted):
            self._on_started(event)
        elif self.turn is None:
            return
        elif isinstance(event, Speech):
            self.turn.append(event.pcm)
            self._feed(self.turn)
        elif isinstance(event, SoftEnd):
            self._speculate(self.turn)
        elif isinstance(event, SpeechResumed):
            self._roll_back()
        elif isinstance(event, TurnEnded):
            self._on_ended(self.turn, event)

    def _on_started(self, event: SpeechStarted) -> None:
        detection = self._session.audio.input.turn_detection
        self.turn = self._new_speech()
        self.turn.append(event.pre_roll)
        start = int(milliseconds(self._offset + event.start))
        self._emit(events.SpeechStarted(audio_start_ms=start, item_id=self.turn.item_id))
        if detection is None or detection.interrupt_response:
            self.interrupt("turn_detected")
        self._feed(self.turn)

    def _on_ended(self, turn: UserSpeech, event: TurnEnded) -> None:
        detection = self._session.audio.input.turn_detection
        # Instants are counted back from now in audio that has come since, so that late packets do not shift them.
        since = self._clock.now() - seconds(self._received - self._offset - event.last_voiced)
        end = int(milliseconds(self._offset + event.at))
        self._emit(events.SpeechStopped(audio_end_ms=end, item_id=turn.item_id))
        self._add_turn(turn)
        if detection is None or not detection.create_response:
            self._transcribe(turn)
        elif self.speaker.reply is not None:
            self._owed = True
        else:
            self.respond(since=since)

    @property
    def _words(self) -> str:
        """What was heard of the user's turn, as far as it is known."""
        prepared = self._speculation.transcript if self._speculation is not None else None
        return "" if self.turn is None else prepared or self._ears.heard

    def _new_speech(self) -> UserSpeech:
        wanted = self._session.audio.input.transcription is not None
        return UserSpeech(new_id("item"), self._emit if wanted else None)

    def _add_turn(self, speech: UserSpeech) -> UserSpeech:
        """Make the user's turn an item."""
        self.turn = None
        self._items.forget_sound()
        item = MessageItem(id=speech.item_id, role="user", content=[Content(type="input_audio")])
        previous = self._items.add(Entry(item, speech=speech))
        self._emit(events.AudioCommitted(item_id=item.id, previous_item_id=previous))
        self._emit(events.ItemAdded(item=item.model_copy(deep=True), previous_item_id=previous))
        self._emit(events.ItemDone(item=item.model_copy(deep=True), previous_item_id=previous))
        metrics.TURNS.inc()
        return speech

    def _drop_turn(self) -> None:
        self._roll_back()
        self.turn = None
        self._segmenter.reset()
        # The segmenter counts only what it was pushed; what came meanwhile in manual mode lies between.
        self._offset = self._received - self._segmenter.position

    def _feed(self, speech: UserSpeech, before: tuple[Message, ...] | None = None) -> None:
        """Let the engine hear the user, after the history as it is now. While it speaks the sound waits in the turn."""
        if self.speaker.reply is not None:
            return
        if before is None:
            entries = self._items.before(speech.item_id)
            before = history(entries, self._session.instructions, self._settings.shown_turns)
        if self._ears.feed(speech, before):
            self._roll_back()
        if self._speculation is None:
            speech.heard(self._ears.heard)

    def _transcribe(self, speech: UserSpeech) -> None:
        if self.speaker.reply is None:
            self._feed(speech)
            self._ears.transcribe(speech)

    # The agent answers ---------------------------------------------------------------------------------------------

    def respond(self, options: ResponseOptions = _SESSION_DEFAULTS, since: float | None = None) -> None:
        """Begin an answer. Raises EventError when there is one already, or nothing to answer.

        since: instant of the user's last voiced sample; None counts latency from now.
        """
        reply = self.speaker.reply
        if reply is not None:
            raise EventError(
                "conversation_already_has_active_response",
                f"response {reply.id} is still active: wait for response.done or cancel it",
            )
        now = self._clock.now()
        plan = make_plan(options, self._session, self._items, self._settings)
        voice = self._session.audio.output.voice
        if options.audio is not None and options.audio.output.voice:
            voice = known_voice(options.audio.output.voice, self._voices(), voice, "response.audio.output.voice")
        kept = self._speculation
        if kept is not None and kept.plan == plan and kept.voice == voice:
            self._speculation = None
            metrics.PREEMPTIVE.labels("kept").inc()
            generation = kept.generation
        else:
            self._roll_back()
            kept = None
            generation = self._generate(plan, voice)
        timeline = Timeline(now if since is None else since, now, kept.began if kept else now, kept is not None)
        self.speaker.begin(self._make_reply(generation, plan, options, voice), timeline)
        for output in kept.outputs if kept else ():
            self.on_output(generation.id, output)

    def cancel(self, response_id: str | None) -> None:
        """Stop the answer for the client. Raises EventError when none is active."""
        reply = self.speaker.reply
        if reply is None or response_id not in (None, reply.id):
            which = f"response {response_id[:80]}" if response_id else "no response"
            fault = "is not active" if response_id else "is active"
            raise EventError("response_cancel_not_active", f"{which} {fault}: there is nothing to cancel")
        self.interrupt("client_cancelled")

    def interrupt(self, reason: Literal["turn_detected", "client_cancelled"]) -> None:
        """Stop the sound at once and keep of the answer what was heard."""
        reply = self.speaker.reply
        self.speaker.interrupt(reason)
        if reply is not None and not self._in_events and reply.in_conversation and reply.sounding:
            # A client with a track cannot know what it heard of it: tell where the item was cut.
            heard = int(milliseconds(reply.heard))
            self._emit(events.ItemTruncated(item_id=reply.item_id, content_index=0, audio_end_ms=heard))

    def clear_output(self) -> None:
        """Drop the sound that has not left (WebRTC). Clients ask at any time, so it is told even when there is none."""
        if self.speaker.reply is not None:
            self.interrupt("client_cancelled")
        else:
            self._emit(events.PlaybackCleared(response_id=self.speaker.last_id))

    def truncate(self, entry: Entry, audio_end_ms: int) -> None:
        """Cut a spoken item to what the client says it has heard. Raises EventError when that is more than was sent."""
        reply = self.speaker.reply
        if reply is not None and reply.entry is entry:
            self.interrupt("client_cancelled")
        item = entry.item
        if not isinstance(item, MessageItem) or not entry.samples:
            raise EventError("invalid_value", f"item {item.id} has no sound to cut", "item_id")
        sent = int(milliseconds(entry.samples))
        if audio_end_ms > sent:
            raise EventError(
                "invalid_value", f"item {item.id} has {sent} ms of sound, less than {audio_end_ms} ms", "audio_end_ms"
            )
        words = heard_words(entry.words, samples_of_ms(audio_end_ms), entry.total)
        entry.item = assistant_item(item.id, "audio", "incomplete", " ".join(words))
        self._emit(events.ItemTruncated(item_id=item.id, content_index=0, audio_end_ms=audio_end_ms))

    def on_output(self, generation_id: int, output: Output) -> None:
        """What a generation gives; stale output is dropped."""
        reply = self.speaker.reply
        if self._speculation is not None and self._speculation.generation.id == generation_id:
            self._speculation.outputs.append(output)
        elif reply is not None and reply.generation.id == generation_id:
            if reply.source is not None:
                self._ears.take(reply.source, output)
            if isinstance(output, Transcript) and output.final and not output.text.strip():
                self.speaker.nothing_said(reply)
            else:
                self.speaker.take(reply, output)
        else:
            self._ears.on_output(generation_id, output)

    def _speculate(self, turn: UserSpeech) -> None:
        detection = self._session.audio.input.turn_detection
        wanted = self._settings.preemptive and detection is not None and detection.create_response
        if not wanted or self.speaker.reply is not None:
            return
        request = make_request(_SESSION_DEFAULTS, self._session, self._settings, None)
        voice = self._session.audio.output.voice
        plan = Plan(request, self._ears.history, turn)
        generation = self._generate(plan, voice)
        self._speculation = Speculation(generation, plan, voice, self._clock.now())

    def _roll_back(self) -> None:
        if self._speculation is not None:
            self._speculation.generation.cancel()
            self._speculation = None
            metrics.PREEMPTIVE.labels("rolled_back").inc()

    def _generate(self, plan: Plan, voice: str) -> Generation:
        if voice != self._voice:
            self._slot.set_voice(voice)
            self._voice = voice
        if plan.speech is not None:
            self._ears.answered(plan.speech)
            self._feed(plan.speech, plan.history)
        else:
            self._ears.begin_typed(plan.history)
        generation = self._slot.generate(plan.request)
        self._follow(generation)
        return generation

    def _make_reply(self, generation: Generation, plan: Plan, options: ResponseOptions, voice: str) -> Reply:
        response = make_response(options, self._session, voice)
        entry = Entry(assistant_item(new_id("item"), response.output_modalities[0], "in_progress", None))
        kept = options.conversation == "auto"
        audio_format = response.audio.output.format
        return Reply(
            generation=generation,
            response=response,
            entry=entry,
            add=self._items.add if kept else None,
            may_call=bool(plan.request.tools),
            source=plan.speech,
            encoder=AudioEncoder(audio_format) if self._in_events and audio_format is not None else None,
            emit=self._emit,
        )

    def _on_closed(self, reply: Reply) -> None:
        if reply.source is not None:
            self._ears.finish(reply.source, reply.source.transcript)
            entry = self._items.find(reply.source.item_id)
            if entry is not None and reply.in_conversation:
                entry.speech = None
        if self.turn is not None:
            return
        # What the user said meanwhile, where it did not interrupt, has waited for the engine.
        waiting = [entry.speech for entry in self._items.unanswered()[-1:] if entry.speech is not None]
        if self._owed:
            self._owed = False
            self.respond()
        elif waiting and not waiting[0].complete:
            self._transcribe(waiting[0])
