"""One answer: the events that tell of it, in their order, and what of it was said and heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...streaming.engine.protocol import Finished, Generation, Word
from ...streaming.frames import FRAME, Pcm
from ..event_objects import Content, MessageItem, Modality, Response, Status, StatusDetails, TokenDetails, Usage
from ..events import (
    ItemAdded,
    ItemDone,
    OutputAudioDelta,
    OutputAudioDone,
    OutputItemAdded,
    OutputItemDone,
    OutputTranscriptDelta,
    OutputTranscriptDone,
    Part,
    PartAdded,
    PartDone,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    TextDelta,
    TextDone,
)
from .codec import AudioEncoder
from .items import Entry, heard_words
from .speech import UserSpeech


@dataclass
class Reply:
    """An answer from `response.created` to `response.done`; everything that was opened is closed by `close`.

    entry: the assistant's item; previous: id of the item before it. in_conversation: whether it becomes history.
    source: the speech it answers. encoder: for sound that travels in events; None where a track carries it.
    """

    generation: Generation
    response: Response
    entry: Entry
    previous: str | None
    in_conversation: bool
    source: UserSpeech | None
    encoder: AudioEncoder | None
    emit: Callable[[ServerEvent], None]
    finished: Finished | None = None
    sounding: bool = False
    drained: bool = False
    words: list[Word] = field(default_factory=list)
    generated: int = 0
    heard: int = 0
    pieces: int = 0
    _captions: list[str] = field(default_factory=list)
    _text: str = ""

    @property
    def id(self) -> str:
        """Id of the response."""
        return self.response.id

    @property
    def item_id(self) -> str:
        """Id of the assistant's item."""
        return self.entry.item.id

    @property
    def modality(self) -> Modality:
        """Whether it is spoken or written."""
        return self.response.output_modalities[0]

    def open(self) -> None:
        """Tell that an answer is on its way."""
        self.emit(ResponseCreated(response=self.response))
        item = self._item("in_progress", None)
        self.emit(OutputItemAdded(response_id=self.id, item=item))
        if self.in_conversation:
            self.emit(ItemAdded(item=item, previous_item_id=self.previous))
        self.emit(PartAdded(response_id=self.id, item_id=self.item_id, part=self._part("")))

    def write(self, piece: str) -> None:
        """More of a written answer."""
        self._text += piece
        self.pieces += 1
        self.emit(TextDelta(response_id=self.id, item_id=self.item_id, delta=piece))

    def caption(self, samples: int) -> None:
        """Tell the words that begin within the first `samples` of the sound and were not told yet."""
        while len(self._captions) < len(self.words) and self.words[len(self._captions)].frame * FRAME < samples:
            word = self.words[len(self._captions)].text
            delta = f" {word}" if self._captions else word
            self._captions.append(word)
            self.emit(OutputTranscriptDelta(response_id=self.id, item_id=self.item_id, delta=delta))

    def sound(self, pcm: Pcm) -> None:
        """Sound leaves for the listener, (N,) at 16 kHz, its words before it."""
        self.entry.samples += len(pcm)
        self.caption(self.entry.samples)
        if self.encoder is not None:
            self._send_audio(self.encoder(pcm))

    def close(self, details: StatusDetails, heard: int | None, metadata: dict[str, str]) -> None:
        """Close all that is open. heard: samples the listener has heard; None: all of it."""
        whole = details.type == "completed"
        status: Status = "completed" if whole else "incomplete"
        where = {"response_id": self.id, "item_id": self.item_id}
        if self.modality == "audio":
            # An answer that was cut off at its longest may have begun a word that has no sound.
            spoken = self.generated + 1 if whole else self.generated
            if heard is None:
                self.caption(spoken)
                if self.encoder is not None:
                    self._send_audio(self.encoder.flush())
            self.heard = self.generated if heard is None else heard
            self.entry.words, self.entry.total = list(self.words), self.generated
            words = self._captions if heard is None else heard_words(self.words, heard, self.generated)
            text = " ".join(words)
            self.emit(OutputAudioDone(**where))
            self.emit(OutputTranscriptDone(**where, transcript=text))
        else:
            text = self._text
            self.emit(TextDone(**where, text=text))
        self.emit(PartDone(**where, part=self._part(text)))
        item = self.entry.item = self._item(status, text)
        self.emit(OutputItemDone(response_id=self.id, item=item))
        if self.in_conversation:
            self.emit(ItemDone(item=item, previous_item_id=self.previous))
        update = {
            "status": details.type,
            "status_details": details,
            "output": [item],
            "usage": self._usage(),
            "metadata": {**(self.response.metadata or {}), **metadata},
        }
        self.emit(ResponseDone(response=self.response.model_copy(update=update)))

    def _send_audio(self, audio: str) -> None:
        if audio:
            self.emit(OutputAudioDelta(response_id=self.id, item_id=self.item_id, delta=audio))

    def _part(self, text: str) -> Part:
        return Part(type="audio", transcript=text) if self.modality == "audio" else Part(type="text", text=text)

    def _item(self, status: Status, text: str | None) -> MessageItem:
        return assistant_item(self.item_id, self.modality, status, text)

    def _usage(self) -> Usage:
        heard = self.source.samples // FRAME if self.source is not None else 0
        spoken = self.finished.units if self.finished is not None else self.generated // FRAME
        return Usage(
            total_tokens=heard + spoken,
            input_tokens=heard,
            output_tokens=spoken,
            input_token_details=TokenDetails(audio_tokens=heard),
            output_token_details=TokenDetails(audio_tokens=spoken),
        )


def assistant_item(item_id: str, modality: Modality, status: Status, text: str | None) -> MessageItem:
    """The assistant's item with its words; None for one that has no content yet."""
    content: list[Content] = []
    if text is not None:
        spoken = modality == "audio"
        content = [Content(type="output_audio", transcript=text) if spoken else Content(type="output_text", text=text)]
    return MessageItem(id=item_id, role="assistant", status=status, content=content)
