"""One answer: the events that tell of it, in their order, and what of it was said and heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...streaming.engine.protocol import Finished, FunctionCall, Generation, Word
from ...streaming.frames import FRAME, Pcm
from ..event_objects import (
    Content,
    FunctionCallItem,
    MessageItem,
    Modality,
    Response,
    ResponseError,
    Status,
    StatusDetails,
    TokenDetails,
    Usage,
)
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
from .function_calls import Add, FunctionCalls
from .items import Entry, heard_words
from .speech import UserSpeech


@dataclass
class Reply:
    """An answer from `response.created` to `response.done`; everything that was opened is closed by `close`.

    entry: the assistant's item. add: makes an entry part of the conversation; None for an answer beside it. may_call:
    whether functions are offered. trouble: what failed and was told aloud. previous: id of the item before its own.
    source: the speech it answers. encoder: for sound that travels in events; None where a track carries it.
    """

    generation: Generation
    response: Response
    entry: Entry
    add: Add | None
    may_call: bool
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
    trouble: ResponseError | None = None
    previous: str | None = None
    _index: int | None = None
    _captions: list[str] = field(default_factory=list)
    _text: str = ""

    def __post_init__(self) -> None:
        self._calls = FunctionCalls(self.response.id, self.emit, self.add, self._next_index)

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

    @property
    def in_conversation(self) -> bool:
        """Whether its items become history."""
        return self.add is not None

    @property
    def opened(self) -> bool:
        """Whether its message has begun."""
        return self._index is not None

    def open(self) -> None:
        """Tell that an answer is on its way. One that may only call functions has no message until it has words."""
        self.emit(ResponseCreated(response=self.response))
        if not self.may_call:
            self.open_message()

    def open_message(self) -> None:
        """Tell that something will be said, once."""
        if self._index is not None:
            return
        self._index = self._next_index()
        item = self._item("in_progress", None)
        self.emit(OutputItemAdded(response_id=self.id, output_index=self._index, item=item))
        if self.add is not None:
            self.previous = self.add(self.entry)
            self.emit(ItemAdded(item=item, previous_item_id=self.previous))
        self.emit(PartAdded(**self._where, part=self._part("")))

    def call(self, piece: FunctionCall) -> None:
        """More of a function call."""
        self._calls.take(piece)

    @property
    def _where(self) -> dict[str, Any]:
        """The message's place, as its events tell it."""
        return {"response_id": self.id, "item_id": self.item_id, "output_index": self._index or 0}

    def _next_index(self) -> int:
        return len(self._calls.items) + (self._index is not None)

    def write(self, piece: str) -> None:
        """More of a written answer."""
        self._text += piece
        self.pieces += 1
        self.emit(TextDelta(**self._where, delta=piece))

    def caption(self, samples: int) -> None:
        """Tell the words that begin within the first `samples` of the sound and were not told yet."""
        while len(self._captions) < len(self.words) and self.words[len(self._captions)].frame * FRAME < samples:
            word = self.words[len(self._captions)].text
            delta = f" {word}" if self._captions else word
            self._captions.append(word)
            self.emit(OutputTranscriptDelta(**self._where, delta=delta))

    def sound(self, pcm: Pcm) -> None:
        """Sound leaves for the listener, (N,) at 16 kHz, its words before it."""
        self.entry.samples += len(pcm)
        self.caption(self.entry.samples)
        if self.encoder is not None:
            self._send_audio(self.encoder(pcm))

    def close(self, details: StatusDetails, heard: int | None, metadata: dict[str, str]) -> None:
        """Close all that is open. heard: samples the listener has heard; None: all of it."""
        if not self._calls.items:
            self.open_message()
        output: list[MessageItem | FunctionCallItem] = []
        if self._index is not None:
            output.append(self._close_message("completed" if details.type == "completed" else "incomplete", heard))
        self._calls.close()
        output[0 : self._index or 0] = self._calls.items[: self._index or 0]
        output += self._calls.items[self._index or 0 :]
        update = {
            "status": details.type,
            "status_details": details,
            "output": output,
            "usage": self._usage(),
            "metadata": {**(self.response.metadata or {}), **metadata},
        }
        self.emit(ResponseDone(response=self.response.model_copy(update=update)))

    def _close_message(self, status: Status, heard: int | None) -> MessageItem:
        """Close the message; returns its item."""
        where = self._where
        if self.modality == "audio":
            # An answer that was cut off at its longest may have begun a word that has no sound.
            spoken = self.generated + 1 if status == "completed" else self.generated
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
        self.emit(OutputItemDone(response_id=self.id, output_index=where["output_index"], item=item))
        if self.in_conversation:
            self.emit(ItemDone(item=item, previous_item_id=self.previous))
        return item

    def _send_audio(self, audio: str) -> None:
        if audio:
            self.emit(OutputAudioDelta(**self._where, delta=audio))

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
