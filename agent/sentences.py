"""Text that arrives in pieces, cut where a voice may begin to speak before the rest is known."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..models.errors import TextError
from ..models.semantic.text import normalise

LONGEST = 300
"""Characters after which a sentence without an end is cut at a comma or a space."""

PASSAGE = 1000
"""Characters that are spoken at a stretch; an engine takes two thousand."""

_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|prof|vs|etc|e\.g|i\.e|no)|\b[A-Za-z])\.\s+$", re.IGNORECASE)


class Sentences:
    """Cuts a stream of text into sentences. What has nothing to speak in it (no letter, no digit) is left out."""

    def __init__(self) -> None:
        self._rest = ""

    def push(self, piece: str) -> list[str]:
        """More text; returns the sentences that are known to be whole."""
        self._rest += piece
        found = []
        while (end := self._end()) is not None:
            found.append(self._rest[:end])
            self._rest = self._rest[end:]
        return _spoken(found)

    def flush(self) -> list[str]:
        """The text is complete: returns what is left, and starts afresh."""
        rest, self._rest = self._rest, ""
        return _spoken([rest])

    def _end(self) -> int | None:
        for match in _END.finditer(self._rest):
            if match.end() > LONGEST:
                break
            if _ABBREVIATION.search(self._rest[: match.end()]):
                continue
            return match.end()
        if len(self._rest) <= LONGEST:
            return None
        room = self._rest[:LONGEST]
        at = max(room.rfind(mark) for mark in (", ", "; ", ": ")) + 1
        return at or room.rfind(" ") + 1 or LONGEST


def _spoken(texts: list[str]) -> list[str]:
    return [text.strip() for text in texts if any(c.isalnum() for c in text)]


def passages(text: str) -> Iterator[str]:
    """A whole text in passages of sentences, each found when it is asked for; what cannot be spoken is left out.

    A passage takes about 10 ms to judge. Raises TextError when there is nothing to speak in the text.
    """
    sentences = Sentences()
    passage, found = "", False
    for sentence in (*sentences.push(text), *sentences.flush()):
        if not speakable(sentence):
            continue
        if found and len(passage) + len(sentence) >= PASSAGE:
            yield passage
            passage = sentence
        else:
            passage = f"{passage} {sentence}".lstrip()
        found = True
    if not found:
        # A lone sign such as % is no sentence, but it has a name; what has none is refused here with the reason.
        passage = text[:PASSAGE]
        normalise(passage)
    yield passage


def speakable(text: str) -> bool:
    """Whether the voice knows any of it: what it does not know, such as Chinese, is passed over."""
    try:
        normalise(text)
    except TextError:
        return False
    return True
