"""What a model thinks aloud is not for the listener."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


class Thoughts:
    """Leaves `<think>...</think>` out of a stream of text, as some servers of reasoning models send it."""

    def __init__(self) -> None:
        self._waiting = ""
        self._thinking = False

    def push(self, piece: str) -> str:
        """More text; returns what of it is said."""
        self._waiting += piece
        said = ""
        while True:
            tag = _CLOSE if self._thinking else _OPEN
            before, found, after = self._waiting.partition(tag)
            if not found:
                break
            said += "" if self._thinking else before
            self._waiting, self._thinking = after, not self._thinking
        keep = _overlap(self._waiting, tag)
        ready, self._waiting = self._waiting[: len(self._waiting) - keep], self._waiting[len(self._waiting) - keep :]
        return said + ("" if self._thinking else ready)

    def finish(self) -> str:
        """What only looked like the begin of a tag."""
        rest, self._waiting = self._waiting, ""
        return "" if self._thinking else rest


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the begin of `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)
