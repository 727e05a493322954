"""What goes into a conversation (messages) and what comes out of the semantic model, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Message:
    """One earlier turn, as text: what was said, or for a turn that was cut off, what was heard of it."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Transcript:
    """The user's whole turn, as it was understood in the end; what was understood while it was heard may have been
    another."""

    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the answer's text as it is planned, before it is spoken; pieces concatenate to the answer."""

    text: str


@dataclass(frozen=True)
class Word:
    """This word starts to be spoken at `frame` (= units given so far); words joined by spaces are the spoken text."""

    text: str
    frame: int


@dataclass(frozen=True)
class Unit:
    """One semantic unit with its detail, if any (`speech_tokenizer/detail.py`): 20 ms of speech."""

    index: int


Piece = Transcript | Text | Word | Unit
