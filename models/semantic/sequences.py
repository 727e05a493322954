"""Training sequences of the semantic model, in the layout that decoding feeds.

`targets[i]` is what the model should say after it has been fed `tokens[: i + 1]` (already shifted), or IGNORED where
the decoder never asks: units that were heard, text that was typed, tokens that decoding forces. A unit to be said has
its detail, if that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from . import layout
from .pieces import Message
from .vocabulary import SpeechVocabulary

IGNORED: Final = -100


@dataclass(frozen=True)
class TimedWord:
    """A word and the frame at which it is over (frames of 20 ms; the number of units up to there)."""

    text: str
    end: int


@dataclass
class Labelled:
    """Tokens to feed and, aligned with them, the targets. `+` concatenates."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def __add__(self, other: Labelled) -> Labelled:
        return Labelled(self.tokens + other.tokens, self.targets + other.targets)

    def __len__(self) -> int:
        return len(self.tokens)

    def feed(self, tokens: Iterable[int]) -> None:
        """Append tokens after which the model is not asked."""
        for token in tokens:
            self._append(token, IGNORED)

    def say(self, target: int) -> None:
        """Let the model be asked after the last token: it should say `target`."""
        if not self.targets or self.targets[-1] != IGNORED:
            raise ValueError("feed a token before the model is asked")
        self.targets[-1] = target

    def produce(self, tokens: Iterable[int]) -> None:
        """Append tokens that the model says itself and is then fed."""
        for token in tokens:
            self.say(token)
            self._append(token, IGNORED)

    def _append(self, token: int, target: int) -> None:
        self.tokens.append(token)
        self.targets.append(target)


def history(vocabulary: SpeechVocabulary, messages: Iterable[Message], *, learn_answers: bool = False) -> Labelled:
    """Earlier turns as text (`layout.history`). learn_answers: train on the assistant's text tokens and `<eos>` too."""
    made = Labelled()
    made.feed(layout.history(vocabulary, messages))
    if learn_answers:
        inside = False
        for i, (token, following) in enumerate(pairwise(made.tokens)):
            inside = token == vocabulary.ta or (inside and token != vocabulary.eos)
            if inside:
                made.targets[i] = following
    return made


def typed(vocabulary: SpeechVocabulary, text: str) -> Labelled:
    """A typed user's turn; nothing to learn."""
    made = Labelled()
    made.feed(layout.typed(vocabulary, text))
    return made


def heard(
    vocabulary: SpeechVocabulary, units: Sequence[int], words: Sequence[TimedWord], *, final: bool = True
) -> Labelled:
    """A spoken user's turn for the transducer.

    units: (T,) units of the recording, detail included; words: in order, each is to be written once units[:end] have
    been fed (add the delay you want to `end`); words that end after the last unit are written after `<eosp>`. An end
    before its predecessor's counts as the predecessor's, one below 1 as 1. final: close the turn (`<eosp>` words
    `<eoh>`); False makes the beginning of a turn that goes on, without the words that are not due.
    """
    made = Labelled()
    made.feed(layout.open_speech(vocabulary))
    waiting = list(words)
    latest = 0

    def write_due(frame: float) -> None:
        nonlocal latest
        while waiting and max(waiting[0].end, latest) <= frame:
            word = waiting.pop(0)
            latest = max(latest, word.end)
            made.produce(vocabulary.encode(word.text))

    for frame, unit in enumerate(units, start=1):
        made.feed([vocabulary.told(unit)])
        write_due(frame)
        made.say(vocabulary.listen)
    if final:
        made.feed([vocabulary.eosp])
        write_due(float("inf"))
        made.produce([vocabulary.eoh])
    return made


def planned(vocabulary: SpeechVocabulary, text: str) -> Labelled:
    """The text of an answer up to where its sound begins, and no sound; all of it is learned."""
    made = Labelled()
    made.feed(layout.open_answer(vocabulary, "text"))
    made.produce([*vocabulary.encode(text), vocabulary.ua])
    return made


def answer(
    vocabulary: SpeechVocabulary,
    units: Sequence[int],
    words: Sequence[TimedWord],
    mode: layout.Mode,
    *,
    learn_text: bool = True,
) -> Labelled:
    """A spoken answer (or, with learn_text=False in mode "text", a text to be read out).

    units: (T,), detail included; words: in order, word i owns units[end of word i - 1 : its own end], the last one up
    to the end; `text` of each is one whitespace word. learn_text: train on the text itself and on where it stops.
    Raises ValueError for a word without units or without a character.
    """
    made = Labelled()
    made.feed(layout.open_answer(vocabulary, mode))
    if mode == "text":
        text = vocabulary.encode(" ".join(word.text for word in words))
        if learn_text:
            made.produce([*text, vocabulary.ua])
        else:
            made.feed([*text, vocabulary.ua])
    # In mode "text" the characters are known and forced; in mode "direct" they are the answer.
    characters = made.feed if mode == "text" else made.produce
    start = 0
    for i, word in enumerate(words):
        end = word.end if i + 1 < len(words) else len(units)
        spelled = layout.open_word(vocabulary, word.text)
        if not start < end <= len(units) or len(spelled) < 2 or len(layout.spoken_words(word.text)) != 1:
            raise ValueError(f"word {i} {word.text!r} has no units, no characters or a space (frames {start} to {end})")
        characters(spelled)
        for unit in units[start:end]:
            made.say(vocabulary.told(unit))
            made.feed([vocabulary.told(unit) % vocabulary.size])  # its own detail is nothing that it goes on from
        made.produce([vocabulary.eosp])
        start = end
    characters([vocabulary.eos])
    return made
