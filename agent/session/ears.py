"""The engine's ears: whose speech it hears after which history, and what becomes of the transcript."""

from __future__ import annotations

from collections.abc import Callable

from ...models.semantic.pieces import Message
from ...streaming.engine.protocol import EngineSession, Finished, Generation, Output, Request, Transcript
from ..event_objects import MessageItem
from .items import Items
from .speech import UserSpeech


class Ears:
    """Feeds one engine slot. What the engine has heard is void as soon as the speech or the history is another.

    follow: has a generation's outputs brought back to `on_output`.

    Attributes:
        history: what the engine was shown before the speech it hears.
    """

    def __init__(self, slot: EngineSession, items: Items, follow: Callable[[Generation], None]) -> None:
        self.history: tuple[Message, ...] = ()
        self._slot, self._items, self._follow = slot, items, follow
        self._speech: UserSpeech | None = None
        self._fed = 0
        self._scribe: tuple[Generation, UserSpeech] | None = None

    @property
    def heard(self) -> str:
        """Transcript so far of the speech that is being heard."""
        return self._slot.heard

    def feed(self, speech: UserSpeech, before: tuple[Message, ...]) -> bool:
        """Let the engine hear what it has not heard of this speech; True if it had to begin anew."""
        anew = self._speech is not speech or self.history != before
        if anew:
            self.forget()
            self._slot.begin_turn(before)
            self._speech, self.history = speech, before
        for pcm in speech.chunks[self._fed :]:
            self._slot.listen(pcm)
        self._fed = len(speech.chunks)
        return anew

    def begin_typed(self, before: tuple[Message, ...]) -> None:
        """A turn without sound."""
        self.forget()
        self._slot.begin_turn(before)

    def forget(self) -> None:
        """The engine is needed for something else: a transcript on its way ends with the words there are."""
        scribe, self._scribe, self._speech, self._fed = self._scribe, None, None, 0
        if scribe is not None:
            scribe[0].cancel()
            self.finish(scribe[1], scribe[1].transcript)

    def transcribe(self, speech: UserSpeech) -> None:
        """Only finish the transcript of what was fed: nobody has asked for an answer yet."""
        generation = self._slot.generate(Request(kind="transcribe"))
        self._scribe = (generation, speech)
        self._follow(generation)

    def answered(self, speech: UserSpeech) -> None:
        """An answer to this speech is made, which brings the transcript too."""
        if self._scribe is not None and self._scribe[1] is speech:
            self._scribe = None

    def on_output(self, generation_id: int, output: Output) -> bool:
        """Take an output of a transcription; False for any other."""
        if self._scribe is None or self._scribe[0].id != generation_id:
            return False
        speech = self._scribe[1]
        if isinstance(output, Finished):
            self._scribe = None
            if output.reason == "failed":
                speech.fail(output.error or "the engine has stopped this transcript")
        self.take(speech, output)
        return True

    def take(self, speech: UserSpeech, output: Output) -> None:
        """What an output tells of the transcript of a speech."""
        if isinstance(output, Finished):
            self.finish(speech, speech.transcript)
        elif isinstance(output, Transcript) and output.final:
            self.finish(speech, output.text)
        elif isinstance(output, Transcript):
            speech.heard(output.text)

    def finish(self, speech: UserSpeech, text: str) -> None:
        """The whole transcript is known, to the client and in the item."""
        speech.finish(text)
        entry = self._items.find(speech.item_id)
        if entry is not None and isinstance(entry.item, MessageItem):
            spoken = next((part for part in entry.item.content if part.type == "input_audio"), None)
            if spoken is not None:
                spoken.transcript = speech.transcript
