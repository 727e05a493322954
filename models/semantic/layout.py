"""The token stream of a conversation: training (`sequences`) and decoding (`session`) both write it with this module.

    history   [System] text                                             (optional, first)
              [Human] text <eoh> [SpeechGPT] [ta] text <eos>            (at most MAX_HISTORY_TURNS of these)
    heard     [Human] <sosp> u u u w w u u w ... <eosp> w <eoh>         (u: units as they come, w: text tokens)
    typed     [Human] text <eoh>                                        (or heard and restated)
    answer    [SpeechGPT] [ta] text [ua] h e l l o <sosp> u u ... <eosp> y o u <sosp> ... <eosp> <eos>    (mode "text")
              [SpeechGPT] [ua] h e l l o <sosp> u u ... <eosp> y o u <sosp> ... <eosp> <eos>           (mode "direct")

While speech is heard the model answers every unit with `<listen>` (give me the next) or with text tokens of a word that
has just ended; `<listen>` itself is never fed. Words and sound are interleaved in both directions, so attention from a
word to its sound is local and every word knows its frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from .pieces import Message
from .vocabulary import SpeechVocabulary

Mode = Literal["text", "direct"]

MAX_HISTORY_TURNS: Final = 3
MAX_MESSAGE_TOKENS: Final = 256


def history(vocabulary: SpeechVocabulary, messages: Iterable[Message], room: int | None = None) -> list[int]:
    """Earlier turns as text: the system text, if any, then the last MAX_HISTORY_TURNS user turns and their answers.

    Messages without text are left out; long ones keep their first MAX_MESSAGE_TOKENS tokens. room: drop the oldest
    turns until so many tokens suffice.
    """
    messages = [m for m in messages if m.text.strip()]
    system: list[int] = []
    for message in [m for m in messages if m.role == "system"][-1:]:
        system = [vocabulary.system, *vocabulary.encode(message.text)[:MAX_MESSAGE_TOKENS]]
    turns: list[list[int]] = []
    for message in [m for m in messages if m.role != "system"]:
        text = vocabulary.encode(message.text)[:MAX_MESSAGE_TOKENS]
        if message.role == "user":
            turns.append([vocabulary.human, *text, vocabulary.eoh])
            continue
        if not turns:  # the assistant spoke first
            turns.append([])
        turns[-1] += [vocabulary.speechgpt, vocabulary.ta, *text, vocabulary.eos]
    turns = turns[-MAX_HISTORY_TURNS:]
    while room is not None and turns and len(system) + sum(map(len, turns)) > room:
        turns.pop(0)
    return system + [token for turn in turns for token in turn]


def open_speech(vocabulary: SpeechVocabulary) -> list[int]:
    """What is fed before the first heard unit."""
    return [vocabulary.human, vocabulary.sosp]


def typed(vocabulary: SpeechVocabulary, text: str) -> list[int]:
    """A user's turn that was typed."""
    return [vocabulary.human, *vocabulary.encode(text), vocabulary.eoh]


def open_answer(vocabulary: SpeechVocabulary, mode: Mode) -> list[int]:
    """What is fed before the answer's first token."""
    return [vocabulary.speechgpt, vocabulary.ta if mode == "text" else vocabulary.ua]


def spoken_words(text: str) -> list[str]:
    """The words that are spoken one after another."""
    return text.split()


def open_word(vocabulary: SpeechVocabulary, word: str) -> list[int]:
    """The spelled word and what opens its sound."""
    return [*vocabulary.spell(word), vocabulary.sosp]
