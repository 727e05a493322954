"""The items of a conversation, and the history the model is shown of them: what was heard, not what was generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...models.semantic.pieces import Message
from ...streaming.engine.protocol import CallMessage, ResultMessage, Word
from ...streaming.frames import FRAME
from ..event_objects import FunctionCallItem, FunctionCallOutputItem, MessageItem
from ..events import EventError
from .speech import UserSpeech

AnyItem = MessageItem | FunctionCallItem | FunctionCallOutputItem


@dataclass
class Entry:
    """An item and what the protocol does not show of it.

    speech: the sound of a user's item, until it has been answered. words, samples: of a spoken answer, its words and
    how much of its sound was sent; total: how much there was.
    """

    item: AnyItem
    speech: UserSpeech | None = None
    words: list[Word] = field(default_factory=list)
    samples: int = 0
    total: int = 0

    @property
    def role(self) -> str:
        """Who said it; the assistant makes function calls, and nobody says their results."""
        if isinstance(self.item, FunctionCallItem):
            return "assistant"
        return self.item.role if isinstance(self.item, MessageItem) else ""

    @property
    def text(self) -> str:
        """All its words in one line."""
        if not isinstance(self.item, MessageItem):
            return ""
        return " ".join(filter(None, ((part.transcript or part.text or "").strip() for part in self.item.content)))


class Items:
    """Items in order. Raises EventError where a client names one that is not there.

    limit: the oldest items are forgotten beyond it, so that an endless conversation stays small.
    """

    def __init__(self, limit: int) -> None:
        self._entries: list[Entry] = []
        self._limit = limit

    def add(self, entry: Entry, after: str | None = None) -> str | None:
        """Put an entry after the item named (None: last, "root": first); returns the id of the item before it."""
        if any(other.item.id == entry.item.id for other in self._entries):
            raise EventError("item_already_exists", f"item {entry.item.id} exists already", "item.id")
        if after is None:
            index = len(self._entries)
        elif after == "root":
            index = 0
        else:
            index = self._index(after, "previous_item_id") + 1
        self._entries.insert(index, entry)
        previous = self._entries[index - 1].item.id if index else None
        if len(self._entries) > self._limit:
            del self._entries[0]
        return previous

    def get(self, item_id: str) -> Entry:
        """The entry of an item."""
        return self._entries[self._index(item_id, "item_id")]

    def find(self, item_id: str) -> Entry | None:
        """The entry of an item, None when it was deleted or forgotten."""
        return next((entry for entry in self._entries if entry.item.id == item_id), None)

    def delete(self, item_id: str) -> None:
        """Remove an item."""
        del self._entries[self._index(item_id, "item_id")]

    def before(self, item_id: str | None) -> list[Entry]:
        """Entries before an item that is there; all of them for any other."""
        for index, entry in enumerate(self._entries):
            if entry.item.id == item_id:
                return self._entries[:index]
        return list(self._entries)

    def unanswered(self) -> list[Entry]:
        """The user's entries since the last answer, in order."""
        return unanswered(self._entries)

    def forget_sound(self) -> None:
        """Keep of what was not answered only the words: a further recording comes, and the last is the one answered."""
        for entry in self.unanswered():
            entry.speech = None

    def _index(self, item_id: str, param: str) -> int:
        for index, entry in enumerate(self._entries):
            if entry.item.id == item_id:
                return index
        raise EventError("item_not_found", f"there is no item {item_id[:80]!r}", param)


def unanswered(entries: Sequence[Entry]) -> list[Entry]:
    """The user's entries behind the last one of the assistant, in order."""
    tail: list[Entry] = []
    for entry in reversed(entries):
        if entry.role == "assistant":
            break
        if entry.role == "user":
            tail.insert(0, entry)
    return tail


def history(entries: Iterable[Entry], instructions: str, turns: int) -> tuple[Message, ...]:
    """What the model is shown: the system's words, then the last `turns` turns, each begun by the user.

    Messages of one side that follow each other become one, since the model was trained on alternating turns; items
    without words (noise, an answer interrupted before its first word) leave no trace.
    """
    system = [instructions.strip()] if instructions.strip() else []
    dialogue: list[Message] = []
    for entry in entries:
        text = entry.text
        if (message := _function_message(entry.item)) is not None:
            dialogue.append(message)
        if not text:
            continue
        if entry.role == "system":
            system.append(text)
        elif dialogue and dialogue[-1].role == entry.role and type(dialogue[-1]) is Message:
            dialogue[-1] = Message(dialogue[-1].role, f"{dialogue[-1].text} {text}")
        elif entry.role in ("user", "assistant"):
            dialogue.append(Message("user" if entry.role == "user" else "assistant", text))
    begins = [i for i, message in enumerate(dialogue) if message.role == "user" and type(message) is Message]
    kept = dialogue[begins[-turns] if turns <= len(begins) else 0 :] if turns else []
    return (*((Message("system", " ".join(system)),) if system else ()), *kept)


def _function_message(item: AnyItem) -> Message | None:
    """What engines that call functions are shown of a call or its result."""
    if isinstance(item, FunctionCallItem):
        return CallMessage("assistant", "", item.call_id or item.id, item.name, item.arguments)
    if isinstance(item, FunctionCallOutputItem):
        return ResultMessage("user", item.output, item.call_id)
    return None


def heard_words(words: Sequence[Word], samples: int, total: int) -> list[str]:
    """The words that a listener understood of the first `samples` of an answer with `total` samples of sound.

    A word counts when more than half of it was heard; it lasts until the next one begins.
    """
    ends = [*(word.frame * FRAME for word in words[1:]), total]
    return [
        word.text
        for word, end in zip(words, ends, strict=False)
        if samples > (word.frame * FRAME + max(end, word.frame * FRAME)) / 2
    ]
