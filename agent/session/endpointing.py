"""Whether a pause is the end of a turn: with semantic_vad the words so far decide how long the agent waits."""

from __future__ import annotations

import re
from typing import Literal

Judgement = Literal["finished", "unclear", "unfinished"]
Eagerness = Literal["low", "medium", "high", "auto"]

_SILENCE_MS: dict[Eagerness, dict[Judgement, int]] = {
    "low": {"finished": 700, "unclear": 1200, "unfinished": 4000},
    "medium": {"finished": 400, "unclear": 600, "unfinished": 2000},
    "high": {"finished": 250, "unclear": 400, "unfinished": 1000},
}
"""How long a silence each eagerness waits for; "auto" is "medium", as in the protocol."""

# English sentences do not end on these, whatever a transcript lacks in punctuation. (On "to", "on" or "so" they do.)
_DANGLING = re.compile(
    r"""\b(an?|the|my|your|our|their
    |and|or|but|because|if|than|although|while|into|as
    |(i|you|we|they)'(m|re|ve|ll)
    |u[hm]+|er+m?|hm+)$""",
    re.IGNORECASE | re.VERBOSE,
)


def judge(words: str) -> Judgement:
    """What a transcript sounds like, from its end: a whole sentence, or one that stops in its middle."""
    words = words.strip().replace("’", "'")
    if words.endswith((",", ";", ":", "-", "–", "—", "...", "…")):
        return "unfinished"
    if words.endswith((".", "?", "!", "。", "？", "！")):
        return "finished"
    return "unfinished" if _DANGLING.search(words) else "unclear"


def silence_ms(eagerness: Eagerness, words: str) -> int:
    """Milliseconds of silence that end a turn in which these words have been heard."""
    return _SILENCE_MS["medium" if eagerness == "auto" else eagerness][judge(words)]
